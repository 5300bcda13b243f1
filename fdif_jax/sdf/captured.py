"""Functions as parts of shapes: what a function captured are its parameters, as the radius is a sphere's."""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.sdf.shape import node, static


class _Text:
    """What two functions made by the same lines have in common: everything but the numbers that they captured."""

    def __init__(self, function: types.FunctionType, tree: Any, fixed: tuple) -> None:
        self.__qualname__ = function.__qualname__
        self._names = function.__globals__
        self._parts = (function.__code__, function.__module__, tree, fixed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    def __repr__(self) -> str:
        return self.__qualname__

    def __call__(self, numbers: tuple) -> Callable:
        """The function with these captured numbers."""
        code, _, tree, fixed = self._parts
        given = iter(numbers)
        leaves = [next(given) if leaf is _NUMBER else leaf for leaf in fixed]
        cells, defaults, keywords = jax.tree.unflatten(tree, leaves)
        closure = tuple(types.CellType(value) for value in cells)
        made = types.FunctionType(code, self._names, code.co_name, defaults, closure)
        made.__kwdefaults__ = keywords
        return made


_NUMBER = object()  # stands where a captured number was


@node
class Captured:
    """A function whose captured floating-point numbers and arrays are parameters; all else it captured is structure.

    Two of the same lines with other numbers have one structure, so that a family can make a function in every draw.
    """

    numbers: tuple
    text: _Text = static()

    def __call__(self, *arguments: Any) -> Any:
        """What the function makes of its arguments."""
        return self.text(self.numbers)(*arguments)


def captured(of: str, name: str, function: Any) -> Any:
    """A function that an operation was given, as a pytree of its numbers; FdifError if it cannot be called."""
    if not callable(function):
        raise FdifError(f"{of}: {name} is no function but a {type(function).__name__}")
    if not jax.tree_util.all_leaves([function]):
        return function
    return _captured(function, ())


def _captured(function: Any, within: tuple) -> Any:
    """A function by its lines; by its identity where it has a name to be found by, or captures itself."""
    local = isinstance(function, types.FunctionType) and "<l" in function.__qualname__
    if not local or function in within:
        return jax.tree_util.Partial(function)

    def inner(value: Any) -> Any:
        return _captured(value, (*within, function)) if isinstance(value, types.FunctionType) else value

    try:
        cells = tuple(inner(cell.cell_contents) for cell in function.__closure__ or ())
    except ValueError:  # a cell that is still empty
        return jax.tree_util.Partial(function)
    leaves, tree = jax.tree.flatten((cells, function.__defaults__, function.__kwdefaults__))
    are_numbers = [_is_number(leaf) for leaf in leaves]
    fixed = tuple(_NUMBER if known else leaf for known, leaf in zip(are_numbers, leaves, strict=True))
    numbers = tuple(leaf for known, leaf in zip(are_numbers, leaves, strict=True) if known)
    return Captured(numbers, _Text(function, tree, fixed))


def _is_number(value: Any) -> bool:
    arrays = (jax.Array, np.ndarray, np.generic)
    return isinstance(value, float) or (
        isinstance(value, arrays) and jnp.issubdtype(value.dtype, jnp.floating)
    )
