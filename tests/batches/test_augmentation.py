"""Random looks, mirrorings and turns of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fdif_jax.batches.augmentation import random_intensity, random_mirror, random_turn
from fdif_jax.rendering.look import normalise


def test_normalised_volumes_have_zero_mean_and_unit_variance():
    images = np.random.default_rng(0).integers(0, 129, (2, 6, 5, 7)).astype(np.uint8)
    images[1] = 40
    result = np.asarray(normalise(images))
    np.testing.assert_allclose(result[0], (images[0] - images[0].mean()) / images[0].std(), atol=1e-5)
    assert abs(result[1]).max() < 0.1
    assert not np.asarray(normalise(np.zeros((1, 2, 2, 2), np.uint8))).any()


def test_looks_keep_the_order_of_intensities_but_for_noise_and_differ_between_samples():
    images = jnp.tile(jnp.linspace(-2, 2, 64).reshape(1, 4, 4, 4), (16, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), len(images))
    result = np.asarray(jax.vmap(random_intensity)(keys, images))
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images, result, strict=True)]
    assert np.isfinite(result).all() and min(correlation) > 0.95
    assert len({a.tobytes() for a in result}) > 8
    np.testing.assert_allclose(result[3], random_intensity(keys[3], images[3]), atol=1e-5)


def test_mirroring_moves_image_and_label_together_along_the_given_axes_only():
    images = jnp.arange(8 * 3 * 4 * 5, dtype=jnp.float32).reshape(8, 3, 4, 5)
    keys = jax.random.split(jax.random.key(1), len(images))
    mirror = jax.vmap(lambda key, image: random_mirror(key, image, image.astype(int), (0, 2)))
    mirrored, labels = mirror(keys, images)
    np.testing.assert_array_equal(mirrored, labels)
    seen = set()
    for before, after in zip(np.asarray(images), np.asarray(mirrored), strict=True):
        flips = [f for f in ((), (0,), (2,), (0, 2)) if np.array_equal(after, np.flip(before, f))]
        assert len(flips) == 1
        seen.add(flips[0])
    assert len(seen) > 2
    np.testing.assert_array_equal(random_mirror(keys[0], images[0], labels[0], ())[0], images[0])


@pytest.mark.slow("a program more")
def test_channels_have_looks_of_their_own_and_one_channel_has_that_of_an_image_without():
    image = jnp.linspace(-2, 2, 64).reshape(4, 4, 4)
    key = jax.random.key(3)
    np.testing.assert_allclose(
        random_intensity(key, image[..., None])[..., 0], random_intensity(key, image), atol=1e-6
    )
    both = np.asarray(random_intensity(key, jnp.stack([image, image], axis=-1)))
    assert both.shape == (4, 4, 4, 2) and not np.allclose(both[..., 0], both[..., 1])


def test_turns_are_rotations_in_millimetres_and_scalings_within_their_limits():
    spacing, keys = np.array([1.0, 2.0, 0.5]), jax.random.split(jax.random.key(0), 200)
    turns = np.asarray(jax.vmap(lambda key: random_turn(key, spacing, 15.0, 1.25))(keys))
    in_millimetres = turns * spacing[:, None] / spacing
    zooms = np.cbrt(np.linalg.det(in_millimetres))
    assert 0.8 - 1e-4 < zooms.min() < 0.85 and 1.2 < zooms.max() < 1.25 + 1e-4
    assert 60 < np.isclose(zooms, 1).sum() < 140
    rotations = in_millimetres / zooms[:, None, None]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (200, 1, 1)), atol=1e-5
    )
    angles = np.abs(Rotation.from_matrix(rotations).as_euler("XYZ", degrees=True))
    assert 13 < angles.max() < 15.01 and 60 < (angles.max(1) < 1e-2).sum() < 140


@pytest.mark.parametrize(("degrees", "zoom"), [(0.0, 1.0)])
def test_no_turn_is_none(degrees, zoom):
    for seed in range(5):
        turn = random_turn(jax.random.key(seed), (1.0, 3.0, 2.0), degrees, zoom)
        np.testing.assert_array_equal(turn, np.eye(3))
