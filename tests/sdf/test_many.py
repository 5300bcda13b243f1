"""Unions of many parts: as NumPy has them, the same in any order, two by two where the seam is sharp, one loop."""

import functools
import operator
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import Renderer
from fdif_jax.sdf import seams
from fdif_jax.sdf.sampled import Library, Sampled
from fdif_jax.sdf.structure import Structure
from fdif_jax.shapes.formulas import formula_of
from tests.helpers.slow import quick_of

AT = np.random.default_rng(0).uniform(-9, 9, (400, 3)).astype(np.float32)
SIZES = np.random.default_rng(1).uniform(-4, 4, (7, 3))
K = 3.0
BLENDS = {
    "sharp": None,
    "smooth": K,
    "chamfer": fd.chamfer(K),
    "fillet": fd.fillet(K),
    "stairs": fd.stairs(K, 2),
}


def parts():
    """A box, four boxes that were moved, and seven balls: one alone, one group of four and one of seven."""
    moved = [shapes.box(2, 3, 1).translate(tuple(offset)) for offset in 2 * SIZES[:4]]
    return [
        shapes.box(1, 1, 6),
        *moved,
        *(shapes.sphere(1 + i / 4).translate(tuple(c)) for i, c in enumerate(SIZES)),
    ]


def box(p, half):
    beyond = np.abs(p) - half
    return np.linalg.norm(np.maximum(beyond, 0), axis=-1) + np.minimum(beyond.max(-1), 0)


def distances(p):
    """Of all parts, float64 ``(12, n)``."""
    p = p.astype(np.float64)
    balls = [np.linalg.norm(p - c, axis=-1) - 1 - i / 4 for i, c in enumerate(SIZES)]
    return np.stack([box(p, (1, 1, 6)), *(box(p - 2 * c, (2, 3, 1)) for c in SIZES[:4]), *balls])


def smooth_weights(d, k):
    """The weights of distances ``(n, points)`` in their smooth minimum, from its definition: by bisection."""
    nearest = d <= np.sort(d, axis=0)[: seams.NEAREST][-1]
    low, high = d.min(0), d.min(0) + k
    for _ in range(60):
        middle = (low + high) / 2
        enough = (nearest * np.maximum(middle - d, 0)).sum(0) > k
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return nearest * np.maximum(low - d, 0) / k


def smooth_least(d, k):
    """The smooth minimum of ``d`` ``(n, points)`` from its definition."""
    d = np.sort(d, axis=0)[: seams.NEAREST]
    weights = smooth_weights(d, k)
    return (weights * d).sum(0) - k / 2 * (1 - np.square(weights).sum(0))


def expected(kind, d):
    if kind == "smooth":
        return smooth_least(d, K)
    pairs = [(a, b) for i, a in enumerate(d) for b in d[:i]]
    seam = {
        "sharp": np.minimum,
        "chamfer": lambda a, b: np.minimum(np.minimum(a, b), (a + b - K) / np.sqrt(2)),
        "fillet": lambda a, b: np.where((a < K) & (b < K), K - np.hypot(K - a, K - b), np.minimum(a, b)),
        "stairs": lambda a, b: np.minimum(
            np.minimum(a, b), (b - K + a + np.abs(np.mod(b - K - a + K / 2, K) - K / 2)) / 2
        ),
    }[kind]
    return functools.reduce(np.minimum, (seam(a, b) for a, b in pairs))


@jax.jit
def measured(shape, p):
    d, back = jax.vjp(lambda shape, p: shape(p), shape, p)
    return d, back(jnp.ones_like(d))


def as_arrays(shape):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), shape)


