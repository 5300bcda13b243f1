"""The compiler: from a recipe to one program that draws scenes and renders them.

Stages, each usable alone: the recipe's classes (`classes_of`), a drawn `Table` (`Program.draw`), the rendered
volumes (`Renderer`), their look (`Look`). Sample i of seed s depends on nothing but (recipe, s, i).
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fdif_jax.errors import FdifError
from fdif_jax.keys import WINDOW, sample_key
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.look import Look
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import Renderer, Rendering, Table, whole_numbers
from fdif_jax.rendering.window import Opening
from fdif_jax.scenes.classes import Families, ObjectClass, classes_of, tasks_of
from fdif_jax.scenes.documents import Scene, SceneObject, ScenePart
from fdif_jax.scenes.parts import ClassParts, PartRows
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scenes.recipe import Mixture, Recipe
from fdif_jax.scenes.replay import render_scenes
from fdif_jax.scenes.world import Views, World, seen_in
from fdif_jax.sdf.operations.parts import Region
from fdif_jax.tasks import Task
from fdif_jax.vocabulary import unions
from fdif_jax.vocabulary.vocabulary import NONE, Vocabulary

Kernel = Literal["auto", "off", "on", "interpret"]


def compile(recipe: Recipe | Mixture, *, kernel: Kernel = "auto") -> World:
    """Turn a recipe into a program. XLA compiles each of its functions on first use.

    Args:
        recipe: what to draw.
        kernel: "on" renders by one GPU kernel (`rendering.pallas_kernel`), "interpret" by it without a GPU, slowly,
            "off" by `Renderer`. "auto" renders by the kernel on a CUDA device, or by `BranchFree` what the kernel
            cannot, and by `Renderer` elsewhere. All give the same volumes but for rounding.

    Raises:
        FdifError: the recipe asks for something that is not there, or the kernel for a mixture.
    """
    if not isinstance(recipe, Mixture):
        return Program(recipe, kernel)
    if kernel not in ("auto", "off"):
        raise FdifError("the kernel renders one recipe; compile the parts of a mixture by themselves")
    return MixedProgram(recipe)


@dataclasses.dataclass(frozen=True)
class Program(World):
    """A compiled `Recipe`; ``kernel`` as in `compile`."""

    recipe: Recipe
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        names = self.class_names  # what cannot be labelled or painted is an error now
        self.recipe.look.tissue.class_means(names)

    @property
    def vocabulary(self) -> Vocabulary:
        """What the recipe's names mean."""
        return self.recipe.resolved

    @cached_property
    def classes(self) -> tuple[ObjectClass, ...]:
        """What an object can be."""
        return classes_of(self.recipe)

    @cached_property
    def labelled(self) -> tuple[ObjectClass, ...]:
        """What label maps tell apart: the classes, or the parts of those that have some."""
        return tuple(part for c in self.classes for part in c.labelled)

    @cached_property
    def _parts(self) -> ClassParts:
        return ClassParts.of([len(c.labelled) for c in self.classes])

    @cached_property
    def _labels(self) -> tuple[tuple[Task, ...], np.ndarray]:
        """The label maps, and the id of each of `labelled` in each of them, ``(L, T)``."""
        return tasks_of(self.recipe, self.labelled)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The label maps; several with ``multi_task``."""
        return self._labels[0]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipe."""
        return (self.recipe,)

    @property
    def objects(self) -> int:
        """Greatest number of instances in a scene: objects or their parts, and what a window adds."""
        return self._rows + self.recipe.window.instances

    @property
    def _rows(self) -> int:
        return self.recipe.max_objects * self._parts.most

    @cached_property
    def _displacement_names(self) -> list[str]:
        return [NONE, *(d for d in self.recipe.displacements if d != NONE)]

    @cached_property
    def families(self) -> Families:
        """The recipe's families, grouped by how they are drawn."""
        return Families.of(tuple(dict.fromkeys(c.family for c in self.classes)), self.grid)

    @cached_property
    def part_rows(self) -> PartRows:
        """How rows of objects become those of their parts."""
        return PartRows.of(self.families.structures)

    @cached_property
    def renderer(self) -> Renderer:
        """Renders the tables this program draws."""
        return Renderer(
            self.grid,
            self.part_rows.structures,
            tuple(self.vocabulary.displacement(name) for name in self._displacement_names[1:]),
            tuple(self.vocabulary.mapper(name) for name in self.recipe.mappers),
            max(len(task.class_names) for task in self.tasks),
            partial_volume=self.recipe.look.partial_volume,
        )

    def draw(
        self, key: jax.Array, drawn: Int[Array, " n"] | None = None, sampling: Sampling | None = None
    ) -> Table:
        """A random scene as a table.

        Args:
            key: random key.
            drawn: classes (counted from 0) of the ``max_objects`` objects; None to choose them as the placement does.
            sampling: what is drawn otherwise than the recipe says; objects beyond the number are not there.
        """
        return self._drawn(key, drawn, self._labels[1], sampling)

    def _drawn(
        self,
        key: jax.Array,
        drawn: Int[Array, " n"] | None,
        ids: np.ndarray,
        sampling: Sampling | None = None,
    ) -> Table:
        """A random scene whose labels are the rows of ``ids`` that its objects' classes, or parts, count into."""
        recipe, size, placement = self.recipe, self.recipe.max_objects, self.recipe.placement
        count_key, factor_key, pose_key, shape_key = jax.random.split(key, 4)
        between: tuple[Any, Any] = (recipe.min_objects, size)
        if sampling is not None:
            between = sampling.between(*between)
        count = jax.random.randint(count_key, (), between[0], between[1] + 1)
        class_key, displacement_key, mapper_key = jax.random.split(factor_key, 3)
        if drawn is None:
            logits = None if sampling is None else self._class_logits(sampling)
            drawn = placement.choose(class_key, size, self, logits)
        displacement = _factor(
            displacement_key, drawn, [c.displacement for c in self.classes], self._displacement_names
        )
        mapper = _factor(mapper_key, drawn, [c.mapper for c in self.classes], recipe.mappers)
        family = jnp.asarray([self.families.members.index(c.family) for c in self.classes])[drawn]
        branch, row = self.families.draw(jax.random.split(shape_key, size), family, self.renderer.width)
        inverse = jnp.broadcast_to(jnp.eye(3, 4), (size, 3, 4))
        label = drawn[:, None] if self._has_parts else jnp.asarray(ids, jnp.int32)[drawn]
        table = Table(count, branch, row, inverse, displacement, mapper, label)
        placed = placement.place(pose_key, self, table, None if sampling is None else sampling.scale)
        return self._in_parts(mapper_key, placed, ids) if self._has_parts else placed

    @cached_property
    def _has_parts(self) -> bool:
        return any(c.part for c in self.labelled)

    def _in_parts(self, key: jax.Array, table: Table, ids: np.ndarray) -> Table:
        """The rows of parts; of an object's mapper is the first, and the others draw theirs."""
        drawn, mappers, number = table.label, self.recipe.mappers, jnp.arange(self._parts.most)
        own = jax.random.randint(jax.random.fold_in(key, 1), (len(drawn), number.size), 0, len(mappers))
        mapper = jnp.where(number == 0, table.mapper[:, None], own)
        if not self.recipe.mapper_as_augmentation:  # classes of all mappers follow each other
            drawn = drawn + mapper - table.mapper[:, None]
        label = jnp.asarray(ids, jnp.int32)[jnp.asarray(self._parts.rows)[drawn, number]]
        return self.part_rows.expand(table, mapper, label)

    def _class_logits(self, sampling: Sampling) -> Float[Array, " classes"]:
        """Those of the label maps' classes for what an object can be: sums over the maps."""
        tasks, ids = self._labels
        first = np.cumsum([0, *(len(task.class_names) for task in tasks[:-1])])
        logits = jnp.sum(jnp.where(ids > 0, sampling.class_logits[ids - 1 + first], 0.0), axis=1)
        return self._parts.mean(logits) if self._has_parts else logits

    @cached_property
    def _renders_batches(self) -> bool:
        """Whether scenes are rendered side by side, as on a GPU."""
        return jax.default_backend() == "gpu" if self.kernel == "auto" else self.kernel != "off"

    def views(
        self, key: jax.Array, number: int, sampling: Sampling | None = None, extra: Collection[str] = ()
    ) -> Views:
        """Looks of a random scene; see `World.views`."""
        if not self._renders_batches:
            return self._scanned(number, sampling, extra, key)
        return jax.tree.map(lambda volumes: volumes[0], self.batch_views(key[None], number, sampling, extra))

    def batch_views(
        self, keys: jax.Array, number: int, sampling: Sampling | None = None, extra: Collection[str] = ()
    ) -> Views:
        """Views of several keys: one scene after another, or side by side on a GPU."""
        scan, side_by_side = (
            partial(way, number, sampling, extra) for way in (self._scanned, self._side_by_side)
        )
        if not self._renders_batches:
            return lax.map(scan, keys)
        if self.kernel == "auto":  # the same program may be compiled for a CPU, too
            return lax.platform_dependent(keys, cuda=side_by_side, default=partial(lax.map, scan))
        return side_by_side(keys)

    def _scanned(
        self, number: int, sampling: Sampling | None, extra: Collection[str], key: jax.Array
    ) -> Views:
        return self._looked_at(number, extra, key, _seen(self.renderer, extra, self._scene(sampling, key)))

    def _side_by_side(
        self, number: int, sampling: Sampling | None, extra: Collection[str], keys: jax.Array
    ) -> Views:
        render: TileKernel | BranchFree = TileKernel(self.renderer, interpret=self.kernel == "interpret")
        if self.kernel == "auto" and TileKernel.refusal(self.renderer):
            render = BranchFree(self.renderer)
        looked_at = jax.vmap(partial(self._looked_at, number, extra))
        return looked_at(keys, _seen(render, extra, jax.vmap(partial(self._scene, sampling))(keys)))

    def _scene(self, sampling: Sampling | None, key: jax.Array) -> tuple[Table, Opening | None]:
        """A random scene and the window that it is seen through."""
        opening = self.recipe.window.opening(jax.random.fold_in(key, WINDOW), self.grid)
        return self.draw(key, sampling=sampling), opening

    def _looked_at(self, number: int, extra: Collection[str], key: jax.Array, scene: "_Seen") -> Views:
        rendering, opening, distances = scene
        image, label, owner, _ = opening.apply(rendering, self._rows) if opening else rendering

        def seen(look: Look) -> Array:
            views = [seen_in(look, key, view, image, label, owner, self) for view in range(number)]
            return jnp.stack(views)

        look = self.recipe.look
        return Views(seen(look), label, owner, distances, seen(look.clean) if "clean" in extra else None)

    @cached_property
    def _jitted_draw(self) -> Callable[[jax.Array], Table]:
        """Draws tables whose labels count into `labelled`."""
        return jax.jit(lambda key: self._drawn(key, None, np.arange(len(self.labelled))[:, None]))

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document (jitted)."""
        return self.scene(sample_key(np.uint32(seed), np.uint32(index)))

    def scene(self, key: jax.Array) -> Scene:
        """The sample of a key as a scene document (jitted)."""
        table = jax.tree.map(np.asarray, self._jitted_draw(key))
        rows = range(int(table.number))
        whole = np.arange(len(table.branch)) if table.whole is None else table.whole
        objects = (tuple(of) for _, of in itertools.groupby(rows, lambda i: whole[i]))
        return Scene(self.grid, tuple(self._document(table, of) for of in objects))

    def _document(self, table: Table, rows: Sequence[int]) -> SceneObject:
        """The object in these rows of a table whose labels count into `labelled`."""
        first = rows[0]
        shape: Any = self.renderer.structures[table.branch[first]].unpack(table.row[first])
        shape = shape.parts if isinstance(shape, Region) else shape
        drawn = [int(table.label[i, 0]) for i in rows]
        name = self.labelled[drawn[0]].family.name
        inverse = np.concatenate([table.inverse[first], [[0, 0, 0, 1]]])
        labels = [tuple(self._labels[1][c].tolist()) for c in drawn]
        mappers = [self.recipe.mappers[table.mapper[i]] for i in rows]
        names = [self.labelled[c].part for c in drawn]
        return SceneObject(
            labels[0],
            name,
            unions.describe(self.vocabulary, name, shape),
            inverse.tolist(),
            self._displacement_names[table.displacement[first]],
            mappers[0],
            tuple(map(ScenePart, names, labels, mappers)) if names[0] else (),
        )

    def render(self, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a scene document, named things taken from the recipe's vocabulary (jitted)."""
        return next(render_scenes([scene], self.vocabulary))


