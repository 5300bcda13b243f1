"""NIfTI volumes in and out: one pass, no needless copies."""

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine, not_there, write_atomic

# Measured on 96³ scenes: level 2 deflates an image in 1.1 ms, 0.6 % smaller than level 1 at the same speed;
# level 3 is slower and no smaller. zlib's level 6 saves 7 % more and takes 18 ms.
DEFLATE_LEVEL = 2
_GZIP_FRAME = 31  # zlib's `wbits` for a gzip member: no file name, modification time 0
_GZIP_MAGIC = b"\x1f\x8b"
_VOXELS_AT = 352  # the header's 348 bytes and four zeros: no header extensions
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


@dataclass(frozen=True)
class Volume:
    """A volume read from a file.

    Attributes:
        array: voxels in the file's axis order, ``(D, H, W)`` (or 4D where that was asked for), in the file's
            dtype, or float32 where the file declares a slope or an intercept. May be read-only.
        affine: ``(4, 4)`` float64, voxel index → millimetres.
        spacing: millimetres between neighbouring voxels along each axis.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float, float]


def encode_nifti(
    array: np.ndarray, affine: np.ndarray | None = None, *, compress: bool = True
) -> bytes | memoryview:
    """The bytes of a NIfTI-1 file of a 3D (or 4D) array; equal arguments give equal bytes.

    Axis order and dtype are kept (bool becomes uint8); ``affine`` is the ``(4, 4)`` voxel → millimetre matrix, identity
    by default. Compressed it is one gzip member, as a ``.nii.gz`` is. FdifError if NIfTI-1 has no such dtype or shape.
    """
    array = np.asarray(array)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.ndim not in (3, 4):
        raise FdifError(f"a NIfTI volume needs 3 or 4 axes, got an array of shape {array.shape}")
    header = nib.Nifti1Header()
    try:
        header.set_data_dtype(array.dtype.newbyteorder("="))
        header.set_data_shape(array.shape)
    except HeaderDataError as error:
        raise FdifError(f"NIfTI cannot hold {array.dtype} of shape {array.shape}: {error}") from None
    affine = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    header.set_zooms((*nib.affines.voxel_sizes(affine), *[1.0] * (array.ndim - 3)))
    header.set_qform(affine, code=1, strip_shears=True)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = _VOXELS_AT
    # NIfTI's first axis runs fastest: the one copy of the voxels is their transposition into the file's buffer.
    data = np.zeros(_VOXELS_AT + array.nbytes, np.uint8)
    data[: header.sizeof_hdr] = np.frombuffer(header.binaryblock, np.uint8)
    data[_VOXELS_AT:].view(array.dtype.newbyteorder("=")).reshape(array.shape[::-1])[...] = array.T
    return isal_zlib.compress(data, DEFLATE_LEVEL, _GZIP_FRAME) if compress else data.data


def write_nifti(path: str | os.PathLike, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write ``array`` to ``path`` (``.nii.gz`` deflated, ``.nii`` as it is), complete or not at all, as of
    `encode_nifti`.

    ``nibabel.load(path)`` gives the same shape, values and dtype back. FdifError if the name ends neither way.
    """
    name = os.fspath(path).lower()
    if not name.endswith((".nii.gz", ".nii")):
        raise FdifError(f"{path}: a NIfTI file name ends in .nii.gz or .nii")
    write_atomic(path, encode_nifti(array, affine, compress=name.endswith(".gz")))


