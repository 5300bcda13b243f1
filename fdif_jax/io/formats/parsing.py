"""What NRRD and MetaImage have in common: lines of a field and its value, and voxels here or in a file beside."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from isal import isal_zlib

from fdif_jax.errors import FdifError
from fdif_jax.io.files import reading
from fdif_jax.io.formats.segments import Segment, flattened
from fdif_jax.io.memory import DEFLATED
from fdif_jax.io.nifti import DEFLATE_LEVEL, Volume, scaled, volume_of
from fdif_jax.io.streams import Inflated, opened, read_voxels

_LONGEST = 2**20  # bytes of a header: segmentations describe each of their segments there
UNITS = {
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "m": 1e3,
    "meter": 1e3,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
}
"""Units of length by their names in headers, in millimetres."""
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Coordinates to the patient's left, back and head → to the right, front and head, and back, ``(4, 4)``."""


class Header(NamedTuple):
    """What a file says of its voxels.

    Attributes:
        shape: voxels along each axis, the first of which runs fastest; those of channels may be anywhere.
        dtype: of the voxels, with their byte order.
        channels: the axis of channels, if there is one.
        affine: ``(4, 4)`` float64, index along the other axes → millimetres to the right, front and head.
        packed: whether the voxels are a deflated stream.
        beside: the file of the voxels, where it is not this one; a bare name.
        offset: bytes before the voxels, after the header or in the file beside, unpacked; -1: the voxels end the file.
        segments: of a segmentation.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    channels: int | None
    affine: np.ndarray
    packed: bool
    beside: str | None = None
    offset: int = 0
    segments: tuple[Segment, ...] = ()

    @property
    def are_layers(self) -> bool:
        """Whether its channels are layers of a segmentation, of which a `Volume` has one label map."""
        return bool(self.segments) and self.channels is not None

    @property
    def seen(self) -> tuple[int, ...]:
        """The shape as a `Volume` has it: channels are the last axis."""
        if self.channels is None:
            return self.shape
        rest = self.shape[: self.channels] + self.shape[self.channels + 1 :]
        return rest if self.are_layers else (*rest, self.shape[self.channels])


Parse = Callable[[Path, list[str]], Header]
"""Path and lines of a header → what it says; FdifError, or whatever damaged numbers raise."""


class TextFormat(NamedTuple):
    """A format whose header is text.

    Attributes:
        fault: what errors call a file of which numbers are damaged.
        parse: what a header says.
        last: tells the line that ends it.
    """

    fault: str
    parse: Parse
    last: Callable[[str], bool]

    def header(self, path: str | os.PathLike) -> Header:
        """What a file says of its voxels; errors are as of `volume`."""
        path = Path(path)
        with reading(path, self.fault), opened(path, sniff=False) as (file, _):
            return self.parse(path, _lines(path, file, self.last))

    def volume(self, path: str | os.PathLike) -> Volume:
        """A volume of 3 axes, or of 4 of which the last is of channels; of a segmentation in layers its label map.

        FdifError, naming the file, if it is missing, truncated, damaged, or claims more than it holds, if its voxels
        are not in its folder, or its segments overlap.
        """
        with reading(path, self.fault):
            header, array = self._read(Path(path))
            if header.are_layers:
                array = flattened(path, array, header.segments)
            volume = volume_of(scaled(path, array, None, None), header.affine)
            names = {segment.label: segment.name for segment in header.segments}
            return replace(volume, names=names, is_part=bool(names))

    def _read(self, path: Path) -> tuple[Header, np.ndarray]:
        with opened(path, sniff=False) as (file, size):
            header = self.parse(path, _lines(path, file, self.last))
            if header.beside is None:
                return header, _voxels(path, header, file, size - file.tell())
        data = beside(path, header.beside)
        with opened(data, sniff=False) as (file, size):
            return header, _voxels(data, header, file, size)


def beside(path: Path, name: str) -> Path:
    """The file of a header's voxels, in its folder; FdifError if the name, or a link of that name, leads elsewhere."""
    folder, name = path.absolute().parent, name.removeprefix("./")
    found = path.parent / name
    if (
        name != os.path.basename(name)
        or name in ("", ".", "..")
        or found.resolve().parent != folder.resolve()
    ):
        raise FdifError(
            f"{path}: says that its voxels are in {name!r}; they must be in a file of its own folder, given by name"
        )
    return found


def _lines(path: Path, file: IO[bytes], last: Callable[[str], bool]) -> list[str]:
    """The lines of a header, without its last one where that is empty; the file is then at the voxels."""
    lines, there = [], 0
    while there < _LONGEST and (line := file.readline(_LONGEST)):
        there += len(line)
        lines.append(line.decode("utf-8", "replace").strip())
        if last(lines[-1]):
            return lines
    if there >= _LONGEST:
        raise FdifError(f"{path}: its header does not end within {_LONGEST:,} bytes")
    return lines


def _voxels(path: Path, header: Header, file: IO[bytes], size: int) -> np.ndarray:
    """The array, channels last, of the ``size`` bytes of a file from its place on."""
    offset, most, stream = header.offset, size, file
    if header.packed:
        most, stream = size * DEFLATED, Inflated(file)  # type: ignore[assignment]
    elif offset == -1:
        offset = size - math.prod(header.shape) * header.dtype.itemsize
    array = read_voxels(path, stream, header.dtype, header.shape, offset=offset, most=most)
    return array if header.channels is None else np.moveaxis(array, header.channels, -1)


def numbers(text: str, count: int | None = None) -> list[float]:
    """The numbers of a value; ValueError if it holds anything else, or not ``count`` of them."""
    found = [float(word) for word in text.split()]
    if count is not None and len(found) != count:
        raise ValueError(f"{count} numbers are needed, not {text!r}")
    return found


def edges(text: str) -> tuple[int, ...]:
    """The edges of a grid of 3 axes, or 4 with channels; ValueError for anything else."""
    found = tuple(map(int, text.split()))
    if len(found) not in (3, 4):
        raise ValueError(f"a volume has 3 axes, or 4 with channels, not {len(found)}")
    return found


def field(fields: Mapping[str, str], *names: str) -> str:
    """The value under the first of these names that is there; ValueError if none is."""
    for name in names:
        if name in fields:
            return fields[name]
    raise ValueError(f"there is no {names[0]!r} in its header")


def deflated(array: np.ndarray, window: int) -> bytes:
    """Voxels as a deflated stream of zlib's form or gzip's (``window`` 15 or 31), the first axis running fastest."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return isal_zlib.compress(little.tobytes(order="F"), DEFLATE_LEVEL, window)


def written(values: Any) -> list[str]:
    """Numbers as a header holds them, so that they are read back as they are."""
    return [repr(float(value)) for value in np.asarray(values).ravel()]
