"""Primus against its PyTorch twin, its rotation against timm's, and what its key leaves out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import attention, eva
from fdif_jax.models.primus import PRESETS, Primus
from fdif_jax.weights import state_dicts
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")
twins = pytest.importorskip("tests.helpers.twins")
timm = pytest.importorskip("timm.layers")

SMALL = {"grid": (16, 8, 16), "embed_dim": 48, "depth": 2, "num_heads": 2}
# name: (input channels, options)
SIZES = {
    "cube": (1, {**SMALL, "grid": 16}),
    "registers": (2, {**SMALL, "grid": (8, 16, 24), "num_register_tokens": 3}),
    "anisotropic": (1, {**SMALL, "grid": (4, 16, 8), "patch_embed_size": (1, 8, 2), "mlp_ratio": 1.9}),
    "plain": (
        1,
        {
            **SMALL,
            "num_heads": 3,
            "patch_embed_size": 4,
            "use_rot_pos_emb": False,
            "use_abs_pos_embed": False,
            "init_values": None,
            "scale_attn_inner": False,
        },
    ),
}


def create(in_channels: int = 1, out_channels: int = 3, **options) -> Primus:
    return models.create("primus", in_channels=in_channels, out_channels=out_channels, **{**SMALL, **options})


def abstract(**options) -> Primus:
    return nnx.eval_shape(lambda: create(**options))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def trained(**options) -> tuple[Primus, torch.nn.Module]:
    """A network whose every part matters, and its twin with the same weights."""
    model = create(**options)
    net = twins.twin(model)
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    return model, net


@nnx.jit
def logits_of(model, x, key=None):
    return model(x, key=key)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow("a program more"))
        if n in ("registers", "anisotropic", "cube")
        else n
        for n in SIZES
    ],
)
def test_weights_of_either_side_give_the_same_network(name):
    channels, options = SIZES[name]
    model = create(channels, **options)
    twins.assert_twins(model, model.config.grid)


def test_initial_weights_are_distributed_as_the_original_draws_them():
    model = create(in_channels=2, out_channels=12, embed_dim=96, num_register_tokens=4)
    twins.assert_same_distributions(model, twins.twin(model))


@pytest.mark.parametrize("preset", quick_of(PRESETS, ["tiny", "M"], "large networks, though abstract"))
def test_presets_have_the_originals_names_and_shapes(preset):
    model = nnx.eval_shape(lambda: models.create("primus", in_channels=1, out_channels=2, preset=preset))
    twins.assert_same_shapes(model)
    assert model.token_grid() == (12, 12, 12)
    logits = nnx.eval_shape(lambda m, x: m(x), model, jnp.zeros((1, 96, 96, 96, 1)))
    assert logits.shape == (1, 96, 96, 96, 2)


def test_m_as_nnunet_builds_it_is_the_default():
    config = nnx.eval_shape(lambda: models.create("primus", in_channels=1, out_channels=2)).config
    assert {name: getattr(config, name) for name in PRESETS["M"]} == PRESETS["M"]
    assert (config.drop_path_rate, config.init_values, config.scale_attn_inner) == (0.2, 0.1, True)
    assert (config.grid, config.patch_embed_size, config.mlp_ratio) == ((96,) * 3, (8,) * 3, 8 / 3)


@pytest.mark.parametrize("tokens, channels, registers", [((3, 4, 5), 24, 0), ((12, 12, 12), 66, 2)])
def test_rotation_is_timms(tokens, channels, registers):
    rope = timm.RotaryEmbeddingCat(
        round(channels / 1.5), in_pixels=False, feat_shape=list(tokens), ref_feat_shape=list(tokens)
    )
    x = normal(2, registers + np.prod(tokens), 3, channels)
    heads = torch.from_numpy(x).transpose(1, 2)
    turned = timm.apply_rot_embed_cat(heads[:, :, registers:], rope.get_embed())
    want = torch.cat([heads[:, :, :registers], turned], 2).transpose(1, 2).numpy()
    got = eva.rotate(jnp.asarray(x), eva.rotation(tokens, channels, registers))
    np.testing.assert_allclose(got, np.concatenate([want[..., ::2], want[..., 1::2]], -1), atol=1e-5)


@pytest.mark.parametrize(
    "form", [attention.attention, attention.attention_whole, attention.attention_by_head]
)
def test_attention_is_pytorchs(form):
    arrays = [2 * normal(2, 7, 3, 6, seed=seed) for seed in range(4)]
    y, vjp = jax.vjp(form, *arrays[:3])
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays[:3]]
    attend = torch.nn.functional.scaled_dot_product_attention
    want = attend(*(leaf.transpose(1, 2) for leaf in leaves)).transpose(1, 2)
    want.backward(torch.from_numpy(arrays[3]))
    np.testing.assert_allclose(y, want.detach(), atol=1e-5)
    for gradient, leaf in zip(vjp(jnp.asarray(arrays[3])), leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad, atol=1e-4)
    half = form(*(jnp.asarray(a, jnp.bfloat16) for a in arrays[:3]))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want.detach(), atol=0.2)


class Scaled(torch.nn.Module):
    """What drop path makes of a branch of one sample: nothing, or a multiple."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_a_key_leaves_out_branches_of_the_last_block_sample_by_sample():
    model, net = trained(drop_path_rate=0.5)
    image, samples = normal(1, *SMALL["grid"], 1), 64
    got = np.asarray(logits_of(model, jnp.repeat(image, samples, axis=0), jax.random.key(0)))
    outcomes = []
    for factors in itertools.product((0, 2), repeat=2):
        block = net.eva.blocks[1]
        block.drop_path1, block.drop_path2 = map(Scaled, factors)
        with torch.no_grad():
            y = net(torch.from_numpy(image).permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1).numpy()
        outcomes.append(np.abs(got - y).max((1, 2, 3, 4)) < 1e-4 * np.abs(y).max())
    assert (np.sum(outcomes, axis=0) == 1).all()
    # 16 of 64 each, with a standard deviation of 3.5
    assert all(2 < outcome.sum() < 34 for outcome in outcomes)


