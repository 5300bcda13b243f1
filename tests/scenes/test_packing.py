"""Packed placement: what is accepted and left out, recounted voxel by voxel with NumPy."""

import dataclasses
import types

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.rendering.renderer import Renderer, Table
from fdif_jax.scenes.packing import TURNS, Packed, _shifted
from fdif_jax.scenes.placement import placement_of
from fdif_jax.sdf.shape import Scalar, Shape, node
from fdif_jax.sdf.structure import Structure
from fdif_jax.shapes import avs_db, box, published, sphere

SMALL = {"grid": [32, 36, 40], "min_objects": 12, "max_objects": 12}
# One kind of section is half the program, where it does not matter which.
ELLIPSES = SMALL | {"categories": ["ellipse"]}
# In which the limit decides: many objects, little overlap, few tries.
TIGHT = {"kind": "packed", "max_overlap": 0.15, "tries": 8}


def masks(scene, vocabulary):
    """The voxels of every object of a scene, each rendered alone."""
    alone = [dataclasses.replace(scene, objects=(o,)) for o in scene.objects]
    return [label > 0 for _, label in fd.render_scenes(alone, vocabulary)]


def recount(scene, vocabulary, max_overlap):
    """Volumes in order; asserts that no object broke the limit when it was placed."""
    filled = np.zeros(scene.grid, bool)
    volumes = []
    for mask in masks(scene, vocabulary):
        volumes.append(int(mask.sum()))
        assert int((mask & filled).sum()) <= max_overlap * volumes[-1]
        filled |= mask
    return volumes


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.slow("a program each")
def test_no_accepted_object_breaks_the_limit(transform):
    sections = SMALL if transform else ELLIPSES
    recipe = fd.load_recipe("avs_db").replace(**sections, transform=transform, placement=TIGHT)
    program = fd.compile(recipe)
    left_out = 0
    for i in range(4):
        scene = program.scene_at(3, i)
        volumes = recount(scene, avs_db, 0.15)
        assert volumes == sorted(volumes, reverse=True) and volumes[-1] > 0
        left_out += 12 - len(volumes)
    assert left_out > 0


@pytest.mark.slow("a program more")
def test_displaced_objects_are_counted_where_they_land():
    """A displacement is fixed in the world, so an object's voxels depend on where it is put."""
    changes = SMALL | {"min_objects": 8, "max_objects": 8, "transform": True, "placement": TIGHT}
    recipe = fd.load_recipe("fdif").replace(
        **changes, primitives=["sphere", "torus"], displacements=["ridge"], mappers=["linear_slope_10.0"]
    )
    program = fd.compile(recipe)
    for i in range(2):
        recount(program.scene_at(1, i), published, 0.15)


def count(program, seed=0, samples=12):
    draw = jax.jit(lambda i: program.draw(fd.sample_key(seed, i)).number)
    return [int(draw(i)) for i in range(samples)]


@pytest.mark.slow("a program for every setting")
def test_the_limit_and_the_tries_decide_how_many_are_left_out():
    base = fd.load_recipe("avs_db").replace(**ELLIPSES)

    def placed(**settings):
        return np.mean(count(fd.compile(base.replace(placement={"kind": "packed", **settings}))))

    assert placed(max_overlap=1.0, tries=1) == 12
    once, often = placed(max_overlap=0.3, tries=1), placed(max_overlap=0.3, tries=60)
    assert 1 <= placed(max_overlap=0.0, tries=5) < once < often < 12


def stand_in(grid, shapes, transform=False):
    """As much of a program as a placement looks at, and a table of these shapes."""
    structures = tuple(dict.fromkeys(Structure.of(s) for s in shapes))
    renderer = Renderer(fd.Grid(*grid), structures, (), (published.mapper("linear_slope_10.0"),), 1)
    program = types.SimpleNamespace(recipe=types.SimpleNamespace(transform=transform), renderer=renderer)
    n = len(shapes)
    table = Table(
        jnp.int32(n),
        jnp.asarray([structures.index(Structure.of(s)) for s in shapes]),
        jnp.stack([Structure.of(s).pack(s, renderer.width) for s in shapes]),
        jnp.broadcast_to(jnp.eye(3, 4), (n, 3, 4)),
        jnp.zeros(n, jnp.int32),
        jnp.zeros(n, jnp.int32),
        jnp.arange(1, n + 1)[:, None],
    )
    return program, table


