"""Windows onto scenes: a smooth one is the ball that NumPy draws, and images, labels and owners are cut alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

import fdif_jax as fd
from fdif_jax.rendering.renderer import Rendering
from fdif_jax.rendering.window import Window
from fdif_jax.sdf.grid import Grid

SHAPE = (12, 16, 20)
OWNER = jnp.zeros(SHAPE, jnp.uint8).at[2:10, 4:12, 5:15].set(3)
SCENE = Rendering(jnp.full(SHAPE, 9.0), (2 * (OWNER > 0)).astype(jnp.uint8), OWNER, jnp.zeros(5, jnp.int32))
SMOOTH = {"fraction": 1.0, "radius": (0.4, 0.4), "shift": 0.0, "roughness": (0.0, 0.0), "envelope": 0.0}


def away():
    """Distance from the middle, in edges of the grid."""
    return np.sqrt(sum(c**2 for c in np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in SHAPE), indexing="ij")))


@functools.partial(jax.jit, static_argnums=2)
def through(key, scene, window):
    return window.opening(key, Grid(*SHAPE)).apply(scene, 5)


def seen(seed=0, scene=SCENE, **changes):
    return through(jax.random.key(seed), scene, Window(**SMOOTH | changes))


def test_by_default_there_is_no_window():
    assert Window().opening(jax.random.key(0), Grid(*SHAPE)) is None and Window().instances == 0


def test_outside_a_ball_everything_is_background():
    image, label, owner, _ = seen()
    inside = away() <= 0.4
    np.testing.assert_array_equal(owner, np.where(inside, OWNER, 0))
    np.testing.assert_array_equal(label, np.where(inside, SCENE.label, 0))
    np.testing.assert_array_equal(image, np.where(inside, 9, 0))
    assert label.dtype == SCENE.label.dtype


def test_body_and_envelope_are_instances_without_a_class():
    _, label, owner, _ = seen(body=1.0, envelope=1.0, thickness=(0.05, 0.05))
    wrap = np.abs(away() - 0.4) <= 0.05
    np.testing.assert_array_equal(owner == 7, wrap)
    np.testing.assert_array_equal(owner == 6, (away() <= 0.4) & ~wrap & (np.asarray(OWNER) == 0))
    assert not np.asarray(label)[np.asarray(owner) > 5].any() and Window(**SMOOTH).instances == 2


def test_several_label_maps_are_cut_alike():
    both = SCENE._replace(label=jnp.stack([SCENE.label, 3 * SCENE.label]))
    np.testing.assert_array_equal(seen(scene=both).label, np.stack([seen().label, 3 * seen().label]))


def test_roughness_and_shift_vary_the_window_and_fraction_how_often():
    cuts = [np.asarray(seen(s, fraction=0.5, roughness=(0.05, 0.05), shift=0.2).owner) for s in range(24)]
    whole = [np.array_equal(cut, OWNER) for cut in cuts]
    assert 4 <= sum(whole) <= 20 and len({cut.tobytes() for cut in cuts}) == 25 - sum(whole)


def transform(mask, spacing):
    """Signed distance to the boundary of a mask, negative inside, to its middle between voxels of about 1 mm."""
    inside, outside = (distance_transform_edt(m, sampling=spacing) for m in (mask, ~mask))
    return np.where(mask, 0.5 - inside, outside - 0.5)


@functools.partial(jax.jit, static_argnums=1)
def opened(key, spacing):
    """Windows as rough as those of `anatomix` in the mean, of which a half has an envelope."""
    window = Window(fraction=1.0, roughness=(0.024, 0.024), shift=0.1, body=1.0, thickness=(0.05, 0.06))
    return window.opening(key, Grid(40, 48, 44, spacing=spacing))


def test_edges_are_millimetres_from_what_is_hidden_also_where_they_are_rough():
    spacing = (1.25, 1.0, 0.8)
    envelopes = []
    for seed in range(6):
        opening = jax.tree.map(np.asarray, opened(jax.random.key(seed), spacing))
        body, cut, envelope = opening.edges
        envelopes.append(opening.wrap.any())
        np.testing.assert_array_equal(body, cut[0])
        np.testing.assert_allclose(np.linalg.norm(cut[1:], axis=0), 1, atol=1e-3)
        masks = [(cut[0], ~(opening.outside | opening.wrap)), (envelope, opening.wrap)]
        for got, mask in masks[: 1 + envelopes[-1]]:
            np.testing.assert_array_equal(got <= 0, mask)
            # A surface beyond the grid may be nearer than what a transform of the grid knows.
            expected = transform(mask, spacing)[8:-8, 8:-8, 8:-8]
            error = np.abs(got[8:-8, 8:-8, 8:-8] - expected)
            for near, part in ((2, 0.99), (4, 0.95)):
                assert np.quantile(error[np.abs(expected) < near], part) < max(spacing), "a voxel"
        assert envelopes[-1] or (envelope >= 8).all()
    assert 0 < sum(envelopes) < 6


@pytest.mark.slow("a program of several looks")
def test_all_looks_of_a_scene_share_its_window():
    recipe = fd.Recipe(
        grid=SHAPE, primitives=("sphere",), max_objects=3, look={"tissue": {"paint": True}},
        window={"fraction": 1.0, "body": 1.0, "radius": (0.45, 0.45), "shift": 0.0},
    )  # fmt: skip
    program = fd.compile(recipe)
    assert program.objects == 5
    images, label, owner, *_ = jax.jit(lambda key: program.views(key, 2))(fd.sample_key(0, 1))
    assert set(np.unique(owner)) >= {0, 4} and owner.max() <= 5
    assert ((owner > 0) & (owner <= 3) == (label > 0)).all() and (images[0] != images[1]).any()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"fraction": 1.5}, "fraction of the window must be a fraction"),
        ({"radius": (0.5, 0.4)}, "radius of the window must be two numbers"),
        ({"shift": -0.1}, "shift must be 0 or more"),
    ],
)
def test_impossible_windows_are_refused(bad, says):
    with pytest.raises(fd.FdifError, match=says):
        Window(**bad)
