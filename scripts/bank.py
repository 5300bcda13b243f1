"""Make and look at banks of organs, which recipes of anatomy draw from.

Example:
    fdif bank build case_*.nii.gz --names names.json --out bank.npz
    fdif bank build ct.nii.gz=ct mr.nii.gz=mr --names names.json --out bank.npz
    fdif bank show bank.npz
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from fdif_jax.anatomy.bank import RELATIONS, Bank, build_bank
from fdif_jax.anatomy.organ_masks import load_names
from fdif_jax.datasets.reader import volume_type
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_once, check_out
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar, say
from fdif_jax.scripts.jobs.dry_run import Estimate
from fdif_jax.scripts.options.long_work import LongOptions
from fdif_jax.scripts.options.settings import check_least


@dataclass(frozen=True)
class Build(LongOptions):
    """Options of `fdif bank build`."""

    labels: Positional[tuple[str, ...]]
    """Label maps (.nii.gz, .nrrd, .mha, .mgz, …), one a subject. FILE=SECTION takes the names of that section of the
    names file."""
    names: str
    """JSON file of label and organ, {"1": "spleen", ...}. FILE:SECTION takes one of {"ct": {...}, "mr": {...}}."""
    out: Path = Path("bank.npz")
    """The bank to write."""
    min_voxels: int = 8
    """Leave out organs of fewer voxels, with a warning."""


@dataclass(frozen=True)
class Show:
    """Options of `fdif bank show`."""

    bank: Positional[Path]
    """A bank (.npz)."""


BUILD = """Turn label maps into a bank of organs without anything of a patient: small grids of signed distances, where
each organ usually lies, and which organs touch, interlock, hold each other or stay apart.

Example:
    fdif bank build case_*.nii.gz --names names.json --out bank.npz
    fdif bank build ct.nii.gz=ct mr.nii.gz=mr --names names.json --out bank.npz
"""
SHOW = """List the organs of a bank: subjects that show each, uncut ones among them, size, and how it lies to others.

Example:
    fdif bank show bank.npz
"""
Config = (
    Annotated[Build, tyro.conf.subcommand("build", description=BUILD)]
    | Annotated[Show, tyro.conf.subcommand("show", description=SHOW)]
)


def run(config: Build | Show) -> None:
    """Build a bank, or list one."""
    if isinstance(config, Show):
        show(Bank.load(config.bank))
    else:
        build(config)


def build(config: Build) -> None:
    """Read all label maps, write the bank."""
    check_least(config, min_voxels=1)
    if config.out.suffix != ".npz":
        raise FdifError(f"--out {config.out}: the name of a bank ends in .npz")
    if not config.out.absolute().parent.is_dir():
        raise FdifError(f"--out {config.out}: there is no directory {config.out.parent}")
    sections = [_split(label, "=") for label in config.labels]
    file, default = _split(config.names, ":")
    check_out(config.out)
    check_once(path for path, _ in sections)
    names = [load_names(file, section or default) for _, section in sections]
    if config.dry_run:
        _estimate(config, [path for path, _ in sections], names).tell()
        return
    with progress_bar() as bar:
        task = bar.add_task("reading", total=len(sections), measured="")

        def progress(warnings: list[str]) -> None:
            for warning in warnings:
                say(bar, f"warning: {warning}")
            bar.advance(task)

        paths = [path for path, _ in sections]
        bank = build_bank(paths, names, min_voxels=config.min_voxels, progress=progress)
    bank.save(config.out)
    kept, size = int(bank.shown.sum()), config.out.stat().st_size / 1e6
    print(
        f"{len(bank.organs)} organs of {len(sections)} subjects ({kept} masks) in {config.out}, {size:.1f} MB"
    )


def _estimate(config: Build, paths: Sequence[str], names: Sequence[Mapping[int, str]]) -> Estimate:
    """What building the bank needs: the headers of all label maps are read, and the first is turned into organs."""
    for path in paths:
        volume_type(Path(path))
    begun = time.perf_counter()
    bank = build_bank(paths[:1], names[:1], min_voxels=config.min_voxels)
    seconds = time.perf_counter() - begun
    arrays = [value for value in vars(bank).values() if isinstance(value, np.ndarray)]
    return Estimate(
        [f"a bank of {len(paths)} subjects; the first shows {len(bank.organs)} organs"],
        seconds * len(paths),
        f"{seconds:.3g} s a subject",
        len(paths) * sum(array.nbytes for array in arrays),
        config.out,
    )


def _split(text: str, sign: str) -> tuple[str, str | None]:
    """A path and the section after it, if there is one; a sign within a path or a drive's name is part of the path."""
    path, found, section = text.rpartition(sign)
    is_section = found and path and section and not set(section) & set("/\\.") and not Path(text).exists()
    return (path, section) if is_section else (text, None)


def show(bank: Bank) -> None:
    """Print a table of the organs."""
    table = Table("organ", "subjects", "uncut", "shapes", "size (mm)", "spread (mm)", *RELATIONS)
    relation = bank.relation()
    for n, organ in enumerate(bank.organs):
        others = np.arange(len(bank.organs)) != n
        related = [str(int((relation[n, others] == kind).sum())) for kind in range(len(RELATIONS))]
        size = " x ".join(f"{edge:.0f}" for edge in bank.extent[n])
        spread = " ".join(f"{s:.0f}" for s in bank.spread[n])
        counts = (bank.shown[n], bank.whole[n], (bank.organ == n).sum())
        table.add_row(organ, *map(str, map(int, counts)), size, spread, *related)
    Console(width=140).print(table)


if __name__ == "__main__":
    cli.run("bank")
