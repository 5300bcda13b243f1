"""What a fit finds: a member of a family, its pose in millimetres, and how well it covers the mask."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fdif_jax.fitting.free_parameters import FreeParameters
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.scenes.documents import Scene, SceneObject, ScenePart
from fdif_jax.sdf.affine import move
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.masks import dice_of
from fdif_jax.sdf.shape import Point, Shape
from fdif_jax.vocabulary.vocabulary import NONE, Family, Vocabulary, parts_of


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted member of a family."""

    family: Family  # which family
    free: FreeParameters  # its free parameters
    u: np.ndarray  # their fitted unbounded values, ``(F,)``
    row: np.ndarray  # all numbers of the shape, ``(W,)``
    # shape → scanner, orthogonal ``(3, 3)``; its determinant is -1 where the shape is mirrored
    rotation: np.ndarray
    centre: np.ndarray  # where the shape's origin lies, ``(3,)``, millimetres
    scale: float  # millimetres a unit of the shape
    scale_is_free: bool  # whether the scale was fitted, too
    mask: Mask  # what was fitted

    @functools.cached_property
    def dice(self) -> float:
        """Dice of shape and mask at the centres of all voxels of the mask's volume."""
        matrix = np.vstack([self.to_local, [0, 0, 0, 1]]) @ np.vstack([self.mask.grid_to_mm, [0, 0, 0, 1]])
        inside = jnp.asarray(self.mask.inside)
        held, both = _counts(self.shape, jnp.asarray(matrix[:3], jnp.float32), inside)
        return float(dice_of(int(both), int(held), np.count_nonzero(self.mask.inside)))

    @property
    def mirrored(self) -> bool:
        """Whether the pose is a mirror image."""
        return bool(np.linalg.det(self.rotation) < 0)

    @property
    def shape(self) -> Shape:
        """The member, in its own units."""
        return self.free.structure.unpack(jnp.asarray(self.row, jnp.float32))

    @property
    def values(self) -> dict[str, float]:
        """The free parameters by name, in the shape's own units."""
        return dict(zip(self.free.free_names, map(float, self.row[self.free.free]), strict=True))

    @property
    def to_local(self) -> np.ndarray:
        """``(3, 4)``: millimetres → the shape's own units."""
        linear = self.rotation.T / self.scale
        return np.column_stack([linear, -linear @ self.centre])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance in millimetres, ``(n,)``, at points ``(n, 3)`` in millimetres."""
        local = points @ self.to_local[:, :3].T + self.to_local[:, 3]
        return np.asarray(_evaluated(self.shape, Point(*local.T.astype(np.float32)))) * self.scale

    def scene(self, vocabulary: Vocabulary) -> Scene:
        """The fitted shape as a scene on the mask's own voxels and spacing; its label lies voxel on voxel on the mask.

        ``vocabulary`` is one that knows the family; its first mapper draws the image.
        """
        spacing = np.linalg.norm(self.mask.affine[:3, :3], axis=0)
        to_mm = np.vstack([self.mask.grid_to_mm / [*spacing[::-1], 1], [0, 0, 0, 1]])
        inverse = np.vstack([self.to_local, [0, 0, 0, 1]]) @ to_mm
        name, mapper = self.family.name, vocabulary.mappers[0].name
        params = vocabulary.describe(name, self.shape)
        parts = tuple(ScenePart(part, (i,), mapper) for i, part in enumerate(parts_of(self.family), 1))
        made = SceneObject((1,), name, params, inverse.tolist(), NONE, mapper, parts)
        return Scene(Grid(*self.mask.inside.shape, spacing=spacing), (made,))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data: free parameters with their bounds, pose, Dice."""
        bounds = zip(self.free.lower, self.free.upper, strict=True)
        return {
            "mask": self.mask.name,
            "family": self.family.name,
            "dice": self.dice,
            "parameters": {
                name: {"value": value, "lower": float(low), "upper": float(high)}
                for (name, value), (low, high) in zip(self.values.items(), bounds, strict=True)
            },
            "pose": {
                "scale_mm": self.scale,
                "scale_is_free": self.scale_is_free,
                "mirrored": self.mirrored,
                "centre_mm": self.centre.tolist(),
                "rotation": self.rotation.tolist(),
            },
        }


@jax.jit
def _evaluated(shape: Shape, p: Point) -> Array:
    return jnp.broadcast_to(shape(p), jnp.shape(p.x))


@jax.jit
def _counts(shape: Shape, matrix: Array, inside: Array) -> tuple[Array, Array]:
    """How many voxels the shape holds, and how many of them the mask does; plane by plane, to save memory."""
    grid = Grid(*inside.shape)

    def plane(given: tuple[Array, Array]) -> tuple[Array, Array]:
        z, mask = given
        p = grid.tile((z, 0, 0), (1, *grid[1:]))
        held = jnp.broadcast_to(shape(move(matrix, p)) < 0, (1, *grid[1:]))[0]
        return held.sum(), (held & mask).sum()

    held, both = lax.map(plane, (jnp.arange(grid.depth), inside))
    return held.sum(), both.sum()
