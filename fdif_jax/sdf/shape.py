"""What a shape is: a pure function from points to signed distance that is also a pytree of parameters.

Everything else in the package stands on three ideas.

- A `Point` is three broadcastable coordinate arrays. A voxel grid is an *open* mesh, one array an axis,
  so that a function of one axis is computed on n numbers and not on n³. A single point is three scalars.
  What else a shape can be called with is made a `Point` in one place (`fdif_jax.sdf.arguments`).
- A `Shape` is a frozen dataclass registered as a pytree and callable on a `Point`. Its leaves are its
  parameters, its structure is its program: `jit` caches by structure, `vmap` batches parameters, `grad` fits them.
- A `Box` says where a shape can be, so that a renderer may skip the rest of the grid.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from fdif_jax.errors import FdifError
from fdif_jax.sdf import arguments
from fdif_jax.sdf.grid import Box, Coordinate, Distance, Point, Scalar

T = TypeVar("T")


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
    """A 3D signed distance: negative inside, zero on the surface, in voxels.

    Call it with a `Point`, an array ``(..., 3)``, three arrays x, y, z, or a `Grid`; a class of shapes defines
    ``__call__`` for a `Point`, and the rest is done for it. Operators: ``a | b`` union, ``a & b`` intersection,
    ``a - b`` difference.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "__call__" in vars(cls):
            cls.__call__ = arguments.at_points(vars(cls)["__call__"])  # type: ignore[method-assign]

    def __call__(self, p: Any) -> Distance:
        """Signed distance at the points ``p``, float32, of the broadcast shape of their coordinates.

        Raises:
            FdifError: ``p`` is nothing that stands for points.
        """
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
        return _joined("|", Union, (self, other), None)

    def __and__(self, other: "Shape") -> "Shape":
        return _joined("&", Intersection, (self, other), None)

    def __sub__(self, other: "Shape") -> "Shape":
        return _joined("-", Difference, (self, other), None)


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


def union(*shapes: Any, smooth: Scalar | None = None) -> Shape:
    """What is inside any of the shapes.

    Args:
        *shapes: shapes, one by one or in a list.
        smooth: width in voxels of a polynomial blend between neighbours; None or 0 for a sharp seam.

    Returns:
        A shape. Sharp: a true distance outside, a bound inside. Smooth: a bound.

    Raises:
        FdifError: no shape, something that is none, or a negative width.
    """
    return _joined("union", Union, shapes, smooth)


def intersection(*shapes: Any, smooth: Scalar | None = None) -> Shape:
    """What is inside all of the shapes; arguments as for `union`. A bound outside, true inside."""
    return _joined("intersection", Intersection, shapes, smooth)


def difference(*shapes: Any, smooth: Scalar | None = None) -> Shape:
    """What is inside the first shape and outside all others; arguments as for `union`. A bound."""
    return _joined("difference", Difference, shapes, smooth)


def _joined(
    of: str, operation: Callable[[Shape, Shape, Any], Shape], shapes: tuple, smooth: Scalar | None
) -> Shape:
    """The shapes put together two by two, from the first on."""
    parts = [as_shape(of, f"shape {i}", part) for i, part in enumerate(arguments.flat(shapes), 1)]
    if not parts:
        raise FdifError(f"{of}: there is no shape; give some, one by one or in a list")
    if smooth is not None:
        smooth = arguments.number(of, "smooth", smooth, least=0)
        smooth = None if not isinstance(smooth, jax.core.Tracer) and smooth == 0 else smooth
    return functools.reduce(lambda first, second: operation(first, second, smooth), parts)


def as_shape(of: str, name: str, value: Any) -> Shape:
    """The shape that an operation was given; FdifError if it is none."""
    return arguments.instance(of, name, value, Shape, "shapes.sphere(5.0)")


def as_profile(of: str, name: str, value: Any) -> Profile:
    """The profile that an operation was given; FdifError if it is none."""
    return arguments.instance(of, name, value, Profile, "shapes.circle(5.0)")


def smooth_minimum(a: Distance, b: Distance, smooth: Scalar | None) -> Distance:
    """``min(a, b) - max(k - |a - b|, 0)² / 4k`` with k = ``smooth``; the plain minimum for None, and for k = 0."""
    sharp = jnp.minimum(a, b)
    if smooth is None:
        return sharp
    return sharp - jnp.square(jnp.maximum(smooth - jnp.abs(a - b), 0.0)) / jnp.maximum(4 * smooth, 1e-18)


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
