"""Organs as shapes: a bank of them (`fdif_jax.anatomy.bank`) is a vocabulary, one class an organ.

All organs share one structure. Which one it is, is a number among its parameters, so that a hundred organs are one
branch of a renderer. `torso` and `head` are the vocabularies of the banks that come with the package: organs of four
scanned subjects, and of eight heads by formula (`fdif_jax.shapes.heads`).
"""

import functools
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.anatomy.bank import Bank
from fdif_jax.anatomy.placement import Atlas, Waves, draw_waves
from fdif_jax.errors import FdifError
from fdif_jax.sdf.affine import move
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Box, Distance, Point, Scalar, Shape, length, node, static
from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.shapes.mappers import MAPPERS
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.vocabulary import Family, Range, Vocabulary

SIZE = Range(0.15, 0.40)  # half the longest edge of an organ's box over the grid's shortest edge
WAVE = 0.06  # amplitude of an organ's own deformation over half its longest edge
PARAMS = ("subject", "scale", "centre", "frequency", "phase", "amplitude")


class Organs:
    """The grids of a bank on the device; equal only to itself, so that it can be part of a structure."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.values = jnp.asarray(bank.values)
        self.edges = np.linalg.norm(np.linalg.inv(bank.inverse[:, :, :3]), axis=1)  # of a cell, mm


@node
class Organ(Shape):
    """An organ of a bank, bent by smooth waves.

    The distance is the grid's, linear between samples; beyond the grid the way to it is added. Waves and anisotropic
    poses stretch it a little.
    """

    member: Scalar  # number of the bank's grid
    scale: Scalar  # voxels a millimetre
    centre: Float[Array, "3"]  # the body point (right, anterior, superior; mm) at the local origin
    waves: Waves  # the deformation, in body coordinates
    library: Organs = static()  # the grids

    @property
    def _which(self) -> Array:
        return jnp.clip(jnp.round(jnp.asarray(self.member)).astype(jnp.int32), 0, len(self.library.edges) - 1)

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        # XLA fuses a formula into everything that uses its result, and gathers anew for each; not so a branch.
        nowhere = jnp.broadcast_shapes(*map(jnp.shape, p))
        return lax.cond(
            jnp.asarray(self.scale) > 0, self._distance, lambda p: jnp.full(nowhere, jnp.inf, jnp.float32), p
        )

    def _distance(self, p: Point) -> Distance:
        i, bank = self._which, self.library.bank
        # What is linear is composed first: a voxel costs three small products, and no division.
        to_body = jnp.concatenate([jnp.eye(3)[::-1] / self.scale, self.centre[:, None]], axis=1)
        inverse = jnp.asarray(bank.inverse)[i]
        heights = self.waves.heights(move(_after(self.waves.phases, to_body), p))
        shift = jnp.pad(inverse[:, :3] @ self.waves.amplitude, ((0, 0), (0, 1)))
        index = [a + b for a, b in zip(move(_after(inverse, to_body), p), move(shift, heights), strict=True)]
        size = jnp.asarray(bank.size)[i]
        held = [jnp.clip(c, 0.0, (n - 1).astype(jnp.float32)) for c, n in zip(index, size, strict=True)]
        edges = jnp.asarray(self.library.edges, jnp.float32)[i]
        beyond = [e * (c - h) for e, c, h in zip(edges, index, held, strict=True)]
        d = _sample(self.library.values, jnp.asarray(bank.start)[i], size, held) * jnp.asarray(bank.unit)[i]
        return (d + length(*beyond)) * self.scale

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        i, bank = self._which, self.library.bank
        reach = self.waves.reach + margin / self.scale
        lower = (jnp.asarray(bank.lower)[i] - reach - self.centre) * self.scale
        upper = (jnp.asarray(bank.upper)[i] + reach - self.centre) * self.scale
        return Box(lower[::-1], upper[::-1])


def _after(second: Array, first: Array) -> Array:
    """The affine map ``second(first(·))``, both ``(3, 4)``."""
    return (second[:, :3] @ first) + jnp.pad(second[:, 3:], ((0, 0), (3, 0)))


def _sample(flat: Array, start: Array, size: Array, index: list[Array]) -> Distance:
    """The value at a fractional index (a, b, c) within the grid of ``size`` at position ``start`` of ``flat``."""
    cells = [jnp.minimum(jnp.floor(c), (n - 2).astype(jnp.float32)) for c, n in zip(index, size, strict=True)]
    a, b, c = (c - cell for c, cell in zip(index, cells, strict=True))
    i, j, k = (cell.astype(jnp.int32) for cell in cells)
    row, plane = size[2], size[1] * size[2]
    base = start + i * plane + j * row + k

    def line(offset: Array | int) -> Distance:
        low, high = (
            flat.at[base + (offset + n)].get(mode="promise_in_bounds").astype(jnp.float32) for n in (0, 1)
        )
        return low + c * (high - low)

    def face(offset: Array | int) -> Distance:
        low, high = line(offset), line(offset + row)
        return low + b * (high - low)

    low, high = face(0), face(plane)
    return low + a * (high - low)


def vocabulary_of(path: str | Path) -> Vocabulary:
    """The organs of a bank (``.npz``) as classes, with all displacements and mappers, and the atlas of where they lie.

    FdifError if the file is missing, damaged or no bank.
    """
    return _vocabulary(Bank.load(path))


def _vocabulary(bank: Bank) -> Vocabulary:
    library = Organs(bank)

    def shape(member: Any, scale: Any, centre: Any, waves: Waves) -> Shape:
        return Organ(member, scale, centre, waves, library)

    atlas = Atlas(bank, shape)
    draw = functools.partial(_draw, atlas)
    families = tuple(
        Family(name, draw, {"organ": Range(n, n), "size": SIZE}, "organ")
        for n, name in enumerate(bank.organs)
    )
    build = functools.partial(_build, atlas)
    describe = functools.partial(_describe, bank)
    return Vocabulary(families, DISPLACEMENTS, MAPPERS, build, describe, bank.digest, atlas)


def _draw(atlas: Atlas, key: jax.Array, ranges: Mapping[str, Range], grid: Grid) -> Shape:
    """Any subject's organ, as large as other shapes are, with waves of its own."""
    which, size, waves = jax.random.split(key, 3)
    members, counts = map(jnp.asarray, atlas.members)
    organ = jnp.asarray(ranges["organ"].low).astype(jnp.int32)
    member = members[organ, jax.random.randint(which, (), 0, counts[organ])]
    lower, upper = jnp.asarray(atlas.bank.lower)[member], jnp.asarray(atlas.bank.upper)[member]
    half = jnp.max(upper - lower) / 2
    scale = ranges["size"].draw(jax.random.uniform(size)) * min(grid) / half
    own = draw_waves(waves, 2 * half, WAVE * half)
    return atlas.shape(member.astype(jnp.float32), scale, (lower + upper) / 2, own)


