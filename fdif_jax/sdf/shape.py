"""What a shape is: a pure function from points to signed distance that is also a pytree of parameters.

Everything else in the package stands on three ideas.

- A `Point` is three broadcastable coordinate arrays. A voxel grid is an *open* mesh, one array an axis,
  so that a function of one axis is computed on n numbers and not on n³. A single point is three scalars.
  What else a shape can be called with is made a `Point` in one place (`fdif_jax.sdf.arguments`).
- A `Shape` is a frozen dataclass registered as a pytree and callable on a `Point`. Its leaves are its
  parameters, its structure is its program: `jit` caches by structure, `vmap` batches parameters, `grad` fits them.
- A `Box` says where a shape can be, so that a renderer may skip the rest of the grid.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from fdif_jax.errors import FdifError
from fdif_jax.sdf import arguments, seams
from fdif_jax.sdf.grid import Box, Coordinate, Distance, Point, Scalar
from fdif_jax.sdf.nodes import node as node
from fdif_jax.sdf.nodes import static as static
from fdif_jax.sdf.seams import Blend as Blend
from fdif_jax.sdf.seams import Smooth, combined, sag

F = TypeVar("F", bound=Callable)


def method(operation: F) -> F:
    """Decorator: an operation on a shape, its first argument, is a method of all shapes, too."""
    Shape._methods[operation.__name__] = operation
    return operation


def profile_method(operation: F) -> F:
    """The same for an operation on a profile."""
    Profile._methods[operation.__name__] = operation
    return operation


class _Sets:
    """The operators of set operations, both operands shapes or both profiles, and operations as methods."""

    _methods: ClassVar[dict[str, Callable]]

    # Found by name when an object has none of its own: a class may have fields called as an operation.
    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            return functools.partial(self._methods[name], self)
        raise AttributeError(f"a {type(self).__name__} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._methods})

    def __or__(self, other: Any) -> Any:
        return _joined("|", "union", (self, other), None)

    def __and__(self, other: Any) -> Any:
        return _joined("&", "intersection", (self, other), None)

    def __sub__(self, other: Any) -> Any:
        return _joined("-", "difference", (self, other), None)

    def __xor__(self, other: Any) -> Any:
        return _joined("^", "xor", (self, other), None)


class Profile(_Sets):
    """A 2D signed distance: call it with two broadcastable arrays ``u, v``; negative inside.

    Operators as a `Shape`'s, but for ``~``, and operations whose first argument is a profile as methods:
    ``profile.offset(2.0).extrude(8.0)``.
    """

    _methods: ClassVar[dict[str, Callable]] = {}

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:
        """Signed distance at ``(u, v)``, float32, of the broadcast shape."""
        raise NotImplementedError

    def radius(self) -> Scalar:
        """Radius of a circle about the origin that holds the whole profile; infinite if unknown."""
        return jnp.inf


class Shape(_Sets):
    """A 3D signed distance: negative inside, zero on the surface, in voxels.

    Call it with a `Point`, an array ``(..., 3)``, three arrays x, y, z, or a `Grid`; a class of shapes defines
    ``__call__`` for a `Point`, and the rest is done for it. Operators: ``a | b`` union, ``a & b`` intersection,
    ``a - b`` difference, ``a ^ b`` what is in one of both alone, ``~a`` all but the shape. Operations whose first
    argument is a shape are methods, too: ``shape.translate((2, 0, 0)).rotate(0.5)``.
    """

    _methods: ClassVar[dict[str, Callable]] = {}

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

    def __invert__(self) -> "Shape":
        return complement(self)


@node
class Union(Shape):
    """`union` of two shapes."""

    first: Shape
    second: Shape
    smooth: Smooth = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return combined("union", self.first(p), self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        margin = margin + sag(self.smooth)
        a, b = self.first.bounds(margin), self.second.bounds(margin)
        return Box(jnp.minimum(a.lower, b.lower), jnp.maximum(a.upper, b.upper))


@node
class Many(Shape):
    """`union` of three shapes or more: those of one structure in a loop over their parameters."""

    singles: tuple[Shape, ...]
    stacks: tuple[Shape, ...]  # of a structure each; every number of a part has the parts for a first axis
    smooth: Smooth = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return seams.joined(self.singles, self.stacks, (p,), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        margin = margin + sag(self.smooth, len(self.singles) + sum(map(seams.depth, self.stacks)))
        boxes = [part.bounds(margin) for part in self.singles]
        boxes += [jax.vmap(lambda part: part.bounds(margin))(stack) for stack in self.stacks]
        ends = [
            jnp.concatenate([jnp.reshape(end, (-1, 3)) for end in side]) for side in zip(*boxes, strict=True)
        ]
        return Box(jnp.min(ends[0], axis=0), jnp.max(ends[1], axis=0))


@node
class Intersection(Shape):
    """`intersection` of two shapes."""

    first: Shape
    second: Shape
    smooth: Smooth = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return combined("intersection", self.first(p), self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        a, b = self.first.bounds(margin), self.second.bounds(margin)
        return Box(jnp.maximum(a.lower, b.lower), jnp.minimum(a.upper, b.upper))


@node
class Difference(Shape):
    """`difference` of two shapes."""

    first: Shape
    second: Shape
    smooth: Smooth = None

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return combined("difference", self.first(p), self.second(p), self.smooth)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.first.bounds(margin)


@node
class Exclusive(Shape):
    """`xor` of two shapes."""

    first: Shape
    second: Shape

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return combined("xor", self.first(p), self.second(p), None)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return Union(self.first, self.second).bounds(margin)


@node
class Complement(Shape):
    """`complement`: all but a shape."""

    shape: Shape

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return -self.shape(p)


@node
class Joined(Profile):
    """A set operation of two profiles, by its name."""

    first: Profile
    second: Profile
    smooth: Smooth
    kind: str = static()

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return combined(self.kind, self.first(u, v), self.second(u, v), self.smooth)

    def radius(self) -> Scalar:  # noqa: D102
        first, second = self.first.radius(), self.second.radius()
        if self.kind == "difference":
            return first
        if self.kind == "intersection":
            return jnp.minimum(first, second)
        return jnp.maximum(first, second) + sag(self.smooth)


@node
class ManyFlat(Profile):
    """`union` of three profiles or more, as `Many` is of shapes."""

    singles: tuple[Profile, ...]
    stacks: tuple[Profile, ...]
    smooth: Smooth = None

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        return seams.joined(self.singles, self.stacks, (u, v), self.smooth)

    def radius(self) -> Scalar:  # noqa: D102
        radii = [part.radius() for part in self.singles]
        radii += [jnp.max(jax.vmap(lambda part: part.radius())(stack)) for stack in self.stacks]
        return functools.reduce(jnp.maximum, radii) + sag(self.smooth, seams.NEAREST)


@profile_method
@method
def union(*shapes: Any, smooth: Smooth = None) -> Any:
    """What is inside any of the shapes, or of the profiles.

    Args:
        *shapes: shapes, or profiles, one by one or in a list.
        smooth: width in voxels of a polynomial blend between neighbours, or a `Blend`; None or 0 for a sharp seam.

    Returns:
        A shape, or a profile, the same whatever the order of its parts. Sharp: a true distance outside, a bound
        inside. Smooth: a bound (the formula is in `fdif_jax.sdf.seams`). Four parts or more of one structure are a loop
        in its program, which compiles as fast for hundreds as for four.

    Raises:
        FdifError: no shape, something that is none, or a negative width.
    """
    return _joined("union", "union", shapes, smooth)


@profile_method
@method
def intersection(*shapes: Any, smooth: Smooth = None) -> Any:
    """What is inside all of the shapes; arguments as for `union`. A bound outside, true inside."""
    return _joined("intersection", "intersection", shapes, smooth)


@profile_method
@method
def difference(*shapes: Any, smooth: Smooth = None) -> Any:
    """What is inside the first shape and outside the `union` of all others; arguments as for it. A bound."""
    return _joined("difference", "difference", shapes, smooth)


@profile_method
@method
def xor(*shapes: Any) -> Any:
    """What is inside one of two shapes, or of an odd number of several. A bound."""
    return _joined("xor", "xor", shapes, None)


@method
def complement(shape: Shape) -> Shape:
    """All but the shape: the distance with the other sign, without bounds. Keeps a true distance."""
    return Complement(as_shape("complement", "shape", shape))


_NODES: dict[str, Callable[[Any, Any, Any], Shape]] = {
    "union": Union,
    "intersection": Intersection,
    "difference": Difference,
    "xor": lambda first, second, smooth: Exclusive(first, second),
}


def _joined(of: str, kind: str, shapes: tuple, smooth: Smooth) -> Any:
    """The shapes, or the profiles, put together two by two, from the first on; ``of`` is what errors call it."""
    given = arguments.flat(shapes)
    if not given:
        raise FdifError(f"{of}: there is no shape; give some, one by one or in a list")
    flat = isinstance(given[0], Profile)
    parts = [(as_profile if flat else as_shape)(of, f"shape {i}", part) for i, part in enumerate(given, 1)]
    if smooth is not None and not isinstance(smooth, Blend):
        smooth = arguments.number(of, "smooth", smooth, least=0)
        smooth = None if not isinstance(smooth, jax.core.Tracer) and smooth == 0 else smooth

    def pair(first: Any, second: Any) -> Any:
        return Joined(first, second, smooth, kind) if flat else _NODES[kind](first, second, smooth)

    if kind == "union" and len(parts) > 2:
        return (ManyFlat if flat else Many)(*seams.grouped(parts), smooth)
    if kind == "difference" and len(parts) > 2:
        return pair(parts[0], _joined(of, "union", tuple(parts[1:]), smooth))
    return functools.reduce(pair, parts)


def as_shape(of: str, name: str, value: Any) -> Shape:
    """The shape that an operation was given; FdifError if it is none."""
    return arguments.instance(of, name, value, Shape, "shapes.sphere(5.0)")


def as_profile(of: str, name: str, value: Any) -> Profile:
    """The profile that an operation was given; FdifError if it is none."""
    return arguments.instance(of, name, value, Profile, "shapes.circle(5.0)")


def length(*components: Coordinate) -> Distance:
    """Euclidean length of a vector; its gradient at the zero vector is zero instead of NaN."""
    squares = [jnp.square(jnp.asarray(c, jnp.float32)) for c in components]
    return root(functools.reduce(operator.add, squares))


def root(squared: Distance) -> Distance:
    """Square root whose gradient at zero is zero; below 1e-9 the root is 1e-9."""
    return jnp.sqrt(jnp.maximum(squared, 1e-18))


def box_distance(beyond: Sequence[Distance]) -> Distance:
    """The distance to a box from how far a point is beyond it along each axis, negative within."""
    deepest = functools.reduce(jnp.maximum, beyond)
    return jnp.where(deepest > 0, length(*(jnp.maximum(c, 0.0) for c in beyond)), deepest)


def signed(inside: Bool[Array, "..."], distance: Distance) -> Distance:
    """``-distance`` where ``inside``, ``distance`` elsewhere."""
    return jnp.where(inside, -distance, distance)
