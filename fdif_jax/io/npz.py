"""NumPy archives (``.npz``) read as data: no pickles, and no more bytes than they may hold."""

import os
import warnings
import zipfile
from io import BufferedIOBase

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.memory import DEFLATED, check_fits


def read_npz(path: str | os.PathLike, file: BufferedIOBase) -> dict[str, np.ndarray]:
    """The arrays of an open archive by name; ``path`` is what errors call it.

    What an array's header says is compared with the bytes that are there before memory is asked for. No entry becomes a
    file, whatever its name.

    Raises:
        FdifError: an array says that it holds more than its entry does, or all hold more than memory.
        Exception: whatever zipfile and NumPy raise for what is no archive of arrays.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.file_size > DEFLATED * entry.compress_size:
                raise FdifError(f"{path}: {entry.filename} is said to unpack to {entry.file_size:,} bytes")
        check_fits(path, sum(entry.file_size for entry in entries))
        return {entry.filename.removesuffix(".npy"): _array(path, archive, entry) for entry in entries}


def _array(path: str | os.PathLike, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version](stream)
        if dtype.hasobject or min(shape, default=0) < 0:
            raise FdifError(f"{path}: {entry.filename} holds no numbers or texts")
        if int(np.prod(shape, dtype=object)) * dtype.itemsize > entry.file_size:
            raise FdifError(f"{path}: {entry.filename} is cut short")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False)
