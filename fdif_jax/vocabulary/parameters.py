"""Reads the parameters of a scene document's object, with errors that say whose and which they are."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError, unknown


class Reader:
    """Reads a table of parameters; every method raises an FdifError if what it reads is missing or impossible."""

    def __init__(self, params: Any, where: str) -> None:
        """Take a table; FdifError if it is none. ``where`` is what errors call the object."""
        if not isinstance(params, Mapping):
            raise FdifError(f"{where}: parameters must be a table, not {type(params).__name__}")
        self.params, self.where = params, where
        self.used: set[str] = set()

    def get(self, name: str) -> Any:
        """The value of a parameter, whatever it is."""
        self.used.add(name)
        if name not in self.params:
            raise FdifError(f"{self.where}: parameter {name!r} is missing; given: {sorted(self.params)}")
        return self.params[name]

    def number(self, name: str) -> float:
        """A finite number."""
        return float(self.numbers(name, ()))

    def positive(self, name: str) -> float:
        """A number above 0."""
        value = self.number(name)
        if value <= 0:
            raise FdifError(f"{self.where}: parameter {name!r} must be above 0, not {value:g}")
        return value

    def numbers(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Finite numbers of a shape, float64."""
        value = self.get(name)
        array = finite_numbers(value, shape)
        if array is None:
            form = f"finite numbers of shape {list(shape)}" if shape else "a finite number"
            raise FdifError(f"{self.where}: parameter {name!r} must be {form}, not {value!r}")
        return array

    def vertices(self, words: str, most: float = np.inf) -> np.ndarray:
        """The parameter ``vertices``, so many pairs (in words for errors), float32 ``(n, 2)``."""
        array = finite_numbers(self.get("vertices"))
        if array is None or array.ndim != 2 or array.shape[1] != 2 or not 3 <= len(array) <= most:
            found = "something else" if array is None else f"shape {array.shape}"
            raise FdifError(f"{self.where}: vertices must be {words} pairs of finite numbers, not {found}")
        return array.astype(np.float32)

    def inner(self, name: str) -> "Reader":
        """The reader of a table within."""
        return Reader(self.get(name), f"{self.where}, {name}")

    def finish(self, *optional: str) -> None:
        """Refuse parameters that nobody asked for."""
        for name in self.params:
            if name not in self.used and name not in optional:
                raise unknown(f"parameter of {self.where}", str(name), self.used)


def finite_numbers(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
    """The numbers of a value as a float64 array; None if they are not finite in float32, or not of this shape."""
    try:
        array = np.asarray(value)
        array = array.astype(np.float64) if array.dtype.kind in "iuf" else np.zeros(0)
    except ValueError:
        return None
    if shape not in (None, array.shape) or not (np.abs(array) <= np.finfo(np.float32).max).all():
        return None
    return array
