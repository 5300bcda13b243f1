"""The compiler: from a recipe to one program that draws scenes and renders them.

Stages, each usable alone: the recipe's classes (`classes_of`), a drawn `Table` (`Program.draw`), the rendered
volumes (`Renderer`). Sample i of seed s depends on nothing but (recipe, s, i).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt

from fdif_jax.algebra import invert
from fdif_jax.errors import FdifError
from fdif_jax.grid import Grid
from fdif_jax.recipe import Recipe
from fdif_jax.renderer import PlacedObject, Renderer, Structure, Table, render_reference
from fdif_jax.scene import Scene, SceneObject
from fdif_jax.vocabulary import NONE, Family, Range, Vocabulary, resolve

Volumes = tuple[UInt[Array, "D H W"], UInt[Array, "D H W"]]

MAX_SHIFT = 0.35
MAX_SHEAR = 0.1


def sample_key(seed: int | Array, index: int | Array) -> jax.Array:
    """The random key of sample ``index`` of ``seed``: ``fold_in(key(seed), index)``."""
    return jax.random.fold_in(jax.random.key(seed), index)


@dataclasses.dataclass(frozen=True)
class ObjectClass:
    """One class of a recipe: which family, and which displacement and mapper where they are part of the class.

    ``None`` for displacement or mapper means that it is drawn at random for each object.
    """

    family: Family
    displacement: str | None
    mapper: str | None

    @property
    def name(self) -> str:
        """Family, displacement and mapper as far as they are fixed, joined by ``+``."""
        parts = (self.family.name, self.displacement if self.displacement != NONE else None, self.mapper)
        return "+".join(part for part in parts if part)


def classes_of(recipe: Recipe) -> tuple[ObjectClass, ...]:
    """The classes of a recipe in order; class id = position + 1.

    Without the augmentation flags a class is a combination: first primitive × mapper without displacement,
    then primitive × displacement × mapper. With a flag that factor leaves the class.
    """
    vocabulary = resolve(recipe.vocabulary)
    families = vocabulary.select(recipe.primitives, recipe.categories)
    if recipe.num_classes:
        chosen = np.random.default_rng(recipe.class_seed).choice(
            len(families), recipe.num_classes, replace=False
        )
        families = tuple(families[i] for i in sorted(chosen))
    mappers: Sequence[str | None] = [None] if recipe.mapper_as_augmentation else recipe.mappers
    displacements: Sequence[str | None] = (
        [None]
        if recipe.displacement_as_augmentation
        else [NONE, *(d for d in recipe.displacements if d != NONE)]
    )
    plain, displaced = displacements[:1], displacements[1:]
    return tuple(
        ObjectClass(family, displacement, mapper)
        for group in (plain, displaced)
        for family in families
        for displacement in group
        for mapper in mappers
    )


def compile(recipe: Recipe) -> "Program":
    """Turn a recipe into a program. XLA compiles each of its functions on first use.

    Raises:
        FdifError: the recipe asks for something that is not there.
    """
    if recipe.multi_task:
        raise FdifError("multi_task label maps cannot be rendered by this version; set multi_task to false")
    return Program(recipe)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled recipe. Methods without a leading ``jit`` note are pure and may be used inside `jax.jit`."""

    recipe: Recipe

    @property
    def grid(self) -> Grid:
        """Voxels ``(D, H, W)``."""
        return Grid(*self.recipe.grid)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the recipe's names mean."""
        return resolve(self.recipe.vocabulary)

    @cached_property
    def classes(self) -> tuple[ObjectClass, ...]:
        """The recipe's classes; class id = position + 1."""
        return classes_of(self.recipe)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes; label id = position + 1."""
        return tuple(c.name for c in self.classes)

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.classes)

    @cached_property
    def _displacement_names(self) -> list[str]:
        return [NONE, *(d for d in self.recipe.displacements if d != NONE)]

    @cached_property
    def families(self) -> "_Families":
        """The recipe's families, grouped by how they are drawn."""
        return _Families.of(tuple(dict.fromkeys(c.family for c in self.classes)), self.grid)

    @cached_property
    def renderer(self) -> Renderer:
        """Renders the tables this program draws."""
        return Renderer(
            self.grid,
            self.families.structures,
            tuple(self.vocabulary.displacement(name) for name in self._displacement_names[1:]),
            tuple(self.vocabulary.mapper(name) for name in self.recipe.mappers),
            self.num_classes,
        )

    def draw(self, key: jax.Array) -> Table:
        """A random scene as a table; pure and jittable."""
        recipe, size = self.recipe, self.recipe.max_objects
        count_key, factor_key, pose_key, shape_key = jax.random.split(key, 4)
        count = jax.random.randint(count_key, (), recipe.min_objects, size + 1)
        class_key, displacement_key, mapper_key = jax.random.split(factor_key, 3)
        drawn = jax.random.randint(class_key, (size,), 0, self.num_classes)
        displacement = _factor(
            displacement_key, drawn, [c.displacement for c in self.classes], self._displacement_names
        )
        mapper = _factor(mapper_key, drawn, [c.mapper for c in self.classes], recipe.mappers)
        family = jnp.asarray([self.families.members.index(c.family) for c in self.classes])[drawn]
        branch, row = self.families.draw(jax.random.split(shape_key, size), family, self.renderer.width)
        pose = jax.vmap(partial(draw_pose, grid=self.grid, turn=recipe.transform))
        inverse = jax.vmap(invert)(pose(jax.random.split(pose_key, size)))
        return Table(count, branch, row, inverse, displacement, mapper, drawn + 1)

    def sample(self, key: jax.Array) -> Volumes:
        """Image (uint8, 0 … 128) and label (uint8 or uint16), both ``(D, H, W)``, of a random scene."""
        return self.renderer(self.draw(key))

    def batch(self, keys: jax.Array) -> tuple[UInt[Array, "B D H W"], UInt[Array, "B D H W"]]:
        """Samples of several keys, one after another: never under `vmap`, which would run every branch."""
        return lax.map(self.sample, keys)

    @cached_property
    def _jitted_sample(self) -> Callable[[Any, Any], Volumes]:
        return jax.jit(lambda seed, index: self.sample(sample_key(seed, index)))

    def sample_at(self, seed: int, index: int) -> Volumes:
        """Sample ``index`` of ``seed``, jitted; the same whatever batch, device or process draws it."""
        return self._jitted_sample(np.uint32(seed), np.uint32(index))

    @cached_property
    def _jitted_draw(self) -> Callable[[Any, Any], Table]:
        return jax.jit(lambda seed, index: self.draw(sample_key(seed, index)))

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document."""
        table = jax.tree.map(np.asarray, self._jitted_draw(np.uint32(seed), np.uint32(index)))
        objects = []
        for i in range(int(table.number)):
            shape = self.families.structures[table.branch[i]].unpack(table.row[i])
            drawn = self.classes[table.label[i] - 1]
            inverse = np.concatenate([table.inverse[i], [[0, 0, 0, 1]]])
            objects.append(
                SceneObject(
                    int(table.label[i]),
                    drawn.family.name,
                    self.vocabulary.describe(shape),
                    inverse.tolist(),
                    self._displacement_names[table.displacement[i]],
                    self.recipe.mappers[table.mapper[i]],
                )
            )
        return Scene(self.grid, tuple(objects))

    def render(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a scene document, named things taken from the recipe's vocabulary (jitted)."""
        return next(render_scenes([scene], self.vocabulary))


