"""Measure the renderer: seconds a sample, compile time and peak memory; with --stages, where the time goes.

Several samples are drawn at once, one a worker, as `fdif generate` does; every run draws a block of samples and the
table gives the median and the spread of the runs. With --batch the samples of a batch are one call, and stay on the
device. With --stages a second table gives each stage's time beside its floor, the least this machine would need.

Example:
    fdif bench render
    fdif bench render --edges 48 96 144 --objects 5 20 80 --json bench.json
    fdif bench render --stages
    fdif bench render --kernel on --batch 64 --samples 1024
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_keys
from fdif_jax.scripts.benchmarks.parts import pooled_seconds, share_of_floor, spread
from fdif_jax.scripts.benchmarks.stages import measure_stages
from fdif_jax.scripts.console.tables import table_by
from fdif_jax.scripts.console.watching import peak_memory
from fdif_jax.scripts.options.recipe import RecipeOptions, recipe_of
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.training.devices import local_devices


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    recipe: str = "fdif"
    """Name of a shipped recipe, or a .toml file."""
    catalogue: tuple[Path, ...] = ()
    """Python files of shapes, displacements and mappers, added to the recipe's vocabulary."""
    categories: tuple[str, ...] = ()
    """Draw from the classes of these categories only, as in mine."""
    edges: tuple[int, ...] = (96,)
    """Edges of the cubic grids to measure, in voxels."""
    objects: tuple[int, ...] = (20,)
    """Numbers of objects in a scene to measure."""
    runs: int = 5
    """Runs of each combination; the median is reported."""
    samples: int = 20
    """Samples drawn in each run."""
    workers: int = 0
    """Samples (or batches) drawn at the same time; 0 for one a processor core, or one a device with --batch."""
    devices: int = 1
    """Devices to draw on, in turns; a CPU is divided into as many as asked for."""
    batch: int = 0
    """Samples of one call; 0 for single samples."""
    kernel: Literal["off", "on", "interpret"] = "off"
    """Render batches by the GPU kernel; interpret runs it without a GPU, slowly."""
    stages: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also measure each stage beside the least time it could take (on a CPU, single samples)."""
    json: Path | None = None
    """Also write the figures to this file."""


def run(config: Config) -> None:
    """Measure every combination of edge and object count; print a table."""
    check_least(config, runs=1, samples=1)
    check_least(config, "{} or more", workers=0, batch=0)
    if config.kernel != "off" and not config.batch:
        raise FdifError("--kernel renders batches; give --batch, as in --batch 64")
    check_least(config, devices=1)
    devices = local_devices(config.devices)
    if config.stages and (config.batch or config.devices > 1 or devices[0].platform != "cpu"):
        raise FdifError("--stages measures single samples on one CPU; leave out --batch and --devices")
    options = RecipeOptions(config.recipe, catalogue=config.catalogue, categories=config.categories)
    recipe = recipe_of(options)
    if isinstance(recipe, fd.Mixture):
        raise FdifError(f"--recipe {config.recipe}: measure the parts of a mixture by themselves")
    recipes = [
        recipe.replace(grid=[edge] * 3, min_objects=count, max_objects=count)
        for edge in config.edges
        for count in config.objects
    ]
    workers = config.workers or (len(devices) if config.batch else os.cpu_count() or 1)
    title = f"fdif bench render: recipe {config.recipe}, {workers} workers, {len(devices)} × {devices[0].device_kind}"
    rows = [_measure(r, config, workers, devices) for r in recipes]
    cells = {
        "grid": lambda row: "×".join(map(str, row["grid"])),
        "objects": lambda row: str(row["objects"]),
        "s/sample": lambda row: f"{row['seconds']:.4f}",
        "spread": lambda row: f"{row['fastest']:.4f}-{row['slowest']:.4f}",
        "samples/s": lambda row: f"{1 / row['seconds']:.1f}",
        "ns/voxel·object": lambda row: f"{row['ns_per_voxel_object']:.2f}",
        "compile s": lambda row: f"{row['compile_seconds']:.1f}",
        "peak GB": lambda row: f"{row['peak_gb']:.2f}",
    }
    Console(width=110).print(table_by(cells, rows, words=0, title=title))
    for row in rows:
        if "stages" in row:
            Console(width=110).print(_stage_table(row))
    if config.json:
        config.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _measure(recipe: fd.Recipe, config: Config, workers: int, devices: Sequence[jax.Device]) -> dict:
    program = fd.compile(recipe, kernel=config.kernel)
    call = _call(program, config, devices)
    start = time.perf_counter()
    call(0)
    compile_seconds = time.perf_counter() - start
    size = max(config.batch, 1)
    calls = -(-config.samples // size)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(call, range(max(workers, len(devices)))))
        measured = spread([seconds / size for seconds in pooled_seconds(pool, call, config.runs, calls)])
    row = {
        "recipe": config.recipe,
        "grid": list(recipe.grid),
        "objects": recipe.max_objects,
        "workers": workers,
        "devices": len(devices),
        "device": devices[0].device_kind,
        "batch": config.batch,
        "kernel": config.kernel,
        "runs": config.runs,
        **measured,
        "ns_per_voxel_object": measured["seconds"] / (math.prod(recipe.grid) * recipe.max_objects) * 1e9,
        "compile_seconds": compile_seconds,
        "peak_gb": peak_memory(devices[:1]) / 1e9,
    }
    if config.stages:
        stages, rates = measure_stages(program, workers, config.runs, config.samples)
        row |= {"stages": [stage._asdict() for stage in stages], "rates": rates._asdict()}
    return row


def _call(program: fd.World, config: Config, devices: Sequence[jax.Device]) -> Callable[[int], None]:
    """Draws sample, or batch, ``i`` of seed 0 on the device whose turn it is, and leaves it there."""
    batch = jax.jit(lambda start: program.batch(sample_keys(0, start, config.batch)))

    def call(index: int) -> None:
        with jax.default_device(devices[index % len(devices)]):
            first = np.uint32(index * config.batch)
            jax.block_until_ready(batch(first) if config.batch else program.sample_at(0, index))

    return call


def _stage_table(row: dict) -> Table:
    rates = row["rates"]
    grid = "×".join(map(str, row["grid"]))
    title = (
        f"{grid}, {row['objects']} objects; this machine: {rates['flops'] / 1e9:.0f} Gflop/s, "
        f"{rates['transcendentals'] / 1e9:.2f} G roots/s, {rates['bytes'] / 1e9:.1f} GB/s"
    )
    stages = row["stages"]
    columns = ("seconds", "flops", "transcendentals", "bytes", "floor")
    total = {"name": "sum of stages", **{c: sum(stage[c] for stage in stages) for c in columns}}
    cells = {
        "stage": lambda stage: stage["name"],
        "ms/sample": lambda stage: f"{stage['seconds'] * 1e3:.2f}",
        "share": lambda stage: f"{stage['seconds'] / total['seconds']:.0%}",
        "Mflop": lambda stage: f"{stage['flops'] / 1e6:.0f}",
        "M transc.": lambda stage: f"{stage['transcendentals'] / 1e6:.1f}",
        "MB": lambda stage: f"{stage['bytes'] / 1e6:.1f}",
        "floor ms": lambda stage: f"{stage['floor'] * 1e3:.2f}",
        "floor/time": share_of_floor,
    }
    return table_by(cells, [*stages, total], title=title)
