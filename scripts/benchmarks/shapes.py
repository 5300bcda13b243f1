"""Time five shapes on this machine: their distances at every voxel, and their meshes.

With --sdf, a checkout of github.com/fogleman/sdf, which is NumPy in threads, the same shapes are made with it and both
are measured in turns; "apart" is the largest difference of their distances, "times" how many times as long it takes.
Ours are compiled before. A busy machine gives no such ratios.

Example:
    fdif bench shapes
    fdif bench shapes --sdf ../sdf --json shapes.json
"""

import importlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError
from fdif_jax.scripts.benchmarks.parts import seconds_of_call
from fdif_jax.scripts.benchmarks.quiet import Comparison, Neighbours, shown_ratio
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.options.settings import check_least

_EDGE = 64.0  # of the cube that distances are taken in, voxels of 1 mm
_PIECE = 32  # points along each edge of what a thread of theirs evaluates at once, as it does for its meshes


@dataclass(frozen=True)
class Config(Comparison):
    """What to measure."""

    resolution: int = 128
    """Voxels along each edge."""
    runs: int = 5
    """Runs of each measurement; the median is reported."""
    sdf: Path | None = None
    """Folder of a checkout of fogleman/sdf, to measure it, too."""
    json: Path | None = None
    """Also write the figures to this file."""


def ours() -> dict[str, fd.Shape]:
    """Five shapes of set operations, seams, turns and copies."""
    tunnels = [shapes.cylinder(8.0, 200.0, axis) for axis in "xyz"]
    frame = fd.onion(shapes.rounded_box(26.0, 18.0, 14.0, radius=5.0), 1.5)
    balls = fd.union(shapes.sphere(15.0), fd.translate(shapes.sphere(12.0), (14.0, 0.0, 6.0)), smooth=6.0)
    spokes = fd.repeat_around(shapes.capsule((8.0, 0.0, 0.0), (22.0, 0.0, 4.0), 3.0), 9, axis="z")
    return {
        "drilled": fd.difference(shapes.sphere(24.0) & shapes.box(18.0), *tunnels),
        "frame": fd.difference(frame, shapes.box(40.0, 10.0, 6.0), shapes.box(10.0, 40.0, 6.0)),
        "blend": fd.difference(balls, shapes.cylinder(5.0, 200.0, "z"), smooth=4.0),
        "wheel": fd.union(shapes.torus(24.0, 4.0, axis="z"), spokes),
        "screw": fd.twist(shapes.box(9.0, 9.0, 24.0), -0.05) - shapes.sphere(10.0),
    }


def theirs(sdf: Any) -> dict[str, Any]:
    """The same with fogleman/sdf."""
    tunnels = [sdf.capped_cylinder(-100 * axis, 100 * axis, 8) for axis in (sdf.X, sdf.Y, sdf.Z)]
    frame = sdf.rounded_box((52, 36, 28), 5).shell(3)
    balls = sdf.sphere(15) | sdf.sphere(12).translate((14, 0, 6)).k(6)
    spokes = sdf.capsule((8, 0, 0), (22, 0, 4), 3).circular_array(9)
    return {
        "drilled": (sdf.sphere(24) & sdf.box(36)) - tunnels[0] - tunnels[1] - tunnels[2],
        "frame": frame - sdf.box((80, 20, 12)) - sdf.box((20, 80, 12)),
        "blend": balls - sdf.capped_cylinder(-100 * sdf.Z, 100 * sdf.Z, 5).k(4),
        "wheel": sdf.torus(24, 4) | spokes,
        "screw": sdf.box((18, 18, 48)).twist(0.05) - sdf.sphere(10),
    }


