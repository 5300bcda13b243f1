"""What a fit looks at of a mask: points in millimetres, how deep each lies, and the mask's pose."""

import dataclasses
import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.io.labels import whole_numbers
from fdif_jax.io.volumes import read_volume
from fdif_jax.sdf.masks import extent, signed_distance
from fdif_jax.sdf.shape import Point

_MARGIN = 0.35  # of the mask's extent, kept around it
_BAND = 3.0  # voxels from the surface within which points are most dense


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """A binary mask in space; FdifError if nothing is inside, or nothing outside."""

    inside: np.ndarray  # bool ``(D, H, W)``, in the file's axis order
    affine: np.ndarray  # ``(4, 4)``, voxel index → millimetres
    name: str = "the mask"  # what errors call it

    def __post_init__(self) -> None:
        if self.inside.ndim != 3:
            raise FdifError(f"{self.name}: shape {self.inside.shape}; a mask has 3 axes")
        count = int(np.count_nonzero(self.inside))
        if count in (0, self.inside.size):
            raise FdifError(f"{self.name}: {'no' if count == 0 else 'every'} voxel is inside; nothing to fit")

    @classmethod
    def load(cls, path: str | os.PathLike, label: int | None = None) -> "Mask":
        """The mask of a volume's file: what is not zero, or what has this label; FdifError if that is nothing."""
        volume = read_volume(path)
        array = whole_numbers(path, volume.array)
        inside = array != 0 if label is None else array == label
        if not inside.any():
            labels = ", ".join(f"{value:g}" for value in np.unique(array)[:12])
            which = "not zero" if label is None else f"labelled {label}"
            raise FdifError(f"{path}: no voxel is {which}, so there is nothing to fit; it holds {labels}")
        return cls(inside, volume.affine, os.fspath(path))

    @property
    def grid_to_mm(self) -> np.ndarray:
        """``(3, 4)``: a point (x, y, z) of the volume's `Grid` → millimetres; x is the file's last axis."""
        linear = self.affine[:3, 2::-1]
        middle = self.affine[:3, :3] @ [n // 2 for n in self.inside.shape] + self.affine[:3, 3]
        return np.column_stack([linear, middle])


class Points(NamedTuple):
    """Points of a mask; all arrays float32 of one length."""

    at: Point  # coordinates, millimetres from the mask's centroid
    # signed distance to the mask's surface, millimetres, negative inside
    depth: Float[Array | np.ndarray, " N"]
    weight: Float[Array | np.ndarray, " N"]  # how much of the volume each stands for; sums to 1


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A mask as a fit needs it, millimetres from its centroid."""

    centroid: np.ndarray  # of the mask, ``(3,)``, millimetres
    axes: np.ndarray  # columns are its principal axes, longest first, a proper rotation ``(3, 3)``
    volume: float  # mm³
    voxel: float  # edge of a cube of a voxel's volume, mm
    # ``(N, 3)``, voxel centres in a box around it that the volume's own edges cut: what lies beyond them is
    # not known and not asked for
    points: np.ndarray
    depth: np.ndarray  # ``(N,)``, signed distance there, negative inside
    surface: np.ndarray  # ``(M, 3)``, midpoints between neighbours of which one is inside

    @property
    def radius(self) -> float:
        """Radius of the ball of the mask's volume, mm."""
        return float((self.volume * 3 / (4 * np.pi)) ** (1 / 3))

    @classmethod
    def of(cls, mask: Mask) -> "Target":
        """Measure a mask."""
        spacing = np.linalg.norm(mask.affine[:3, :3], axis=0)
        crop, start = _crop(mask.inside)
        to_mm = mask.affine[:3, :3], mask.affine[:3, 3]
        points = (np.argwhere(np.ones_like(crop)) + start) @ to_mm[0].T + to_mm[1]
        held = points[crop.ravel()]
        centroid = held.mean(axis=0)
        surface = (_between(crop) + start) @ to_mm[0].T + to_mm[1]
        volume = float(abs(np.linalg.det(to_mm[0])))
        return cls(
            centroid,
            principal_axes(np.cov(held.T, bias=True) if len(held) > 1 else np.eye(3)),
            volume * len(held),
            volume ** (1 / 3),
            (points - centroid).astype(np.float32),
            signed_distance(crop, spacing).ravel(),
            (surface - centroid).astype(np.float32),
        )

    def sample(self, count: int, rng: np.random.Generator) -> Points:
        """``count`` points, densest near the surface, with weights that make up for it."""
        away = np.abs(self.depth) / (_BAND * self.voxel)
        chance = _chances(np.where(away < 1, 1.0, 1 / (1 + np.square(away))), count)
        # Every count-th part of the summed chances picks a point, so that none comes twice.
        order = rng.permutation(len(chance))
        picked = np.searchsorted(np.cumsum(chance[order]), np.arange(round(chance.sum())) + rng.uniform())
        index = order[np.minimum(picked, len(order) - 1)]
        weight = np.pad(1 / chance[index], (0, count - len(index)))
        index = np.pad(index, (0, count - len(index)))
        return Points(
            Point(*self.points[index].T), self.depth[index], (weight / weight.sum()).astype(np.float32)
        )

    def sample_surface(self, count: int, rng: np.random.Generator) -> Point:
        """``count`` points of the surface."""
        return Point(*self.surface[rng.choice(len(self.surface), count)].T)


def _chances(likely: np.ndarray, count: int) -> np.ndarray:
    """Chances in proportion to ``likely`` but at most 1 that sum to ``count``, or to all there are."""
    factor = count / likely.sum()
    for _ in range(20):
        certain = factor * likely >= 1
        rest = likely[~certain].sum()
        if not rest or count <= certain.sum():
            break
        factor = (count - certain.sum()) / rest
    return np.minimum(factor * likely, 1.0)


def _crop(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask with a margin, cut at the volume's edges, and the index of its first voxel."""
    first, stop = extent(inside)
    margin = np.maximum(4, np.round(_MARGIN * (stop - first)).astype(int))
    first, stop = np.maximum(first - margin, 0), np.minimum(stop + margin, inside.shape)
    return inside[tuple(map(slice, first, stop))], first


def _between(crop: np.ndarray) -> np.ndarray:
    """Midpoints, in indices, of neighbours of which one is inside."""
    return np.concatenate([np.argwhere(np.diff(crop, axis=axis)) + np.eye(3)[axis] / 2 for axis in range(3)])


def principal_axes(covariance: np.ndarray) -> np.ndarray:
    """Columns: the principal axes of a covariance, longest first, as a proper rotation."""
    axes = np.linalg.eigh(covariance)[1][:, ::-1]
    return axes * [1, 1, np.sign(np.linalg.det(axes))]
