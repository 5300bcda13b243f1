"""A network over a volume of any size: overlapping tiles, averaged with Gaussian weights (Isensee et al. 2021).

Tiles go to the device a batch at a time, through one compiled program whatever the volume; sums stay on the host. They
go along axis 0, so that of a volume only as many planes are summed at a time as a patch is deep, and class ids are
known a slab at a time. Of C channels and K classes a volume of N voxels, D deep, costs the host

* `TiledNetwork.labels`: ``4 C N`` bytes for the image, ``N`` for the result (2 N above 256 classes), and up to
  ``(4 K + 4) N p / D`` for the sums, p planes being a patch. That is 0.63 + 0.16 + 0.63 GB for 512×512×600 voxels of 1
  channel and 2 classes with patches of 128; measured with tiles and the rest: 1.7 GB.
* `TiledNetwork.logits`: ``4 K N`` in place of N, here 1.3 GB.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, groupby, product
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import ahead
from fdif_jax.preprocessing.spaces import GridShape, paint
from fdif_jax.training.network import Apply, Weights

# MONAI's Gaussian importance: standard deviation in patch edges, and the least weight a voxel has.
_SIGMA, _LEAST_WEIGHT = 0.125, 1e-3
_LEAST_HALF = 6e-9  # nnU-Net's least weight: the least number above 0 in half precision, of weights up to 10

Windows = Literal["monai", "nnunet"]

Progress = Callable[[int, int], None]  # is told how many tiles of a volume are done, and of how many


def gaussian_importance(patch: GridShape, windows: Windows = "monai") -> np.ndarray:
    """Weight of every voxel of a patch, float32 ``(D, H, W)``: a Gaussian around its middle, never below 1e-3.

    nnU-Net's middle is a voxel, the later one of two, and its least weight is what half precision tells from 0.
    """
    mine = windows == "monai"
    middles = [(n - 1) / 2 if mine else n // 2 for n in patch]
    edges = [
        np.exp(-0.5 * ((np.arange(n) - middle) / (_SIGMA * n)) ** 2)
        for n, middle in zip(patch, middles, strict=True)
    ]
    least = _LEAST_WEIGHT if mine else _LEAST_HALF
    return np.maximum(np.einsum("i,j,k->ijk", *edges), least).astype(np.float32)


def tile_starts(shape: GridShape, patch: GridShape, overlap: float, windows: Windows = "monai") -> np.ndarray:
    """Corners ``(T, 3)`` of the patches that cover a volume, ``1 - overlap`` of a patch apart; the last end with it.

    nnU-Net's are equally far apart, ``1 - overlap`` of a patch at most.
    """
    corners = []
    for size, edge in zip(shape, patch, strict=True):
        last = max(size - edge, 0)
        if windows == "nnunet":
            gaps = max(math.ceil(last / (edge * (1 - overlap))), 1)
            starts = {round(last / gaps * i) for i in range(gaps + 1)}
        else:
            step = max(int(edge * (1 - overlap)), 1)
            starts = {min(i, last) for i in range(0, last + step, step)}
        corners.append(sorted(starts))
    return np.array(list(product(*corners)), np.int32)


class Slab(NamedTuple):
    """Consecutive planes of a volume that no further tile touches.

    Attributes:
        start: number of the first plane.
        logits: float32 ``(d, H, W, K)``.
    """

    start: int
    logits: np.ndarray


class TiledNetwork:
    """Sliding-window inference with one compiled program for all volumes, weights and mirrorings.

    Args:
        apply: the network as in `fdif_jax.training.network.functional`.
        members: weights, one for each network of an ensemble; their logits are averaged.
        patch: voxels of a tile along each axis.
        in_channels: channels of the images.
        overlap: part of an edge that neighbouring tiles share.
        tile_batch: tiles a call of the network.
        mirror_axes: average over all mirrorings along these axes, 2 to the power of their number.
        painted: where the network's channels are regions, the label of each (`paint`); else they are classes.
        windows: whose places and weights of tiles (`tile_starts`, `gaussian_importance`).

    Raises:
        FdifError: an impossible overlap, number of tiles, or axis; no weights; a patch that the network cannot take.
    """

    def __init__(
        self,
        apply: Apply,
        members: Sequence[Weights],
        patch: GridShape,
        *,
        in_channels: int = 1,
        overlap: float = 0.5,
        tile_batch: int = 2,
        mirror_axes: Sequence[int] = (),
        painted: Sequence[int] = (),
        windows: Windows = "monai",
    ):
        if not 0 <= overlap < 1:
            raise FdifError(f"overlap must be at least 0 and below 1, not {overlap}")
        if tile_batch < 1:
            raise FdifError(f"a call of the network needs at least 1 tile, not {tile_batch}")
        self.patch, self.in_channels, self.painted = patch, in_channels, tuple(painted)
        self.overlap, self.tile_batch, self.windows = overlap, tile_batch, windows
        self._take(members, mirror_axes)
        self._importance = gaussian_importance(patch, windows)
        tiles = jax.ShapeDtypeStruct((tile_batch, *patch, in_channels), jnp.float32)
        self.num_classes = jax.eval_shape(apply, self._members[0], tiles).shape[-1]
        importance = jnp.asarray(self._importance)[..., None]

        def mirrored(tiles: jax.Array, flips: jax.Array) -> jax.Array:
            for axis in range(3):
                tiles = jnp.where(flips[axis], jnp.flip(tiles, axis + 1), tiles)
            return tiles

        @jax.jit
        def add(
            total: jax.Array, weights: Weights, tiles: jax.Array, flips: jax.Array, share: float
        ) -> jax.Array:
            """What one member says of tiles that are mirrored along some axes, added with its share."""
            logits = mirrored(apply(weights, mirrored(tiles, flips)), flips)
            return total + logits.astype(jnp.float32) * importance * share

        self._add = add
        self._nothing = jnp.zeros((tile_batch, *patch, self.num_classes))

    def of(self, members: Sequence[Weights], mirror_axes: Sequence[int] = ()) -> "TiledNetwork":
        """The same program with other weights, as the network's are while it is trained, and other mirrorings."""
        other = copy.copy(self)
        other._take(members, mirror_axes)
        return other

    def _take(self, members: Sequence[Weights], mirror_axes: Sequence[int]) -> None:
        if not set(mirror_axes) <= {0, 1, 2} or len(set(mirror_axes)) < len(mirror_axes):
            raise FdifError(f"axes to mirror along must be some of 0, 1 and 2, each once, not {mirror_axes}")
        if not members:
            raise FdifError("there are no weights to predict with")
        self._members = tuple(jax.device_put(weights) for weights in members)
        subsets = [axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)]
        self._flips = [np.isin(range(3), axes) for axes in subsets]

    def logits(self, image: np.ndarray) -> np.ndarray:
        """Averaged logits ``(D, H, W, K)``, float32, of an image ``(D, H, W, C)``, float32, at least a patch.

        Raises:
            FdifError: the image is smaller than a patch along some axis (`preprocessing.spaces.pad_to`), or has other
                channels than the network.
        """
        result = np.empty((*image.shape[:3], self.num_classes), np.float32)
        for start, planes in self.slabs(image):
            result[start : start + len(planes)] = planes
        return result

    def labels(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """The class of the highest logit, or the labels of regions, unsigned ``(D, H, W)``, for less memory than
        `logits`."""
        result = np.empty(image.shape[:3], np.min_scalar_type(max(self.painted or [self.num_classes - 1])))
        for start, planes in self.slabs(image, progress):
            for number, plane in enumerate(planes, start):  # one at a time, as argmax gives int64
                if self.painted:
                    result[number] = paint(np.moveaxis(plane, -1, 0), self.painted)
                else:
                    result[number] = plane.argmax(-1)
        return result

    @property
    def members(self) -> int:
        """M, how many networks there are."""
        return len(self._members)

    def slabs(
        self, image: np.ndarray, progress: Progress | None = None, *, apart: bool = False
    ) -> Iterator[Slab]:
        """Averaged logits from the first plane to the last, each slab when its tiles are done; see `logits`.

        ``progress`` is called after every batch of tiles. With ``apart`` networks are not averaged: their logits come
        one after another, ``(d, H, W, M K)``, and the sums take M times the memory.
        A slab is there until the next one is asked for, which goes to the same memory.
        """
        if any(n < p for n, p in zip(image.shape[:3], self.patch, strict=True)):
            raise FdifError(f"an image of shape {image.shape[:3]} is smaller than the patch {self.patch}")
        if image.shape[3] != self.in_channels:
            raise FdifError(
                f"an image of {image.shape[3]} channels, but the network takes {self.in_channels}"
            )
        edge = self.patch[0]
        width = self.num_classes * (self.members if apart else 1)
        sums = np.zeros((edge, *image.shape[1:3], width), np.float32)
        weights = np.zeros((edge, *image.shape[1:3], 1), np.float32)
        first = 0  # the plane that the sums begin with
        for start, tiles in groupby(self._judged(image, progress, apart), key=lambda tile: int(tile[0][0])):
            done = start - first
            if done:
                sums[:done] /= weights[:done]
                yield Slab(first, sums[:done])
                for planes in (sums, weights):
                    planes[: edge - done] = planes[done:]
                    planes[edge - done :] = 0
                first = start
            for (_, h, w), scores in tiles:
                at = np.s_[:, h : h + self.patch[1], w : w + self.patch[2]]
                sums[at] += scores
                weights[at] += self._importance[..., None]
        sums /= weights
        yield Slab(first, sums)  # the last tiles end with the volume

    def rehearse(self, seconds: float) -> tuple[float, float]:
        """Seconds until a first call of the network has ended, which is compiled, and of a tile after that.

        Measured for some ``seconds``, on an image of zeros.
        """
        image = np.zeros((*self.patch, self.in_channels), np.float32)
        corners = np.zeros((self.tile_batch, 3), np.int32)
        begun = time.perf_counter()
        self._call(image, corners, apart=False).block_until_ready()
        compiling, begun, calls = time.perf_counter() - begun, time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - begun < seconds:
            self._call(image, corners, apart=False).block_until_ready()
            calls += 1
        return compiling, (time.perf_counter() - begun) / (calls * self.tile_batch)

    def _judged(
        self, image: np.ndarray, progress: Progress | None, apart: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every tile's corner and its weighted logits, in order; the device is at the next batch meanwhile."""
        depth, height, width = image.shape[:3]
        corners = tile_starts((depth, height, width), self.patch, self.overlap, self.windows)
        batches, done = np.split(corners, range(self.tile_batch, len(corners), self.tile_batch)), 0
        for batch, scores in zip(batches, ahead(self._call(image, b, apart) for b in batches), strict=True):
            yield from zip(batch, np.asarray(scores), strict=False)  # the last batch may be filled up
            done += len(batch)
            if progress is not None:
                progress(done, len(corners))

    def _call(self, image: np.ndarray, corners: np.ndarray, apart: bool) -> jax.Array:
        tiles = np.zeros((self.tile_batch, *self.patch, image.shape[3]), np.float32)
        for tile, corner in zip(tiles, corners, strict=False):
            tile[...] = image[tuple(slice(c, c + p) for c, p in zip(corner, self.patch, strict=True))]
        there = jax.device_put(tiles)
        groups = [(member,) for member in self._members] if apart else [self._members]
        totals = [self._nothing] * len(groups)
        for number, group in enumerate(groups):
            share = 1 / (len(group) * len(self._flips))
            for weights in group:
                for flips in self._flips:
                    totals[number] = self._add(totals[number], weights, there, flips, share)
        return jnp.concatenate(totals, -1) if apart else totals[0]
