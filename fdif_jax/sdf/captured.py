"""Functions as parts of shapes: what a function captured are its parameters, as the radius is a sphere's."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.sdf.shape import node, static


@dataclasses.dataclass(frozen=True)
class _Text:
    """What two functions made by the same lines have in common: everything but the numbers that they captured."""

    code: types.CodeType
    module: str
    tree: Any
    fixed: tuple
    names: dict = dataclasses.field(compare=False)

    def __repr__(self) -> str:
        return self.code.co_qualname

    def function(self, numbers: tuple) -> Callable:
        """The function with these captured numbers."""
        given = iter(numbers)
        leaves = [next(given) if leaf is _NUMBER else leaf for leaf in self.fixed]
        cells, defaults, keywords = jax.tree.unflatten(self.tree, leaves)
        closure = tuple(types.CellType(value) for value in cells)
        made = types.FunctionType(self.code, self.names, self.code.co_name, defaults, closure)
        made.__kwdefaults__ = keywords
        return made


_NUMBER = "a number that was captured"


@node
class Captured:
    """A function whose captured floating-point numbers and arrays are parameters; all else it captured is structure.

    Two of the same lines with other numbers have one structure, so that a family can make a function in every draw.
    """

    numbers: tuple
    text: _Text = static()

    def __call__(self, *arguments: Any) -> Any:
        """What the function makes of its arguments."""
        return self.text.function(self.numbers)(*arguments)


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
    return Captured(numbers, _Text(function.__code__, function.__module__, tree, fixed, function.__globals__))


def _is_number(value: Any) -> bool:
    arrays = (jax.Array, np.ndarray, np.generic)
    return isinstance(value, float) or (
        isinstance(value, arrays) and jnp.issubdtype(value.dtype, jnp.floating)
    )
