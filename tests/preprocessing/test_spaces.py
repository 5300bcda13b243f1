"""Geometry of volumes: axes there and back against nibabel, resampling against analytic volumes."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.spaces import (
    Space,
    labels_of_scores,
    middle,
    pad_to,
    resample,
    resample_labels,
    shape_at,
)
from tests.helpers.spaces import SHAPES, affines


@given(affine=affines(), shape=SHAPES, channels=st.integers(0, 2))
def test_canonical_axes_are_nibabels_and_the_way_back_is_exact(affine, shape, channels):
    array = np.random.default_rng(0).integers(0, 99, (*shape, *[channels] * (channels > 0))).astype(np.int16)
    space = Space(shape, affine)
    turned = space.to_canonical(array)
    wanted = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    np.testing.assert_array_equal(turned, np.asarray(wanted.dataobj))
    np.testing.assert_allclose(space.canonical.affine, wanted.affine, atol=1e-9)
    assert space.canonical.shape == turned.shape[:3] == wanted.shape[:3]
    np.testing.assert_allclose(space.canonical.spacing, wanted.header.get_zooms()[:3], rtol=1e-5)
    back = space.from_canonical(turned)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_an_affine_without_an_inverse_is_refused():
    with pytest.raises(FdifError, match="cannot be inverted"):
        Space((4, 4, 4), np.diag([1.0, 0, 1, 1]))


def test_how_far_two_grids_are_apart():
    space = Space((11, 5, 5), np.diag([2.0, 1, 1, 1]))
    shifted = Space((11, 5, 5), nib.affines.from_matvec(np.diag([2.0, 1, 1]), [0, 3, 4]))
    stretched = Space((11, 5, 5), np.diag([2.1, 1, 1, 1]))
    assert space.apart_from(space) == 0
    assert space.apart_from(shifted) == pytest.approx(5)
    assert space.apart_from(stretched) == pytest.approx(1.0)  # at voxel 10


def test_resampling_keeps_the_extent_and_a_line_is_a_line():
    ramp = np.broadcast_to((np.arange(20) + 0.5)[:, None, None], (20, 6, 6)) * np.float32(1.5)
    for order in (1, 3):
        for edge in (13, 40):
            centres = (np.arange(edge) + 0.5) * 20 / edge * 1.5
            found = resample(ramp, (edge, 6, 9), order)
            assert found.shape == (edge, 6, 9) and found.dtype == np.float32
            inner = slice(edge // 5, -edge // 5)  # what lies beyond the last centres is as they are
            np.testing.assert_allclose(found[inner, 3, 4], centres[inner], atol=0.02)
    assert resample(ramp, (20, 6, 6)) is ramp


@given(shape=SHAPES, target=SHAPES)
def test_linear_resampling_is_that_of_torch(shape, target):
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], target, mode="trilinear", align_corners=False
    )
    np.testing.assert_allclose(resample(image, target, order=1), wanted[0, 0], atol=1e-5)


def test_shapes_at_another_spacing():
    assert shape_at((512, 512, 100), (0.7, 0.7, 3.0), (1.4, 1.4, 1.0)) == (256, 256, 300)
    assert shape_at((1, 2, 3), (1, 1, 1), (9, 2, 1)) == (1, 1, 3)


@given(shape=SHAPES, factor=st.integers(1, 3), seed=st.integers(0, 99))
def test_labels_survive_a_finer_grid(shape, factor, seed):
    labels = np.random.default_rng(seed).choice(np.array([-1, 0, 3, 200], np.int16), shape)
    finer = np.kron(labels, np.ones([factor] * 3, labels.dtype))
    linear = resample_labels(finer, shape)
    assert linear.dtype == labels.dtype and set(np.unique(linear)) <= set(np.unique(labels))
    if factor == 3:  # the middle of each block is its label alone
        np.testing.assert_array_equal(linear, labels)


def test_a_ball_of_labels_keeps_its_volume_and_scores_say_the_same():
    z, y, x = np.indices((30, 40, 24)) - np.array([15, 20, 12]).reshape(3, 1, 1, 1)
    labels = (z**2 + (0.7 * y) ** 2 + x**2 < 81).astype(np.uint8) * 2
    labels[labels.shape[0] // 2 :] //= 2
    finer = resample_labels(labels, (60, 60, 36))
    for number in (1, 2):
        assert (finer == number).sum() == pytest.approx((labels == number).sum() * 4.5, rel=0.05)
    scores = (labels[..., None] == np.arange(3)).astype(np.float32)
    np.testing.assert_array_equal(labels_of_scores(scores, (60, 60, 36)), finer)
    same = labels_of_scores(scores, labels.shape)
    np.testing.assert_array_equal(same, labels)
    assert same.dtype == np.uint8


@given(shape=SHAPES, least=SHAPES)
def test_padding_is_undone(shape, least):
    array = np.random.default_rng(0).random((*shape, 2))
    padded = pad_to(array, least)
    assert padded.shape[:3] == tuple(np.maximum(shape, least))
    np.testing.assert_array_equal(padded[middle(padded.shape[:3], shape)], array)
    assert padded.sum() == pytest.approx(array.sum())
