"""The 32 classes of AVS-DB: ellipses and polygons stacked along z, scaled by one of four height rules.

Source: AVS-DB / PrimGeoSeg (CVPRW 2023, BMVC 2023, arXiv 2401.03665). An object is an array of z-sections: one
2D section, scaled about its centre by a ratio that runs piecewise linearly over the height. The object is what is
inside its section or under the line drawn along the border; the image shows the line (mapper ``contour``).

Lengths are drawn as whole voxels of a 96-voxel grid and then multiplied by ``min(edges) / 96``; height and box,
which count voxels, are rounded again. On a 96-voxel grid this is the published distribution.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Box, Coordinate, Distance, Point, Profile, Scalar, Shape, node
from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.shapes.families import POLYGONS
from fdif_jax.shapes.mappers import MAPPERS
from fdif_jax.shapes.profiles import Polygon
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.vocabulary import Family, Range, Vocabulary

PUBLISHED_EDGE = 96
MOST_VERTICES = 9
# How far the line along the border reaches beyond the section, voxels. It covers the outermost voxels of the filled
# section and their neighbours on either side: three voxels in all, which is the width of the mapper ``contour``.
BEYOND = 1.0


@node
class Ellipse(Profile):
    """An ellipse about the origin: semi-axes in voxels, the first turned by ``degrees`` from +u towards +v.

    The distance is of first order, f / |grad f| of f = |(u/a, v/b)| - 1: true on the semi-axes, never more than
    the true distance outside, never less deep inside.
    """

    # Around an ellipse of any size the first-order distance is at least the true one over this.
    stretch: ClassVar[float] = 1.55

    first: Scalar
    second: Scalar
    degrees: Scalar

    def __call__(self, u: Coordinate, v: Coordinate) -> Distance:  # noqa: D102
        cos, sin = self._direction()
        a, b = (cos * u + sin * v) / self.first, (cos * v - sin * u) / self.second
        size = jnp.sqrt(a * a + b * b)
        slope = jnp.sqrt(jnp.square(a / self.first) + jnp.square(b / self.second))
        middle = -jnp.minimum(self.first, self.second)
        return jnp.where(slope > 0, size * (size - 1) / jnp.maximum(slope, 1e-12), middle)

    def _direction(self) -> tuple[Scalar, Scalar]:
        angle = jnp.deg2rad(jnp.asarray(self.degrees, jnp.float32))
        return jnp.cos(angle), jnp.sin(angle)

    def radius(self) -> Scalar:  # noqa: D102
        return jnp.maximum(self.first, self.second)

    def extent(self) -> Float[Array, "2 2"]:
        """Least and greatest (u, v)."""
        cos, sin = self._direction()
        half = jnp.sqrt(
            jnp.square(self.first * jnp.stack([cos, sin])) + jnp.square(self.second * jnp.stack([sin, cos]))
        )
        return jnp.stack([-half, half])


@node
class PaddedPolygon(Polygon):
    """A `Polygon` of at most nine vertices, the last one repeated to make nine."""

    stretch: ClassVar[float] = 1.0

    def extent(self) -> Float[Array, "2 2"]:
        """Least and greatest (u, v)."""
        return jnp.stack([jnp.min(self.vertices, axis=0), jnp.max(self.vertices, axis=0)])


@node
class Ratio:
    """The scale of a section along the height: linear from ``bottom`` at z = 0 to ``middle`` at z = ``turn``, and on
    to ``top`` at z = ``height``, voxels."""

    bottom: Scalar
    middle: Scalar
    top: Scalar
    turn: Scalar

    def __call__(self, z: Coordinate, height: Scalar) -> Distance:
        """The scale at ``z``, 0 … 1."""
        rising = self.bottom + (self.middle - self.bottom) * (z / self.turn)
        beyond = (z - self.turn) / jnp.maximum(height - self.turn, 1e-3)
        return jnp.clip(
            jnp.where(z <= self.turn, rising, self.middle + (self.top - self.middle) * beyond), 0.0, 1.0
        )


@node
class Stack(Shape):
    """``height`` z-sections, at local z = 0 … height - 1, of a profile scaled by a ratio.

    Within the height the distance is that to the section in its own plane less `BEYOND`; above and below it is
    positive. So a mapper of distance draws a line equally thick in every section and no lids. ``box`` is the edge
    in voxels of the square that the section was drawn for.

    The publication fills a section, draws a line of thickness 2 along its border, and places the array that holds
    the object. What voxels a raster library makes of that and how large the array is, the specification leaves
    open; the statistics of 60 published volumes decide (labelled .257, non-zero .133 of the voxels, 14.0 labels a
    volume). The reading here gives .256, .131 and 13.8 over 300 volumes, and their spreads: a line of the border
    voxels and their neighbours on either side, an object of all that is filled or drawn, and a cubic array as long
    as the larger of box and height, which any of the six turns leaves as it is. Of the readings tried, a line of
    two voxels gives at most .10 non-zero voxels, and an array no larger than the object leaves out no object and
    gives 15 labels.
    """

    profile: Ellipse | PaddedPolygon
    ratio: Ratio
    height: Scalar
    box: Scalar

    def __call__(self, p: Point) -> Distance:  # noqa: D102
        z = p.z
        # Far below a voxel nothing is left but the line's end, and the quotients stay finite.
        scale = jnp.maximum(self.ratio(z, self.height), 1e-3)
        d = scale * self.profile(p.x / scale, p.y / scale) - BEYOND
        beyond = jnp.abs(z - (self.height - 1) / 2) - self.height / 2
        return jnp.where(beyond > 0, jnp.maximum(d, beyond), d)

    def bounds(self, margin: Scalar = 0.0) -> Box:  # noqa: D102
        scales = jnp.stack(
            [jnp.asarray(v, jnp.float32) for v in (self.ratio.bottom, self.ratio.middle, self.ratio.top)]
        )
        corners = scales[:, None, None] * self.profile.extent()
        grown = self.profile.stretch * (BEYOND + margin)
        low, high = jnp.min(corners, axis=(0, 1)) - grown, jnp.max(corners, axis=(0, 1)) + grown
        below, above = -0.5 - margin, self.height - 0.5 + margin
        return Box(jnp.append(low, below), jnp.append(high, above))

    def frame(self) -> Box:
        """The cubic array that holds the object in its middle, which a packed placement keeps within the grid.

        It grows where the line reaches beyond it.
        """
        edge = jnp.maximum(self.box, self.height)
        corner = -jnp.floor(edge / 2)
        lower = jnp.stack([corner, corner, corner + jnp.floor(self.height / 2)])
        tight = self.bounds()
        return Box(jnp.minimum(lower, tight.lower), jnp.maximum(lower + edge - 1, tight.upper))


Ranges = Mapping[str, Range]
SCALE_WIDE = Range(0.8, 1.0)
SCALE_NARROW = Range(0.3, 0.5)
WHOLE = Range(1.0, 1.0)
NOTHING = Range(0.0, 0.0)
# Scales at the bottom, where the slope turns, and at the top; a cone does not turn.
RULES = {
    "constant": (WHOLE, WHOLE, WHOLE),
    "concave": (SCALE_WIDE, SCALE_NARROW, SCALE_WIDE),
    "cone": (WHOLE, NOTHING, NOTHING),
    "convex": (SCALE_NARROW, SCALE_WIDE, SCALE_NARROW),
}


def _whole(key: jax.Array, low: Scalar, high: Scalar, size: tuple[int, ...] = ()) -> Float[Array, "..."]:
    """Whole numbers from low to high, both included, as float32."""
    low = jnp.asarray(low, jnp.float32)
    drawn = jnp.floor(low + jax.random.uniform(key, size) * (high - low + 1))
    return jnp.clip(drawn, low, high)


def _scale(grid: Grid) -> float:
    return min(grid) / PUBLISHED_EDGE


def _stack(
    key: jax.Array, ranges: Ranges, grid: Grid, profile: Ellipse | PaddedPolygon, box: Scalar, apex: int
) -> Stack:
    """A stack of random height and ratio; a cone's scale reaches 0 ``apex`` voxels below the height."""
    height_key, turn_key, scale_key = jax.random.split(key, 3)
    height = _whole(height_key, 10, 50)
    turn = _whole(turn_key, 3, height - 3)
    fractions = jax.random.uniform(scale_key, (3,))
    bottom, middle, top = (
        ranges[n].draw(f) for n, f in zip(("bottom", "middle", "top"), fractions, strict=True)
    )
    scale = _scale(grid)
    voxels = jnp.maximum(jnp.round(height * scale), 2.0)
    turn = jnp.where(middle == 0, voxels - apex, turn * scale)
    return Stack(profile, Ratio(bottom, middle, top, turn), voxels, jnp.round(box * scale))


