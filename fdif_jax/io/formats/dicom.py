"""DICOM files: which are there, which series they are of, and their voxels; `dicom_grid` says where these lie.

What is wrong with a file is found before voxels are asked memory for. pydicom and SimpleITK, for voxels in forms that
pydicom cannot unpack, are imported where they are used.
"""

import contextlib
import importlib
import logging
import math
import mmap
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import check_genuine, reading, visible
from fdif_jax.io.formats.dicom_grid import Frame, frames_of, grid_of
from fdif_jax.io.memory import DEFLATED, check_fits
from fdif_jax.io.nifti import Volume, scaled, volume_of
from fdif_jax.io.remarks import remark_left_out

_FAULT = "damaged DICOM file"
_MAGIC, _MAGIC_AT = b"DICM", 128
_LOOKED = 16  # files of a folder that are looked at to tell whether it is one of DICOM
_LISTED = 8  # series in an error
# Deflated as a whole, header and all, which pydicom unpacks however much there is.
_DEFLATED = b"1.2.840.10008.1.2.1.99"
# SOP classes of segmentations, and of those that are label maps.
_SEGMENTATION = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.66\.[47](?![.\d])")
_KIND = 2**9  # bytes at a file's start that name its SOP class
_META = 2**16  # bytes at a file's start that name its form
_NO_SCANS = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTDOSE", "RTPLAN")  # modalities


class _Series(NamedTuple):
    """The files of a series, of each its header without voxels."""

    uid: str
    description: str
    files: list[tuple[Path, Any]]

    @property
    def slices(self) -> int:
        return sum(int(header.get("NumberOfFrames") or 1) for _, header in self.files)


class Slices(NamedTuple):
    """The slices of a volume in their order, and what a `Volume` has of them."""

    frames: list[Frame]
    headers: dict[Path, Any]
    seen: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray

    @property
    def are_scaled(self) -> bool:
        """Whether numbers are to be multiplied or added to."""
        return any((frame.slope, frame.intercept) != (1.0, 0.0) for frame in self.frames)


