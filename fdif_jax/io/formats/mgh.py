"""FreeSurfer's volumes (``.mgz``, ``.mgh``), by nibabel's header."""

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import igzip
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine, reading
from fdif_jax.io.nifti import DEFLATE_LEVEL, Volume, checked_affine, scaled, volume_of
from fdif_jax.io.streams import opened, read_voxels

_FAULT = "damaged MGH file"
_VOXELS_AT = 284  # bytes of the header
_VERSION = b"\x00\x00\x00\x01"
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}


class MghHeader(NamedTuple):
    """Shape and dtype of a file's voxels, their affine, ``(4, 4)`` in millimetres, and nibabel's header."""

    seen: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    header: MGHHeader


def read_mgh(path: str | os.PathLike) -> Volume:
    """A volume of 3 axes, or 4 where there are several frames, deflated or not (the first bytes tell).

    FdifError, naming the file, if it is missing, truncated, damaged, or claims more than it holds.
    """
    with reading(path, _FAULT), opened(path) as (file, most):
        start = file.read(_VOXELS_AT)
        found = _parse(Path(path), start)
        dtype = found.dtype.newbyteorder(">")
        array = read_voxels(path, file, dtype, found.seen, start=start, offset=_VOXELS_AT, most=most)
        return volume_of(scaled(path, array, None, None), found.affine)


def read_mgh_header(path: str | os.PathLike) -> MghHeader:
    """What a file says of its voxels; errors are as of `read_mgh`."""
    with reading(path, _FAULT), opened(path) as (file, _):
        return _parse(Path(path), file.read(_VOXELS_AT))


def encode_mgh_like(source: str | os.PathLike, labels: np.ndarray) -> bytes:
    """The bytes of a ``.mgz`` of unsigned integers or float32 ``(D, H, W)`` with the header of its image."""
    header = read_mgh_header(source).header
    with reading(source, "its header cannot be written again"):
        kept = labels if labels.dtype in (np.uint8, np.float32) else labels.astype(np.int32)
        header.set_data_dtype(kept.dtype)
        return igzip.compress(MGHImage(kept, None, header).to_bytes(), DEFLATE_LEVEL, mtime=0)


def _parse(path: Path, data: bytes) -> MghHeader:
    if len(data) < _VOXELS_AT or not data.startswith(_VERSION):
        check_genuine(path)
        raise FdifError(f"{path}: not an MGH file (no MGH header at its start)")
    header = MGHHeader.from_fileobj(BytesIO(data), check=False)
    if (code := int(header["type"])) not in _TYPES:
        raise FdifError(f"{path}: voxels of type {code}; integers or floats are needed")
    d, h, w, frames = map(int, header["dims"])
    shape = (d, h, w) if frames == 1 else (d, h, w, frames)
    affine = checked_affine(path, header.get_affine(), advice="check delta and Mdc in its header")
    return MghHeader(shape, np.dtype(_TYPES[code]).newbyteorder("="), affine, header)
