"""What a dataset is like, measured in one pass, and what follows for spacing, patch and normalisation.

The rules for spacing and normalisation are nnU-Net's (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z, online
methods); every choice says why it was made.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import SPACINGS
from fdif_jax.preprocessing.normalisation import (
    AsItIs,
    Normalisation,
    UnitRange,
    Window,
    ZScore,
    read_normalisation,
)
from fdif_jax.preprocessing.scans import Scan
from fdif_jax.preprocessing.spaces import GridShape, Spacing, shape_at
from fdif_jax.settings import Plain

VOXEL_BUDGET = 96**3
_SAMPLED = 10_000  # foreground voxels of a case that intensities are measured on
_WINDOW = (0.5, 99.5)  # percentiles
_COARSE = 3  # an axis this many times coarser than the others is anisotropic
_ORDERED = 2  # standard deviations that one class's centre is beyond another's where that is no chance
_MOSTLY = 0.25  # zero voxels beyond this part are background that was cut out


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Measurements of a dataset's training cases, on canonical axes.

    Attributes:
        spacings: millimetres ``(N, 3)``.
        shapes: voxels ``(N, 3)`` of the boxes that hold what is not 0 (`Scan.content`).
        foreground: intensities ``(C, M)`` of labelled voxels, up to 10,000 a case; where no case has any, of all voxels
            of their contents.
        zeros: part of the voxels that are exactly 0, ``(N, C)``.
        centres: millimetres ``(N, K, 3)`` of every class's centre, NaN where a case has none of it.
        channel_names: C names.
        class_names: K names.
    """

    spacings: np.ndarray
    shapes: np.ndarray
    foreground: np.ndarray
    zeros: np.ndarray
    centres: np.ndarray
    channel_names: tuple[str, ...]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class CasePlan(Plain):
    """How the cases of a dataset become what a network sees: plain data that a run keeps beside its weights.

    Attributes:
        spacing: millimetres between voxels along canonical axes.
        patch: voxels along each axis.
        channels: normalisation of each.
        order: of the splines that images are resampled with, 1 or 3.
        reasons: why, a line each.

    Raises:
        FdifError: a value of the wrong type or size.
    """

    spacing: Spacing
    patch: tuple[int, int, int]
    channels: tuple[Normalisation, ...]
    order: int = 3
    reasons: tuple[str, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        _check_spacing(self.spacing)
        if min(self.patch) < 1:
            raise FdifError(f"patch must be three positive numbers of voxels, not {list(self.patch)}")
        if self.order not in (1, 3):
            raise FdifError(f"order must be 1 (linear) or 3 (cubic), not {self.order}")
        object.__setattr__(self, "spacing", tuple(map(float, self.spacing)))
        if not isinstance(self.channels, (list, tuple)) or not self.channels:
            raise FdifError(f"channels must list the normalisation of at least one, not {self.channels!r}")
        object.__setattr__(self, "channels", tuple(map(read_normalisation, self.channels)))


def _check_spacing(spacing: Any) -> None:
    numbers, (least, greatest) = tuple(spacing), SPACINGS
    if len(numbers) != 3 or not all(isinstance(s, (int, float)) and least <= s <= greatest for s in numbers):
        raise FdifError(
            f"spacing must be three numbers of {least:g} to {greatest:g} millimetres, not {spacing!r}"
        )


class Measurement(NamedTuple):
    """One case of a `Fingerprint`; arrays are a row of its arrays, but ``foreground`` ``(M, C)``."""

    spacing: Spacing
    shape: GridShape
    foreground: np.ndarray
    zeros: np.ndarray
    centres: np.ndarray


def measure(scan: Scan, number: int, num_classes: int) -> Measurement:
    """Measure a labelled case, not cropped; ``num_classes`` is K, without the background.

    Its ``number`` draws the foreground voxels whose intensities are kept. FdifError if it has no label.
    """
    if scan.label is None:
        raise FdifError(f"case {scan.id}: a fingerprint needs its label")
    spacing, classes = scan.space.canonical.spacing, np.arange(1, num_classes + 1)
    with np.errstate(invalid="ignore"):
        centres = ndimage.center_of_mass(np.ones(scan.label.shape, bool), scan.label, classes)
    voxels = np.flatnonzero(scan.label > 0)
    if not voxels.size:  # a healthy scan, which only counts where all are
        filled = (scan.image != 0).any(axis=3)
        voxels = np.flatnonzero(filled if filled.any() else ~filled)
    drawn = np.random.default_rng(number).choice(voxels, min(_SAMPLED, len(voxels)), replace=False)
    return Measurement(
        spacing,
        scan.crop.shape,
        scan.image.reshape(-1, scan.image.shape[3])[drawn],
        (scan.image == 0).mean((0, 1, 2)),
        np.asarray(centres) * spacing,
    )


def fingerprint(measurements: Iterable[Measurement], conventions: Conventions) -> Fingerprint:
    """What was measured of a dataset's cases; FdifError if there is none."""
    measured = list(measurements)
    if not measured:
        raise FdifError("a fingerprint needs at least one labelled case")
    spacings, shapes, _, zeros, centres = zip(*measured, strict=True)
    labelled = [one for one in measured if not np.isnan(one.centres).all()]
    foreground = [one.foreground for one in labelled or measured]
    return Fingerprint(
        np.array(spacings),
        np.array(shapes),
        np.concatenate(foreground).T,
        np.array(zeros),
        np.array(centres),
        conventions.channel_names,
        conventions.label_names,
    )


def plan_cases(
    measured: Fingerprint,
    multiple: Sequence[int],
    *,
    spacing: Spacing | None = None,
    patch: tuple[int, int, int] | None = None,
    window: tuple[float, float] | None = None,
    order: int = 3,
    budget: int = VOXEL_BUDGET,
) -> CasePlan:
    """What follows from a fingerprint, but for what is given.

    Args:
        measured: of the training cases.
        multiple: what the network divides the patch by along each axis.
        spacing: to resample to, instead of what the cases say.
        patch: instead of what spacing, cases and the budget say.
        window: clip all channels to these intensities.
        order: of the splines that images are resampled with.
        budget: the most voxels of a patch that is not given.

    Raises:
        FdifError: no patch is within the budget, or what is given is impossible.
    """
    why = "as given"
    if spacing is None:
        spacing, why = _spacing(measured)
    _check_spacing(spacing)
    reasons = [f"spacing {_mm(spacing)}: {why}"]
    why = "as given"
    if patch is None:
        shapes = [shape_at(n, s, spacing) for n, s in zip(measured.shapes, measured.spacings, strict=True)]
        patch, why = choose_patch(np.median(shapes, axis=0).tolist(), spacing, multiple, budget)
    reasons.append(f"patch {' × '.join(map(str, patch))}: {why}")
    channels = []
    for channel, name in enumerate(measured.channel_names):
        chosen, why = _normalisation(measured, channel, window)
        channels.append(chosen)
        reasons.append(f"channel {name}: {why}")
    return CasePlan(spacing, patch, tuple(channels), order, tuple(reasons))


def _mm(spacing: Sequence[float]) -> str:
    return " × ".join(f"{s:.3g}" for s in spacing) + " mm"


def _spacing(measured: Fingerprint) -> tuple[Spacing, str]:
    """The median case's; along an axis that is much coarser than the others, a finer one."""
    spacings = measured.spacings
    median, count = np.median(spacings, axis=0), len(spacings)
    coarse = int(median.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    edges = np.median(measured.shapes, axis=0)
    if median[coarse] > _COARSE * median[others].max() and _COARSE * edges[coarse] < edges[others].min():
        fine = max(np.percentile(spacings[:, coarse], 10), median[others].max())
        why = (
            f"median of {count} cases; axis {coarse} is {median[coarse]:.3g} mm there, much coarser than the others, "
            "and takes the 10th percentile"
        )
        median[coarse] = fine
    elif np.ptp(spacings, axis=0).max() < 1e-3 * median.min():
        why = f"that of all {count} cases"
    else:
        why = f"median of {count} cases, which are {_mm(spacings.min(0))} to {_mm(spacings.max(0))}"
    d, h, w = map(float, median)
    return (d, h, w), why


def choose_patch(
    shape: Sequence[float], spacing: Spacing, multiple: Sequence[int], budget: int = VOXEL_BUDGET
) -> tuple[tuple[int, int, int], str]:
    """The median case as far as the budget goes, and why; what is too much is cut where it is longest in millimetres.

    ``shape`` is the median case's at ``spacing``. A patch has at least two of what the network divides it by
    (``multiple``) along each axis; where the budget has no room for that, one along the axes on which the case is
    shortest, but two in all, as a norm over one voxel takes everything away. FdifError if no patch is within the
    ``budget`` of voxels.
    """
    steps = np.asarray(multiple)
    counts = np.maximum(np.ceil(np.asarray(shape) / steps), 2).astype(int)
    whole = np.prod(counts * steps)
    while np.prod(counts * steps) > budget:
        if (counts > 2).any():
            longest = np.where(counts > 2, counts * steps * np.asarray(spacing), -np.inf).argmax()
            counts[longest] -= 1
        elif counts.prod() > 2:
            extents = np.where(counts > 1, np.asarray(shape) * np.asarray(spacing), np.inf)
            shortest = 2 - extents[::-1].argmin()  # of equal ones the last: left and right stay together
            counts[shortest] -= 1
        else:
            raise FdifError(
                f"{budget} voxels are too few for a patch: this network needs at least "
                f"{' × '.join(map(str, counts * steps))}"
            )
    d, h, w = map(int, counts * steps)
    median = " × ".join(f"{n:.0f}" for n in shape)
    why = f"the median case has {median} voxels at this spacing; edges are multiples of {' × '.join(map(str, steps))}"
    if np.prod((d, h, w)) < whole:
        why += f", and a patch has at most {budget:,} voxels"
    return (d, h, w), why


def mirror_axes(measured: Fingerprint) -> tuple[tuple[int, ...], str]:
    """Axes that patches may be mirrored along, and why.

    Along an axis on which one class always lies beyond another, left from right or front from back, a mirrored patch
    would show what is never seen, and take away what tells the two apart.
    """
    directions = ("left to right", "back to front", "bottom to top")
    kept, why = [], []
    for axis in range(3):
        pair = _ordered(measured.centres[:, :, axis])
        if pair is None:
            kept.append(axis)
            continue
        first, second = (measured.class_names[c] for c in pair)
        why.append(f"not along axis {axis} ({directions[axis]}), on which {first} lies before {second}")
    return tuple(kept), "; ".join(why) or "no class always lies before another along any axis"


def _ordered(centres: np.ndarray) -> tuple[int, int] | None:
    """The pair of classes, lower first, whose order along an axis ``(N, K)`` is surest; None if none is sure."""
    surest, found = float(_ORDERED), None
    for a, b in combinations(range(centres.shape[1]), 2):
        apart = centres[:, b] - centres[:, a]
        apart = apart[~np.isnan(apart)]
        if not apart.size or not apart.mean():
            continue
        deviation = apart.std(ddof=1) if apart.size > 1 else 0.0
        sure = abs(apart.mean()) / max(deviation, 1e-6)
        if sure > surest:
            surest, found = sure, ((a, b) if apart.mean() > 0 else (b, a))
    return found


def _normalisation(
    measured: Fingerprint, channel: int, window: tuple[float, float] | None
) -> tuple[Normalisation, str]:
    """nnU-Net's choice by the channel's name."""
    name = measured.channel_names[channel].lower()
    if name == "ct" or window:
        voxels = measured.foreground[channel]
        low, high = window or map(float, np.percentile(voxels, _WINDOW))
        if not low < high and not window:
            raise FdifError(
                f"channel {measured.channel_names[channel]}: {low:g} in most of what is measured of its intensities, "
                "which leaves no window; give one by --window, as --window -175 250"
            )
        if not low < high:
            raise FdifError(
                f"a window must go from a lower to a higher intensity, not from {low:g} to {high:g}"
            )
        inside = voxels.clip(low, high)
        mean, deviation = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        part = "scans, in which nothing is labelled" if np.isnan(measured.centres).all() else "foreground"
        said = "as given" if window else f"percentiles 0.5 and 99.5 of the {part}"
        why = (
            f"clipped to {low:.4g} to {high:.4g} ({said}), then less the mean there, {mean:.4g}, divided by "
        )
        return Window((low, high), mean, max(deviation, 1e-6)), why + f"its deviation {deviation:.4g}"
    if name == "nonorm":
        return AsItIs(), "intensities as they are, as its name says"
    if name == "rescale_to_0_1":
        return UnitRange(), "each image from 0 to 1, as its name says"
    zeros = float(np.median(measured.zeros[:, channel]))
    if zeros > _MOSTLY:
        return ZScore(nonzero=True), f"z-score of each image's nonzero voxels, as {zeros:.0%} are exactly 0"
    return ZScore(), "z-score of each image, as the intensities of this modality have no unit"
