"""Dense contrast: voxels of one instance agree in what a network makes of them, in every look of a scene.

Supervised contrast (Khosla et al. 2020, arXiv 2004.11362) between voxels, as anatomix has it (arXiv 2411.02372): two
looks of a scene go through the network; at several resolutions some voxels are drawn, and their features, after a
small perceptron of that resolution, are compared with each other.

Voxels are drawn without repetition, so that the gradient of looking them up adds nothing up, whose order a GPU does
not fix: equal inputs give equal bits.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Integer

from fdif_jax.errors import FdifError
from fdif_jax.settings import Plain


@dataclasses.dataclass(frozen=True)
class Contrast(Plain):
    """How voxels are contrasted.

    Attributes:
        voxels: drawn at every resolution, the same ones in each look; all where there are fewer.
        temperature: by which cosines are divided.
        levels: resolutions, from the finest; those of the network where it has fewer.
        features: of an embedding, and inside the perceptrons.
        balance: how much more often voxels of small instances are drawn: by the number of their instance's voxels to
            the power -balance; 0 for all alike, as in the paper.

    Raises:
        FdifError: a value is out of range.
    """

    voxels: int = 512
    temperature: float = 0.33
    levels: int = 4
    features: int = 128
    balance: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("voxels", "levels", "features"):
            if getattr(self, name) < 1:
                raise FdifError(f"contrast: {name} must be at least 1, not {getattr(self, name)}")
        if not self.temperature > 0:
            raise FdifError(f"contrast: temperature must be positive, not {self.temperature:g}")
        if not self.balance >= 0:
            raise FdifError(f"contrast: balance must be 0 or more, not {self.balance:g}")


class Perceptron(nnx.Module):
    """Three linear maps with ReLU between them, from a voxel's features to its embedding."""

    def __init__(self, c_in: int, features: int, *, rngs: nnx.Rngs):
        sizes = (c_in, features, features, features)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(sizes)])

    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... E"]:
        """Embeddings, float32."""
        x = x.astype(jnp.float32)
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class Projections(nnx.Module):
    """A `Perceptron` for every resolution, finest first."""

    def __init__(self, channels: Sequence[int], settings: Contrast, *, rngs: nnx.Rngs):
        used = channels[: settings.levels]
        self.levels = nnx.List([Perceptron(c, settings.features, rngs=rngs) for c in used])

    def embed(
        self, features: Sequence[Float[Array, "B V d h w C"]], voxels: Sequence[Int[Array, "B n"]]
    ) -> list[Float[Array, "B V n E"]]:
        """Embeddings of voxels (flat numbers) at every resolution."""
        pairs = zip(self.levels, features, voxels, strict=False)
        return [perceptron(_looked_up(level, chosen)) for perceptron, level, chosen in pairs]


def _looked_up(features: Float[Array, "B V d h w C"], voxels: Int[Array, "B n"]) -> Float[Array, "B V n C"]:
    flat = features.reshape(*features.shape[:2], -1, features.shape[-1])
    look_up = lambda rows, chosen: rows.at[chosen].get(unique_indices=True, mode="promise_in_bounds")  # noqa: E731
    return jax.vmap(jax.vmap(look_up, (0, None)))(flat, voxels)


def nearest(owner: Integer[Array, "B D H W"], grid: Sequence[int]) -> Integer[Array, "B d h w"]:
    """Which instance owns the voxels of a coarser grid: of every block of voxels the one in the middle."""
    for axis, edge in enumerate(grid, start=1):
        block = owner.shape[axis] // edge
        owner = lax.slice_in_dim(owner, block // 2, None, block, axis=axis)
    return owner


def choose(
    key: jax.Array, owner: Integer[Array, "D H W"], settings: Contrast, objects: int
) -> tuple[Int[Array, " n"], Integer[Array, " n"]]:
    """Voxels of a scene without repetition: their flat numbers and their instances.

    The voxels are dealt into n groups, and of every group one is drawn.

    Args:
        key: random key.
        owner: which instance owns a voxel; 0 is background.
        settings: how many, and how often those of small instances.
        objects: greatest number of instances.
    """
    flat = owner.reshape(-1)
    number = min(settings.voxels, flat.size)
    each = flat.size // number
    offset_key, draw_key = jax.random.split(key)
    offset = jax.random.randint(offset_key, (), 0, flat.size)
    dealt = jnp.roll(flat, -offset)[: each * number].reshape(each, number)
    counts = (flat[:, None] == jnp.arange(objects + 1, dtype=flat.dtype)).sum(0)
    chance = -settings.balance * jnp.log(jnp.maximum(counts, 1).astype(jnp.float32))
    # The greatest of Gumbel numbers shifted by the logarithms of the chances is drawn by these chances.
    drawn = jnp.argmax(jax.random.gumbel(draw_key, dealt.shape) + chance[dealt], axis=0)
    voxels = (drawn * number + jnp.arange(number) + offset) % flat.size
    return voxels, flat[voxels]


def supervised_contrast(
    embeddings: Float[Array, "N E"], instances: Integer[Array, " N"], temperature: float
) -> Float[Array, ""]:
    """Supervised multi-positive InfoNCE in nats, mean over the anchors.

    For an anchor: minus the mean over its positives, the others of its instance, of the logarithm of exp(s / τ) over
    the sum of that over all others, where s is the cosine. An anchor without positives does not count.
    """
    # The small number keeps the gradient of an embedding that is 0.
    norms = jnp.sqrt(jnp.square(embeddings).sum(-1, keepdims=True) + 1e-12)
    unit = embeddings / norms
    similarity = jnp.matmul(unit, unit.T, precision="highest") / temperature
    itself = jnp.eye(len(unit), dtype=bool)
    logarithm = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, similarity), axis=1)
    positive = (instances[:, None] == instances) & ~itself
    number = positive.sum(1)
    pulled = jnp.where(positive, similarity, 0).sum(1) / jnp.maximum(number, 1)
    return jnp.where(number > 0, logarithm - pulled, 0).sum() / jnp.maximum((number > 0).sum(), 1)


def retrieved(
    queries: Float[Array, "N E"],
    instances: Integer[Array, " N"],
    others: Float[Array, "M E"],
    theirs: Integer[Array, " M"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How often the nearest of other voxels, by the cosine, is of a voxel's own instance: found, asked.

    Only voxels of objects ask that have another voxel to find.
    """
    unit = [e / jnp.sqrt(jnp.square(e).sum(-1, keepdims=True) + 1e-12) for e in (queries, others)]
    nearest_one = jnp.matmul(unit[0], unit[1].T, precision="highest").argmax(1)
    asked = (instances > 0) & (instances[:, None] == theirs).any(1)
    return (asked & (theirs[nearest_one] == instances)).sum() * 1.0, asked.sum() * 1.0