def _ellipse(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    reach_key, axes_key, angle_key, stack_key = jax.random.split(key, 4)
    reach = _whole(reach_key, 15, 40)
    first, second = _whole(axes_key, 15, reach, (2,)) * _scale(grid)
    profile = Ellipse(first, second, _whole(angle_key, 0, 180))
    return _stack(stack_key, ranges, grid, profile, 2 * reach, apex=0)


def _polygon(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    box_key, angle_key, radius_key, stack_key = jax.random.split(key, 4)
    count = ranges["vertices"].low
    box = _whole(box_key, 30, 80)
    # The last vertex stands for those beyond the count.
    vertex = jnp.minimum(jnp.arange(MOST_VERTICES), count - 1)
    first, end = jnp.floor(360 * vertex / count), jnp.floor(360 * (vertex + 1) / count)
    angle = jnp.deg2rad(_whole(angle_key, first, end - 1, (MOST_VERTICES,)))
    radius = _whole(radius_key, 15, jnp.floor(box / 2), (MOST_VERTICES,)) * _scale(grid)
    vertices = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return _stack(stack_key, ranges, grid, PaddedPolygon(vertices[vertex.astype(jnp.int32)]), box, apex=1)


def _families() -> tuple[Family, ...]:
    made = []
    for section in ("ellipse", *POLYGONS):
        for rule, scales in RULES.items():
            ranges = dict(zip(("bottom", "middle", "top"), scales, strict=True))
            if section == "ellipse":
                made.append(Family(f"ellipse_{rule}", _ellipse, ranges, "ellipse"))
            else:
                ranges["vertices"] = Range(section, section)
                name = POLYGONS[section]
                made.append(Family(f"{name}_{rule}", _polygon, ranges, name))
    return tuple(made)


def _describe_profile(profile: Ellipse | PaddedPolygon) -> dict[str, Any]:
    if isinstance(profile, Ellipse):
        semi_axes = [float(profile.first), float(profile.second)]
        return {"kind": "ellipse", "semi_axes": semi_axes, "degrees": float(profile.degrees)}
    vertices = np.asarray(profile.vertices)
    repeated = (vertices == vertices[-1]).all(axis=1)
    return {"kind": "polygon", "vertices": vertices[: int(np.argmax(repeated)) + 1].tolist()}


def _profile(reader: Reader) -> Ellipse | PaddedPolygon:
    kind = reader.get("kind")
    made: Ellipse | PaddedPolygon
    if kind == "ellipse":
        axes = reader.numbers("semi_axes", (2,))
        if axes.min() <= 0:
            raise FdifError(f"{reader.where}: semi_axes must be above 0, not {axes.tolist()}")
        made = Ellipse(float(axes[0]), float(axes[1]), reader.number("degrees"))
    elif kind == "polygon":
        vertices = reader.vertices(f"three to {MOST_VERTICES}", MOST_VERTICES)
        made = PaddedPolygon(np.pad(vertices, ((0, MOST_VERTICES - len(vertices)), (0, 0)), mode="edge"))
    else:
        raise unknown(f"section kind of {reader.where}", str(kind), ("ellipse", "polygon"))
    reader.finish()
    return made


def build(name: str, params: Mapping[str, Any]) -> Shape:
    """The shape that a scene document's parameters describe; FdifError if one is missing, unknown or impossible."""
    reader = Reader(params, name)
    scales = reader.inner("ratio")
    bottom, middle, top = (scales.number(n) for n in ("bottom", "middle", "top"))
    ratio = Ratio(bottom, middle, top, scales.positive("turn"))
    scales.finish()
    shape = Stack(_profile(reader.inner("section")), ratio, reader.positive("height"), reader.positive("box"))
    reader.finish()
    return shape


def describe(name: str, shape: Shape) -> dict[str, Any]:
    """The parameters of a stack, plain numbers; the inverse of `build`."""
    if not isinstance(shape, Stack):
        raise FdifError(f"{name}: a {type(shape).__name__} has no AVS-DB scene-document form; a Stack has")
    ratio = {n: float(getattr(shape.ratio, n)) for n in ("bottom", "middle", "top", "turn")}
    section = _describe_profile(shape.profile)
    return {"section": section, "height": float(shape.height), "box": float(shape.box), "ratio": ratio}


avs_db = Vocabulary(_families(), DISPLACEMENTS, MAPPERS, build, describe)
