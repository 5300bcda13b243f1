"""V-Net against MONAI's, in evaluation and in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import vnet
from fdif_jax.models.layers import BatchNorm
from fdif_jax.weights import state_dicts

torch = pytest.importorskip("torch")
pytest.importorskip("monai")
twins = pytest.importorskip("tests.helpers.twins")

GRID = (16, 32, 16)


def create(**options):
    return models.create("vnet", **{"in_channels": 1, "out_channels": 3} | options)


def abstract(**options):
    return nnx.eval_shape(lambda: create(**options))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def channels_first(x: np.ndarray):
    return torch.from_numpy(x).movedim(-1, 1)


def channels_last(x) -> np.ndarray:
    return x.detach().movedim(1, -1).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"in_channels": 2, "act": "prelu", "bias": True, "dropout_prob_down": None},
    ],
)
@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_weights_of_either_side_give_the_same_network(options):
    twins.assert_twins(create(**options), GRID)


@pytest.mark.slow("20 million weights")
def test_initial_weights_are_distributed_as_monais():
    model = create(act="prelu", bias=True, out_channels=8)
    twins.assert_same_distributions(model, twins.twin(model))


def test_batch_norm_is_pytorchs_step_by_step():
    ours, theirs = BatchNorm(3, dtype="float32"), torch.nn.BatchNorm3d(3)
    for step in range(4):
        x, cotangent = 2 + 3 * normal(2, 2, 3, 4, 3, seed=step), normal(2, 2, 3, 4, 3, seed=9)
        leaf = channels_first(x).requires_grad_()
        want = theirs(leaf)
        want.backward(channels_first(cotangent))

        def weighted(norm, x, cotangent=cotangent):
            y = norm(x, True)
            return (y * cotangent).sum(), y

        (gradients, dx), y = nnx.grad(weighted, argnums=(0, 1), has_aux=True)(ours, jnp.asarray(x))
        np.testing.assert_allclose(y, channels_last(want), atol=2e-6)
        np.testing.assert_allclose(dx, channels_last(leaf.grad), atol=2e-6)
        for name in ("weight", "bias"):
            np.testing.assert_allclose(gradients[name], getattr(theirs, name).grad, atol=1e-5)
            getattr(theirs, name).grad = None
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            np.testing.assert_allclose(getattr(ours, name)[...], getattr(theirs, name), rtol=1e-5)
    want = theirs.eval()(channels_first(x))
    np.testing.assert_allclose(ours(jnp.asarray(x)), channels_last(want), atol=2e-6)


def factors(channels: int, rate: float) -> np.ndarray:
    """Of channels, in place of dropout's draws: a weighting that no norm undoes."""
    return 1 + rate * np.cos(np.arange(channels, dtype=np.float32))


class Weighted(torch.nn.Dropout3d):
    def forward(self, x):
        return x * torch.from_numpy(factors(x.shape[1], self.p))[:, None, None, None]


@pytest.mark.slow("a large program; ResEnc's and Primus's are in test_models and test_primus")
def test_training_is_pytorchs(monkeypatch):
    keys: list = []

    def weighted(x, rate, key):
        keys.append(key)
        return x if key is None else x * factors(x.shape[-1], rate)

    monkeypatch.setattr(vnet, "drop_channels", weighted)
    model = create(
        in_channels=4, out_channels=1, act="relu", dropout_prob_down=0.3, dropout_prob_up=(None, 0.4)
    )
    net = twins.twin(model)
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    for layer in net.modules():
        if isinstance(layer, torch.nn.Dropout3d):
            layer.__class__ = Weighted
    net.train()
    train = nnx.jit(lambda model, x, key: model(x, key=key))
    for step in range(3):
        x = normal(2, *GRID, 4, seed=step)
        want = channels_last(net(channels_first(x)))
        got = train(model, jnp.asarray(x), jax.random.key(step))
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    assert len(keys) == len(set(map(id, keys))) == 12  # traced once; none is used twice
    ours = state_dicts.to_torch_state_dict(model)
    for name, want in net.state_dict().items():
        np.testing.assert_allclose(ours[name], want, atol=1e-4 * want.abs().max(), err_msg=name)
    assert ours["out_tr.conv_block.adn.N.num_batches_tracked"] == 3