def run(config: Config) -> None:
    """Measure shape by shape, in turns; print a table."""
    check_least(config, resolution=8, runs=1)
    peers = theirs(library(config.sdf)) if config.sdf else {}
    neighbours = Neighbours(config.anyway) if peers else None
    console, rows = Console(width=118, highlight=False), []
    for name, shape in ours().items():
        with console.status(name):
            row, _ = measure(shape, peers.get(name), config.resolution, config.runs)
            rows.append({"shape": name, **row})
        if neighbours:
            neighbours.mark(rows[-1:], "times voxels", "times mesh")
    console.print(_table(rows, config))
    if config.json:
        config.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    if neighbours:
        neighbours.tell(console)


def library(folder: Path) -> Any:
    """The module of a checkout of fogleman/sdf; FdifError if it is none."""
    if not (folder / "sdf" / "core.py").is_file():
        raise FdifError(f"--sdf {folder}: is no checkout of fogleman/sdf, which has sdf/core.py")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("sdf")
    except ImportError as error:
        raise FdifError(f"--sdf {folder}: cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(folder))


def measure(
    shape: fd.Shape, peer: Any, resolution: int, runs: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Medians of seconds, how many times ours theirs are, and how far the distances are apart; seconds run by run."""
    axis = np.linspace(-_EDGE / 2, _EDGE / 2, resolution, dtype=np.float32)
    evaluate = jax.jit(
        lambda shape, c: jnp.broadcast_to(shape(c, c[:, None], c[:, None, None]), (c.size,) * 3)
    )
    calls: dict[str, Callable[[], Any]] = {
        "voxels": lambda: np.asarray(evaluate(shape, axis)),
        "mesh": lambda: shape.mesh(resolution),
    }
    if peer is not None:
        calls["their voxels"] = lambda: _in_threads(peer, axis.astype(float))
        calls["their mesh"] = lambda: peer.generate(samples=resolution**3, verbose=False)
    first = {name: call() for name, call in calls.items()}
    turns = [{name: seconds_of_call(call) for name, call in calls.items()} for _ in range(runs)]
    seconds = {name: [turn[name] for turn in turns] for name in calls}
    row: dict[str, Any] = {name: statistics.median(seconds[name]) for name in calls}
    row["watertight"], row["triangles"] = bool(first["mesh"].is_watertight), len(first["mesh"].faces)
    if peer is not None:
        row |= {f"times {what}": row[f"their {what}"] / row[what] for what in ("voxels", "mesh")}
        row["apart"] = float(np.abs(first["voxels"] - first["their voxels"]).max())
    return row, seconds


def _in_threads(peer: Any, axis: np.ndarray) -> np.ndarray:
    """Their distances, piece by piece, a thread a core, as their own meshes are made."""
    values = np.empty((axis.size,) * 3)
    starts = range(0, axis.size, _PIECE)

    def piece(corner: Sequence[int]) -> None:
        where = tuple(slice(start, start + _PIECE) for start in corner)
        z, y, x = np.meshgrid(*(axis[ends] for ends in where), indexing="ij")
        values[where] = peer(np.stack([x, y, z], axis=-1).reshape(-1, 3)).reshape(x.shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(piece, itertools.product(starts, repeat=3)))
    return values


def _table(rows: Sequence[dict[str, Any]], config: Config) -> Any:
    title = f"{config.resolution}³, milliseconds, medians of {config.runs} runs"
    headings = ["shape", "voxels", "mesh", "watertight", "triangles"]
    if "apart" in rows[0]:
        headings += ["their voxels", "times", "their mesh", "times", "apart"]

    def cells(row: dict[str, Any]) -> list[str]:
        shown = [row["shape"], *(f"{1000 * row[what]:.1f}" for what in ("voxels", "mesh"))]
        shown += ["yes" if row["watertight"] else "no", f"{row['triangles']:,}"]
        if "apart" in row:
            for what in ("voxels", "mesh"):
                shown += [f"{1000 * row[f'their {what}']:.0f}", shown_ratio(row[f"times {what}"], 0)]
            shown.append(f"{row['apart']:.1g}")
        return shown

    return table_of(headings, map(cells, rows), title=title)
