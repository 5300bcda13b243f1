"""How distances become that of one shape: at seams between two, and from many parts in a loop.

A union of many is told by the few least distances at a point, `NEAREST` of them at most, whatever order they come in.
With these, d₁ ≤ d₂ ≤ …, and a width k, its distance is the least of Σ wᵢ dᵢ - k/2 (1 - Σ wᵢ²) over all weights wᵢ ≥ 0
that sum to 1. The weights are wᵢ = max(τ - dᵢ, 0) / k, τ such that they do. Of two distances that is the polynomial
seam min(a, b) - max(k - |a - b|, 0)² / 4k, of n equal ones k/2 (1 - 1/n) less than each, and for k → 0 their minimum.
Its gradient is the mean of the parts' gradients by these weights, so that it stays a bound where the parts are.

Sources: Inigo Quilez, "Smooth minimum" (of two); André F. T. Martins and Ramón F. Astudillo, "From softmax to
sparsemax", ICML 2016 (the weights); Vlad Niculae and Mathieu Blondel, "A regularized framework for sparse and
structured neural attention", NIPS 2017 (the smoothed maximum that has them for a gradient).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fdif_jax.sdf.grid import Distance, Scalar

NEAREST = 4  # parts that a seam is made of at a point; more than meet anywhere but in the densest of shapes
LOOPED = 4  # parts of one structure that are worth a loop
_UNROLLED, _PASS = 4, 64  # of them in a pass of it, where the seam is sharp and where it is not
_POINTS = 2**16  # of a loop that keeps the distances of all parts of a pass
_SHORT = 4000  # operations of all parts together that are not worth one where there are more points


class Blend:
    """How a seam is made other than sharp or smooth: called with two distances it gives that of their union.

    The union may be as far as ``size`` / 2 below the sharp one. Intersections and differences follow by negation. Of
    several parts the two that are nearest make the seam.
    """

    size: Scalar

    def __call__(self, a: Distance, b: Distance) -> Distance:
        """The distance of the union from those of its parts."""
        raise NotImplementedError


Smooth = Scalar | Blend | None


def sag(smooth: Smooth, parts: int = 2) -> Scalar:
    """How far the distance of a union of so many parts may be below the least of theirs."""
    if smooth is None:
        return 0.0
    return smooth.size / 2 if isinstance(smooth, Blend) else smooth / 2 * (1 - 1 / min(parts, NEAREST))


def combined(kind: str, a: Distance, b: Distance, smooth: Smooth) -> Distance:
    """The distance of a set operation, ``"union"``, ``"intersection"``, ``"difference"`` or ``"xor"``, of two."""
    if kind == "union":
        return smooth_minimum(a, b, smooth)
    if kind == "xor":
        return jnp.maximum(jnp.minimum(a, b), -jnp.maximum(a, b))
    return -smooth_minimum(-a, -b if kind == "intersection" else b, smooth)


def smooth_minimum(a: Distance, b: Distance, smooth: Smooth) -> Distance:
    """``min(a, b) - max(k - |a - b|, 0)² / 4k`` with k = ``smooth``; the plain minimum for None and k = 0.

    A `Blend` has a formula of its own.
    """
    if isinstance(smooth, Blend):
        return smooth(a, b)
    sharp = jnp.minimum(a, b)
    if smooth is None:
        return sharp
    return sharp - jnp.square(jnp.maximum(smooth - jnp.abs(a - b), 0.0)) / jnp.maximum(4 * smooth, 1e-18)


def grouped(parts: Sequence[Any]) -> tuple[tuple, tuple]:
    """Parts that are alone in their structure or have few like them, and stacks of the others, a structure each."""
    groups: dict[Any, list[Any]] = {}
    for part in parts:
        groups.setdefault(_kind(part), []).append(part)
    singles = [part for group in groups.values() if len(group) < LOOPED for part in group]
    loops = [group for group in groups.values() if len(group) >= LOOPED]
    stacks = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *group) for group in loops]
    return tuple(singles), tuple(stacks)


def _kind(part: Any) -> Any:
    """What two parts have in common that can be one stack; of a part without numbers, nothing."""
    leaves, structure = jax.tree.flatten(part)
    if not leaves or not all(
        isinstance(leaf, float | int | jax.Array | np.ndarray | np.generic) for leaf in leaves
    ):
        return id(part)
    return structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)


def depth(stack: Any) -> int:
    """How many parts a stack holds."""
    return jax.tree.leaves(stack)[0].shape[0]


def joined(singles: tuple, stacks: tuple, at: tuple, smooth: Smooth) -> Distance:
    """The distance of the union of all parts.

    Args:
        singles: parts, called with ``*at``.
        stacks: parts of one structure each, their numbers stacked along a first axis.
        at: a `Point`, or the two coordinates of a profile.
        smooth: as for `union`.

    Returns:
        float32, of the points' shape.
    """
    # A kernel's numbers are no arrays, and without a loop there is nothing to compile but once.
    return (_looped if stacks else _joined)(singles, stacks, at, smooth)


def _joined(singles: tuple, stacks: tuple, at: tuple, smooth: Smooth) -> Distance:
    size = _size(at)
    if smooth is None or not stacks or math.prod(size) <= _POINTS:
        return _at(singles, stacks, at, smooth, size)
    # Parts that are short programs are one for all points, unless it is differentiated.
    operations = sum(depth(stack) * _operations(stack, at) for stack in stacks)
    return (_unrolled if operations <= _SHORT else _in_planes)(singles, stacks, at, smooth)


def _size(at: tuple) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves(at)))


def _operations(stack: Any, at: tuple) -> int:
    """How many operations the program of one part of a stack has."""
    traced = jax.make_jaxpr(lambda stack, at: _numbered(0, stack, at, _size(at)))(stack, at)
    return len(str(traced).splitlines())


@jax.custom_jvp
def _unrolled(singles: tuple, stacks: tuple, at: tuple, smooth: Smooth) -> Distance:
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for stack in stacks for i in range(depth(stack))]
    return _at((*singles, *parts), (), at, smooth, _size(at))


@_unrolled.defjvp
def _unrolled_jvp(primals: tuple, tangents: tuple) -> tuple[Distance, Distance]:
    return jax.jvp(_in_planes, primals, tangents)


def _in_planes(singles: tuple, stacks: tuple, at: tuple, smooth: Smooth) -> Distance:
    """Some planes at a time, as the distances of more are beyond a cache. What does not vary among them stays small."""
    size = _size(at)
    given, structure = jax.tree.flatten(at)
    given = [jnp.reshape(c, (1,) * (len(size) - jnp.ndim(c)) + jnp.shape(c)) for c in given]

    def plane(varying: list) -> Distance:
        left = iter(varying)
        here = [next(left) if len(c) > 1 else c[0] for c in given]
        return _at(singles, stacks, jax.tree.unflatten(structure, here), smooth, size[1:])

    planes = max(1, _POINTS // math.prod(size[1:]))
    return lax.map(plane, [c for c in given if len(c) > 1], batch_size=planes)


_looped = jax.jit(_joined, inline=True)  # a loop outside of a program would be compiled at every call


def _at(singles: tuple, stacks: tuple, at: tuple, smooth: Smooth, size: tuple[int, ...]) -> Distance:
    kept = 1 if smooth is None else 2 if isinstance(smooth, Blend) else NEAREST
    least = (jnp.full(size, jnp.inf, jnp.float32),) * kept
    least = functools.reduce(_with, (_distance(part, at, size) for part in singles), least)
    for stack in stacks:
        least = _with_stack(least, stack, at, size) if kept == 1 else _with_many(size, least, stack, at)
    if isinstance(smooth, Blend):
        return smooth(*least)
    return least[0] if smooth is None else _smoothed(least, smooth)


def _distance(part: Any, at: tuple, size: tuple[int, ...]) -> Distance:
    return jnp.broadcast_to(jnp.asarray(part(*at), jnp.float32), size)


def _with_stack(least: tuple, stack: Any, at: tuple, size: tuple[int, ...]) -> tuple:
    """The least distance when those of all parts of a stack are among them."""

    def one(least: tuple, part: Any) -> tuple[tuple, None]:
        return _with(least, jax.checkpoint(lambda part, at: _distance(part, at, size))(part, at)), None

    return lax.scan(one, least, stack, unroll=_UNROLLED)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_many(size: tuple[int, ...], least: tuple, stack: Any, at: tuple) -> tuple:
    """The least distances, in order, when those of all parts of a stack are among them."""
    passes, each = _passes(stack)

    # Many in an inner loop, whose result is in memory: each of the least would compute the distance again.
    def some(least: tuple, numbers: Any) -> tuple[tuple, None]:
        return functools.reduce(_with, lax.map(lambda i: _numbered(i, stack, at, size), numbers), least), None

    return lax.scan(some, least, jnp.arange(passes * each).reshape(passes, each))[0]


@_with_many.defjvp
def _with_many_jvp(size: tuple[int, ...], primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Tangents by which distances are chosen: through the choice itself, compilers would copy each part many times."""
    (least, stack, at), (least_dot, stack_dot, at_dot) = primals, tangents
    passes, each = _passes(stack)

    def some(carry: tuple, numbers: Any) -> tuple[tuple, None]:
        least, least_dot = carry

        def one(i: Any) -> tuple[Distance, Distance]:
            distance = jax.checkpoint(lambda stack, at: _numbered(i, stack, at, size))
            return jax.jvp(distance, (stack, at), (stack_dot, at_dot))

        d, d_dot = lax.map(one, numbers)
        every, every_dot = [*least, *d], jnp.concatenate([jnp.stack(least_dot), d_dot])
        nearest = functools.reduce(_with_number, enumerate(every), ((jnp.inf, 0),) * len(least))
        rows = jnp.arange(len(every)).reshape(-1, *[1] * len(size))
        picked = [jnp.sum(jnp.where(rows == row, every_dot, 0.0), axis=0) for _, row in nearest]
        return (tuple(d for d, _ in nearest), tuple(picked)), None

    return lax.scan(some, (least, tuple(least_dot)), jnp.arange(passes * each).reshape(passes, each))[0]


