"""Every volume that is read, whatever its format: one reader, which the ends of names choose, and what is written back.

The affine of each is that of NIfTI: index → millimetres to the patient's right, front and head.
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from isal import igzip

from fdif_jax.errors import FdifError
from fdif_jax.io.b2nd import b2nd_type, read_b2nd
from fdif_jax.io.files import reading
from fdif_jax.io.formats.dicom import dicom_files, is_dicom, is_series, read_dicom, read_slices
from fdif_jax.io.formats.dicom_seg import read_dicom_seg, read_segments, segmentation_at
from fdif_jax.io.formats.metaimage import METAIMAGE, encode_metaimage
from fdif_jax.io.formats.mgh import encode_mgh_like, read_mgh, read_mgh_header
from fdif_jax.io.formats.nrrd import NRRD, encode_nrrd
from fdif_jax.io.memory import check_fits
from fdif_jax.io.nifti import (
    DEFLATE_LEVEL,
    Volume,
    encode_nifti,
    in_millimetres,
    read_header,
    read_nifti,
    volume_of,
)

_APART = 0.1  # voxels between corners of grids that are taken for one
_RAW = (".raw", ".zraw", ".raw.gz", ".zraw.gz")  # voxels beside a header


class VolumeHeader(NamedTuple):
    """What a file says of its voxels: shape, dtype and affine, as its `Volume` has them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray


class Format(NamedTuple):
    """How files of one format are read and answered.

    Attributes:
        read: path → volume, of 3 or 4 axes.
        header: path → what it says of its voxels, without reading them.
        encode: path of an image, and a label map, unsigned, or float32 values ``(D, H, W)`` on its grid → the bytes
            of a file of that.
        answer: the end of that file's name.
    """

    read: Callable[[Any], Volume]
    header: Callable[[Any], VolumeHeader]
    encode: Callable[[Path, np.ndarray], bytes | memoryview]
    answer: str


def _seen(header: Any) -> VolumeHeader:
    return VolumeHeader(header.seen, header.dtype.newbyteorder("="), header.affine)


def _nifti_header(path: str | os.PathLike) -> VolumeHeader:
    with reading(path, "damaged NIfTI file"):
        header = read_header(path)
        shape = tuple(map(int, header.get_data_shape()))
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        scaled = header.get_slope_inter() not in ((None, None), (1, 0))
        dtype = np.dtype(np.float32) if scaled else header.get_data_dtype().newbyteorder("=")
        return VolumeHeader(shape, dtype, in_millimetres(path, header, header.get_best_affine()))


def _encode_nifti_like(source: Path, labels: np.ndarray) -> bytes | memoryview:
    header = read_header(source)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with reading(source, "its header cannot be written again"):
        header.set_data_dtype(labels.dtype)
        header.set_intent("none")
        header["cal_min"] = header["cal_max"] = header["vox_offset"] = 0
        return igzip.compress(kind(labels, None, header).to_bytes(), DEFLATE_LEVEL, mtime=0)


_NIFTI = Format(lambda path: read_nifti(path, allow_4d=True), _nifti_header, _encode_nifti_like, ".nii.gz")
_BLOSC2 = Format(
    lambda path: volume_of(read_b2nd(path), np.eye(4)),
    lambda path: VolumeHeader(*b2nd_type(path), np.eye(4)),
    lambda source, labels: encode_nifti(labels),
    ".nii.gz",
)
_NRRD = Format(
    NRRD.volume,
    lambda path: _seen(NRRD.header(path)),
    lambda source, labels: encode_nrrd(labels, NRRD.header(source).affine),
    ".nrrd",
)
_METAIMAGE = Format(
    METAIMAGE.volume,
    lambda path: _seen(METAIMAGE.header(path)),
    lambda source, labels: encode_metaimage(labels, METAIMAGE.header(source).affine),
    ".mha",
)
_MGH = Format(read_mgh, lambda path: _seen(read_mgh_header(path)), encode_mgh_like, ".mgz")