def _describe(bank: Bank, name: str, shape: Any) -> dict[str, Any]:
    """Scene-document parameters: the subject of the bank, and the shape's numbers as they are."""
    subject = int(bank.subject[round(float(shape.member))])
    numbers = (shape.scale, shape.centre, *shape.waves)
    return {
        "subject": subject,
        **{k: np.asarray(v).tolist() for k, v in zip(PARAMS[1:], numbers, strict=True)},
    }


def _build(atlas: Atlas, name: str, params: Mapping[str, Any]) -> Shape:
    """The inverse of `_describe`; FdifError for a parameter that is missing, unknown or impossible."""
    reader = Reader(params, name)
    bank, subject = atlas.bank, reader.get("subject")
    found = np.flatnonzero((bank.organ == bank.organs.index(name)) & (bank.subject == subject))
    if not found.size:
        raise FdifError(f"{name}: the bank has no such organ of subject {subject!r}")
    scale = jnp.float32(reader.positive("scale"))
    shapes = zip(PARAMS[2:], ((3,), (3, 3), (3,), (3, 3)), strict=True)
    centre, *waves = (jnp.asarray(reader.numbers(key, shape), jnp.float32) for key, shape in shapes)
    reader.finish()
    return atlas.shape(jnp.float32(found[0]), scale, centre, Waves(*waves))


@functools.cache
def _shipped(name: str) -> Vocabulary:
    with importlib.resources.as_file(importlib.resources.files("fdif_jax.shapes") / f"{name}.npz") as path:
        return vocabulary_of(path)


def __getattr__(name: str) -> Any:
    if name in ("torso", "head"):
        return _shipped(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
