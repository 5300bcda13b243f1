"""Measure what others have published beside ours, in turns, in one run on this machine: a line per rival.

Generators of labelled volumes and the library of distances are run from checkouts that you have made; their commands
are those of their pages. A sample's seconds are with writing it, without starting Python and compiling. --torch
measures the PyTorch originals of the networks, which are installed with the extra torch. Medians; "times" is how many
times as long as ours theirs takes, with the least and the most of a turn. A busy machine gives no ratios.

Example:
    git clone https://github.com/yamanoko/FDIF ../FDIF
    fdif bench rivals --fdif ../FDIF
    fdif bench rivals --fdif ../FDIF --primgeoseg ../PrimGeoSeg --python ../FDIF/.venv/bin/python --json rivals.json
    fdif bench rivals --torch --small
"""

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_atomic
from fdif_jax.scripts.benchmarks import generators, networks, shapes, training
from fdif_jax.scripts.benchmarks.parts import Steps, in_turns, spread
from fdif_jax.scripts.benchmarks.quiet import Comparison, Neighbours, shown_ratio
from fdif_jax.scripts.benchmarks.rivals import TorchSteps
from fdif_jax.scripts.jobs.prepared import prepare
from fdif_jax.scripts.options.settings import check_least

_LEAST_RUNS = 5


@dataclasses.dataclass(frozen=True)
class Config(Comparison):
    """What to measure."""

    fdif: Path | None = None
    """Checkout of github.com/yamanoko/FDIF: a sample of the paper's data set, written."""
    primgeoseg: Path | None = None
    """Checkout of github.com/SUPER-TADORY/PrimGeoSeg: a sample of AVS-DB, written."""
    sdf: Path | None = None
    """Checkout of github.com/fogleman/sdf: the five shapes of `fdif bench shapes`, together."""
    torch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The networks of `fdif bench networks` and the training step of the preset quick, by PyTorch."""
    python: str = sys.executable
    """Python that has what the generators need."""
    edge: int = 96
    """Voxels along each edge of a sample, and of an image of a network."""
    small: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Little networks instead of those of the literature."""
    samples: int = 20
    """Samples of ours in a run."""
    their_samples: int = 2
    """Samples of theirs in a run, of each process that they draw in."""
    runs: int = _LEAST_RUNS
    """Runs of each measurement, 5 or more; the median is reported."""
    json: Path | None = None
    """Also write the figures to this file."""


Row = dict[str, Any]


def run(config: Config) -> None:
    """Measure every rival that is given; print a line of each as soon as it is measured."""
    check_least(config, edge=8, samples=1, their_samples=1, runs=_LEAST_RUNS)
    checkouts = {
        generator: checkout
        for generator, checkout in (
            (generators.FDIF, config.fdif),
            (generators.PRIMGEOSEG, config.primgeoseg),
        )
        if checkout
    }
    for generator, checkout in checkouts.items():
        generators.check_checkout(generator, checkout)
    if not (checkouts or config.sdf or config.torch):
        raise FdifError("nothing to measure; give --fdif, --primgeoseg or --sdf with a checkout, or --torch")
    library = shapes.library(config.sdf) if config.sdf else None
    cases = networks.cases_of(_networks(config)) if config.torch else []
    neighbours, console, rows = Neighbours(config.anyway), Console(width=118, highlight=False), []
    try:
        for row in _rows(config, checkouts, library, cases):
            neighbours.mark([row], "times", "least", "most")
            console.print(_line(row), soft_wrap=True)
            rows.append(row)
    finally:
        if config.json:
            machine = {"cores": os.cpu_count(), "runs": config.runs}
            write_atomic(config.json, json.dumps({**machine, "rivals": rows}, indent=2).encode())
    neighbours.tell(console)


def _rows(
    config: Config,
    checkouts: Mapping[generators.Generator, Path],
    library: Any,
    cases: Sequence[networks.Case],
) -> Iterator[Row]:
    for generator, checkout in checkouts.items():
        ours = generators.ours(generator, config.edge, config.samples)
        theirs = generators.theirs(generator, checkout, config.python, config.edge, config.their_samples)
        seconds = in_turns({"ours": ours, "theirs": theirs}, config.runs)
        yield row_of(generator.repository, f"a sample of {config.edge}³, written", **seconds)
    if library:
        yield from _shapes(library, config.runs)
    for case in cases:
        yield from _network(case)
    if cases:
        yield _step(config.runs)


def row_of(rival: str, what: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Figures of a rival by the seconds of both in every turn."""
    times = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "rival": rival,
        "what": what,
        "ours": spread(ours),
        "theirs": spread(theirs),
        "times": statistics.median(theirs) / statistics.median(ours),
        "least": min(times),
        "most": max(times),
    }


def _shapes(library: Any, runs: int) -> Iterator[Row]:
    """The five shapes together: their distances at every voxel, and their meshes."""
    peers = shapes.theirs(library)
    resolution = shapes.Config.resolution
    every = [shapes.measure(shape, peers[name], resolution, runs)[1] for name, shape in shapes.ours().items()]
    for what, name in (("voxels", "distances"), ("mesh", "meshes")):
        ours, theirs = (
            [sum(turn) for turn in zip(*(seconds[key] for seconds in every), strict=True)]
            for key in (what, f"their {what}")
        )
        yield row_of("fogleman/sdf", f"{name} of five shapes, {resolution}³", ours, theirs)


def _networks(config: Config) -> networks.Config:
    return networks.Config(grid=(config.edge,) * 3, small=config.small, runs=config.runs, device="cpu")


def _network(case: networks.Case) -> Iterator[Row]:
    measured = networks.measure(case)
    for what, name in zip(networks.TIMED, ("forward", "forward and backward"), strict=True):
        ours, theirs = zip(*measured[what]["seconds"], strict=True)
        yield row_of(
            "PyTorch",
            f"{case.spec['name']}, {measured['parameters'] / 1e6:.1f} M weights, {name}",
            ours,
            theirs,
        )


def _step(runs: int) -> Row:
    """A training step of the preset quick; ours draws its scenes, PyTorch has a batch in memory."""
    config = training.defaults(["--preset=quick"])
    assert config is not None
    prepared = prepare(config)
    theirs = TorchSteps(prepared)
    seconds = in_turns({"ours": Steps(prepared), "theirs": theirs}, runs)
    return row_of("PyTorch", "a training step of quick", **seconds)


def _line(row: Row) -> str:
    what = f"[bold]{row['rival']}[/], {row['what']}: ours {_seconds(row['ours'])}, theirs {_seconds(row['theirs'])}"
    if row["times"] is None:
        return f"{what}; no ratio, as the machine is busy"
    digits = 0 if row["times"] >= 10 else 2
    least, most = (shown_ratio(row[name], digits) for name in ("least", "most"))
    remark = " on a busy machine" if row["busy"] else ""
    return f"{what}: [bold]{shown_ratio(row['times'], digits)} times[/] ({least}-{most}){remark}"


def _seconds(measured: Mapping[str, float]) -> str:
    return f"{measured['seconds']:.3g} s ({measured['fastest']:.3g}-{measured['slowest']:.3g})"
