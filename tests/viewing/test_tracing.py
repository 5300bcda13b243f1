"""Sphere tracing: silhouettes against analytic projections, hidden things hidden, rough distances without holes."""

import time

import hypothesis.extra.numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.spatial import ConvexHull

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.viewing import tracing
from fdif_jax.viewing.camera import AIR, Camera
from fdif_jax.viewing.tracing import Region, Solid, trace
from tests.helpers.slow import quick_of

SIZE = 90  # no multiple of a tile
RED, BLUE = (0.9, 0.2, 0.2), (0.2, 0.2, 0.9)
CENTRE = np.array([3.0, -2.0, 1.0])
VIEWS = [Camera((0.0, 0.0, 0.0), 30.0, 35.0, 20.0), Camera((0.0, 0.0, 0.0), 30.0, -50.0, 40.0, 50.0)]


def region(reach: float) -> Region:
    return Region(np.full(3, -reach, np.float32), np.full(3, reach, np.float32))


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions ``(SIZE², 3)`` of rays through the pixels' centres, by the definition of a camera."""
    a, e = np.deg2rad([camera.azimuth, camera.elevation])
    back = np.array([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)])
    right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
    up = np.cross(back, right)
    line = (2 * np.arange(SIZE) + 1) / SIZE - 1
    v, u = np.meshgrid(-line, line, indexing="ij")
    plane = camera.half * (u.reshape(-1, 1) * right + v.reshape(-1, 1) * up)
    if camera.field_of_view == 0:
        return plane + 100 * back, np.broadcast_to(-back, plane.shape)
    eye = back * camera.half / np.tan(np.deg2rad(camera.field_of_view) / 2)
    way = plane - eye
    return np.broadcast_to(eye, way.shape), way / np.linalg.norm(way, axis=1, keepdims=True)


def sees_sphere(camera: Camera) -> np.ndarray:
    origin, way = rays(camera)
    to = CENTRE - origin
    return np.linalg.norm(to - np.sum(to * way, axis=1, keepdims=True) * way, axis=1) <= 14


def sees_box(camera: Camera) -> np.ndarray:
    """By the convex hull of the corners' projections."""
    corners = np.stack(np.meshgrid([-12, 12], [-8, 8], [-5, 5]), -1).reshape(-1, 3) + CENTRE
    a = np.deg2rad(camera.azimuth)
    right = np.array([np.cos(a), np.sin(a), 0])
    back = rays(camera)[0].mean(axis=0) - 0 if camera.field_of_view else -rays(camera)[1][0]
    back = back / np.linalg.norm(back)
    u, v, w = (corners @ axis for axis in (right, np.cross(back, right), back))
    if camera.field_of_view:
        distance = camera.half / np.tan(np.deg2rad(camera.field_of_view) / 2)
        u, v = u * distance / (distance - w), v * distance / (distance - w)
    hull = ConvexHull(np.stack([u, v], axis=1))
    line = camera.half * ((2 * np.arange(SIZE) + 1) / SIZE - 1)
    y, x = np.meshgrid(-line, line, indexing="ij")
    points = np.stack([x.ravel(), y.ravel(), np.ones(SIZE**2)])
    return (hull.equations @ points <= 0).all(axis=0)


def sees_torus(camera: Camera) -> np.ndarray:
    """By the real roots of the quartic of a line and a torus about y."""
    big, small = 13.0, 5.0
    seen = []
    for o, d in zip(rays(camera)[0] - CENTRE, rays(camera)[1], strict=True):
        o = o - (o @ d) * d  # the nearest point of the line: small numbers
        k = o @ o + big**2 - small**2
        # (|o + t d|² + R² - r²)² = 4 R² (x² + z²)
        square = np.polymul([1, 0, k], [1, 0, k])
        flat = [d[0] ** 2 + d[2] ** 2, 2 * (o[0] * d[0] + o[2] * d[2]), o[0] ** 2 + o[2] ** 2]
        roots = np.roots(np.polysub(square, 4 * big**2 * np.array(flat)))
        seen.append((abs(roots.imag) < 1e-6).any())
    return np.array(seen)


SOLIDS = {
    "sphere": (shapes.sphere(14.0), sees_sphere),
    "box": (shapes.box(12.0, 8.0, 5.0), sees_box),
    "torus": (shapes.torus(13.0, 5.0), sees_torus),
}


@pytest.mark.parametrize("camera", VIEWS, ids=["parallel", "perspective"])
@pytest.mark.parametrize("name", quick_of(SOLIDS, ["box"], "a program more"))
def test_silhouettes_are_the_analytic_projections_within_a_pixel(name, camera):
    shape, sees = SOLIDS[name]
    solid = Solid(name, fd.translate(shape, CENTRE), region(25.0), RED)
    seen = trace([solid], camera, SIZE).coverage >= 0.5
    expected = sees(camera).reshape(SIZE, SIZE)
    assert 0.05 < expected.mean() < 0.6
    assert not (seen & ~binary_dilation(expected)).any()
    assert not (binary_erosion(expected) & ~seen).any()
    assert abs(seen.mean() - expected.mean()) < 0.006


@fd.node
class Steep(fd.Shape):
    """A sphere whose distance grows five times as fast as it may."""

    radius: float

    def __call__(self, p):
        return 5 * (fd.shape.length(*p) - self.radius)


