"""Masks of voxels: the box that holds one, distances in millimetres, and Dice where a mask is empty."""

import numpy as np

from fdif_jax.sdf.masks import dice_of, extent, signed_distance


def test_the_extent_is_the_least_box_that_holds_the_mask():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 3] = mask[3, 2, 6] = True
    first, stop = extent(mask)
    assert (first.tolist(), stop.tolist()) == ([1, 2, 3], [4, 3, 7])
    assert all(not ends.any() for ends in extent(np.zeros((5, 6, 7), bool)))


def test_dice_of_two_empty_masks_is_not_defined():
    found = dice_of(np.array([0, 0, 2]), np.array([0, 3, 2]), np.array([0, 0, 6]))
    np.testing.assert_array_equal(found, [np.nan, 0.0, 0.5])


def test_distances_are_true_ones_in_millimetres():
    spacing = (1.0, 1.0, 2.0)
    z, y, x = np.meshgrid(
        *[(np.arange(n) - n // 2) * s for n, s in zip((40, 40, 20), spacing, strict=True)], indexing="ij"
    )
    radius = np.sqrt(z**2 + y**2 + x**2)
    found = signed_distance(radius < 12, spacing)
    assert np.abs(found - (radius - 12))[radius < 18].max() < 1.5  # within a voxel's half diagonal
    assert np.abs(found - (radius - 12))[radius < 18].mean() < 0.4
