"""The program part of a shape, and its parameters as a row of numbers."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.sdf.shape import Shape


@dataclasses.dataclass(frozen=True)
class Structure:
    """The program part of a shape: what is left when its parameters are taken out."""

    treedef: Any
    sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Shape) -> "Structure":
        """The structure of a shape (of arrays, numbers or abstract values)."""
        leaves, treedef = jax.tree.flatten(shape)
        return cls(treedef, tuple(tuple(jnp.shape(leaf)) for leaf in leaves))

    @property
    def width(self) -> int:
        """How many numbers its parameters are."""
        return sum(math.prod(size) for size in self.sizes)

    @property
    def empty(self) -> Shape:
        """The shape with zeros for its parameters, to ask what it is."""
        return self.unpack(np.zeros(self.width, np.float32))

    def pack(self, shape: Shape, width: int) -> Float[Array, "{width}"]:
        """The shape's parameters as a row of ``width`` numbers, padded with zeros."""
        parts = [jnp.ravel(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(shape)]
        row = jnp.concatenate([*parts, jnp.zeros(0, jnp.float32)])
        return jnp.pad(row, (0, width - row.size))

    def unpack(self, row: Float[Array | np.ndarray, " P"]) -> Shape:
        """The shape whose parameters ``row`` holds."""
        leaves, start = [], 0
        for size in self.sizes:
            leaves.append(row[start : start + math.prod(size)].reshape(size))
            start += math.prod(size)
        return jax.tree.unflatten(self.treedef, leaves)
