"""What a recipe can name: families of shapes, displacements and mappers.

The engine knows no particular shape. It is handed a `Vocabulary`, usually by way of the reference
``"package.module:attribute"`` that a recipe carries.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.grid import Grid
from fdif_jax.shape import Distance, Point, Scalar, Shape

NONE = "none"


class Range(NamedTuple):
    """A uniform range of a family's parameter; ``low == high`` is a constant."""

    low: Scalar
    high: Scalar

    def draw(self, fraction: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value at ``fraction`` (0 … 1) of the way from low to high."""
        return jnp.where(self.low == self.high, self.low, self.low + fraction * (self.high - self.low))


# How a random member of a family is made, ``draw(key, ranges, grid)``; traced once for all that share it.
Draw = Callable[[jax.Array, Mapping[str, Range], Grid], Shape]


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A random family of shapes: one class of a catalogue.

    Families that share one ``draw`` function and differ in ``ranges`` only share one traced program.

    Attributes:
        name: what recipes and scene documents call it.
        draw: ``draw(key, ranges, grid) -> Shape``; pure JAX.
        ranges: uniform ranges of the parameters, by name.
        category: a group of families that a recipe can name.
        aliases: other names it is known by.
    """

    name: str
    draw: Draw
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    category: str = "basic"
    aliases: tuple[str, ...] = ()

    def sample(self, key: jax.Array, grid: Grid) -> Shape:
        """A random member, sized for ``grid``."""
        return self.draw(key, self.ranges, grid)


@dataclasses.dataclass(frozen=True, eq=False)
class Displacement:
    """A field added to an object's distance, a function of world coordinates.

    Attributes:
        name: what recipes call it.
        field: ``field(point, highest) -> distance`` in voxels; ``highest`` holds the grid's greatest x, y, z.
        formula: the formula, for people.
    """

    name: str
    field: Callable[[Point, Point], Distance]
    formula: str = ""

    def growth(self, grid: Grid) -> float:
        """How far it can move a surface outwards on this grid: minus its least value, at least 0."""
        with jax.ensure_compile_time_eval():
            least = jnp.min(self.field(grid.points(), Point(*map(float, grid.highest))))
        return max(0.0, -float(least))


@dataclasses.dataclass(frozen=True, eq=False)
class Mapper:
    """Distance to intensity, 0 … 128.

    Attributes:
        name: what recipes call it.
        function: ``function(distance) -> intensity``, elementwise, float32.
        tail: None if the intensity is 0 wherever the distance is positive; else a function that tells the
            distance beyond which the intensity stays under its argument.
        formula: the formula, for people.
    """

    name: str
    function: Callable[[Distance], Distance]
    tail: Callable[[float], float] | None = None
    formula: str = ""

    def __call__(self, distance: Distance) -> Distance:
        """The intensity at ``distance``."""
        return self.function(distance)

    def reach(self, negligible: float) -> float:
        """The distance beyond which the intensity is below ``negligible``."""
        return 0.0 if self.tail is None else self.tail(negligible)


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Everything a recipe can name. Class id = position of the family + 1.

    Attributes:
        families: the catalogue, in order.
        displacements: known displacements (without "none").
        mappers: known mappers.
        build: ``build(name, params) -> Shape`` from a scene document's parameters.
        describe: ``describe(shape) -> params``, the inverse of ``build``.
    """

    families: tuple[Family, ...]
    displacements: tuple[Displacement, ...]
    mappers: tuple[Mapper, ...]
    build: Callable[[str, Mapping[str, Any]], Shape]
    describe: Callable[[Shape], dict[str, Any]]

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, in order of first appearance."""
        return tuple(dict.fromkeys(family.category for family in self.families))

    def family(self, name: str) -> Family:
        """The family of this name or alias; FdifError if there is none."""
        return _find("class", name, self.families)

    def displacement(self, name: str) -> Displacement:
        """The displacement of this name; FdifError if there is none."""
        return _find("displacement", name, self.displacements)

    def mapper(self, name: str) -> Mapper:
        """The mapper of this name; FdifError if there is none."""
        return _find("mapper", name, self.mappers)

    def class_id(self, name: str) -> int:
        """Position + 1 of the family of this name or alias."""
        return self.families.index(self.family(name)) + 1

    def select(self, primitives: Sequence[str], categories: Sequence[str]) -> tuple[Family, ...]:
        """Families by name, or by category (which overrides names), or all; in catalogue order."""
        for category in categories:
            if category not in self.categories:
                raise unknown("category", category, self.categories)
        if categories:
            return tuple(f for f in self.families if f.category in categories)
        wanted = [self.family(name) for name in primitives]
        return tuple(f for f in self.families if f in wanted) if wanted else self.families


def _find(kind: str, name: str, things: Iterable[Any]) -> Any:
    names = {}
    for thing in things:
        for known in (thing.name, *getattr(thing, "aliases", ())):
            names[known] = thing
    if name not in names:
        raise unknown(kind, name, names)
    return names[name]


def resolve(reference: str) -> Vocabulary:
    """The vocabulary that ``"package.module:attribute"`` refers to; FdifError if there is none."""
    module_name, _, attribute = reference.partition(":")
    try:
        vocabulary = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise FdifError(
            f"vocabulary {reference!r} cannot be loaded ({error}); it should read 'package.module:attribute'"
        ) from error
    if not isinstance(vocabulary, Vocabulary):
        raise FdifError(f"vocabulary {reference!r} is a {type(vocabulary).__name__}, not a Vocabulary")
    return vocabulary
