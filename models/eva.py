"""The transformer of Primus, EVA-02's in 3D (Fang et al. 2023, arXiv 2303.11331).

Attention whose queries and keys are rotated by their position (Su et al. 2021, RoFormer, arXiv 2104.09864), a gated
MLP (Shazeer 2020, SwiGLU, arXiv 2002.05202), norms before both and within both, learnt scales of what either adds.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.attention import attention
from fdif_jax.models.conv import Triple
from fdif_jax.models.initialisers import Initialiser, small_normal, zeros
from fdif_jax.models.layers import LayerNorm, Linear, call, drop_path, split

Rotation = tuple[Float[Array, "N 1 R"], Float[Array, "N 1 R"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaConfig:
    """The sizes and choices of the transformer.

    Attributes:
        embed_dim: channels of a token.
        depth: transformer blocks.
        num_heads: of every attention; with rotation ``embed_dim`` is a multiple of six times as many.
        num_register_tokens: learnt tokens beside those of the image, which the decoder does not see.
        use_rot_pos_emb: rotate queries and keys by the token's position.
        use_abs_pos_embed: add a learnt embedding to every token.
        mlp_ratio: hidden channels of an MLP over ``embed_dim``, rounded down.
        drop_path_rate: probability of stochastic depth (a sample skips attention, or MLP) in the last block, in
            training; it grows from 0 in the first.
        init_values: first value of the learnt scales of what attention and MLP add; no scales if None.
        scale_attn_inner: a norm within attention, before its last map.
        remat: recompute every block in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, tokens between blocks, norm statistics, softmax and
            logits are float32.

    Raises:
        FdifError: a value is out of range or two do not agree.
    """

    embed_dim: int
    depth: int
    num_heads: int
    num_register_tokens: int = 0
    use_rot_pos_emb: bool = True
    use_abs_pos_embed: bool = True
    mlp_ratio: float = 8 / 3
    drop_path_rate: float = 0.2
    init_values: float | None = 0.1
    scale_attn_inner: bool = True
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        least = {"embed_dim": 1, "depth": 1, "num_heads": 1, "num_register_tokens": 0}
        for name, bound in least.items():
            if not whole(getattr(self, name), bound):
                raise FdifError(
                    f"primus: {name} must be a whole number from {bound}, got {getattr(self, name)}"
                )
        unit = self.num_heads * (6 if self.use_rot_pos_emb else 1)
        if self.embed_dim % unit:
            reason = (
                "six times num_heads, for pairs along three axes" if self.use_rot_pos_emb else "num_heads"
            )
            raise FdifError(
                f"primus: embed_dim must be a multiple of {unit} ({reason}), got {self.embed_dim}; "
                f"{max(1, round(self.embed_dim / unit)) * unit} is one"
            )
        if not int(self.embed_dim * self.mlp_ratio) >= 1:
            raise FdifError(f"primus: mlp_ratio {self.mlp_ratio} leaves the MLP without channels")
        if not 0 <= self.drop_path_rate < 1:
            raise FdifError(
                f"primus: drop_path_rate must be at least 0 and below 1, got {self.drop_path_rate}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of primus", self.dtype, ("float32", "bfloat16"))


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number and not below ``least``."""
    return isinstance(value, int) and value >= least


