"""The 109 classes of FDIF as random families, in the published order.

Source: FDIF (arXiv 2603.23199) and its implementation; `published` follows the implementation where it departs from
its own intent, `exact` does what was meant: true octahedron distances, shells that are shells, necks within the slab.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.lifts import Extruded, Revolved, Taper
from fdif_jax.sdf.shape import Profile, Scalar, Shape
from fdif_jax.shapes.profiles import Circle, Polygon, Star
from fdif_jax.shapes.solids import OCTAHEDRON_FACTOR, PUBLISHED_OCTAHEDRON_FACTOR, Cone, Octahedron, Sphere
from fdif_jax.vocabulary.vocabulary import Draw, Family, Range

_SIDES = ("triangle", "square", "pentagon", "hexagon", "heptagon", "octagon", "nonagon")
POLYGONS = dict(enumerate(_SIDES, 3))
STARS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
PRISM_STARS = (5, 6, 7, 8)

Ranges = Mapping[str, Range]
# Draws the profile of a prism from a key, ranges and the shortest edge across its axis.
Section = Callable[[jax.Array, Ranges, float], Profile]
ONE = Range(1.0, 1.0)
TOP = Range(0.5, 0.5)
RADIUS = Range(0.15, 0.40)
# The four tapers: range of the radius, of the scale at the neck, and of the neck's position in heights (½: the top).
TAPERS = {
    "": {"radius": RADIUS, "second_scale": ONE, "neck": TOP},
    "convex_": {"radius": Range(0.05, 0.20), "second_scale": Range(2.0, 4.0), "neck": Range(-0.7, 0.7)},
    "concave_": {"radius": RADIUS, "second_scale": Range(0.2, 0.5), "neck": Range(-0.7, 0.7)},
    "cone_": {"radius": RADIUS, "second_scale": Range(0.0, 1.6), "neck": TOP},
}
SOLID = Range(0.0, 0.0)
SHELL = Range(0.2, 0.5)

# The published names are the plain ones without underscores, except for these slips.
_SLIPS = (
    ("onionedsquare", "onionedSquare"),
    ("onionedhexagon", "onionedchexagon"),
    ("onionedheptagon", "onionedcheptagon"),
    ("onionedsixstar", "onionedixstar"),
    ("onionedfivestarconcave", "onionedfvestarconcave"),
    ("onionedfivestarcone", "onionedfvestarcone"),
    ("onionedsevenstarconcave", "onionedsevenstar concave"),
    ("onionedsevenstarcone", "onionedsevenstar cone"),
    ("onionedeightstarconcave", "onionedeightstar concave"),
)


def families(*, exact: bool) -> tuple[Family, ...]:
    """All classes, as meant (``exact``) or as the published code draws: 109 families; class id = position + 1."""
    basic = [
        _family("sphere", _sphere, "basic", radius=RADIUS),
        _prism("{}cylinder", _circle, "basic", "", SOLID, exact),
        _family("torus", _torus, "basic", major_radius=RADIUS, minor=Range(0.3, 0.7)),
        _family("cone", _cone, "basic", radius=RADIUS, height=Range(0.1, 0.5)),
        _family("octahedron", _octahedron_exact if exact else _octahedron, "basic", size=RADIUS),
        *(_prism("{}cylinder", _circle, "basic", t, SOLID, exact) for t in TAPERS if t),
    ]
    turned = {"radius": RADIUS, "distance": Range(0.0, 0.5), "ratio": Range(0.1, 0.7)}
    revolutions = [
        _family(f"{STARS[n]}_star_revolution", _star_revolution, "revolution", points=Range(n, n), **turned)
        for n in (3, 4, 5)
    ]
    radii, ratio = {"major_radius": RADIUS, "minor": Range(0.4, 0.8)}, Range(0.1, 0.7)
    tori = [
        _family(f"{POLYGONS[n]}_torus", draw, "sector_polygon_torus", **radii)
        for n, draw in _POLYGON_TORUS.items()
    ]
    for n in PRISM_STARS:
        ranges = {"points": Range(n, n), **radii, "ratio": ratio}
        tori.append(_family(f"{STARS[n]}_star_torus", _star_torus, "star_torus", **ranges))
    return (
        *basic,
        *revolutions,
        *_polygon_prisms("", SOLID, exact),
        *_star_prisms("", SOLID, exact),
        *tori,
        *_polygon_prisms("onioned_", SHELL, exact),
        *_star_prisms("onioned_", SHELL, exact),
    )


def _polygon_prisms(prefix: str, onion: Range, exact: bool) -> list[Family]:
    return [
        _prism(f"{prefix}{side}_{{}}prism", draw, f"{prefix}{taper}sector_polygon_prism", taper, onion, exact)
        for taper in TAPERS
        for side, draw in ((POLYGONS[n], _SECTION_POLYGON[n]) for n in POLYGONS)
    ]


def _star_prisms(prefix: str, onion: Range, exact: bool) -> list[Family]:
    made, ratio = [], Range(0.2, 0.7)
    for taper in TAPERS:
        category = f"{prefix}star_{taper or 'polygon_'}prism"
        for n in PRISM_STARS:
            name = f"{prefix}{STARS[n]}_star_{{}}prism"
            made.append(_prism(name, _star, category, taper, onion, exact, points=Range(n, n), ratio=ratio))
    return made


def _family(name: str, draw: Draw, category: str, **ranges: Range) -> Family:
    alias = name.replace("_", "")
    for plain, slip in _SLIPS:
        alias = alias.replace(plain, slip) if alias.startswith(plain) else alias
    return Family(name, draw, ranges, category, () if alias == name else (alias,))


def _prism(
    name: str, section: Section, category: str, taper: str, onion: Range, exact: bool, **ranges: Range
) -> Family:
    taper_ranges = dict(TAPERS[taper])
    if exact and taper_ranges["neck"] is not TOP:
        taper_ranges["neck"] = Range(-0.4, 0.4)
    own = {"height": Range(0.1, 0.5), "onion": onion, **taper_ranges, **ranges}
    return _family(name.format(taper), _PRISMS[section, exact], category, **own)


def _uniform(key: jax.Array, ranges: Ranges, *names: str) -> list[Float[Array, ""]]:
    """One value for each named range, all from one call of the generator."""
    fractions = jax.random.uniform(key, (len(names),))
    return [ranges[name].draw(fraction) for name, fraction in zip(names, fractions, strict=True)]


def _sphere(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    (radius,) = _uniform(key, ranges, "radius")
    return Sphere(radius * min(grid))


def _torus(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    major, minor = _uniform(key, ranges, "major_radius", "minor")
    major = major * min(grid[:2])
    return Revolved(Circle(major * minor), major)


def _cone(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    radius, height = _uniform(key, ranges, "radius", "height")
    return Cone(radius * min(grid[:2]), height * grid[2])


def _draw_octahedron(factor: float, key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    (size,) = _uniform(key, ranges, "size")
    return Octahedron(size * min(grid), factor)


_octahedron = partial(_draw_octahedron, PUBLISHED_OCTAHEDRON_FACTOR)
_octahedron_exact = partial(_draw_octahedron, OCTAHEDRON_FACTOR)


def _star_revolution(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    points, radius, distance, ratio = _uniform(key, ranges, "points", "radius", "distance", "ratio")
    radius = radius * min(grid)
    return Revolved(Star(points, radius, ratio), distance * radius)


def _star_torus(key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    points, major, minor, ratio = _uniform(key, ranges, "points", "major_radius", "minor", "ratio")
    major = major * min(grid[:2])
    return Revolved(Star(points, major * minor, ratio), major)


def _polygon_torus(count: int, key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    radii_key, vertices_key = jax.random.split(key)
    major, minor = _uniform(radii_key, ranges, "major_radius", "minor")
    major = major * min(grid[:2])
    return Revolved(_sector_polygon(vertices_key, count, major * minor, 0.03 * min(grid)), major)


def _sector_polygon(key: jax.Array, count: int, first: Scalar, second: Scalar) -> Polygon:
    """One vertex in each of ``count`` equal sectors, at a radius between ``first`` and ``second`` voxels."""
    turn, reach = jax.random.uniform(key, (2, count))
    angle = (2 * jnp.pi / count) * (jnp.arange(count) + turn)
    radius = Range(jnp.minimum(first, second), jnp.maximum(first, second)).draw(reach)
    return Polygon(jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=-1))


def _circle(key: jax.Array, ranges: Ranges, across: float) -> Profile:
    (radius,) = _uniform(key, ranges, "radius")
    return Circle(radius * across)


def _star(key: jax.Array, ranges: Ranges, across: float) -> Profile:
    points, radius, ratio = _uniform(key, ranges, "points", "radius", "ratio")
    return Star(points, radius * across, ratio)


def _polygon(count: int, key: jax.Array, ranges: Ranges, across: float) -> Profile:
    radii_key, vertices_key = jax.random.split(key)
    first, second = (ranges["radius"].draw(f) * across for f in jax.random.uniform(radii_key, (2,)))
    return _sector_polygon(vertices_key, count, first, second)


def _draw_prism(section: Section, exact: bool, key: jax.Array, ranges: Ranges, grid: Grid) -> Shape:
    across = float(min(grid[1:]))
    section_key, form_key = jax.random.split(key)
    profile = section(section_key, ranges, across)
    height, second, neck, onion = _uniform(form_key, ranges, "height", "second_scale", "neck", "onion")
    height = height * across
    # As fractions of the height, so that a neck at the top lies there exactly.
    taper = Taper(second, (0.5 + neck) * height, (0.5 - neck) * height)
    solid = Extruded(profile, height / 2, taper)
    return Extruded(profile, height / 2, taper, onion * _deepest(solid, grid, within_slab=exact))


def _deepest(solid: Extruded, grid: Grid, within_slab: bool) -> Scalar:
    """The deepest |distance| of the tapered section, over the whole grid or within the slab, in voxels.

    The section at the height of the largest scale is the deepest; it is searched on a coarse mesh.
    """
    heights = jnp.ravel(grid.points().z)
    if within_slab:
        heights = jnp.clip(heights, -solid.half_height, solid.half_height)
    scale = jnp.max(solid.taper(heights, solid.half_height))
    half = jnp.minimum(solid.profile.radius() * scale, min(grid[1:]) / 2) / scale
    steps = jnp.linspace(-1.0, 1.0, 33) * half
    return -scale * jnp.min(jnp.minimum(solid.profile(steps[None, :], steps[:, None]), 0.0))


_SECTION_POLYGON = {n: partial(_polygon, n) for n in POLYGONS}
_POLYGON_TORUS = {n: partial(_polygon_torus, n) for n in range(4, 10)}
_SECTIONS: tuple[Section, ...] = (_circle, _star, *_SECTION_POLYGON.values())
_PRISMS = {
    (section, exact): partial(_draw_prism, section, exact) for section in _SECTIONS for exact in (False, True)
}
