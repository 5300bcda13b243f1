"""NRRD (``.nrrd``, ``.nhdr``, ``.seg.nrrd``), as 3D Slicer and ITK write it (teem.sourceforge.net/nrrd/format.html).

Read without a library: ITK's reader takes a header at its word, prints what is wrong, and knows no axes that are not
orthogonal. Fields are case-insensitive in what is read here, and those of no use are passed over.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine
from fdif_jax.io.formats import parsing
from fdif_jax.io.formats.parsing import TO_RAS, UNITS, Header, TextFormat, field, numbers
from fdif_jax.io.formats.segments import Segment
from fdif_jax.io.nifti import checked_affine

_INTEGERS = {"char": "i1", "short": "i2", "int": "i4", "longlong": "i8", "long long": "i8"}
_TYPES = {
    **{f"{sign}{name}{end}": kind for name, kind in _INTEGERS.items() for sign in ("", "signed ")
       for end in ("", " int")},
    **{f"{sign}{name}{end}": kind.replace("i", "u") for name, kind in _INTEGERS.items() for sign in ("u", "unsigned ")
       for end in ("", " int")},
    **{f"{sign}int{8 * size}{end}": f"{sign or 'i'}{size}" for size in (1, 2, 4, 8) for sign in ("", "u")
       for end in ("", "_t")},
    "float": "f4",
    "double": "f8",
}  # fmt: skip
_PACKED = {"raw": False, "gzip": True, "gz": True}
# Which way the axes of the space run: of the patient's, to the right, front and head. Others are ITK's.
_ITK = np.diag(TO_RAS)[:3]
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
}
_SPATIAL = ("domain", "space")
_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")


def encode_nrrd(array: np.ndarray, affine: np.ndarray) -> bytes:
    """The bytes of a deflated ``.nrrd`` of integers or float32 ``(D, H, W)``.

    ``affine`` is in millimetres to the right, front and head.
    """
    lps = TO_RAS @ affine
    vectors = [f"({','.join(parsing.written(column))})" for column in lps[:3].T]
    lines = (
        "NRRD0004",
        f"type: {'float' if array.dtype == np.float32 else array.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        *["endian: little"] * (array.itemsize > 1),
        "encoding: gzip",
        f"space origin: {vectors[3]}",
    )
    return "\n".join((*lines, "", "")).encode() + parsing.deflated(array, 31)


def _ends(line: str) -> bool:
    return not line


def _parse(path: Path, lines: list[str]) -> Header:
    if not lines or not re.fullmatch(r"NRRD\d{4}", lines[0]):
        check_genuine(path)
        raise FdifError(f"{path}: not an NRRD file (it does not begin with NRRD)")
    fields: dict[str, str] = {}
    texts: dict[str, str] = {}  # NAME:=VALUE, of programs
    for line in lines[1:]:
        name, sign, value = line.partition(":")
        if value.startswith("="):
            texts[name] = value[1:]
        elif sign and not line.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    shape = parsing.edges(field(fields, "sizes"))
    encoding, kind = field(fields, "encoding").lower(), field(fields, "type").lower()
    if encoding not in _PACKED:
        raise FdifError(f"{path}: its voxels are encoded as {encoding}; write them raw or as gzip")
    if kind not in _TYPES:
        raise FdifError(f"{path}: voxels of type {kind}; integers or floats are needed")
    one_byte = _TYPES[kind].endswith("1")
    order = "" if one_byte else {"little": "<", "big": ">"}[field(fields, "endian").lower()]
    if int(fields.get("line skip", fields.get("lineskip", "0"))):
        raise FdifError(
            f"{path}: voxels that begin after skipped lines are not read; write them after the header"
        )
    channels = _channels(fields, len(shape))
    beside = fields.get("data file", fields.get("datafile"))
    offset = int(fields.get("byte skip", fields.get("byteskip", "0")))
    affine = _affine(path, fields, len(shape), channels)
    dtype, segments = np.dtype(order + _TYPES[kind]), _segments(texts, channels is not None)
    return Header(shape, dtype, channels, affine, _PACKED[encoding], beside, offset, segments)


def _segments(texts: Mapping[str, str], are_layers: bool) -> tuple[Segment, ...]:
    """The segments of 3D Slicer's texts (``Segment0_Name:=liver``, ``Segment0_LabelValue``, ``Segment0_Layer``).

    Their labels are the values that their voxels have, or, where two layers use one value, 1, 2, … Files of Slicer
    before 4.11 do not say values and layers: each segment has a layer, of ones.
    """
    found: dict[int, dict[str, str]] = {}
    for name, text in texts.items():
        if told := _SEGMENT.fullmatch(name):
            found.setdefault(int(told[1]), {})[told[2]] = text
    segments = []
    for place, (number, of) in enumerate(sorted(found.items())):
        value = int(of.get("LabelValue", 1 if are_layers else place + 1))
        layer = int(of.get("Layer", place if are_layers else 0))
        segments.append(Segment(value, of.get("Name", f"Segment_{number + 1}"), layer, value))
    if len({segment.value for segment in segments}) < len(segments):
        segments = [segment._replace(label=label) for label, segment in enumerate(segments, start=1)]
    return tuple(segments)


def _channels(fields: dict[str, str], axes: int) -> int | None:
    """The axis that is not one of space; ValueError if the header does not tell which."""
    if axes == 3:
        return None
    told = ("(" if word.startswith("(") else word for word in _vectors(fields.get("space directions", "")))
    apart = [axis for axis, word in enumerate(told) if word == "none"]
    if not apart:
        kinds = fields.get("kinds", "").lower().split()
        apart = [axis for axis, kind in enumerate(kinds) if kind not in _SPATIAL]
    if len(apart) != 1:
        raise ValueError("it has 4 axes and does not say which one is of channels")
    return apart[0]


def _vectors(text: str) -> list[str]:
    """``(1,0,0) none (0,1,0)`` word by word, whatever spaces are in the brackets."""
    return re.findall(r"\([^()]*\)|[^\s()]+", text.lower())


def _vector(text: str) -> list[float]:
    return numbers(text.strip("()").replace(",", " "), 3)


def _affine(path: Path, fields: dict[str, str], axes: int, channels: int | None) -> np.ndarray:
    """Index → millimetres to the right, front and head. Without a space it is taken to be ITK's."""
    affine = np.eye(4)
    if "space directions" in fields:
        columns = [_vector(word) for word in _vectors(fields["space directions"]) if word != "none"]
        if len(columns) != 3:
            raise ValueError("its space directions are not those of 3 axes")
        affine[:3, :3] = np.transpose(columns)
    elif "spacings" in fields:
        spacings = numbers(fields["spacings"], axes)
        affine[:3, :3] = np.diag([s for axis, s in enumerate(spacings) if axis != channels])
    if "space origin" in fields:
        affine[:3, 3] = _vector(fields["space origin"])
    elif lows := fields.get("axis mins", fields.get("axismins")):
        least = [low for axis, low in enumerate(numbers(lows, axes)) if axis != channels]
        # Where samples are the middles of cells, as they are if nothing is said, the least is half a voxel before.
        ends = fields.get("centers", fields.get("centerings", "")).lower().split()
        middle = 0.0 if "node" in ends else 0.5
        if np.isfinite(least).all():
            affine[:3, 3] = np.array(least) + middle * affine[:3, :3].diagonal()
    affine[:3] *= np.array(_SPACES.get(fields.get("space", "").lower(), _ITK))[:, None]
    units = {unit.strip('"').lower() for unit in fields.get("space units", "").split()} or {"mm"}
    unit = units.pop()
    if units or unit not in UNITS:
        raise ValueError(
            f"its space units are {fields['space units']}; they must be {', '.join(UNITS)} along every axis"
        )
    return checked_affine(path, affine, unit, UNITS[unit], advice="check the space directions in its header")


NRRD = TextFormat("damaged NRRD file", _parse, _ends)
