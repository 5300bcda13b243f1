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

from fdif_jax.models.conv import PatchConv, Triple, patches
from fdif_jax.models.initialisers import TORCH, TRANSFORMER, small_normal
from fdif_jax.models.layers import LayerNorm, Linear, attention, call, dropout, split

DEPTH = 12  # transformer blocks
EDGE = 16  # voxels of a token along every axis
PROJECTIONS = ("conv", "perceptron")


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """What all parts of the transformer share; the names are MONAI's.

    Attributes:
        hidden_size: channels of a token.
        mlp_dim: channels within an MLP.
        num_heads: of attention; a divisor of ``hidden_size``.
        qkv_bias: biases for queries, keys and values.
        dropout_rate: probability of dropout of activations and attention weights, in training.
        proj_type: how voxels become tokens, ``conv`` or ``perceptron``: the same map, kept in another form.
    """

    hidden_size: int
    mlp_dim: int
    num_heads: int
    qkv_bias: bool
    dropout_rate: float
    proj_type: str

    def drop(self, x: Float[Array, "..."], key: Array | None) -> Float[Array, "..."]:
        """Omit single values at random; nothing without a key."""
        return dropout(x, self.dropout_rate, key, axes=tuple(range(x.ndim)))


class PatchEmbedding(nnx.Module):
    """Blocks of voxels to tokens, in row-major order, and the embedding of their positions added."""

    def __init__(self, in_channels: int, tokens: int, size: ViTSize, *, dtype, rngs):
        c, edges = size.hidden_size, (EDGE, EDGE, EDGE)
        options = {"dtype": dtype, "rngs": rngs}
        if size.proj_type == "conv":
            self.patch_embeddings = PatchConv(in_channels, c, edges, bias=True, init=TORCH, **options)
        else:
            self.perceptron = Linear(math.prod(edges) * in_channels, c, init=TRANSFORMER, **options)
        self.position_embeddings = nnx.Param(small_normal(rngs.params(), (1, tokens, c), tokens))
        self.size = size

    def __call__(self, x: Float[Array, "B D H W C"], key: Array | None) -> Float[Array, "B N T"]:
        """Embed; float32, as the tokens stay from block to block."""
        if self.size.proj_type == "conv":
            y = self.patch_embeddings(x)
        else:
            y = self.perceptron(patches(x, (EDGE, EDGE, EDGE)))
        y = y.astype(jnp.float32).reshape(x.shape[0], -1, self.size.hidden_size)
        return self.size.drop(y + self.position_embeddings[...], key)


class SelfAttention(nnx.Module):
    """Attention of all tokens to all."""

    def __init__(self, size: ViTSize, *, dtype, rngs):
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
            kept = self.size.drop(jax.nn.softmax(logits / math.sqrt(q.shape[-1])), keys[0])
            y = jnp.einsum("bhqk,bkhc->bqhc", kept.astype(v.dtype), v)
        return self.size.drop(self.out_proj(y.reshape(x.shape)), keys[1])


class Mlp(nnx.Module):
    """Two linear maps with GELU between them."""

    def __init__(self, size: ViTSize, *, dtype, rngs):
        options = {"init": TORCH, "dtype": dtype, "rngs": rngs}
        self.linear1 = Linear(size.hidden_size, size.mlp_dim, **options)
        self.linear2 = Linear(size.mlp_dim, size.hidden_size, **options)
        self.size = size

    def __call__(self, x: Float[Array, "B N C"], key: Array | None) -> Float[Array, "B N C"]:
        """Map every token."""
        keys = split(key, 2)
        x = self.size.drop(jax.nn.gelu(self.linear1(x), approximate=False), keys[0])
        return self.size.drop(self.linear2(x), keys[1])


class TransformerBlock(nnx.Module):
    """Attention and MLP, each added to the tokens."""

    def __init__(self, size: ViTSize, *, dtype, rngs):
        self.norm1 = LayerNorm(size.hidden_size, dtype=dtype)
        self.attn = SelfAttention(size, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(size.hidden_size, dtype=dtype)
        self.mlp = Mlp(size, dtype=dtype, rngs=rngs)
        # For cross attention, which UNETR has none of; MONAI keeps it in the state dict all the same.
        self.norm_cross_attn = LayerNorm(size.hidden_size, dtype=dtype)

    def __call__(self, x: Float[Array, "B N C"], key: Array | None) -> Float[Array, "B N C"]:
        """Both, in turn."""
        keys = split(key, 2)
        x = x + self.attn(self.norm1(x), keys[0])
        return x + self.mlp(self.norm2(x), keys[1])


class ViT(nnx.Module):
    """The transformer: embedding, blocks, norm."""

    def __init__(self, in_channels: int, tokens: Triple, size: ViTSize, *, remat: bool, dtype, rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.patch_embedding = PatchEmbedding(in_channels, math.prod(tokens), size, **options)
        self.blocks = nnx.List([TransformerBlock(size, **options) for _ in range(DEPTH)])
        self.norm = LayerNorm(size.hidden_size, dtype=dtype)
        self.tokens, self.remat = tokens, remat

    def __call__(self, x: Float[Array, "B D H W C"], key: Array | None) -> list[Float[Array, "B d h w T"]]:
        """The tokens, in their grid, after every block, and last after the norm."""
        keys = split(key, DEPTH + 1)
        states = [self.patch_embedding(x, keys[0])]
        for block, block_key in zip(self.blocks, keys[1:], strict=True):
            states.append(call(block, states[-1], block_key, remat=self.remat))
        states.append(self.norm(states[-1]))
        return [state.reshape(x.shape[0], *self.tokens, -1) for state in states[1:]]