@pytest.mark.parametrize("slope", [1.0, 4.0])
def test_a_distance_that_overestimates_has_no_holes(slope):
    camera = VIEWS[0]
    pictures = [
        trace([Solid("", shape, region(25.0), RED, slope)], camera, SIZE, floor=False)
        for shape in (Steep(14.0), shapes.sphere(14.0))
    ]
    assert np.abs(pictures[0].coverage - pictures[1].coverage).max() <= 0.5
    inside = binary_erosion(pictures[1].coverage == 1, iterations=2)
    colours = [picture.colours[inside].astype(int) for picture in pictures]
    assert np.abs(colours[0] - colours[1]).max() < 12


def test_the_nearest_solid_is_seen_whatever_the_order():
    # The eye of azimuth 0 and elevation 0 is at -y.
    near = Solid("near", fd.translate(shapes.sphere(5.0), (0.0, -12.0, 0.0)), region(25.0), RED)
    far = Solid("far", fd.translate(shapes.sphere(11.0), (0.0, 8.0, 0.0)), region(25.0), BLUE)
    camera = Camera((0.0, 0.0, 0.0), 20.0, 0.0, 0.0)
    one, other = (trace(order, camera, SIZE).colours for order in ([near, far], [far, near]))
    np.testing.assert_array_equal(one, other)
    red, blue = one[SIZE // 2, [SIZE // 2, SIZE // 2 + 18]].astype(int)
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]


def test_a_solid_is_cut_flat_at_its_box():
    below = Region(np.full(3, -25, np.float32), np.float32([25, 25, 2]))
    solid = Solid("half", shapes.sphere(14.0), below, RED)
    side = trace([solid], Camera((0.0, 0.0, 0.0), 20.0, 0.0, 0.0), SIZE, floor=False).coverage > 0.5
    rows = np.flatnonzero(side.any(axis=1))
    assert abs(rows[0] - (SIZE / 2) * (1 - 2 / 20)) <= 1 and side[rows[0]].sum() > 0.6 * SIZE
    top = trace([solid], Camera((0.0, 0.0, 0.0), 20.0, 0.0, 90.0), SIZE, floor=False).colours
    cap = top[SIZE // 2 - 15 : SIZE // 2 + 15, SIZE // 2 - 15 : SIZE // 2 + 15].reshape(-1, 3).astype(int)
    assert np.ptp(cap, axis=0).max() <= 2  # one normal, one shade


def test_a_shadow_falls_on_the_floor_where_the_lamp_is_hidden():
    camera = Camera((0.0, 0.0, 0.0), 60.0, 0.0, 30.0)
    solid = Solid("ball", shapes.sphere(10.0), region(10.0), RED)
    picture = trace([solid], camera, SIZE)
    light = np.asarray(tracing.LIGHT) @ camera.axes
    light[2] = max(light[2], 0.6)
    away = -light * (16 / light[2]) + [0, 0, 6]  # in the core of the shadow on the floor at about -10
    right, up, _ = camera.axes @ away / camera.half
    row, column = round((1 - up) * SIZE / 2), round((1 + right) * SIZE / 2)
    assert picture.coverage[row, column] == 0
    shade = picture.colours[row, column] / 255
    assert shade == pytest.approx(1 - tracing.FLOOR_SHADOW, abs=0.02)
    assert (picture.colours[:10] == 255).all()
    bare = trace([solid], camera, SIZE, floor=False)
    assert (bare.colours[bare.coverage == 0] == 255).all()
    # The lamp is at the upper left.
    lit, dim = picture.colours[SIZE // 2 - 3, SIZE // 2 - 3], picture.colours[SIZE // 2 + 3, SIZE // 2 + 3]
    assert lit.sum() > 1.3 * dim.sum()


def test_parameters_are_arguments_of_a_compiled_program():
    camera = VIEWS[0]
    trace([Solid("", shapes.torus(10.0, 3.0), region(20.0), RED)], camera, SIZE)
    compiled = tracing._hits._cache_size(), tracing._lit._cache_size()
    trace([Solid("", shapes.torus(jnp.float32(7.0), 2), region(22.0), BLUE, 1.5)], VIEWS[1], 40)
    assert (tracing._hits._cache_size(), tracing._lit._cache_size()) == compiled


@given(
    hnp.arrays(np.float64, (6, 3), elements=st.floats(-50, 50, width=32)),
    st.floats(-180, 180),
    st.floats(-89, 89),
    st.sampled_from([0.0, 20.0, 90.0]),
)
def test_a_camera_around_points_shows_them_all_and_as_large_as_may_be(points, azimuth, elevation, field):
    points = points + np.arange(18).reshape(6, 3)
    camera = Camera.around(points, azimuth, elevation, field)
    right, up, back = camera.axes @ (points - camera.target).T
    # At this distance from the target half of the view is so wide.
    half = camera.half - back * np.tan(np.deg2rad(field) / 2)
    shown = np.maximum(abs(right), abs(up)) / half
    assert (shown <= 1 + 1e-9).all()
    tight = np.maximum(abs(right), abs(up)) + back * np.tan(np.deg2rad(field) / 2)
    assert tight.max() * AIR == pytest.approx(camera.half)


@pytest.mark.slow("measures time, which takes a machine at rest and programs compiled in full")
def test_a_picture_of_512_pixels_takes_less_than_two_seconds():
    solid = Solid("torus", shapes.torus(13.0, 5.0), region(20.0), RED)
    camera = Camera((0.0, 0.0, 0.0), 22.0)
    trace([solid], camera, 512)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        trace([solid], camera, 512)
        times.append(time.perf_counter() - began)
    assert min(times) < 2
