"""Batches that are made inside the training step: scenes drawn and rendered on the device, and their augmentation."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from fdif_jax.batches.augmentation import random_intensity
from fdif_jax.keys import AUGMENTATION, OTHER_AUGMENTATIONS, view_key
from fdif_jax.objectives.combined import Combined, Targets
from fdif_jax.rendering.look import normalise
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scenes.world import World
from fdif_jax.training.updates import MakeBatch


def scene_batch(program: World) -> MakeBatch:
    """``make_batch`` for `fit` from a compiled recipe; images are normalised.

    The scene of sample n of a seed is the one that `fdif generate` writes as n, where no curriculum changes how scenes
    are drawn.
    """

    def make_batch(
        keys: jax.Array, sampling: Sampling | None
    ) -> tuple[Float[Array, "B D H W 1"], Integer[Array, "B *tasks D H W"]]:
        images, labels = program.batch(keys, sampling)
        return normalise(images)[..., None], labels

    return make_batch


def views_batch(program: World, objective: Combined, *, augment: bool) -> MakeBatch:
    """``make_batch`` for several objectives: images ``(B, V, D, H, W, 1)`` and `Targets`.

    The first look is the one that `scene_batch` gives.

    Args:
        program: a compiled recipe.
        objective: which says how many looks V of every scene, and what of it is learnt.
        augment: every look has a random intensity change of its own (`random_intensity`); what is learnt has none.
    """
    looks = objective.looks

    def changed(key: jax.Array, images: Array) -> Array:
        if not augment:
            return images
        keys = [view_key(key, v, AUGMENTATION, OTHER_AUGMENTATIONS) for v in range(looks)]
        return jnp.stack([random_intensity(k, image) for k, image in zip(keys, images, strict=True)])

    def make_batch(keys: jax.Array, sampling: Sampling | None) -> tuple[Float[Array, "B V D H W 1"], Targets]:
        views = program.batch_views(keys, looks, sampling, objective.extra)
        images = jax.vmap(changed)(keys, jax.vmap(normalise)(views.images))
        clean = None if views.clean is None else jax.vmap(normalise)(views.clean)
        return images[..., None], Targets(views.label, views.owner, keys, views.distances, clean)

    return make_batch


def with_augmentation(make_batch: MakeBatch) -> MakeBatch:
    """The same batches, the image of every sample with a random look of its key (`random_intensity`)."""

    def look(key: jax.Array, image: Array) -> Array:
        return random_intensity(jax.random.fold_in(key, AUGMENTATION), image)

    def changed(keys: jax.Array, data: Any) -> tuple[Float[Array, "B D H W C"], Integer[Array, "B ..."]]:
        images, labels = make_batch(keys, data)
        return jax.vmap(look)(keys, images), labels

    return changed
