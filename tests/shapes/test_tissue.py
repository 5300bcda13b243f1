"""Shapes that grow: distances against plain NumPy, bounds, gradients, Murray's law, the recipe of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.sdf.grid import Grid
from fdif_jax.shapes.tissue import tissue
from fdif_jax.shapes.tissue.nearest import nearest
from fdif_jax.shapes.tissue.trees import Growth, grow
from tests.helpers.slow import quick_of

GRID = Grid(96, 96, 96)
NAMES = [family.name for family in tissue.families]
MEMBERS, MARGIN = 2, 3.0
KEYS = jax.random.split(jax.random.key(3), MEMBERS)
EACH = quick_of(
    NAMES,
    [
        n
        for n in NAMES
        if n not in ("vessel_tree", "airway_tree", "gland", "cell_cluster", "tumour", "mandelbulb")
    ],
    "a program each",
)


def points() -> np.ndarray:
    """Points all around members, off any symmetry, the origin, and an axis; float32 ``(n, 3)``."""
    axis = np.linspace(-36.7, 36.2, 16)
    mesh = np.stack(np.meshgrid(axis, axis + 0.13, axis - 0.07, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.concatenate([mesh, [[0, 0, 0], [0, 0, 15], [4, 0, 0]]]).astype(np.float32)


@functools.cache
def drawn(name):
    family = tissue.family(name)
    members = jax.jit(lambda keys: jax.vmap(lambda key: family.sample(key, GRID))(keys))(KEYS)
    return jax.tree.map(np.asarray, members)


@functools.cache
def found(name):
    """Of each member: distances, slopes, gradients of the parameters, and boxes without and with a margin."""
    at = jnp.asarray(points())

    def measured(shape):
        slopes = jax.vmap(jax.grad(lambda p: shape(fd.Point(*p))))(at)
        _, steep = jax.value_and_grad(lambda shape: jnp.mean(shape(at) ** 2))(shape)
        return shape(at), slopes, steep, shape.bounds(), shape.bounds(MARGIN)

    results = jax.jit(lambda shapes: jax.lax.map(measured, shapes))(drawn(name))
    return jax.tree.map(np.asarray, results)


def member(name, i):
    return jax.tree.map(lambda leaf: leaf[i], drawn(name))


def norm(v):
    return np.sqrt((np.asarray(v, np.float64) ** 2).sum(-1))


def rods(p, s):
    """The least distance to all segments, one after another."""
    d = np.full(len(p), np.inf)
    for start, end, first, second in zip(s.starts, s.ends, s.first, s.second, strict=True):
        way = (end - start).astype(float)
        extent = norm(way)
        t = np.clip((p - start) @ way / max(extent**2, 1e-12), 0, 1)
        lean = (second - first) / max(extent, 1e-6)
        d = np.minimum(
            d, (norm(p - start - t[:, None] * way) - first - t * (second - first)) / np.hypot(1, lean)
        )
    return d


def wave(t):
    t = np.mod(t + 0.5, 1) - 0.5
    return np.where(t > 0, 1, -1) * (1 - (4 * np.abs(t) - 1) ** 2)


def turned(p, frame, period):
    return p @ frame[:, :3].T.astype(float) / period + frame[:, 3]


def maze(p, frame, period):
    q = turned(p, frame, period)
    q = q + wave(np.roll(q, -1, axis=1) / 2) / 4
    return (wave(q) * np.roll(wave(q + 0.25), -1, axis=1)).sum(1)


def soft(a, b, k):
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * k / 4


def airway(p, s):
    shell, cut = s.first, s.second
    tree, half = shell.shape.shape, shell.thickness
    return np.maximum(np.abs(rods(p, tree) + half) - half, p[:, 2] - cut.offset)


def folded(p, s):
    f, factors = s.shape, s.factors
    p = p / factors
    away = norm(p)
    on = p * (f.radius / np.maximum(away, f.radius / 2))[:, None]
    furrow = np.minimum(np.abs(maze(on, f.axes, f.period)) * f.period / 9, np.abs(p[:, 0])) - f.width / 2
    solid = -soft(f.radius - away, np.maximum(furrow, f.radius - f.depth - away), f.rounding)
    return np.maximum(solid, -solid - f.shell) * factors.min()


def spongy(p, s):
    bone, cut = s.first, s.second
    unit = p / bone.halves
    hull = (norm(unit) - 1) * bone.halves.min()
    level = bone.sparse + (bone.dense - bone.sparse) * np.clip((1 - unit[:, 2]) / 2, 0, 1)
    struts = (maze(p, bone.axes, bone.period) - level) * bone.period / 9
    solid = np.maximum(hull, np.minimum(struts, -hull - bone.cortex))
    return np.maximum(solid, p[:, 2] - cut.offset)


def lobed(p, s):
    d = np.full(len(p), 1e6)
    for centre, radius in zip(s.centres, s.radii, strict=True):
        d = soft(d, norm(p - centre) - radius, s.rounding)
    return d


def cells(p, s):
    near = np.sort(norm(p[:, None] - s.centres[None]), axis=1)
    cell = np.maximum(near[:, 0] - s.radius, (near[:, 0] - near[:, 1]) / 2)
    return np.minimum(np.maximum(cell, -cell - s.membrane), near[:, 0] - s.nucleus)


def growth(p, s):
    rough = s.height * wave(turned(p, s.axes, s.period)).prod(1)
    slope = 1 + s.height * 8 / s.period
    cavity = (norm(p - s.cavity[:3]) - s.cavity[3] - rough) / slope
    body = soft((norm(p) - s.radius + rough) / slope, rods(p, s.spicules), 0.3 * s.radius)
    return soft(np.maximum(body, -cavity), norm(p - s.core[:3]) - s.core[3], 0.15 * s.radius)


def sponge(p, s):
    """A point is in the sponge unless it is in a hole of a cube of some level."""
    inside, edge = (np.abs(p) <= s.size).all(1), 2.0 * s.size
    for hole in s.holes:
        within = np.abs(np.mod(p / edge + 0.5, 1) - 0.5)
        inside &= (within < hole / 2).sum(1) < 2
        edge /= 3
    return np.where(inside, -1.0, 1.0)


def bulb(p, s):
    """A point is in the bulb if its eighth powers and sums stay within a ball of radius 1, by angles."""
    c = p.astype(float) / s.size * 1.25
    z, gone = c, np.zeros(len(p), bool)
    for _ in range(s.iterations):
        r = norm(z)
        gone |= r > 2
        steep = 8 * np.arccos(np.clip(z[:, 2] / np.maximum(r, 1e-9), -1, 1)) + s.phase[0]
        turn = 8 * np.arctan2(z[:, 1], z[:, 0]) + s.phase[1]
        way = np.stack([np.sin(steep) * np.cos(turn), np.sin(steep) * np.sin(turn), np.cos(steep)], axis=1)
        z = np.where(gone[:, None], 9.0, np.minimum(r, 9)[:, None] ** 8 * way + c)
    return np.where(gone | (norm(z) > 1) | (norm(p) > s.size), 1.0, -1.0)


ORACLES = {
    "vessel_tree": rods, "airway_tree": airway, "gland": rods, "folded_surface": folded, "trabecular_bone": spongy,
    "lobulated_organ": lobed, "cell_cluster": cells, "tumour": growth, "menger_sponge": sponge, "mandelbulb": bulb,
}  # fmt: skip
SIGNS = ("menger_sponge", "mandelbulb")  # of which only the sign is known otherwise


@pytest.mark.parametrize("name", EACH)
def test_distances_are_those_of_plain_numpy(name):
    p = points().astype(float)
    for i in range(MEMBERS):
        d, expected = found(name)[0][i], ORACLES[name](p, member(name, i))
        clear = np.abs(d) > 2e-3
        np.testing.assert_array_equal((d < 0)[clear], (expected < 0)[clear])
        assert (d < 0).any() and clear.mean() > 0.97
        if name not in SIGNS:
            np.testing.assert_allclose(d, expected, atol=2e-3)


@pytest.mark.parametrize("name", EACH)
def test_bounds_hold_the_inside_and_all_within_a_margin(name):
    for i in range(MEMBERS):
        d, (close, wide) = found(name)[0][i], found(name)[3:]
        for reach, box in ((0.0, close), (MARGIN, wide)):
            held = points()[d <= reach]
            assert (held >= box.lower[i] - 1e-3).all() and (held <= box.upper[i] + 1e-3).all()
            assert (box.upper[i] - box.lower[i] < 2 * (max(GRID) * 0.45 + 3 * reach)).all()


@pytest.mark.parametrize("name", EACH)
def test_gradients_are_finite_and_distances_grow_no_faster_than_said(name):
    _, slopes, steep, *_ = found(name)
    assert np.isfinite(slopes).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steep))
    assert any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(steep))
    assert norm(slopes).max() < LIMITS.get(name, 1.001)


# Of those whose distance may be too large, as their docstrings say.
LIMITS = {"folded_surface": 3.5, "trabecular_bone": 2.5, "mandelbulb": 25.0}


@pytest.mark.parametrize("name", EACH)
def test_documents_keep_a_member(name):
    shape = member(name, 0)
    again = tissue.build(name, tissue.describe(name, shape))
    assert jax.tree.structure(again) == jax.tree.structure(shape)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(shape), strict=True):
        np.testing.assert_array_equal(a, b)


def test_radii_obey_murrays_law_and_branches_hang_together():
    tree = member("vessel_tree", 1)
    n = len(tree.first) // 2
    cubes = tree.first.astype(float) ** 3
    assert n == 63 and (tree.first == tree.second).all()
    np.testing.assert_allclose(cubes[1:n:2] + cubes[2:n:2], cubes[: n // 2], rtol=1e-5)
    np.testing.assert_array_equal(tree.first[:n], tree.first[n:])  # the second pieces
    parent = (np.arange(1, n) - 1) // 2
    np.testing.assert_allclose(tree.starts[1:n], tree.ends[n:][parent], atol=1e-4)
    np.testing.assert_allclose(tree.ends[:n], tree.starts[n:], atol=1e-4)


def test_branches_that_do_not_stray_pull_in_balance():
    """At a fork of least volume the directions, times the radii squared, add up."""
    luck = jax.random.uniform(jax.random.key(0), (4, 8, 6))
    tree = jax.tree.map(np.asarray, grow(luck, Growth(5.0, 0.4, 1.9, 0.0, 0.0)))
    pull = tree.radius[:, None] ** 2 * tree.direction
    np.testing.assert_allclose(pull[1::2] + pull[2::2], pull[:7], atol=1e-5)
    np.testing.assert_allclose((tree.normal * tree.direction).sum(1), 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 8, 10), (7,), ()])
def test_the_nearest_of_many_are_those_of_all(shape):
    rng = np.random.default_rng(len(shape))
    parts = rng.uniform(-20, 20, (30, 3)).astype(np.float32)
    p = fd.Point(
        *(rng.uniform(-1, 1) * 9 + 3 * rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(3))
    )
    expected = np.sort(norm(np.stack(p, axis=-1)[..., None, :] - parts), axis=-1)

    def to(p, numbers):
        return jnp.sqrt(sum((c - at) ** 2 for c, at in zip(p, numbers, strict=True)))

    one, two = nearest(p, jnp.asarray(parts), to, 2)
    np.testing.assert_allclose(one, expected[..., 0], atol=1e-4)
    np.testing.assert_allclose(two, expected[..., 1], atol=1e-4)


def test_a_key_draws_the_same_member_in_any_program():
    family, key = tissue.family("lobulated_organ"), KEYS[0]
    handed = jax.jit(family.draw, static_argnums=2)(key, dict(reversed(family.ranges.items())), GRID)
    for a, b in zip(jax.tree.leaves(handed), jax.tree.leaves(member("lobulated_organ", 0)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_recipe_has_every_class_once_and_mixes_with_fdif():
    program = fd.compile(fd.load_recipe("tissue"))
    assert list(program.class_names) == NAMES and len(set(NAMES)) == 10
    assert "formulas only" in TileKernel.refusal(program.renderer)
    assert fd.compile(fd.load_recipe("fdif + tissue")).num_classes == 119


@pytest.mark.slow("a program of the whole recipe")
def test_a_scene_of_tissue_is_drawn_again_from_its_document(tmp_path):
    program = fd.compile(fd.load_recipe("tissue").replace(grid=(48, 48, 48)))
    fd.save_scenes([program.scene_at(0, 0)], tmp_path / "scene.json")
    image, label = program.render(fd.load_scenes(tmp_path / "scene.json")[0])
    np.testing.assert_array_equal(label, program.sample_at(0, 0)[1])
    np.testing.assert_array_equal(image, program.sample_at(0, 0)[0])