def read_nifti(path: str | os.PathLike, *, allow_4d: bool = False) -> Volume:
    """Read a single-file NIfTI-1 or NIfTI-2 volume, deflated or not (its first bytes tell).

    Trailing axes of length 1 are dropped; a fourth axis is accepted where that is allowed.

    Raises:
        FdifError: naming the file, if it is missing, truncated, corrupt, no NIfTI, not 3D, or holds NaN,
            infinity or a spacing of zero or less.
    """
    data = _inflated(Path(path))
    header = _parse_header(path, data)
    array = _voxels(path, header, data, allow_4d)
    affine = np.asarray(header.get_best_affine(), np.float64)
    spacing = nib.affines.voxel_sizes(affine)
    zooms = header.get_zooms()[:3]
    numbers = ", ".join(f"{zoom:g}" for zoom in zooms)
    if min(zooms) < 0:
        raise FdifError(
            f"{path}: spacing ({numbers}) is negative; it must be above 0, directions are the affine's"
        )
    if not np.isfinite(affine).all() or min(*spacing, *zooms) <= 0 or np.linalg.det(affine[:3, :3]) == 0:
        raise FdifError(f"{path}: spacing ({numbers}) is zero somewhere or its affine cannot be inverted")
    return Volume(array, affine, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _inflated(path: Path) -> bytes:
    """The file's bytes, decompressed where they are a gzip stream."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise not_there(path) from None
    except OSError as error:
        raise FdifError(f"{path}: cannot read: {error.strerror}") from None
    if data[:2] != _GZIP_MAGIC:
        return data
    try:
        return igzip.decompress(data)
    except EOFError:
        raise FdifError(f"{path}: truncated: the gzip stream ends early") from None
    except (isal_zlib.IsalError, OSError) as error:  # type: ignore[misc]  # its stub declares an instance
        raise FdifError(f"{path}: corrupt gzip stream: {error}") from None


def _parse_header(path: str | os.PathLike, data: bytes) -> nib.Nifti1Header:
    size = {int.from_bytes(data[:4], order) for order in ("little", "big")} & _HEADERS.keys()
    if not size or len(data) < (length := size.pop()):
        check_genuine(path)
        raise FdifError(f"{path}: not a NIfTI file (no NIfTI header at its start)")
    try:
        header = _HEADERS[length].from_fileobj(BytesIO(data[:length]), check=False)
    except (HeaderDataError, ImageFileError, ValueError) as error:
        raise FdifError(f"{path}: not a NIfTI file: {error}") from None
    if not bytes(header["magic"]).startswith((b"n+1", b"n+2")):
        raise FdifError(f"{path}: not a single-file NIfTI (its magic says {bytes(header['magic'])!r})")
    return header


def _voxels(path: str | os.PathLike, header: nib.Nifti1Header, data: bytes, allow_4d: bool) -> np.ndarray:
    try:
        dtype, shape, offset = header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
        slope, intercept = header.get_slope_inter()
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise FdifError(f"{path}: damaged NIfTI header: {error}") from None
    if dtype.kind not in "iuf":
        raise FdifError(f"{path}: voxels of type {dtype}; integers or floats are needed")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 and not (allow_4d and len(shape) == 4):
        raise FdifError(
            f"{path}: shape {tuple(shape)}; a volume of {'3 or 4' if allow_4d else '3'} axes is needed"
        )
    if min(shape) < 1 or offset < 0:
        raise FdifError(f"{path}: damaged NIfTI header: shape {tuple(shape)}, voxels at byte {offset}")
    count = int(np.prod(shape, dtype=object))
    if len(data) < offset + count * dtype.itemsize:
        raise FdifError(f"{path}: truncated: {len(data)} bytes, {offset + count * dtype.itemsize} expected")
    array = np.frombuffer(data, dtype, count, offset).reshape(shape, order="F")
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    check_finite(path, array)
    if (slope, intercept) in ((None, None), (1.0, 0.0)):
        return array
    scaled = array.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(intercept)
    return scaled


def check_finite(path: str | os.PathLike, array: np.ndarray) -> None:
    """Raise an FdifError that names ``path`` if ``array``, which was read from it, holds NaN or infinity."""
    # The extremes show them without a temporary array of flags.
    if array.dtype.kind == "f" and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise FdifError(f"{path}: holds NaN or infinite voxels")
