"""Masks of voxels: the box that holds one, its signed distance, and the overlap of two."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def extent(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First index of a mask along each of its axes, and the one after the last; zeros where the mask is empty."""
    axes = range(mask.ndim)
    held = [np.flatnonzero(mask.any(axis=tuple({*axes} - {axis}))) for axis in axes]
    first, stop = np.array([(along[0], along[-1] + 1) if along.size else (0, 0) for along in held]).T
    return first, stop


def signed_distance(mask: np.ndarray, spacing: Sequence[float] | np.ndarray) -> np.ndarray:
    """Signed distance (mm, float32, negative inside) from every voxel's centre to the surface of ``mask``.

    The exact Euclidean distance transform names the nearest voxel of the other side; the surface is taken to lie half a
    voxel before its centre on the way there. ``mask`` must hold voxels of both sides.
    """
    from scipy import ndimage  # slow to import

    signed = np.zeros(mask.shape, np.float32)
    for side, sign in ((mask, -1), (~mask, 1)):
        away, nearest = ndimage.distance_transform_edt(side, sampling=tuple(spacing), return_indices=True)
        steps = np.zeros(mask.shape, np.float32)
        for axis, edge in enumerate(mask.shape):
            own = np.arange(edge).reshape([-1 if a == axis else 1 for a in range(3)])
            steps = np.maximum(steps, np.abs(nearest[axis] - own))
        signed += np.where(side, sign * away * (1 - 0.5 / np.maximum(steps, 1)), 0)
    return signed


def dice_of(both: Any, first: Any, second: Any) -> Any:
    """Dice of two masks, or of several pairs, from voxel counts: of the overlap and of each; NaN where all are 0."""
    with np.errstate(invalid="ignore"):
        return 2 * both / (first + second)
