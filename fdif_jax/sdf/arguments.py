"""What shapes are called with and made of: checked here, in one place, while a program is traced.

`at_points` is the contract of every shape's call. The others check an operation's arguments and return them; what is
wrong is one line that names the operation, the argument and what would be right. Values that are being traced pass, as
nobody knows them yet; their shapes are checked all the same.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.sdf.grid import Distance, Grid, Point, Scalar

T = TypeVar("T")
_FORMS = "a Point, an array (..., 3), three arrays x, y, z, or a Grid"


def at_points(evaluate: Callable[[Any, Point], Distance]) -> Callable[..., Distance]:
    """A shape's ``__call__``, which takes a `Point`, as one that takes whatever stands for points.

    A `Point` is handed on as it is, and costs a compiled program nothing. From anything else, that is an array or list
    ``(..., 3)``, three arrays (one by one or as a tuple), or a `Grid`, comes a float32 array of the points' shape.

    Raises:
        FdifError: none of these, or coordinates that do not broadcast.
    """

    @functools.wraps(evaluate)
    def call(shape: Any, *given: Any) -> Distance:
        p, size = _point(type(shape).__name__, given)
        if type(given[0]) is Point:
            return evaluate(shape, p)
        return jnp.broadcast_to(jnp.asarray(evaluate(shape, p), jnp.float32), size)

    return call


def _point(name: str, given: tuple) -> tuple[Point, tuple[int, ...]]:
    """The points that a shape of this name was called with, and their shape."""
    one = given[0] if len(given) == 1 else tuple(given)
    if isinstance(one, Grid):
        return one.points(), tuple(one)
    if isinstance(one, Point) or (isinstance(one, tuple) and len(one) == 3):
        p = Point(*(_coordinate(name, c) for c in one))
    else:
        array = _coordinate(name, one) if isinstance(one, list | np.ndarray | jax.Array) else 0.0
        if np.shape(array)[-1:] != (3,):
            raise FdifError(f"{name}: called with {_shown(one)}; call it with {_FORMS}")
        array = jnp.asarray(array)
        p = Point(array[..., 0], array[..., 1], array[..., 2])
    try:
        return p, np.broadcast_shapes(*map(np.shape, p))
    except ValueError:
        shapes = ", ".join(str(np.shape(c)) for c in p)
        raise FdifError(
            f"{name}: coordinates of shapes {shapes} do not broadcast; {_FORMS} would do"
        ) from None


def _coordinate(name: str, value: Any) -> Any:
    if isinstance(value, float) or (isinstance(value, _ARRAYS) and jnp.issubdtype(value.dtype, jnp.floating)):
        return value
    array = _numbers(value)
    if array is None:
        raise FdifError(f"{name}: a coordinate is {_shown(value)}; call a shape with {_FORMS}")
    return array


_ARRAYS = (jax.Array, np.ndarray, np.generic)


def number(
    of: str, name: str, value: Any, *, above: float | None = None, least: float | None = None
) -> Scalar:
    """A finite number, traced or not.

    Args:
        of: the operation, e.g. ``"sphere"``.
        name: its argument.
        value: what it was given.
        above: what a known number must be greater than.
        least: what it must not be less than.

    Raises:
        FdifError: no number, or out of range.
    """
    limit = f"greater than {above:g}" if above is not None else "" if least is None else f"at least {least:g}"
    found = _numbers(value)
    if found is None or np.shape(found) != ():
        raise _wrong(of, name, value, " ".join(["one number", limit]).strip())
    if isinstance(found, jax.core.Tracer):
        return found
    known = float(found)
    low = (above is not None and known <= above) or (least is not None and known < least)
    if low or not np.isfinite(known):
        raise _wrong(of, name, known, limit or "a finite number")
    return jnp.asarray(value, found.dtype) if isinstance(value, jax.Array) else known


def vector(
    of: str, name: str, value: Any, *, size: int = 3, above: float | None = None, least: float | None = None
) -> Float[Array, " size"]:
    """``size`` finite numbers as a float32 array; arguments and errors as for `number`."""
    limit = (
        ""
        if above is None and least is None
        else f", {'> ' if least is None else '≥ '}{above or least or 0:g}"
    )
    found = _numbers(value)
    if found is None or np.shape(found) != (size,):
        raise _wrong(of, name, value, f"{size} numbers{limit}")
    if not isinstance(found, jax.core.Tracer):
        known = np.asarray(found)
        low = (above is not None and known.min() <= above) or (least is not None and known.min() < least)
        if low or not np.isfinite(known).all():
            raise _wrong(of, name, tuple(known.tolist()), f"{size} finite numbers{limit}")
    return jnp.asarray(found, jnp.float32)


def is_triple(value: Any) -> bool:
    """Whether a value is three numbers, or arrays, rather than one."""
    return len(value) == 3 if isinstance(value, list | tuple) else getattr(value, "shape", ()) == (3,)


def direction(of: str, name: str, value: Any) -> Float[Array, "3"]:
    """A vector of some length as a float32 array ``(3,)`` of length 1; ``"x"``, ``"y"`` and ``"z"`` are axes."""
    if isinstance(value, str) and value in AXES:
        return jnp.asarray(AXES[value], jnp.float32)
    if isinstance(value, str):
        raise _wrong(of, name, value, "'x', 'y', 'z' or three numbers")
    found = vector(of, name, value)
    if not isinstance(found, jax.core.Tracer) and not np.asarray(found).any():
        raise _wrong(of, name, (0.0, 0.0, 0.0), "a direction, not all zero")
    return found / jnp.sqrt(jnp.sum(jnp.square(found)))


AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def points(of: str, name: str, value: Any, *, size: int, least: int) -> Float[Array, "n size"]:
    """``least`` or more points of ``size`` finite coordinates, float32 ``(n, size)``; errors as for `number`."""
    found = _numbers(value)
    wanted = f"{least} or more points of {size} finite coordinates, an array (n, {size})"
    if found is None or np.ndim(found) != 2 or np.shape(found)[1] != size or len(found) < least:
        raise _wrong(of, name, value, wanted)
    if not isinstance(found, jax.core.Tracer) and not np.isfinite(np.asarray(found)).all():
        raise _wrong(of, name, "not finite everywhere", wanted)
    return jnp.asarray(found, jnp.float32)


def box(of: str, name: str, value: Any) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """The lower and upper end of a box, a `Box` or two points, the upper above the lower; errors as for `number`."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _wrong(of, name, value, "a Box, or two points (lower, upper)")
    lower, upper = vector(of, f"{name}'s lower end", value[0]), vector(of, f"{name}'s upper end", value[1])
    vector(of, f"{name}'s extent", upper - lower, above=0)
    return lower, upper


