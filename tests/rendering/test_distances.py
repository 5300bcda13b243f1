"""Distances as targets, against SciPy's distance transforms of the owners, and from all three renderers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import cdist

import fdif_jax as fd
from fdif_jax.rendering import tissue
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.distances import REACH, shown, voxels_of_units
from fdif_jax.rendering.look import Look
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import Table
from fdif_jax.rendering.tissue import Tissue
from fdif_jax.rendering.window import Window

EDGE = 9  # voxels that a transform of the grid cannot know, as surfaces beyond it may be nearer
SOLID = fd.load_recipe("fdif").replace(
    grid=(34, 38, 42),
    min_objects=3,
    max_objects=6,
    primitives=["sphere", "torus"],
    displacements=["none"],
    mappers=["inverse_cube"],
    transform=False,
)


def transform(mask):
    """Distance to the boundary of a mask from either side, to its middle between two voxels."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.clip(np.where(mask, 0.5 - inside, outside - 0.5), -REACH, REACH)


def inner(volume):
    return volume[..., EDGE:-EDGE, EDGE:-EDGE, EDGE:-EDGE]


def checked_regions(owner, own, boundary):
    """Every instance and where it is in the inner part; boundaries, and what the background has, are checked."""
    for o in map(int, np.unique(inner(owner))):
        here = inner(owner) == o
        np.testing.assert_allclose(boundary[here], -inner(transform(owner == o))[here], atol=1)
        if o == 0:
            np.testing.assert_array_equal(own[here], boundary[here])
        else:
            yield o, here


@pytest.fixture(scope="module")
def solid():
    """A renderer of solid shapes as a function of a table, and tables."""
    program = fd.compile(SOLID)
    renderer = program.renderer

    @jax.jit
    def render(table):
        rendering = renderer.render(table)
        return rendering, renderer.distances(table, rendering.volumes)

    draw = jax.jit(program.draw)
    return render, [draw(fd.sample_key(0, i)) for i in range(3)]


def test_distances_are_those_of_a_transform_within_a_voxel(solid):
    render, tables = solid
    several = 0
    for table in tables:
        (_, _, owner, _), distances = render(table)
        owner = np.asarray(owner)
        assert distances.dtype == jnp.float32 and distances.shape == (2, *owner.shape)
        own, boundary = inner(np.asarray(distances))
        assert np.abs(own).max() <= REACH and boundary.min() >= 0
        for o, here in checked_regions(owner, own, boundary):
            alone = jax.tree.map(lambda column, o=o: jnp.roll(column, 1 - o, axis=0), table[1:])
            whole = np.asarray(render(Table(jnp.int32(1), *alone))[0].owner) == 1
            np.testing.assert_allclose(own[here], inner(transform(whole))[here], atol=1)
            several += (own[here] < -boundary[here] - 1).any()
    assert several, "no object was painted over in part"


BEHIND = Window(
    fraction=0.9, radius=(0.3, 0.45), shift=0.1, roughness=(0.0, 0.0), thickness=(0.05, 0.08), body=0.5
)
KINDS = ((), ("body",), ("envelope",), ("body", "envelope"))


@pytest.fixture(scope="module")
def seen():
    """A renderer of solid shapes behind windows, and scenes by what the window adds.

    Of a table and a key: owners without the window, owners, where objects are visible, distances.
    """
    program = fd.compile(SOLID.replace(look={"partial_volume": True}))
    renderer, number = program.renderer, SOLID.max_objects

    @jax.jit
    def render(table, key):
        rendering, opening = renderer.render(table), BEHIND.opening(key, renderer.grid)
        distances = renderer.distances(table, rendering.volumes, opening.edges)
        visible = ~(opening.outside | opening.wrap)
        return rendering.owner, opening.apply(rendering, number).owner, visible, distances

    draw, scenes = jax.jit(program.draw), {}
    for i in range(40):
        key = fd.sample_key(1, i)
        owner = np.asarray(render(draw(key), key)[1])
        kind = tuple(
            name for name, o in (("body", number + 1), ("envelope", number + 2)) if (owner == o).any()
        )
        scenes.setdefault(kind, (draw(key), key))
    assert set(scenes) == set(KINDS)
    return render, scenes


