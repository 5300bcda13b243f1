"""Random tissue: every object of a scene, and the background, in intensities of its own, seen by a random scanner.

After anatomix (arXiv 2411.02372) and SynthSeg (arXiv 2107.09559): a network that sees no two scenes in the same
contrast has to learn shapes. Objects of one class need not look alike. Whatever works along an axis is one matrix of
that axis, so that blur, ringing, sharpening and resolution together are three matrix products.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from fdif_jax.errors import FdifError, unknown
from fdif_jax.rendering.filters import along_axes, gaussian, hashed, layered_noise, partly_mixed, slices
from fdif_jax.settings import Plain, ascending, at_least, check_ascending, fractions

Image = Float[Array, "D H W"]
ClassMeans = tuple[tuple[str, tuple[float, float]], ...]

_OCTAVES = (4, 8, 16, 32)  # edges of the coarse grids that a texture is the sum of
_DEGREE = 3  # of the polynomial of a bias field
_SHARPENED = 1.0  # voxels; deviation of the Gaussian that an unsharp mask takes away


@dataclasses.dataclass(frozen=True)
class Tissue(Plain):
    """Random intensities of instances, and the artefacts of a random scanner; off by default.

    Artefacts are pairs: the fraction of volumes that have one, and its greatest strength; the strength is drawn
    uniformly from 0. Intensities are fractions of the range.

    Attributes:
        paint: paint instances instead of showing the mapped distances.
        mean: an instance's mean intensity is drawn between these two.
        deviation: the deviation of its voxels, likewise.
        texture: greatest deviation of its texture at each of four scales.
        air: fraction of volumes whose background is 0.
        mapper_fraction: fraction of objects in which the mapped distances go from one intensity to another.
        bias_field: exponent of a smooth factor, the coefficients of a polynomial.
        spikes: a plane wave, as of a spike in k-space.
        gamma: intensities to the power exp(±).
        blur: Gaussian blur, its deviation in voxels drawn for every axis.
        ringing: Gibbs ringing; fraction of the frequencies of every axis that is cut off.
        sharpening: weight of an unsharp mask.
        resolution: how many voxels more than one a slice is thick, drawn for every axis; interpolated back.
        noise: deviation of Gaussian noise.
        partial_volume: voxels at surfaces are mixed of what lies on both sides.
        levels: instead of ``mean``: evenly spaced quantiles of the intensities that instances' means are drawn from, as
            a histogram of scans has them.
        of_class: a table of classes, each with the two numbers between which its instances' means are drawn instead,
            e.g. what a CT shows of bone, fat and air.

    Raises:
        FdifError: a fraction outside 0 … 1, a strength below 0, ends in the wrong order, or levels that do not rise.
    """

    later: ClassVar[tuple[str, ...]] = ("partial_volume", "levels", "of_class")

    paint: bool = False
    mean: tuple[float, float] = (0.1, 1.0)
    deviation: tuple[float, float] = (0.02, 0.08)
    texture: float = 0.1
    air: float = 0.25
    mapper_fraction: float = 0.0
    bias_field: tuple[float, float] = (0.98, 0.15)
    spikes: tuple[float, float] = (0.2, 0.1)
    gamma: tuple[float, float] = (0.5, 0.7)
    blur: tuple[float, float] = (0.5, 1.0)
    ringing: tuple[float, float] = (0.5, 0.33)
    sharpening: tuple[float, float] = (0.25, 1.0)
    resolution: tuple[float, float] = (0.33, 1.0)
    noise: tuple[float, float] = (0.33, 0.05)
    partial_volume: bool = False
    levels: tuple[float, ...] = ()
    of_class: ClassMeans = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "texture")
        fractions(self, "air", "mapper_fraction")
        ascending(self, "mean", "deviation")
        levels = (0.0, *self.levels, 1.0)
        if len(self.levels) == 1 or sorted(levels) != list(levels):
            raise FdifError(
                f"levels must be two or more rising numbers from 0 to 1, or none, not {list(self.levels)}"
            )
        for name, ends in self.of_class:
            check_ascending(f"of_class.{name}", ends)
        for name in _ARTEFACTS:
            fraction, strength = getattr(self, name)
            if not (0 <= fraction <= 1 and strength >= 0):
                raise FdifError(
                    f"{name} must be a fraction from 0 to 1 and a strength of 0 or more, not {[fraction, strength]}"
                )

    def class_means(self, names: Sequence[str]) -> Float[np.ndarray, "2 classes"] | None:
        """Least and greatest mean of the background and of each class, -1 where `of_class` has none; None without any.

        FdifError for a class of `of_class` that is none of ``names``.
        """
        if not self.of_class:
            return None
        table = dict(self.of_class)
        for name in table:
            if name not in names:
                raise unknown("class in look.tissue.of_class:", name, names)
        return np.asarray([table.get(name, (-1.0, -1.0)) for name in ("", *names)], np.float32).T

    @property
    def clean(self) -> "Tissue":
        """The same intensities, textures and gamma without noise and artefacts."""
        off: dict[str, Any] = {name: (0.0, 0.0) for name in ("deviation", *_ARTEFACTS) if name != "gamma"}
        return dataclasses.replace(self, **off)

    def apply(
        self,
        key: jax.Array,
        image: Image,
        owner: UInt[Array, "D H W"],
        objects: int,
        between: tuple[Image, Image] | None = None,
    ) -> Image:
        """A look of one scene.

        Args:
            key: random key.
            image: the mapped distances, float32 ``(D, H, W)``, 0 … 1.
            owner: which instance owns a voxel; 0 is background.
            objects: greatest number of instances.
            between: of every voxel, least and greatest mean of its class, or -1 (`class_means`).

        Returns:
            float32, 0 … 1; the darkest voxel 0, the brightest 1.
        """
        paint_key, *keys = jax.random.split(key, 1 + len(_ARTEFACTS))
        strengths = {
            name: (_drawn(k, getattr(self, name), 3 if name in _PER_AXIS else 1), jax.random.fold_in(k, 2))
            for name, k in zip(_ARTEFACTS, keys, strict=True)
        }
        volume = self._painted(paint_key, image, owner, objects, between)
        volume = volume * jnp.exp(_polynomial(*strengths["bias_field"], volume.shape))
        volume = _ranged(volume + _wave(*strengths["spikes"], volume.shape))
        (exponent,), sign_key = strengths["gamma"]
        power = jnp.exp(exponent * jax.random.rademacher(sign_key, ()))
        volume = jnp.exp2(power * jnp.log2(jnp.maximum(volume, 1e-6)))  # a tenth of the time of `**`
        filters = ("blur", "ringing", "sharpening", "resolution")
        amounts = [jnp.broadcast_to(strengths[name][0], 3) for name in filters]
        volume = along_axes(volume, [_filter(n, *a) for n, *a in zip(volume.shape, *amounts, strict=True)])
        (deviation,), noise_key = strengths["noise"]
        return _ranged(jnp.maximum(volume + deviation * _nearly_normal(noise_key, volume.shape), 0))

    def _painted(
        self,
        key: jax.Array,
        image: Image,
        owner: Array,
        objects: int,
        between: tuple[Image, Image] | None,
    ) -> Image:
        """Every instance in intensities of its own, about 0 … 1."""
        mean_key, deviation_key, texture_key, other_key, kept_key, air_key, wave_key, voxel_key = (
            jax.random.split(key, 8)
        )
        instances = (objects + 1,)
        mean = self._means(mean_key, instances)
        deviation = jax.random.uniform(
            deviation_key, instances, minval=self.deviation[0], maxval=self.deviation[1]
        )
        texture = jax.random.uniform(texture_key, instances, maxval=self.texture)
        other = self._means(other_key, instances)
        kept = jax.random.bernoulli(kept_key, self.mapper_fraction, instances).at[0].set(False)
        table = jnp.stack([mean, deviation, texture, jnp.where(kept, other - mean, 0)])
        table = table.at[:, 0].multiply(~jax.random.bernoulli(air_key, self.air))
        # Row by row: of all rows in one go XLA paints the owners again for each.
        level, spread, waves, mapped = (row[owner] for row in table)
        voxels = _nearly_normal(voxel_key, owner.shape)
        if between is not None:
            low, high = between
            place = jax.random.uniform(mean_key, instances)[owner]
            level = jnp.where(low < 0, level, low + place * (high - low))
        clean = level + mapped * image
        clean = partly_mixed(clean) if self.partial_volume else clean
        volume = clean + spread * voxels + waves * layered_noise(wave_key, owner.shape, _OCTAVES)
        return jnp.maximum(volume, 0)

    def _means(self, key: jax.Array, shape: tuple[int, ...]) -> Array:
        """Intensities of instances."""
        if self.levels:
            places = jnp.linspace(0, 1, len(self.levels))
            return jnp.interp(jax.random.uniform(key, shape), places, jnp.asarray(self.levels))
        return jax.random.uniform(key, shape, minval=self.mean[0], maxval=self.mean[1])


_ARTEFACTS = ("bias_field", "spikes", "gamma", "blur", "ringing", "sharpening", "resolution", "noise")
_PER_AXIS = ("blur", "ringing", "resolution")


def _drawn(key: jax.Array, artefact: tuple[float, float], number: int) -> Float[Array, " number"]:
    """Strengths of an artefact, uniform from 0, in a fraction of the volumes; 0 in the others."""
    fraction, strength = artefact
    toss, value = jax.random.split(key)
    return jnp.where(
        jax.random.bernoulli(toss, fraction), jax.random.uniform(value, (number,), maxval=strength), 0
    )


def _ranged(volume: Image) -> Image:
    """Scaled to 0 … 1."""
    low, high = volume.min(), volume.max()
    return (volume - low) / jnp.maximum(high - low, 1e-6)


def _nearly_normal(key: jax.Array, shape: tuple[int, ...]) -> Image:
    """Sums of four bytes of one random word, of mean 0 and deviation 1."""
    words = hashed(key, shape)
    total = sum(((words >> (8 * byte)) & 255 for byte in range(4)), jnp.uint32(0))
    return (total.astype(jnp.float32) - 510.0) / np.float32(np.sqrt(4 * (256**2 - 1) / 12))


def _polynomial(strength: Array, key: jax.Array, shape: tuple[int, ...]) -> Image:
    """A polynomial of three variables from -1 to 1, without constant, its coefficients up to ± the strength."""
    degrees = np.indices((_DEGREE + 1,) * 3).sum(0)
    used = (degrees > 0) & (degrees <= _DEGREE)
    coefficients = jax.random.uniform(key, degrees.shape, minval=-1.0) * used * strength
    return along_axes(
        coefficients, [jnp.linspace(-1, 1, n)[:, None] ** jnp.arange(_DEGREE + 1) for n in shape]
    )


def _wave(strength: Array, key: jax.Array, shape: tuple[int, ...]) -> Image:
    """A plane wave of random direction and up to half a turn a voxel along each axis."""
    turns = jax.random.uniform(key, (3,), minval=-jnp.pi, maxval=jnp.pi)
    z, y, x = (turn * jnp.arange(n) for turn, n in zip(turns, shape, strict=True))
    plane = (z[:, None] + y).reshape(-1)
    # cos(a + b) as a product of matrices, so that no voxel has a cosine of its own.
    sides = jnp.stack([jnp.cos(plane), -jnp.sin(plane)], 1), jnp.stack([jnp.cos(x), jnp.sin(x)])
    return strength * (sides[0] @ sides[1]).reshape(shape)


def _filter(edge: int, blur: Array, ringing: Array, sharpening: Array, thickness: Array) -> Array:
    """The matrix of all that a scanner does along one axis: blur, ringing, sharpening, thick slices."""
    blurred = jnp.where(blur > 0, gaussian(edge, blur), jnp.eye(edge))
    sharp = (1 + sharpening) * jnp.eye(edge) - sharpening * gaussian(edge, jnp.float32(_SHARPENED))
    return slices(edge, 1 + thickness) @ sharp @ _low_pass(edge, ringing) @ blurred


def _low_pass(edge: int, cut: Array) -> Array:
    """The matrix that keeps the frequencies below a share of the highest, the volume taken as periodic."""
    frequencies = jnp.arange(edge)
    turns = jnp.minimum(frequencies, edge - frequencies)
    kept = jnp.clip((1 - cut) * (edge / 2) - turns + 1, 0, 1)
    wave = jnp.cos(2 * jnp.pi / edge * (frequencies[:, None] * frequencies % edge)) @ kept / edge
    return wave[(frequencies[:, None] - frequencies) % edge]
