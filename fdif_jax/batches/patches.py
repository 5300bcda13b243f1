"""Patches of real cases, drawn, turned and mirrored on the device inside the training step.

All cases lie voxel after voxel in one array, so that cases of any shape cost no padding. A patch is looked up in it:
its voxels' places in the case, rotated and scaled, are interpolated between eight neighbours (labels: the nearest).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fdif_jax.batches.augmentation import random_intensity, random_mirror, random_turn
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.spaces import GridShape, Spacing
from fdif_jax.training.updates import Batch

_SPOTS = 4096  # places that are remembered of a class in a case
_MOST_VOXELS = 2**31 - 1


class Cases(NamedTuple):
    """Labelled cases on the device.

    Attributes:
        images: normalised, float32.
        labels: class ids, negative where voxels are ignored.
        first: number of each case's first voxel.
        shapes: of each case.
        spots: voxels of every foreground class, or region, in each case, counted from its first; up to 4,096, drawn
            once.
        counts: how many these are.
    """

    images: Float[Array, "V C"]
    labels: Int[Array, "V"]  # noqa: F821  (jaxtyping's axis name)
    first: Int[Array, "N"]  # noqa: F821
    shapes: Int[Array, "N 3"]
    spots: Int[Array, "N K S"]
    counts: Int[Array, "N K"]


def lay_out(prepared: Sequence[Prepared], num_classes: int, regions: Sequence[Sequence[int]] = ()) -> Cases:
    """Labelled cases, each at least a patch, side by side; ``num_classes`` counts the background. Patches are centred
    on classes, or, where these are given, on ``regions`` of several labels each.

    Arrays are a little longer than what they hold (`_rounded`), so that other cases are seldom another program.

    FdifError if they are more voxels than can be numbered.
    """
    shapes = np.array([case.image.shape[:3] for case in prepared])
    sizes = shapes.prod(axis=1)
    if sizes.sum() > _MOST_VOXELS:
        raise FdifError(
            f"{len(prepared)} cases of {sizes.sum():,} voxels are more than the {_MOST_VOXELS:,} that are held at "
            "once; take fewer cases or a wider spacing"
        )
    labels = [case.label.ravel() for case in prepared if case.label is not None]
    kinds = regions or range(1, num_classes)
    found = [[_some(np.isin(case, of), number) for of in kinds] for number, case in enumerate(labels)]
    counts = np.array([[len(spots) for spots in case] for case in found])
    spots = np.zeros((*counts.shape, _rounded(int(max(counts.max(), 1)))), np.int32)
    for row, case in zip(spots, found, strict=True):
        for places, some in zip(row, case, strict=True):
            places[: len(some)] = some
    channels, voxels = prepared[0].image.shape[3], min(_rounded(int(sizes.sum())), _MOST_VOXELS)
    rest = voxels - sizes.sum()
    arrays = (
        np.concatenate(
            [*(case.image.reshape(-1, channels) for case in prepared), np.zeros((rest, channels), np.float32)]
        ),
        np.concatenate([*labels, np.zeros(rest, labels[0].dtype)]).astype(np.min_scalar_type(-num_classes)),
        (np.cumsum(sizes) - sizes).astype(np.int32),
        shapes.astype(np.int32),
        spots,
        counts.astype(np.int32),
    )
    return Cases(*map(jnp.asarray, arrays))


def _rounded(number: int) -> int:
    """The next number with no more than three binary digits before its zeros: at most a quarter more."""
    step = 1 << max(number.bit_length() - 3, 0)
    return -(-number // step) * step


def _some(mask: np.ndarray, seed: int) -> np.ndarray:
    """Up to 4,096 of the places where a mask is true, the same whenever it is asked."""
    places = np.flatnonzero(mask)
    if len(places) > _SPOTS:
        places = np.random.default_rng(seed).choice(places, _SPOTS, replace=False)
    return places


def patch_batch(
    patch: GridShape,
    spacing: Spacing = (1.0, 1.0, 1.0),
    *,
    foreground: float = 0.5,
    mirror_axes: Sequence[int] = (),
    degrees: float = 0.0,
    zoom: float = 1.0,
    intensity: bool = False,
) -> Callable[[jax.Array, Cases], Batch]:
    """``make_batch`` for `fdif_jax.training.loop.fit`: random patches of random cases.

    A patch is centred, as far as its case allows, on a random voxel of a class, drawn evenly from those in the case,
    or else on any voxel.

    Args:
        patch: voxels along each axis.
        spacing: millimetres between voxels, for rotations.
        foreground: probability of the former.
        mirror_axes: axes to mirror along with probability 1/2 each; one that swaps what labels tell apart is no choice.
        degrees: rotate by up to so much around each axis, half of the patches.
        zoom: show things up to so many times larger or smaller, half of the patches.
        intensity: augment the images' intensities (`random_intensity`).
    """
    edge = jnp.asarray(patch)
    within = jnp.stack(jnp.meshgrid(*map(jnp.arange, patch), indexing="ij"), axis=-1)
    turned = degrees > 0 or zoom > 1

    def draw(key: jax.Array, data: Cases) -> tuple[Array, Array]:
        case_key, place_key, turn_key, mirror_key, look_key = jax.random.split(key, 5)
        case = jax.random.randint(case_key, (), 0, len(data.first))
        shape = data.shapes[case]
        start = jnp.clip(_centre(place_key, data, case, foreground) - edge // 2, 0, shape - edge)
        if turned:
            middle = (edge - 1) / 2
            turn = random_turn(turn_key, spacing, degrees, zoom)
            places = start + middle + jnp.einsum("ij,dhwj->dhwi", turn, within - middle, precision="highest")
            image, label = _between(data, case, places)
        else:
            at = data.first[case] + _flat(start + within, shape)
            image, label = data.images[at], data.labels[at]
        image, label = random_mirror(mirror_key, image, label, mirror_axes)
        return random_intensity(look_key, image) if intensity else image, label

    def make_batch(keys: jax.Array, data: Cases) -> Batch:
        return jax.vmap(draw, (0, None))(keys, data)

    return make_batch


def _centre(key: jax.Array, data: Cases, case: Array, foreground: float) -> Int[Array, "3"]:
    """A random voxel of a random class of the case, or, with probability ``1 - foreground``, any voxel."""
    kind_key, class_key, spot_key = jax.random.split(key, 3)
    shape, counts = data.shapes[case], data.counts[case]
    chosen = jax.random.categorical(class_key, jnp.where(counts > 0, 0.0, -jnp.inf))
    on_class = (counts.sum() > 0) & jax.random.bernoulli(kind_key, foreground)
    number = jax.random.randint(spot_key, (), 0, jnp.where(on_class, counts[chosen], shape.prod()))
    voxel = jnp.where(on_class, data.spots[case, chosen, number], number)
    return jnp.stack([voxel // (shape[1] * shape[2]), voxel // shape[2] % shape[1], voxel % shape[2]])


def _flat(places: Int[Array, "... 3"], shape: Int[Array, "3"]) -> Int[Array, "..."]:
    return (places[..., 0] * shape[1] + places[..., 1]) * shape[2] + places[..., 2]


def _between(data: Cases, case: Array, places: Float[Array, "D H W 3"]) -> tuple[Array, Array]:
    """Image, trilinear, and the nearest label at places of a case; outside there is 0 and background."""
    shape, first = data.shapes[case], data.first[case]
    low = jnp.floor(places).astype(jnp.int32)
    part = places - low
    image = jnp.zeros((*places.shape[:3], data.images.shape[1]))
    for corner in np.ndindex(2, 2, 2):
        weight = jnp.where(jnp.asarray(corner), part, 1 - part).prod(-1)
        there = low + jnp.asarray(corner)
        weight = jnp.where(_inside(there, shape), weight, 0)
        image += weight[..., None] * data.images[first + _flat(jnp.clip(there, 0, shape - 1), shape)]
    nearest = jnp.round(places).astype(jnp.int32)
    label = data.labels[first + _flat(jnp.clip(nearest, 0, shape - 1), shape)]
    return image, jnp.where(_inside(nearest, shape), label, 0)


def _inside(places: Int[Array, "... 3"], shape: Int[Array, "3"]) -> Array:
    return ((places >= 0) & (places < shape)).all(-1)
