"""What two label maps are compared by: overlap, volumes, and how far apart surfaces are; a table of functions.

Every measure is a function of what was counted and found of one class, `Compared`. So what several need is found once,
and what nobody asks for is not.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.surfaces import Side, Surface, surfaces_apart
from fdif_jax.sdf.masks import dice_of

Measure = Literal["dice", "sensitivity", "precision", "volume", "relative_volume", "nsd", "hd95", "assd"]
_QUANTILE = 0.95  # of HD95
_ML = 1000  # mm³


class Compared(NamedTuple):
    """A class in two label maps.

    Attributes:
        both, ours, theirs: voxels of it in both maps at once, in the prediction, and in the label.
        voxel: the volume of a voxel, in cubes of the spacing's unit.
        sides: its surfaces in the prediction and in the label; None where no measure needs them.
        tolerance, surface: see `compare`.
    """

    both: int
    ours: int
    theirs: int
    voxel: float
    sides: tuple[Side, Side] | None
    tolerance: float
    surface: Surface


def compare(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    measures: Sequence[Measure],
    *,
    tolerance: float = 1.0,
    spacing: Sequence[float] | None = None,
    surface: Surface = "area",
) -> np.ndarray:
    """Measures of every foreground class, a column each, see `MEASURES`; NaN where one is undefined.

    Args:
        prediction: class ids ``(D, H, W)``.
        label: class ids, the same grid.
        num_classes: C, background included; other ids count as background.
        measures: names in `MEASURES`.
        tolerance: of ``nsd``, in the units of ``spacing``.
        spacing: of voxels along each axis, mm where volumes are to be ml; 1 if not given.
        surface: what a part of the surface is measured by, its area or its voxels.

    Returns:
        float64 ``(C - 1, len(measures))``.

    Raises:
        FdifError: the volumes or their spacing do not agree, or the tolerance is negative.
    """
    steps = np.ones(3) if spacing is None else np.asarray(spacing, np.float64)
    _check(prediction, label, steps, tolerance)
    near = SURFACES.isdisjoint(
        set(measures) - {"nsd"}
    )  # then it is only asked whether distances are within tolerance
    limit = tolerance if near else np.inf
    sides: Iterator[tuple[Side, Side] | None] = itertools.repeat(None, num_classes - 1)
    if not SURFACES.isdisjoint(measures):
        sides = surfaces_apart(prediction, label, num_classes, steps, surface, limit)
    table = np.empty((num_classes - 1, len(measures)))
    counts = zip(*voxel_counts(prediction, label, num_classes), strict=True)
    for row, pair, (both, ours, theirs) in zip(table, sides, counts, strict=True):
        voxels = int(both), int(ours), int(theirs)
        compared = Compared(*voxels, float(steps.prod()), pair, tolerance, surface)
        row[:] = [MEASURES[name](compared) for name in measures]
    return table


def _check(prediction: np.ndarray, label: np.ndarray, steps: np.ndarray, tolerance: float) -> None:
    if not 0 <= tolerance < np.inf:
        raise FdifError(f"the tolerance of a surface distance must be 0 or more, not {tolerance:g}")
    one_shape = prediction.ndim == 3 and prediction.shape == label.shape
    if not one_shape or steps.shape != (3,) or not (steps > 0).all():
        raise FdifError(
            f"prediction {prediction.shape} and label {label.shape} must be of one shape of 3 axes, "
            f"and their spacing 3 positive numbers, not {steps.tolist()}"
        )


def voxel_counts(
    prediction: np.ndarray, label: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels ``(C - 1,)`` of every foreground class in both maps at once, in the prediction, and in the label.

    Memory does not grow with the classes.
    """
    both, ours, theirs = (
        np.bincount(ids.ravel(), minlength=num_classes)[1:num_classes]
        for ids in (label[prediction == label], prediction, label)
    )
    return both, ours, theirs


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _dice(c: Compared) -> float:
    return float(dice_of(np.float64(c.both), c.ours, c.theirs))


def _sensitivity(c: Compared) -> float:
    return _ratio(c.both, c.theirs)


def _precision(c: Compared) -> float:
    return _ratio(c.both, c.ours)


def _volume(c: Compared) -> float:
    return (c.ours - c.theirs) * c.voxel / _ML if c.ours or c.theirs else np.nan


def _relative_volume(c: Compared) -> float:
    return _ratio(c.ours - c.theirs, c.theirs)


def _nsd(c: Compared) -> float:
    """Normalised surface distance: Nikolov et al. 2021, arXiv 1809.04430. The value of MONAI's
    ``compute_surface_dice``, by area with ``use_subvoxels=True``: 0 for a class in only one of the two.
    """
    sides = _sides(c)
    within = sum(side.areas[side.apart <= np.float32(c.tolerance)].sum() for side in sides)
    return float(_ratio(within, sum(side.areas.sum() for side in sides)))


def _hd95(c: Compared) -> float:
    """95th percentile Hausdorff distance. By area it is the least distance within which 95 % of a surface's area lies,
    DeepMind's ``compute_robust_hausdorff``; by voxels the percentile is interpolated, MONAI's
    ``compute_hausdorff_distance(percentile=95)``.
    """
    percentile = _by_area if c.surface == "area" else _interpolated
    return max(map(percentile, _sides(c))) if c.ours and c.theirs else np.nan


def _assd(c: Compared) -> float:
    """Average symmetric surface distance (Heimann et al. 2009, IEEE TMI 28(8)), of both surfaces' elements by area; by
    voxels MONAI's ``compute_average_surface_distance(symmetric=True)``.
    """
    if not (c.ours and c.theirs):
        return np.nan
    areas, apart = (np.concatenate(part) for part in zip(*_sides(c), strict=True))
    return float(np.average(apart.astype(np.float64), weights=areas))


def _sides(c: Compared) -> tuple[Side, Side]:
    assert c.sides is not None  # `compare` finds them for these measures
    return c.sides


def _by_area(side: Side) -> float:
    # In DeepMind's order, so that a share of just 95 % rounds as theirs does.
    order = np.lexsort((side.areas, side.apart))
    share = np.cumsum(side.areas[order]) / side.areas.sum()
    return float(side.apart[order[np.searchsorted(share, _QUANTILE)]])


def _interpolated(side: Side) -> float:
    return float(np.quantile(side.apart, _QUANTILE))


MEASURES: Mapping[Measure, Callable[[Compared], float]] = {
    "dice": _dice,
    "sensitivity": _sensitivity,
    "precision": _precision,
    "volume": _volume,
    "relative_volume": _relative_volume,
    "nsd": _nsd,
    "hd95": _hd95,
    "assd": _assd,
}
"""By name, with P the voxels of a class in the prediction, L those in the label:

* ``dice``: 2 |P ∩ L| / (|P| + |L|); ``sensitivity``: |P ∩ L| / |L|; ``precision``: |P ∩ L| / |P|.
* ``volume``: |P| - |L| in ml; ``relative_volume``: (|P| - |L|) / |L|.
* ``nsd``: the part of both surfaces that lies within the tolerance of the other one.
* ``hd95``: the larger 95th percentile, of the two directions, of the distance to the other surface.
* ``assd``: the mean distance to the other surface, over both.

A class in neither map has none of them. In only one, Dice and NSD are 0; what divides by nothing, and distances, are
undefined.
"""

SURFACES: frozenset[Measure] = frozenset(("nsd", "hd95", "assd"))
"""Measures of surfaces, which take longer."""