@pytest.mark.parametrize("kind", KINDS)
def test_distances_behind_windows_are_those_of_a_transform_of_what_is_seen(seen, kind):
    render, scenes = seen
    table, key = scenes[kind]
    _, owner, visible, distances = map(np.asarray, render(table, key))
    number = SOLID.max_objects
    own, boundary = inner(distances)
    np.testing.assert_array_equal(distances[0] <= 0, owner > 0)
    assert np.abs(own).max() <= REACH and boundary.min() >= 0 and not visible.all()
    for o, here in checked_regions(owner, own, boundary):
        surface = visible if o == number + 1 else owner == o
        if o <= number:
            alone = jax.tree.map(lambda column, o=o: jnp.roll(column, 1 - o, axis=0), table[1:])
            surface = visible & (np.asarray(render(Table(jnp.int32(1), *alone), key)[0]) == 1)
        np.testing.assert_allclose(own[here], inner(transform(surface))[here], atol=1)


def test_an_object_that_a_window_hides_is_near_nothing():
    """Along a line, a window of its lower half: an object beyond it, and one that it halves."""
    x = jnp.broadcast_to(jnp.arange(-12.0, 13.0), (2, 2, 25))
    cut = jnp.stack([x, 0 * x, 0 * x, 0 * x + 1])
    hidden, halved = (np.asarray(shown(jnp.abs(x - at) - 4, cut, (1, 1, 1)))[0, 0] for at in (6, 0))
    assert hidden[:18].min() > REACH, "up to the object's middle"
    np.testing.assert_allclose(halved[[4, 8, 9, 10, 12, 14, 20]], [4, 0, -1, -2, 0, 2, 8])


@pytest.mark.parametrize("degrees", [60, 90, 150])
def test_where_two_surfaces_meet_at_an_angle_their_line_is_nearest(degrees):
    """Half-spaces whose normals are at this angle, millimetres of two voxels, against all points of both."""
    normal = np.array([np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))])
    y, x = np.meshgrid(*(np.arange(-8.0, 9.0, 2),) * 2, indexing="ij")
    edge = normal[0] * y + normal[1] * x
    cut = np.stack([edge, *np.broadcast_to(np.array([0, *normal])[:, None, None], (3, *x.shape))])
    got = shown(*(jnp.asarray(np.repeat(v[..., None, :, :], 2, -3)) for v in (x, cut)), (1, 2, 2))[0]
    fine = np.stack(np.meshgrid(*(np.arange(-30, 30, 0.2),) * 2, indexing="ij"), -1).reshape(-1, 2)
    both = fine[(fine[:, 1] <= 0) & (fine @ normal <= 0)]
    expected = cdist(np.stack([y, x], -1).reshape(-1, 2), both).min(1).reshape(x.shape)
    outside = np.maximum(x, edge) > 0
    np.testing.assert_allclose(got[outside], expected[outside], atol=0.3)
    np.testing.assert_allclose(got[~outside], np.maximum(x, edge)[~outside], atol=1e-5)


def test_objects_that_hold_no_voxel_and_rows_that_are_none_do_not_count(solid):
    render, (table, *_) = solid
    far = table.inverse.at[0, :, 3].add(1000.0)
    (_, _, owner, volumes), distances = render(table._replace(number=jnp.int32(1), inverse=far))
    assert not volumes.any() and not owner.any() and (distances == REACH).all()


def test_distances_are_voxels_whatever_the_unit_of_a_shape(solid):
    render, (table, *_) = solid
    _, distances = render(table)
    # The same sphere or torus in units of half a voxel: its parameters are lengths.
    finer = table._replace(inverse=2 * table.inverse, row=2 * table.row)
    np.testing.assert_allclose(voxels_of_units(finer.inverse), 0.5, rtol=1e-5)
    (_, _, owner, _), same = render(finer)
    assert owner.any()
    np.testing.assert_allclose(same, distances, atol=1e-3)


