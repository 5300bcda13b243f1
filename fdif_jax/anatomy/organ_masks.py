"""Label maps as material for a bank: each organ of a subject as a small grid of distances, and its statistics."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import json_of
from fdif_jax.io.labels import whole_numbers
from fdif_jax.io.volumes import read_volume
from fdif_jax.sdf.masks import dice_of, extent, signed_distance

STRIDES = (4, 3, 2)  # coarser grids that are tried, in units of the finest spacing
DICE = 0.98  # what a coarser grid must reach against the mask at the mask's own resolution
CLOSING = 2.5  # voxels: gaps of a container narrower than twice this count as its inside
ENCLOSED = 0.9  # share of an organ within another's closed outline that makes it lie inside


class DistanceGrid(NamedTuple):
    """Signed distances on a small grid: values ``(a, b, c)`` int16, their unit (mm), scanner mm → index ``(3, 4)``."""

    values: np.ndarray
    unit: float
    inverse: np.ndarray

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the tightest box that a point is never further outside of than its distance says.

        No sample is further beyond a face than its distance says; as that is linear, nothing between samples is.
        """
        linear = np.linalg.inv(self.inverse[:, :3])
        index = np.stack(np.meshgrid(*map(np.arange, self.values.shape), indexing="ij"), -1)
        points = (index - self.inverse[:, 3]) @ linear.T
        distance = self.unit * self.values[..., None]
        return (points + distance).min((0, 1, 2)), (points - distance).max((0, 1, 2))


@dataclasses.dataclass
class OrganMask:
    """One organ of one subject, in the scanner's millimetres until it is registered, then in the body frame's."""

    organ: str
    cut: bool
    centroid: np.ndarray
    volume: float
    lower: np.ndarray
    upper: np.ndarray
    axis: np.ndarray
    grid: DistanceGrid
    hull: DistanceGrid | None
    touches: set[str]
    holds: dict[str, float]  # share of another organ that lies within this one's closed outline
    subject: int = 0  # which of a bank


@dataclasses.dataclass
class Subject:
    """The organs of one label map and the corners of its field of view, ``(8, 3)``."""

    name: str
    parts: dict[str, OrganMask]
    corners: np.ndarray


def load_names(path: str | Path, section: str | None = None) -> dict[int, str]:
    """Label → organ name from a JSON file ``{"1": "spleen", …}``, or a section of one ``{"ct": {…}, "mr": {…}}``.

    FdifError, naming the file, if it is missing, is not such a table, or the section is not there.
    """
    try:
        data = json_of(Path(path).read_bytes())
    except OSError as error:
        raise FdifError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:
        raise FdifError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict) or not data:
        raise FdifError(f'{path}: a table of label and organ is needed, e.g. {{"1": "spleen"}}')
    sections = [key for key, value in data.items() if isinstance(value, dict)]
    if section is not None:
        if section not in sections:
            raise unknown(f"section of {path}:", section, sections or ["none: the file has no sections"])
        data = data[section]
    elif sections:
        raise FdifError(f"{path}: has the sections {', '.join(sections)}; say which, as {path}:{sections[0]}")
    names = {}
    for key, value in data.items():
        if not (str(key).isdecimal() and isinstance(value, str) and value):
            raise FdifError(f"{path}: {key!r}: {value!r} is not a label (a whole number) and a name")
        names[int(key)] = value
    return {label: name for label, name in names.items() if label != 0}


def read_subject(
    path: str | Path, names: Mapping[int, str], min_voxels: int = 8
) -> tuple[Subject, list[str]]:
    """The organs of a label map, and warnings about those of fewer than ``min_voxels``, which are left out.

    Values are labels, 0 is background, gaps in their numbers are fine; labels that share a name are one organ. A label
    without a name is called as its segment is, where the file is a segmentation.

    Raises:
        FdifError: naming the file and what is wrong: not readable, not 3D, labels that are no whole numbers or have no
            name, no label at all, no organ large enough.
    """
    volume = read_volume(path)
    array = whole_numbers(path, volume.array)
    labels = np.unique(array)
    if labels[0] < 0:
        raise FdifError(f"{path}: holds the value {labels[0]:g}; labels are whole numbers from 0")
    labels = labels[labels > 0].astype(int)
    names = {**volume.names, **names}
    missing = [str(label) for label in labels if label not in names]
    if missing:
        raise FdifError(
            f"{path}: label{'s' * (len(missing) > 1)} {', '.join(missing)} without a name in the names file"
        )
    if not labels.size:
        raise FdifError(f"{path}: the label map is empty (no voxel above 0)")
    organs = sorted({names[label] for label in labels})
    numbers = np.array([0, *(organs.index(names[label]) + 1 for label in labels)], np.uint16)
    array = numbers[np.searchsorted(labels, array, side="right")]
    counts, warnings = np.bincount(array.ravel(), minlength=len(organs) + 1), []
    for number, organ in enumerate(organs, 1):
        if counts[number] < min_voxels:
            voxels = f"{counts[number]} voxel{'s' * int(counts[number] != 1)}"
            warnings.append(f"{path}: {organ} has {voxels}; left out (--min-voxels {min_voxels})")
            array[array == number] = 0
    subject = subject_of(str(path), organs, array, volume.affine)
    if not subject.parts:
        raise FdifError(f"{path}: no organ has {min_voxels} voxels or more")
    return subject, warnings


