"""Scores of predicted label maps: measures of a case, and how sure the mean of many cases is."""

from collections.abc import Iterator, Sequence

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import Measure, compare, voxel_counts
from fdif_jax.evaluation.surfaces import Surface
from fdif_jax.sdf.masks import dice_of, extent

LEVEL, RESAMPLES = 0.95, 10_000  # of a bootstrap
_AT_ONCE = 10_000_000  # values that are drawn, of several resamples


def score_case(
    prediction: np.ndarray,
    label: np.ndarray,
    classes: Sequence[int],
    *,
    spacing: Sequence[float],
    measures: Sequence[Measure] = ("dice", "nsd", "hd95"),
    tolerance: float = 1.0,
    surface: Surface = "area",
    regions: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """Measures of ``classes``, increasing ids above 0, and of ``regions``, unions of some ids, which may overlap.

    Gives float64 ``(len(classes) + len(regions), len(measures))``; other ids are background. What is below 0 in
    ``label`` is left out of the comparison; else arguments, errors, and what is undefined are as of `metrics.compare`,
    in mm. How large an id is costs nothing.
    """
    if prediction.shape != label.shape:
        raise FdifError(f"prediction {prediction.shape} and label {label.shape} must be of one shape")
    prediction, label = where_labelled(prediction, label)
    # A voxel of room on each side, so that every surface is where it was.
    first, stop = extent((prediction > 0) | (label > 0))
    box = tuple(map(slice, np.maximum(first - 1, 0), stop + 1))
    prediction, label = prediction[box], label[box]

    def measured(ours: np.ndarray, theirs: np.ndarray, number: int) -> np.ndarray:
        return compare(ours, theirs, number, measures, tolerance=tolerance, spacing=spacing, surface=surface)

    tables = [measured(_places(prediction, classes), _places(label, classes), len(classes) + 1)]
    tables += [measured(*pair, 2) for pair in region_maps(prediction, label, regions)]
    return np.concatenate(tables)


def worst_place(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> tuple[int, int, int]:
    """The voxel deepest within what is wrong: of those whose labels differ, the farthest (mm) from one that is right.

    What is below 0 in ``label`` counts as right. Where all is right it is the middle of the foreground.
    """
    from scipy import ndimage  # slow to import

    prediction, label = where_labelled(prediction, label)
    wrong = prediction != label
    first, stop = extent(wrong)
    if not stop.any():
        d, h, w = (int(i) for i in np.add(*extent(label > 0)) // 2)
        return d, h, w
    depth = ndimage.distance_transform_edt(np.pad(wrong[tuple(map(slice, first, stop))], 1), tuple(spacing))
    d, h, w = (int(i) for i in np.unravel_index(depth.argmax(), depth.shape) + first - 1)
    return d, h, w


def _places(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Of every label its place among increasing ``classes``, from 1 on; 0 for one that is not among them."""
    places = np.searchsorted(classes, labels, side="right")
    known = np.where(labels == np.array([0, *classes])[places], places, 0)
    return known.astype(np.min_scalar_type(len(classes)))


def region_maps(
    prediction: np.ndarray, label: np.ndarray, regions: Sequence[Sequence[int]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both maps for each region: 1 where they hold one of its labels, 0 elsewhere; uint8."""
    for united in regions:
        yield np.isin(prediction, united).astype(np.uint8), np.isin(label, united).astype(np.uint8)


def where_labelled(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps with background where the label is below 0, so that nothing is compared there."""
    judged = label >= 0
    return np.where(judged, prediction, 0), np.where(judged, label, 0)


def dice(
    prediction: np.ndarray, label: np.ndarray, num_classes: int, regions: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """`objectives.losses.dice_per_class` on the host, by counting; where ``regions`` are given, that of each of them
    (`region_maps`)."""
    if regions:
        pairs = region_maps(prediction, label, regions)
        return np.concatenate([dice(*pair, 2) for pair in pairs])
    return dice_of(*voxel_counts(prediction, label, num_classes))


def mean_defined(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean along an axis of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of what is defined among values ``(n,)``.

    A lower and an upper bound; both are the value itself where there is one, and NaN where there is none. Source: Efron
    and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    values = values[~np.isnan(values)]
    if not values.size:
        return middle(values)
    rng = np.random.default_rng(0)
    rows = max(1, _AT_ONCE // values.size)
    means = [
        values[rng.integers(0, values.size, (min(rows, RESAMPLES - done), values.size))].mean(axis=1)
        for done in range(0, RESAMPLES, rows)
    ]
    return middle(np.concatenate(means))


def middle(means: np.ndarray) -> tuple[float, float]:
    """The bounds between which `LEVEL` of the resampled means are; NaN of none."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if means.size else (np.nan, np.nan)
    return float(low), float(high)
