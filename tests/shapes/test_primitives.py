"""Every primitive against an evaluation of its own in NumPy's float64, all in one program.

What a distance is said to be, true or a bound, is measured; gradients are finite wherever a user can stand.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import ConvexHull

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError

AT = np.random.default_rng(0).uniform(-16, 16, (300, 3))
# The origin and places on axes, diagonals and planes of symmetry.
SPECIAL = np.array([[x, y, z] for x in (-5, 0, 5) for y in (-5, 0, 5) for z in (-5, 0, 5)], float)
GOLDEN = (1 + 5**0.5) / 2


def norm(*components):
    return np.sqrt(sum(np.square(c) for c in components))


def box2(u, v, a, b):
    """A rectangle of half edges a, b."""
    du, dv = np.abs(u) - a, np.abs(v) - b
    return norm(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)


def box3(p, half):
    beyond = np.abs(p) - half
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)


def frame(p, half, thickness):
    """Twelve bars, each a box."""
    bars = []
    for axis in range(3):
        others = [i for i in range(3) if i != axis]
        for s in (-1, 1):
            for t in (-1, 1):
                middle, size = np.zeros(3), np.full(3, thickness / 2)
                size[axis] = half[axis]
                middle[others[0]] = s * (half[others[0]] - thickness / 2)
                middle[others[1]] = t * (half[others[1]] - thickness / 2)
                bars.append(box3(p - middle, size))
    return np.min(bars, axis=0)


def segment(p, a, b):
    """The distance of points to a line between two points, of any dimension."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    t = np.clip((p - a) @ (b - a) / max((b - a) @ (b - a), 1e-30), 0, 1)
    return np.linalg.norm(p - a - t[..., None] * (b - a), axis=-1)


def polygon(p, corners):
    """A convex polygon: corners counter-clockwise."""
    corners = np.asarray(corners, float)
    edges = [(a, b) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True) if (a != b).any()]
    outside = np.min([segment(p, a, b) for a, b in edges], axis=0)
    left = [(b - a)[0] * (p - a)[:, 1] - (b - a)[1] * (p - a)[:, 0] for a, b in edges]
    return np.where(np.min(left, axis=0) > 0, -outside, outside)


def hull(p, corners):
    """The convex hull of points: its triangles, one by one."""
    corners = np.asarray(corners, float)
    found = ConvexHull(corners)
    heights = p @ found.equations[:, :3].T + found.equations[:, 3]
    nearest = []
    for triangle, equation in zip(corners[found.simplices], found.equations, strict=True):
        height = p @ equation[:3] + equation[3]
        foot = p - height[:, None] * equation[:3]
        weights = np.linalg.lstsq(np.vstack([triangle.T, np.ones(3)]), np.vstack([foot.T, np.ones(len(p))]))[
            0
        ]
        edges = [segment(p, triangle[i], triangle[i - 1]) for i in range(3)]
        nearest.append(np.where(weights.min(0) >= 0, np.abs(height), np.min(edges, axis=0)))
    return np.where(heights.max(1) <= 0, heights.max(1), np.min(nearest, axis=0))


