"""Make a recipe whose scenes are like scans of your own, and save it.

Grid, voxel spacing, intensities, noise, blur and, where there are labels, sizes of objects are measured on the
training cases of a dataset (up to 32), or on a folder of volumes without labels. Shapes, classes and number of objects
stay those of --recipe. What was found is printed with reasons, which are comments in the file, too. Only such
statistics are kept.

The file is a recipe like any other: edit it, and give it to --recipe. `fdif generate --like` and `fdif pretrain --like`
do the same without a file.

Example:
    fdif like Task04_Hippocampus --out hippocampus.toml
    fdif like scans/ --recipe anatomy_random --out mine.toml
    fdif pretrain --recipe hippocampus.toml --out runs/like
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

import fdif_jax as fd
from fdif_jax.io.files import check_out, make_folder
from fdif_jax.scripts import cli
from fdif_jax.scripts.options.recipe import like_dataset


@dataclass(frozen=True)
class Config:
    """Options of `fdif like`."""

    dataset: tyro.conf.Positional[Path]
    """A dataset (Decathlon, MONAI, nnU-Net), or a folder of volumes (.nii.gz, .nrrd, .mha, …) or of DICOM slices."""
    recipe: str = "random_tissue"
    """The recipe to change: a shipped one's name, or a .toml file."""
    out: Path = Path("like.toml")
    """Recipe file to write."""


def run(config: Config) -> None:
    """Measure, print and save."""
    check_out(config.out)
    made = like_dataset(fd.load_recipe(config.recipe), config.dataset)
    make_folder(config.out.parent)
    made.recipe.save(config.out, (f"The recipe {config.recipe}, made like scans:", *made.reasons))
    print(f"wrote {config.out}")


if __name__ == "__main__":
    cli.run("like")
