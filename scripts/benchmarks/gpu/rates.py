"""Part `rates`: volumes a second by three ways to render a batch, beside what the machine could reach."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fdif_jax as fd
from fdif_jax.algebra import move
from fdif_jax.renderer import BITS, INTENSITY_TOP, Renderer, Table
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.profile import kernels_of
from fdif_jax.scripts.benchmarks.gpu.reference import recipe_of
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
    kernel = fd.compile(recipe, kernel=size.kernel)  # type: ignore[arg-type]
    scan = fd.compile(recipe, kernel="off")
    ways: dict[str, Batch] = {
        "kernel": kernel.batch,
        "branch-free": lambda keys: branch_free(scan.renderer, jax.vmap(scan.draw)(keys)),
        "scan": scan.batch,
        "draw": jax.vmap(scan.draw),
    }
    for way, batch in ways.items():
        for count in size.batches:
            name = f"{way} {count}"
            with figures.attempt(name):
                figure, compiled = _measured(batch, count, size.runs, figures)
                figures.add(name, figure)
                if count == size.batches[-1]:
                    with figures.attempt(f"profile {way}"), figures.alone():
                        figures.add(f"profile {way}", kernels_of(lambda c=compiled: _seconds(c, 1, 99)))
                if figure["seconds_a_call"] > _SLOW:
                    break


def branch_free(renderer: Renderer, tables: Table) -> tuple[jax.Array, jax.Array]:
    """Images and labels of a batch of tables, every object on the whole grid with every branch computed."""
    p = renderer.grid.points()
    fields, mappers = renderer.displacement_fields(), [m.function for m in renderer.mappers]

    def one(table: Table) -> tuple[jax.Array, jax.Array]:
        def draw(carry: tuple, o: tuple) -> tuple[tuple, jax.Array]:
            image, planes = carry
            i, branch, row, inverse, displacement, mapper = o
            local = move(inverse, p)
            d = lax.switch(
                branch, [lambda row, at, s=s: s.unpack(row)(at) for s in renderer.structures], row, local
            )
            d = d + lax.switch(displacement, fields, p)
            inside = (d <= 0) & (i < table.number)
            image = image + jnp.where(i < table.number, lax.switch(mapper, mappers, d), 0)
            bit = inside.astype(jnp.uint32) << (i % BITS).astype(jnp.uint32)
            return (image, planes.at[i // BITS].set(planes[i // BITS] | bit)), inside.sum(dtype=jnp.int32)

        objects = table.branch.shape[0]
        empty = jnp.zeros(renderer.grid), jnp.zeros((-(-objects // BITS), *renderer.grid), jnp.uint32)
        rows = (jnp.arange(objects), table.branch, table.row, table.inverse, table.displacement, table.mapper)
        (image, planes), volumes = lax.scan(draw, empty, rows)
        return jnp.clip(image, 0, INTENSITY_TOP).astype(jnp.uint8), renderer.paint(
            planes, volumes, table.label
        )

    return jax.vmap(one)(tables)


def _measured(batch: Batch, count: int, runs: int, figures: Figures) -> tuple[dict[str, Any], Any]:
    made = jax.jit(lambda start: batch(_keys(start, count)))
    start = time.perf_counter()
    compiled = made.lower(np.uint32(0)).compile()
    compile_seconds = time.perf_counter() - start
    with figures.alone():
        once = _seconds(compiled, 1, 0)
        once = _seconds(compiled, 1, 1) if once < _SLOW else once
        calls = max(1, min(200, round(_TURN / once)))
        seconds = [_seconds(compiled, calls, run) for run in range(1, runs + 1)] if once < _SLOW else [once]
    median = statistics.median(seconds)
    figure = {
        "volumes_per_second": count / median,
        "seconds_a_call": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "compile_seconds": compile_seconds,
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }
    return figure, compiled


def _keys(start: jax.Array, count: int) -> jax.Array:
    return jax.vmap(lambda i: fd.sample_key(0, i))(start + jnp.arange(count, dtype=jnp.uint32))


def _seconds(compiled: Any, calls: int, run: int) -> float:
    """Mean seconds of a call, each of other scenes."""

    def ends() -> Iterator[Any]:
        for call in range(calls):
            result = compiled(np.uint32((run * 1000 + call) * 64))
            yield jax.tree.leaves(result)[-1]

    start = time.perf_counter()
    for end in ends():
        last = end
    jax.block_until_ready(last)
    return (time.perf_counter() - start) / calls