def least(function, low, high):
    """The least value over low … high of a function with one minimum there: thirds, again and again."""
    for _ in range(120):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        left = function(a) < function(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    return function((low + high) / 2)


def swept(p, curve, radii):
    """Balls between neighbours of a polyline: the distance to all of them is convex along a segment."""

    def of(a, b, r, s):
        def ball(t):
            return np.linalg.norm(p - a - t[:, None] * (b - a), axis=1) - r - t * (s - r)

        return least(ball, np.zeros(len(p)), np.ones(len(p)))

    curve = np.asarray(curve, float)
    return np.min([of(*v) for v in zip(curve, curve[1:], radii, radii[1:], strict=False)], axis=0)


def coil(p, radius, pitch, turns, tube):
    """The nearest of many places along the curve, refined."""
    t = np.linspace(-np.pi * turns, np.pi * turns, 4001)
    for _ in range(6):
        curve = np.stack([radius * np.cos(t), pitch / (2 * np.pi) * t, radius * np.sin(t)], -1)
        d = np.linalg.norm(p[:, None] - curve, axis=-1)
        best = np.take_along_axis(np.broadcast_to(t, d.shape), d.argmin(1)[:, None], 1)
        step = (t.max(-1, keepdims=True) - t.min(-1, keepdims=True)) / (t.shape[-1] - 1)
        t = np.clip(best + np.linspace(-1, 1, 21) * step, -np.pi * turns, np.pi * turns)
    return d.min(1) - tube


def ellipsoid(p, half):
    """|p/r| (|p/r| - 1) / |p/r²|."""
    k = np.linalg.norm(p / half, axis=1)
    return k * (k - 1) / np.linalg.norm(p / np.square(half), axis=1)


def lattice(kind, p, period):
    x, y, z = (2 * np.pi * p / period).T
    s, c = np.sin, np.cos
    value, slope = {
        "gyroid": (s(x) * c(y) + s(y) * c(z) + s(z) * c(x), 3**0.5),
        "p": (c(x) + c(y) + c(z), 3**0.5),
        "d": (c(x - y) * s(z) + s(x + y) * c(z), 3**0.5),
        "neovius": (3 * (c(x) + c(y) + c(z)) + 4 * c(x) * c(y) * c(z), 7.0),
    }[kind]
    return value * period / (2 * np.pi * slope)


def square(v):
    """The corners of a cube, times a vector."""
    return [[x * v[0], y * v[1], z * v[2]] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]


def rectangles(*pairs):
    """The corners (0, ±a, ±b) and their turns x → y → z → x."""
    corners = [
        np.roll([0, s * a, t * b], k) for a, b in pairs for s in (-1, 1) for t in (-1, 1) for k in range(3)
    ]
    return np.array(corners)


def axial(p):
    return np.stack([norm(p[:, 0], p[:, 2]), p[:, 1]], -1)


class Case(NamedTuple):
    shape: fd.Shape
    expected: object
    true: bool = True


A, B = np.array([-6.0, 1, 3]), np.array([5.0, -4, 2])
CURVE = np.array([[-9, 0, 1], [-3, 5, 0], [2, -4, 4], [8, 3, -3.0]])
RADII = np.array([1, 2.5, 1.5, 3])
NORMAL = np.array([1.0, 2, -2]) / 3
CASES = {
    "sphere": Case(shapes.sphere(7), lambda p: np.linalg.norm(p, axis=1) - 7),
    "box": Case(shapes.box(7, 5, 3), lambda p: box3(p, [7, 5, 3])),
    "rounded_box": Case(shapes.rounded_box(7, 5, 3, radius=2), lambda p: box3(p, [5, 3, 1]) - 2),
    "box_frame": Case(shapes.box_frame((9, 7, 8), thickness=2), lambda p: frame(p, [9, 7, 8], 2), False),
    "ellipsoid": Case(shapes.ellipsoid(9, 5, 7), lambda p: ellipsoid(p, np.array([9, 5, 7])), False),
    "half_space": Case(shapes.half_space((1, 2, -2), 2), lambda p: p @ NORMAL - 2),
    "slab": Case(shapes.slab(4, "z"), lambda p: np.abs(p[:, 2]) - 4),
    "torus": Case(shapes.torus(9, 3, "z"), lambda p: norm(norm(p[:, 0], p[:, 1]) - 9, p[:, 2]) - 3),
    "cone": Case(shapes.cone(7, 12, "x"), lambda p: polygon(axial(p[:, [2, 0, 1]]), [[-7, -6], [7, -6], [0, 6]])),
    "capsule": Case(shapes.capsule(A, B, 3), lambda p: segment(p, A, B) - 3),
    "cylinder": Case(shapes.cylinder(6, 10), lambda p: box2(*axial(p).T, 6, 5)),
    "capped_cone": Case(
        shapes.capped_cone(8, 3, 10), lambda p: polygon(axial(p), [[-8, -5], [8, -5], [3, 5], [-3, 5]])
    ),
    "round_cone": Case(shapes.round_cone(A, B, 4, 1.5), lambda p: swept(p, [A, B], [4, 1.5])),
    "round_cone_in_a_ball": Case(shapes.round_cone(A, A + 1, 6, 1), lambda p: swept(p, [A, A + 1], [6, 1])),
    "round_cone_of_no_length": Case(shapes.round_cone(A, A, 3, 3), lambda p: np.linalg.norm(p - A, axis=1) - 3),
    "tube": Case(shapes.tube(CURVE, RADII), lambda p: swept(p, CURVE, RADII), False),
    "helix": Case(shapes.helix(8, 6, 3, 1.5), lambda p: coil(p, 8, 6, 3, 1.5), False),
    "tetrahedron": Case(
        shapes.tetrahedron(12),
        lambda p: hull(p, 12 / 3**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])),
    ),
    "octahedron": Case(shapes.octahedron(11), lambda p: hull(p, 11 * np.vstack([np.eye(3), -np.eye(3)]))),
    "dodecahedron": Case(
        shapes.dodecahedron(11),
        lambda p: hull(p, 11 / 3**0.5 * np.vstack([rectangles((GOLDEN, 1 / GOLDEN)), square(np.ones(3))])),
    ),
    "icosahedron": Case(
        shapes.icosahedron(11), lambda p: hull(p, 11 / norm(1, GOLDEN) * rectangles((1, GOLDEN)))
    ),
    "pyramid": Case(
        shapes.pyramid(7, 12, "z"), lambda p: hull(p, [[0, 0, 6], *([x, y, -6] for x in (-7, 7) for y in (-7, 7))])
    ),
    "convex": Case(
        shapes.convex([[2, 0, 0], [-1, 1, 0], [0, -3, 1], [0, 0, -1]], [5, 4, 3, 6]),
        lambda p: np.max([p[:, 0] - 5, *((p @ n) / np.linalg.norm(n) - o for n, o in (
            ([-1, 1, 0], 4), ([0, -3, 1], 3), ([0, 0, -1], 6)))], axis=0),
        False,
    ),
    "gyroid": Case(shapes.gyroid(15), lambda p: lattice("gyroid", p, 15), False),
    "schwarz_p": Case(shapes.schwarz_p(15, 2), lambda p: np.abs(lattice("p", p, 15)) - 1, False),
    "schwarz_d": Case(shapes.schwarz_d(15), lambda p: lattice("d", p, 15), False),
    "neovius": Case(shapes.neovius(15, 1), lambda p: np.abs(lattice("neovius", p, 15)) - 0.5, False),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    """Distances and gradients of all cases at all places, in one program."""

    @jax.jit
    def all_of(p):
        def one(shape):
            d, back = jax.vjp(lambda *p: shape(fd.Point(*p)), *p)
            return d, jnp.stack(back(jnp.ones_like(d)), -1)

        return {name: one(case.shape) for name, case in CASES.items()}

    found = all_of(jnp.asarray(np.concatenate([AT, SPECIAL]).T, jnp.float32))
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("name", CASES)
def test_primitives_agree_with_numpy(name, measured):
    case, (d, gradient) = CASES[name], measured[name]
    expected = case.expected(AT)
    # The helix is found by Newton's method from the nearest turn, which is not the nearest place near its axis.
    where = norm(AT[:, 0], AT[:, 2]) > 4 if name == "helix" else slice(None)
    np.testing.assert_allclose(d[: len(AT)][where], expected[where], atol=1e-5)
    np.testing.assert_array_equal(d[: len(AT)][where] < 0, expected[where] < 0)
    assert (expected < 0).any() and (expected > 0).any()
    assert np.isfinite(gradient).all() and np.isfinite(d).all()
    slope = np.linalg.norm(gradient[: len(AT)], axis=1)
    if case.true:
        assert (np.abs(slope - 1) < 1e-3).mean() > 0.99
    elif name != "ellipsoid":
        assert slope.max() < 1 + 1e-3


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_what_is_near(name, measured):
    d, p = measured[name][0], np.concatenate([AT, SPECIAL])
    for margin in (0.0, 2.0):
        lower, upper = CASES[name].shape.bounds(margin)
        near = p[d <= margin]
        assert (near >= np.asarray(lower) - 1e-3).all() and (near <= np.asarray(upper) + 1e-3).all()


