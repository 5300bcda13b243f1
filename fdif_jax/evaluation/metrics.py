"""How far apart the surfaces of two label maps are: surface Dice (NSD) and the 95th percentile Hausdorff distance.

A surface is either of two things. By ``"area"`` it is made of elements between the voxel centres, each of some area:
Nikolov et al. 2021, arXiv 1809.04430, section "Surface Dice"; the Medical Segmentation Decathlon scores so. An element
lies at every corner where voxels meet of which some are of the class and some are not; its area is that of the
triangles that marching cubes (Lorensen and Cline 1987) puts between these eight voxels. By ``"voxels"`` it is the
voxels of the class that have a face neighbour of another label, one like another: on anisotropic voxels that weighs
the surface by where it lies, not by how much of it there is. What lies beyond the volume is background.

All classes' surfaces are found in one pass, and distances are looked up between their points alone. So the cost
follows the surfaces, not the number of classes, nor how far a class is scattered: the first predictions of a network
that has learnt nothing are noise, where boxes around the classes would be the whole volume.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial import KDTree

from fdif_jax.errors import FdifError

Surface = Literal["area", "voxels"]
_QUANTILE = 0.95  # of HD95


def surface_dice(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    *,
    tolerance: float = 1.0,
    spacing: Sequence[float] | None = None,
    surface: Surface = "area",
) -> np.ndarray:
    """Normalised surface distance (NSD) of every foreground class: the part of both surfaces that lies within
    ``tolerance`` of the other one (Nikolov et al. 2021, arXiv 1809.04430).

    The value of MONAI's ``compute_surface_dice``, by area with ``use_subvoxels=True``: NaN for a class in neither, 0
    for one in only one of the two.

    Args:
        prediction: class ids ``(D, H, W)``.
        label: class ids, the same grid.
        num_classes: C, background included; other ids count as background.
        tolerance: in the units of ``spacing``.
        spacing: of voxels along each axis; 1 if not given.
        surface: what a part of the surface is measured by, its area or its voxels.

    Returns:
        float64 ``(C - 1,)``.

    Raises:
        FdifError: the volumes or their spacing do not agree, or the tolerance is negative.
    """
    _check_tolerance(tolerance)
    return np.array(
        [
            _share_within(pair, _apart(pair, tolerance), tolerance)
            for pair in _surfaces(prediction, label, num_classes, spacing, surface)
        ]
    )


def hausdorff95(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    *,
    spacing: Sequence[float] | None = None,
    surface: Surface = "area",
) -> np.ndarray:
    """95th percentile Hausdorff distance (HD95) of every foreground class: of the two directions the larger one.

    By area it is the least distance within which 95 % of a surface's area lies, DeepMind's
    ``compute_robust_hausdorff``; by voxels the percentile is interpolated, MONAI's
    ``compute_hausdorff_distance(percentile=95)``. NaN for a class that is not in both. Arguments and errors are as of
    `surface_dice`; gives float64 ``(C - 1,)``, in the units of ``spacing``.
    """
    return np.array(
        [
            _farthest(pair, _apart(pair), surface)
            for pair in _surfaces(prediction, label, num_classes, spacing, surface)
        ]
    )


def surface_scores(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    *,
    tolerance: float = 1.0,
    spacing: Sequence[float] | None = None,
    surface: Surface = "area",
) -> tuple[np.ndarray, np.ndarray]:
    """`surface_dice` and `hausdorff95`, of surfaces that are found, and whose distances are looked up, once."""
    _check_tolerance(tolerance)
    scores = []
    for pair in _surfaces(prediction, label, num_classes, spacing, surface):
        apart = _apart(pair)
        scores.append((_share_within(pair, apart, tolerance), _farthest(pair, apart, surface)))
    dice, farthest = np.array(scores).reshape(-1, 2).T
    return dice, farthest


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < np.inf:
        raise FdifError(f"the tolerance of a surface distance must be 0 or more, not {tolerance:g}")


class _Elements(NamedTuple):
    """Parts of surfaces: where they are ``(n, 3)``, in the units of the spacing, and their areas ``(n,)``."""

    points: np.ndarray
    areas: np.ndarray


_Pair = tuple[_Elements, _Elements]
"""A class's surface in the prediction and in the label."""


def _apart(pair: _Pair, limit: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """How far each element of either surface is from the other surface, as `_nearest` gives it."""
    ours, theirs = (side.points for side in pair)
    return _nearest(ours, theirs, limit), _nearest(theirs, ours, limit)


def _share_within(pair: _Pair, apart: Sequence[np.ndarray], tolerance: float) -> float:
    """The part of both surfaces that is within the tolerance; NaN if there is none of either."""
    whole = sum(side.areas.sum() for side in pair)
    within = (side.areas[d <= np.float32(tolerance)].sum() for side, d in zip(pair, apart, strict=True))
    return sum(within) / whole if whole else np.nan


def _farthest(pair: _Pair, apart: Sequence[np.ndarray], surface: Surface) -> float:
    """The larger 95th percentile of both directions; NaN if one surface is empty."""
    if not all(map(len, apart)):
        return np.nan
    percentile = _by_area if surface == "area" else _interpolated
    return max(percentile(d, side.areas) for side, d in zip(pair, apart, strict=True))


def _by_area(distances: np.ndarray, areas: np.ndarray) -> float:
    # In DeepMind's order, so that a share of just 95 % rounds as theirs does.
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[np.searchsorted(share, _QUANTILE)]])