@dataclasses.dataclass(frozen=True)
class MixedProgram(World):
    """A compiled `Mixture`: every sample comes from one of its parts."""

    recipe: Mixture

    @cached_property
    def parts(self) -> tuple[Program, ...]:
        """The compiled parts."""
        return tuple(Program(part.recipe) for part in self.recipe.parts)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """One label map."""
        if self.recipe.labels == "foreground":
            return (Task("class", ("foreground",)),)
        names = (name for part in self.parts for name in part.class_names)
        return (Task("class", tuple(dict.fromkeys(names))),)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Those of the parts."""
        return tuple(part.recipe for part in self.parts)

    @property
    def objects(self) -> int:
        """Greatest number of instances in a scene of any part."""
        return max(part.objects for part in self.parts)

    @cached_property
    def _ids(self) -> list[np.ndarray]:
        """Of every part, its label ids (background first) in the common label space."""
        dtype = np.uint8 if self.num_classes < 256 else np.uint16
        if self.recipe.labels == "foreground":
            rows = [[0] + [1] * part.num_classes for part in self.parts]
        else:
            rows = [[0, *(self.class_names.index(n) + 1 for n in part.class_names)] for part in self.parts]
        return [np.asarray(row, dtype) for row in rows]

    def _choose(self, key: jax.Array) -> tuple[Int[Array, ""], jax.Array]:
        """Which part a sample is of, and the key it is drawn with there."""
        choice, rest = jax.random.split(key)
        weights = jnp.asarray([part.weight for part in self.recipe.parts])
        return jax.random.categorical(choice, jnp.log(weights)), rest

    def views(
        self, key: jax.Array, number: int, sampling: Sampling | None = None, extra: Collection[str] = ()
    ) -> Views:
        """Looks of a scene of one of the parts, with its label ids in the common label space."""
        part, rest = self._choose(key)
        objects = self.objects

        def of(program: Program, ids: np.ndarray, key: jax.Array) -> Views:
            own = sampling and sampling._replace(class_logits=sampling.class_logits[ids[1:] - 1])
            views = program.views(key, number, own, extra)
            return views._replace(
                label=jnp.asarray(ids)[views.label], owner=views.owner.astype(whole_numbers(objects))
            )

        draws = [partial(of, *pair) for pair in zip(self.parts, self._ids, strict=True)]
        views = lax.switch(part, draws, rest)

        def seen(look: Look, images: Array) -> Array:
            shown = (image.astype(jnp.float32) for image in images)
            return jnp.stack(
                [seen_in(look, key, v, i, views.label, views.owner, self) for v, i in enumerate(shown)]
            )

        look = self.recipe.look
        clean = None if views.clean is None else seen(look.clean, views.clean)
        return views._replace(images=seen(look, views.images), clean=clean)

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document (jitted); class ids are of the common label space."""
        part, key = self._choose(sample_key(np.uint32(seed), np.uint32(index)))
        program, ids = self.parts[int(part)], self._ids[int(part)]
        scene = program.scene(key)
        return Scene(scene.grid, tuple(o.relabelled(lambda label: int(ids[label])) for o in scene.objects))


_Seen = tuple[Rendering, Opening | None, Any]


def _seen(
    renderer: Renderer | TileKernel | BranchFree, extra: Collection[str], scene: tuple[Table, Opening | None]
) -> _Seen:
    """Of a scene, or of several, what a renderer gives, the window, and distances where they are asked for."""
    table, opening = scene
    rendering, edges = renderer.render(table), opening and opening.edges
    asked = "distances" in extra
    return rendering, opening, renderer.distances(table, rendering.volumes, edges) if asked else None


def _factor(key: jax.Array, drawn: Array, fixed: Sequence[str | None], names: Sequence[str]) -> Array:
    """Positions in ``names``: what the drawn class fixes, or at random where it fixes nothing."""
    if fixed[0] is None:
        return jax.random.randint(key, drawn.shape, 0, len(names))
    return jnp.asarray([list(names).index(str(name)) for name in fixed])[drawn]
