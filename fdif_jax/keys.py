"""Every random stream: of a seed's samples, within a sample, and beside the samples.

Sample i of a seed has the key ``fold_in(key(seed), i)``. What a sample draws is split from its key, but for streams
that were added to it: those are folded from it with numbers of their own. What a run draws beside its samples is
folded from the one number that no sample has.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

RESERVED_SEEDS = 2**31
"""Seeds from here on are for evaluation: training never draws from them."""

BEYOND_SAMPLES = 2**32 - 1
"""A seed has fewer samples than this; its other streams are folded from here."""

LOOK, CLASS, AUGMENTATION = 7, 11, 13
"""What a sample's key is folded with for the look of its image, the class of its one object, and its random look in
training; below 4 lie the streams of a scene."""

OTHER_LOOKS, VOXELS, OTHER_AUGMENTATIONS = 17, 19, 23
"""The same for further looks of a scene (each folded in by its number, from 1), for the voxels that are compared, and
for the random looks of further looks in training."""

WINDOW = 29
"""The same for the window that a scene is seen through."""

_STREAMS = ("network", "cases", "folds", "heads")


def sample_key(seed: int | np.integer | Array, index: int | np.integer | Array) -> jax.Array:
    """The random key of sample ``index`` of ``seed``: ``fold_in(key(seed), index)``."""
    return jax.random.fold_in(jax.random.key(seed), index)


def sample_keys(seed: int, start: int | Array, count: int) -> jax.Array:
    """The keys ``(count,)`` of ``count`` samples of ``seed`` from number ``start`` on."""
    return jax.vmap(lambda i: sample_key(seed, i))(start + jnp.arange(count, dtype=jnp.uint32))


def view_key(key: jax.Array, view: int, first: int, others: int) -> jax.Array:
    """The key of look ``view`` of a sample: folded with ``first`` for view 0, with ``others`` and its number after."""
    return (
        jax.random.fold_in(jax.random.fold_in(key, others), view) if view else jax.random.fold_in(key, first)
    )


def stream(seed: int | Array, name: str) -> jax.Array:
    """The key of a random stream of a seed beside its samples: network, cases, folds or heads."""
    beyond = jax.random.fold_in(jax.random.key(jnp.uint32(seed)), BEYOND_SAMPLES)
    return jax.random.fold_in(beyond, _STREAMS.index(name))
