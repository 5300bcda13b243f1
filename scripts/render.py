"""Render saved scene documents: image_i.nii.gz and label_i.nii.gz for every scene of a file.

Example:
    fdif render scenes.json --out rendered
    fdif render organs.json --vocabulary bank.npz published
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.io.files import make_folder
from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts import cli
from fdif_jax.shapes.shape_names import find_vocabulary


@dataclass(frozen=True)
class Config:
    """Options of `fdif render`."""

    scenes: Positional[Path]
    """A JSON file with a list of scene documents (or one)."""
    out: Path = Path("rendered")
    """Directory to write to; files of these names in it are replaced."""
    vocabulary: tuple[str, ...] = ("published",)
    """What class names mean: published (the formulas of the published code), exact (true distances), avs_db, or as in
    a recipe: package.module:attribute, FILE.py, a bank of organs (.npz), a folder of meshes; several make one."""


def run(config: Config) -> None:
    """Render every scene, in order."""
    scenes = fd.load_scenes(config.scenes)
    if not scenes:
        raise FdifError(f"{config.scenes}: holds no scene")
    vocabulary = find_vocabulary(*config.vocabulary)
    make_folder(config.out)
    for i, (image, label) in enumerate(fd.render_scenes(scenes, vocabulary)):
        affine = np.diag([*scenes[i].grid.spacing, 1.0])
        write_nifti(config.out / f"image_{i}.nii.gz", image, affine)
        write_nifti(config.out / f"label_{i}.nii.gz", label, affine)
    print(f"rendered {len(scenes)} scene{'s' * (len(scenes) != 1)} to {config.out}")


if __name__ == "__main__":
    cli.run("render")
