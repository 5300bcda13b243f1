"""Cases as a network sees them, by a plan, and predictions back on the grid of their files.

There: canonical axes, crop to what is not 0, normalise, resample, pad to at least a patch. Back: the same in reverse,
of which `Crop.uncrop` is the last step; outside the crop there is background. A label map that makes the way there and
back at its own spacing is the same, voxel for voxel.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.memory import memory
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.scans import Scan
from fdif_jax.preprocessing.spaces import (
    Crop,
    GridShape,
    Spacing,
    middle,
    pad_to,
    resample,
    resample_labels,
    shape_at,
)

# So many times finer or coarser than a plan's, voxels are those of another unit, not of another scanner.
_FARTHEST = 100
_COPIES = 2  # of an image in float32 while it is prepared


@dataclass(frozen=True, eq=False)
class Way:
    """How a case came from its file's grid to the network's, which is all it needs to go back.

    Attributes:
        crop: what of the file's grid it is.
        resampled: voxels of the crop at the plan's spacing.
        padded: voxels along each axis after padding; what was resampled is in the middle.
    """

    crop: Crop
    resampled: GridShape
    padded: GridShape

    @property
    def content(self) -> tuple[slice, ...]:
        """Where in the network's grid the case is; around it is padding."""
        return middle(self.padded, self.resampled)

    def labels_back(self, labels: np.ndarray) -> np.ndarray:
        """Class ids ``(D, H, W)`` on the network's grid → on the file's, in their dtype (`resample_labels`)."""
        if labels.shape != tuple(self.padded):
            raise FdifError(
                f"a prediction of shape {labels.shape} for a case that is {self.padded} as prepared"
            )
        return self.crop.uncrop(resample_labels(labels[self.content], self.crop.shape))

    @property
    def keeps_grid(self) -> bool:
        """Whether nothing was resampled, so that labels go back as well as scores do, for less memory."""
        return self.resampled == self.crop.shape


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it.

    Attributes:
        id: what the case is called.
        image: float32 ``(D, H, W, C)``, normalised; 0 in the padding.
        label: class ids ``(D, H, W)``, signed integers, `conventions.IGNORE` where voxels are ignored, background in
            the padding; None without a label.
        way: back to the file's grid.
    """

    id: str
    image: np.ndarray
    label: np.ndarray | None
    way: Way


def prepare(scan: Scan, plan: CasePlan) -> Prepared:
    """Prepare a case, cropped or not, by a plan.

    FdifError if it has other channels, its spacing is more than 100 times the plan's or less than a hundredth of it, or
    its grid at the plan's spacing is more than memory holds.
    """
    resampled, scan = resampled_shape(scan, plan), scan.cropped()
    channels = (
        resample(normalise(scan.image[..., c]), resampled, plan.order)
        for c, normalise in enumerate(plan.channels)
    )
    image = pad_to(np.stack(tuple(channels), axis=-1), plan.patch)
    d, h, w = image.shape[:3]
    label = None
    if scan.label is not None:
        label = pad_to(resample_labels(scan.label, resampled), plan.patch)
    return Prepared(scan.id, image, label, Way(scan.crop, resampled, (d, h, w)))


def resampled_shape(scan: Scan, plan: CasePlan) -> GridShape:
    """The grid of a case, cropped and at a plan's spacing, before it is padded; FdifError as of `prepare`."""
    if scan.image.shape[3] != len(plan.channels):
        raise FdifError(
            f"case {scan.id}: {scan.image.shape[3]} channels, but the plan is for {len(plan.channels)}"
        )
    spacing = scan.space.canonical.spacing
    resampled = shape_at(scan.crop.shape, spacing, plan.spacing)
    _check_resampling(f"case {scan.id}", spacing, plan, resampled)
    return resampled


def _check_resampling(what: str, spacing: Spacing, plan: CasePlan, resampled: GridShape) -> None:
    """Raise an FdifError, before anything is allocated, if voxels or grid of a resampled case are absurd."""
    said = f"{what}: spacing {_by(spacing)} mm, prepared at {_by(plan.spacing)} mm"
    advice = "check pixdim, the affine and xyzt_units in its header"
    ratios = [s / t for s, t in zip(spacing, plan.spacing, strict=True)]
    if max(ratios) > _FARTHEST or min(ratios) < 1 / _FARTHEST:
        raise FdifError(f"{said}: more than {_FARTHEST} times as coarse or as fine; {advice}")
    padded = [max(n, m) for n, m in zip(resampled, plan.patch, strict=True)]
    needed, there = _COPIES * 4 * len(plan.channels) * math.prod(padded), memory()
    if needed > there:
        raise FdifError(
            f"{said}: a grid of {_by(padded)} voxels, which needs {needed:,} bytes of memory, and there are {there:,}; "
            f"{advice}"
        )


def _by(numbers: Iterable[float]) -> str:
    return " × ".join(f"{n:.6g}" for n in numbers)