def test_without_a_key_or_a_rate_nothing_is_left_out():
    model, _ = trained(drop_path_rate=0.5)
    x = normal(2, *SMALL["grid"], 1)
    exact = logits_of(model, x)
    for block in model.eva.blocks:
        block.drop_path_rate = 0.0
    np.testing.assert_array_equal(logits_of(model, x, jax.random.key(0)), exact)


@pytest.mark.slow("three large programs; the U-Net's are in test_models")
def test_remat_changes_nothing_and_bfloat16_little():
    state = state_dicts.to_torch_state_dict(trained()[0])
    x = normal(2, *SMALL["grid"], 1)

    @nnx.jit
    def step(model, x):
        def loss(model):
            logits = model(x, key=jax.random.key(1))
            return jnp.square(logits).mean(), logits

        return nnx.value_and_grad(loss, has_aux=True)(model)

    def outcome(**options):
        model = create(**options)
        state_dicts.load_torch_state_dict(model, state)
        (loss, logits), gradients = step(model, x)
        assert logits.dtype == jnp.float32
        return float(loss), logits, jax.tree.leaves(gradients)

    loss, logits, gradients = outcome()
    largest = max(float(np.abs(gradient).max()) for gradient in gradients)
    remat_loss, _, remat_gradients = outcome(remat=True)
    assert remat_loss == pytest.approx(loss, rel=1e-6)
    for ours, theirs in zip(gradients, remat_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * largest)
    half_loss, half_logits, half_gradients = outcome(dtype="bfloat16")
    assert half_loss != loss
    np.testing.assert_allclose(half_logits, logits, atol=0.05 * np.abs(logits).max())
    for ours, theirs in zip(gradients, half_gradients, strict=True):
        assert theirs.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=0.05 * largest)


def test_the_backward_pass_keeps_no_attention_weights_and_with_remat_little():
    def kept(**options) -> int:
        model = create(grid=32, depth=4, **options)  # 64 tokens
        graph, state = nnx.split(model)
        x = jnp.zeros((1, 32, 32, 32, 1))
        _, pullback = jax.eval_shape(lambda state: jax.vjp(lambda s: nnx.merge(graph, s)(x), state), state)
        shapes = [leaf.shape for leaf in jax.tree.leaves(pullback)]
        assert not any(shape[-2:] == (64, 64) for shape in shapes)
        return sum(map(np.prod, shapes))

    assert kept(remat=True) < 0.7 * kept()


def test_transfer_finds_its_weights():
    def shapes(**options):
        state = state_dicts.to_torch_state_dict(create(num_register_tokens=2, **options))
        return {name: array.shape for name, array in state.items()}

    def differing(**options):
        return {name for name, shape in shapes(**options).items() if shape != base[name]}

    base = shapes()
    assert differing(in_channels=2) == set(Primus.input_weights)
    assert all(base[name][1] == 1 for name in Primus.input_weights)
    assert differing(grid=24) == set(Primus.position_embeddings)
    assert base["eva.pos_embed"][1] == 2 + np.prod(create().token_grid())
    sized = differing(out_channels=9)
    assert sized and all(name.startswith(Primus.head) for name in sized)
    rest = {name for name in base if not name.startswith(Primus.encoder + Primus.head)}
    assert rest == {"mask_token"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "XL"}, "unknown preset of primus 'XL'"),
        ({"embed_dims": 48}, "did you mean 'embed_dim'"),
        ({"embed_dim": 100}, r"multiple of 12 \(six times num_heads.*got 100; 96 is one"),
        ({"embed_dim": 49, "use_rot_pos_emb": False}, r"multiple of 2 \(num_heads\).*got 49"),
        ({"depth": 0}, "depth must be a whole number from 1, got 0"),
        ({"num_register_tokens": -1}, "num_register_tokens must be a whole number from 0"),
        ({"out_channels": 0}, "out_channels must be a whole number from 1"),
        ({"grid": (16, 16)}, "grid is three whole numbers"),
        ({"grid": (16, 20, 16)}, r"multiples of \(8, 8, 8\), got \(16, 20, 16\)"),
        ({"patch_embed_size": 6, "grid": 12}, "patch_embed_size must be powers of two"),
        ({"patch_embed_size": 1}, "not all 1"),
        ({"mlp_ratio": 0.0}, "leaves the MLP without channels"),
        ({"drop_path_rate": 1.0}, "at least 0 and below 1"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        abstract(**options)


@pytest.mark.parametrize("shape", [(1, 16, 16, 16, 1), (1, 16, 8, 16, 2), (16, 8, 16, 1)])
def test_bad_inputs_are_refused(shape):
    with pytest.raises(FdifError, match=r"takes \(B, 16, 8, 16, 1\), got .* multiples of \(8, 8, 8\)"):
        abstract()(jnp.zeros(shape))


@pytest.mark.slow("networks of hundreds of millions of weights")
@pytest.mark.parametrize("preset, edge", [("S", 32), ("B", 32), ("M", 96), ("L", 48)])
def test_presets_are_the_same_networks(preset, edge):
    options = {"preset": preset, "grid": edge, "remat": True}  # which saves memory
    model = models.create("primus", in_channels=1, out_channels=14, **options)
    twins.assert_twins(model, (edge, edge, edge), batch=1)
