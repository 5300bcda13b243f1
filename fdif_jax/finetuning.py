"""Fine-tuning on real cases: all cases in one device array, patches drawn inside the step, sliding-window inference."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Integer

from fdif_jax.augmentation import random_intensity, random_mirror
from fdif_jax.checkpoints import Weights
from fdif_jax.errors import FdifError
from fdif_jax.losses import dice_per_class
from fdif_jax.updates import Apply, Batch

Shape = tuple[int, int, int]

# MONAI's Gaussian importance: standard deviation in patch edges, and the least weight a voxel has.
_SIGMA, _LEAST_WEIGHT = 0.125, 1e-3


class Stack(NamedTuple):
    """Cases side by side in arrays of one shape, each in the middle of the least box that holds it and a patch.

    The boxes begin at voxel 0; what a case does not fill is 0, the mean of a normalised image.

    Attributes:
        images: normalised, float32.
        labels: class ids, unsigned.
        offset: where each case begins.
        shape: each case's own shape.
    """

    images: Float[Array, "N D H W"]
    labels: Integer[Array, "N D H W"]
    offset: Int[Array, "N 3"]
    shape: Int[Array, "N 3"]


class Patches(NamedTuple):
    """What patches are drawn from.

    Attributes:
        stack: the training cases.
        voxels: of every case the flat positions of its background voxels, then those of its foreground.
        background: number of background voxels of every case.
        foreground: number of foreground voxels.
    """

    stack: Stack
    voxels: Int[Array, "N V"]
    background: Int[Array, "N"]  # noqa: F821  (jaxtyping's axis name)
    foreground: Int[Array, "N"]  # noqa: F821


def prepare_image(image: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """A case's image as the network sees it: clipped to ``window`` if given, zero mean, unit variance, float32."""
    image = np.asarray(image, np.float32)
    if window is not None:
        image = image.clip(*window)
    deviation = max(image.std(dtype=np.float64), 1e-6)
    return ((image - image.mean(dtype=np.float64)) / deviation).astype(np.float32)


def stack_cases(cases: Iterable[tuple[np.ndarray, np.ndarray]], patch: Shape) -> Stack:
    """Stack cases, given as pairs of prepared image and label ``(D, H, W)``, with room for a patch in each."""
    images, labels = zip(*cases, strict=True)
    shapes = np.array([image.shape for image in images])
    boxes = np.maximum(shapes, patch)
    offsets = (boxes - shapes) // 2
    full = (len(images), *boxes.max(axis=0))
    narrowest = np.min_scalar_type(max(int(label.max()) for label in labels))
    stacked, stacked_labels = np.zeros(full, np.float32), np.zeros(full, narrowest)
    for i, (image, label, offset) in enumerate(zip(images, labels, offsets, strict=True)):
        inside = _box(offset, image.shape)
        stacked[i][inside], stacked_labels[i][inside] = image, label
    return Stack(*map(jnp.asarray, (stacked, stacked_labels, offsets, shapes)))


def _box(offset: Iterable[int], shape: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(o, o + n) for o, n in zip(offset, shape, strict=True))


def patch_source(stack: Stack) -> Patches:
    """Sort every case's voxels into background and foreground, once, so that drawing one of either is a look-up."""
    labels = np.asarray(stack.labels)
    kind = np.full(labels.shape, 2, np.uint8)  # what is no voxel of the case goes last
    for i, (offset, shape) in enumerate(zip(np.asarray(stack.offset), np.asarray(stack.shape), strict=True)):
        inside = _box(offset, shape)
        kind[i][inside] = labels[i][inside] > 0
    flat = kind.reshape(len(labels), -1)
    voxels = np.argsort(flat, axis=1, kind="stable").astype(np.int32)
    return Patches(stack, jnp.asarray(voxels), *(jnp.asarray((flat == k).sum(1, np.int32)) for k in (0, 1)))


def patch_batch(
    patch: Shape, *, mirror_axes: Sequence[int] = (0,), augment: bool = True
) -> Callable[[jax.Array, Patches], Batch]:
    """``make_batch`` for `fdif_jax.training.fit`: random patches of random cases.

    A patch is centred, as far as its case allows, on a random voxel: of the foreground or of the background with equal
    probability, so that a small structure is seen as often as none.

    Args:
        patch: voxels along each axis.
        mirror_axes: axes to mirror along with probability 1/2; one that swaps what the labels tell apart is no choice.
        augment: give the images random looks (`random_intensity`).
    """

    def draw(key: jax.Array, data: Patches) -> tuple[Array, Array]:
        case_key, kind_key, voxel_key, mirror_key, look_key = jax.random.split(key, 5)
        stack = data.stack
        case = jax.random.randint(case_key, (), 0, len(stack.images))
        background, foreground = data.background[case], data.foreground[case]
        wants = jax.random.bernoulli(kind_key)
        on_foreground = (foreground > 0) & (wants | (background == 0))
        first = jnp.where(on_foreground, background, 0)
        number = jax.random.randint(voxel_key, (), 0, jnp.where(on_foreground, foreground, background))
        centre = jnp.stack(jnp.unravel_index(data.voxels[case, first + number], stack.images.shape[1:]))
        box = jnp.maximum(stack.shape[case], jnp.asarray(patch))
        start = jnp.clip(centre - jnp.asarray(patch) // 2, 0, box - jnp.asarray(patch))
        at = (case, *start)
        image, label = (lax.dynamic_slice(a, at, (1, *patch))[0] for a in (stack.images, stack.labels))
        image, label = random_mirror(mirror_key, image, label, mirror_axes)
        return random_intensity(look_key, image) if augment else image, label

    def make_batch(keys: jax.Array, data: Patches) -> Batch:
        images, labels = jax.vmap(draw, (0, None))(keys, data)
        return images[..., None], labels

    return make_batch


# ------------------------------------------------------------------------------------------- sliding window


def gaussian_importance(patch: Shape) -> Float[np.ndarray, "D H W"]:
    """Weight of every voxel of a patch: a Gaussian around its middle, never below 1e-3."""
    edges = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (_SIGMA * n)) ** 2) for n in patch]
    return np.maximum(np.einsum("i,j,k->ijk", *edges), _LEAST_WEIGHT).astype(np.float32)