def test_a_curve_of_bezier_is_that_of_de_casteljau():
    control = np.random.default_rng(1).normal(size=(5, 3))
    expected = []
    for t in np.linspace(0, 1, 9):
        points = control
        while len(points) > 1:
            points = (1 - t) * points[:-1] + t * points[1:]
        expected.append(points[0])
    np.testing.assert_allclose(shapes.bezier(control, 9), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: shapes.rounded_box(5, 3, 4, radius=3), "rounded_box: y - radius is 0.0; it should be greater than 0"),
        (lambda: shapes.capsule((0, 0), B, 2), "capsule: start is (0, 0); it should be 3 numbers"),
        (lambda: shapes.tube(CURVE, RADII[:2]), "tube: radius is an array of shape (2,); it should be 4 numbers"),
        (lambda: shapes.tube([[0, 0, 0]], 1), "tube: curve is [[0, 0, 0]]; it should be 2 or more points"),
        (lambda: shapes.vesica(3, 4), "vesica: radius - apart is -1.0; it should be greater than 0"),
        (lambda: shapes.hexagon(-1), "regular_polygon: radius is -1.0"),
        (lambda: shapes.gyroid(0), "gyroid: period is 0.0; it should be greater than 0"),
        (lambda: shapes.slab(3, (0, 0, 0)), "slab: axis is (0.0, 0.0, 0.0); it should be a direction"),
        (lambda: shapes.convex(np.eye(3), [1, 2]), "convex: offsets is [1, 2]; it should be 3 numbers"),
        (lambda: shapes.offset(shapes.sphere(3), 1), "offset: profile is a Sphere; it should be a profile"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make, says):
    with pytest.raises(FdifError) as error:
        make()
    assert says in str(error.value)


