"""Objects of several labels in a table: a row a part, drawn and placed as one object before."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fdif_jax.rendering.renderer import Table
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.structure import Structure


@dataclasses.dataclass(frozen=True)
class PartRows:
    """How the rows of objects become those of their parts.

    Attributes:
        structures: those of the objects, into which the branches of their table count, and after them those of what
            their parts show, into which the branches of parts count.
        first: of every object's structure, the branch of its first part; its own where it has none.
        counts: of every object's structure, how many rows it takes.
    """

    structures: tuple[Structure, ...]
    first: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, wholes: Sequence[Structure]) -> "PartRows":
        """The rows of objects of these structures."""
        structures, first, counts = list(wholes), [], []
        for branch, whole in enumerate(wholes):
            empty = whole.empty
            regions = [Structure.of(region) for region in empty.regions] if isinstance(empty, Parts) else []
            first.append(len(structures) if regions else branch)
            counts.append(max(len(regions), 1))
            structures += regions
        return cls(tuple(structures), tuple(first), tuple(counts))

    @property
    def most(self) -> int:
        """How many rows an object takes at most."""
        return max(self.counts)

    def expand(self, table: Table, mapper: Int[Array, "n P"], label: Int[Array, "n P T"]) -> Table:
        """The table of parts of a table of objects; the rows of an object follow each other, and stay in order.

        Args:
            table: the objects.
            mapper: of every part, up to `most` an object.
            label: class ids of every part.
        """
        size = table.branch.size
        part, counts = jnp.arange(self.most), jnp.asarray(self.counts)[table.branch][:, None]
        there = (part < counts) & (jnp.arange(size) < table.number)[:, None]
        branch = jnp.asarray(self.first)[table.branch][:, None] + jnp.minimum(part, counts - 1)
        order = jnp.argsort(~there.ravel(), stable=True)
        each = jax.tree.map(
            lambda column: jnp.repeat(column, self.most, axis=0), table._replace(number=table.branch)
        )
        rows = each._replace(
            branch=branch.ravel(),
            mapper=mapper.ravel(),
            label=label.reshape(-1, label.shape[-1]),
            whole=jnp.repeat(jnp.arange(size), self.most),
        )
        return jax.tree.map(lambda column: column[order], rows)._replace(
            number=jnp.sum(there, dtype=jnp.int32)
        )


class ClassParts(NamedTuple):
    """Where the parts of classes are in a list of all of them, those of a class in consecutive places.

    Attributes:
        rows: of every class, the places of its parts, the last of them again up to the greatest number, ``(C, P)``.
        there: which of these are parts.
    """

    rows: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, counts: Sequence[int]) -> "ClassParts":
        """Of classes of so many parts."""
        part, number = np.arange(max(counts)), np.asarray(counts)[:, None]
        return cls(np.cumsum(number)[:, None] - number + np.minimum(part, number - 1), part < number)

    @property
    def most(self) -> int:
        """The greatest number of parts."""
        return self.rows.shape[1]

    def mean(self, values: Float[Array, " L"]) -> Float[Array, " C"]:
        """Of every class, the mean of its parts' values."""
        return jnp.sum(values[self.rows] * self.there, axis=1) / self.there.sum(1)
