"""Fit a shape to a mask: the member of a family, and where it lies, that a segmentation shows.

Writes scene.json (the shape as a scene document on the mask's own voxels, for `fdif render`), parameters.json (every
free parameter with its bounds, and the pose in millimetres) and fit.png (mask against shape in three planes).

Example:
    fdif fit kidney.nii.gz --shape my_shapes.py:kidney --out kidney_fit
    fdif fit labels.nii.gz --label 5 --shape my_shapes.py:liver --out liver_fit
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import TaskID
from tyro.conf import Positional

import fdif_jax as fd
from fdif_jax.fitting.fit_picture import save_fits
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.fitting.fitter import Fitter
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.io.files import make_folder, write_atomic
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.shapes.shape_names import find_family
from fdif_jax.vocabulary.vocabulary import Family


@dataclass(frozen=True)
class Config:
    """Options of `fdif fit`."""

    mask: Positional[Path]
    """A mask or label map (.nii.gz, .nrrd, .mha, .mgz, …)."""
    shape: str
    """FILE.py:FAMILY, or a class that is built in (torus, published:torus)."""
    out: Path = Path("fit")
    """Directory to write to; files of these names in it are replaced."""
    label: int | None = None
    """The label to fit; without it all that is not zero."""
    scale: float | None = None
    """Millimetres a unit of the shape; without it the scale is fitted, too."""
    mirror: Flag = False
    """Let the pose be a mirror image, too: a left kidney by a family of right ones."""
    starts: int = 24
    """How many random members descend side by side; more find a better one more surely."""
    seed: int = 0
    """Seed of members, starts and points; the same seed gives the same fit on the same machine."""


def run(config: Config) -> None:
    """Fit, write, and say how well it went."""
    vocabulary, family = find_family(config.shape)
    mask = Mask.load(config.mask, config.label)
    fitter = fitter_of(family, config, config.scale)
    make_folder(config.out)
    fit = fitted(fitter, [mask])[0]
    partial_scene = config.out / ".scene.json.part"
    fd.save_scenes([fit.scene(vocabulary)], partial_scene)
    partial_scene.replace(config.out / "scene.json")
    write_atomic(config.out / "parameters.json", (json.dumps(fit.to_dict(), indent=2) + "\n").encode())
    save_fits([fit], config.out / "fit.png")
    print(
        f"{family.name}: Dice {fit.dice:.4f} with {len(fit.values)} parameter{'s' * (len(fit.values) > 1)} and the pose"
        f"{' of a mirror image' if fit.mirrored else ''}, {fit.scale:.3g} mm a unit; "
        f"scene, parameters and picture in {config.out}"
    )


def fitter_of(family: Family, options: Any, scale: float | None = None) -> Fitter:
    """A fitter by the options starts, seed and mirror; FdifError for impossible ones."""
    check_least(options, starts=1, seed=0)
    given = {name: getattr(options, name) for name in ("starts", "seed", "mirror")}
    return Fitter(family, scale=scale, finalists=min(options.starts, Fitter.finalists), **given)


def fitted(fitter: Fitter, masks: Sequence[Mask]) -> list[Fit]:
    """A fit of every mask, all like the first, under a progress line."""
    fits: list[Fit] = []
    with progress_bar() as bar:
        for number, mask in enumerate(masks, 1):
            which = f" {number}/{len(masks)}" if len(masks) > 1 else ""
            task = bar.add_task(f"fitting {fitter.family.name}{which}", total=sum(fitter.steps), measured="")

            def progress(done: int, total: int, measured: str, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total, measured=measured)

            fits.append(fitter.fit(mask, progress, like=fits[0] if fits else None))
            bar.update(task, measured=f"Dice {fits[-1].dice:.4f}")
    return fits


if __name__ == "__main__":
    cli.run("fit")
