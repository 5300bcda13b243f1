"""Check a Python file of shapes: draw members of every family and say what they are like, with a picture of each.

"distance" says what the numbers are: a distance, a bound (never more than the distance, which costs nothing but a
slower tracer), or worse (they grow faster than a distance may; --out shows whether it matters). "size" is the diameter
of a ball of the same volume: least, median and greatest of the members. "empty" and "cut" are the members without a
voxel inside, and those that the grid's faces cut, each in the middle of the grid. Branches are different programs
that a compiler makes of the families: few compile faster.

Mistakes (NaN, a wrong sign, no inside, bounds that are too small, intensities beyond 0 to 128) are told with their
line, and the exit status is 2; what may be meant is only remarked.

Example:
    fdif check my_shapes.py
    fdif check my_shapes.py --grid 96 96 96 --members 200 --out pictures
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.io.files import make_folder
from fdif_jax.io.names import unique_names
from fdif_jax.scenes.classes import Families
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.shapes import sphere
from fdif_jax.viewing.shape_sheet import save_sheet
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.shape_checks import Findings, check_displacement, check_mapper, examine
from fdif_jax.vocabulary.user_files import load_catalogue


@dataclass(frozen=True)
class Config:
    """Options of ``fdif check``."""

    file: tyro.conf.Positional[Path]
    """The Python file."""
    grid: tuple[int, int, int] = (64, 64, 64)
    """Voxels along each axis of the grid that members are sized for."""
    members: int = 48
    """How many members of each family to draw."""
    seed: int = 0
    """Which members."""
    out: Path = Path("check")
    """Folder for the pictures, NAME.png of each family: members, lit, and slices with lines of equal distance."""


def run(config: Config) -> None:
    """Load, measure, draw, and say."""
    check_least(config, members=1)
    if min(config.grid) < 8:
        raise FdifError(f"--grid must have at least 8 voxels an axis, not {' '.join(map(str, config.grid))}")
    grid = fd.Grid(*config.grid)
    vocabulary = load_catalogue(config.file)
    mistakes, lines = _measured_functions(vocabulary, grid)
    findings = []
    pictures = unique_names([family.name for family in vocabulary.families])
    with progress_bar() as bar:
        task = bar.add_task(f"checking {config.file}", total=len(vocabulary.families), measured="")
        for family, picture in zip(vocabulary.families, pictures, strict=True):
            bar.update(task, measured=family.name)
            found = examine(family, grid, sphere(0.25 * min(grid)), config.members, config.seed)
            findings.append(found)
            if not found.undefined:
                make_folder(config.out)
                save_sheet(family, grid, config.out / f"{picture}.png", config.seed)
            bar.advance(task)
    console = Console(width=118, highlight=False)
    if findings:
        console.print(_table(findings, grid, config.members))
        branches = len(Families.of(vocabulary.families, grid).structures)
        console.print(f"{len(findings)} families, {branches} branches; pictures in {config.out}")
    for line in lines:
        print(line)
    for found in findings:
        place = place_of(found.family)
        mistakes += [f"{place}: family {found.family.name!r}: {text}" for text in found.mistakes]
        for text in found.remarks:
            print(f"{place}: family {found.family.name!r}: {text}")
    if mistakes:
        raise FdifError("\n".join(mistakes))


def _measured_functions(vocabulary: fd.Vocabulary, grid: fd.Grid) -> tuple[list[str], list[str]]:
    """Mistakes of displacements and mappers, and a line about each of the others."""
    mistakes, lines = [], []
    for displacement in vocabulary.displacements:
        try:
            low, high = check_displacement(displacement, grid)
            lines.append(f"displacement {displacement.name}: {low:.3g} to {high:.3g} voxels")
        except FdifError as error:
            mistakes.append(str(error))
    for mapper in vocabulary.mappers:
        try:
            low, high = check_mapper(mapper)
            reach = mapper.reach(0.5)
            lines.append(
                f"mapper {mapper.name}: {low:.3g} to {high:.3g}, seen up to {reach:.3g} voxels outside"
            )
        except FdifError as error:
            mistakes.append(str(error))
    return mistakes, lines


def _table(findings: list[Findings], grid: fd.Grid, members: int) -> Table:
    title = f"{members} members each, grid {' × '.join(map(str, grid))}"
    headings = ("family", "distance", "slope", "size", "empty", "cut", "ns/voxel", "spheres")
    rows = (
        (
            found.family.name,
            found.kind,
            f"{found.slope:.2f}",
            " ".join(f"{diameter:.0f}" for diameter in found.diameters),
            f"{found.empty / members:.0%}",
            f"{found.cut / members:.0%}",
            f"{found.nanoseconds:.1f}",
            f"{found.spheres:.1f}",
        )
        for found in findings
    )
    return table_of(headings, rows, words=2, title=title, box=box.SIMPLE_HEAD)


if __name__ == "__main__":
    cli.run("check")