def _read_dicom(path: str | os.PathLike) -> Volume:
    file = segmentation_at(path)
    return read_dicom_seg(file) if file else read_dicom(path)


def _dicom_header(path: str | os.PathLike) -> VolumeHeader:
    file = segmentation_at(path)
    return _seen(read_segments(file) if file else read_slices(path))


_DICOM = Format(
    _read_dicom,
    _dicom_header,
    lambda source, labels: encode_nifti(labels, read_slices(source).affine),
    ".nii.gz",
)
_FORMATS = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".b2nd": _BLOSC2,
    ".seg.nrrd": _NRRD,
    ".nrrd": _NRRD,
    ".nhdr": _NRRD,
    ".mha": _METAIMAGE,
    ".mhd": _METAIMAGE,
    ".mgz": _MGH,
    ".mgh": _MGH,
}
VOLUME_SUFFIXES = tuple(_FORMATS)
"""Ends of the names of files that are volumes by themselves."""
DICOM_SUFFIXES = (".dcm", ".ima")
"""Ends of the names of DICOM files, which may have none, and be a slice as well as a volume."""

VOLUMES = f"{', '.join(VOLUME_SUFFIXES)}, or folders of DICOM slices"
"""What is taken for volumes, to be listed where there is none."""


def suffix_of(name: str) -> str:
    """The suffix of a volume's file as it is written, in small or capital letters; empty if it is no volume's."""
    return next((name[-len(suffix) :] for suffix in VOLUME_SUFFIXES if name.lower().endswith(suffix)), "")


def is_dicom_scan(path: str | os.PathLike) -> bool:
    """Whether a path is of a DICOM scan: a folder of slices, ``FOLDER/SERIES``, or a multi-frame file."""
    name = os.fspath(path).lower()
    if suffix_of(name):
        return False
    return (os.path.isfile(path) and name.endswith(DICOM_SUFFIXES)) or is_dicom(path) or is_series(path)


def is_volume(path: str | os.PathLike) -> bool:
    """Whether there is a file of this name, or a DICOM scan."""
    return os.path.isfile(path) or is_dicom_scan(path)


def is_beside(name: str) -> bool:
    """Whether a file has the voxels of a header beside it, by its name."""
    return name.lower().endswith(_RAW)


def format_of(path: str | os.PathLike) -> Format:
    """The format of a volume, by the end of its name; NIfTI, whose reader tells what else it is, for any other."""
    if suffix := suffix_of(os.fspath(path)):
        return _FORMATS[suffix.lower()]
    return _DICOM if os.path.isdir(path) or is_dicom_scan(path) else _NIFTI


def files_of(path: Path) -> list[Path]:
    """The files that a volume is made of, as far as their names tell."""
    if is_dicom_scan(path):
        return dicom_files(path)
    raw = [path.with_suffix(end) for end in _RAW]
    return [path, *(file for file in raw if file.is_file())]


def read_volume(path: str | os.PathLike, *, allow_4d: bool = False) -> Volume:
    """A volume of any format (`VOLUMES`). Blosc2 has no affine: voxels are taken to be 1 mm wide, along the axes.

    FdifError, naming the file, if it is missing, damaged, or more than memory holds, if it has not 3 axes (or, if
    allowed, 4, the last of channels), or if what reads its format is not installed.
    """
    volume = format_of(path).read(path)
    _check_axes(path, volume.array.shape, allow_4d)
    return volume


def read_volume_header(path: str | os.PathLike) -> VolumeHeader:
    """What a file says of its voxels; errors are as of `read_volume`."""
    header = format_of(path).header(path)
    _check_axes(path, header.shape, True)
    return header


