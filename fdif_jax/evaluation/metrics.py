"""How far apart the surfaces of two label maps are: surface Dice (NSD) and the 95th percentile Hausdorff distance.

The surface of a class is its voxels that have a face neighbour of another label, or none because the volume ends.
All classes' surfaces are found in one pass, and distances are looked up between the surface voxels alone. So the cost
follows the surfaces, not the number of classes, nor how far a class is scattered: the first predictions of a network
that has learnt nothing are noise, where boxes around the classes would be the whole volume.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.spatial import KDTree

from fdif_jax.errors import FdifError


def surface_dice(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    *,
    tolerance: float = 1.0,
    spacing: Sequence[float] | None = None,
) -> np.ndarray:
    """Normalised surface distance (NSD) of every foreground class: the part of both surfaces that lies within
    ``tolerance`` of the other one (Nikolov et al. 2021, arXiv 1809.04430, with voxels counted for areas).

    The value of MONAI's ``compute_surface_dice``: NaN for a class in neither, 0 for one in only one of the two.

    Args:
        prediction: class ids ``(D, H, W)``.
        label: class ids, the same grid.
        num_classes: C, background included; other ids count as background.
        tolerance: in the units of ``spacing``.
        spacing: of voxels along each axis; 1 if not given.

    Returns:
        float64 ``(C - 1,)``.

    Raises:
        FdifError: the volumes or their spacing do not agree, or the tolerance is negative.
    """
    if not 0 <= tolerance < np.inf:
        raise FdifError(f"the tolerance of a surface distance must be 0 or more, not {tolerance:g}")
    scores = []
    for ours, theirs in _surfaces(prediction, label, num_classes, spacing):
        distances = np.concatenate([_nearest(ours, theirs, tolerance), _nearest(theirs, ours, tolerance)])
        scores.append((distances <= np.float32(tolerance)).mean() if distances.size else np.nan)
    return np.array(scores)


def hausdorff95(
    prediction: np.ndarray, label: np.ndarray, num_classes: int, *, spacing: Sequence[float] | None = None
) -> np.ndarray:
    """95th percentile Hausdorff distance (HD95) of every foreground class: of the two directions the larger one.

    The value of MONAI's ``compute_hausdorff_distance(percentile=95)``: NaN for a class that is not in both. Arguments
    and errors are as of `surface_dice`; gives float64 ``(C - 1,)``, in the units of ``spacing``.
    """
    return np.array(
        [
            max(np.percentile(_nearest(a, b), 95) for a, b in ((ours, theirs), (theirs, ours)))
            if len(ours) and len(theirs)
            else np.nan
            for ours, theirs in _surfaces(prediction, label, num_classes, spacing)
        ]
    )


def _surfaces(
    prediction: np.ndarray, label: np.ndarray, num_classes: int, spacing: Sequence[float] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per foreground class the surface voxels' centres ``(n, 3)`` in the prediction and in the label."""
    steps = np.ones(label.ndim) if spacing is None else np.asarray(spacing, np.float64)
    if prediction.shape != label.shape or steps.shape != (label.ndim,) or not (steps > 0).all():
        raise FdifError(
            f"prediction {prediction.shape} and label {label.shape} must be of one shape, "
            f"and their spacing as many positive numbers, not {steps.tolist()}"
        )
    return zip(*(_by_class(volume, num_classes, steps) for volume in (prediction, label)), strict=True)


def _by_class(labels: np.ndarray, num_classes: int, steps: np.ndarray) -> list[np.ndarray]:
    surface = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        ids, on = np.moveaxis(labels, axis, 0), np.moveaxis(surface, axis, 0)  # views
        differs = ids[1:] != ids[:-1]
        on[1:] |= differs
        on[:-1] |= differs
        on[[0, -1]] = True
    surface &= labels != 0
    ids = labels[surface]
    order = np.argsort(ids, kind="stable")
    starts = np.searchsorted(ids[order], np.arange(1, num_classes + 1))
    return np.split(np.argwhere(surface)[order] * steps, starts)[1:-1]


def _nearest(points: np.ndarray, others: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance ``(n,)`` of each point to the nearest other; what exceeds the limit may be infinite.

    In float32, so that steps of 0.1 make a distance of 0.3.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf, np.float32)
    bound = limit * (1 + 1e-6) + 1e-6  # the tree's own limit is exclusive
    return KDTree(others).query(points, distance_upper_bound=bound)[0].astype(np.float32)
