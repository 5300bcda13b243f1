"""What every program of scenes can do: samples of keys, and several looks of one scene."""

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt

from fdif_jax.keys import LOOK, OTHER_LOOKS, sample_key, view_key
from fdif_jax.rendering.look import Look, to_grey_levels
from fdif_jax.scenes.documents import Scene
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scenes.recipe import Recipe
from fdif_jax.sdf.grid import Grid
from fdif_jax.tasks import Task

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


class World:
    """What all programs can do. Methods without a note on jit are pure and may be used inside `jax.jit`."""

    recipe: Any

    @property
    def grid(self) -> Grid:
        """Voxels ``(D, H, W)``, and their spacing."""
        return Grid(*self.recipe.grid, spacing=self.recipes[0].spacing)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The label maps; several where labels are ``(T, D, H, W)``."""
        raise NotImplementedError

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipe, or those of a mixture's parts."""
        raise NotImplementedError

    @property
    def objects(self) -> int:
        """Greatest number of instances in a scene: objects, and what a window adds."""
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


def seen_in(
    look: Look, key: jax.Array, view: int, image: Array, label: Array, owner: Array, world: World
) -> Array:
    """The image of the sample of ``key`` as a recipe's look has it, in grey levels; ``view`` counts its looks."""
    if look.changes_images:
        own = view_key(key, view, LOOK, OTHER_LOOKS)
        image = look.apply(own, image, label, owner, world.objects, world.class_names)
    return to_grey_levels(image)
