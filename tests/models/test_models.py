"""The networks' layers against PyTorch's, and how networks are named, sized and refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import conv, layers
from fdif_jax.models.resenc_unet import PRESETS, ResEncConfig
from tests.helpers.slow import quick_of

SMALL = {"features": (4, 6, 8), "blocks": (1, 2, 1)}
CONVOLUTIONS = [  # grid, kernel, strides
    ((6, 5, 4), (3, 3, 3), (1, 1, 1)),
    ((6, 8, 4), (3, 3, 3), (2, 2, 2)),
    ((5, 8, 7), (1, 3, 5), (1, 2, 3)),
    ((7, 5, 6), (3, 1, 3), (3, 1, 2)),
    ((3, 4, 5), (1, 1, 1), (1, 1, 1)),
    ((1, 4, 5), (3, 3, 3), (1, 2, 1)),
]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def torch_layer(layer, x: np.ndarray, cotangent: np.ndarray):
    """Output and input gradient of a PyTorch function, channels last in and out."""
    torch = pytest.importorskip("torch")
    leaf = torch.from_numpy(x).requires_grad_()
    y = layer(leaf.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    y.backward(torch.from_numpy(cotangent))
    return y.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize(
    "form", [conv.conv_direct, conv.conv_folded, conv.conv_spread, conv.conv_gathered, conv.conv3d]
)
@pytest.mark.parametrize("layer", quick_of(CONVOLUTIONS, CONVOLUTIONS[1:3], "programs more"))
def test_convolution_is_pytorchs(form, layer):
    grid, kernel, strides = layer
    torch = pytest.importorskip("torch")
    x, weight = normal(2, *grid, 3), normal(*kernel, 3, 5, seed=1)
    y, vjp = jax.vjp(lambda x, weight: form(x, weight, strides), x, weight)
    cotangent = normal(*y.shape, seed=2)
    torch_weight = torch.from_numpy(weight.transpose(4, 3, 0, 1, 2).copy()).requires_grad_()
    padding = [(k - 1) // 2 for k in kernel]
    want, want_dx = torch_layer(
        lambda x: torch.nn.functional.conv3d(x, torch_weight, stride=strides, padding=padding), x, cotangent
    )
    dx, dweight = vjp(jnp.asarray(cotangent))
    np.testing.assert_allclose(y, want, atol=2e-5)
    np.testing.assert_allclose(dx, want_dx, atol=2e-5)
    np.testing.assert_allclose(dweight, torch_weight.grad.permute(2, 3, 4, 1, 0), atol=1e-4)


def test_pool_norm_and_transposed_convolution_are_pytorchs():
    torch = pytest.importorskip("torch")
    x = 3 + 2 * normal(2, 4, 6, 8, 5)
    upsample = conv.ConvTranspose(5, 3, (1, 2, 3), bias=True, dtype="float32", rngs=nnx.Rngs(0))
    upsample.bias[...] = jnp.asarray(normal(3, seed=1))
    weight = torch.from_numpy(np.asarray(upsample.weight[...]).transpose(0, 4, 1, 2, 3).copy())
    bias = torch.from_numpy(np.array(upsample.bias[...]))
    norm = layers.InstanceNorm(5, dtype="float32")
    f = torch.nn.functional
    for layer, torch_function in [
        (conv.AvgPool((1, 2, 4)), lambda x: f.avg_pool3d(x, (1, 2, 4), (1, 2, 4))),
        (upsample, lambda x: f.conv_transpose3d(x, weight, bias, stride=(1, 2, 3))),
        (norm, f.instance_norm),
    ]:
        y, vjp = jax.vjp(layer, jnp.asarray(x))
        cotangent = normal(*y.shape, seed=3)
        want, want_dx = torch_layer(torch_function, x, cotangent)
        np.testing.assert_allclose(y, want, atol=2e-5)
        np.testing.assert_allclose(vjp(jnp.asarray(cotangent))[0], want_dx, atol=2e-5)


def test_norm_keeps_float32_statistics_in_bfloat16():
    x = jnp.asarray(1000 + normal(1, 8, 8, 8, 2), jnp.bfloat16)
    y = layers.InstanceNorm(2, dtype="bfloat16")(x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean((1, 2, 3))) / np.sqrt(exact.var((1, 2, 3)) + 1e-5)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, atol=0.02)


@pytest.mark.slow("three programs; what it keeps is below")
def test_remat_changes_nothing_and_bfloat16_little():
    x = jnp.asarray(normal(1, 8, 8, 8, 1))

    def outcome(**options):
        model = models.create("resenc_unet", in_channels=1, out_channels=3, features=(4, 6), **options)
        for stage in model.encoder.stages:  # or else the blocks pass their skips only
            stage.blocks[0].conv2.norm.weight[...] = np.ones(stage.blocks[0].conv2.norm.weight.shape)

        @nnx.jit
        def step(model, x):
            def loss(model):
                logits = model(x)
                return jnp.square(logits).mean(), logits

            return nnx.value_and_grad(loss, has_aux=True)(model)

        (loss, logits), gradients = step(model, x)
        assert logits.dtype == jnp.float32
        return float(loss), jax.tree.leaves(gradients)

    loss, gradients = outcome()
    remat_loss, remat_gradients = outcome(remat=True)
    assert remat_loss == pytest.approx(loss, rel=1e-6)
    largest = max(float(np.abs(gradient).max()) for gradient in gradients)
    for ours, theirs in zip(gradients, remat_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * largest)
    half_loss, half_gradients = outcome(dtype="bfloat16")
    assert half_loss != loss and half_loss == pytest.approx(loss, rel=0.05)
    for ours, theirs in zip(gradients, half_gradients, strict=True):
        assert theirs.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.05 * largest)


def test_remat_keeps_less_for_the_backward_pass():
    def residual_bytes(remat: bool) -> int:
        model = models.create("resenc_unet", in_channels=1, out_channels=2, **SMALL, remat=remat)
        graph, state = nnx.split(model)
        x = jnp.zeros((1, 8, 8, 8, 1))
        _, pullback = jax.eval_shape(lambda state: jax.vjp(lambda s: nnx.merge(graph, s)(x), state), state)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert residual_bytes(True) < 0.7 * residual_bytes(False)


def test_deep_supervision_gives_every_resolution():
    model = models.create("resenc_unet", in_channels=1, out_channels=2, deep_supervision=True, **SMALL)
    x = jnp.asarray(normal(1, 8, 8, 8, 1))
    outputs = nnx.jit(lambda model, x: model(x))(model, x)
    assert [y.shape for y in outputs] == [(1, 8, 8, 8, 2), (1, 4, 4, 4, 2)]
    model.decoder.deep_supervision = False
    alone = nnx.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_allclose(alone, outputs[0], atol=1e-6)


def test_seed_decides_the_weights():
    def weights(seed):
        model = models.create("resenc_unet", in_channels=1, out_channels=2, seed=seed, **SMALL)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)) if leaf.ndim == 5]

    first, again, other = weights(3), weights(3), weights(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_network_is_plain_data():
    spec = {"name": "resenc_unet", "in_channels": 2, "out_channels": 3, "strides": [1, [1, 2, 2], 2], **SMALL}
    model = nnx.eval_shape(lambda: models.create(**json.loads(json.dumps(spec))))
    assert model.config == ResEncConfig(
        in_channels=2,
        out_channels=3,
        features=(4, 6, 8),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        blocks=(1, 2, 1),
        decoder_convs=(1, 1),
        kernels=((3, 3, 3),) * 3,
    )
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, 4, 4, 8, 2)))
    assert logits.shape == (1, 4, 4, 8, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_and_run(preset):
    model = nnx.eval_shape(
        lambda: models.create("resenc_unet", in_channels=1, out_channels=4, preset=preset, decoder_convs=2)
    )
    graph, state = nnx.split(model)
    edge = 2 ** len(PRESETS[preset]["features"])
    x = jax.ShapeDtypeStruct((2, edge, edge, edge, 1), jnp.float32)
    assert jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, x).shape == (2, edge, edge, edge, 4)
    assert model.config.decoder_convs == (2,) * (len(model.config.features) - 1)


def test_base_is_the_default_and_features_need_no_preset():
    default = nnx.eval_shape(lambda: models.create("resenc_unet", in_channels=1, out_channels=2))
    assert default.config.features == PRESETS["base"]["features"]
    assert default.config.blocks == PRESETS["base"]["blocks"]
    own = nnx.eval_shape(lambda: models.create("resenc_unet", in_channels=1, out_channels=2, features=(4, 8)))
    assert own.config.blocks == (1, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "resenc_unnet"}, "unknown network 'resenc_unnet'; did you mean 'resenc_unet'"),
        ({"preset": "tny"}, "did you mean 'tiny'"),
        ({"feature": (4, 8)}, "did you mean 'features'"),
        ({"features": (4,)}, "at least two stages"),
        ({"features": (4, 0)}, "whole numbers from 1"),
        ({"out_channels": 0}, "whole numbers from 1"),
        ({"features": (4, 8), "strides": (1, 2, 2)}, "strides needs 2 entries"),
        ({"features": (4, 8), "strides": (2, 2)}, "first stride must be 1"),
        ({"features": (4, 8), "strides": (1, (2, 2))}, "one number or three"),
        ({"features": (4, 8), "kernels": 4}, "kernels must be odd"),
        ({"preset": "tiny", "features": (4, 8)}, "blocks needs 2 entries"),
        ({"preset": "tiny", "blocks": 0}, "whole numbers from 1"),
        ({"preset": "tiny", "dtype": "float16"}, "did you mean 'bfloat16'"),
    ],
)
def test_bad_sizes_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        models.create(**{"name": "resenc_unet", "in_channels": 1, "out_channels": 2} | options)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 8, 8, 9, 1), r"multiples of \(4, 4, 2\).*got \(8, 8, 9\)"),
        ((1, 6, 8, 8, 1), r"got \(6, 8, 8\)"),
        ((1, 4, 4, 2, 1), "longer than that along one axis"),
        ((1, 8, 8, 8, 2), r"takes \(B, D, H, W, 1\)"),
        ((8, 8, 8, 1), r"takes \(B, D, H, W, 1\)"),
    ],
)
def test_bad_inputs_are_refused(shape, message):
    model = nnx.eval_shape(
        lambda: models.create(
            "resenc_unet", in_channels=1, out_channels=2, strides=(1, (2, 2, 1), 2), **SMALL
        )
    )
    # The grid is checked before anything is computed, so weights without values will do.
    with pytest.raises(FdifError, match=message):
        model(jnp.zeros(shape))
