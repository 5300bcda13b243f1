"""The vision transformer that encodes for UNETR, under the names of MONAI's `ViT`.

Source: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words (arXiv 2010.11929). Blocks of voxels become tokens,
with a learnt embedding of each position; norms before attention and MLP.

Initialisation is MONAI's: position embeddings, and the linear map of the perceptron embedding, normal with deviation
0.02; all else as PyTorch starts a layer.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.attention import attention
from fdif_jax.models.conv import PatchConv, Triple, patches, repeated
from fdif_jax.models.initialisers import TORCH, TRANSFORMER, small_normal
from fdif_jax.models.layers import LayerNorm, Linear, Mlp, call, dropout, split

DEPTH = 12  # transformer blocks
EDGE = 16  # voxels of a token along every axis
PROJECTIONS = ("conv", "perceptron")


@dataclasses.dataclass(frozen=True)
class UNETRConfig:
    """Everything about a UNETR but its weights; the names are MONAI's.

    Attributes:
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        grid: of the images, ``(D, H, W)``, or one number for all three; multiples of 16, for 16³ voxels are a token.
        feature_size: features of the finest resolution; they double with every halving of the grid.
        hidden_size: channels of a token.
        mlp_dim: channels within the transformer's MLPs.
        num_heads: attention heads; a divisor of ``hidden_size``.
        proj_type: how voxels become tokens, ``conv`` or ``perceptron``: the same map, kept in another form.
        conv_block: convolutions between the transposed ones that bring tokens to finer grids.
        res_block: skips over pairs of convolutions.
        dropout_rate: probability of dropout in the transformer, in training.
        qkv_bias: biases for queries, keys and values.
        remat: recompute every block in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, tokens between blocks, norm statistics, softmax and
            logits are float32.

    Raises:
        FdifError: a value is out of range or two do not agree.
    """

    in_channels: int
    out_channels: int
    grid: Triple = (96, 96, 96)
    feature_size: int = 16
    hidden_size: int = 768
    mlp_dim: int = 3072
    num_heads: int = 12
    proj_type: str = "conv"
    conv_block: bool = True
    res_block: bool = True
    dropout_rate: float = 0.0
    qkv_bias: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "grid", repeated(self.grid))
        for name in ("in_channels", "out_channels", "feature_size", "hidden_size", "mlp_dim", "num_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise FdifError(f"unetr: {name} must be a whole number from 1, got {value}")
        if len(self.grid) != 3 or not all(isinstance(n, int) and n > 0 and n % EDGE == 0 for n in self.grid):
            raise FdifError(f"unetr takes a grid of three multiples of {EDGE}, got {self.grid}")
        if self.hidden_size % self.num_heads:
            raise FdifError(
                f"unetr: num_heads must divide hidden_size {self.hidden_size}, got {self.num_heads}"
            )
        if not 0 <= self.dropout_rate < 1:
            raise FdifError(f"unetr: dropout_rate must be at least 0 and below 1, got {self.dropout_rate}")
        if self.proj_type not in PROJECTIONS:
            raise unknown("proj_type of unetr", self.proj_type, PROJECTIONS)
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of unetr", self.dtype, ("float32", "bfloat16"))


class PatchEmbedding(nnx.Module):
    """Blocks of voxels to tokens, in row-major order, and the embedding of their positions added."""

    def __init__(self, tokens: int, size: UNETRConfig, *, dtype, rngs):
        c, edges = size.hidden_size, (EDGE, EDGE, EDGE)
        options = {"dtype": dtype, "rngs": rngs}
        if size.proj_type == "conv":
            self.patch_embeddings = PatchConv(size.in_channels, c, edges, bias=True, init=TORCH, **options)
        else:
            self.perceptron = Linear(math.prod(edges) * size.in_channels, c, init=TRANSFORMER, **options)
        self.position_embeddings = nnx.Param(small_normal(rngs.params(), (1, tokens, c), tokens))
        self.size = size

    def __call__(self, x: Float[Array, "B D H W C"], key: Array | None) -> Float[Array, "B N T"]:
        """Embed; float32, as the tokens stay from block to block."""
        if self.size.proj_type == "conv":
            y = self.patch_embeddings(x)
        else:
            y = self.perceptron(patches(x, (EDGE, EDGE, EDGE)))
        y = y.astype(jnp.float32).reshape(x.shape[0], -1, self.size.hidden_size)
        return dropout(y + self.position_embeddings[...], self.size.dropout_rate, key)


class SelfAttention(nnx.Module):
    """Attention of all tokens to all."""

    def __init__(self, size: UNETRConfig, *, dtype, rngs):
        c, options = size.hidden_size, {"init": TORCH, "dtype": dtype, "rngs": rngs}
        self.qkv = Linear(c, 3 * c, bias=size.qkv_bias, **options)
        self.out_proj = Linear(c, c, **options)
        self.size = size

    def __call__(self, x: Float[Array, "B N C"], key: Array | None) -> Float[Array, "B N C"]:
        """Attend."""
        keys = split(key, 2)
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.size.num_heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if keys[0] is None or self.size.dropout_rate == 0:
            y = attention(q, k, v)
        else:
            logits = jnp.einsum("bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32)
            kept = dropout(jax.nn.softmax(logits / math.sqrt(q.shape[-1])), self.size.dropout_rate, keys[0])
            y = jnp.einsum("bhqk,bkhc->bqhc", kept.astype(v.dtype), v)
        return dropout(self.out_proj(y.reshape(x.shape)), self.size.dropout_rate, keys[1])


class TransformerBlock(nnx.Module):
    """Attention and MLP, each added to the tokens."""

    def __init__(self, size: UNETRConfig, *, dtype, rngs):
        self.norm1 = LayerNorm(size.hidden_size, dtype=dtype)
        self.attn = SelfAttention(size, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(size.hidden_size, dtype=dtype)
        self.mlp = Mlp(size.hidden_size, size.mlp_dim, size.dropout_rate, dtype=dtype, rngs=rngs)
        # For cross attention, which UNETR has none of; MONAI keeps it in the state dict all the same.
        self.norm_cross_attn = LayerNorm(size.hidden_size, dtype=dtype)

    def __call__(self, x: Float[Array, "B N C"], key: Array | None) -> Float[Array, "B N C"]:
        """Both, in turn."""
        keys = split(key, 2)
        x = x + self.attn(self.norm1(x), keys[0])
        return x + self.mlp(self.norm2(x), keys[1])


class ViT(nnx.Module):
    """The transformer: embedding, blocks, norm."""

    def __init__(self, tokens: Triple, size: UNETRConfig, *, dtype, rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.patch_embedding = PatchEmbedding(math.prod(tokens), size, **options)
        self.blocks = nnx.List([TransformerBlock(size, **options) for _ in range(DEPTH)])
        self.norm = LayerNorm(size.hidden_size, dtype=dtype)
        self.tokens, self.remat = tokens, size.remat

    def __call__(self, x: Float[Array, "B D H W C"], key: Array | None) -> list[Float[Array, "B d h w T"]]:
        """The tokens, in their grid, after every block, and last after the norm."""
        keys = split(key, DEPTH + 1)
        states = [self.patch_embedding(x, keys[0])]
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            states.append(call(block, states[-1], block_key, remat=self.remat))
        states.append(self.norm(states[-1]))
        return [state.reshape(x.shape[0], *self.tokens, -1) for state in states[1:]]