def tile_starts(shape: Shape, patch: Shape, overlap: float) -> Int[np.ndarray, "T 3"]:
    """Corners of the patches that cover a volume, ``1 - overlap`` of a patch apart; the last end with it."""
    corners = []
    for size, edge in zip(shape, patch, strict=True):
        step = max(int(edge * (1 - overlap)), 1)
        last = max(size - edge, 0)
        corners.append(sorted({min(i, last) for i in range(0, last + step, step)}))
    return np.array(list(itertools.product(*corners)), np.int32)


class SlidingWindow:
    """Sliding-window inference over the cases of a stack, with one compiled program for all of them.

    The logits of overlapping patches are averaged with Gaussian weights (Isensee et al. 2021, nnU-Net).

    Args:
        apply: the network as in `fdif_jax.updates.functional`.
        stack: the cases, with room for a patch in each.
        num_classes: channels of the logits.
        patch: voxels along each axis.
        overlap: part of an edge that neighbouring patches share.
        tile_batch: patches a call of the network.
    """

    def __init__(
        self,
        apply: Apply,
        stack: Stack,
        num_classes: int,
        patch: Shape,
        *,
        overlap: float = 0.5,
        tile_batch: int = 2,
    ):
        if not 0 <= overlap < 1:
            raise FdifError(f"overlap must be at least 0 and below 1, not {overlap}")
        self.stack, self.num_classes = stack, num_classes
        boxes = np.maximum(np.asarray(stack.shape), patch)
        self._tiles = [tile_starts(tuple(box), patch, overlap) for box in boxes]
        self._tile_batch = min(tile_batch, max(map(len, self._tiles)))
        importance = jnp.asarray(gaussian_importance(patch))[..., None]

        @partial(jax.jit, donate_argnums=0)
        def add_tiles(sums, weights: Weights, image: Array, starts: Array, valid: Array):
            tiles = jnp.stack([lax.dynamic_slice(image, start, patch) for start in starts])
            logits = apply(weights, tiles[..., None])
            for tile, start, counts in zip(logits, starts, valid, strict=True):
                parts = (counts * importance * tile, counts * importance)
                sums = tuple(_add_at(total, part, start) for total, part in zip(sums, parts, strict=True))
            return sums

        self._add_tiles = add_tiles
        self._finish = jax.jit(partial(_finish, num_classes=num_classes))

    def _sums(self, weights: Weights, case: int) -> tuple[Array, Array]:
        shape = self.stack.images.shape[1:]
        sums = (jnp.zeros((*shape, self.num_classes)), jnp.zeros((*shape, 1)))
        tiles, size = self._tiles[case], self._tile_batch
        for first in range(0, len(tiles), size):
            valid = np.arange(first, first + size) < len(tiles)
            starts = tiles[np.minimum(np.arange(first, first + size), len(tiles) - 1)]
            sums = self._add_tiles(sums, weights, self.stack.images[case], starts, valid.astype(np.float32))
        return sums

    def logits(self, weights: Weights, case: int) -> Float[np.ndarray, "D H W C"]:
        """Averaged logits of one case, in its own shape."""
        total, weight = self._sums(weights, case)
        return self._cropped(total / jnp.maximum(weight, 1e-12), case)

    def predict(self, weights: Weights, case: int) -> tuple[np.ndarray, np.ndarray]:
        """Class ids of one case in its own shape, and the Dice of every foreground class (`dice_per_class`)."""
        stack = self.stack
        total, _ = self._sums(weights, case)
        prediction, dice = self._finish(total, stack.labels[case], stack.offset[case], stack.shape[case])
        return self._cropped(prediction, case), np.asarray(dice)

    def dice(self, weights: Weights) -> Float[np.ndarray, "N foreground"]:
        """Dice of every case, a row each; mean foreground Dice is `fdif_jax.losses.mean_dice` of it."""
        return np.stack([self.predict(weights, case)[1] for case in range(len(self._tiles))])

    def _cropped(self, array: Array, case: int) -> np.ndarray:
        inside = _box(np.asarray(self.stack.offset[case]), np.asarray(self.stack.shape[case]))
        return np.asarray(array)[inside]


def _add_at(total: Array, part: Array, start: Array) -> Array:
    at = (*start, 0)
    return lax.dynamic_update_slice(total, lax.dynamic_slice(total, at, part.shape) + part, at)


def _finish(total: Array, label: Array, offset: Array, shape: Array, *, num_classes: int):
    """Prediction, background outside the case, and its Dice."""
    place = jnp.stack(jnp.meshgrid(*map(jnp.arange, label.shape), indexing="ij"), axis=-1)
    inside = ((place >= offset) & (place < offset + shape)).all(-1)
    prediction = jnp.where(inside, total.argmax(-1), 0).astype(np.min_scalar_type(num_classes - 1))
    return prediction, dice_per_class(prediction, label, num_classes)