@pytest.mark.slow("three programs of crowded scenes, through windows and not")
@pytest.mark.parametrize("window", [None, BEHIND])
def test_all_renderers_give_the_same_distances(window):
    """Displaced, more objects than a word has bits, a grid that tiles do not divide."""
    recipe = fd.load_recipe("fdif").replace(
        grid=(10, 17, 36), min_objects=33, max_objects=35, primitives=["sphere", "cone"],
        displacements=["ridge"], mappers=["linear_slope_10.0"],
    )  # fmt: skip
    program = fd.compile(recipe)
    keys = jax.vmap(partial(fd.sample_key, 5))(jnp.arange(2))
    tables = jax.jit(jax.vmap(program.draw))(keys)
    edges = window and jax.jit(jax.vmap(lambda key: window.opening(key, program.grid).edges))(keys)

    def one(scene):
        table, edges = scene
        rendering = program.renderer.render(table)
        return rendering.volumes, program.renderer.distances(table, rendering.volumes, edges)

    volumes, expected = jax.jit(partial(jax.lax.map, one))((tables, edges))
    assert ((expected > 0).mean((0, 2, 3, 4)) > 0.2).all() and (expected[:, 0] < 0).any()
    for other in (TileKernel(program.renderer, interpret=True), BranchFree(program.renderer)):
        error = np.abs(jax.jit(other.distances)(tables, volumes, edges) - expected)
        # Rounding decides on which side of a surface a voxel lies, and with it which object's distance it has.
        # Slopes at the borders of tiles are one-sided, and with them the angles between surfaces and the window's.
        assert (error < (0.5 if window else 1e-3)).mean() > (0.995 if window else 0.9999)


NOISY = fd.Recipe(
    grid=(8, 8, 16), primitives=("sphere",), mappers=("inverse_cube",), displacements=(), max_objects=3,
    look={"gaussian": 0.2},
)  # fmt: skip


@pytest.mark.slow("a program more")
def test_views_tell_distances_and_clean_images_where_they_are_asked_for():
    program, key = fd.compile(NOISY), fd.sample_key(1, 0)
    plain = jax.jit(partial(program.views, number=2))(key)
    asked = jax.jit(partial(program.views, number=2, extra=("distances", "clean")))(key)
    assert plain.distances is None and plain.clean is None
    np.testing.assert_array_equal(asked.images, plain.images)
    assert asked.distances.shape == (2, 8, 8, 16) and asked.clean.dtype == jnp.uint8
    np.testing.assert_array_equal(asked.distances[0] <= 0, asked.owner > 0)
    np.testing.assert_array_equal(asked.clean[0], asked.clean[1])
    noise = np.asarray(asked.images, float) - np.asarray(asked.clean, float)
    assert noise[0].std() > 1 and np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] < 0.9


@pytest.mark.slow("a program more")
def test_a_mixture_tells_them_too():
    program = fd.compile(fd.Mixture(({"recipe": NOISY.to_dict()},), look={"blur": 1.0}))
    views = jax.jit(partial(program.views, number=1, extra=("distances", "clean")))(fd.sample_key(1, 0))
    np.testing.assert_array_equal(views.distances[0] <= 0, views.owner > 0)
    assert (views.clean != views.images).any()


def test_a_clean_look_keeps_scene_and_contrast():
    paint = {"paint": True, "gamma": (1.0, 0.5), "noise": (1.0, 0.2), "texture": 0.1}
    look = Look(texture=0.1, bias_field=0.3, blur=1.0, gamma=0.2, histogram=0.3, tissue=Tissue(**paint))
    off = {name: (0.0, 0.0) for name in tissue._ARTEFACTS}
    kept = Tissue(**off | {"paint": True, "gamma": (1.0, 0.5), "texture": 0.1, "deviation": (0.0, 0.0)})
    assert look.clean == Look(texture=0.1, gamma=0.2, histogram=0.3, tissue=kept)
    assert Look(gamma=0.2).clean == Look(gamma=0.2)