def grid(of: str, name: str, value: Any) -> Grid:
    """A grid, also from its three edges (D, H, W); errors as for `count`."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise _wrong(of, name, value, "a Grid, or three numbers of voxels (depth, height, width)")
    edges = zip(Grid._fields, value, strict=True)
    voxels = (count(of, f"{name}'s {edge}", n, least=1) for edge, n in edges)
    return Grid(*voxels, spacing=getattr(value, "spacing", Grid.spacing))


def count(of: str, name: str, value: Any, *, least: int) -> int:
    """A whole number known when a shape is made; errors as for `number`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise _wrong(of, name, value, f"a whole number of at least {least}")
    return int(value)


def instance(of: str, name: str, value: Any, kind: type[T], example: str) -> T:
    """Something of a kind; FdifError names ``example``, which is one."""
    if not isinstance(value, kind):
        raise _wrong(of, name, value, f"a {kind.__name__.lower()}, as {example}")
    return value


def flat(values: Iterable[Any]) -> list[Any]:
    """The arguments of an operation on many things: one by one, or in lists and tuples."""
    return [one for value in values for one in (value if isinstance(value, list | tuple) else (value,))]


def choice(of: str, name: str, value: Any, known: Iterable[str]) -> str:
    """One of some names; FdifError if it is none."""
    names = list(known)
    if value not in names:
        raise _wrong(of, name, value, "one of " + ", ".join(names))
    return value


def _numbers(value: Any) -> Any:
    """A value's numbers, floating-point; None if it has none."""
    try:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
        array = jnp.asarray(value) if traced else np.asarray(value)
    except (TypeError, ValueError):
        return None
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        return None
    return array if _floats(array) else array.astype(jnp.float32)


def _floats(value: Any) -> bool:
    return isinstance(value, float) or jnp.issubdtype(value.dtype, jnp.floating)


def _wrong(of: str, name: str, value: Any, wanted: str) -> FdifError:
    return FdifError(f"{of}: {name} is {_shown(value)}; it should be {wanted}")


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, _ARRAYS) and np.shape(value):
        return f"an array of shape {np.shape(value)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}, not called"
    if isinstance(value, str | int | float | bool | tuple | list | None) and len(repr(value)) < 60:
        return repr(value)
    return f"a {type(value).__name__}"
