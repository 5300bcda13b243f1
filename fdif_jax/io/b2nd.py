"""Blosc2 arrays (``.b2nd``) in and out; equal arrays give equal bytes on every machine.

Blosc2 is imported where it is used: that takes half a second, and only those pay it who read or write such files.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.files import not_there, reading
from fdif_jax.io.memory import check_fits
from fdif_jax.io.nifti import check_numbers

# Bytes compressed at a time. A float32 volume of 96³ at ZSTD's level 8 takes 0.31 s and 921 kB with it, 0.49 s and
# 936 kB with a quarter; LZ4 does not mind.
_BLOCK = 2**20
_CHUNK = 2**24  # bytes under one entry of the file's index
# What Blosc2 calls expressions, objects and proxies in a file.
_REFERENCES = ("LazyArray", "b2o", "proxy-source")
_FAULT = "not a whole Blosc2 file"


def encode_b2nd(array: np.ndarray, codec: str = "LZ4", level: int = 1) -> bytes:
    """The bytes of a Blosc2 NDArray file of ``array``, as `blosc2.open` and `read_b2nd` read it.

    LZ4 at level 1 (of 1, fast, to 9, small) is for scratch disks: 96³ voxels of uint8 take 1.1 ms to write and 0.4 ms
    to read where deflate takes 2.5 and 1.4 ms, and are 1.4 times as large.
    """
    import blosc2

    array = np.ascontiguousarray(array)
    # Blosc2's own choice of blocks depends on the machine's caches, and several threads place them in any order.
    chunks, blocks = (_slab(array, size) for size in (_CHUNK, _BLOCK))
    filter_ = blosc2.Filter.SHUFFLE if array.itemsize > 1 else blosc2.Filter.NOFILTER
    compression = {"codec": blosc2.Codec[codec], "clevel": level, "filters": [filter_], "nthreads": 1}
    packed = blosc2.asarray(array, chunks=chunks, blocks=blocks, cparams=compression, dparams={"nthreads": 1})
    return packed.to_cframe()


def _slab(array: np.ndarray, size: int) -> tuple[int, ...]:
    """The shape of a piece of at most about ``size`` bytes: whole along the last two axes, cut along the one before."""
    edges = list(array.shape)
    plane = max(array.itemsize * int(np.prod(edges[-2:])), 1)
    for axis in range(array.ndim - 2):
        fit = max(size // plane, 1) if axis == array.ndim - 3 else 1
        edges[axis] = min(edges[axis], fit)
    return tuple(edges)


def read_b2nd(path: str | os.PathLike) -> np.ndarray:
    """The array of a Blosc2 NDArray file; half precision comes as float32.

    FdifError, naming the file, if it is missing, damaged, no Blosc2 array of numbers, more than memory holds, or holds
    what `check_numbers` refuses.
    """
    import blosc2

    if not Path(path).is_file():
        raise not_there(path)
    with reading(path, _FAULT):
        packed = _frame(path, Path(path).read_bytes())
        needed = math.prod(packed.shape) * packed.dtype.itemsize
        if packed.schunk.nbytes < needed:
            raise FdifError(f"{path}: {_FAULT}: {packed.schunk.nbytes} bytes, {needed} expected")
        check_fits(path, needed)
        packed.schunk.dparams = blosc2.DParams(nthreads=1)
        array = packed[...]
    if array.dtype == np.float16:  # beside which most bounds are infinite
        array = array.astype(np.float32)
    if array.dtype.kind == "f":
        check_numbers(path, array)
    return array


def b2nd_type(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the array of a file that `read_b2nd` reads, from its header; errors are as of that."""
    if not Path(path).is_file():
        raise not_there(path)
    with reading(path, _FAULT):
        packed = _frame(path, np.memmap(path, np.uint8, "r"))
        return packed.shape, packed.dtype


def _frame(path: str | os.PathLike, data: Any) -> Any:
    """The array in a frame, as data alone: `blosc2.open` also follows references to other files and addresses."""
    import blosc2

    packed = blosc2.ndarray_from_cframe(data)
    if (
        not isinstance(packed, blosc2.NDArray)
        or packed.dtype.kind not in "iuf"
        or min(packed.shape, default=0) < 1
    ):
        raise FdifError(f"{path}: holds no array of integers or floats")
    if any(name in packed.schunk.meta for name in _REFERENCES):
        raise FdifError(f"{path}: refers to other data; write the array itself")
    return packed
