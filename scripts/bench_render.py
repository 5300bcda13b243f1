"""Measure the renderer: seconds a sample, compile time and peak memory.

Several samples are drawn at once, one a worker, as `fdif generate` does; every run draws a block of samples and the
table gives the median and the spread of the runs.

Example:
    fdif bench render
    fdif bench render --edges 48 96 144 --objects 5 20 80 --json bench.json
"""

import dataclasses
import json
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

import fdif_jax as fd
from fdif_jax.errors import FdifError


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    recipe: str = "fdif"
    """Name of a shipped recipe, or a .toml file."""
    edges: tuple[int, ...] = (96,)
    """Edges of the cubic grids to measure, in voxels."""
    objects: tuple[int, ...] = (20,)
    """Numbers of objects in a scene to measure."""
    runs: int = 5
    """Runs of each combination; the median is reported."""
    samples: int = 20
    """Samples drawn in each run."""
    workers: int = 0
    """Samples drawn at the same time; 0 for one a processor core."""
    json: Path | None = None
    """Also write the figures to this file."""


def run(config: Config) -> None:
    """Measure every combination of edge and object count; print a table."""
    for name in ("runs", "samples"):
        if getattr(config, name) < 1:
            raise FdifError(f"--{name} must be at least 1, not {getattr(config, name)}")
    if config.workers < 0:
        raise FdifError(f"--workers must be 0 (one a core) or more, not {config.workers}")
    recipe = fd.load_recipe(config.recipe)
    recipes = [
        recipe.replace(grid=[edge] * 3, min_objects=count, max_objects=count)
        for edge in config.edges
        for count in config.objects
    ]
    workers = config.workers or os.cpu_count() or 1
    table = Table(title=f"fdif bench render: recipe {config.recipe}, {workers} workers, {jax.devices()[0]}")
    for heading in (
        "grid",
        "objects",
        "s/sample",
        "spread",
        "samples/s",
        "ns/voxel·object",
        "compile s",
        "peak GB",
    ):
        table.add_column(heading, justify="right")
    rows = []
    for r in recipes:
        row = _measure(r, config, workers)
        rows.append(row)
        table.add_row(
            "×".join(map(str, row["grid"])),
            str(row["objects"]),
            f"{row['seconds']:.4f}",
            f"{row['fastest']:.4f}-{row['slowest']:.4f}",
            f"{1 / row['seconds']:.1f}",
            f"{row['ns_per_voxel_object']:.2f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['peak_gb']:.2f}",
        )
    Console(width=110).print(table)
    if config.json:
        config.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _measure(recipe: fd.Recipe, config: Config, workers: int) -> dict:
    program = fd.compile(recipe)
    start = time.perf_counter()
    jax.block_until_ready(program.sample_at(0, 0))
    compile_seconds = time.perf_counter() - start
    seconds = []
    with ThreadPoolExecutor(workers) as pool:

        def draw(index: int) -> None:
            jax.block_until_ready(program.sample_at(0, index))

        list(pool.map(draw, range(workers)))
        for _ in range(config.runs):
            start = time.perf_counter()
            list(pool.map(draw, range(config.samples)))
            seconds.append((time.perf_counter() - start) / config.samples)
    voxels = recipe.grid[0] * recipe.grid[1] * recipe.grid[2]
    median = statistics.median(seconds)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "recipe": config.recipe,
        "grid": list(recipe.grid),
        "objects": recipe.max_objects,
        "workers": workers,
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "ns_per_voxel_object": median / (voxels * recipe.max_objects) * 1e9,
        "compile_seconds": compile_seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
    }