def _interpolated(distances: np.ndarray, _: np.ndarray) -> float:
    return float(np.quantile(distances, _QUANTILE))


def _surfaces(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    spacing: Sequence[float] | None,
    surface: Surface,
) -> Iterator[_Pair]:
    """Per foreground class its surface in the prediction and in the label."""
    steps = np.ones(3) if spacing is None else np.asarray(spacing, np.float64)
    if (
        prediction.ndim != 3
        or prediction.shape != label.shape
        or steps.shape != (3,)
        or not (steps > 0).all()
    ):
        raise FdifError(
            f"prediction {prediction.shape} and label {label.shape} must be of one shape of 3 axes, "
            f"and their spacing 3 positive numbers, not {steps.tolist()}"
        )
    find = _between if surface == "area" else _outermost
    sides = []
    for volume in (prediction, label):
        ids, elements = find(volume, num_classes, steps)
        order = np.argsort(ids, kind="stable")
        starts = np.searchsorted(ids[order], np.arange(1, num_classes + 1))
        sides.append([np.split(part[order], starts)[1:-1] for part in elements])
    for ours, theirs in zip(*(zip(*side, strict=True) for side in sides), strict=True):
        yield _Elements(*ours), _Elements(*theirs)


def _between(labels: np.ndarray, num_classes: int, steps: np.ndarray) -> tuple[np.ndarray, _Elements]:
    """Elements between the voxels, and the class ``(n,)`` of each; two classes that touch have one each."""
    padded = np.pad(labels, 1)
    eight = np.array([*itertools.product((0, 1), repeat=3)])
    octants = [
        padded[tuple(slice(first, first + n + 1) for first, n in zip(corner, labels.shape, strict=True))]
        for corner in eight.tolist()
    ]
    mixed = np.zeros(octants[0].shape, bool)
    for octant in octants[1:]:
        mixed |= octant != octants[0]
    corners = np.argwhere(mixed)
    first, further = (np.ravel_multi_index(at.T, padded.shape) for at in (corners, eight))
    around = padded.ravel()[np.add.outer(first, further)]
    table, found = _areas(steps), []
    for number, ids in enumerate(around.T):
        same = around == ids[:, None]
        # A class is found at the first of the voxels that are of it.
        new = (ids > 0) & (ids < num_classes) & ~same[:, :number].any(axis=1)
        found.append((ids[new], corners[new], table[np.packbits(same[new], axis=1)[:, 0]]))
    ids, corners, areas = map(np.concatenate, zip(*found, strict=True))
    return ids, _Elements(corners * steps, areas)


def _areas(steps: np.ndarray) -> np.ndarray:
    """Area ``(256,)`` of the surface between eight voxels, by which are inside: the first has the highest bit."""
    return np.linalg.norm(_triangles() * (steps.prod() / steps), axis=-1).sum(axis=-1)


@cache
def _triangles() -> np.ndarray:
    """Of every one of the 256 cases of marching cubes its triangles' normals, as long as their areas, ``(256, 4, 3)``.

    More than four voxels inside make the surface of those outside, so that an object and a hole in one are alike. The
    file has them in eighths, as scikit-image's marching cubes (Lorensen's method) gives them.
    """
    return np.load(Path(__file__).with_name("cubes.npy")) / 8


def _outermost(labels: np.ndarray, num_classes: int, steps: np.ndarray) -> tuple[np.ndarray, _Elements]:
    """Centres of the voxels at surfaces, each of area 1, and their classes ``(n,)``."""
    surface = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        ids, on = np.moveaxis(labels, axis, 0), np.moveaxis(surface, axis, 0)  # views
        differs = ids[1:] != ids[:-1]
        on[1:] |= differs
        on[:-1] |= differs
        on[[0, -1]] = True
    surface &= (labels > 0) & (labels < num_classes)
    ids = labels[surface]
    return ids, _Elements(np.argwhere(surface) * steps, np.ones(len(ids)))


def _nearest(points: np.ndarray, others: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance ``(n,)`` of each point to the nearest other; what exceeds the limit may be infinite.

    In float32, so that steps of 0.1 make a distance of 0.3.
    """
    if not len(points) or not len(others):
        return np.full(len(points), np.inf, np.float32)
    bound = limit * (1 + 1e-6) + 1e-6  # the tree's own limit is exclusive
    return KDTree(others).query(points, distance_upper_bound=bound)[0].astype(np.float32)
