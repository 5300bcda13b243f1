"""NIfTI volumes in and out: one pass, no needless copies."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine, reading, write_atomic
from fdif_jax.io.remarks import remark
from fdif_jax.io.streams import opened, read_voxels

# Measured on 96³ scenes: level 2 deflates an image in 1.1 ms, 0.6 % smaller than level 1 at the same speed;
# level 3 is slower and no smaller. zlib's level 6 saves 7 % more and takes 18 ms.
DEFLATE_LEVEL = 2
_GZIP_FRAME = 31  # zlib's `wbits` for a gzip member: no file name, modification time 0
_VOXELS_AT = 352  # the header's 348 bytes and four zeros: no header extensions
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_LONGEST_HEADER = max(_HEADERS)
_ADVICE = "check pixdim, the affine and xyzt_units in its header"
_LIKE = 0.01  # that two sizes of a voxel may differ by, as a part of them
_UNITS = {1: ("metres", 1e3), 3: ("microns", 1e-3)}  # ``xyzt_units & 7``: the unit's name and its millimetres

SPACINGS = (1e-6, 100.0)
"""Least and greatest spacing of a volume in millimetres: electron microscopes', and beyond the thickest slices."""

LARGEST = 1e14
"""What no voxel's number exceeds, up or down: float32 sums the squares of a billion such numbers."""


@dataclass(frozen=True)
class Volume:
    """A volume read from a file.

    Attributes:
        array: voxels in the file's axis order, ``(D, H, W)`` (or 4D where that was asked for), in the file's
            dtype, or float32 where the file declares a slope or an intercept. May be read-only.
        affine: ``(4, 4)`` float64, voxel index → millimetres.
        spacing: millimetres between neighbouring voxels along each axis.
        names: of the segments of a segmentation, by their labels.
        is_part: whether it is a segmentation, which may leave out what is background around its segments.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, float, float]
    names: Mapping[int, str] = field(default_factory=dict)
    is_part: bool = False


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

    Trailing axes of length 1 are dropped; a fourth axis is accepted where that is allowed. Lengths in metres or microns
    become millimetres, in which those of an unknown unit are taken to be.

    Raises:
        FdifError: naming the file, if it is missing, truncated, corrupt, no NIfTI, not 3D, holds NaN, infinity or a
            number beyond `LARGEST`, or has a spacing beyond `SPACINGS`.
    """
    with reading(path, "damaged NIfTI file"):
        header, array = _read(Path(path), allow_4d)
        _check_spacing(path, header["pixdim"][1:4], *_unit(header), _ADVICE)
        affine = in_millimetres(path, header, header.get_best_affine())
        _remark_doubts(path, header, affine)
        return volume_of(array, affine)


def read_header(path: str | os.PathLike) -> nib.Nifti1Header:
    """The header of a file that `read_nifti` reads; errors are as of that."""
    with reading(path, "damaged NIfTI file"), opened(Path(path)) as (file, _):
        return _parse_header(path, file.read(_LONGEST_HEADER))


def in_millimetres(
    path: str | os.PathLike, header: nib.spatialimages.SpatialHeader, affine: np.ndarray
) -> np.ndarray:
    """A file's affine, ``(4, 4)`` float64, in millimetres by its header's unit of length; see `checked_affine`."""
    return checked_affine(path, affine, *_unit(header), advice=_ADVICE)


def checked_affine(
    path: str | os.PathLike, affine: np.ndarray, name: str = "mm", unit: float = 1.0, *, advice: str = ""
) -> np.ndarray:
    """An affine that was read from ``path``, ``(4, 4)`` float64, in millimetres, of which a length in it is ``unit``.

    FdifError, naming ``path``, if its spacing is beyond `SPACINGS` or it cannot be inverted.
    """
    affine = np.array(affine, np.float64)
    if not np.isfinite(affine).all():
        raise FdifError(f"{path}: its affine holds NaN or infinity")
    with np.errstate(over="ignore"):
        _check_spacing(path, nib.affines.voxel_sizes(affine), name, unit, advice)
    affine[:3] *= unit
    if np.linalg.det(affine[:3, :3]) == 0:
        raise FdifError(f"{path}: its affine {affine.tolist()} cannot be inverted")
    return affine


def volume_of(array: np.ndarray, affine: np.ndarray) -> Volume:
    """An array and its affine, in millimetres, with the spacing that the affine says."""
    d, h, w = map(float, nib.affines.voxel_sizes(affine))
    return Volume(array, affine, (d, h, w))


def _remark_doubts(path: str | os.PathLike, header: nib.Nifti1Header, affine: np.ndarray) -> None:
    """Say that a header leaves open where voxels lie, or contradicts itself, once for all files of a folder."""
    has_qform, has_sform = header["qform_code"] > 0, header["sform_code"] > 0
    sizes = header["pixdim"][1:4] * _unit(header)[1]
    doubts = {
        "does not say where its voxels lie (qform_code and sform_code are 0); as in nibabel its axes are taken to run "
        "to the left, the front and up": not (has_qform or has_sform),
        "its sform and its pixdim say voxels of other sizes; the sform's count here, as in nibabel": has_sform
        and not np.allclose(nib.affines.voxel_sizes(affine), sizes, rtol=_LIKE),
        "its sform and its qform are mirror images, so that left and right are in doubt; the sform counts here, as in "
        "nibabel": has_sform
        and has_qform
        and (np.linalg.det(affine[:3, :3]) < 0) != (header["pixdim"][0] < 0),
    }
    for said in (doubt for doubt, there in doubts.items() if there):
        remark(f"{path}: {said}", f"{said} {os.path.dirname(path)}")


