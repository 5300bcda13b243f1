"""MetaImage (``.mha``, ``.mhd``), as ITK, elastix and Plastimatch write it (itk.org/Wiki/MetaIO/Documentation).

Read without a library: ITK's reader follows a header's file names anywhere, prints what is wrong, and gives voxels of a
deflated stream that is damaged.
"""

import re
from pathlib import Path

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine
from fdif_jax.io.formats import parsing
from fdif_jax.io.formats.parsing import TO_RAS, UNITS, Header, TextFormat, field, numbers
from fdif_jax.io.nifti import checked_affine

_INTEGERS = {"CHAR": "1", "SHORT": "2", "INT": "4", "LONG": "4", "LONG_LONG": "8"}
_TYPES = {
    **{f"MET_{name}": f"i{size}" for name, size in _INTEGERS.items()},
    **{f"MET_U{name}": f"u{size}" for name, size in _INTEGERS.items()},
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items() if "LONG" not in name or "LONG_LONG" in name}
_TRUE, _LAST = ("true", "1"), "elementdatafile"


def encode_metaimage(array: np.ndarray, affine: np.ndarray) -> bytes:
    """The bytes of a deflated ``.mha`` of integers or float32 ``(D, H, W)``.

    ``affine`` is in millimetres to the right, front and head.
    """
    lps, data = TO_RAS @ affine, parsing.deflated(array, 15)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    values = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(data)),
        "TransformMatrix": " ".join(parsing.written((lps[:3, :3] / spacing).T)),
        "Offset": " ".join(parsing.written(lps[:3, 3])),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(parsing.written(spacing)),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": _NAMES[array.dtype],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{name} = {value}\n" for name, value in values.items()).encode() + data


def _ends(line: str) -> bool:
    return line.lower().startswith(_LAST)


def _parse(path: Path, lines: list[str]) -> Header:
    pairs = [line.partition("=") for line in lines]
    fields = {name.strip().lower(): value.strip() for name, sign, value in pairs if sign}
    if _LAST not in fields or "dimsize" not in fields:
        check_genuine(path)
        raise FdifError(f"{path}: not a MetaImage file (no DimSize and ElementDataFile in its header)")
    said = {name: fields.get(name.lower(), default).lower() in _TRUE for name, default in (
        ("BinaryData", "true"), ("CompressedData", "false"), ("BinaryDataByteOrderMSB", "false"),
        ("ElementByteOrderMSB", "false"),
    )}  # fmt: skip
    if not said["BinaryData"]:
        raise FdifError(f"{path}: its voxels are text; write them binary")
    shape, kind = parsing.edges(fields["dimsize"]), field(fields, "elementtype").upper()
    if kind.removesuffix("_ARRAY") not in _TYPES:
        raise FdifError(f"{path}: voxels of type {kind}; integers or floats are needed")
    order = ">" if said["BinaryDataByteOrderMSB"] or said["ElementByteOrderMSB"] else "<"
    dtype = np.dtype(order + _TYPES[kind.removesuffix("_ARRAY")])
    affine, axes = _affine(path, fields, len(shape)), len(shape)
    channels = None if axes == 3 else 3
    if (interleaved := int(fields.get("elementnumberofchannels", "1"))) != 1:
        if channels is not None:
            raise ValueError("it has 4 axes and several channels")
        shape, channels = (interleaved, *shape), 0
    offset = int(fields.get("headersize", "0"))
    if offset and said["CompressedData"]:
        raise ValueError("a HeaderSize before compressed voxels")
    packed = said["CompressedData"]
    return Header(shape, dtype, channels, affine, packed, _beside(path, lines[-1]), offset)


def _beside(path: Path, line: str) -> str | None:
    """The file that a header says the voxels are in; None where they follow it."""
    name = line.partition("=")[2].strip()
    if name.lower() == "local":
        return None
    if name.upper().split()[:1] == ["LIST"] or re.search(r"%\d*d", name):
        raise FdifError(
            f"{path}: its voxels are in several files ({name}); write them to one, as ElementDataFile = LOCAL"
        )
    return name


def _affine(path: Path, fields: dict[str, str], axes: int) -> np.ndarray:
    """Index → millimetres to the right, front and head; of 4 axes those of the first 3."""
    affine = np.eye(4)
    spacing = numbers(fields.get("elementspacing", fields.get("elementsize", "1 " * axes)), axes)
    names = ("transformmatrix", "rotation", "orientation")
    if turned := next((fields[name] for name in names if name in fields), None):
        affine[:3, :3] = np.reshape(numbers(turned, axes**2), (axes, axes))[:3, :3].T
    affine[:3, :3] *= spacing[:3]
    origin = next((fields[name] for name in ("offset", "position", "origin") if name in fields), "0 " * axes)
    affine[:3, 3] = numbers(origin, axes)[:3]
    unit = fields.get("distanceunits", "?").lower()
    if unit not in {"?", *UNITS}:
        raise ValueError(f"its DistanceUnits are {unit}; they must be {', '.join(UNITS)}")
    advice = "check ElementSpacing, TransformMatrix and DistanceUnits in its header"
    return checked_affine(path, TO_RAS @ affine, unit.replace("?", "mm"), UNITS.get(unit, 1.0), advice=advice)


METAIMAGE = TextFormat("damaged MetaImage file", _parse, _ends)