@functools.lru_cache(maxsize=8)
def rotation(tokens: Triple, channels: int, unrotated: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines that rotate a token's channel pairs by angles in proportion to its position.

    A sixth of a head's channels (a multiple of 6) many frequencies 10000^(-k/number), each along D, H and W in turn,
    the position counted in tokens: what timm's `RotaryEmbeddingCat` gives for a 3D grid. So many ``unrotated`` tokens
    before those of the grid keep their channels as they are. Both are ``(unrotated + tokens, 1, channels / 2)``
    float32.
    """
    number = channels // 6
    bands = 1 / np.float32(10000) ** (np.arange(number, dtype=np.float32) / np.float32(number))
    positions = np.indices(tokens, dtype=np.float32).reshape(3, -1).T
    angles = (positions[:, :, None] * bands).reshape(len(positions), -1)
    angles = np.pad(angles, ((unrotated, 0), (0, 0)))[:, None]
    return np.cos(angles), np.sin(angles)


def rotate(x: Float[Array, "B N H C"], by: Rotation) -> Float[Array, "B N H C"]:
    """Rotate channels 2i and 2i + 1 by angle i; all first channels of the pairs come before all second ones.

    The new order does not matter where queries and keys have it both, for only their products count.
    """
    cosine, sine = by
    first, second = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Attention of all tokens to all, with rotated queries and keys; softmax in float32."""

    def __init__(self, config: EvaConfig, last: Initialiser, *, dtype, rngs):
        dim, options = config.embed_dim, {"dtype": dtype, "rngs": rngs}
        self.q_proj = Linear(dim, dim, **options)
        self.k_proj = Linear(dim, dim, bias=False, **options)
        self.v_proj = Linear(dim, dim, **options)
        self.norm = LayerNorm(dim, dtype=dtype) if config.scale_attn_inner else None
        self.proj = Linear(dim, dim, init=last, **options)
        self.num_heads = config.num_heads

    def __call__(self, x: Float[Array, "B N C"], by: Rotation | None) -> Float[Array, "B N C"]:
        """Attend; without a rotation tokens know nothing of their places here."""
        heads = (*x.shape[:2], self.num_heads, -1)
        q, k, v = (linear(x).reshape(heads) for linear in (self.q_proj, self.k_proj, self.v_proj))
        if by is not None:
            q, k = rotate(q, by), rotate(k, by)
        y = attention(q, k, v).reshape(x.shape)
        return self.proj(y if self.norm is None else self.norm(y))


class SwiGLU(nnx.Module):
    """An MLP whose hidden channels are gated by others, with a norm before its last map."""

    def __init__(self, config: EvaConfig, last: Initialiser, *, dtype, rngs):
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.fc1_g = Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.fc1_x = Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(hidden, dtype=dtype)
        self.fc2 = Linear(hidden, dim, init=last, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        """Map every token."""
        return self.fc2(self.norm(jax.nn.silu(self.fc1_g(x)) * self.fc1_x(x)))


class Block(nnx.Module):
    """Attention and MLP, each added to the tokens, scaled, and left out at random in training."""

    def __init__(self, config: EvaConfig, index: int, *, dtype, rngs):
        dim, scale = config.embed_dim, 1 / math.sqrt(2 * (index + 1))
        last = Initialiser(lambda key, shape, fan_in: scale * small_normal(key, shape, fan_in), zeros)
        self.norm1 = LayerNorm(dim, dtype=dtype)
        self.attn = Attention(config, last, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(dim, dtype=dtype)
        self.mlp = SwiGLU(config, last, dtype=dtype, rngs=rngs)
        start = config.init_values
        self.gamma_1 = None if start is None else nnx.Param(jnp.full(dim, float(start)))
        self.gamma_2 = None if start is None else nnx.Param(jnp.full(dim, float(start)))
        self.drop_path_rate = config.drop_path_rate * index / max(1, config.depth - 1)

    def __call__(
        self, x: Float[Array, "B N C"], by: Rotation | None, key: Array | None
    ) -> Float[Array, "B N C"]:
        """Both, in turn."""
        keys = split(key, 2)
        x = x + self._branch(self.attn(self.norm1(x), by), self.gamma_1, keys[0])
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2, keys[1])

    def _branch(self, y, gamma, key):
        return drop_path(y if gamma is None else y * gamma[...], self.drop_path_rate, key)


class Eva(nnx.Module):
    """The transformer: embeddings of positions, blocks, norm."""

    def __init__(self, config: EvaConfig, tokens: Triple, *, dtype, rngs):
        """``tokens`` is the grid of an image's."""
        number = config.num_register_tokens + math.prod(tokens)
        embedding = small_normal(rngs.params(), (1, number, config.embed_dim), number)
        self.pos_embed = nnx.Param(embedding) if config.use_abs_pos_embed else None
        self.blocks = nnx.List([Block(config, i, dtype=dtype, rngs=rngs) for i in range(config.depth)])
        self.norm = LayerNorm(config.embed_dim, dtype=dtype)
        self.config, self.tokens = config, tokens

    def __call__(self, x: Float[Array, "B N C"], key: Array | None) -> Float[Array, "B N C"]:
        """Transform the tokens, those of the registers first."""
        c, by = self.config, None
        if self.pos_embed is not None:
            x = x + self.pos_embed[...]
        if c.use_rot_pos_emb:
            angles = rotation(self.tokens, c.embed_dim // c.num_heads, c.num_register_tokens)
            by = jnp.asarray(angles[0]), jnp.asarray(angles[1])
        for block, block_key in zip(self.blocks, split(key, c.depth), strict=True):
            x = call(block, x, by, block_key, remat=c.remat)
        return self.norm(x)
