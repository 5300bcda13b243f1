"""Sampled shapes against SciPy's interpolation, formulas and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.rendering.renderer import Renderer, Table
from fdif_jax.scenes.replay import PlacedObject
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.sampled import Library, Member, Sampled, _trilinear, inside_box
from fdif_jax.sdf.shape import Point
from fdif_jax.sdf.structure import Structure
from tests.helpers.reference import render_reference

SIZE = 24
STRAIGHT = np.eye(3)
TURN = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


# One program instead of one an operation.
distances = jax.jit(lambda shape, p: shape(p))


def trilinear(values, z, y, x):
    """Values at fractional indices into one grid."""
    return _trilinear(jnp.ravel(values), values.shape, 0, Point(x, y, z))


interpolated = jax.jit(trilinear)


def sampled(shape, size=SIZE, step=1.0, turn=STRAIGHT, shift=(0.0, 0.0, 0.0)):
    """Samples of ``shape`` on a cube of ``size`` samples, ``step`` apart, and local → index."""
    linear = turn.T / step
    inverse = np.column_stack([linear, (size - 1) / 2 - linear @ np.asarray(shift)])
    index = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij")[::-1]).reshape(3, -1)
    local = np.linalg.solve(linear, index - inverse[:, 3:])
    return np.asarray(distances(shape, Point(*local))).reshape(size, size, size), inverse


def points(seed, reach, count=4000):
    return Point(*np.random.default_rng(seed).uniform(-reach, reach, (3, count)).astype(np.float32))


BALL = Sampled.of(*sampled(shapes.sphere(8.0)))


# Few sizes, as each is compiled; axes of one sample among them, and each axis the longest once.
@given(st.sampled_from([(1, 1, 1), (2, 1, 5), (6, 3, 1), (1, 4, 2), (4, 5, 6)]), st.integers(0, 1000))
def test_trilinear_is_scipys_order_one(size, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=size).astype(np.float32)
    at = rng.uniform(-2, 8, (3, 50)).astype(np.float32)
    expected = ndimage.map_coordinates(values, at, order=1, mode="nearest")
    np.testing.assert_allclose(interpolated(values, *at), expected, atol=2e-5)


def test_trilinear_reads_half_floats_and_open_meshes():
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float16)
    z, y, x = (np.linspace(-1, n, 9, dtype=np.float32) for n in (5, 6, 7))
    got = interpolated(values, z[:, None, None], y[:, None], x)
    assert got.dtype == jnp.float32 and got.shape == (9, 9, 9)
    at = np.meshgrid(z, y, x, indexing="ij")
    expected = ndimage.map_coordinates(values.astype(np.float32), at, order=1, mode="nearest")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_trilinear_gradients_are_finite_differences():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 6)), jnp.float32)
    at = np.array([1.3, 2.6, 4.2], np.float32)
    got = jax.jit(jax.grad(lambda at: trilinear(values, *at)))(at)
    for axis in range(3):
        step = np.eye(3, dtype=np.float32)[axis] * 0.05
        slope = (interpolated(values, *(at + step)) - interpolated(values, *(at - step))) / 0.1
        np.testing.assert_allclose(got[axis], slope, atol=1e-4)
    weights = jax.jit(jax.grad(lambda v: trilinear(v, *at)))(values)
    np.testing.assert_allclose(jnp.sum(weights), 1, atol=1e-6)
    np.testing.assert_allclose(jnp.vdot(weights, values), interpolated(values, *at), atol=1e-5)


@pytest.mark.parametrize("step, shift", [(1.0, (0, 0, 0)), (0.9, (1.0, -0.7, 0.4))])
@pytest.mark.parametrize("turn", [STRAIGHT, TURN])
def test_distances_within_the_grid_are_those_sampled(step, shift, turn):
    shape = shapes.torus(6.0, 3.0)
    got = Sampled.of(*sampled(shape, step=step, turn=turn, shift=shift))
    p = points(0, 6.0)
    error = np.abs(distances(got, p) - distances(shape, p))
    assert error.max() <= 0.75 * step  # at the kinks; elsewhere far less
    assert error.mean() < 0.05


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.8]))
def test_outside_the_grid_it_is_a_positive_bound(seed, step):
    shape = shapes.box(3.0, 5.0, 7.0)
    got = Sampled.of(*sampled(shape, size=20, step=step, turn=TURN))
    p = points(seed, 60.0, 500)
    distance, true = np.asarray(distances(got, p)), np.asarray(distances(shape, p))
    outside = true > 1
    assert (distance[outside] > 0).all()
    assert (distance[outside] <= true[outside] + 0.1 * step).all()
    assert (distance[outside] >= 0.6 * true[outside]).all()


def test_it_is_continuous_where_the_grid_ends():
    line = np.linspace(-30, 30, 60001, dtype=np.float32)
    values = np.asarray(distances(BALL, Point(line, 0.4 * line, 0.3 * line)))
    assert np.abs(np.diff(values)).max() < 3e-3


@given(st.integers(0, 10_000), st.floats(0, 12))
def test_bounds_hold_for_any_samples(seed, margin):
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.normal(size=(7, 8, 9)), 1.0) * 8
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shape = Sampled.of(values, np.column_stack([turn, rng.uniform(2, 6, 3)]))
    p = points(seed, 25.0)
    box = shape.bounds(margin)
    beyond = np.zeros(p.x.shape, bool)
    for c, low, high in zip(p, *map(np.asarray, box), strict=True):
        beyond |= (c < low - 1e-3) | (c > high + 1e-3)
    assert (np.asarray(distances(shape, p))[beyond] > margin).all()


def test_the_box_of_a_ball_is_tight():
    lower, upper = inside_box(BALL.values, BALL.inverse)
    np.testing.assert_allclose(upper, 8, atol=0.1)
    np.testing.assert_allclose(lower, -8, atol=0.1)


def test_gradients_to_points_are_finite_differences():
    at = jnp.asarray([[3.3, -4.2, 5.1], [1.2, 2.7, -0.6], [25.0, 3.1, -14.2]])
    gradient = jax.jit(jax.grad(lambda q: BALL(Point(*q))))
    for point in at:
        got = gradient(point)
        for axis in range(3):
            step = 0.02 * np.eye(3)[axis]
            slope = distances(BALL, Point(*(point + step))) - distances(BALL, Point(*(point - step)))
            np.testing.assert_allclose(got[axis], slope / 0.04, atol=2e-3)


def test_gradients_flow_into_the_samples_and_fit_them():
    target, p = shapes.sphere(6.0), points(3, 11.0, 1000)

    @jax.jit
    def loss(values):
        return jnp.mean(jnp.square(Sampled(values, *leaves)(p) - target(p)))

    leaves = jax.tree.leaves(BALL)[1:]
    values, before = BALL.values, loss(BALL.values)
    gradient = jax.jit(jax.grad(loss))
    for _ in range(60):
        values = values - 200.0 * gradient(values)
    assert loss(values) < before / 50


def test_it_is_an_ordinary_shape():
    shape = fd.union(BALL, fd.translate(shapes.box(4.0), (7.0, 0.0, 0.0)), smooth=2.0)
    shape = fd.displace(fd.rotate(shape, 0.3), jax.tree_util.Partial(lambda p: 0.5 * jnp.sin(p.x)))
    image = fd.map(shape, jax.tree_util.Partial(lambda d: 128 / (jnp.abs(d) ** 3 + 1)))
    formula = fd.union(shapes.sphere(8.0), fd.translate(shapes.box(4.0), (7.0, 0.0, 0.0)), smooth=2.0)
    formula = fd.displace(fd.rotate(formula, 0.3), jax.tree_util.Partial(lambda p: 0.5 * jnp.sin(p.x)))
    p = Grid(24, 24, 24).points()
    near = np.abs(distances(formula, p)) < 3
    got, true = (np.asarray(distances(s, p)) for s in (shape, formula))
    np.testing.assert_allclose(got[near], true[near], atol=0.25)
    assert np.asarray(distances(image, p)).max() > 100


def test_it_is_batched_by_vmap():
    moved = jax.vmap(lambda d: fd.translate(BALL, (d, 0.0, 0.0)))(jnp.asarray([0.0, 2.0]))
    batch = jax.tree.map(lambda a, b: jnp.stack([a, b]), BALL, Sampled.of(*sampled(shapes.sphere(5.0))))
    at = Point(1.0, 2.0, 3.0)
    both = jax.jit(jax.vmap(lambda s: s(at)))
    np.testing.assert_allclose(
        both(moved), [distances(BALL, at), distances(BALL, Point(-1.0, 2.0, 3.0))], rtol=1e-5
    )
    np.testing.assert_allclose(both(batch)[1], np.sqrt(14) - 5, atol=0.1)


FORMULAS = (shapes.sphere(7.0), shapes.box(3.0, 5.0, 7.0), shapes.torus(6.0, 2.5))
SAMPLES = [sampled(f) for f in FORMULAS]
LIBRARY = Library.of(
    np.stack([v for v, _ in SAMPLES]), np.stack([i for _, i in SAMPLES]), ("ball", "box", "ring")
)


@pytest.mark.parametrize("number, name", list(enumerate(LIBRARY.names)))
def test_a_member_is_the_sampled_shape(number, name):
    p = points(number, 30.0)
    member, alone = LIBRARY.member(name), Sampled.of(*SAMPLES[number])
    np.testing.assert_allclose(distances(member, p), distances(alone, p), atol=0.02)  # half floats
    for mine, other in zip(member.bounds(2.0), alone.bounds(2.0), strict=True):
        np.testing.assert_allclose(mine, other, atol=0.02)


def test_members_share_a_structure_and_libraries_do_not():
    other = Library.of(LIBRARY.stack, LIBRARY.inverse, LIBRARY.names)
    assert Structure.of(LIBRARY.member("ball")) == Structure.of(LIBRARY.member("ring"))
    assert Structure.of(LIBRARY.member("ball")) != Structure.of(other.member("ball"))
    assert Structure.of(LIBRARY.member("ball")).width == 1


def test_a_library_made_while_tracing_is_a_constant():
    made = []

    @jax.jit
    def value(x):
        made.append(Library.of(np.stack([SAMPLES[0][0]]), np.stack([SAMPLES[0][1]]), ["ball"]))
        return made[0].member("ball")(Point(x, 0.0, 0.0))

    np.testing.assert_allclose(value(3.0), -4, atol=0.1)
    np.testing.assert_allclose(made[0].member("ball")(Point(2.0, 0.0, 0.0)), -5, atol=0.2)


def test_a_library_too_large_for_its_index_says_so():
    huge = np.broadcast_to(np.float16(1), (40_000, 48, 48, 48))
    with pytest.raises(fd.FdifError, match="fewer members"):
        Library.of(huge, LIBRARY.inverse, ["a"] * 40_000)


@pytest.mark.slow("a program of organs")
def test_the_renderer_draws_members_as_defined():
    grid = Grid(24, 28, 20)
    mappers = tuple(shapes.published.mapper(name) for name in ("inverse_cube", "linear_slope_10.0"))
    displacement = shapes.published.displacement("ridge_coarse")
    placed = []
    for i, name in enumerate(("box", "ring", "ball", "box")):
        shape = fd.scale(Member(LIBRARY.names.index(name) * 1.0, LIBRARY), 0.5 + 0.2 * i)
        inverse = fd.rotate(shape, 0.5 * i, (1.0, 1.0, 0.3 * i)).inverse.at[:, 3].set(3.0 * i - 4)
        field = displacement if i % 2 else None
        placed.append(PlacedObject(shape, inverse, field, mappers[i % 2], (i + 1,), i))
    structure = Structure.of(placed[0].shape)
    renderer = Renderer(grid, (structure,), (displacement,), mappers, 4)
    n = len(placed)
    table = Table(
        jnp.int32(n),
        jnp.zeros(n, jnp.int32),
        jnp.stack([structure.pack(o.shape, structure.width) for o in placed]),
        jnp.stack([o.inverse for o in placed]),
        jnp.asarray([i % 2 for i in range(n)]),
        jnp.asarray([i % 2 for i in range(n)]),
        jnp.asarray([o.label for o in placed]),
    )
    image, label = jax.jit(renderer)(table)
    expected_image, expected_label = render_reference(grid, placed)
    assert np.unique(label).size == 5
    np.testing.assert_array_equal(label, expected_label)
    assert np.abs(np.asarray(image, int) - np.asarray(expected_image, int)).max() <= 1
