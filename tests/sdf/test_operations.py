"""Operations on shapes against evaluations of their own in NumPy's float64, and the laws that they keep."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError
from fdif_jax.sdf.operations.deformations import EASINGS
from fdif_jax.sdf.sampled import Sampled

AT = np.concatenate([np.random.default_rng(0).uniform(-r, r, (150, 3)) for r in (14, 6)])
SPECIAL = np.array([[x, y, z] for x in (-5, 0, 5) for y in (-5, 0, 5) for z in (-5, 0, 5)], float)
KEY = jax.random.key(3)
BOX, BALL = shapes.box(7, 5, 3), fd.translate(shapes.sphere(5), (5, 3, 2))
ROD = shapes.capsule((2, 1, -4), (8, 2, 5), 1.5)


def box(p, half=(7, 5, 3)):
    beyond = np.abs(p) - half
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)


def ball(p):
    return np.linalg.norm(p - [5, 3, 2], axis=-1) - 5


def rod(p):
    a, b = np.array([2.0, 1, -4]), np.array([8.0, 2, 5])
    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(p - a - t[:, None] * (b - a), axis=-1) - 1.5


def circle_or_square(p, share):
    return (np.hypot(p[:, 0], p[:, 1]) - 4) * (1 - share) + box(p[:, :2], (6, 2)) * share


def stairs(a, b, size, steps):
    step = size / steps
    tooth = np.abs(np.mod(b - size - a + step, 2 * step) - step)
    return np.minimum(np.minimum(a, b), (b - size + a + tooth) / 2)


def chamfer(a, b, size):
    return np.minimum(np.minimum(a, b), (a + b - size) / np.sqrt(2))


def fillet(a, b, r):
    return np.where((a < r) & (b < r), r - np.hypot(r - a, r - b), np.minimum(a, b))


def sector(p, count, axis_last):
    """Points turned by whole sectors until they are nearest to the x axis."""
    p = p[:, axis_last]
    turns = np.stack([p @ Rotation.from_euler("z", 2 * np.pi * k / count).as_matrix() for k in range(count)])
    return np.take_along_axis(turns, turns[..., 0].argmax(0)[None, :, None], 0)[0]


def bent(p):
    share = np.clip((p[:, 2] + 4) / 8, 0, 1)
    return box(p - (3 * share**2 - 2 * share**3)[:, None] * [3, -2, 0])


def wrapped(p):
    turn = np.mod(np.arctan2(p[:, 1], p[:, 0]) / (2 * np.pi) + 0.5, 1)
    return box(np.stack([-20 + 40 * turn, np.hypot(p[:, 0], p[:, 1]) - 20 / np.pi, p[:, 2]], -1), (15, 2, 3))


def attracted(p, strength):
    offset = p - [1, 2, 3]
    return box(
        [1, 2, 3] + offset * (1 + strength * np.exp(-np.linalg.norm(offset, axis=1, keepdims=True) / 4))
    )


def slab_of(d, p, half):
    above = np.abs(p[:, 2]) - half
    return np.hypot(np.maximum(d, 0), np.maximum(above, 0)) + np.minimum(np.maximum(d, above), 0)


def mixed(x, y, z):
    h = np.uint32(x * 73856093 & 0xFFFFFFFF) ^ np.uint32(y * 19349663 & 0xFFFFFFFF)
    return h ^ np.uint32(z * 83492791 & 0xFFFFFFFF)


def hashed(x, y, z, seed):
    h = int(mixed(x, y, z)) ^ seed
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ h >> shift) * factor % 2**32
    return h ^ h >> 16


EDGES = [(1, 1, 0), (-1, 1, 0), (1, -1, 0), (-1, -1, 0), (1, 0, 1), (-1, 0, 1), (1, 0, -1), (-1, 0, -1)]
EDGES += [(0, 1, 1), (0, -1, 1), (0, 1, -1), (0, -1, -1), (1, 1, 0), (0, -1, 1), (-1, 1, 0), (0, -1, -1)]


def perlin(p, seed):
    cell = np.floor(p).astype(int)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        t = np.abs(p - cell - corner)
        weight = np.prod(1 - t**3 * (t * (t * 6 - 15) + 10))
        total += weight * np.dot(EDGES[hashed(*map(int, cell + corner), seed) & 15], p - cell - corner)
    return total / np.sqrt(1.5)


def octaves(p, seed, scale, count, of):
    seeds = [(seed + k * 0x9E3779B9) % 2**32 for k in range(count)]
    weights = 0.5 ** np.arange(count)
    values = [[of(q * 2**k / scale, s) for q in p] for k, s in enumerate(seeds)]
    return weights @ np.array(values) / weights.sum()


def worley(p, seed):
    cell = np.floor(p).astype(int)
    found = []
    for step in np.ndindex(3, 3, 3):
        at = cell + step - 1
        place = at + [(hashed(*map(int, at), (seed + i) % 2**32) >> 8) / 2**24 for i in range(3)]
        found.append(np.linalg.norm(p - place))
    return min(found)


def seed_of(noise):
    return int(noise.seed)


NOISE = {
    "perlin": fd.noise.perlin(KEY, 6.0, 2.0, octaves=2),
    "turbulence": fd.noise.turbulence(KEY, 6.0, 2.0, octaves=2),
    "ridge": fd.noise.ridge(KEY, 6.0, 2.0, octaves=1),
    "worley": fd.noise.worley(KEY, 6.0, 2.0),
}
FIELDS = {
    "perlin": (2, perlin),
    "turbulence": (2, lambda p, s: abs(perlin(p, s))),
    "ridge": (1, lambda p, s: (1 - abs(perlin(p, s))) ** 2),
    "worley": (1, worley),
}
NORMAL = np.array([1.0, 2, 2]) / 3
CASES = {
    "xor": (BOX ^ BALL, lambda p: np.maximum(np.minimum(box(p), ball(p)), -np.maximum(box(p), ball(p)))),
    "many": (
        fd.union(BOX, [fd.translate(ROD, (0, i, 0)) for i in range(5)]),
        lambda p: np.min([box(p), *(rod(p - [0, i, 0]) for i in range(5))], axis=0),
    ),
    "complement": (~BOX, lambda p: -box(p)),
    "mirror": (
        fd.mirror(ROD, (1, 2, 2), (1, 0, 0)),
        lambda p: rod(p - 2 * ((p - [1, 0, 0]) @ NORMAL)[:, None] * NORMAL),
    ),
    "symmetric": (
        fd.symmetric(BALL, (1, 2, 2)),
        lambda p: ball(p - 2 * np.minimum(p @ NORMAL, 0)[:, None] * NORMAL),
    ),
    "repeat_around": (fd.repeat_around(ROD, 5), lambda p: rod(sector(p, 5, [0, 1, 2]))),
    "repeat_without_end": (
        fd.repeat(shapes.sphere(2), (7, 8, 9)),
        lambda p: np.linalg.norm(p - np.round(p / [7, 8, 9]) * [7, 8, 9], axis=1) - 2,
    ),
    "scale": (fd.scale(shapes.box(7, 5, 3), (0.5, 1, 2)), lambda p: 0.5 * box(p / [0.5, 1, 2])),
    "rotate_to": (
        fd.rotate_to(ROD, (0, 0, 1), (1, 2, 2)),
        lambda p: rod(p @ Rotation.align_vectors([NORMAL], [[0, 0, 1]])[0].as_matrix()),
    ),
    "twist": (
        fd.twist(BOX, 0.1, "x"),
        lambda p: box(
            np.stack([
                p[:, 0],
                np.cos(0.1 * p[:, 0]) * p[:, 1] + np.sin(0.1 * p[:, 0]) * p[:, 2],
                np.cos(0.1 * p[:, 0]) * p[:, 2] - np.sin(0.1 * p[:, 0]) * p[:, 1],
            ], -1)
        ),
    ),
    "bend": (
        fd.bend(BALL, 0.05, "y"),
        lambda p: ball(
            np.stack([
                np.cos(0.05 * p[:, 0]) * p[:, 0] + np.sin(0.05 * p[:, 0]) * p[:, 2],
                p[:, 1],
                np.cos(0.05 * p[:, 0]) * p[:, 2] - np.sin(0.05 * p[:, 0]) * p[:, 0],
            ], -1)
        ),
    ),
    "displacement": (
        fd.displace(BALL, shapes.published.displacement("sharpmax_fine")),
        lambda p: ball(p) + 0.03 * 47 * np.abs(np.sin(40 * p / 47)).max(-1),
    ),
    "bend_between": (fd.bend_between(BOX, (0, 0, -4), (0, 0, 4), (3, -2, 0)), bent),
    "wrap_around": (fd.wrap_around(shapes.box(15, 2, 3), -20, 20), wrapped),
    "attract": (fd.attract(BOX, (1, 2, 3), 4, 0.8), lambda p: attracted(p, 0.8)),
    "repel": (fd.attract(BOX, (1, 2, 3), 4, -0.5), lambda p: attracted(p, -0.5)),
    "transition": (
        fd.transition(BOX, BALL, (-4, 0, 0), (6, 0, 0), "linear"),
        lambda p: box(p) + np.clip((p[:, 0] + 4) / 10, 0, 1) * (ball(p) - box(p)),
    ),
    "loft": (
        fd.loft(shapes.circle(4), shapes.rectangle(6, 2), 5, "in_quad"),
        lambda p: slab_of(circle_or_square(p, np.clip(p[:, 2] / 10 + 0.5, 0, 1) ** 2), p, 5),
    ),
    "morph": (fd.morph(BOX, BALL, 0.3), lambda p: 0.7 * box(p) + 0.3 * ball(p)),
    "chamfer": (fd.union(BOX, BALL, smooth=fd.chamfer(3)), lambda p: chamfer(box(p), ball(p), 3)),
    "chamfered_difference": (
        fd.difference(BOX, BALL, smooth=fd.chamfer(3)),
        lambda p: -chamfer(-box(p), ball(p), 3),
    ),
    "fillet": (fd.union(BOX, BALL, smooth=fd.fillet(3)), lambda p: fillet(box(p), ball(p), 3)),
    "stairs": (
        fd.intersection(BOX, BALL, smooth=fd.stairs(4, 3)),
        lambda p: -stairs(-box(p), -ball(p), 4, 3),
    ),
    "groove": (
        fd.groove(BOX, BALL, 1, 2),
        lambda p: np.maximum(box(p), np.minimum(box(p) + 1, 1 - np.abs(ball(p)))),
    ),
    "tongue": (
        fd.tongue(BOX, BALL, 1, 2),
        lambda p: np.minimum(box(p), np.maximum(box(p) - 1, np.abs(ball(p)) - 1)),
    ),
    "bounded": (
        fd.bounded(shapes.slab(2, "x"), ((-9, -4, -3), (9, 6, 1))),
        lambda p: np.maximum(np.abs(p[:, 0]) - 2, box(p - [0, 1, -1], (9, 5, 2))),
    ),
    "slice": (fd.extrude(fd.slice(BALL, 3), 4), lambda p: slab_of(ball(p * [1, 1, 0] + [0, 0, 3]), p, 4)),
    "slice_along_x": (
        fd.extrude(fd.slice(BOX, 2, "x"), 4),
        lambda p: slab_of(box(np.stack([np.full(len(p), 2.0), p[:, 1], p[:, 0]], -1)), p, 4),
    ),
    "normalise": (fd.normalise(fd.scale(BOX, (2, 2, 2))), lambda p: 2 * box(p / 2)),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured():
    """Distances and gradients of all cases at all places; a program each: one of all takes far longer to compile."""

    @jax.jit
    def one(shape, p):
        d, back = jax.vjp(lambda *p: jnp.broadcast_to(shape(fd.Point(*p)), p[0].shape), *p)
        return d, jnp.stack(back(jnp.ones_like(d)), -1)

    p = jnp.asarray(np.concatenate([AT, SPECIAL]).T, jnp.float32)
    made = {name: shape for name, (shape, _) in CASES.items()} | NOISE
    return {name: tuple(map(np.asarray, one(shape, p))) for name, shape in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_operations_agree_with_numpy(name, measured):
    (_, reference), (d, gradient) = CASES[name], measured[name]
    expected, d = reference(AT), d[: len(AT)]
    np.testing.assert_allclose(d, expected, atol=2e-5)
    np.testing.assert_array_equal(d < 0, expected < 0)
    assert (expected < 0).any() and (expected > 0).any()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_what_is_near(name, measured):
    d, p = measured[name][0], np.concatenate([AT, SPECIAL])
    unbounded = {"complement", "repeat_without_end", "normalise"}
    for margin in (0.0, 2.0):
        lower, upper = map(np.asarray, CASES[name][0].bounds(margin))
        near = p[d <= margin]
        assert (near >= lower - 1e-3).all() and (near <= upper + 1e-3).all()
        assert np.isfinite([lower, upper]).all() == (name not in unbounded)


@pytest.mark.parametrize("kind", NOISE)
def test_noise_is_that_of_its_hash(kind, measured):
    count, of = FIELDS[kind]
    d, gradient = measured[kind]
    expected = 2 * octaves(AT[:60], seed_of(NOISE[kind]), 6.0, count, of)
    np.testing.assert_allclose(d[:60], expected, atol=2e-5)
    assert np.isfinite(gradient).all() and (np.abs(d) <= 2 * 3**0.5).all()
    assert d.min() >= -float(NOISE[kind].reach) and d.std() > 0.1


def test_noise_is_decided_by_its_key_and_swells_no_farther_than_bounds_say():
    p = AT[:50]
    one, other = (fd.displace(BALL, fd.noise.perlin(jax.random.key(k), 6.0, 2.0)) for k in (0, 1))
    assert not np.allclose(one(p), other(p))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    np.testing.assert_allclose(one.bounds().upper, np.asarray(BALL.bounds(2.0).upper))
    carved = fd.displace(BALL, fd.noise.ridge(KEY, 6.0, 2.0))
    np.testing.assert_allclose(carved.bounds().upper, BALL.bounds().upper)
    told = fd.displace(BALL, lambda p: jnp.sin(p.x), reach=1.0)
    np.testing.assert_allclose(told.bounds().upper, BALL.bounds(1.0).upper)


def at_all(*made):
    """The distances of shapes in one program."""
    return jax.jit(lambda p: [shape(p) for shape in made])(jnp.asarray(AT, jnp.float32))


def test_laws():
    turned = fd.rotate(ROD, 2 * np.pi / 5)
    away, back = fd.rotate_to(ROD, (1, 0, 2), (0, 3, 1)), fd.rotate_to(ROD, "z", (0, 0, -1))
    once = fd.symmetric(BALL)
    found = at_all(
        *(ROD, fd.mirror(fd.mirror(ROD, (1, 2, 3), (1, 1, 0)), (1, 2, 3), (1, 1, 0))),
        *(once, fd.symmetric(once), fd.symmetric(ROD, "x"), ROD | fd.mirror(ROD)),
        *(fd.repeat_around(ROD, 5), fd.rotate(fd.repeat_around(ROD, 5), 2 * np.pi / 5)),
        *(ROD, fd.rotate_to(away, (0, 3, 1), (1, 0, 2)), fd.rotate_to(back, "z", (0, 0, -1))),
        *(fd.morph(ROD, BOX, 0), ROD, fd.morph(ROD, BOX, 1), BOX, BOX ^ BALL, (BOX | BALL) - (BOX & BALL)),
        *(~~BOX, BOX, ~(BOX & BALL), ~BOX | ~BALL, turned, fd.rotate(ROD, -8 * np.pi / 5)),
    )
    pairs = [
        (0, 1),
        (2, 3),
        (4, 5),
        (6, 7),
        (8, 9),
        (8, 10),
        (11, 12),
        (13, 14),
        (15, 16),
        (17, 18),
        (19, 20),
    ]
    for one, other in [*pairs, (21, 22)]:
        np.testing.assert_allclose(found[one], found[other], atol=3e-5, err_msg=f"{one} {other}")
    # The direction itself arrives where it should.
    marked = fd.rotate_to(fd.translate(shapes.sphere(1), (0, 0, 6)), "z", (2, 3, 6))
    assert float(marked(12 / 7, 18 / 7, 36 / 7)) == pytest.approx(-1, abs=1e-4)


def test_easings_go_from_0_to_1_and_never_back():
    t = jnp.linspace(0, 1, 101)
    for name, easing in EASINGS.items():
        values = np.asarray(easing(t))
        assert values[0] == pytest.approx(0, abs=1e-6) and values[-1] == pytest.approx(1, abs=1e-6), name
        assert (np.diff(values) >= -1e-6).all(), name


def test_normalise_makes_slopes_those_of_a_distance_near_the_surface():
    ellipsoid = fd.scale(shapes.sphere(4), (1, 2, 3))
    direction = np.random.default_rng(1).normal(size=(200, 3))
    surface = direction / np.linalg.norm(direction / [4, 8, 12], axis=1, keepdims=True)
    normal = surface / np.square([4.0, 8, 12])
    outside = surface + 0.05 * normal / np.linalg.norm(normal, axis=1, keepdims=True)
    before, after = jax.jit(lambda p: (ellipsoid(p), fd.normalise(ellipsoid, 1.0)(p)))(jnp.asarray(outside))
    np.testing.assert_allclose(after, 0.05, atol=2e-3)
    assert np.min(before) < 0.03
    np.testing.assert_array_equal(fd.normalise(ellipsoid, 1.0).bounds(2.0), ellipsoid.bounds(2.0))


def test_operations_are_methods_and_shapes_are_readable_and_kept():
    made = shapes.sphere(3).translate((2, 0, 0)).union(BOX, smooth=2.0).twist(0.1)
    same = fd.twist(fd.union(fd.translate(shapes.sphere(3), (2, 0, 0)), BOX, smooth=2.0), 0.1)
    assert jax.tree.structure(made) == jax.tree.structure(same) and repr(made) == repr(same)
    assert repr(made).startswith("Twisted(shape=Union(first=Affine(shape=Sphere(radius=3), inverse=[[ 1.")
    assert "\n" not in repr(made) and {"translate", "bounds", "morph"} <= set(dir(made))
    assert repr(Sampled.of(np.ones((3, 4, 5)), np.eye(3, 4))).startswith(
        "Sampled(values=float32 (3, 4, 5), inv"
    )
    wavy = fd.displace(shapes.sphere(3), lambda p, height=2.5: height * p.x)
    assert "field=Captured(numbers=(2.5,), text=" in repr(wavy) and len(repr(wavy)) < 240
    with pytest.raises(AttributeError, match="a Twisted has no attribute 'squeeze'"):
        made.squeeze(1)

    @fd.node
    class Scale(fd.Shape):
        scale: float  # a field called as an operation

        def __call__(self, p):
            return p.x - self.scale

    assert Scale(3.0).scale == 3.0 and float(Scale(3.0)(4, 0, 0)) == 1
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'scale'"):
        Scale()
    for shape, _ in CASES.values():
        again = pickle.loads(pickle.dumps(shape))
        assert jax.tree.structure(again) == jax.tree.structure(shape) and repr(again) == repr(shape)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fd.chamfer(0), "chamfer: size is 0.0; it should be greater than 0"),
        (lambda: fd.stairs(3, 2.5), "stairs: steps is 2.5; it should be a whole number of at least 1"),
        (lambda: fd.mirror(BOX, "w"), "mirror: normal is 'w'; it should be 'x', 'y', 'z' or three numbers"),
        (lambda: fd.repeat_around(BOX, 0), "repeat_around: number is 0; it should be a whole number"),
        (lambda: fd.loft(BOX, shapes.circle(2), 3), "loft: first is a Cuboid; it should be a profile"),
        (lambda: fd.transition(BOX, BALL, (0, 0, 0), (1, 0, 0), "fast"), "easing is 'fast'; it should be one of"),
        (lambda: fd.wrap_around(BOX, 3, 1), "wrap_around: end - start is -2.0; it should be greater than 0"),
        (lambda: fd.attract(BOX, (0, 0, 0), 3, -1), "attract: strength is -1.0; it should be greater than -1"),
        (lambda: fd.bounded(BOX, 3), "bounded: box is 3; it should be a Box, or two points"),
        (lambda: fd.noise.perlin(3, 4.0), "perlin: key is 3; it should be a key, as jax.random.key(0)"),
        (lambda: fd.union(shapes.circle(2), BOX), "union: shape 2 is a Cuboid; it should be a profile"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(make, says):
    with pytest.raises(FdifError) as error:
        make()
    assert says in str(error.value)


def test_every_class_of_shapes_is_found_where_learned_families_name_it():
    assert len(CASES) > 20
    for shape in [*(shape for shape, _ in CASES.values()), *NOISE.values()]:
        if type(shape).__module__.startswith("fdif_jax.sdf."):
            assert getattr(fd.sdf, type(shape).__name__) is type(shape)


def test_voxels_are_the_centres_in_a_shape():
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in (9, 12, 17)), indexing="ij")
    expected = (abs(x) <= 7) & (abs(y) <= 5) & (abs(z) <= 3)
    for grid in (fd.Grid(9, 12, 17), (9, 12, 17)):
        found = BOX.voxels(grid)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, expected)
    for wrong in (9, (9, 12), (9, 12, 0), (9, 12, 1.5)):
        with pytest.raises(FdifError, match="voxels: grid"):
            BOX.voxels(wrong)


def test_operations_on_profiles_are_methods_and_fields_come_first():
    plate = shapes.rectangle(5.0, 3.0)
    by_methods = plate.offset(1.0).union(shapes.circle(2.0)).place((1.0, 0.0)).extrude(4.0)
    flat = shapes.place(fd.union(shapes.offset(plate, 1.0), shapes.circle(2.0)), (1.0, 0.0))
    np.testing.assert_array_equal(by_methods(AT), fd.extrude(flat, 4.0)(AT))
    assert {"extrude", "revolve", "loft", "outline"} <= set(dir(plate)) and "twist" not in dir(plate)
    assert shapes.offset(plate, 1.0).distance == 1.0
    with pytest.raises(AttributeError, match="a Rectangle has no attribute 'twist'"):
        plate.twist(0.1)


def test_the_published_displacements_and_mappers_are_called_without_a_grid():
    for field in shapes.published.displacements:
        values = np.asarray(field(9 * AT))
        assert values.shape == (300,) and np.isfinite(values).all() and values.std() > 0.1
        assert -values.min() <= field.reach + 1e-5, field.name
        bounds = fd.displace(BOX, field).bounds(1.0)
        np.testing.assert_allclose(bounds.upper, np.add((8, 6, 4), field.reach), rtol=1e-6)
    on_grid = shapes.published.displacement("perlin_fine")(fd.Grid(3, 4, 5))
    assert on_grid.shape == (3, 4, 5)
    np.testing.assert_allclose(
        on_grid[1, 2, 3], 0.01 * 47 * (np.sin(30 / 47) * np.sin(0) + np.sin(0)), atol=1e-6
    )
    for mapper in shapes.published.mappers:
        grey = np.asarray(mapper(BOX(AT)))
        assert grey.shape == (300,) and grey.min() >= 0 and 0 < grey.max() <= 128.001
