"""Attention of all tokens to all: softmax of ``q kᵀ / √C`` in float32, times ``v`` (Vaswani et al. 2017,
arXiv 1706.03762).

No form keeps attention weights for the backward pass, where they would be the largest arrays of all.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def attention_whole(
    q: Float[Array, "B N H C"], k: Float[Array, "B M H C"], v: Float[Array, "B M H C"]
) -> Float[Array, "B N H C"]:
    """Attend, all heads at once; the backward pass computes the attention weights again."""
    return jax.checkpoint(jax.nn.dot_product_attention)(q, k, v)


@jax.custom_vjp
def attention_by_head(
    q: Float[Array, "B N H C"], k: Float[Array, "B M H C"], v: Float[Array, "B M H C"]
) -> Float[Array, "B N H C"]:
    """Attend, a head of a sample after the other.

    The logarithm of every softmax's sum is kept. With it the backward pass needs no reductions over attention weights,
    and can hold them keys first, as two of its three products want them (Dao et al. 2022, arXiv 2205.14135, without
    tiles).
    """
    return _by_head_kept(q, k, v)[0]


def _by_head_kept(q, k, v):
    def attend(head):
        q, k, v = head
        scores = jnp.matmul(q, k.T, preferred_element_type=jnp.float32)
        highest = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = weights.sum(-1, keepdims=True)
        y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / total
        return y.astype(v.dtype), (highest + jnp.log(total))[:, 0]

    heads = tuple(map(_heads_first, (q / math.sqrt(q.shape[-1]), k, v)))
    y, log_total = lax.map(attend, heads)
    y = _heads_last(y, q)
    return y, (heads, log_total, y)


def _by_head_gradients(kept, gradient):
    def of_head(head):
        q, k, v, log_total, along, gradient = head
        weights = jnp.exp(jnp.matmul(k, q.T, preferred_element_type=jnp.float32) - log_total)
        slopes = weights * (jnp.matmul(v, gradient.T, preferred_element_type=jnp.float32) - along)
        weights, slopes = weights.astype(v.dtype), slopes.astype(v.dtype)
        return k.T @ slopes, slopes @ q, weights @ gradient  # the first as (C, N): faster by half than (N, C)

    heads, log_total, y = kept
    along = (gradient.astype(jnp.float32) * y).sum(-1, keepdims=True)
    parts = (*heads, log_total, _heads_first(along)[..., 0], _heads_first(gradient))
    of_q, of_k, of_v = lax.map(of_head, parts)
    of_q = of_q.swapaxes(1, 2) / math.sqrt(y.shape[-1])
    return _heads_last(of_q, y), _heads_last(of_k, y), _heads_last(of_v, y)


attention_by_head.defvjp(_by_head_kept, _by_head_gradients)


def _heads_first(x: Float[Array, "B N H C"]) -> Float[Array, "B*H N C"]:
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _heads_last(x: Float[Array, "B*H N C"], like: Float[Array, "B _ H _"]) -> Float[Array, "B N H C"]:
    return x.reshape(like.shape[0], like.shape[2], *x.shape[1:]).swapaxes(1, 2)


def attention(
    q: Float[Array, "B N H C"], k: Float[Array, "B M H C"], v: Float[Array, "B M H C"]
) -> Float[Array, "B N H C"]:
    """Attend in the form fastest on this backend, JAX's default one at trace time.

    On a CPU that is head by head, whose weights stay in the cache (figures: docs/performance.md).
    """
    form = attention_by_head if jax.default_backend() == "cpu" else attention_whole
    return form(q, k, v)