@pytest.mark.parametrize("kind", quick_of(["sharp", "smooth"], ["smooth"], "two programs more"))
def test_a_union_of_many_is_as_numpy_has_it_in_any_order_with_finite_gradients(kind):
    whole = as_arrays(fd.union(*parts(), smooth=BLENDS[kind]))
    assert [seams.depth(stack) for stack in whole.stacks] == [4, 7] and len(whole.singles) == 1
    d, gradients = measured(whole, jnp.asarray(AT))
    reference = expected(kind, distances(AT))
    np.testing.assert_allclose(d, reference, atol=1e-5)
    assert (reference < 0).any() and (reference > 0).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    head, *others = parts()
    turned = as_arrays(fd.union([head, *others[3::-1]], others[:3:-1], smooth=BLENDS[kind]))
    np.testing.assert_allclose(measured(turned, jnp.asarray(AT))[0], d, atol=2e-6)


@pytest.mark.parametrize("number", quick_of([5, 70], [5], "a program of two passes"))
def test_each_part_of_a_loop_has_the_slope_of_its_weight(number):
    centres = np.random.default_rng(3).uniform(-9, 9, (number, 3))
    away = AT[None].astype(np.float64) - centres[:, None]
    d = np.linalg.norm(away, axis=-1)
    weights = smooth_weights(d - 2, K)
    assert (np.count_nonzero(weights, axis=0) > 1).any()

    def total(centres):
        balls = [shapes.sphere(2.0).translate(centre) for centre in centres]
        return fd.union(balls, smooth=K)(jnp.asarray(AT)).sum()

    slopes = -(weights[..., None] * away / d[..., None]).sum(1)
    at = jnp.asarray(centres, jnp.float32)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(at), slopes, atol=2e-4)
    # Forwards, too.
    towards = np.random.default_rng(4).standard_normal(centres.shape)
    forward = jax.jit(lambda at, towards: jax.jvp(total, (at,), (towards,)))(at, jnp.float32(towards))[1]
    np.testing.assert_allclose(forward, (slopes * towards).sum(), atol=2e-3)


@pytest.mark.slow("a program of all parts, and of their slopes")
def test_at_many_points_it_is_the_same_with_the_same_slopes():
    whole, times = as_arrays(fd.union(*parts(), smooth=K)), 170
    assert len(AT) <= seams._POINTS < times * len(AT)
    few, (shape_slopes, _) = measured(whole, jnp.asarray(AT))
    many, (all_slopes, _) = measured(whole, jnp.tile(AT, (times, 1)))
    np.testing.assert_allclose(many, np.tile(few, times), atol=2e-6)
    for one, every in zip(*map(jax.tree.leaves, (shape_slopes, all_slopes)), strict=True):
        np.testing.assert_allclose(every / times, one, rtol=1e-3, atol=1e-3)


def test_groups_may_come_in_any_order_and_seams_be_blends():
    whole = fd.union(parts()[::-1], smooth=BLENDS["chamfer"])
    np.testing.assert_allclose(whole(AT), expected("chamfer", distances(AT)), atol=1e-5)


def test_a_sharp_union_is_that_of_two_by_two():
    whole, chain = jax.jit(lambda p: (fd.union(parts())(p), functools.reduce(operator.or_, parts())(p)))(AT)
    np.testing.assert_array_equal(whole, chain)


@pytest.mark.parametrize("kind", ["sharp", "smooth"])
def test_many_are_cut_off_in_any_order_in_a_loop(kind):
    head, *cut = parts()
    whole = as_arrays(fd.difference(head, *cut, smooth=BLENDS[kind]))
    assert [seams.depth(stack) for stack in whole.second.stacks] == [4, 7]
    first, *others = distances(AT)
    if kind == "sharp":
        reference = np.maximum(first, -np.min(others, axis=0))
    else:
        reference = -smooth_least(np.stack([-first, smooth_least(np.stack(others), K)]), K)
    np.testing.assert_allclose(whole(AT), reference, atol=1e-5)
    assert (reference < 0).any()
    again = as_arrays(fd.difference(head, cut[::-1], smooth=BLENDS[kind]))
    np.testing.assert_allclose(again(AT), whole(AT), atol=2e-6)
    assert np.shape(fd.difference(*map(shapes.circle, (9.0, 1.0, 2.0, 3.0)))(AT[:, 0], AT[:, 1])) == (400,)


