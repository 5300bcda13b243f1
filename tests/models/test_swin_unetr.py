"""SwinUNETR against MONAI's, and the parts of its Swin transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import layers, swin, swin_unetr
from fdif_jax.training import network as networks
from fdif_jax.weights import state_dicts
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
monai_swin = pytest.importorskip("monai.networks.nets.swin_unetr")
twins = pytest.importorskip("tests.helpers.twins")

# The smallest grid, and one whose stages are longer than a window, shorter, and both along different axes.
GRID, LONGER = (32, 32, 64), (32, 64, 64)
SMALL = {"feature_size": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 4), "window_size": 3}
EVERYTHING_ELSE = {
    "in_channels": 2,
    "feature_size": 12,
    "depths": (1, 2, 1, 1),
    "num_heads": (2, 3, 1, 4),
    "window_size": (2, 5, 3),
    "qkv_bias": False,
    "mlp_ratio": 1.5,
    "normalize": False,
    "patch_norm": True,
    "downsample": "mergingv2",
    "use_v2": True,
}


def create(**options):
    return models.create("swin_unetr", **{"in_channels": 1, "out_channels": 3} | options)


def abstract(**options):
    return nnx.eval_shape(lambda: create(**options))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def smooth(monkeypatch):
    """Another activation in both networks, without the kink in which rounding decides about a gradient.

    Of the millions of activations some lie in it whatever the input is.
    """
    monkeypatch.setattr(jax.nn, "leaky_relu", lambda x, slope: jax.nn.silu(x) + slope * x)
    monkeypatch.setattr(
        torch.nn.LeakyReLU,
        "forward",
        lambda self, x: torch.nn.functional.silu(x) + self.negative_slope * x,
    )


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        {"feature_size": 12},
        EVERYTHING_ELSE,
    ],
    ids=["small", "default", "else"],
)
@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_weights_of_either_side_give_the_same_network(options, smooth):
    twins.assert_twins(create(**options), GRID if options is SMALL else LONGER)


@pytest.mark.parametrize("options", [{"feature_size": 12}, EVERYTHING_ELSE], ids=["default", "else"])
@pytest.mark.slow("large programs; initial weights of two networks are tested beside them")
def test_initial_weights_are_distributed_as_monais(options):
    model = create(**options)
    twins.assert_same_distributions(model, twins.twin(model))


@pytest.mark.parametrize("preset, number", [("tiny", 4_078_220), ("small", 15_703_304), ("base", 62_187_296)])
def test_presets_have_the_names_shapes_and_parameters(preset, number, monkeypatch):
    # MONAI reads a number from a tensor where it builds, which the device without values refuses
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    for options in ({}, {"use_v2": True, "downsample": "mergingv2", "depths": (2, 2, 6, 2)}):
        model = abstract(preset=preset, out_channels=14, **options)
        parameters = twins.assert_same_shapes(model)
        assert model.config.feature_size == swin_unetr.PRESETS[preset]["feature_size"]
        assert (parameters == number) == (not options)
    assert abstract().config == abstract(preset="small").config


@pytest.mark.parametrize(
    "grid, window, shift",
    [
        ((6, 9, 4), (3, 3, 2), (1, 1, 1)),
        ((10, 7, 14), (5, 7, 7), (2, 0, 3)),
        ((6, 4, 4), (3, 2, 4), (0, 1, 0)),
    ],
)
def test_what_a_shift_keeps_apart_is_monais(grid, window, shift):
    parts = swin.regions(grid, window, shift)
    want = monai_swin.compute_mask(grid, window, shift, "cpu").numpy()
    np.testing.assert_array_equal(np.where(parts[:, None] == parts[:, :, None], 0, swin.APART), want)


@pytest.mark.parametrize("kind", swin.MERGINGS)
def test_merging_is_monais(kind):
    theirs = monai_swin.MERGING_MODE[kind](dim=4)
    ours = swin.PatchMerging(4, swin.MERGINGS[kind], dtype="float32", rngs=nnx.Rngs(0))
    state_dicts.load_torch_state_dict(ours, theirs.state_dict())
    x = normal(2, 4, 6, 2, 4)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.from_numpy(x)).detach(), atol=1e-6)


@pytest.mark.parametrize("together", quick_of([1, 4, 100], [], "a network each"))
def test_windows_taken_together_are_attended_to_alike(together, monkeypatch):
    size = swin.SwinUNETRConfig(1, 1, 12, window_size=(2, 3, 2))
    attend = swin.WindowAttention(6, 2, size, dtype="float32", rngs=nnx.Rngs(0))
    attend.relative_position_bias_table[...] *= 50
    x = jnp.asarray(normal(2, 5, 12, 6))
    parts = np.random.default_rng(0).integers(0, 2, (5, 12)).astype(np.uint8)

    def outcome():
        return jax.vjp(lambda x: attend(x, parts, None), x)

    wanted, want_pullback = outcome()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        patch.setattr(swin, "LOGITS", together * 2 * 12 * 12)
        y, pullback = outcome()
    np.testing.assert_allclose(y, wanted, atol=1e-6)
    np.testing.assert_allclose(pullback(x)[0], want_pullback(x)[0], atol=1e-5)


@pytest.mark.slow("a large program, compiled with care")
def test_training_omits_where_monai_does(monkeypatch):
    """What is omitted is drawn, so in its place, here and in PyTorch, the last axis is weighted by the rate."""

    def weights(size: int, rate: float) -> np.ndarray:
        return 1 + rate * np.cos(np.arange(size, dtype=np.float32))

    class Weighted(torch.nn.Dropout):
        def forward(self, x):
            return x * torch.from_numpy(weights(x.shape[-1], self.p))

    def weighted_path(self, x):
        return x * torch.from_numpy(weights(x.shape[-1], self.drop_prob))

    def weighted(x, rate, key, axes=None):
        return x if key is None else x * weights(x.shape[-1], rate)

    monkeypatch.setattr(swin, "dropout", weighted)
    monkeypatch.setattr(layers, "dropout", weighted)
    monkeypatch.setattr(swin, "drop_path", weighted)
    monkeypatch.setattr(monai_swin.DropPath, "forward", weighted_path)
    model = create(**SMALL, drop_rate=0.3, attn_drop_rate=0.4, dropout_path_rate=0.5)
    net = twins.twin(model).train()
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    for layer in net.modules():
        if type(layer) is torch.nn.Dropout:
            layer.__class__ = Weighted
    embed = type(net.swinViT.pos_drop).forward  # sees the channels as axis 1
    net.swinViT.pos_drop.forward = lambda x: embed(net.swinViT.pos_drop, x.movedim(1, -1)).movedim(-1, 1)
    x = normal(2, *GRID, 1)
    graph = nnx.graphdef(model)
    # Quickly compiled, as tests are, sums differ by more than the tolerance.
    careful = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    run = jax.jit(lambda state, x, key: nnx.merge(graph, state)(x, key=key), compiler_options=careful)
    for key in (jax.random.key(0), None):
        net.train(key is not None)
        got = run(nnx.state(model), jnp.asarray(x), key)
        if key is None:
            for layer in net.modules():
                if type(layer) is Weighted:
                    layer.__class__ = torch.nn.Dropout
            del net.swinViT.pos_drop.forward
            monkeypatch.setattr(monai_swin.DropPath, "forward", lambda self, x: x)
        want = net(torch.from_numpy(x).movedim(-1, 1)).detach().movedim(1, -1).numpy()
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_the_rate_and_the_key_decide_what_is_omitted():
    bias, qkv = jnp.zeros((2, 50, 50)), jnp.ones((50, 30))
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.vmap(lambda key: swin.attention(qkv, bias, 0.25, key=key))(keys)
    # of 50 equal weights, each kept with probability 3/4 and then 4/3 as large
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert drawn[..., 0].std() == pytest.approx(np.sqrt(0.25 / 0.75 / 50), rel=0.05)
    model = create(**SMALL, dropout_path_rate=0.9)
    blocks = [block for stage in model.swinViT.stages for block in stage.blocks]
    assert [block.path_rate for block in blocks] == pytest.approx([0, 0.225, 0.45, 0.675, 0.9])
    x = jnp.asarray(normal(400, 1, 1, 2, 96))
    y = nnx.jit(lambda block, x, key: block(x, key))(blocks[-1], x, jax.random.key(1))
    unchanged = (y == x).all((1, 2, 3, 4))
    assert unchanged.mean() == pytest.approx(0.9**2, abs=0.08)
    evaluated = nnx.jit(lambda block, x: block(x, None))(blocks[-1], x)
    assert not (evaluated == x).all((1, 2, 3, 4)).any()


@pytest.mark.slow("three large programs")
def test_remat_changes_nothing_and_bfloat16_little():
    """Of a stage: through the whole, the few voxels of the coarsest norms make gradients jump in half precision."""
    x = jnp.asarray(normal(2, 6, 8, 4, 8))

    def outcome(remat: bool, dtype: str):
        rates = {"drop_rate": 0.1, "attn_drop_rate": 0.1}
        size = swin.SwinUNETRConfig(1, 1, 12, window_size=3, mlp_ratio=2.0, **rates, use_v2=True, remat=remat)
        stage = swin.Stage(8, 2, (0.0, 0.3), size, dtype=dtype, rngs=nnx.Rngs(0))

        @nnx.jit
        def step(stage, x):
            return nnx.value_and_grad(lambda stage: jnp.square(stage(x, jax.random.key(0))).mean())(stage)

        loss, gradients = step(stage, x)
        return float(loss), jax.tree.leaves(gradients)

    loss, gradients = outcome(False, "float32")
    remat_loss, remat_gradients = outcome(True, "float32")
    assert remat_loss == pytest.approx(loss, rel=1e-6)
    largest = max(float(np.abs(gradient).max()) for gradient in gradients)
    for ours, theirs in zip(gradients, remat_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)
    half_loss, half_gradients = outcome(False, "bfloat16")
    assert half_loss != loss and half_loss == pytest.approx(loss, rel=0.02)
    assert all(gradient.dtype == jnp.float32 for gradient in half_gradients)
    full, half = (np.concatenate([np.ravel(g) for g in each]) for each in (gradients, half_gradients))
    assert np.linalg.norm(half - full) < 0.1 * np.linalg.norm(full)


@pytest.mark.slow("two large programs")
def test_the_network_in_bfloat16_is_near_float32():
    x = jnp.asarray(normal(1, *GRID, 1))
    half, full = (
        nnx.jit(lambda model, x: model(x))(create(**SMALL, dtype=dtype), x)
        for dtype in ("bfloat16", "float32")
    )
    assert half.dtype == full.dtype == jnp.float32
    assert 0 < np.linalg.norm(half - full) < 0.03 * np.linalg.norm(full)


@pytest.mark.slow("a large program, twice")
def test_remat_keeps_less_for_the_training_step():
    def kept(remat: bool) -> int:
        network = networks.functional(create(**SMALL, drop_rate=0.1, remat=remat))

        def run(weights, x):
            return jax.vjp(lambda weights: network.train(weights, x, jax.random.key(0))[0], weights)[1]

        x = jax.ShapeDtypeStruct((1, *GRID, 1), jnp.float32)
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(run, network.weights, x)))

    assert kept(True) < 0.5 * kept(False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "bse"}, "unknown preset of swin_unetr 'bse'; did you mean 'base'"),
        ({"feature_size": 18}, "feature_size must be a multiple of 12, got 18"),
        ({"in_channels": 0}, "whole numbers from 1"),
        ({"depths": (2, 2, 2)}, "depths needs 4 entries, one a stage"),
        ({"depths": (2, 2, 0, 2)}, "whole numbers from 1"),
        ({"num_heads": (3, 6, 12, 24, 48)}, "num_heads needs 4 entries"),
        ({"num_heads": (3, 5, 12, 24)}, "must divide the stage's features, 48 in stage 2, got 5"),
        ({"window_size": (7, 7)}, "window_size needs 3 entries, one an axis"),
        ({"window_size": 0}, "whole numbers from 1"),
        ({"mlp_ratio": 0.01}, "mlp_ratio must leave an MLP one feature"),
        ({"drop_rate": 1.0}, "drop_rate must be from 0 to below 1, got 1.0"),
        ({"dropout_path_rate": -0.1}, "dropout_path_rate must be from 0"),
        (
            {"downsample": "mergingv3"},
            "unknown downsample of swin_unetr 'mergingv3'; did you mean 'mergingv2'",
        ),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"patch_size": 4}, "unknown option of swin_unetr 'patch_size'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        abstract(**options)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 64, 64, 48, 1), r"multiples of 32, and longer.*got \(64, 64, 48\)"),
        ((1, 32, 32, 32, 1), r"longer than that along one axis at least; got \(32, 32, 32\)"),
        ((1, 64, 64, 64, 2), r"takes \(B, D, H, W, 1\)"),
        ((64, 64, 64, 1), r"takes \(B, D, H, W, 1\)"),
    ],
)
def test_bad_inputs_are_refused(shape, message):
    with pytest.raises(FdifError, match=message):
        abstract(**SMALL)(jnp.zeros(shape))


@pytest.mark.slow("a large network, twice")
def test_transfer_finds_its_weights():
    arrays = state_dicts.to_torch_state_dict(create(**SMALL, in_channels=2, out_channels=5))
    names = {name for name, array in arrays.items() if array.ndim == 5 and array.shape[1] == 2}
    assert names == set(swin_unetr.SwinUNETR.input_weights)
    for prefixes, number in ((swin_unetr.SwinUNETR.head, 2), (swin_unetr.SwinUNETR.encoder, 84)):
        assert sum(name.startswith(prefixes) for name in arrays) == number
    assert {name for name, array in arrays.items() if array.shape[0] == 5} == {
        "out.conv.conv.weight",
        "out.conv.conv.bias",
    }


@pytest.mark.slow("62 million weights on 64³ voxels")
def test_the_published_size(smooth):
    """One sample, and nothing kept that can be computed again: all windows' attention weights are gigabytes.

    Not on the published 96³ voxels, for which both libraries together take 19 GB.
    """
    model = create(preset="base", out_channels=14, remat=True)
    net = twins.twin(model)
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    for block in net.swinViT.modules():
        if isinstance(block, monai_swin.SwinTransformerBlock):
            block.use_checkpoint = True
    x = normal(1, 64, 64, 64, 1)
    want_gradient, (want,) = twins.torch_outcome(net, x)
    gradient, (y,) = twins.outcome(model, x)
    np.testing.assert_allclose(y, want, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-3 * np.abs(want_gradient).max())
