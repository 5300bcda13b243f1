"""What a shape is: a pure function from points to signed distance that is also a pytree of parameters.

Everything else in the package stands on three ideas defined here.

- A `Point` is three broadcastable coordinate arrays. A voxel grid is an *open* mesh, one array an axis,
  so that a function of one axis is computed on n numbers and not on n³. A single point is three scalars.
- A `Shape` is a frozen dataclass registered as a pytree and callable on a `Point`. Its leaves are its
  parameters, its structure is its program: `jit` caches by structure, `vmap` batches parameters, `grad` fits them.
- A `Box` says where a shape can be, so that a renderer may skip the rest of the grid.
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

Coordinate = Num[Array | np.ndarray, "..."] | float | int
Distance = Float[Array | np.ndarray, "..."]
Scalar = Float[Array, ""] | float

T = TypeVar("T")


class Point(NamedTuple):
    """Coordinates in voxels; three arrays that broadcast against each other."""

    x: Coordinate
    y: Coordinate
    z: Coordinate


class Box(NamedTuple):
    """An axis-aligned box; ``lower`` and ``upper`` are float32 ``(3,)`` in x, y, z order, in voxels."""

    lower: Float[Array | np.ndarray, "3"]
    upper: Float[Array | np.ndarray, "3"]

    @classmethod
    def around(cls, x: Coordinate, y: Coordinate, z: Coordinate) -> "Box":
        """The box of these half extents, centred on the origin."""
        half = jnp.stack([jnp.asarray(v, jnp.float32) for v in (x, y, z)])
        return cls(-half, half)

    @classmethod
    def everywhere(cls) -> "Box":
        """The box that rules nothing out."""
        return cls.around(jnp.inf, jnp.inf, jnp.inf)

    def mapped(self, matrix: Float[Array, "3 4"]) -> "Box":
        """The tightest box around this box moved by the affine ``matrix``; unbounded stays unbounded."""
        centre, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        bounded = jnp.all(jnp.isfinite(half))
        centre, half = jnp.where(bounded, centre, 0.0), jnp.where(bounded, half, 1.0)
        moved = matrix[:, :3] @ centre + matrix[:, 3]
        reach = jnp.where(bounded, jnp.abs(matrix[:, :3]) @ half, jnp.inf)
        return Box(moved - reach, moved + reach)


def static(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is part of a shape's structure, not one of its parameters."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def node(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose fields are pytree children, except those marked `static`."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    children = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    fixed = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in children]

    # JAX's own registration of dataclasses takes two classes with as many fields for equal structures; the class
    # must be part of what is compared, or a renderer mixes up their branches.
    def flatten(shape: Any) -> tuple[list, tuple]:
        return [getattr(shape, name) for name in children], (made, *(getattr(shape, name) for name in fixed))

    def flatten_with_keys(shape: Any) -> tuple[list, tuple]:
        values, structure = flatten(shape)
        return list(zip(keys, values, strict=True)), structure

    def unflatten(structure: tuple, values: Any) -> Any:
        named = dict(zip(children, values, strict=True)) | dict(zip(fixed, structure[1:], strict=True))
        return made(**named)

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


class Profile:
    """A 2D signed distance: call it with two broadcastable arrays ``u, v``; negative inside."""

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:
        """Signed distance at ``(u, v)``, float32, of the broadcast shape."""
        raise NotImplementedError

    def radius(self) -> Scalar:
        """Radius of a circle about the origin that holds the whole profile; infinite if unknown."""
        return jnp.inf


class Shape:
    """A 3D signed distance: call it with a `Point`; negative inside, zero on the surface, in voxels.

    Operators: ``a | b`` union, ``a & b`` intersection, ``a - b`` difference.
    """

    def __call__(self, p: Point) -> Distance:
        """Signed distance at ``p``, float32, of the broadcast shape of the coordinates."""
        raise NotImplementedError

    def bounds(self, margin: Scalar = 0.0) -> Box:
        """A box outside which the distance is certainly greater than ``margin`` (≥ 0).

        The default rules nothing out; a shape that knows better renders faster.
        """
        return Box.everywhere()

    def frame(self) -> Box:
        """The box that a packed placement keeps within the grid; the shape's own, unless it says otherwise."""
        return self.bounds()

    def __or__(self, other: "Shape") -> "Shape":
        return union(self, other)

    def __and__(self, other: "Shape") -> "Shape":
        return intersection(self, other)

    def __sub__(self, other: "Shape") -> "Shape":
        return difference(self, other)


@node
class Union(Shape):
    """`union` of two shapes."""

    first: Shape
    second: Shape
    smooth: Scalar | None = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return smooth_minimum(self.first(p), self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        # The smooth minimum lies at most smooth / 4 below the sharp one.
        margin = margin if self.smooth is None else margin + self.smooth / 4
        a, b = self.first.bounds(margin), self.second.bounds(margin)
        return Box(jnp.minimum(a.lower, b.lower), jnp.maximum(a.upper, b.upper))


@node
class Intersection(Shape):
    """`intersection` of two shapes."""

    first: Shape
    second: Shape
    smooth: Scalar | None = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return -smooth_minimum(-self.first(p), -self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        a, b = self.first.bounds(margin), self.second.bounds(margin)
        return Box(jnp.maximum(a.lower, b.lower), jnp.minimum(a.upper, b.upper))


@node
class Difference(Shape):
    """`difference` of two shapes."""

    first: Shape
    second: Shape
    smooth: Scalar | None = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return -smooth_minimum(-self.first(p), self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.first.bounds(margin)


def union(first: Shape, *others: Shape, smooth: Scalar | None = None) -> Shape:
    """What is inside any of the shapes.

    Args:
        first: a shape.
        *others: more shapes.
        smooth: width in voxels (> 0) of a polynomial blend between neighbours; None for a sharp seam.

    Returns:
        A shape. Sharp: a true distance outside, a bound inside. Smooth: a bound.
    """
    for other in others:
        first = Union(first, other, smooth)
    return first


def intersection(first: Shape, *others: Shape, smooth: Scalar | None = None) -> Shape:
    """What is inside all of the shapes; arguments as for `union`. A bound outside, true inside."""
    for other in others:
        first = Intersection(first, other, smooth)
    return first


def difference(first: Shape, *others: Shape, smooth: Scalar | None = None) -> Shape:
    """What is inside ``first`` and outside all others; arguments as for `union`. A bound."""
    for other in others:
        first = Difference(first, other, smooth)
    return first


def smooth_minimum(a: Distance, b: Distance, smooth: Scalar | None) -> Distance:
    """``min(a, b) - max(k - |a - b|, 0)² / 4k`` with k = ``smooth``; the plain minimum for None."""
    sharp = jnp.minimum(a, b)
    if smooth is None:
        return sharp
    return sharp - jnp.square(jnp.maximum(smooth - jnp.abs(a - b), 0.0)) / (4 * smooth)


def length(*components: Coordinate) -> Distance:
    """Euclidean length of a vector; its gradient at the zero vector is zero instead of NaN."""
    squares = [jnp.square(jnp.asarray(c, jnp.float32)) for c in components]
    return root(functools.reduce(operator.add, squares))


def root(squared: Distance) -> Distance:
    """Square root whose gradient at zero is zero; below 1e-9 the root is 1e-9."""
    return jnp.sqrt(jnp.maximum(squared, 1e-18))


def signed(inside: Bool[Array, "..."], distance: Distance) -> Distance:
    """``-distance`` where ``inside``, ``distance`` elsewhere."""
    return jnp.where(inside, -distance, distance)
