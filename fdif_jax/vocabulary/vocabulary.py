"""What a recipe can name: families of shapes, displacements and mappers.

The engine knows no particular shape. It is handed a `Vocabulary`, usually by way of the sources that a recipe
names: ``"package.module:attribute"``, a user's Python file, a bank of organs (``.npz``), or a folder of meshes and
masks.
"""

import dataclasses
import functools
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.remarks import remark
from fdif_jax.sdf.arguments import at_points
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.shape import Distance, Point, Scalar, Shape

NONE = "none"
USUAL = Grid(96, 96, 96)  # the grid that is meant where none is said


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
    """A random family of shapes: one class of a vocabulary.

    Families that share one ``draw`` function and differ in ``ranges`` only share one traced program.

    Attributes:
        name: what recipes and scene documents call it.
        draw: ``draw(key, ranges, grid) -> Shape``; pure JAX.
        ranges: uniform ranges of the parameters, by name.
        category: a group of families that a recipe can name.
        aliases: other names it is known by.
        parts: names of its members' parts in order (`fdif_jax.parts`), each a class; none of most families. None to
            find them by tracing ``draw``, as decorated functions do.
    """

    name: str
    draw: Draw
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    category: str = "basic"
    aliases: tuple[str, ...] = ()
    parts: tuple[str, ...] | None = ()

    def sample(self, key: jax.Array, grid: Grid) -> Shape:
        """A random member, sized for ``grid``: in millimetres, whatever the spacing of its voxels."""
        return self.draw(key, self.ranges, grid.of_millimetres)

    def __call__(self, key: jax.Array, grid: Grid = USUAL) -> Shape:
        """The same, for 96 × 96 × 96 voxels if not said otherwise: a decorated function can be called as before."""
        return self.sample(key, grid)


@functools.lru_cache(maxsize=1024)
def parts_of(family: Family) -> tuple[str, ...]:
    """Names of the parts of a family's members; none where they have one label."""
    if family.parts is not None:
        return family.parts
    member = jax.eval_shape(lambda key: family.sample(key, USUAL), jax.random.key(0))
    return member.names if isinstance(member, Parts) else ()


@dataclasses.dataclass(frozen=True)
class Displacement:
    """A field added to an object's distance, a function of world coordinates.

    Called as a shape is, it gives the field of a grid of 96 × 96 × 96 voxels, so that `fdif_jax.displace` takes it.

    Attributes:
        name: what recipes call it.
        field: ``field(point, highest) -> distance`` in millimetres; ``highest`` holds the grid's greatest x, y, z.
        formula: the formula, for people.
        reach: how far it swells a shape at most on a grid of 96 × 96 × 96 voxels, voxels; None if unknown.
    """

    name: str
    field: Callable[[Point, Point], Distance]
    formula: str = ""
    reach: float | None = None

    @at_points
    def __call__(self, p: Point) -> Distance:
        """The field at points, voxels, float32."""
        return self.field(p, Point(*map(float, USUAL.highest)))


def growths(displacements: Sequence[Displacement], grid: Grid) -> np.ndarray:
    """How far each can move a surface outwards on this grid: minus its least value, at least 0; float32."""

    @jax.jit  # one program of all is compiled faster than each operation by itself
    def least(p: Point) -> list[Array]:
        return [jnp.min(displacement.field(p, highest)) for displacement in displacements]

    highest = Point(*map(float, grid.highest))
    with jax.ensure_compile_time_eval():
        # As an argument, not a constant: operations on constants would be evaluated one by one here.
        return np.maximum(0.0, -np.asarray(least(grid.points()), np.float32))


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
        families: its classes, in order.
        displacements: known displacements (without "none").
        mappers: known mappers.
        build: ``build(name, params) -> Shape`` from a scene document's parameters.
        describe: ``describe(name, shape) -> params``, the inverse of ``build``.
        digest: SHA-256 (hex) of the files behind it, if there are any.
        atlas: where its families lie in a body and which may touch, for anatomical placement; None if unknown.
    """

    families: tuple[Family, ...]
    displacements: tuple[Displacement, ...]
    mappers: tuple[Mapper, ...]
    build: Callable[[str, Mapping[str, Any]], Shape]
    describe: Callable[[str, Shape], dict[str, Any]]
    digest: str = ""
    atlas: Any = None

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
        """Families by name, or by category (which overrides names), or all; in the vocabulary's order."""
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


# Sources that are files: who makes a vocabulary of them.
_BANK = "fdif_jax.shapes.organs:vocabulary_of"
_FOLDER = "fdif_jax.shapes.meshes:vocabulary_of"
_PYTHON = "fdif_jax.shapes.user_files:vocabulary_of"


def resolve(sources: Sequence[str]) -> Vocabulary:
    """The vocabulary that all ``sources`` make together, families in their order.

    FdifError if one is not there or is no vocabulary, or for two things of one name.
    """
    parts = [_resolve(source) for source in sources]
    if len(parts) == 1:
        return parts[0]
    owners: dict[str, Vocabulary] = {}
    for source, part in zip(sources, parts, strict=True):
        for family in part.families:
            if owners.setdefault(family.name, part) is not part:
                raise FdifError(f"vocabulary {source!r} has a class {family.name!r}, as one before it has")
    atlases = [part.atlas for part in parts if part.atlas is not None]
    if len(atlases) > 1:
        raise FdifError(f"vocabulary {list(sources)}: only one bank of organs can lay out a scene")
    return Vocabulary(
        tuple(family for part in parts for family in part.families),
        _merged("displacement", [part.displacements for part in parts]),
        _merged("mapper", [part.mappers for part in parts]),
        lambda name, params: owners[name].build(name, params),
        lambda name, shape: owners[name].describe(name, shape),
        hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest(),
        *atlases,
    )


def _merged(kind: str, groups: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """All things of the groups; the same thing may come more than once, two of one name may not."""
    known: dict[str, Any] = {}
    for thing in (thing for group in groups for thing in group):
        if known.setdefault(thing.name, thing) is not thing:
            raise FdifError(f"two sources of the vocabulary have a {kind} {thing.name!r}, not the same one")
    return tuple(known.values())


def _resolve(source: str) -> Vocabulary:
    by_suffix = {".npz": _BANK, ".py": _PYTHON}
    maker = _FOLDER if Path(source).is_dir() else by_suffix.get(Path(source).suffix)
    if maker:
        return _from_files(maker, source, _stamp(Path(source)))
    vocabulary = _attribute(source, source)
    if not isinstance(vocabulary, Vocabulary):
        raise FdifError(f"vocabulary {source!r} is a {type(vocabulary).__name__}, not a Vocabulary")
    return vocabulary


@functools.lru_cache(maxsize=8)
def _from_files(maker: str, source: str, stamp: int) -> Vocabulary:
    return _attribute(maker, source)(source)


def _stamp(path: Path) -> int:
    """When a file, or anything in a folder, last changed; 0 where there is nothing."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


def _attribute(reference: str, source: str) -> Any:
    module_name, _, attribute = reference.partition(":")
    known = module_name in sys.modules or module_name.startswith(f"{__package__.partition('.')[0]}.")
    if all(part.isidentifier() for part in module_name.split(".")) and not known:
        remark(
            f"{source}: the Python module {module_name} is run, with all that it asks for",
            f"run {module_name}",
        )
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise FdifError(
            f"vocabulary {source!r} cannot be loaded ({error}); it should read 'package.module:attribute', "
            "or be a Python file (.py), a bank of organs (.npz) or a folder of meshes"
        ) from error
