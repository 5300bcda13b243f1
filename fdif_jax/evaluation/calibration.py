"""Whether probabilities are what they say: of the voxels that are given 70 %, are seven in ten of the class?

Each class is judged by itself, in the box that holds it in the prediction and in the label and what is within `MARGIN`
of it: over a whole scan, nearly all of which is surely background, every network is well calibrated. What was counted
is additive, so that many cases make one diagram.
"""

from collections.abc import Sequence

import numpy as np

from fdif_jax.sdf.masks import extent

BINS = 15  # of equal width (Guo et al. 2017, arXiv 1706.04599)
MARGIN = 10.0  # mm around a class


def reliability(
    probability: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    judged: np.ndarray,
    spacing: Sequence[float],
) -> np.ndarray:
    """Count a class's voxels by their probability, float64 ``(BINS, 4)``: how many there are, and the sums of their
    probability p, of y (1 in the class, else 0) and of (p - y)².

    All is 0 where neither the prediction nor the label has the class. A bin holds its upper bound, not its lower one.

    Args:
        probability: of the class, ``(D, H, W)``, from 0 to 1.
        truth: whether a voxel is of the class, bool.
        prediction: whether it was predicted to be, bool.
        judged: whether it counts, bool.
        spacing: of voxels along each axis, mm.
    """
    first, stop = extent((truth | prediction) & judged)
    if not stop.any():
        return np.zeros((BINS, 4))
    room = np.ceil(MARGIN / np.asarray(spacing)).astype(int)
    box = tuple(map(slice, np.maximum(first - room, 0), stop + room))
    inside = judged[box]
    p, y = probability[box][inside].astype(np.float64), truth[box][inside].astype(np.float64)
    bins = np.clip(np.ceil(p * BINS).astype(int) - 1, 0, BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (np.ones_like(p), p, y, (p - y) ** 2)]
    return np.stack(sums, axis=-1)


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error of what `reliability` counted: the mean over voxels of |mean p - mean y| of their bin;
    NaN of none. Source: Naeini et al. 2015, AAAI, of one class against the others.
    """
    voxels, confidence, frequency, _ = bins.T
    return float(np.abs(confidence - frequency).sum() / voxels.sum()) if voxels.any() else np.nan


def brier_score(bins: np.ndarray) -> float:
    """Brier score of what `reliability` counted: the mean of (p - y)²; NaN of no voxel. Source: Brier 1950."""
    return float(bins[:, 3].sum() / bins[:, 0].sum()) if bins.any() else np.nan