def needed(library: str, path: str | os.PathLike, why: str) -> Any:
    """A library of the extra ``formats``; FdifError, with what to install, if it is not there."""
    try:
        with needing("formats"):
            return importlib.import_module(library)
    except FdifError as error:
        raise FdifError(f"{path}: {why} {error}") from None


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether there is a DICOM file, by its first bytes; of a link, where it leads."""
    if not os.path.isfile(path) or os.path.basename(path) == "DICOMDIR":
        return False
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    return False


def is_segmentation(path: str | os.PathLike) -> bool:
    """Whether there is a DICOM segmentation, by its first bytes."""
    if not is_dicom(path):
        return False
    with open(path, "rb") as file:
        return _SEGMENTATION.search(file.read(_KIND)) is not None


def is_series(path: str | os.PathLike) -> bool:
    """Whether a path is a folder of DICOM files, or names a series in one: ``FOLDER/SERIES``.

    Segmentations are no slices; a folder of one alone is that.
    """
    if os.path.isdir(path):
        looked = (os.path.join(path, name) for name in visible(Path(path))[:_LOOKED])
        found = [file for file in looked if is_dicom(file)]
        return len(found) == 1 or not all(map(is_segmentation, found))
    return not os.path.lexists(path) and os.path.isdir(folder := os.path.dirname(path)) and is_series(folder)


def dicom_files(path: str | os.PathLike) -> list[Path]:
    """The DICOM files of what `is_series` tells, in order of their names, or the one file that it is."""
    if os.path.isfile(path):
        return [Path(path)]
    folder = Path(path) if os.path.isdir(path) else Path(path).parent
    return [folder / name for name in visible(folder) if is_dicom(folder / name)]


def read_dicom(path: str | os.PathLike) -> Volume:
    """The volume of a folder with one series, of ``FOLDER/SERIES`` (its UID or description), or of a multi-frame file.

    Axes run along rows, along columns, and from slice to slice, as ITK has them; numbers are rescaled as slices say.

    Raises:
        FdifError: naming folder or file, if there is no such file or series, or several; a file is damaged, or claims
            more than it holds; slices are of several kinds, not evenly spaced, missing, twice there, or shifted against
            each other (gantry tilt).
    """
    with reading(path, _FAULT), quietly():
        found = read_slices(path)
        frames = _voxels(path, found)
        return volume_of(frames.transpose(2, 1, 0), found.affine)


def read_slices(path: str | os.PathLike) -> Slices:
    """What the headers say of a volume; errors are as of `read_dicom`."""
    with reading(path, _FAULT), quietly():
        series = _chosen(path)
        frames: list[Frame] = []
        kinds: set[np.dtype] = set()
        for file, header in series.files:
            with reading(file, _FAULT):
                frames += frames_of(file, header)
                kinds.add(_kind(file, header))
        frames, affine = grid_of(path, frames)
        headers = dict(series.files)
        if len(kinds) > 1:
            raise FdifError(f"{path}: its slices hold numbers of several types: {sorted(map(str, kinds))}")
        columns, rows = frames[0].columns, frames[0].rows
        found = Slices(frames, headers, (columns, rows, len(frames)), kinds.pop(), affine)
        return found._replace(dtype=np.dtype(np.float32)) if found.are_scaled else found


def _chosen(path: str | os.PathLike) -> _Series:
    """The one series that a path is."""
    files = dicom_files(path)
    if not files:
        raise FdifError(f"{path}: holds no DICOM file" if os.path.exists(path) else f"{path}: no such file")
    found: dict[str, _Series] = {}
    others: list[str] = []
    for file in files:
        header = read_dataset(file, voxels=False)
        if not header.get("SOPClassUID"):
            raise FdifError(f"{file}: {_FAULT}: it does not say what it is (SOPClassUID)")
        if not header.get("Rows") or not header.get("Columns") or header.get("Modality") in _NO_SCANS:
            others.append(file.name)
        else:
            uid = str(header.get("SeriesInstanceUID", ""))
            named = str(header.get("SeriesDescription", "")).strip()
            found.setdefault(uid, _Series(uid, named, [])).files.append((file, header))
    series = list(found.values())
    remark_left_out(files[0].parent, others, "no slices of a scan")
    if not series:
        raise FdifError(f"{path}: holds no DICOM file of a scan")
    if os.path.exists(path):
        if len(series) > 1:
            raise FdifError(
                f"{path}: holds {len(series)} series; choose one by its UID or description, as "
                f"{Path(path) / series[0].uid}, or by --series of fdif predict: {_listed(series)}"
            )
        return series[0]
    name, folder = os.path.basename(path), os.path.dirname(path)
    matching = [one for one in series if one.uid == name] or [
        one for one in series if one.description == name
    ]
    if len(matching) != 1:
        said = "several series are" if matching else "no series is"
        raise FdifError(f"{folder}: {said} called {name!r}; there are {_listed(series)}")
    return matching[0]


def _listed(series: Sequence[_Series]) -> str:
    shown = [
        f"{one.uid} ({one.description or 'no description'}, {one.slices} slices)" for one in series[:_LISTED]
    ]
    return "; ".join(shown) + f"; and {len(series) - _LISTED} more" * (len(series) > _LISTED)


def read_dataset(path: Path, *, voxels: bool) -> Any:
    """A file as pydicom's dataset, with its voxels or without; FdifError, naming it, if it is damaged."""
    pydicom = needed("pydicom", path, "reading DICOM")
    with reading(path, _FAULT), quietly(), path.open("rb") as file:
        start = file.read(_META)
        if start[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC:
            check_genuine(path)
            raise FdifError(f"{path}: not a DICOM file (no DICM at byte {_MAGIC_AT})")
        if _DEFLATED in start:
            raise FdifError(f"{path}: is deflated as a whole; write it in another transfer syntax")
        # What is read from a map is never longer than the file, whatever an element's length says.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return pydicom.dcmread(data, stop_before_pixels=not voxels)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Leave out what pydicom and highdicom warn of in the block."""
    for library in ("pydicom", "highdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with np.errstate(all="ignore"):
            yield


def _kind(path: Path, header: Any) -> np.dtype:
    """The type of a file's stored numbers; FdifError if they are colours or bits, or more than the file can hold."""
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise FdifError(f"{path}: holds colours; intensities are needed")
    bits = int(header.get("BitsAllocated") or 0)
    if bits not in (8, 16, 32, 64):
        raise FdifError(f"{path}: voxels of {bits} bits; 8, 16, 32 or 64 are needed")
    frames = int(header.get("NumberOfFrames") or 1)
    claimed = math.prod((frames, int(header.Rows), int(header.Columns), bits // 8))
    packed = header.file_meta.TransferSyntaxUID.is_compressed
    most = path.stat().st_size * (DEFLATED if packed else 1)
    if claimed > most:
        raise FdifError(f"{path}: truncated: {'at most ' * packed}{most} bytes, {claimed} expected")
    return np.dtype(f"{'i' if header.get('PixelRepresentation') else 'u'}{bits // 8}")


def _voxels(path: str | os.PathLike, found: Slices) -> np.ndarray:
    """The numbers of all slices ``(slices, rows, columns)``, scaled."""
    shape = found.seen[::-1]
    check_fits(path, math.prod(shape) * found.dtype.itemsize)
    places: dict[Path, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(found.frames):
        places.setdefault(frame.file, []).append((place, frame))
    array = np.empty(shape, found.dtype)
    for file, here in places.items():
        with reading(file, _FAULT):
            stored, is_scaled = stored_numbers(file)
            stored = stored.reshape(-1, *shape[1:])
            for place, frame in here:
                slope, intercept = (1.0, 0.0) if is_scaled else (frame.slope, frame.intercept)
                array[place] = scaled(file, stored[frame.number], slope, intercept)
    return array


def stored_numbers(path: Path) -> tuple[np.ndarray, bool]:
    """A file's numbers, and whether they are scaled already."""
    pixels = needed("pydicom.pixels", path, "reading DICOM")
    dataset = read_dataset(path, voxels=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    with quietly():
        if not syntax.is_compressed or pixels.get_decoder(syntax).is_available:
            return dataset.pixel_array, False
    sitk = needed("SimpleITK", path, f"unpacking {syntax.name}")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with _silent():
        return sitk.GetArrayFromImage(reader.Execute()), True


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what a library written in C++ prints to the error stream in the block from being seen."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
