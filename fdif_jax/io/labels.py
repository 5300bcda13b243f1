"""Labels as files hold them: whole numbers, or floats that are so but for rounding."""

import os

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.remarks import remark

ROUNDING = 1e-3  # a label may be so far from a whole number


def whole_numbers(path: str | os.PathLike, array: np.ndarray) -> np.ndarray:
    """The labels of an array that was read from ``path``, each a whole number, in the array's dtype.

    Floats within `ROUNDING` of a whole number, as resampling and a header's slope leave them, are rounded; a remark
    says so, once for all files of a folder. FdifError, naming file and value, if one is further away.
    """
    if array.dtype.kind != "f":
        return array
    whole = np.rint(array)
    if np.array_equal(whole, array):
        return array
    away = np.abs(array - whole)
    worst = np.unravel_index(away.argmax(), away.shape)
    said = f"{path}: holds label {array[worst]!s}"
    if not away[worst] <= ROUNDING:
        raise FdifError(f"{said}; labels are whole numbers, or within {ROUNDING:g} of one")
    remark(f"{said}; such labels are rounded, here to {whole[worst]:g}", f"rounded {os.path.dirname(path)}")
    return whole
