"""What shapes are called with and made of: every form means the same, and what is wrong is one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError

BALL, GRID = shapes.sphere(3.0), fd.Grid(3, 4, 5)
SHAPES = [BALL, fd.extrude(shapes.circle(2.0), 1.5)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_every_form_of_points_gives_the_same_distances(shape):
    array = np.arange(60.0).reshape(10, 2, 3) - 20
    columns = np.moveaxis(array, -1, 0)
    expected = shape(fd.Point(*jnp.asarray(columns, jnp.float32)))
    assert expected.shape == (10, 2) and expected.dtype == jnp.float32
    for given in ([array], [array.tolist()], [array.astype(np.int16)], [tuple(columns)], list(columns)):
        d = shape(*given)
        assert d.dtype == jnp.float32
        np.testing.assert_array_equal(d, expected)
    np.testing.assert_allclose(shape(1, 2, 3), shape(fd.Point(1.0, 2.0, 3.0)))
    np.testing.assert_allclose(shape((1, 2, 3)), shape([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(shape(GRID), np.broadcast_to(shape(GRID.points()), GRID))
    np.testing.assert_allclose(jax.vmap(shape)(jnp.asarray(array, jnp.float32)), expected, atol=1e-5)


def test_three_arrays_broadcast_to_the_shape_of_all():
    z = np.arange(3.0).reshape(3, 1, 1)
    assert shapes.sphere(3.0)(0.0, np.zeros(4), z).shape == (3, 1, 4)


def test_a_point_costs_a_compiled_program_nothing():
    """What is traced for a point is what the class's own formula is, to the letter."""
    raw = type(BALL).__call__.__wrapped__
    p = GRID.points()
    assert str(jax.make_jaxpr(lambda s, p: s(p))(BALL, p)) == str(jax.make_jaxpr(raw)(BALL, p))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a",), "called with 'a'"),
        ((None,), "called with None"),
        ((3.0,), "called with 3.0"),
        ((np.zeros((3, 4)),), "an array of shape (3, 4)"),
        (((1, 2),), "called with (1, 2)"),
        ((1, 2), "called with (1, 2)"),
        ((fd.Point("a", 1, 2),), "a coordinate is 'a'"),
        ((np.zeros((2, 3)) + 1j,), "an array of shape (2, 3)"),
        ((np.zeros(3), np.zeros(4), 0.0), "coordinates of shapes (3,), (4,), () do not broadcast"),
        ((BALL,), "called with a Sphere"),
        (([[1, 2], [3]],), "a coordinate is [[1, 2], [3]]"),
    ],
)
def test_anything_else_is_one_line(given, says):
    with pytest.raises(FdifError) as error:
        BALL(*given)
    message = str(error.value)
    assert message.startswith("Sphere: ") and says in message and "a Grid" in message and "\n" not in message


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BALL | None, "|: shape 2 is None; it should be a shape, as shapes.sphere(5.0)"),
        (lambda: BALL - 3, "-: shape 2 is 3; it should be a shape"),
        (lambda: fd.union(), "union: there is no shape"),
        (lambda: fd.union(BALL, shapes.sphere), "union: shape 2 is the function sphere, not called"),
        (lambda: fd.union(BALL, BALL, smooth=-1), "union: smooth is -1.0; it should be at least 0"),
        (lambda: shapes.sphere("a"), "sphere: radius is 'a'; it should be one number greater than 0"),
        (lambda: shapes.sphere(-1.0), "sphere: radius is -1.0; it should be greater than 0"),
        (lambda: shapes.sphere(float("nan")), "sphere: radius is nan"),
        (
            lambda: shapes.sphere(jnp.ones(2)),
            "sphere: radius is an array of shape (2,); it should be one number",
        ),
        (lambda: shapes.box((1, 2)), "box: x is (1, 2); it should be one number"),
        (lambda: shapes.box(1, -2, 3), "box: y is -2.0; it should be greater than 0"),
        (lambda: fd.extrude(shapes.sphere, 2.0), "extrude: profile is the function sphere, not called"),
        (
            lambda: fd.extrude(BALL, 2.0),
            "extrude: profile is a Sphere; it should be a profile, as shapes.circle",
        ),
        (lambda: fd.extrude(shapes.circle(2.0), 2.0, 0.5), "extrude: taper is 0.5; it should be a taper"),
        (
            lambda: fd.scale(BALL, (1, 0, 1)),
            "scale: factor is (1.0, 0.0, 1.0); it should be 3 finite numbers, > 0",
        ),
        (
            lambda: fd.rotate(BALL, 1.0, (0, 0, 0)),
            "rotate: axis is (0.0, 0.0, 0.0); it should be a direction",
        ),
        (
            lambda: fd.rotate(BALL, 1.0, "w"),
            "rotate: axis is 'w'; it should be 'x', 'y', 'z' or three numbers",
        ),
        (lambda: fd.translate(BALL, 3.0), "translate: offset is 3.0; it should be 3 numbers"),
        (lambda: fd.repeat(BALL, (0, 1, 1)), "repeat: spacing is (0.0, 1.0, 1.0)"),
        (lambda: fd.displace(BALL, 3.0), "displace: field is no function but a float"),
        (lambda: fd.transform(BALL, np.eye(3)), "transform: matrix has the shape (3, 3)"),
        (lambda: shapes.star(2, 5.0, 0.5), "star: tips is 2; it should be a whole number of at least 3"),
        (lambda: shapes.polygon([[1, 2]]), "polygon: vertices is [[1, 2]]; it should be 3 or more points"),
    ],
)
def test_what_a_shape_is_made_of_is_checked(make, says):
    with pytest.raises(FdifError) as error:
        make()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_one_would_expect_is_taken():
    p = np.random.default_rng(0).uniform(-6, 6, (50, 3))
    other = shapes.box((1, 2, 3))
    np.testing.assert_array_equal(other(p), shapes.box(1.0, 2.0, 3.0)(p))
    np.testing.assert_array_equal(fd.union([BALL, other])(p), (BALL | other)(p))
    np.testing.assert_array_equal(fd.union(BALL, other, smooth=0.0)(p), (BALL | other)(p))
    assert float(jax.jit(lambda k: fd.union(BALL, BALL, smooth=k)(0.0, 0.0, 0.0))(0.0)) == -3
    # Stretched, a ball is an ellipsoid: where it ends is known, and nothing is farther than it seems.
    stretched = fd.scale(BALL, jnp.array([1, 2, 3]))
    np.testing.assert_array_equal(stretched(p) < 0, ((p / [3, 6, 9]) ** 2).sum(-1) < 1)
    slope = jnp.linalg.norm(jax.vmap(jax.grad(stretched))(jnp.asarray(p, jnp.float32)), axis=-1)
    assert (slope <= 1 + 1e-5).all()


def test_values_that_are_traced_pass():
    @jax.jit
    @jax.vmap
    def distance(r):
        made = fd.translate(fd.scale(shapes.box(r, r, r), (r, 1.0, r)), (r, 0.0, 0.0))
        return fd.rotate(made, r, (r, 0.0, 1.0))(1.0, 2.0, 3.0)

    assert np.isfinite(distance(jnp.arange(1.0, 4.0))).all()
    with pytest.raises(FdifError, match=r"radius is an array of shape \(3,\)"):
        jax.jit(lambda r: shapes.sphere(r)(0.0, 0.0, 0.0))(jnp.ones(3))