def _passes(stack: Any) -> tuple[int, int]:
    """How many passes a stack takes, and how many of its parts each."""
    passes = -(-depth(stack) // _PASS)
    return passes, -(-depth(stack) // passes)


def _numbered(i: Any, stack: Any, at: tuple, size: tuple[int, ...]) -> Distance:
    """The distance of a stack's ``i``-th part; infinite beyond the last."""
    d = _distance(jax.tree.map(lambda leaf: leaf[i], stack), at, size)
    passes, each = _passes(stack)
    return d if depth(stack) == passes * each else jnp.where(i < depth(stack), d, jnp.inf)


def _with(least: tuple, d: Distance) -> tuple:
    """The least distances, in order, when ``d`` is among them; NaN stays."""
    if len(least) == 1:
        return (jnp.minimum(least[0], d),)
    return tuple(d for d, _ in _with_number(tuple((own, ()) for own in least), ((), d)))


def _with_number(least: tuple, entry: tuple) -> tuple:
    """The same with a number beside each distance; ``entry`` is the number and the distance to come."""
    number, d = entry

    def either(condition: Any, first: tuple, second: tuple) -> tuple:
        return jax.tree.map(functools.partial(jnp.where, condition), first, second)

    new = (d, number)
    moved = [
        either(d < before[0], before, either(d < own[0], new, own))
        for before, own in itertools.pairwise(least)
    ]
    return (either((d < least[0][0]) | (d != d), new, least[0]), *moved)


def _smoothed(least: tuple, smooth: Scalar) -> Distance:
    """The smooth minimum of this module's head, of distances in order, measured from the first of them."""
    beyond = [d - least[0] for d in least]
    sums = itertools.accumulate(beyond)
    level = functools.reduce(jnp.minimum, [(total + smooth) / i for i, total in enumerate(sums, 1)])
    weights = sum(jnp.square(jnp.maximum(level - d, 0.0)) for d in beyond)
    return least[0] + level - smooth / 2 - weights / jnp.maximum(2 * smooth, 1e-18)
