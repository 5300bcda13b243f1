"""Learn a family from masks: fit a shape to each, and write their spread as a new file of shapes.

The first mask is fitted from random members, every other one from the first's member and as like it as its mask lets it
be, so that a parameter means the same in all of them: give the clearest mask first.
The new file has one family, in the form in which a user writes one, with mean and spread of the fitted parameters in
it; it needs nothing of the old file, and draws shapes like the masks for every command that takes a vocabulary.

Example:
    fdif fit-family left.nii.gz right.nii.gz --shape my_shapes.py:kidney --out kidneys.py
    fdif fit-family a.nii.gz:2 a.nii.gz:3 b.nii.gz:2 --shape my_shapes.py:kidney --out kidneys.py
"""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from fdif_jax.errors import FdifError
from fdif_jax.fitting.fitted_family import write_family
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.io.files import check_once, check_out
from fdif_jax.scripts import cli
from fdif_jax.scripts.fit import fitted, fitter_of
from fdif_jax.scripts.options.long_work import ProgressOption
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.shapes.shape_names import find_family


@dataclass(frozen=True)
class Config(ProgressOption):
    """Options of `fdif fit-family`."""

    masks: Positional[tuple[str, ...]]
    """Masks or label maps (.nii.gz, .nrrd, .mha, .mgz, …), two or more; FILE:LABEL takes one label of a file."""
    shape: str
    """FILE.py:FAMILY, the family to fit."""
    out: Path = Path("new_family.py")
    """The Python file to write."""
    name: str | None = None
    """Name of the new family; by default that of the fitted one."""
    label: int | None = None
    """The label to fit, for masks without one of their own; without it all that is not zero."""
    min_dice: float = 0.7
    """Leave out fits worse than this, with a word."""
    mirror: Flag = False
    """Let poses be mirror images: left and right organs by one family, which then draws either hand."""
    starts: int = 24
    """How many random members descend side by side for each mask."""
    seed: int = 0
    """Seed of members, starts and points."""


def run(config: Config) -> None:
    """Fit every mask, write the family."""
    if config.out.suffix != ".py" or not config.out.absolute().parent.is_dir():
        raise FdifError(
            f"--out {config.out}: should be the name of a Python file (.py) in a folder that is there"
        )
    check_out(config.out)
    name = config.name or config.shape.rpartition(":")[2]
    if not name.isidentifier():
        raise FdifError(f"--name {name}: a family needs a name that Python takes, like kidney_2")
    if not 0 <= config.min_dice <= 1:
        raise FdifError(f"--min-dice must be from 0 to 1, not {config.min_dice:g}")
    if len(config.masks) < 2:
        raise FdifError(f"a family is learned from two masks or more, not {len(config.masks)}")
    check_once(config.masks)
    _, family = find_family(config.shape)
    masks = [_mask(text, config.label) for text in config.masks]
    fits = fitted(fitter_of(family, config), masks)
    for text, fit in zip(config.masks, fits, strict=True):
        left_out = "" if fit.dice >= config.min_dice else f", below --min-dice {config.min_dice:g}: left out"
        print(f"{text}: Dice {fit.dice:.4f}{left_out}")
    good = [fit for fit in fits if fit.dice >= config.min_dice]
    write_family(good, name, config.out)
    count = len(good[0].values)
    print(f"{config.out}: family {name!r} of {len(good)} masks, {count} parameter{'s' * (count > 1)}")


def _mask(text: str, label: int | None) -> Mask:
    path, _, own = text.rpartition(":")
    return Mask.load(path, int(own)) if path and own.isdigit() else Mask.load(text, label)


if __name__ == "__main__":
    cli.run("fit-family")
