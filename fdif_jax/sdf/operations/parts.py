"""Objects of several labels: parts that share a pose and lie one over another."""

import functools
from typing import Any

import jax.numpy as jnp

from fdif_jax.errors import FdifError
from fdif_jax.sdf.shape import Box, Distance, Point, Profile, Scalar, Shape, as_shape, node, static


@node
class Parts(Shape):
    """`parts`: shapes that are labelled one by one; as a shape, what is inside any of them."""

    shapes: tuple[Shape, ...]
    names: tuple[str, ...] = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return functools.reduce(jnp.minimum, (shape(p) for shape in self.shapes))

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        boxes = [shape.bounds(margin) for shape in self.shapes]
        lower, upper = ([jnp.asarray(end) for end in ends] for ends in zip(*boxes, strict=True))
        return Box(functools.reduce(jnp.minimum, lower), functools.reduce(jnp.maximum, upper))

    @property
    def regions(self) -> tuple["Region", ...]:
        """What each part shows."""
        return tuple(Region(self, number) for number in range(len(self.shapes)))


@node
class Region(Shape):
    """What one of several parts shows: its inside without that of later ones. It has the numbers of all of them."""

    parts: Parts
    number: int = static()

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        return self.displaced(p, jnp.float32(0))

    def displaced(self, p: Point, field: Distance) -> Distance:
        """The distance where the surfaces of all parts are displaced by this field."""
        own, *later = (shape(p) + field for shape in self.parts.shapes[self.number :])
        return jnp.maximum(own, -functools.reduce(jnp.minimum, later)) if later else own

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        return self.parts.shapes[self.number].bounds(margin)


def parts(**shapes: Shape) -> Shape:
    """Make an object of several labels: ``fd.parts(cortex=outer, medulla=inner)``.

    Parts share the object's pose and displacement. Each is a class of its own, ``kidney.cortex`` of a family kidney,
    with a mapper of its own. Where several hold a voxel the last of them has it: a later part lies over an earlier one.

    Returns:
        A shape that is what is inside any part, true outside where its parts are. A family must return it as it is:
        what an operation makes of it has one label. Move the parts instead.

    Raises:
        FdifError: no part, one that is no shape, or one that has parts itself.
    """
    if not shapes:
        raise FdifError(
            "parts: there is no part; give shapes by name, as in fd.parts(cortex=outer, medulla=inner)"
        )
    for name, shape in shapes.items():
        as_shape("parts", name, shape)
        if isinstance(shape, Parts):
            raise FdifError(f"parts: {name} has parts itself; name them all in one fd.parts")
    return Parts(tuple(shapes.values()), tuple(shapes))


def hides_parts(shape: Any) -> bool:
    """Whether a shape, or what stands for its structure, is made of one that has parts and so has none itself."""
    return any(_holds(value) for value in (shape.shapes if isinstance(shape, Parts) else [shape]))


def _holds(value: Any) -> bool:
    """Whether a value is an object of parts, or has one inside."""
    if isinstance(value, Parts):
        return True
    inner = (
        value
        if isinstance(value, tuple | list)
        else vars(value).values()
        if isinstance(value, Shape | Profile)
        else ()
    )
    return any(map(_holds, inner))
