"""Inference over volumes of any size: equal to MONAI's, one compiled program, slab by slab."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.inference.sliding_window import TiledNetwork, gaussian_importance, tile_starts
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import AsItIs
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scans import Scan
from fdif_jax.preprocessing.spaces import Space
from fdif_jax.training.network import functional
from tests.helpers.monai_tiles import monai
from tests.helpers.spaces import affines, scores_back
from tests.helpers.training import Net

PATCH = (8, 6, 8)


def image_of(shape, channels=1, seed=0):
    return np.random.default_rng(seed).standard_normal((*shape, channels)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "overlap", "tile_batch"),
    [((13, 9, 17), 0.5, 3), ((8, 6, 8), 0.5, 2), ((24, 7, 9), 0.0, 4), ((30, 6, 11), 0.75, 5)],
)
def test_logits_equal_monai(shape, overlap, tile_batch):
    network, image = functional(Net()), image_of(shape)
    tiled = TiledNetwork(network.apply, [network.weights], PATCH, overlap=overlap, tile_batch=tile_batch)
    logits = tiled.logits(image)
    expected = monai(lambda tiles: network.apply(network.weights, tiles), image, PATCH, overlap)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_array_equal(tiled.labels(image), logits.argmax(-1))
    assert tiled.labels(image).dtype == np.uint8


@pytest.mark.parametrize(
    ("shape", "patch", "overlap"),
    [((13, 9, 17), (8, 6, 8), 0.5), ((35, 51, 36), (24, 32, 24), 0.5), ((40, 12, 9), (10, 12, 9), 0.3)],
)
def test_windows_of_nnunet_equal_its_own(shape, patch, overlap):
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction")
    corners = tile_starts(shape, patch, overlap, "nnunet")
    steps = theirs.compute_steps_for_sliding_window(shape, patch, 1 - overlap)
    np.testing.assert_array_equal(corners, list(itertools.product(*steps)))
    weights = theirs.compute_gaussian(patch, value_scaling_factor=10, device="cpu").numpy() / 10.0
    np.testing.assert_allclose(gaussian_importance(patch, "nnunet"), weights, rtol=2e-3, atol=1e-7)


@pytest.mark.slow("a network, by two libraries; windows of functions are beside it")
def test_a_real_network_of_two_channels_equals_monai():
    spec = {
        "name": "resenc_unet",
        "in_channels": 2,
        "out_channels": 3,
        "features": [4, 8],
        "dtype": "float32",
    }
    network, image = functional(models.create(**spec)), image_of((20, 16, 27), 2)
    tiled = TiledNetwork(network.apply, [network.weights], (16, 16, 16), in_channels=2)
    expected = monai(lambda tiles: network.apply(network.weights, tiles), image, (16, 16, 16), 0.5)
    np.testing.assert_allclose(tiled.logits(image), expected, atol=1e-4)


def test_a_case_smaller_than_the_patch_equals_monai():
    network, image = functional(Net()), image_of((5, 11, 7))
    scan = Scan("small", image, None, Space(image.shape[:3], np.eye(4)))
    prepared = prepare(scan, CasePlan((1, 1, 1), PATCH, (AsItIs(),)))
    logits = TiledNetwork(network.apply, [network.weights], PATCH).logits(prepared.image)
    expected = monai(lambda tiles: network.apply(network.weights, tiles), image, PATCH, 0.5)
    np.testing.assert_allclose(logits[prepared.way.content], expected, atol=1e-4)


ORACLE = TiledNetwork(
    lambda weights, tiles: -jnp.abs(tiles - weights["classes"]), [{"classes": jnp.arange(4.0)}], PATCH
)


@given(affine=affines(), shape=st.tuples(*[st.integers(2, 20)] * 3), seed=st.integers(0, 99))
def test_an_oracle_reproduces_the_label_on_its_own_grid(affine, shape, seed):
    """From the file's grid through tiles and back, for any axes, and for cases smaller than a patch."""
    label = np.random.default_rng(seed).integers(1, 4, shape).astype(np.uint8)
    space = Space(shape, affine)
    scan = Scan("oracle", space.to_canonical(label)[..., None].astype(np.float32), None, space)
    prepared = prepare(scan, CasePlan(space.canonical.spacing, PATCH, (AsItIs(),)))
    np.testing.assert_array_equal(prepared.way.labels_back(ORACLE.labels(prepared.image)), label)
    np.testing.assert_array_equal(scores_back(prepared.way, ORACLE.logits(prepared.image)), label)


def test_an_ensemble_and_its_mirrorings_are_averaged():
    networks, image = [functional(Net(seed=seed)) for seed in range(2)], image_of((13, 9, 17))
    tiled = TiledNetwork(
        networks[0].apply, [n.weights for n in networks], PATCH, mirror_axes=(0, 2), tile_batch=3
    )

    def averaged(tiles):
        votes = [
            jnp.flip(n.apply(n.weights, jnp.flip(tiles, axes)), axes)
            for n, axes in itertools.product(networks, [(), (1,), (3,), (1, 3)])
        ]
        return sum(votes) / len(votes)

    np.testing.assert_allclose(tiled.logits(image), monai(averaged, image, PATCH, 0.5), atol=1e-4)


def test_one_program_serves_all_volumes_and_slabs_are_a_volume():
    network, shapes = functional(Net()), []

    def apply(weights, tiles):  # runs when it is traced
        shapes.append(tiles.shape)
        return network.apply(weights, tiles)

    tiled = TiledNetwork(apply, [network.weights] * 2, PATCH, mirror_axes=(1,), tile_batch=2)
    for shape in ((13, 9, 17), (8, 6, 8), (40, 12, 9)):
        slabs = list(tiled.slabs(image_of(shape)))
        starts = [slab.start for slab in slabs]
        assert starts == np.cumsum([0, *(len(slab.logits) for slab in slabs)])[:-1].tolist()
        assert sum(len(slab.logits) for slab in slabs) == shape[0]
        assert max(len(slab.logits) for slab in slabs) <= PATCH[0]
    assert shapes == [(2, *PATCH, 1)] * 2  # once for the number of classes, once to compile


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 1.0}, "overlap must be"),
        ({"tile_batch": 0}, "at least 1 tile"),
        ({"mirror_axes": (3,)}, "axes to mirror along"),
        ({"mirror_axes": (1, 1)}, "axes to mirror along"),
        ({"members": []}, "no weights"),
    ],
)
def test_impossible_arguments_are_refused(changes, message):
    network = functional(Net())
    with pytest.raises(FdifError, match=message):
        TiledNetwork(network.apply, **{"members": [network.weights], "patch": PATCH} | changes)


def test_an_image_that_is_smaller_than_the_patch_or_has_other_channels_is_refused():
    network = functional(Net())
    with pytest.raises(FdifError, match="2 channels, but the network takes 1"):
        TiledNetwork(network.apply, [network.weights], PATCH).logits(image_of((8, 8, 8), 2))
    with pytest.raises(FdifError, match=r"\(8, 5, 8\) is smaller than the patch \(8, 6, 8\)"):
        TiledNetwork(network.apply, [network.weights], PATCH).logits(image_of((8, 5, 8)))
