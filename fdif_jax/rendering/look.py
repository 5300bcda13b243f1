"""Looks: what imaging does to a rendered volume. Settings of a recipe, all off by default, and the jittable functions.

The order is that of a scanner: tissue texture, coil, optics and slices, noise, display. Whatever works along one
axis (blur, thick slices, the grids of smooth fields) is a product with one small matrix an axis.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, UInt

from fdif_jax.rendering.filters import along_axes, gaussian, hat, slices
from fdif_jax.rendering.renderer import INTENSITY_TOP
from fdif_jax.rendering.tissue import Tissue
from fdif_jax.settings import Plain, ascending, at_least

Image = Float[Array, "D H W"]

_KNOTS = 8  # of a random intensity curve
_COIL = 4  # edge of the coarse grid of a bias field
_OCTAVES = (4, 8, 16, 32)  # edges of the coarse grids that a texture is the sum of


@dataclasses.dataclass(frozen=True)
class Look(Plain):
    """Realism of images; every strength is drawn for each volume uniformly from 0 to what is given here.

    Attributes:
        partial_volume: images, not labels, are antialiased: a voxel that a surface cuts is part object.
        texture: background texture, as part of the intensity range; smooth noise of several scales.
        bias_field: a smooth factor exp(±) that varies over the volume, as of an MR coil.
        blur: Gaussian blur; its standard deviation in voxels.
        slice_thickness: slices this many voxels thick along one axis, drawn at random, interpolated back; below 1
            nothing happens.
        rician: Rician noise as of MR magnitude images; its deviation as part of the intensity range.
        gaussian: Gaussian noise, likewise.
        uniform_noise: a whole number, uniform from 0 to a top, is added to every voxel and the sum scaled back into
            the range; the top is drawn between these two, in grey levels of 128 (AVS-DB: 125 … 200 or 300 … 400).
        gamma: intensities to the power exp(±).
        histogram: a random increasing curve of intensities, its slopes exp(±).
        tissue: paints every object in random intensities instead of its mapped distances, and adds the artefacts of
            a random scanner; before all of the above. A table.

    Raises:
        FdifError: a strength below 0, or ends of ``uniform_noise`` in the wrong order.
    """

    later: ClassVar[tuple[str, ...]] = ("tissue",)

    partial_volume: bool = False
    texture: float = 0.0
    bias_field: float = 0.0
    blur: float = 0.0
    slice_thickness: float = 0.0
    rician: float = 0.0
    gaussian: float = 0.0
    uniform_noise: tuple[float, float] = (0.0, 0.0)
    gamma: float = 0.0
    histogram: float = 0.0
    tissue: Tissue = dataclasses.field(default_factory=Tissue)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, *(f.name for f in dataclasses.fields(self) if f.type is float))
        ascending(self, "uniform_noise")

    @property
    def changes_images(self) -> bool:
        """Whether anything is left to do after rendering."""
        return self != Look(partial_volume=self.partial_volume)

    @property
    def clean(self) -> "Look":
        """The same scene and contrast without what degrades an image: bias, blur, thick slices, noise, artefacts."""
        off: dict[str, Any] = dict.fromkeys(
            ("bias_field", "blur", "slice_thickness", "rician", "gaussian"), 0.0
        )
        tissue = self.tissue.clean if self.tissue.paint else self.tissue
        return dataclasses.replace(self, **off, uniform_noise=(0.0, 0.0), tissue=tissue)

    def apply(
        self,
        key: jax.Array,
        image: Image,
        label: Num[Array, "..."],
        owner: UInt[Array, "D H W"] | None = None,
        objects: int = 0,
        names: Sequence[str] = (),
    ) -> Image:
        """The image as scanned.

        Args:
            key: random key.
            image: float32 ``(D, H, W)``, 0 … 128.
            label: ``(D, H, W)``, or ``(T, D, H, W)`` for several tasks; 0 is background.
            owner: which instance owns a voxel, 0 for the background; needed for tissue alone.
            objects: greatest number of instances.
            names: of the classes of the (first) label map.

        Returns:
            float32, 0 … 128.
        """
        classes = label.reshape(-1, *image.shape)[0]
        steps = [
            (self.texture, lambda k, s, v: _texture(k, s, v, classes == 0)),
            (self.bias_field, _bias_field),
            (self.blur, _blur),
            (self.slice_thickness, _thick_slices),
            (self.rician, _rician),
            (self.gaussian, lambda k, s, v: v + s * jax.random.normal(k, v.shape)),
            (self.gamma, lambda k, s, v: jnp.clip(v, 1e-6, 1) ** jnp.exp(s * jax.random.uniform(k, (), minval=-1.0))),
            (self.histogram, _curve),
        ]  # fmt: skip
        volume = image / INTENSITY_TOP
        if self.tissue.paint:
            assert owner is not None
            means = self.tissue.class_means(names)
            between = (
                None if means is None else (jnp.asarray(means[0])[classes], jnp.asarray(means[1])[classes])
            )
            paint_key = jax.random.fold_in(key, len(steps) + 1)
            volume = self.tissue.apply(paint_key, volume, owner, objects, between)
        for i, (strength, change) in enumerate(steps):
            if strength:
                amount, how = jax.random.split(jax.random.fold_in(key, i))
                volume = change(how, jax.random.uniform(amount, maxval=strength), volume)
        if self.uniform_noise[1]:
            volume = _uniform_noise(jax.random.fold_in(key, len(steps)), volume, *self.uniform_noise)
        return jnp.clip(volume, 0, 1) * INTENSITY_TOP


def to_grey_levels(image: Image) -> UInt[Array, "D H W"]:
    """uint8, truncated, as images are stored."""
    return jnp.clip(image, 0, INTENSITY_TOP).astype(jnp.uint8)


def _smooth_noise(key: jax.Array, shape: tuple[int, ...], edge: int) -> Image:
    """Normal values on a coarse grid of ``edge`` nodes an axis, interpolated in between; deviation about 1/2."""
    coarse = jax.random.normal(key, (edge,) * 3)
    return along_axes(coarse, [hat(jnp.linspace(0, edge - 1, n), edge) for n in shape])


def _texture(key: jax.Array, strength: Array, volume: Image, background: Array) -> Image:
    octaves = [
        _smooth_noise(k, volume.shape, n) / (i + 1)
        for i, (k, n) in enumerate(zip(jax.random.split(key, len(_OCTAVES)), _OCTAVES, strict=True))
    ]
    wave = jnp.sum(jnp.stack(octaves), axis=0)
    low, high = wave.min(), wave.max()
    return volume + jnp.where(background, strength * (wave - low) / (high - low), 0)


def _bias_field(key: jax.Array, strength: Array, volume: Image) -> Image:
    wave = _smooth_noise(key, volume.shape, _COIL)
    wave = along_axes(wave, [gaussian(n, jnp.float32(n / (2 * _COIL))) for n in volume.shape])
    return volume * jnp.exp(strength * wave / jnp.abs(wave).max())


def _blur(key: jax.Array, strength: Array, volume: Image) -> Image:
    return along_axes(volume, [gaussian(n, strength) for n in volume.shape])


def _thick_slices(key: jax.Array, strength: Array, volume: Image) -> Image:
    chosen = jax.random.randint(key, (), 0, 3)
    matrices = [
        jnp.where(axis == chosen, slices(n, strength), jnp.eye(n)) for axis, n in enumerate(volume.shape)
    ]
    return along_axes(volume, matrices)


def _rician(key: jax.Array, strength: Array, volume: Image) -> Image:
    real, imaginary = strength * jax.random.normal(key, (2, *volume.shape))
    return jnp.hypot(volume + real, imaginary)


def _uniform_noise(key: jax.Array, volume: Image, low: float, high: float) -> Image:
    top_key, voxel_key = jax.random.split(key)
    top = jnp.floor(jax.random.uniform(top_key, minval=low, maxval=high + 1))
    noise = jnp.floor(jax.random.uniform(voxel_key, volume.shape) * (top + 1))
    return (volume * INTENSITY_TOP + noise) / (INTENSITY_TOP + top)


def _curve(key: jax.Array, strength: Array, volume: Image) -> Image:
    steps = jnp.exp(strength * jax.random.uniform(key, (_KNOTS,), minval=-1.0))
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps) / steps.sum()])
    # A sum of hats instead of a search: a voxel costs a few multiplications.
    position = jnp.clip(volume, 0, 1) * _KNOTS
    return sum(h * jnp.maximum(1 - jnp.abs(position - i), 0) for i, h in enumerate(heights))


def normalise(images: Num[Array, "B D H W"]) -> Float[Array, "B D H W"]:
    """Zero mean and unit variance per volume, over all its voxels, float32; a constant volume becomes about 0.

    Synthetic volumes (0…128) and MRI (arbitrary units) meet in this form, so a pre-trained first layer sees
    in both the range that it learnt.
    """
    images = images.astype(jnp.float32)
    centred = images - images.mean((1, 2, 3), keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean((1, 2, 3), keepdims=True))
    # What float32 makes of a constant volume's mean must not be blown up to unit variance.
    rounding = 1e-5 * jnp.abs(images).max((1, 2, 3), keepdims=True)
    return centred / jnp.maximum(deviation, jnp.maximum(rounding, 1e-30))