def subject_of(
    name: str,
    organs: list[str],
    array: np.ndarray,
    affine: np.ndarray,
    whole: Mapping[str, np.ndarray] | None = None,
) -> Subject:
    """The organs of a body, of which ``array`` has the numbers from 1, whole numbers ``(D, H, W)``; 0 is no organ.

    ``affine`` leads to millimetres. Organs of ``whole`` have these masks, bool ``(D, H, W)``, in place of what others
    leave of them.
    """
    boxes, parts = ndimage.find_objects(array, len(organs)), {}
    for number, (organ, box) in enumerate(zip(organs, boxes, strict=True), 1):
        if whole and organ in whole:
            alone = (whole[organ] * number).astype(array.dtype)
            parts[organ] = _part(number, organs, alone, ndimage.find_objects(alone)[-1], affine)
        elif box is not None:
            parts[organ] = _part(number, organs, array, box, affine)
    ends = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in array.shape], indexing="ij"), -1).reshape(-1, 3)
    return Subject(name, parts, _moved(affine, ends))


def _part(
    number: int, organs: list[str], array: np.ndarray, box: tuple[slice, ...], affine: np.ndarray
) -> OrganMask:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    pad = 2 * np.asarray(_strides(spacing, STRIDES[0]))
    first = np.asarray([s.start for s in box]) - pad
    last = np.asarray([s.stop for s in box]) + pad
    near = _crop(array, first, last)
    mask = near == number
    points = _moved(affine, np.argwhere(mask) + first)
    centroid = points.mean(0)
    _, directions = np.linalg.eigh(np.cov((points - centroid).T) if len(points) > 1 else np.eye(3))
    half = np.abs(affine[:3, :3]).sum(1) / 2
    outline = ndimage.binary_fill_holes(_closed(mask))
    within = np.bincount(near[outline], minlength=len(organs) + 1)
    total = np.bincount(array.ravel(), minlength=len(organs) + 1)
    contact = np.unique(near[ndimage.binary_dilation(mask, np.ones((3, 3, 3)))])
    holds = {organs[n - 1]: within[n] / total[n] for n in np.flatnonzero(within) if n not in (0, number)}
    contains = any(share >= ENCLOSED for share in holds.values())
    return OrganMask(
        organs[number - 1],
        any(s.start == 0 or s.stop == n for s, n in zip(box, array.shape, strict=True)),
        centroid,
        len(points) * abs(np.linalg.det(affine[:3, :3])),
        points.min(0) - half,
        points.max(0) + half,
        directions[:, -1],
        _grid(mask, spacing, first, affine),
        _grid(outline, spacing, first, affine) if contains else None,
        {organs[n - 1] for n in contact if n not in (0, number)},
        holds,
    )


def _crop(array: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """``array[first:last]`` with zeros where that lies beyond the array."""
    inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(first, last, array.shape, strict=True))
    beyond = [(max(-a, 0), max(b - n, 0)) for a, b, n in zip(first, last, array.shape, strict=True)]
    return np.pad(array[inner], beyond)


def _closed(mask: np.ndarray) -> np.ndarray:
    """Morphological closing with a ball of `CLOSING` voxels."""
    grown = ndimage.distance_transform_edt(~mask) <= CLOSING
    return ndimage.distance_transform_edt(grown) > CLOSING


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _strides(spacing: np.ndarray, factor: int) -> tuple[int, ...]:
    """Voxels a step along each axis so that cells are about cubes of ``factor`` times the finest spacing."""
    return tuple(max(1, round(factor * spacing.min() / s)) for s in spacing)


def _grid(mask: np.ndarray, spacing: np.ndarray, first: np.ndarray, affine: np.ndarray) -> DistanceGrid:
    """The coarsest grid that still shows the mask (`DICE`); at worst the voxels themselves, which show it exactly."""
    distance, unit = signed_distance(mask, spacing), float(spacing.min() / 16)
    for strides in dict.fromkeys([*(_strides(spacing, f) for f in STRIDES), (1, 1, 1)]):
        values = np.round(distance[tuple(slice(None, None, s) for s in strides)] / unit)
        values = np.clip(values, -32767, 32767).astype(np.int16)
        if all(s == 1 for s in strides):
            start, stop = extent(mask)
            values, first = values[tuple(map(slice, start - 2, stop + 2))], first + start - 2
            break
        if _dice(values, strides, mask) >= DICE:
            break
    inverse = np.linalg.inv(affine)[:3]
    inverse[:, 3] -= first
    return DistanceGrid(values, unit, inverse / np.asarray(strides)[:, None])


def _dice(values: np.ndarray, strides: tuple[int, ...], mask: np.ndarray) -> float:
    fine = values.astype(np.float32)
    for axis, (stride, edge) in enumerate(zip(strides, mask.shape, strict=True)):
        position = np.arange(edge) / stride
        low = np.minimum(position.astype(int), max(fine.shape[axis] - 2, 0))
        high = np.minimum(low + 1, fine.shape[axis] - 1)
        weight = np.minimum(position - low, 1.0).reshape([-1 if a == axis else 1 for a in range(3)])
        fine = fine.take(low, axis) * (1 - weight) + fine.take(high, axis) * weight
    # Voxels just between samples may be exactly zero: rounding decides on which side they are rendered.
    shown = [fine <= 0.05, fine < -0.05]
    return min(dice_of((s & mask).sum(), s.sum(), mask.sum()) for s in shown)
