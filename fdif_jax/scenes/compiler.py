"""The compiler: from a recipe to one program that draws scenes and renders them.

Stages, each usable alone: the recipe's classes (`classes_of`), a drawn `Table` (`Program.draw`), the rendered
volumes (`Renderer`), their look (`Look`). Sample i of seed s depends on nothing but (recipe, s, i).
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from fdif_jax.errors import FdifError
from fdif_jax.keys import LOOK, OTHER_LOOKS, sample_key, view_key
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.look import Look, to_grey_levels
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import Renderer, Rendering, Table, whole_numbers
from fdif_jax.scenes.classes import Families, ObjectClass, classes_of, tasks_of
from fdif_jax.scenes.documents import Scene, SceneObject
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scenes.recipe import Mixture, Recipe
from fdif_jax.scenes.replay import render_scenes
from fdif_jax.sdf.grid import Grid
from fdif_jax.tasks import Task
from fdif_jax.vocabulary import unions
from fdif_jax.vocabulary.vocabulary import NONE, Vocabulary

Kernel = Literal["auto", "off", "on", "interpret"]
Volumes = tuple[UInt[Array, "D H W"], UInt[Array, "*tasks D H W"]]
Batch = tuple[UInt[Array, "B D H W"], UInt[Array, "B *tasks D H W"]]


class Views(NamedTuple):
    """Several looks of one scene, and what all of them show; with a leading batch axis where there are several.

    Attributes:
        images: uint8 ``(V, D, H, W)``, 0 … 128; the first one is the sample's image.
        label: class ids, ``(D, H, W)``, or ``(T, D, H, W)`` with several tasks.
        owner: which instance owns a voxel, ``(D, H, W)``; 0 is background.
        distances: to the owner's surface and to the nearest boundary, float32 ``(2, D, H, W)``, as
            `Renderer.distances` has them; None where they are not asked for.
        clean: the images without what degrades them (`Look.clean`), uint8 ``(V, D, H, W)``; None likewise.
    """

    images: UInt[Array, "V D H W"]
    label: UInt[Array, "*tasks D H W"]
    owner: UInt[Array, "D H W"]
    distances: Float[Array, "2 D H W"] | None = None
    clean: UInt[Array, "V D H W"] | None = None


def compile(recipe: Recipe | Mixture, *, kernel: Kernel = "auto") -> "World":
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


class World:
    """What all programs can do. Methods without a note on jit are pure and may be used inside `jax.jit`."""

    recipe: Any

    @property
    def grid(self) -> Grid:
        """Voxels ``(D, H, W)``."""
        return Grid(*self.recipe.grid)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The label maps; several where labels are ``(T, D, H, W)``."""
        raise NotImplementedError

    @property
    def objects(self) -> int:
        """Greatest number of objects in a scene."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes of the (first) label map; label id = position + 1."""
        return self.tasks[0].class_names

    @property
    def num_classes(self) -> int:
        """Number of foreground classes of the (first) label map."""
        return len(self.class_names)

    def sample(self, key: jax.Array, sampling: Sampling | None = None) -> Volumes:
        """Image (uint8, 0 … 128) and label (uint8 or uint16), both ``(D, H, W)``, of a random scene.

        With several tasks the label is ``(T, D, H, W)``. With a ``sampling`` the scene is another one, drawn so.
        """
        images, label, *_ = self.views(key, 1, sampling)
        return images[0], label

    def views(
        self, key: jax.Array, number: int, sampling: Sampling | None = None, extra: Collection[str] = ()
    ) -> Views:
        """``number`` looks of the scene that `sample` shows; they differ as far as the recipe's look is random.

        Args:
            key: of the sample.
            number: V, of looks.
            sampling: what is drawn otherwise than the recipe says.
            extra: what else is asked for, of ``"distances"`` and ``"clean"``.
        """
        raise NotImplementedError

    def batch_views(
        self, keys: jax.Array, number: int, sampling: Sampling | None = None, extra: Collection[str] = ()
    ) -> Views:
        """Views of several keys, one scene after another: never under `vmap`, which would run every branch."""
        return lax.map(lambda key: self.views(key, number, sampling, extra), keys)

    def batch(self, keys: jax.Array, sampling: Sampling | None = None) -> Batch:
        """Samples of several keys, as `batch_views` draws them."""
        images, labels, *_ = self.batch_views(keys, 1, sampling)
        return images[:, 0], labels

    @cached_property
    def _jitted_sample(self) -> Callable[[Any, Any], Volumes]:
        return jax.jit(lambda seed, index: self.sample(sample_key(seed, index)))

    def sample_at(self, seed: int, index: int) -> Volumes:
        """Sample ``index`` of ``seed``, jitted; the same whatever batch, device or process draws it."""
        return self._jitted_sample(np.uint32(seed), np.uint32(index))

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document (jitted)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Program(World):
    """A compiled `Recipe`; ``kernel`` as in `compile`."""

    recipe: Recipe
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        _ = self._labels  # what cannot be labelled is an error now

    @property
    def vocabulary(self) -> Vocabulary:
        """What the recipe's names mean."""
        return self.recipe.resolved

    @cached_property
    def classes(self) -> tuple[ObjectClass, ...]:
        """What an object can be."""
        return classes_of(self.recipe)

    @cached_property
    def _labels(self) -> tuple[tuple[Task, ...], np.ndarray]:
        """The label maps, and the id of each class in each of them, ``(classes, T)``."""
        return tasks_of(self.recipe, self.classes)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The label maps; several with ``multi_task``."""
        return self._labels[0]

    @property
    def objects(self) -> int:
        """Greatest number of objects in a scene."""
        return self.recipe.max_objects

    @cached_property
    def _displacement_names(self) -> list[str]:
        return [NONE, *(d for d in self.recipe.displacements if d != NONE)]

    @cached_property
    def families(self) -> Families:
        """The recipe's families, grouped by how they are drawn."""
        return Families.of(tuple(dict.fromkeys(c.family for c in self.classes)), self.grid)

    @cached_property
    def renderer(self) -> Renderer:
        """Renders the tables this program draws."""
        return Renderer(
            self.grid,
            self.families.structures,
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
        label = jnp.asarray(self._labels[1], jnp.int32)[drawn]
        table = Table(count, branch, row, inverse, displacement, mapper, label)
        return placement.place(pose_key, self, table, None if sampling is None else sampling.scale)

    def _class_logits(self, sampling: Sampling) -> Float[Array, " classes"]:
        """Those of the label maps' classes for what an object can be: sums over the maps."""
        tasks, ids = self._labels
        first = np.cumsum([0, *(len(task.class_names) for task in tasks[:-1])])
        return jnp.sum(sampling.class_logits[ids - 1 + first], axis=1)

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
        return self._looked_at(
            number, extra, key, *_rendered(self.renderer, self.draw(key, sampling=sampling), extra)
        )

    def _side_by_side(
        self, number: int, sampling: Sampling | None, extra: Collection[str], keys: jax.Array
    ) -> Views:
        render: TileKernel | BranchFree = TileKernel(self.renderer, interpret=self.kernel == "interpret")
        if self.kernel == "auto" and TileKernel.refusal(self.renderer):
            render = BranchFree(self.renderer)
        looked_at = jax.vmap(partial(self._looked_at, number, extra))
        tables = jax.vmap(partial(self.draw, sampling=sampling))(keys)
        return looked_at(keys, *_rendered(render, tables, extra))

    def _looked_at(
        self, number: int, extra: Collection[str], key: jax.Array, rendering: Rendering, distances: Any
    ) -> Views:
        image, label, owner, _ = rendering

        def seen(look: Look) -> Array:
            views = [_seen(look, key, view, image, label, owner, self.objects) for view in range(number)]
            return jnp.stack(views)

        look = self.recipe.look
        return Views(seen(look), label, owner, distances, seen(look.clean) if "clean" in extra else None)

    @cached_property
    def _jitted_draw(self) -> Callable[[jax.Array], Table]:
        return jax.jit(self.draw)

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document (jitted)."""
        return self.scene(sample_key(np.uint32(seed), np.uint32(index)))

    def scene(self, key: jax.Array) -> Scene:
        """The sample of a key as a scene document (jitted)."""
        table = jax.tree.map(np.asarray, self._jitted_draw(key))
        ids = [tuple(row) for row in self._labels[1].tolist()]
        objects = []
        for i in range(int(table.number)):
            shape = self.families.structures[table.branch[i]].unpack(table.row[i])
            labels = tuple(table.label[i].tolist())
            name = self.classes[ids.index(labels)].family.name
            inverse = np.concatenate([table.inverse[i], [[0, 0, 0, 1]]])
            objects.append(
                SceneObject(
                    labels,
                    name,
                    unions.describe(self.vocabulary, name, shape),
                    inverse.tolist(),
                    self._displacement_names[table.displacement[i]],
                    self.recipe.mappers[table.mapper[i]],
                )
            )
        return Scene(self.grid, tuple(objects))

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
    def objects(self) -> int:
        """Greatest number of objects in a scene of any part."""
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
                [_seen(look, key, v, i, views.label, views.owner, objects) for v, i in enumerate(shown)]
            )

        look = self.recipe.look
        clean = None if views.clean is None else seen(look.clean, views.clean)
        return views._replace(images=seen(look, views.images), clean=clean)

    def scene_at(self, seed: int, index: int) -> Scene:
        """Sample ``index`` of ``seed`` as a scene document (jitted); class ids are of the common label space."""
        part, key = self._choose(sample_key(np.uint32(seed), np.uint32(index)))
        program, ids = self.parts[int(part)], self._ids[int(part)]
        scene = program.scene(key)
        objects = (dataclasses.replace(o, class_id=(int(ids[o.class_id[0]]),)) for o in scene.objects)
        return Scene(scene.grid, tuple(objects))


def _rendered(
    renderer: Renderer | TileKernel | BranchFree, table: Table, extra: Collection[str]
) -> tuple[Rendering, Any]:
    """What a renderer gives of a table, or of several, and distances where they are asked for."""
    rendering = renderer.render(table)
    return rendering, renderer.distances(table, rendering.volumes) if "distances" in extra else None


def _seen(
    look: Look, key: jax.Array, view: int, image: Array, label: Array, owner: Array, objects: int
) -> Array:
    """The image of the sample of ``key`` as a recipe's look has it, in grey levels; ``view`` counts its looks."""
    if look.changes_images:
        image = look.apply(view_key(key, view, LOOK, OTHER_LOOKS), image, label, owner, objects)
    return to_grey_levels(image)


def _factor(key: jax.Array, drawn: Array, fixed: Sequence[str | None], names: Sequence[str]) -> Array:
    """Positions in ``names``: what the drawn class fixes, or at random where it fixes nothing."""
    if fixed[0] is None:
        return jax.random.randint(key, drawn.shape, 0, len(names))
    return jnp.asarray([list(names).index(str(name)) for name in fixed])[drawn]
