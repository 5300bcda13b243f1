"""Where the time of a rendered sample goes, stage by stage, beside the least it could take on this machine.

The time of a stage is what the whole loses when the stage is hollowed out: a hollow shape, displacement or mapper
visits the same tiles and returns a constant. The floor of a stage is its arithmetic, counted by XLA for one tile and
multiplied by the tiles that are visited, at the rates that the same cores reach on plain loops of the same
operations; that of writing is its bytes at the rate of a plain copy. Mappers are counted and timed in all visited
tiles, though in a whole render those where nothing shows go without.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fdif_jax.keys import sample_key
from fdif_jax.rendering.renderer import BITS, Renderer, Table
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.scenes.compiler import Program
from fdif_jax.scripts.benchmarks.parts import pooled_seconds
from fdif_jax.sdf.affine import joined, terms
from fdif_jax.sdf.shape import Distance, Point, Shape, node
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary.vocabulary import Displacement


class Stage(NamedTuple):
    """One stage of a sample: seconds, operations, and the least seconds on this machine."""

    name: str
    seconds: float
    flops: float
    transcendentals: float
    bytes: float
    floor: float


class Rates(NamedTuple):
    """What this machine reaches on plain loops, all workers together, a second."""

    flops: float
    transcendentals: float
    bytes: float


@node
class _Hollow(Shape):
    """Nothing but zeros, of all three coordinates, so that they are computed."""

    def __call__(self, p: Point) -> Distance:
        return jnp.asarray((p.x + p.y + p.z) * 0)


class _HollowStructure(Structure):
    def unpack(self, row: Any) -> Shape:
        return _Hollow()


@dataclasses.dataclass(frozen=True)
class _Ablated(Renderer):
    """A renderer of hollow parts that visits the tiles which the whole one visits."""

    whole: Any = None

    @property
    def plan(self) -> Tiling:  # type: ignore[override]
        return self.whole.plan

    def visitors(self, table: Table) -> tuple[jax.Array, jax.Array]:
        return self.whole.visitors(table)


def _without(renderer: Renderer, kept: str) -> Renderer:
    """The renderer with all but one of shapes, displacements and mappers hollowed out."""
    parts: dict[str, Any] = {
        "structures": tuple(_HollowStructure(s.treedef, s.sizes) for s in renderer.structures),
        "displacements": tuple(
            Displacement(d.name, lambda p, highest: jnp.asarray(p.x) * 0) for d in renderer.displacements
        ),
        "mappers": tuple(dataclasses.replace(m, function=lambda d: d) for m in renderer.mappers),
    }
    parts |= {kept: getattr(renderer, kept)} if kept else {}
    return _Ablated(renderer.grid, **parts, top_label=renderer.top_label, tile=renderer.tile, whole=renderer)


def measure_stages(program: Program, workers: int, runs: int, samples: int) -> tuple[list[Stage], Rates]:
    """Stages of a sample of a CPU program, in the order in which they run; and the machine's rates.

    In each of ``runs`` measurements, whose medians are reported, so many samples are drawn, ``workers`` at a time.
    """
    renderer, grid = program.renderer, program.grid
    measure = partial(_seconds, workers=workers, runs=runs, samples=samples)

    def timed(function: Callable[[jax.Array], Any]) -> float:
        return measure(jax.jit(lambda index: function(sample_key(0, index))))

    def render(chosen: Renderer) -> Callable[[jax.Array], Any]:
        return lambda key: chosen.intensities(program.draw(key))

    draw = timed(program.draw)
    cull = timed(lambda key: renderer.visitors(program.draw(key))) - draw
    objects = program.recipe.max_objects
    # As arguments, not constants of a program, which XLA would paint while it compiles.
    planes = jax.random.bits(jax.random.key(0), (-(-objects // BITS), *grid), jnp.uint32)
    labels = jnp.ones((objects, len(program.tasks)), jnp.int32)
    painted = jax.jit(renderer.paint)
    paint = measure(lambda index: painted(planes, jnp.arange(objects), labels))
    bare = timed(render(_without(renderer, "")))
    kinds = ("structures", "displacements", "mappers")
    parts = {kept: timed(render(_without(renderer, kept))) - bare for kept in kinds}
    rates = measure_rates(workers, runs)
    work = counted_work(program, samples)
    voxels = math.prod(grid)
    # A voxel's intensity and bits, written once and read once, and the label and the grey level.
    moved = voxels * (2 * 4 + 2 * 4 * len(planes) + 1 + labels.shape[1])
    rows = [
        ("draw objects", draw, (0.0, 0.0), 0),
        ("cull tiles", cull, (0.0, 0.0), 0),
        ("shapes", parts["structures"], work["structures"], 0),
        ("displacements", parts["displacements"], work["displacements"], 0),
        ("mappers", parts["mappers"], work["mappers"], 0),
        ("composite", bare - draw - cull - paint, work["composite"], moved),
        ("paint labels", paint, (2.0 * voxels * objects, 0.0), 0),
    ]
    return [
        Stage(name, max(seconds, 0.0), *counted, moved, _floor(*counted, moved, rates))
        for name, seconds, counted, moved in rows
    ], rates


def _floor(flops: float, transcendentals: float, moved: float, rates: Rates) -> float:
    """Least seconds: arithmetic and memory at the same time, transcendentals after the rest."""
    arithmetic = flops / rates.flops + transcendentals / rates.transcendentals
    return max(arithmetic, moved / rates.bytes)


def _seconds(draw: Callable[[Any], Any], workers: int, runs: int, samples: int) -> float:
    """Median seconds a sample, ``workers`` at a time."""

    def once(index: int) -> None:
        jax.block_until_ready(draw(np.uint32(index)))

    once(0)
    with ThreadPoolExecutor(workers) as pool:
        return statistics.median(pooled_seconds(pool, once, runs, samples))


def measure_rates(workers: int, runs: int) -> Rates:
    """What the cores reach: multiply-adds and roots on numbers in cache, bytes of a copy beyond it.

    XLA counts roots among the transcendentals; they are the fastest of them, so that a floor is one.
    """
    small, repeats = jnp.linspace(0, 1, 12 * 24 * 48), 400
    large = jnp.zeros(32 * 2**20, jnp.float32)

    def loop(body: Callable[[jax.Array], jax.Array]) -> Callable[[int], Any]:
        return jax.jit(lambda index: lax.fori_loop(0, repeats, lambda i, x: body(x), small + index))

    def chains(x: jax.Array) -> jax.Array:
        # Independent of each other, so that an operation need not wait for the one before.
        ends = []
        for factor in np.linspace(0.9, 0.99, 8, dtype=np.float32):
            y = x
            for _ in range(16):
                y = y * factor + 0.01
            ends.append(y)
        return sum(ends[1:], ends[0]) / 8

    rate = partial(_seconds, workers=workers, runs=runs, samples=4 * workers)
    numbers = small.size * repeats
    copy = jax.jit(lambda index: large + index.astype(jnp.float32))
    return Rates(
        flops=8 * 16 * 2 * numbers / rate(loop(chains)),
        transcendentals=numbers / rate(loop(jnp.sqrt)),
        bytes=2 * large.nbytes / rate(copy),
    )


def counted_work(program: Program, samples: int) -> dict[str, tuple[float, float]]:
    """Operations (flops, transcendentals) a sample of each part of a tile's visit, averaged over samples."""
    renderer, tile = program.renderer, program.renderer.plan.tile

    def visited(index: Any) -> tuple[Table, jax.Array]:
        table = program.draw(sample_key(0, index))
        rows, visits = renderer.visitors(table)
        there = jnp.arange(rows.shape[1]) < visits[:, None]
        return table, jnp.zeros(rows.shape[1]).at[rows].add(there)

    drawn = [jax.tree.map(np.asarray, jax.jit(visited)(np.uint32(i))) for i in range(samples)]
    p = jax.eval_shape(lambda: renderer.grid.tile((0, 0, 0), tile))
    distance = jax.ShapeDtypeStruct(tile, jnp.float32)
    row = jax.ShapeDtypeStruct((renderer.width,), jnp.float32)
    inverse = jax.ShapeDtypeStruct((3, 4), jnp.float32)

    def shape(structure: Structure) -> tuple[float, float]:
        return _operations(lambda row, local: structure.unpack(row)(joined(local)), row, local)

    local = jax.eval_shape(terms, inverse, p)
    kinds: dict[str, tuple[str, Sequence[tuple[float, float]]]] = {
        "structures": ("branch", [shape(s) for s in renderer.structures]),
        "displacements": ("displacement", [_operations(f, p) for f in renderer.displacement_fields()]),
        "mappers": ("mapper", [_operations(m.function, distance) for m in renderer.mappers]),
    }
    totals = {}
    for kind, (column, costs) in kinds.items():
        each = np.asarray(costs)
        visits = (
            (getattr(table, column)[: table.number], tiles[: table.number, None]) for table, tiles in drawn
        )
        sums = [(each[numbers] * tiles).sum(0) for numbers, tiles in visits]
        totals[kind] = tuple(np.mean(sums, axis=0).tolist())
    count = float(np.mean([tiles[: table.number].sum() for table, tiles in drawn]))
    # Of each voxel of a visited tile: add, compare, shift, or, and count.
    totals["composite"] = (count * 5 * math.prod(tile), 0.0)
    return totals


def _operations(function: Callable, *arguments: Any) -> tuple[float, float]:
    """Flops and transcendentals of a function, as XLA counts them."""
    counted = jax.jit(function).lower(*arguments).compile().cost_analysis() or {}
    return counted.get("flops", 0.0), counted.get("transcendentals", 0.0)