PLANE = np.random.default_rng(2).uniform(-12, 12, (300, 2))


def rounded_x(p):
    d = np.abs(p)
    return segment(d, (0, 0), (4, 4)) - 1.5


FLAT = {
    "rectangle": (shapes.rectangle(7, 4), lambda p: box2(*p.T, 7, 4)),
    "rounded_rectangle": (shapes.rounded_rectangle(7, 4, 2), lambda p: box2(*p.T, 5, 2) - 2),
    "hexagon": (
        shapes.hexagon(8),
        lambda p: polygon(p, [[8 * np.sin(-k * np.pi / 3), 8 * np.cos(-k * np.pi / 3)] for k in range(6)]),
    ),
    "rounded_x": (shapes.rounded_x(8, 1.5), rounded_x),
    "offset": (shapes.offset(shapes.rectangle(6, 3), 2), lambda p: box2(*p.T, 6, 3) - 2),
    "outline": (shapes.outline(shapes.circle(6), 1), lambda p: np.abs(norm(*p.T) - 6) - 1),
    "place": (
        shapes.place(shapes.rectangle(6, 3), (2, -1), 0.5),
        lambda p: box2(*(np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]]) @ (p - [2, -1]).T), 6, 3),
    ),
    "union": (
        shapes.circle(5) | shapes.rectangle(7, 2),
        lambda p: np.minimum(norm(*p.T) - 5, box2(*p.T, 7, 2)),
    ),
    "xor": (
        shapes.circle(5) ^ shapes.rectangle(7, 2),
        lambda p: np.maximum(
            np.minimum(norm(*p.T) - 5, box2(*p.T, 7, 2)), -np.maximum(norm(*p.T) - 5, box2(*p.T, 7, 2))
        ),
    ),
    "difference": (
        fd.difference([shapes.circle(5), shapes.rectangle(7, 2)]),
        lambda p: np.maximum(norm(*p.T) - 5, -box2(*p.T, 7, 2)),
    ),
}  # fmt: skip


def vesica(p):
    """Where both discs are, from their outlines' nearest points: arcs, cut at the tips."""
    tip = np.sqrt(7.0**2 - 3**2)
    angles = np.linspace(-np.arctan2(tip, 3), np.arctan2(tip, 3), 20001)
    arc = np.stack([7 * np.cos(angles) - 3, 7 * np.sin(angles)], -1)
    outside = np.linalg.norm(np.abs(p)[:, None] - arc, axis=-1).min(1)
    return np.where(norm(np.abs(p[:, 0]) + 3, p[:, 1]) < 7, -outside, outside)


def test_profiles_agree_with_numpy():
    found = jax.jit(lambda p: {name: profile(*p) for name, (profile, _) in FLAT.items()})(
        jnp.asarray(PLANE.T, jnp.float32)
    )
    for name, (profile, reference) in FLAT.items():
        expected = reference(PLANE)
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(found[name] < 0, expected < 0, err_msg=name)
        assert (np.linalg.norm(PLANE[expected < 0], axis=1) <= float(profile.radius()) + 1e-4).all(), name
    d = shapes.vesica(7, 3)(*jnp.asarray(PLANE.T, jnp.float32))
    np.testing.assert_allclose(d, vesica(PLANE), atol=1e-4)