def _unit(header: nib.spatialimages.SpatialHeader) -> tuple[str, float]:
    """The unit of length of a header, and how many millimetres it is."""
    code = int(header["xyzt_units"]) & 7 if isinstance(header, nib.Nifti1Header) else 0
    return _UNITS.get(code, ("mm", 1.0))


def _check_spacing(path: str | os.PathLike, spacing: np.ndarray, name: str, unit: float, advice: str) -> None:
    least, greatest = SPACINGS
    if not all(least <= float(s) * unit <= greatest for s in spacing):
        numbers = ", ".join(f"{s:g}" for s in spacing)
        fault = " is negative" if any(s < 0 for s in spacing) else ""
        raise FdifError(
            f"{path}: spacing ({numbers}) {name}{fault}; it must be {least:g} to {greatest:g} mm along every axis"
            f"{': ' * bool(advice)}{advice}"
        )


def _parse_header(path: str | os.PathLike, data: bytes) -> nib.Nifti1Header:
    size = {int.from_bytes(data[:4], order) for order in ("little", "big")} & _HEADERS.keys()
    if not size or len(data) < (length := size.pop()):
        check_genuine(path)
        raise FdifError(f"{path}: not a NIfTI file (no NIfTI header at its start)")
    header = _HEADERS[length].from_fileobj(BytesIO(data[:length]), check=False)
    if not bytes(header["magic"]).startswith((b"n+1", b"n+2")):
        raise FdifError(f"{path}: not a single-file NIfTI (its magic says {bytes(header['magic'])!r})")
    _keep_standard(header)
    return header


def _keep_standard(header: nib.Nifti1Header) -> None:
    """Write what the standard says that unusual numbers of a header mean, which nibabel refuses."""
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # qfac: what is not negative is 1
    # There is a form where its code is positive; 2 says that it leads to no particular place.
    for code in ("qform_code", "sform_code"):
        if not 0 <= header[code] <= 5:
            header[code] = 2 if header[code] > 0 else 0


def _read(path: Path, allow_4d: bool) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Header and voxels. What the header says decides how many bytes are unpacked, however many there are."""
    with opened(path) as (file, most):
        start = file.read(_LONGEST_HEADER)
        header = _parse_header(path, start)
        dtype, shape = _type(path, header, allow_4d)
        if (offset := header.get_data_offset()) < header.sizeof_hdr:
            raise FdifError(f"{path}: damaged NIfTI header: voxels at byte {offset}")
        array = read_voxels(path, file, dtype, shape, start=start, offset=offset, most=most)
    return header, scaled(path, array, *header.get_slope_inter())


def _type(path: Path, header: nib.Nifti1Header, allow_4d: bool) -> tuple[np.dtype, tuple[int, ...]]:
    """Type and shape of the voxels, as a volume has them."""
    if (code := int(header["datatype"])) not in nib.nifti1.data_type_codes.value_set():
        raise FdifError(f"{path}: voxels of type {code}, which NIfTI does not know")
    dtype, shape = header.get_data_dtype(), tuple(map(int, header.get_data_shape()))
    if dtype.kind not in "iuf":
        raise FdifError(f"{path}: voxels of type {dtype}; integers or floats are needed")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 and not (allow_4d and len(shape) == 4):
        raise FdifError(f"{path}: shape {shape}; a volume of {'3 or 4' if allow_4d else '3'} axes is needed")
    return dtype, shape


def scaled(
    path: str | os.PathLike, array: np.ndarray, slope: float | None, intercept: float | None
) -> np.ndarray:
    """Voxels that were read from ``path``, in the machine's byte order, times ``slope`` plus ``intercept``.

    They are float32 where that changes them, and else of their own dtype. FdifError as of `check_numbers`.
    """
    dtype = array.dtype
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if (slope, intercept) not in ((None, None), (1.0, 0.0)):
        # Numbers of 64 bits are scaled before they are rounded, as they may be beyond float32 until then.
        kind = np.float32 if dtype.itemsize < 8 else np.float64
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(kind)
            array *= kind(slope)
            array += kind(intercept)
            array = array.astype(np.float32, copy=False)
    if array.dtype.kind == "f":
        check_numbers(path, array)
    return array


def check_numbers(path: str | os.PathLike, array: np.ndarray) -> None:
    """Check the numbers of an array, of float32 or wider, that was read from ``path``, before anything rounds them.

    FdifError, naming the first voxel, if one is NaN, infinite or beyond `LARGEST`.
    """
    # The extremes show them without a temporary array of flags; NaN is in both.
    if array.min() >= -LARGEST and array.max() <= LARGEST:
        return
    voxel = np.unravel_index(np.argmin((array >= -LARGEST) & (array <= LARGEST)), array.shape)
    what = "absurd" if np.isfinite(array[voxel]) else "NaN or infinite"
    raise FdifError(
        f"{path}: holds {what} voxels: {array[voxel]:g} at {tuple(map(int, voxel))}; float32 works with numbers from "
        f"-{LARGEST:g} to {LARGEST:g}: write the background's there"
    )
