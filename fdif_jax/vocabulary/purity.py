"""Whether a user's function is pure, told by tracing it twice: nothing is computed, and mistakes get their line."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import hides_parts
from fdif_jax.sdf.shape import Distance, Point, Shape
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper

TRIAL = Grid(64, 64, 64)
_POINTS = Point(*(np.zeros(shape, np.float32) for shape in ((1, 1, 3), (1, 3, 1), (3, 1, 1))))


@contextlib.contextmanager
def explained(file: str, otherwise: str) -> Iterator[None]:
    """Turn whatever a user's code raises into an FdifError that names the last line of the file it passed."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, FdifError) and str(error).startswith(f"{file}:"):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        where = f"{file}:{frames[-1].lineno}" if frames else otherwise
        said = (str(error).strip().splitlines() or [""])[0]
        kind = "" if isinstance(error, FdifError) else f"{type(error).__name__}: "
        raise FdifError(f"{where}: {_meaning(error) or f'{kind}{said}'}") from error


def _meaning(error: BaseException) -> str | None:
    errors = jax.errors
    if isinstance(error, errors.UnexpectedTracerError):
        return "a drawn value is kept outside the function that draws it (a global, or a list that grows)"
    host = (
        errors.ConcretizationTypeError,
        errors.TracerArrayConversionError,
        errors.TracerIntegerConversionError,
    )
    if isinstance(error, (*host, errors.TracerBoolConversionError)):
        return (
            "a drawn value is used on the host (float(), if, numpy, print of a number); a shape is compiled: "
            "use jax.numpy, and jnp.where instead of if"
        )
    return None


def try_family(member: Family, file: str) -> Any:
    """The structure of a family's members; FdifError if it is no pure function from a key to a shape."""
    where, what = place_of(member), f"family {member.name!r}"

    def values(key: jax.Array, p: Point) -> tuple[Any, Any]:
        shape = member.draw(key, member.ranges, TRIAL)
        if not isinstance(shape, Shape):
            raise FdifError(f"{where}: {what} returns a {type(shape).__name__}, not a Shape")
        if hides_parts(shape):
            raise FdifError(
                f"{where}: {what} returns fd.parts(...) inside another shape, {type(shape).__name__}, which has one "
                "label; change the parts, and return fd.parts(...) itself"
            )
        return shape, shape(p)

    (shape, distance), (again, _) = _traced(values, (jax.random.key(0), _POINTS), what, where, file)
    if not _alike(shape, again):
        raise FdifError(
            f"{where}: {what} makes a function anew in every draw; move it to the top of the file, and "
            "hand it what was drawn by jax.tree_util.Partial(function, value)"
        )
    _check_number(distance, f"a member of {member.name!r}", where)
    return shape


def try_displacement(displacement: Displacement, file: str) -> None:
    """FdifError if a displacement is no pure function from points to distances."""
    where, what = place_of(displacement), f"displacement {displacement.name!r}"
    highest = Point(*map(float, TRIAL.highest))
    field, _ = _traced(lambda p: displacement.field(p, highest), (_POINTS,), what, where, file)
    _check_number(field, what, where)


def try_mapper(mapper: Mapper, file: str) -> None:
    """FdifError if a mapper is no pure elementwise function."""
    where, what = place_of(mapper), f"mapper {mapper.name!r}"
    distance: Distance = jnp.zeros((3, 3, 3))
    intensity, _ = _traced(mapper.function, (distance,), what, where, file)
    _check_number(intensity, what, where)
    if intensity.shape != distance.shape:
        raise FdifError(
            f"{where}: {what} makes shape {intensity.shape} of {distance.shape}; it should be elementwise"
        )


def _check_number(result: Any, what: str, where: str) -> None:
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1 or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise FdifError(f"{where}: {what} returns {result}, not one array of floating-point numbers")


def _traced(
    function: Callable[..., Any], arguments: tuple, what: str, where: str, file: str
) -> tuple[Any, Any]:
    """The abstract results of two traces; FdifError if they differ, or call back to the host."""
    with explained(file, where):
        # `make_jaxpr` remembers what it traced by function: a new one each time, or the second would not run.
        (first, made), (second, again) = (
            jax.make_jaxpr(lambda *given: function(*given), return_shape=True)(*arguments) for _ in range(2)
        )
    for equation in _equations(first.jaxpr):
        if "callback" in equation.primitive.name or "debug_print" in equation.primitive.name:
            line = _line_of(equation, file)
            raise FdifError(
                f"{f'{file}:{line}' if line else where}: {what} calls back to the host "
                f"({equation.primitive.name}); it should be a pure function"
            )
    same = len(first.consts) == len(second.consts) and all(
        np.array_equal(a, b) for a, b in zip(first.consts, second.consts, strict=True)
    )
    # A structure that differs has an error of its own, which the caller knows.
    if _alike(made, again) and (not same or str(first) != str(second)):
        raise FdifError(
            f"{where}: {what} gives something else the second time; take random numbers from "
            "jax.random and the key, not from numpy, random, the clock or a counter"
        )
    return made, again


def _alike(one: Any, other: Any) -> bool:
    """Whether two pytrees have one structure."""
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    return structures[0] == structures[1]


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, list | tuple) else (parameter,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def _line_of(equation: Any, file: str) -> int | None:
    """The line of the user's file that made an equation, innermost call first."""
    trace = equation.source_info.traceback
    frames = trace.frames if trace is not None else ()
    return next((f.line_num for f in frames if f.file_name == file), None)
