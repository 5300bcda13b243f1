"""The bytes of a file, deflated or not: no more of them than what the file says that it holds, and no fewer."""

import contextlib
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
from isal import igzip, isal_zlib

from fdif_jax.errors import FdifError
from fdif_jax.io.files import not_there
from fdif_jax.io.memory import DEFLATED, check_fits

_GZIP_MAGIC = b"\x1f\x8b"
_SURPLUS = 2**20  # bytes after the voxels that are looked through for the end of the stream
_EITHER = 47  # zlib's `wbits` for a stream of zlib's or gzip's form, which its first bytes tell


@contextlib.contextmanager
def opened(path: str | os.PathLike, *, sniff: bool = True) -> Iterator[tuple[IO[bytes], int]]:
    """A file's bytes, and how many there may be at most; decompressed where they ``sniff`` of a gzip stream.

    What goes wrong in the block with the file, or with a deflated stream in it, becomes an FdifError of the path.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise FdifError(f"{path}: cannot read: it is no file")
    try:
        with open(path, "rb") as file:
            packed, size = sniff and file.read(2) == _GZIP_MAGIC, os.fstat(file.fileno()).st_size
            file.seek(0)
            if not packed:
                yield file, size
                return
            with igzip.open(file, "rb") as inflated:
                yield inflated, size * DEFLATED
    except FileNotFoundError:
        raise not_there(path) from None
    except EOFError:
        raise FdifError(f"{path}: truncated: the gzip stream ends early") from None
    except (isal_zlib.IsalError, gzip.BadGzipFile, zlib.error) as error:  # type: ignore[misc]  # IsalError's stub
        raise FdifError(f"{path}: corrupt gzip stream: {error}") from None
    except OSError as error:
        raise FdifError(f"{path}: cannot read: {error.strerror or error}") from None


class Inflated(io.RawIOBase):
    """What a deflated stream of zlib's or gzip's form, from a file's place on, unpacks to; errors as of `opened`."""

    def __init__(self, file: IO[bytes]):
        self._file, self._stream = file, zlib.decompressobj(_EITHER)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``, or a part of it; 0 at the end of the stream."""
        while not self._stream.eof:
            packed = self._stream.unconsumed_tail or self._file.read(_SURPLUS)
            data = self._stream.decompress(packed, len(buffer))
            buffer[: len(data)] = data
            if data:
                return len(data)
            if not packed and not self._stream.eof:
                raise EOFError
        return 0


def read_voxels(
    path: str | os.PathLike,
    file: Any,
    dtype: np.dtype,
    shape: Sequence[int],
    *,
    most: int,
    start: bytes = b"",
    offset: int = 0,
) -> np.ndarray:
    """The array of a file whose first axis runs fastest, and which is not held in memory if the file holds less.

    Args:
        path: what errors name.
        file: where the bytes come from, those of ``start`` excepted, which have been read.
        dtype: of the voxels.
        shape: of the array, as the file's header says.
        most: bytes that ``file`` may give at most, with those of ``start``.
        start: bytes that were read before.
        offset: byte at which the voxels begin, from that of ``start``.
    """
    count = math.prod(shape)
    if min(shape) < 1 or offset < 0:
        raise FdifError(f"{path}: damaged header: shape {tuple(shape)}, voxels at byte {offset}")
    needed = offset + count * dtype.itemsize
    packed = isinstance(file, igzip.IGzipFile | Inflated)
    if most < needed:
        raise FdifError(f"{path}: truncated: {'at most ' * packed}{most} bytes, {needed} expected")
    check_fits(path, needed)
    data = np.empty(max(needed, len(start)), np.uint8)
    data[: len(start)] = np.frombuffer(start, np.uint8)
    there = len(start)
    while there < needed and (read := file.readinto(data[there:].data)):
        there += read
    if there < needed:
        raise FdifError(f"{path}: truncated: {there} bytes, {needed} expected")
    if packed:
        file.read(_SURPLUS)  # the stream's checksum is at its end
    return np.frombuffer(data, dtype, count, offset).reshape(shape, order="F")
