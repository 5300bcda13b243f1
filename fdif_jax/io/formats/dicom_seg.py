"""DICOM segmentations of a DICOM scan: written by highdicom, read by pydicom (DICOM PS3.3, C.8.20)."""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.files import reading
from fdif_jax.io.formats.dicom import (
    dicom_files,
    is_segmentation,
    needed,
    quietly,
    read_dataset,
    read_slices,
    stored_numbers,
)
from fdif_jax.io.formats.dicom_grid import Frame, frames_of, planes_of
from fdif_jax.io.formats.segments import paint
from fdif_jax.io.memory import check_fits
from fdif_jax.io.nifti import Volume, volume_of

_FAULT = "damaged DICOM segmentation"
_MAKER, _MODEL = "fdif-jax", "fdif predict"


def encode_dicom_seg(source: str | os.PathLike, labels: np.ndarray, names: Sequence[str]) -> bytes:
    """The bytes of a DICOM segmentation of the scan that `read_dicom` reads from ``source``: a segment a class.

    Args:
        source: folder, series or file of the scan.
        labels: class ids ``(D, H, W)`` on the scan's grid; 0 is background.
        names: of the classes 1, 2, …, which are the segments' labels.

    Raises:
        FdifError: highdicom is not installed, or the scan's headers lack what a segmentation takes from them.
    """
    hd = needed("highdicom", source, "writing DICOM segmentations")
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    found = read_slices(source)
    planes = labels.transpose(2, 1, 0)
    if len(found.headers) == 1:  # frames are in the order of the file
        files = list(found.headers)
        planes = planes[np.argsort([frame.number for frame in found.frames])]
    else:
        files = [frame.file for frame in found.frames]
    thickness = str(float(np.linalg.norm(found.affine[:3, 2])))[:16]
    for header in found.headers.values():
        header.setdefault("SliceThickness", thickness)  # which a scan need not say, and a segmentation must
    how = hd.AlgorithmIdentificationSequence(
        name=_MODEL, family=codes.DCM.ArtificialIntelligence, version=_version()
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=how,
        )
        for number, name in enumerate(names, start=1)
    ]
    with reading(source, "its headers lack what a DICOM segmentation needs"), quietly():
        made = hd.seg.Segmentation(
            source_images=[found.headers[file] for file in files],
            pixel_array=planes.astype(np.min_scalar_type(len(names))),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=1000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MODEL,
            software_versions=_version(),
            device_serial_number="0",
            series_description="Segmentation by fdif-jax",
        )
        stream = io.BytesIO()
        made.save_as(stream)
    return stream.getvalue()


class Segments(NamedTuple):
    """What the header of a segmentation says, and what a `Volume` has of it.

    Attributes:
        header: pydicom's dataset, without voxels.
        frames: its slices of segments, and ``planes``, of each the number of its slice.
        names: of the segments, by their numbers.
    """

    header: Any
    frames: list[Frame]
    planes: list[int]
    names: dict[int, str]
    seen: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray


def segmentation_at(path: str | os.PathLike) -> Path | None:
    """The DICOM segmentation that a path is, or that is the only DICOM file of a folder; None if there is none."""
    files = dicom_files(path) if os.path.exists(path) else []
    return files[0] if len(files) == 1 and is_segmentation(files[0]) else None


def read_segments(path: Path) -> Segments:
    """What a segmentation's header says; errors are as of `read_dicom_seg`."""
    with reading(path, _FAULT), quietly():
        header = read_dataset(path, voxels=False)
        kind = str(header.get("SegmentationType"))
        if kind not in ("BINARY", "LABELMAP"):
            raise FdifError(
                f"{path}: a segmentation of type {kind} is no label map; write it as BINARY or LABELMAP"
            )
        names = {int(one.SegmentNumber): str(one.get("SegmentLabel", "")) for one in header.SegmentSequence}
        frames = frames_of(path, header)
        (shared,) = header.get("SharedFunctionalGroupsSequence") or [{}]
        own = header.PerFrameFunctionalGroupsSequence[0]
        (measures,) = shared.get("PixelMeasuresSequence") or own.PixelMeasuresSequence
        heights = {tuple(frame.position.round(3)) for frame in frames}
        thickness = measures.get("SliceThickness") if len(heights) == 1 else None
        between = abs(float(measures.get("SpacingBetweenSlices") or thickness or 0))
        planes, affine = planes_of(path, frames, between)
        bits = 1 if kind == "BINARY" else int(header.BitsAllocated)
        if bits != int(header.BitsAllocated) or bits not in (1, 8, 16):
            raise FdifError(
                f"{path}: a segmentation of type {kind} has no voxels of {header.BitsAllocated} bits"
            )
        dtype = np.min_scalar_type(max(names)) if kind == "BINARY" else np.dtype(f"u{bits // 8}")
        seen = (frames[0].columns, frames[0].rows, max(planes) + 1)
        claimed = math.ceil(len(frames) * math.prod(seen[:2]) * bits / 8)
        if not header.file_meta.TransferSyntaxUID.is_compressed and claimed > path.stat().st_size:
            raise FdifError(f"{path}: truncated: {path.stat().st_size} bytes, {claimed} expected")
        names.pop(0, None)  # the background of a label map
        return Segments(header, frames, planes, names, seen, dtype, affine)


def read_dicom_seg(path: Path) -> Volume:
    """The label map of a DICOM segmentation: its segments' numbers, from the first slice with a segment to the last.

    Axes run as those of `read_dicom`'s volume of its scan do.

    Raises:
        FdifError: naming the file, if it is damaged, claims more than it holds or than memory holds, holds fractions,
            segments overlap, or its slices lie on no even grid.
    """
    with reading(path, _FAULT), quietly():
        found = read_segments(path)
        columns, rows, _ = found.seen
        check_fits(path, math.prod(found.seen) * found.dtype.itemsize + len(found.frames) * columns * rows)
        stored = stored_numbers(path)[0].reshape(-1, rows, columns)
        labels = np.zeros(found.seen, found.dtype, order="F")
        per_frame = found.header.PerFrameFunctionalGroupsSequence
        is_binary = found.header.SegmentationType == "BINARY"
        for numbers, plane, groups in zip(stored, found.planes, per_frame, strict=True):
            if is_binary:
                label = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
                paint(path, labels[..., plane], numbers.T != 0, label, found.names)
            else:
                labels[..., plane] = numbers.T
        return replace(volume_of(labels, found.affine), names=found.names, is_part=True)


def _version() -> str:
    from importlib.metadata import version

    return version("fdif-jax")
