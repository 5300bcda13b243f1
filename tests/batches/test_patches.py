"""Patches drawn on the device: where they are cut, what they are centred on, how they are turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from fdif_jax.batches import patches as module
from fdif_jax.batches.augmentation import random_turn
from fdif_jax.batches.patches import lay_out, patch_batch
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.preparation import Prepared, Way
from fdif_jax.preprocessing.spaces import Crop, Space


def _prepared(image, label):
    shape = label.shape
    way = Way(Crop(Space(shape, np.eye(4)), tuple(slice(0, n) for n in shape)), shape, shape)
    return Prepared("case", image.astype(np.float32), label.astype(np.int8), way)


def test_patches_are_cut_from_one_place_of_image_and_label_and_half_are_centred_on_classes_evenly():
    patch, cases = (5, 5, 5), []
    for i, shape in enumerate([(20, 22, 24), (30, 12, 16)]):
        label = np.zeros(shape, int)
        label[10, 6, 8] = 1  # a single voxel, which chance alone would miss
        label[3:9, 3:9, 3:9] = 2
        label[0] = -1
        image = np.arange(label.size).reshape(*shape, 1) + 1e5 * (i + 1)
        cases.append(_prepared(np.concatenate([image, -image], axis=3), label))
    source = lay_out(cases, 3)
    images, labels = jax.jit(patch_batch(patch))(jax.random.split(jax.random.key(0), 400), source)
    assert images.shape == (400, *patch, 2) and labels.shape == (400, *patch)
    centres = []
    for image, label in zip(np.asarray(images), np.asarray(labels), strict=True):
        case = cases[int(image[..., 0].min() // 1e5) - 1]
        z, y, x = np.unravel_index(
            int(np.argmax(case.image[..., 0] == image[0, 0, 0, 0])), case.image.shape[:3]
        )
        at = np.s_[z : z + 5, y : y + 5, x : x + 5]
        np.testing.assert_array_equal(case.image[at], image)
        np.testing.assert_array_equal(case.label[at], label)
        centres.append(label[2, 2, 2])
    assert 70 < centres.count(1) < 130 and 70 < centres.count(2) < 150


def test_a_case_without_foreground_is_drawn_from_and_no_foreground_is_asked_for():
    label = np.zeros((6, 7, 8), int)
    for foreground in (0.0, 1.0):
        source = lay_out([_prepared(np.ones((6, 7, 8, 1)), label)], 3)
        make_batch = jax.jit(patch_batch((5, 5, 6), foreground=foreground))
        images, labels = make_batch(jax.random.split(jax.random.key(0), 3), source)
        assert images.shape == (3, 5, 5, 6, 1) and (images == 1).all() and not np.asarray(labels).any()


@pytest.mark.slow("a program more; turned ones are compared with SciPy")
def test_a_patch_that_is_turned_by_nothing_is_the_patch():
    rng = np.random.default_rng(0)
    case = _prepared(rng.standard_normal((9, 10, 8, 2)), rng.integers(-1, 3, (9, 10, 8)))
    source, keys = lay_out([case], 3), jax.random.split(jax.random.key(1), 4)
    plain = jax.jit(patch_batch((6, 7, 8)))(keys, source)
    # so little that only rounding tells, in the half that is turned at all
    turned = jax.jit(patch_batch((6, 7, 8), degrees=1e-4))(keys, source)
    np.testing.assert_allclose(turned[0], plain[0], atol=1e-3)
    np.testing.assert_array_equal(turned[1], plain[1])


def test_turned_patches_are_what_scipy_makes_of_the_case(monkeypatch):
    """Linear interpolation, background outside, about the patch's middle, in millimetres."""
    rng = np.random.default_rng(1)
    shape, spacing = (11, 12, 13), (1.0, 2.0, 0.5)
    image, label = rng.standard_normal((*shape, 1)).astype(np.float32), rng.integers(0, 3, shape)
    turn = np.asarray(random_turn(jax.random.key(5), spacing, 40.0, 1.3))
    assert abs(turn - np.eye(3)).max() > 0.1
    monkeypatch.setattr(module, "random_turn", lambda *_: jnp.asarray(turn))
    make_batch = jax.jit(patch_batch(shape, spacing, degrees=40.0, zoom=1.3))
    images, labels = make_batch(jax.random.split(jax.random.key(0), 1), lay_out([_prepared(image, label)], 3))
    middle = (np.array(shape) - 1) / 2
    offset = middle - turn @ middle
    # beyond the last voxel we fade to 0 over a voxel, which SciPy does when it may look there
    expected = affine_transform(image[..., 0], turn, offset, order=1, mode="grid-constant")
    np.testing.assert_allclose(images[0, ..., 0], expected, atol=1e-4)
    nearest = affine_transform(label, turn, offset, order=0, mode="grid-constant")
    assert (np.asarray(labels[0]) == nearest).mean() > 0.995  # but for ties


def test_mirrored_patches_are_mirrored_together():
    case = _prepared(np.arange(4 * 5 * 6).reshape(4, 5, 6, 1), np.arange(4 * 5 * 6).reshape(4, 5, 6) % 3)
    make_batch = jax.jit(patch_batch((4, 5, 6), mirror_axes=(0, 2)))
    images, labels = make_batch(jax.random.split(jax.random.key(2), 12), lay_out([case], 3))
    np.testing.assert_array_equal(np.asarray(images[..., 0]).astype(int) % 3, labels)
    assert len({np.asarray(image).tobytes() for image in images}) == 4


def test_looks_change_intensities_and_not_labels():
    rng = np.random.default_rng(0)
    source = lay_out([_prepared(rng.standard_normal((8, 8, 8, 1)), rng.integers(0, 3, (8, 8, 8)))], 3)
    keys = jax.random.split(jax.random.key(0), 4)
    plain, looked = (jax.jit(patch_batch((8, 8, 8), intensity=some))(keys, source) for some in (False, True))
    np.testing.assert_array_equal(plain[1], looked[1])
    assert not np.allclose(plain[0], looked[0])


def test_only_so_many_spots_are_remembered_and_the_same_ones(monkeypatch):
    monkeypatch.setattr(module, "_SPOTS", 10)
    label = np.ones((6, 6, 6), int)
    one, two = (lay_out([_prepared(np.zeros((6, 6, 6, 1)), label)] * 2, 2) for _ in range(2))
    assert one.spots.shape == (2, 1, 10) and (one.counts == 10).all()
    np.testing.assert_array_equal(one.spots, two.spots)
    assert len(set(np.asarray(one.spots[0, 0]).tolist())) == 10


def test_patches_are_centred_on_regions_where_there_are_some():
    label = np.zeros((6, 6, 6), int)
    label[0, 0, :3], label[0, 1, :2] = 1, 2
    source = lay_out([_prepared(np.zeros((6, 6, 6, 1)), label)], 3, ((1, 2), (2,)))
    np.testing.assert_array_equal(source.counts, [[5, 2]])
    assert set(np.asarray(source.spots[0, 0, :5]).tolist()) == {0, 1, 2, 6, 7}


def test_more_voxels_than_can_be_numbered_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MOST_VOXELS", 400)
    case = _prepared(np.zeros((6, 6, 6, 1)), np.ones((6, 6, 6)))
    lay_out([case], 2)
    with pytest.raises(FdifError, match="2 cases of 432 voxels are more than the 400"):
        lay_out([case, case], 2)
