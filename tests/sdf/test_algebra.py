"""The algebra, checked by properties that any correct implementation has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.sdf.affine import rotation
from tests.helpers.slow import quick_of

sizes = st.floats(1.0, 20.0)
offsets = st.tuples(*[st.floats(-15, 15)] * 3)
angles = st.floats(-3.1, 3.1)
axes = st.sampled_from([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 2.0, -0.5)])
solids = st.one_of(
    st.builds(shapes.sphere, sizes),
    st.builds(shapes.box, sizes, sizes, sizes),
    st.builds(shapes.torus, st.floats(8, 20), st.floats(1, 6)),
    st.builds(shapes.cone, sizes, sizes),
    st.builds(lambda r, w, h: fd.extrude(shapes.star(5, r, w), h), sizes, st.floats(0.1, 0.9), sizes),
)
# Shapes whose distance is true on both sides of the surface.
exact_solids = [
    shapes.sphere(9.0),
    shapes.box(7.0, 5.0, 9.0),
    shapes.torus(14.0, 5.0),
    shapes.cone(9.0, 16.0),
    fd.extrude(shapes.star(7, 12.0, 0.4), 6.0),
    fd.extrude(shapes.polygon([[9, -3], [8, 7], [-6, 8], [-9, -7.5]]), 8.0),
    fd.revolve(shapes.polygon([[4, -3], [3, 4], [-4, 2]]), 11.0),
]


def cloud(seed=0, count=200, reach=25.0):
    return fd.Point(*jnp.asarray(np.random.default_rng(seed).uniform(-reach, reach, (3, count)), jnp.float32))


@given(solids, solids, offsets)
def test_booleans_follow_set_algebra(a, b, offset):
    b, p = fd.translate(b, offset), cloud()
    np.testing.assert_allclose((a | b)(p), (b | a)(p))
    np.testing.assert_allclose((a & b)(p), (b & a)(p))
    np.testing.assert_allclose((a | a)(p), a(p))
    inside_a, inside_b = a(p) < 0, b(p) < 0
    np.testing.assert_array_equal((a | b)(p) < 0, inside_a | inside_b)
    np.testing.assert_array_equal((a & b)(p) < 0, inside_a & inside_b)
    # A difference never enlarges, and holds nothing of what was taken away.
    rest = (a - b)(p)
    assert (rest >= a(p)).all()
    assert not ((rest < 0) & inside_b).any()


@given(solids, solids, offsets, st.floats(0.5, 5))
def test_smooth_forms_blend_within_their_width(a, b, offset, k):
    b, p = fd.translate(b, offset), cloud(1)
    for smooth, sharp, sign in (
        (fd.union(a, b, smooth=k), a | b, -1),
        (fd.intersection(a, b, smooth=k), a & b, 1),
        (fd.difference(a, b, smooth=k), a - b, 1),
    ):
        change = sign * (smooth(p) - sharp(p))
        assert (change >= -1e-4).all() and (change <= k / 4 + 1e-4).all()
    far = jnp.abs(a(p) - b(p)) > k
    np.testing.assert_allclose(fd.union(a, b, smooth=k)(p)[far], (a | b)(p)[far], atol=1e-5)


@given(solids, angles, axes)
def test_a_rotated_shape_at_a_rotated_point_is_unchanged(a, angle, axis):
    p = cloud(2)
    turned = fd.Point(*(rotation(axis, angle) @ jnp.stack(p)))
    np.testing.assert_allclose(fd.rotate(a, angle, axis)(turned), a(p), atol=2e-3)


@given(angles, axes)
def test_rotation_is_right_handed(angle, axis):
    unit = np.array(axis) / np.linalg.norm(axis)
    expected = Rotation.from_rotvec(angle * unit).as_matrix()
    np.testing.assert_allclose(rotation(axis, angle), expected, atol=1e-5)


@given(solids, offsets, st.floats(0.3, 3))
def test_moves_and_scales(a, offset, factor):
    p = cloud(3)
    moved = fd.Point(*(c + o for c, o in zip(p, offset, strict=True)))
    np.testing.assert_allclose(fd.translate(a, offset)(moved), a(p), atol=1e-3)
    grown = fd.Point(*(c * factor for c in p))
    np.testing.assert_allclose(fd.scale(a, factor)(grown), factor * a(p), atol=2e-3)


@given(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_shear_is_the_symmetric_matrix(a, b, c):
    matrix, p = np.array([[1, a, b], [a, 1, c], [b, c, 1]]), cloud(4)
    moved = fd.Point(*jnp.asarray(matrix @ np.stack(p), jnp.float32))
    shape = shapes.box(5.0, 8.0, 3.0)
    np.testing.assert_allclose(fd.shear(shape, a, b, c)(moved), shape(p), atol=1e-3)


@given(solids, st.floats(0.1, 3))
def test_onion_and_round(a, t):
    p = cloud(5)
    np.testing.assert_allclose(fd.onion(a, t)(p), jnp.abs(a(p)) - t, atol=1e-5)
    np.testing.assert_allclose(fd.round(a, t)(p), a(p) - t, atol=1e-5)


def test_elongated_sphere_is_a_capsule_and_repeat_is_a_union_of_copies():
    p = cloud(6)
    capsule = fd.elongate(shapes.sphere(4.0), (6.0, 0.0, 0.0))
    nearest = jnp.clip(p.x, -6, 6)
    expected = jnp.sqrt((p.x - nearest) ** 2 + p.y**2 + p.z**2) - 4.0
    np.testing.assert_allclose(capsule(p), expected, atol=1e-4)
    row = fd.repeat(shapes.sphere(3.0), (9.0, 9.0, 9.0), (1.0, 0.0, 1.0))
    copies = [
        fd.translate(shapes.sphere(3.0), (9.0 * i, 0.0, 9.0 * k)) for i in (-1, 0, 1) for k in (-1, 0, 1)
    ]
    np.testing.assert_allclose(row(p), fd.union(*copies)(p), atol=1e-4)


def test_twist_and_bend_without_a_rate_do_nothing_and_twist_turns_slices():
    p, box = cloud(7), shapes.box(9.0, 3.0, 12.0)
    np.testing.assert_allclose(fd.twist(box, 0.0)(p), box(p), atol=1e-5)
    np.testing.assert_allclose(fd.bend(box, 0.0)(p), box(p), atol=1e-5)
    flat = fd.Point(p.x, p.y, jnp.full_like(p.x, 5.0))
    np.testing.assert_allclose(fd.twist(box, 0.1)(flat), fd.rotate(box, 0.5)(flat), atol=1e-3)
    bent = fd.bend(box, 0.05)
    assert np.isfinite(bent(p)).all() and (np.asarray(bent(p)) < 0).any()


@pytest.mark.parametrize("shape", exact_solids, ids=lambda s: type(s).__name__)
def test_exact_shapes_have_unit_gradient_almost_everywhere(shape):
    gradient = jax.vmap(jax.grad(lambda p: shape(p)))(cloud(8, 2000))
    norm = jnp.sqrt(sum(c**2 for c in gradient))
    assert np.isfinite(norm).all()
    assert (np.abs(norm - 1) < 1e-2).mean() > 0.99


@pytest.mark.parametrize("shape", exact_solids, ids=lambda s: type(s).__name__)
def test_distance_is_to_the_nearest_surface_point(shape):
    """Walking the distance down the gradient lands on the surface."""
    p = cloud(9, 500)
    distance = shape(p)
    gradient = jax.vmap(jax.grad(lambda q: shape(q)))(p)
    landed = shape(fd.Point(*(c - distance * g for c, g in zip(p, gradient, strict=True))))
    assert (np.abs(landed) < 2e-2).mean() > 0.98


def test_polygon_distance_agrees_with_sampling_its_outline():
    vertices = np.array([[9, -3], [8, 7], [1, 2], [-6, 8], [-9, -7.5]], np.float32)
    t = np.linspace(0, 1, 4000)[:, None]
    outline = np.concatenate(
        [a + t * (b - a) for a, b in zip(vertices, np.roll(vertices, -1, 0), strict=True)]
    )
    points = np.random.default_rng(0).uniform(-12, 12, (300, 2)).astype(np.float32)
    nearest = np.sqrt(((points[:, None] - outline[None]) ** 2).sum(-1).min(1))
    got = shapes.polygon(vertices)(*points.T)
    np.testing.assert_allclose(np.abs(got), nearest, atol=1e-2)
    from matplotlib.path import Path

    clear = nearest > 1e-2
    np.testing.assert_array_equal(np.asarray(got < 0)[clear], Path(vertices).contains_points(points)[clear])


def test_a_star_has_its_tips_and_symmetry():
    star = shapes.star(6, 10.0, 0.4)
    tips = np.pi / 6 * 2 * np.arange(6)
    np.testing.assert_allclose(star(10 * np.sin(tips), 10 * np.cos(tips)), 0, atol=1e-4)
    points = np.random.default_rng(0).uniform(-12, 12, (2, 300))
    c, s = np.cos(np.pi / 3), np.sin(np.pi / 3)
    turned = np.array([[c, -s], [s, c]]) @ points
    np.testing.assert_allclose(star(*points), star(*turned), atol=1e-4)


QUICK = ("smooth", "many", "difference", "twist", "displace")


def build_all():
    ball = shapes.sphere(6.0)
    cube = shapes.box(5.0, 6.0, 7.0)
    return {
        "union": ball | fd.translate(cube, (3.0, 0, 0)),
        "smooth": fd.union(ball, cube, smooth=2.0),
        "many": fd.union(
            ball, [fd.translate(shapes.sphere(2.0), (3.0 * i, 1.0, 0)) for i in range(4)], smooth=2.0
        ),
        "intersection": ball & cube,
        "difference": cube - ball,
        "affine": fd.rotate(fd.shear(cube, 0.1), 0.4, (1.0, 1.0, 0)),
        "scale": fd.scale(cube, 1.5),
        "onion": fd.onion(ball, 1.0),
        "round": fd.round(cube, 1.0),
        "elongate": fd.elongate(ball, (1.0, 2.0, 3.0)),
        "repeat": fd.repeat(shapes.sphere(2.0), (6.0, 6.0, 6.0), (1.0, 1.0, 1.0)),
        "twist": fd.twist(cube, 0.05),
        "bend": fd.bend(cube, 0.02),
        "extrude": fd.extrude(shapes.star(5, 8.0, 0.4), 5.0, shapes.neck_taper(5.0, 2.0, 1.0), 1.0),
        "revolve": fd.revolve(shapes.circle(2.0), 6.0),
        "displace": fd.displace(ball, lambda p: 0.5 * jnp.sin(p.x) + 0 * (p.y + p.z)),
    }


@pytest.mark.parametrize("name", quick_of(build_all(), QUICK, "a program more"))
def test_every_shape_works_on_points_grids_jit_vmap_and_grad(name):
    shape, grid = build_all()[name], fd.Grid(6, 8, 10)
    on_grid = jax.jit(lambda s, p: s(p))(shape, grid.points())
    assert on_grid.shape == grid and on_grid.dtype == jnp.float32
    z, y, x = 1, 5, 7
    single = shape(fd.Point(jnp.float32(x - 5), jnp.float32(y - 4), jnp.float32(z - 3)))
    np.testing.assert_allclose(single, on_grid[z, y, x], atol=1e-4)
    # A batch of parameters.
    pair = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf, jnp.float32)] * 2), shape)
    batched = jax.vmap(lambda s: s(grid.points()))(pair)
    np.testing.assert_allclose(batched[1], on_grid, atol=1e-4)
    # Gradients with respect to the parameters, everywhere finite.
    floats = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), shape)
    gradient = jax.grad(lambda s: s(grid.points()).sum())(floats)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", quick_of(build_all(), QUICK, "a program more"))
def test_bounds_are_conservative(name):
    shape, p = build_all()[name], fd.Grid(48, 48, 48).points()
    for margin in (0.0, 2.0):
        near = np.asarray(shape(p) <= margin)
        lower, upper = shape.bounds(margin)
        where = np.argwhere(near)[:, ::-1] - 24
        assert (where >= np.asarray(lower) - 1e-3).all() and (where <= np.asarray(upper) + 1e-3).all()


def test_a_mapped_shape_is_an_intensity_field():
    field = fd.map(shapes.sphere(5.0), lambda d: jnp.clip(-d, 0, 1))
    assert float(field(fd.Point(0.0, 0.0, 0.0))) == 1 and float(field(fd.Point(9.0, 0.0, 0.0))) == 0
