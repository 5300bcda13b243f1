"""Where the slices of a DICOM series lie, and the grid that they are (DICOM PS3.3, C.7.6.2 and C.7.6.16.2)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.formats.parsing import TO_RAS
from fdif_jax.io.nifti import checked_affine

_APART = 0.1  # of a voxel, that a slice may be away from where an even grid has it
_TURNED = 1e-3  # that direction cosines of slices may differ by
_ADVICE = "check PixelSpacing and ImagePositionPatient"


class Frame(NamedTuple):
    """A slice.

    Attributes:
        file: where it is, and ``number``, which of the file's frames.
        position: of its first voxel, millimetres to the patient's left, back and head, ``(3,)``.
        axes: directions of its rows and of its columns, ``(2, 3)``.
        spacing: millimetres from column to column, and from row to row.
        columns, rows: voxels.
        slope, intercept: what its numbers are multiplied by, and what is added.
    """

    file: Path
    number: int
    position: np.ndarray
    axes: np.ndarray
    spacing: tuple[float, float]
    columns: int
    rows: int
    slope: float
    intercept: float

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.file.name if self.number == 0 else f"frame {self.number + 1} of {self.file.name}"


def frames_of(path: Path, header: Any) -> list[Frame]:
    """The slices of a file, by pydicom's dataset of its header; FdifError if it does not say where they lie."""
    count = int(header.get("NumberOfFrames") or 1)
    if "PerFrameFunctionalGroupsSequence" not in header:
        if count > 1:
            raise FdifError(
                f"{path}: has {count} frames and does not say where they lie; write it as enhanced multi-frame"
            )
        return [_frame(path, 0, header, header, header, header, header)]
    per_frame = header.PerFrameFunctionalGroupsSequence
    if len(per_frame) != count:
        raise FdifError(f"{path}: has {count} frames, and says of {len(per_frame)} where they lie")
    shared = header.get("SharedFunctionalGroupsSequence") or [{}]
    names = "PlanePosition", "PlaneOrientation", "PixelMeasures", "PixelValueTransformation"
    frames = []
    for number, own in enumerate(per_frame):
        groups = []
        for name in names:
            group = own.get(f"{name}Sequence") or shared[0].get(f"{name}Sequence") or [header]
            groups.append(group[0])
        frames.append(_frame(path, number, header, *groups))
    return frames


def _frame(
    path: Path, number: int, header: Any, position: Any, orientation: Any, measures: Any, values: Any
) -> Frame:
    """A slice, by the datasets that say something of it."""
    for of, name in (
        (position, "ImagePositionPatient"),
        (orientation, "ImageOrientationPatient"),
        (measures, "PixelSpacing"),
    ):
        if not of.get(name):
            raise FdifError(f"{path}: has no {name}, so it is not known where its voxels lie")
    down, along = map(float, measures.PixelSpacing)
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    found = Frame(
        path,
        number,
        np.array(position.ImagePositionPatient, float).reshape(3),
        np.array(orientation.ImageOrientationPatient, float).reshape(2, 3),
        (along, down),
        int(header.Columns),
        int(header.Rows),
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )
    if not np.isfinite([*found.position, *found.axes.ravel(), found.slope, found.intercept]).all():
        raise FdifError(f"{path}: its position, orientation or rescaling holds NaN or infinity")
    return found


def grid_of(path: str | os.PathLike, frames: Sequence[Frame]) -> tuple[list[Frame], np.ndarray]:
    """The slices in order, and their affine: index along rows, columns and slices → millimetres to the right, front and
    head.

    FdifError, naming ``path``, if they are no even grid.
    """
    first = frames[0]
    _check_alike(path, frames)
    if len(frames) < 2:
        raise FdifError(f"{path}: holds one slice ({first.name}); give the folder of all slices")
    normal = np.cross(*first.axes)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in ordered])
    _check_even(path, ordered, positions @ normal)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_straight(path, step, normal, first, len(ordered))
    return ordered, _affine(path, first, step, positions[0])


