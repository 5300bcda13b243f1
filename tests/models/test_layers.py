"""Layers that the networks share, beside PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax.models.layers import LayerNorm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4, 6), (2, 50, 96)])
def test_layer_norm_and_its_gradients_are_pytorchs(shape):
    draws = np.random.default_rng(0)
    x, cotangent = draws.normal(3, 2, (2, *shape)).astype(np.float32)
    weight, bias = draws.normal(1, 0.5, (2, shape[-1])).astype(np.float32)
    graph, state = nnx.split(LayerNorm(shape[-1], dtype=jnp.float32))

    def normalised(x, weight, bias):
        nnx.replace_by_pure_dict(state, {"weight": weight, "bias": bias})
        return nnx.merge(graph, state)(x)

    got, pullback = jax.vjp(normalised, *map(jnp.asarray, (x, weight, bias)))
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, weight, bias)]
    want = torch.nn.functional.layer_norm(leaves[0], shape[-1:], *leaves[1:])
    want.backward(torch.from_numpy(cotangent))
    np.testing.assert_allclose(got, want.detach(), atol=2e-5)
    for gradient, leaf in zip(pullback(jnp.asarray(cotangent)), leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad, atol=2e-5, rtol=2e-5)
