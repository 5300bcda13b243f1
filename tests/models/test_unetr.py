"""UNETR against MONAI's, and its own transformer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import layers, vit
from fdif_jax.weights import state_dicts
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
pytest.importorskip("monai")
twins = pytest.importorskip("tests.helpers.twins")

GRID = (16, 32, 48)
SMALL = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 40, "num_heads": 3}


def create(**options):
    return models.create("unetr", **{"in_channels": 1, "out_channels": 3, "grid": GRID} | SMALL | options)


def abstract(**options):
    return nnx.eval_shape(lambda: create(**options))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 2},
        {"proj_type": "perceptron", "in_channels": 2, "qkv_bias": True},
        {"in_channels": 4, "res_block": False, "dropout_rate": 0.1},  # as many channels as features
        {"conv_block": False},
    ],
)
@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_weights_of_either_side_give_the_same_network(options):
    twins.assert_twins(create(**options), GRID)


@pytest.mark.parametrize(
    "proj_type", quick_of(vit.PROJECTIONS, [], "a network each; Primus' are in test_primus")
)
def test_initial_weights_are_distributed_as_monais(proj_type):
    model = create(proj_type=proj_type, qkv_bias=True, hidden_size=48, grid=48)
    twins.assert_same_distributions(model, twins.twin(model))


def test_the_published_size_has_its_names_shapes_and_parameters():
    sizes = {"in_channels": 1, "out_channels": 14, "grid": 96}
    number = twins.assert_same_shapes(nnx.eval_shape(lambda: models.create("unetr", **sizes)))
    assert number == pytest.approx(92.8e6, rel=1e-3)
    sizes |= {"feature_size": 32, "proj_type": "perceptron", "grid": (96, 64, 32)}
    twins.assert_same_shapes(nnx.eval_shape(lambda: models.create("unetr", **sizes)))


@pytest.mark.slow("three large programs")
def test_remat_changes_nothing_and_bfloat16_little():
    x = jnp.asarray(normal(1, *GRID, 1))

    def loss(model, x):
        logits = model(x)
        return jnp.square(logits).mean(), logits

    step = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (_, logits), gradients = step(create(), x)
    (_, remat_logits), remat_gradients = step(create(remat=True), x)
    np.testing.assert_allclose(remat_logits, logits, atol=1e-5 * np.abs(logits).max())
    pairs = list(zip(jax.tree.leaves(gradients), jax.tree.leaves(remat_gradients), strict=True))
    largest = max(float(np.abs(gradient).max()) for gradient, _ in pairs)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)
    _, half = nnx.jit(loss)(create(dtype="bfloat16"), x)
    assert half.dtype == jnp.float32 and not np.array_equal(half, logits)
    assert np.square(half - logits).mean() < 0.01 * np.square(logits).mean()


@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_training_omits_where_monai_does(monkeypatch):
    """What is omitted is drawn, so in its place, here and in PyTorch, the last axis is weighted by the rate."""

    def weights(size: int, rate: float) -> np.ndarray:
        return 1 + rate * np.cos(np.arange(size, dtype=np.float32))

    class Weighted(torch.nn.Dropout):
        def forward(self, x):
            return x * torch.from_numpy(weights(x.shape[-1], self.p))

    keys: list = []

    def weighted(x, rate, key):
        keys.append(key)
        return x if key is None else x * weights(x.shape[-1], rate)

    for module in (vit, layers):
        monkeypatch.setattr(module, "dropout", weighted)
    model = create(dropout_rate=0.4)
    net = twins.twin(model).train()
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    replaced = [layer for layer in net.modules() if type(layer) is torch.nn.Dropout and layer.p > 0]
    assert len(replaced) == 1 + 12 * 4
    for layer in replaced:
        layer.__class__ = Weighted
    x = normal(2, *GRID, 1)
    want = net(torch.from_numpy(x).movedim(-1, 1)).detach().movedim(1, -1).numpy()
    trained = nnx.jit(lambda model, x, key: model(x, key=key))(model, jnp.asarray(x), jax.random.key(0))
    assert len(set(map(id, keys))) == len(replaced)  # none is used twice
    np.testing.assert_allclose(trained, want, atol=1e-4 * np.abs(want).max())
    evaluated = nnx.jit(lambda model, x: model(x))(model, jnp.asarray(x))
    assert np.abs(evaluated - want).max() > 1e-2 * np.abs(want).max()


def test_single_values_are_omitted_at_their_rate():
    x = jnp.full((4, 30, 40), 2.0)
    y = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
    assert layers.dropout(x, 0.25, None) is x
    np.testing.assert_allclose(y[y != 0], 2 / 0.75, rtol=1e-6)
    assert (y == 0).mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / x.size))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"grid": (16, 24, 16)}, r"grid of three multiples of 16, got \(16, 24, 16\)"),
        ({"grid": (16, 16)}, "grid of three multiples of 16"),
        ({"grid": 0}, "grid of three multiples of 16"),
        ({"out_channels": 0}, "out_channels must be a whole number from 1"),
        ({"mlp_dim": 0}, "mlp_dim must be a whole number from 1"),
        ({"num_heads": 5}, "num_heads must divide hidden_size 24, got 5"),
        ({"dropout_rate": 1.0}, "at least 0 and below 1"),
        ({"proj_type": "convolution"}, "unknown proj_type of unetr 'convolution'"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"img_size": 96}, "unknown option of unetr 'img_size'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        abstract(**options)


@pytest.mark.parametrize("shape", [(1, 32, 32, 48, 1), (1, *GRID, 2), (*GRID, 1)])
def test_bad_inputs_are_refused(shape):
    with pytest.raises(
        FdifError, match=r"takes \(B, 16, 32, 48, 1\) and no other grid, got .*grid= multiples of 16"
    ):
        abstract()(jnp.zeros(shape))


def test_transfer_finds_its_weights():
    model = create(in_channels=2, out_channels=5)
    arrays = state_dicts.to_torch_state_dict(model)
    assert {name for name, array in arrays.items() if array.ndim == 5 and array.shape[1] == 2} == set(
        model.input_weights
    )
    assert {name for name, array in arrays.items() if array.shape[0] == 5} == {
        name for name in arrays if name.startswith(model.head)
    }
    assert model.token_grid() == (1, 2, 3)
    (name,) = model.position_embeddings
    assert arrays[name].shape == (1, 6, 24) and name.startswith(model.encoder)
    # each token's embedding acts where token_grid says that the token lies: here at depth 0, height 1, width 2
    x = jnp.zeros((1, *GRID, 2))
    change = jnp.zeros((1, 6, 24)).at[0, 5].set(1.0)
    before = model.vit.patch_embedding(x, None)
    model.vit.patch_embedding.position_embeddings[...] += change
    moved = np.asarray(model.vit.patch_embedding(x, None) - before).reshape(1, 2, 3, 24)
    assert np.abs(moved[0, 1, 2]).min() > 0.9 and np.abs(moved).sum() == pytest.approx(24, rel=1e-3)


@pytest.mark.slow("93 million weights on 96³ voxels")
def test_the_papers_size():
    twins.assert_twins(models.create("unetr", in_channels=1, out_channels=14, grid=96), (96, 96, 96), batch=1)