def planes_of(
    path: str | os.PathLike, frames: Sequence[Frame], between: float | None
) -> tuple[list[int], np.ndarray]:
    """The slice, by its number from the lowest on, that each frame of a segmentation lies in, and the slices' affine.

    Several frames may lie in one slice, and slices without a segment may have none. They are ``between`` millimetres
    apart, or as the nearest two are. FdifError, naming ``path``, if they are no even grid.
    """
    first = frames[0]
    _check_alike(path, frames)
    normal = np.cross(*first.axes)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    gaps = np.diff(np.sort(heights))
    apart = between or min(gaps[gaps > _APART * min(first.spacing)], default=0.0)
    if not (apart > 0 and np.isfinite(apart)):
        raise FdifError(f"{path}: does not say how far its slices are apart (SpacingBetweenSlices)")
    lowest = positions[heights.argmin()]
    numbers = ((heights - heights.min()) / apart).round()
    away = np.linalg.norm(positions - (lowest + numbers[:, None] * apart * normal), axis=1)
    worst = int(away.argmax())
    if away[worst] > _APART * min(apart, *first.spacing):
        raise FdifError(
            f"{path}: slices are {apart:.4g} mm apart, and {frames[worst].name} is {away[worst]:.4g} mm from where one "
            "lies; a segmentation on an even grid is needed"
        )
    return [int(number) for number in numbers], _affine(path, first, apart * normal, lowest)


def _affine(path: str | os.PathLike, first: Frame, step: np.ndarray, position: np.ndarray) -> np.ndarray:
    """That of slices like one, from a position on; index along rows, columns and slices → millimetres."""
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(
        [first.axes[0] * first.spacing[0], first.axes[1] * first.spacing[1], step]
    )
    affine[:3, 3] = position
    return checked_affine(path, TO_RAS @ affine, advice=_ADVICE)


def _check_alike(path: str | os.PathLike, frames: Sequence[Frame]) -> None:
    """Raise an FdifError unless slices have one size, one orientation and one spacing."""
    first = frames[0]
    for frame in frames:
        if (frame.columns, frame.rows) != (first.columns, first.rows):
            raise FdifError(
                f"{path}: slices of several sizes: {first.name} has {first.columns} × {first.rows} voxels, "
                f"{frame.name} {frame.columns} × {frame.rows}"
            )
        if not np.allclose(frame.axes, first.axes, atol=_TURNED):
            raise FdifError(
                f"{path}: {first.name} and {frame.name} are not parallel; leave one kind of slices out"
            )
        if not np.allclose(frame.spacing, first.spacing, rtol=_TURNED):
            raise FdifError(f"{path}: {first.name} and {frame.name} have other spacings in the slice")


def _check_even(path: str | os.PathLike, frames: Sequence[Frame], heights: np.ndarray) -> None:
    """Raise an FdifError unless slices at these heights, in order, are as far from each other as the next."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    least = int(gaps.argmin())
    if gaps[least] <= _APART * max(usual, 1e-6):
        raise FdifError(
            f"{path}: {frames[least].name} and {frames[least + 1].name} lie in one place, so there are several volumes "
            "(phases, echoes, …); leave one in the folder"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() > _APART * usual:
        worst = int(np.abs(gaps - usual).argmax())
        raise FdifError(
            f"{path}: slices are {usual:.4g} mm apart, but {frames[worst].name} and {frames[worst + 1].name} "
            f"{gaps[worst]:.4g} mm: slices are missing, or not evenly spaced"
        )


def _check_straight(
    path: str | os.PathLike, step: np.ndarray, normal: np.ndarray, first: Frame, count: int
) -> None:
    """Raise an FdifError if slices are shifted in their planes, as those of a tilted gantry are."""
    height = float(step @ normal)
    shift = float(np.linalg.norm(step - height * normal))
    if shift * (count - 1) > _APART * min(first.spacing):
        raise FdifError(
            f"{path}: each slice is shifted by {shift:.4g} mm against the one before (gantry tilt, "
            f"{np.degrees(np.arctan2(shift, height)):.3g}°); resample it to a straight grid, as dcm2niix does"
        )