def joined(d, k):
    """Of distances ``(n, points)``."""
    picked = tuple(lambda *d, i=i: d[i] for i in range(len(d)))
    return seams.joined(picked, (), tuple(map(jnp.float32, d)), jnp.float32(k))


@pytest.mark.parametrize("kind", ["chamfer", "fillet", "stairs"])
def test_the_two_nearest_parts_make_the_seam_of_a_blend(kind):
    d = np.random.default_rng(2).uniform(-5, 5, (6, 300))
    seam = BLENDS[kind]
    for order in (d, d[::-1]):
        picked = tuple(lambda *d, i=i: d[i] for i in range(len(d)))
        found = seams.joined(picked, (), tuple(map(jnp.float32, order)), seam)
        np.testing.assert_allclose(found, expected(kind, d), atol=1e-5)


values = st.sampled_from([3, 6]).flatmap(
    lambda n: st.lists(st.floats(-20, 20, width=32), min_size=n, max_size=n)
)


@given(values, st.floats(0.125, 10, width=32), st.randoms())
def test_the_smooth_minimum_is_its_definition_and_knows_no_order(d, k, random):
    found = joined(np.array(d)[:, None], k)
    np.testing.assert_allclose(found, smooth_least(np.array(d)[:, None], k), atol=1e-5)
    np.testing.assert_allclose(joined(np.array(random.sample(d, len(d)))[:, None], k), found, atol=1e-5)
    assert min(d) - float(seams.sag(k, len(d))) - 1e-5 <= float(found[0]) <= min(d) + 1e-5
    pair = np.array(d[:2])[:, None]
    np.testing.assert_allclose(joined(pair, k), seams.smooth_minimum(*pair, k), atol=1e-5)


@given(values)
def test_without_a_width_it_is_the_minimum(d):
    for k in (0.0, 1e-6):
        np.testing.assert_allclose(joined(np.array(d)[:, None], k), min(d), atol=1e-5)


def test_its_slopes_are_weights_also_where_parts_are_equally_far():
    slopes = jax.grad(lambda d, k: joined(d[:, None], k)[0])
    for d, weights in (
        ([2, 2, 9], [0.5, 0.5, 0]),
        ([2, 2, 2], [1 / 3] * 3),
        ([0, 1, 0], [5 / 12, 1 / 6, 5 / 12]),
    ):
        np.testing.assert_allclose(slopes(jnp.float32(d), 4.0), weights, atol=1e-6)
    assert np.isfinite(jax.grad(lambda k: joined(np.zeros((5, 1)), k)[0])(0.0))
    assert np.isnan(joined([[1.0], [np.nan], [-3.0], [2.0]], 1.0)).all()


@pytest.mark.parametrize("kind", ["sharp", "smooth", "fillet"])
def test_bounds_hold_what_is_near(kind):
    whole = fd.union(parts(), smooth=BLENDS[kind])
    d = expected(kind, distances(AT))
    bounds = jax.jit(whole.bounds)
    for margin in (0.0, 2.0):
        lower, upper = bounds(margin)
        near = AT[d <= margin]
        assert (near >= np.asarray(lower) - 1e-3).all() and (near <= np.asarray(upper) + 1e-3).all()
        assert np.isfinite([lower, upper]).all()
    assert not np.isfinite(fd.union([shapes.slab(i + 1.0) for i in range(5)]).bounds()).any()


def test_points_beyond_what_one_loop_takes_are_in_several(monkeypatch):
    monkeypatch.setattr(seams, "_POINTS", 90)
    monkeypatch.setattr(seams, "_PASS", 3)  # of seven balls: three passes, and two places that are empty
    grid = fd.Grid(5, 6, 7)
    balls = [fd.translate(shapes.sphere(1 + i / 4), tuple(c)) for i, c in enumerate(SIZES)]
    at = np.stack(np.broadcast_arrays(*grid.points()), -1).reshape(-1, 3)
    found = np.ravel(fd.union(balls, smooth=K)(grid.points()))
    np.testing.assert_allclose(found, smooth_least(distances(at)[5:], K), atol=1e-5)