def in_order_of(affine: np.ndarray, volume: Volume) -> Volume:
    """A volume whose axes are, as nearly as may be, in order and direction those of a grid of another affine.

    Two formats, or two programs, may have the same voxels in another order.
    """
    theirs, wanted = (nib.io_orientation(one) for one in (volume.affine, affine))
    if np.array_equal(theirs, wanted) or np.isnan([theirs, wanted]).any():
        return volume
    turn = nib.orientations.ornt_transform(theirs, wanted)
    turned = volume.affine @ nib.orientations.inv_ornt_aff(turn, volume.array.shape[:3])
    return volume_of(nib.apply_orientation(volume.array, turn), turned)


def grown(path: str | os.PathLike, volume: Volume, other: VolumeHeader) -> Volume:
    """A segmentation that was read from ``path``, with background around it as far as another file's voxels lie.

    Any other volume is as it was, and so is a segmentation whose voxels do not lie among those of the other grid.
    """
    if not volume.is_part:
        return volume
    there = np.linalg.inv(volume.affine) @ other.affine
    size = np.array(volume.array.shape)
    ends = nib.affines.apply_affine(there, [(0, 0, 0), np.subtract(other.shape[:3], 1)])
    straight = np.abs(there[:3, :3]).round()
    slip = np.abs(np.abs(there[:3, :3]) - straight) @ np.array(other.shape[:3])
    if (
        sorted(straight.ravel()) != [0] * 6 + [1] * 3
        or np.abs(ends - ends.round()).max() > _APART
        or slip.max() > _APART
    ):
        return volume
    before = np.maximum(-ends.min(0).round(), 0).astype(int)
    after = np.maximum(ends.max(0).round() - (size - 1), 0).astype(int)
    check_fits(path, math.prod((size + before + after).tolist()) * volume.array.itemsize)
    array = np.pad(volume.array, np.column_stack([before, after]))
    return replace(volume, array=array, affine=volume.affine @ nib.affines.from_matvec(np.eye(3), -before))


def apart(shape: tuple[int, ...], affine: np.ndarray, other: np.ndarray) -> float:
    """How far the corners of two grids of one ``shape`` ``(D, H, W)`` are apart at most, in voxels of the finer one."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    ours, theirs = (nib.affines.apply_affine(one, corners) for one in (affine, other))
    finest = min(*nib.affines.voxel_sizes(affine), *nib.affines.voxel_sizes(other))
    return float(np.linalg.norm(ours - theirs, axis=1).max() / finest)


def on_grid(
    path: str | os.PathLike,
    volume: Volume,
    other: str | os.PathLike,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> np.ndarray:
    """The array of a volume that was read from ``path``, its axes as those of the grid of another file run.

    That is of ``shape`` ``(D, H, W)`` and ``affine``; a segmentation may be a part of it. FdifError if the two files'
    voxels do not lie in the same places, within a tenth of a voxel.
    """
    volume = grown(path, volume, VolumeHeader(shape, volume.array.dtype, affine))
    for one in (volume, in_order_of(affine, volume)):
        if one.array.shape[:3] == shape and apart(shape, one.affine, affine) <= _APART:
            return one.array
    if volume.array.shape[:3] != shape:
        raise FdifError(f"{path}: shape {volume.array.shape[:3]}, but {other} has {shape}")
    away = apart(shape, volume.affine, affine)
    raise FdifError(
        f"{path}: its affine lays voxels up to {away:.3g} voxels from where that of {other} lays them"
    )


def encode_like(source: Path, labels: np.ndarray) -> bytes | memoryview:
    """The bytes of a file of labels, unsigned, or of float32 values ``(D, H, W)``, as the image of them is.

    A header of NIfTI or MGH stays as it is: affine, codes, units, and texts; what describes intensities (slope, window,
    intent) does not. Of Blosc2, which has no header, and of DICOM it is NIfTI.
    """
    return format_of(source).encode(source, labels)


def _check_axes(path: str | os.PathLike, shape: tuple[int, ...], allow_4d: bool) -> None:
    if len(shape) != 3 and not (allow_4d and len(shape) == 4):
        raise FdifError(f"{path}: shape {shape}; a volume of {'3 or 4' if allow_4d else '3'} axes is needed")
