"""Classes: what a recipe's objects can be, what they are called in label maps, and how their shapes are drawn."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.scenes.grouping import Grouping
from fdif_jax.scenes.recipe import Recipe
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.structure import Structure
from fdif_jax.tasks import Task
from fdif_jax.vocabulary import unions
from fdif_jax.vocabulary.vocabulary import NONE, Family, Range, parts_of


@dataclasses.dataclass(frozen=True)
class ObjectClass:
    """One class of a recipe: which family, and which displacement and mapper where they are part of the class.

    ``None`` for displacement or mapper means that it is drawn at random for each object. A ``part`` of an object of
    several labels is a class of its own in label maps.
    """

    family: Family
    displacement: str | None
    mapper: str | None
    part: str = ""

    @property
    def shape(self) -> str:
        """The family, and the part: ``kidney.cortex``."""
        return f"{self.family.name}.{self.part}" if self.part else self.family.name

    @property
    def name(self) -> str:
        """Shape, displacement and mapper as far as they are fixed, joined by ``+``."""
        factors = (self.shape, self.displacement if self.displacement != NONE else None, self.mapper)
        return "+".join(factor for factor in factors if factor)

    @property
    def labelled(self) -> tuple["ObjectClass", ...]:
        """What label maps tell apart of it: its parts, or the class itself."""
        return tuple(dataclasses.replace(self, part=part) for part in parts_of(self.family)) or (self,)


def classes_of(recipe: Recipe) -> tuple[ObjectClass, ...]:
    """The classes of a recipe in order; class id = position + 1.

    Without the augmentation flags a class is a combination: first primitive × mapper without displacement,
    then primitive × displacement × mapper, then union × mapper. With a flag that factor leaves the class.
    """
    families = recipe.resolved.select(recipe.primitives, recipe.categories)
    rng = np.random.default_rng(recipe.class_seed)
    if recipe.num_classes:
        chosen = rng.choice(len(families), recipe.num_classes, replace=False)
        families = tuple(families[i] for i in sorted(chosen))
    pairs = _random_pairs(rng, len(families), recipe.num_combined_unions)
    united = [unions.combined(families[a], families[b]) for a, b in pairs]
    mappers: Sequence[str | None] = [None] if recipe.mapper_as_augmentation else recipe.mappers
    displacements: Sequence[str | None] = (
        [None]
        if recipe.displacement_as_augmentation
        else [NONE, *(d for d in recipe.displacements if d != NONE)]
    )
    plain, displaced = displacements[:1], displacements[1:]
    return tuple(
        ObjectClass(family, displacement, mapper)
        for members, group in ((families, plain), (families, displaced), (united, plain))
        for family in members
        for displacement in group
        for mapper in mappers
    )


def _random_pairs(rng: np.random.Generator, families: int, count: int) -> list[tuple[int, int]]:
    """Different ordered pairs of families, a family perhaps with itself."""
    if count > families**2:
        raise FdifError(
            f"num_combined_unions ({count}) exceeds the {families**2} ordered pairs of {families} classes"
        )
    return [divmod(int(pair), families) for pair in rng.choice(families**2, count, replace=False)]


def tasks_of(recipe: Recipe, classes: Sequence[ObjectClass]) -> tuple[tuple[Task, ...], np.ndarray]:
    """The label maps of a recipe, and the id of each class, or part, in each of them, ``(classes, T)``.

    One map with an id a class; with ``multi_task`` one map each for shape, displacement (1 = none) and mapper,
    as far as they take more than one value. With a grouping several classes share an id, and those that are
    background have the id 0.

    Raises:
        FdifError: multi-task, and nothing takes more than one value; or see `Grouping.named`.
    """
    if recipe.classes != Grouping():
        return _grouped(recipe, classes)
    if not recipe.multi_task:
        names = tuple(c.name for c in classes)
        return (Task("class", names),), np.arange(1, len(names) + 1)[:, None]
    factors = {
        "shape": [c.shape for c in classes],
        "displacement": [str(c.displacement) for c in classes],
        "mapper": [str(c.mapper) for c in classes],
    }
    values = {name: tuple(dict.fromkeys(column)) for name, column in factors.items()}
    tasks = tuple(Task(name, values[name]) for name in factors if len(values[name]) > 1)
    if not tasks:
        raise FdifError(
            "multi_task needs at least two classes, displacements or mappers; the recipe has one of each"
        )
    columns = [[task.class_names.index(value) + 1 for value in factors[task.name]] for task in tasks]
    return tasks, np.asarray(columns).T


def _grouped(recipe: Recipe, classes: Sequence[ObjectClass]) -> tuple[tuple[Task, ...], np.ndarray]:
    """One label map; displacement and mapper tell classes apart as they do without groups."""
    atlas = recipe.resolved.atlas
    families = tuple(dict.fromkeys(c.shape for c in classes))
    named = recipe.classes.named(families, atlas.volumes if atlas else {})
    names = [named[c.shape] + c.name[len(c.shape) :] if c.shape in named else "" for c in classes]
    order = [name for family in named for c, name in zip(classes, names, strict=True) if c.shape == family]
    found = tuple(dict.fromkeys(order))
    return (Task("class", found),), np.asarray([[1 + found.index(name) if name else 0] for name in names])


@dataclasses.dataclass(frozen=True)
class Families:
    """Families in groups that share one drawing function; their ranges are stacked and looked up by number.

    Attributes:
        members: the families.
        grid: the voxels, over whose extent in millimetres members are sized.
        groups: the families that share a drawing function, together.
        draws: of every group, ``draw(key, position) -> Shape`` of its member at a position, jitted so that what is
            traced to learn the structure need not be traced again.
        structures: the different structures of their members.
        branches: of every group, its position in ``structures``.
    """

    members: tuple[Family, ...]
    grid: Grid
    groups: tuple[tuple[Family, ...], ...]
    draws: tuple[Callable[[jax.Array, Array], Any], ...]
    structures: tuple[Structure, ...]
    branches: tuple[int, ...]

    @classmethod
    def of(cls, members: tuple[Family, ...], grid: Grid) -> "Families":
        """The groups of these families."""
        grouped: dict[Any, list[Family]] = {}
        for family in members:
            grouped.setdefault((family.draw, tuple(family.ranges)), []).append(family)
        groups = tuple(map(tuple, grouped.values()))
        draws = tuple(
            jax.jit(partial(_draw_member, group, grid.of_millimetres), inline=True) for group in groups
        )
        key, position = jax.random.key(0), jnp.int32(0)
        drawn = [Structure.of(jax.eval_shape(draw, key, position)) for draw in draws]
        for group, structure in zip(groups, drawn, strict=True):
            _check_parts(group, structure)
        structures = tuple(dict.fromkeys(drawn))
        return cls(members, grid, groups, draws, structures, tuple(map(structures.index, drawn)))

    def draw(self, keys: jax.Array, family: Array, width: int) -> tuple[Array, Array]:
        """Branch number and parameter row of one random member of each ``family``, drawn one after another."""
        group_of = {f: (g, i) for g, group in enumerate(self.groups) for i, f in enumerate(group)}
        place = jnp.asarray([group_of[f] for f in self.members])
        branches = jnp.asarray(self.branches)

        def packed(draw: Callable, key: jax.Array, position: Array) -> Float[Array, " P"]:
            shape = draw(key, position)
            return Structure.of(shape).pack(shape, width)

        def member(drawn: tuple[jax.Array, Array]) -> tuple[Array, Array]:
            key, (group, position) = drawn[0], drawn[1]
            return branches[group], lax.switch(
                group, [partial(packed, draw) for draw in self.draws], key, position
            )

        return lax.map(member, (keys, place[family]))


def _check_parts(group: Sequence[Family], structure: Structure) -> None:
    """FdifError if families have other parts than they say."""
    shape = structure.empty
    names = shape.names if isinstance(shape, Parts) else ()
    for family in group:
        if parts_of(family) != names:
            raise FdifError(
                f"family {family.name!r} has the parts {list(parts_of(family))}, and its members {list(names)}; "
                "give fd.Family the names as parts="
            )


def _draw_member(group: tuple[Family, ...], grid: Grid, key: jax.Array, position: Array) -> Any:
    """A random member of the family at ``position`` of a group."""
    ranges = {
        name: Range(*(jnp.asarray(ends, jnp.float32)[position] for ends in zip(*values, strict=True)))
        for name in group[0].ranges
        for values in [[family.ranges[name] for family in group]]
    }
    return group[0].draw(key, ranges, grid)