def test_a_program_does_not_grow_with_the_parts():
    def equations(number):
        many = as_arrays(
            fd.union(shapes.box(2.0), [shapes.sphere(i + 1.0).translate((i, 0, 0)) for i in range(number)])
        )
        return str(jax.make_jaxpr(lambda shape: shape(AT))(many)).count("\n")

    assert equations(8) == equations(40)


def test_it_is_kept_read_and_packed_as_any_shape(tmp_path):
    whole = fd.union(parts(), smooth=fd.stairs(2.0, 3))
    assert repr(whole).startswith("Many(singles=(Cuboid(") and "stacks=(Affine(shape=Cuboid(" in repr(whole)
    whole.save(tmp_path / "whole.json")
    structure = Structure.of(whole)
    packed = structure.unpack(structure.pack(whole, structure.width))
    for again in (fd.load(tmp_path / "whole.json"), pickle.loads(pickle.dumps(whole)), packed):
        assert jax.tree.structure(again) == jax.tree.structure(whole)
        assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(whole)))
    text = formula_of(whole)
    assert (
        text.startswith("min, blended over `smooth`, of √Σ") and "7 of √(x² + y² + z²) − radius, at" in text
    )


def test_members_of_a_library_are_saved_with_their_samples(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 3, 4, 5)) + 1
    library = Library.of(values, np.stack([np.eye(3, 4)] * 4), list("abcd"))
    fd.union([library.member(name) for name in "abcd"]).save(tmp_path / "members.json")
    (stack,) = fd.load(tmp_path / "members.json").stacks
    assert type(stack) is Sampled
    np.testing.assert_array_equal(stack.values, values.astype(np.float16).astype(np.float32))


def test_functions_made_by_the_same_lines_are_one_loop():
    waves = [
        fd.displace(shapes.sphere(2.0 + h), lambda p, h=h: h * jnp.sin(p.x + h)) for h in (0.1, 0.2, 0.3, 0.4)
    ]
    whole = fd.union(waves)
    assert len(whole.stacks) == 1 and not whole.singles
    radius = np.linalg.norm(AT, axis=1)
    of = [radius - 2 - h + h * np.sin(AT[:, 0] + h) for h in (0.1, 0.2, 0.3, 0.4)]
    np.testing.assert_allclose(whole(AT), np.min(of, axis=0), atol=1e-5)


def test_parts_without_numbers_stay_alone():
    @fd.node
    class Plane(fd.Shape):
        def __call__(self, p):
            return p.x

    whole = fd.union([Plane() for _ in range(5)])
    assert len(whole.singles) == 5 and not whole.stacks
    np.testing.assert_array_equal(whole(AT), AT[:, 0])


def test_profiles_are_united_alike():
    discs = [shapes.circle(1.0 + i / 4).place(tuple(c)) for i, c in enumerate(SIZES[:, :2])]
    whole = fd.union(shapes.circle(2.0), discs, smooth=K)
    u, v = AT[:, 0], AT[:, 1]
    of = [np.hypot(u, v) - 2, *(np.hypot(u - c[0], v - c[1]) - 1 - i / 4 for i, c in enumerate(SIZES))]
    d = smooth_least(np.stack(of).astype(np.float64), K)
    np.testing.assert_allclose(whole(u, v), d, atol=1e-5)
    assert (np.hypot(u, v)[d < 0] <= float(whole.radius())).all() and np.isfinite(whole.radius())


def test_the_gpu_kernel_leaves_loops_to_others():
    def refusal(*of):
        return TileKernel.refusal(Renderer(fd.Grid(8, 8, 8), (Structure.of(fd.union(of)),), (), (), 1))

    assert refusal(shapes.sphere(1.0), shapes.box(2.0), shapes.torus(3.0, 1.0)) is None
    assert "formulas only" in refusal(*parts())
