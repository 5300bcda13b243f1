"""Part `rates`: volumes a second by three ways to render a batch, beside what the machine could reach."""

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

import fdif_jax as fd
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import BITS, Renderer
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.profile import kernels_of
from fdif_jax.scripts.benchmarks.gpu.reference import compiled_batch, recipe_of
from fdif_jax.scripts.benchmarks.gpu.sizes import Size

_TURN = 1.0  # seconds of one measurement, about
_SLOW = 20.0  # seconds of one call above which larger batches are left out

Batch = Callable[[jax.Array], Any]


def measure(size: Size, figures: Figures) -> None:
    """Rates of the kernel, of the branch-free form, and of the scan with switches, by batch."""
    recipe = recipe_of("fdif", size)
    voxels = math.prod(recipe.grid)
    figures.add("conditions", {"grid": list(recipe.grid), "objects": size.objects, "runs": size.runs})
    # An intensity and a word of bits are written and read once, a grey level and a label written.
    figures.add("bytes", voxels * (2 * 4 + 2 * 4 * -(-size.objects // BITS) + 2))
    kernel, scan = fd.Program(recipe, size.kernel), fd.Program(recipe, "off")
    ways: dict[str, Batch] = {
        "kernel": kernel.batch,
        "branch-free": lambda keys: BranchFree(scan.renderer).intensities(jax.vmap(scan.draw)(keys)),
        "scan": scan.batch,
        "draw": jax.vmap(scan.draw),
    }
    _tiles(scan.renderer, scan.draw, size, figures)
    for way, batch in ways.items():
        for count in size.batches:
            name = f"{way} {count}"
            with figures.attempt(name):
                compiled, seconds = compiled_batch(batch, count)
                figure = _measured(compiled, seconds, count, size.runs, figures)
                figures.add(name, figure)
                if count == size.batches[-1]:
                    with figures.attempt(f"profile {way}"), figures.alone():
                        figures.add(f"profile {way}", kernels_of(lambda c=compiled: _seconds(c, 1, 99)))
                if figure["seconds_a_call"] > _SLOW:
                    break


def _tiles(renderer: Renderer, draw: Callable, size: Size, figures: Figures) -> None:
    """The kernel by tile and warps, at the largest batch; compiled side by side."""
    count = size.batches[-1]

    def compiled(how: tuple[tuple[int, int, int], int]) -> Any:
        kernel = TileKernel(renderer, size.kernel == "interpret", *how)
        return compiled_batch(lambda keys: kernel.intensities(jax.vmap(draw)(keys)), count)

    with ThreadPoolExecutor() as pool:
        made = [(how, pool.submit(compiled, how)) for how in size.tiles]
        for (tile, warps), program in made:
            name = f"tile {'×'.join(map(str, tile))}, {warps} warps"
            with figures.attempt(name):
                ready, seconds = program.result()
                figures.add(name, _measured(ready, seconds, count, size.runs, figures))


def _measured(
    compiled: Any, compile_seconds: float, count: int, runs: int, figures: Figures
) -> dict[str, Any]:
    with figures.alone():
        once = _seconds(compiled, 1, 0)
        once = _seconds(compiled, 1, 1) if once < _SLOW else once
        calls = max(1, min(200, round(_TURN / once)))
        seconds = [_seconds(compiled, calls, run) for run in range(1, runs + 1)] if once < _SLOW else [once]
    median = statistics.median(seconds)
    return {
        "volumes_per_second": count / median,
        "seconds_a_call": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "compile_seconds": compile_seconds,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def _seconds(compiled: Any, calls: int, run: int) -> float:
    """Mean seconds of a call, each of other scenes."""
    start = time.perf_counter()
    for call in range(calls):
        last = jax.tree.leaves(compiled(np.uint32((run * 1000 + call) * 64)))[-1]
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / calls
