"""Where a volume's voxels lie: canonical axes and back, and resampling from grid to grid.

Canonical is RAS+: axis 0 runs to the patient's right, axis 1 to the front, axis 2 up. Turning a volume there and back
moves voxels and changes none. Resampling keeps the outer faces of a volume where they are, so that a grid is told by
its shape alone and the way back ends on the very grid it began on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from fdif_jax.errors import FdifError
from fdif_jax.io.volumes import apart

GridShape = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Space:
    """A grid in the patient; FdifError if its affine cannot be inverted."""

    shape: GridShape  # voxels along each axis
    affine: np.ndarray  # ``(4, 4)``, voxel index → millimetres, to the right, front and top

    def __post_init__(self):
        if np.isnan(self._orientation).any():
            raise FdifError(f"the affine {np.asarray(self.affine).tolist()} cannot be inverted")

    @property
    def spacing(self) -> Spacing:
        """Millimetres between neighbouring voxels along each axis."""
        d, h, w = nib.affines.voxel_sizes(self.affine)
        return float(d), float(h), float(w)

    @property
    def _orientation(self) -> np.ndarray:
        """nibabel's ``(3, 2)``: which canonical axis each axis is nearest to, and in which direction."""
        return nib.io_orientation(self.affine)

    @property
    def canonical(self) -> "Space":
        """The same voxels with their axes in canonical order and direction."""
        turned = np.empty(3, int)
        turned[self._orientation[:, 0].astype(int)] = self.shape
        d, h, w = map(int, turned)
        return Space((d, h, w), self.affine @ nib.orientations.inv_ornt_aff(self._orientation, self.shape))

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A view of an array of this space, ``(D, H, W, ...)``, with canonical axes."""
        return nib.apply_orientation(array, self._orientation)

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_canonical`: a view with this space's axes."""
        canonical = nib.orientations.axcodes2ornt("RAS")
        return nib.apply_orientation(array, nib.orientations.ornt_transform(canonical, self._orientation))

    def apart_from(self, other: "Space") -> float:
        """How far the corners of the two grids are apart at most, in voxels of the finer one."""
        return apart(self.shape, self.affine, other.affine)


@dataclass(frozen=True, eq=False)
class Crop:
    """A box that a case was cropped to."""

    source: Space  # the grid of its file
    box: Box  # of the canonical grid

    @property
    def shape(self) -> GridShape:
        """Voxels of the box along each axis."""
        d, h, w = (s.stop - s.start for s in self.box)
        return d, h, w

    def to_arrays(self) -> dict[str, Any]:
        """What `from_arrays` takes, e.g. of an ``.npz`` file."""
        box = np.array([[s.start, s.stop] for s in self.box])
        return {"box": box, "shape": np.array(self.source.shape), "affine": np.asarray(self.source.affine)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Crop":
        """The crop of `to_arrays`; KeyError or ValueError for anything else."""
        (d, h, w), box = map(int, arrays["shape"]), arrays["box"].tolist()
        first, second, third = (slice(start, stop) for start, stop in box)
        return cls(Space((d, h, w), arrays["affine"]), (first, second, third))

    def uncrop(self, labels: np.ndarray, around: float = 0) -> np.ndarray:
        """Class ids ``(D, H, W)`` on the box → on the file's grid, background ``around`` it, in their dtype."""
        whole = np.full(self.source.canonical.shape, around, labels.dtype)
        whole[self.box] = labels
        return np.ascontiguousarray(self.source.from_canonical(whole))


def shape_at(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> GridShape:
    """Voxels along each axis of a volume that is resampled from ``spacing`` to ``target``, at least 1."""
    d, h, w = (max(round(n * s / t), 1) for n, s, t in zip(shape, spacing, target, strict=True))
    return d, h, w


def resample(image: np.ndarray, shape: GridShape, order: int = 3) -> np.ndarray:
    """An image ``(D, H, W)`` on a grid of another shape over the same extent, float32; of that shape as it is.

    ``order`` is of the splines: 1 is linear, 3 cubic (with values that may lie beyond the image's own).
    """
    if image.shape == tuple(shape):
        return image
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    return ndimage.zoom(image, factors, np.float32, order=order, mode="nearest", grid_mode=True)


def resample_labels(labels: np.ndarray, shape: GridShape) -> np.ndarray:
    """A label map ``(D, H, W)``, integers, on a grid of another shape over the same extent, in its own dtype.

    Every label's mask is interpolated linearly and the label with most is taken, which keeps borders smooth (the
    lesser id where two have as much).
    """
    if labels.shape == tuple(shape):
        return labels
    ids = np.unique(labels)
    return ids[_greatest(((labels == i).astype(np.float32) for i in ids), shape)]


def labels_of_scores(scores: np.ndarray, shape: GridShape, painted: Sequence[int] = ()) -> np.ndarray:
    """The class of the highest score in every voxel of a grid of another shape over the same extent.

    Scores ``(D, H, W, C)`` are interpolated linearly, a class at a time, so that no second copy of them is made. Where
    they are of regions, ``painted`` are the regions' labels, and it is `paint` that decides. The result is of unsigned
    integers, as few bytes as the labels need.
    """
    if painted:
        return paint((resample(scores[..., c], shape, order=1) for c in range(scores.shape[3])), painted)
    num_classes = scores.shape[3]
    winners = _greatest((scores[..., c] for c in range(num_classes)), shape)
    return winners.astype(np.min_scalar_type(num_classes - 1), copy=False)


def paint(regions: Iterable[np.ndarray], painted: Sequence[int]) -> np.ndarray:
    """The labels of voxels by the logits of regions, each ``(...)``: where one is above 0, its probability above 1/2,
    the region's label of ``painted`` goes over those of the regions before it.

    Unsigned integers ``(...)``, as few bytes as the labels need. It is what nnU-Net does with ``regions_class_order``.
    """
    labels = None
    for logits, label in zip(regions, painted, strict=True):
        if labels is None:
            labels = np.zeros(logits.shape, np.min_scalar_type(max(painted)))
        labels[logits > 0] = label
    assert labels is not None  # there is a region
    return labels


def _greatest(masks: Iterable[np.ndarray], shape: GridShape) -> np.ndarray:
    """Number of the mask that is greatest in each voxel of the grid; the first of several."""
    best, winner = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.uint16)
    for number, mask in enumerate(masks):
        resampled = resample(mask, shape, order=1)
        higher = resampled > best
        np.copyto(best, resampled, where=higher)
        winner[higher] = number
    return winner


def pad_to(array: np.ndarray, least: Sequence[int]) -> np.ndarray:
    """An array ``(D, H, W, ...)`` amid zeros where it is smaller than ``least``; `middle` finds it again."""
    shape = tuple(max(n, m) for n, m in zip(array.shape[:3], least, strict=True))
    if shape == array.shape[:3]:
        return array
    padded = np.zeros((*shape, *array.shape[3:]), array.dtype)
    padded[middle(shape, array.shape[:3])] = array
    return padded


def middle(outer: Sequence[int], inner: Sequence[int]) -> tuple[slice, ...]:
    """Where the middle box of shape ``inner`` lies in one of shape ``outer``."""
    return tuple(slice((o - i) // 2, (o - i) // 2 + i) for o, i in zip(outer, inner, strict=True))