def test_a_key_drops_whole_channels_at_their_rate():
    x = jnp.full((40, 2, 3, 4, 50), 2.0)
    y = np.asarray(vnet.drop_channels(x, 0.25, jax.random.key(0)))
    assert vnet.drop_channels(x, 0.25, None) is x
    dropped = (y == 0).all((1, 2, 3))
    np.testing.assert_allclose(
        y[np.broadcast_to(~dropped[:, None, None, None], y.shape)], 2 / 0.75, rtol=1e-6
    )
    assert dropped.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 2000))
    assert len(np.unique(dropped, axis=0)) == 40


@pytest.mark.slow("20 million weights three times")
def test_remat_changes_nothing_bfloat16_little_and_the_key_what_is_dropped():
    x = jnp.asarray(normal(2, 16, 16, 16, 1))

    def train(model, x, key):
        logits = model(x, key=key)
        return jnp.square(logits).mean(), logits

    step = nnx.jit(nnx.value_and_grad(train, has_aux=True))

    def outcome(seed, **options):
        model = create(**options)
        (_, logits), gradients = step(model, x, jax.random.key(seed))
        return logits, jax.tree.leaves(gradients), nnx.state(model, nnx.BatchStat)

    logits, gradients, statistics = outcome(0)
    assert not np.allclose(outcome(1)[0], logits, rtol=0.01)
    remat_logits, remat_gradients, remat_statistics = outcome(0, remat=True)
    np.testing.assert_allclose(remat_logits, logits, atol=1e-5 * np.abs(logits).max())
    largest = max(float(np.abs(gradient).max()) for gradient in gradients)
    for ours, theirs in zip(gradients, remat_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), statistics, remat_statistics
    )
    assert statistics["in_tr"]["conv_block"]["norm"]["num_batches_tracked"][...] == 1
    _, half = nnx.jit(train)(create(dtype="bfloat16"), x, jax.random.key(0))
    assert half.dtype == jnp.float32 and not np.array_equal(half, logits)
    assert np.square(half - logits).mean() < 0.01 * np.square(logits).mean()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"in_channels": 3}, "in_channels must divide 16, got 3"),
        ({"in_channels": 0}, "in_channels must divide 16, got 0"),
        ({"out_channels": 0}, "out_channels must be a whole number from 1"),
        ({"act": "gelu"}, "unknown activation of vnet .gelu."),
        ({"dropout_prob_down": 1.0}, "at least 0 and below 1"),
        ({"dropout_prob_up": (-0.1, 0.5)}, "at least 0 and below 1"),
        ({"dropout_prob_up": (0.5, None)}, "dropout_prob_up is two probabilities"),
        ({"dropout_prob_up": (0.5,)}, "dropout_prob_up is two probabilities"),
        ({"dtype": "float16"}, "did you mean 'bfloat16'"),
        ({"features": 8}, "unknown option of vnet 'features'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        abstract(**options)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 16, 24, 16, 1), r"multiples of 16, got \(16, 24, 16\)"),
        ((1, 16, 16, 16, 2), r"takes \(B, D, H, W, 1\)"),
        ((16, 16, 16, 1), r"takes \(B, D, H, W, 1\)"),
    ],
)
def test_bad_inputs_are_refused(shape, message):
    with pytest.raises(FdifError, match=message):
        abstract()(jnp.zeros(shape))


@pytest.mark.slow("a large program")
def test_a_single_voxel_cannot_be_normalised_in_training():
    model = abstract()
    with pytest.raises(FdifError, match=r"cannot train on one image of \(16, 16, 16\)"):
        model(jnp.zeros((1, 16, 16, 16, 1)), key=jax.random.key(0))


@pytest.mark.slow("20 million weights; other networks are in tests/weights")
def test_transfer_finds_its_weights():
    names = state_dicts.to_torch_state_dict(create(in_channels=2, out_channels=5))
    assert all(names[name].shape[1] == 2 for name in vnet.VNet.input_weights)
    sized = {name for name, array in names.items() if 5 in array.shape[:1]}
    assert sized and all(name.startswith(vnet.VNet.head) for name in sized)
    assert sum(name.startswith(vnet.VNet.encoder) for name in names) > 60


@pytest.mark.slow("20 million weights on 96³ voxels")
def test_the_papers_grid():
    model = create(out_channels=14)
    # Weights as MONAI draws them: with random ones values grow to 10⁶, and there an ELU has a kink.
    net = twins.twin(model)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    twins.assert_equal_networks(model, net, (96, 96, 96), batch=1)
