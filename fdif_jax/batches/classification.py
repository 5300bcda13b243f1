"""Batches of centred objects for training a classifier: each of a class at random, drawn on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fdif_jax.datasets.classification import classes_of, images
from fdif_jax.keys import CLASS
from fdif_jax.scenes.compiler import Program


def classification_batch(
    program: Program, multilabel: bool
) -> Callable[[jax.Array, Any], tuple[Float[Array, "B D H W 1"], Int[Array, "B L"]]]:
    """``make_batch(keys, data)`` for training: an image of a class at random for every key, and its labels from 0.

    Images are normalised; what changes them further takes what this gives, and the same keys. The program's recipe is
    `centred`; labels and errors are as of `classes_of`.
    """
    rows = np.array(classes_of(program, multilabel)[0], np.int32).reshape(len(program.classes), -1)
    render = images(program)

    def sample(key: jax.Array) -> tuple[Array, Array]:
        drawn = jax.random.randint(jax.random.fold_in(key, CLASS), (), 0, len(rows))
        (image,) = render(key, drawn)
        return image[0, ..., None], jnp.asarray(rows)[drawn]

    def make_batch(keys: jax.Array, data: Any = None) -> tuple[Array, Array]:
        return jax.lax.map(sample, keys)  # never vmap, which would run every branch of the renderer

    return make_batch