def test_positions_are_uniform_within_the_grid():
    program, table = stand_in((20, 24, 28), [box(3.0, 2.0, 4.0)])
    keys = jax.random.split(jax.random.key(4), 1500)
    place = jax.jit(lambda key: Packed().place(key, program, table).inverse[0, :, 3])
    shifts = -np.asarray(jax.lax.map(place, keys))
    for axis, (edge, half) in enumerate([(28, 3), (24, 2), (20, 4)]):
        allowed = np.arange(-edge // 2 + half, edge // 2 - half)
        values, seen = np.unique(shifts[:, axis], return_counts=True)
        np.testing.assert_array_equal(values, allowed)
        assert scipy.stats.chisquare(seen).pvalue > 1e-3


@pytest.mark.slow("a program more")
def test_enlarged_objects_are_counted_as_they_are_painted():
    program, table = stand_in((20, 24, 28), [box(3.0, 2.0, 4.0), box(3.0, 2.0, 4.0)])
    place = jax.jit(lambda key: Packed(0.0).place(key, program, table, jnp.float32(1.45)))
    placed = place(jax.random.key(2))
    assert placed.number == 2
    np.testing.assert_array_equal(placed.inverse[:, :, :3], np.tile(np.eye(3) * 11 / 16, (2, 1, 1)))
    _, label = jax.jit(program.renderer.intensities)(placed)
    # Half edges of 3, 2 and 4 voxels times 16/11, and the voxel in the middle; nothing cut off, nothing hidden.
    np.testing.assert_array_equal(np.bincount(np.ravel(label))[1:], [9 * 5 * 11] * 2)


@node
class Unbounded(Shape):
    """A ball that does not say where it is."""

    radius: Scalar

    def __call__(self, p):
        return sphere(self.radius)(p)


def test_what_is_longer_than_the_grid_is_centred_and_what_is_empty_left_out():
    shapes = [
        sphere(3.0),
        sphere(30.0),
        type(sphere(1.0))(-1.0),
        box(40.0, 2.0, 2.0) & sphere(50.0),
        Unbounded(4.0),
    ]
    program, table = stand_in((16, 16, 16), shapes)
    placed = jax.jit(lambda key: Packed(1.0, 3).place(key, program, table))(jax.random.key(0))
    labels = np.asarray(placed.label)[: int(placed.number), 0].tolist()
    assert sorted(labels) == [1, 2, 4, 5] and labels[-1] in (1, 4)
    shift = dict(zip(labels, -np.asarray(placed.inverse)[:, :, 3], strict=False))
    np.testing.assert_array_equal(shift[2], 0)
    np.testing.assert_array_equal(shift[5], 0)
    assert shift[4][0] == 0


def test_only_objects_of_the_scene_are_placed():
    program, table = stand_in((16, 16, 16), [sphere(2.0), sphere(3.0), sphere(4.0)])
    table = table._replace(number=jnp.int32(2))
    placed = jax.jit(lambda key: Packed().place(key, program, table))(jax.random.key(0))
    assert int(placed.number) == 2 and placed.label[:2, 0].tolist() == [2, 1]


def test_the_turns_are_the_six_that_point_z_along_an_axis():
    np.testing.assert_allclose(np.linalg.det(TURNS), 1)
    np.testing.assert_array_equal(TURNS @ TURNS.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (6, 3, 3)))
    assert len({tuple(turn[:, 2]) for turn in TURNS}) == 6
    program, table = stand_in((20, 20, 20), [box(2.0, 3.0, 4.0)] * 40, transform=True)
    placed = jax.jit(lambda key: Packed(1.0).place(key, program, table))(jax.random.key(1))
    used = {tuple(np.asarray(inverse)[:, :3].T.ravel()) for inverse in placed.inverse}
    assert used == {tuple(turn.ravel()) for turn in TURNS}


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.data())
def test_bits_move_as_voxels_do(seed, width, data):
    shift = data.draw(st.integers(0, 70))
    voxels = np.random.default_rng(seed).random((2, 2, width)) < 0.5
    words = -(-width // 32)
    padded = np.pad(voxels, ((0, 0), (0, 0), (0, 32 * words - width)))
    bits = np.packbits(padded, axis=-1, bitorder="little").view(np.uint32)
    moved, corner = _shifted(jnp.asarray(bits), jnp.asarray([shift, 5, 6]))
    unpacked = np.unpackbits(np.asarray(moved).view(np.uint8), axis=-1, bitorder="little")
    start = int(corner[2]) * 32
    expected = np.zeros((2, 2, 32 * (words + 1)), bool)
    expected[:, :, shift - start : shift - start + width] = voxels
    np.testing.assert_array_equal(unpacked, expected)
    assert tuple(map(int, corner[:2])) == (6, 5)


@pytest.mark.slow("a program more; scattered scenes are in test_compiler")
def test_a_sample_does_not_depend_on_its_batch():
    program = fd.compile(fd.load_recipe("avs_db").replace(**ELLIPSES))
    image, label = program.sample_at(7, 3)
    images, labels = jax.jit(program.batch)(jax.vmap(lambda i: fd.sample_key(7, i))(jnp.arange(5)))
    np.testing.assert_array_equal(image, images[3])
    np.testing.assert_array_equal(label, labels[3])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_overlap": 1.5}, "max_overlap"),
        ({"max_overlap": -0.1}, "max_overlap"),
        ({"tries": 0}, "tries"),
        ({"trys": 5}, "tries"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(FdifError, match=words):
        placement_of({"kind": "packed", **settings})