def _factor(key: jax.Array, drawn: Array, fixed: Sequence[str | None], names: Sequence[str]) -> Array:
    """Positions in ``names``: what the drawn class fixes, or at random where it fixes nothing."""
    if fixed[0] is None:
        return jax.random.randint(key, drawn.shape, 0, len(names))
    return jnp.asarray([list(names).index(str(name)) for name in fixed])[drawn]


def draw_pose(key: jax.Array, grid: Grid, turn: bool) -> Float[Array, "3 4"]:
    """A random local → world affine T·R·S.

    T moves by up to ±.35 of each edge, R = Rz·Ry·Rx turns by any angles, S shears symmetrically by up to ±.1.
    Without ``turn`` only T is left. Source: FDIF.
    """
    shift, angle, slope = jax.random.uniform(key, (3, 3), minval=-1.0)
    offset = MAX_SHIFT * shift * jnp.asarray(grid.edges, jnp.float32)
    linear = jnp.eye(3)
    if turn:
        (cx, cy, cz), (sx, sy, sz) = jnp.cos(jnp.pi * angle), jnp.sin(jnp.pi * angle)
        about_x = jnp.asarray([[1.0, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = jnp.asarray([[cy, 0, sy], [0, 1.0, 0], [-sy, 0, cy]])
        about_z = jnp.asarray([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1.0]])
        a, b, c = MAX_SHEAR * slope
        linear = about_z @ about_y @ about_x @ jnp.asarray([[1.0, a, b], [a, 1.0, c], [b, c, 1.0]])
    return jnp.concatenate([linear, offset[:, None]], axis=1)


@dataclasses.dataclass(frozen=True)
class _Families:
    """Families in groups that share one drawing function; their ranges are stacked and looked up by number."""

    members: tuple[Family, ...]
    grid: Grid
    groups: tuple[tuple[Family, ...], ...]
    structures: tuple[Structure, ...]
    branches: tuple[int, ...]  # of every group, its position in structures

    @classmethod
    def of(cls, members: tuple[Family, ...], grid: Grid) -> "_Families":
        grouped: dict[Any, list[Family]] = {}
        for family in members:
            grouped.setdefault((family.draw, tuple(family.ranges)), []).append(family)
        groups = tuple(map(tuple, grouped.values()))
        drawn = [Structure.of(_abstract(group[0], grid)) for group in groups]
        structures = tuple(dict.fromkeys(drawn))
        return cls(members, grid, groups, structures, tuple(map(structures.index, drawn)))

    def draw(self, keys: jax.Array, family: Array, width: int) -> tuple[Array, Array]:
        """Branch number and parameter row of one random member of each ``family``, drawn one after another."""
        group_of = {f: (g, i) for g, group in enumerate(self.groups) for i, f in enumerate(group)}
        place = jnp.asarray([group_of[f] for f in self.members])
        draws = [partial(self._draw_member, group, width) for group in self.groups]
        branches = jnp.asarray(self.branches)

        def member(drawn: tuple[jax.Array, Array]) -> tuple[Array, Array]:
            key, (group, position) = drawn[0], drawn[1]
            return branches[group], lax.switch(group, draws, key, position)

        return lax.map(member, (keys, place[family]))

    def _draw_member(
        self, group: tuple[Family, ...], width: int, key: jax.Array, position: Array
    ) -> Float[Array, " P"]:
        stacked = {
            name: Range(*(jnp.asarray(ends, jnp.float32)[position] for ends in zip(*values, strict=True)))
            for name in group[0].ranges
            for values in [[family.ranges[name] for family in group]]
        }
        shape = group[0].draw(key, stacked, self.grid)
        return Structure.of(shape).pack(shape, width)


def _abstract(family: Family, grid: Grid) -> Any:
    return jax.eval_shape(lambda key: family.sample(key, grid), jax.random.key(0))


def _placed(scene: Scene, vocabulary: Vocabulary) -> list[PlacedObject]:
    return [
        PlacedObject(
            vocabulary.build(vocabulary.family(o.class_name).name, o.params),
            jnp.asarray(o.inverse_transform, jnp.float32)[:3],
            None if o.displacement == NONE else vocabulary.displacement(o.displacement),
            vocabulary.mapper(o.mapper),
            o.class_id,
        )
        for o in scene.objects
    ]


def render_scenes(scenes: Sequence[Scene], vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image (uint8) and label (uint8 or uint16) of each scene document, in order.

    Scenes on the same grid share one compiled program.

    Raises:
        FdifError: a scene names something that is not in ``vocabulary``; raised before anything is rendered.
    """
    placed = [_placed(scene, vocabulary) for scene in scenes]
    objects = [o for scene in placed for o in scene]
    structures = tuple(dict.fromkeys(Structure.of(o.shape) for o in objects))
    displacements = tuple(dict.fromkeys(o.displacement for o in objects if o.displacement is not None))
    mappers = tuple(dict.fromkeys(o.mapper for o in objects))
    top_label = max(o.label for o in objects) if objects else 1
    size = max(map(len, placed), default=1)
    programs: dict[Grid, tuple[Renderer, Callable]] = {}
    for scene, row in zip(scenes, placed, strict=True):
        if scene.grid not in programs:
            renderer = Renderer(scene.grid, structures, displacements, mappers, top_label)
            programs[scene.grid] = renderer, jax.jit(renderer)
        renderer, render = programs[scene.grid]
        image, label = render(_table(renderer, row, size))
        yield np.asarray(image), np.asarray(label)


def _table(renderer: Renderer, objects: Sequence[PlacedObject], size: int) -> Table:
    filled = [*objects, *[objects[0]] * (size - len(objects))]
    structures = [Structure.of(o.shape) for o in filled]
    chosen = [o.displacement for o in filled]
    return Table(
        jnp.int32(len(objects)),
        jnp.asarray([renderer.structures.index(s) for s in structures]),
        jnp.stack([s.pack(o.shape, renderer.width) for s, o in zip(structures, filled, strict=True)]),
        jnp.stack([o.inverse for o in filled]),
        jnp.asarray([0 if d is None else 1 + renderer.displacements.index(d) for d in chosen]),
        jnp.asarray([renderer.mappers.index(o.mapper) for o in filled]),
        jnp.asarray([o.label for o in filled]),
    )


def render_scene_reference(scene: Scene, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """Image and label of a scene document by the plain renderer."""
    return render_reference(scene.grid, _placed(scene, vocabulary))
