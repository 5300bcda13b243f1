"""What a user's file of shapes is written with: decorators that make families, displacements and mappers of functions.

Nothing has to be registered; `fdif_jax.vocabulary.user_files` finds what stands at the top level of the file::

    @fd.family
    def pebble(key, grid):
        return fd.scale(shapes.sphere(1.0), jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))

    @fd.displacement
    def ripples(p):
        return 0.5 * jnp.sin(p.x)

    @fd.mapper
    def shell(d):
        return jnp.where(jnp.abs(d) < 2, 128.0, 0.0)
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.sdf.shape import Distance, Shape
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper

_FARTHEST = 512  # voxels from a surface within which a mapper's tail is looked for
_FINENESS = 8  # places a voxel where it is looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Authored:
    """The ``draw`` of a family, or the field of a displacement: an author's function of some of the arguments.

    Attributes:
        function: what the author wrote.
        taken: positions of the arguments that it takes.
    """

    function: Callable[..., Any]
    taken: Sequence[int]

    def __call__(self, *arguments: Any, **last: Any) -> Any:
        """What the author's function makes of its arguments; the last may be given by name (``highest=``)."""
        every = (*arguments, *last.values())
        return self.function(*(every[i] for i in self.taken))


def family(
    function: Callable[..., Shape] | None = None, *, name: str | None = None, category: str = "mine"
) -> Any:
    """Decorator: make a family of a function that draws a shape.

    Args:
        function: ``function(key)`` or ``function(key, grid) -> Shape``, pure JAX, lengths in voxels. The structure of
            the shape must not depend on the key.
        name: what recipes and scene documents call it; the function's name by default.
        category: a group of families that a recipe can name.

    Raises:
        FdifError: the function takes other arguments.
    """
    if function is None:
        return functools.partial(family, name=name, category=category)
    taken = (0, 2)[: _takes(function, "family", ("key", "grid"))]  # of key, ranges, grid
    return Family(name or function.__name__, Authored(function, taken), category=category, parts=None)


def displacement(function: Callable[..., Distance] | None = None, *, name: str | None = None) -> Any:
    """Decorator: make a displacement of a function of world coordinates.

    Args:
        function: ``function(p)`` or ``function(p, highest) -> distance``, voxels, added to an object's distance;
            ``highest`` holds the grid's greatest x, y, z. Negative values swell the object.
        name: what recipes call it; the function's name by default.

    Raises:
        FdifError: the function takes other arguments.
    """
    if function is None:
        return functools.partial(displacement, name=name)
    field = Authored(function, range(_takes(function, "displacement", ("p", "highest"))))
    return Displacement(name or function.__name__, field, inspect.getdoc(function) or "")


def mapper(function: Callable[[Distance], Distance] | None = None, *, name: str | None = None) -> Any:
    """Decorator: make a mapper of an elementwise function from distance to intensity.

    Args:
        function: ``function(distance) -> intensity``: voxels, negative inside, to 0 … 128. How far from a surface it
            shows is found by looking: every eighth of a voxel up to 512 voxels.
        name: what recipes call it; the function's name by default.

    Raises:
        FdifError: the function takes other arguments.
    """
    if function is None:
        return functools.partial(mapper, name=name)
    _takes(function, "mapper", ("d",))
    with jax.ensure_compile_time_eval():
        steps = jnp.arange(1, _FARTHEST * _FINENESS + 1, dtype=jnp.float32) / _FINENESS
        outside = np.abs(np.asarray(jax.jit(function)(steps)))
    tail = functools.partial(_last_seen, outside) if outside.any() else None
    return Mapper(name or function.__name__, function, tail, inspect.getdoc(function) or "")


def _last_seen(outside: np.ndarray, negligible: float) -> float:
    """The distance beyond which a mapper stays under ``negligible``; infinite if it does not as far as was looked."""
    seen = np.flatnonzero(outside >= negligible)
    last = int(seen[-1]) + 1 if seen.size else 0
    return np.inf if last == len(outside) else (last + 1) / _FINENESS


def place_of(thing: Family | Displacement | Mapper) -> str:
    """What an error calls a thing: file and line of the function it was made of, or what it is and its name."""
    made_of: Any = {Family: "draw", Displacement: "field", Mapper: "function"}[type(thing)]
    made_of = getattr(thing, made_of)
    made_of = getattr(made_of, "function", made_of)
    kind = "class" if isinstance(thing, Family) else type(thing).__name__.lower()
    return _line_of(made_of) if inspect.isfunction(made_of) else f"{kind} {thing.name!r}"


def _line_of(function: Callable) -> str:
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _takes(function: Callable, kind: str, names: tuple[str, ...]) -> int:
    """How many arguments a function takes; FdifError if that is none of what its kind is called with."""
    count = len(inspect.signature(function).parameters)
    if not 1 <= count <= len(names):
        forms = " or ".join(f"({', '.join(names[:n])})" for n in range(1, len(names) + 1))
        raise FdifError(
            f"{_line_of(function)}: {kind} {function.__name__!r} takes {count} arguments; "
            f"it should be a function of {forms}"
        )
    return count
