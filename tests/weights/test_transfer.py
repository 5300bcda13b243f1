"""The transfer rules, against values by hand, PyTorch's interpolation, and networks' outputs."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.weights import state_dicts
from fdif_jax.weights.transfer import Transfer, adapt_input, adapt_positions, transfer
from tests.helpers.slow import quick_of


class Toy(nnx.Module):
    """A stem, an encoder with position embeddings, a norm, a constant and a head."""

    input_weights = ("stem.weight",)
    encoder = ("stem.", "pos", "body.")
    head = ("head.",)
    position_embeddings = ("pos",)

    def __init__(self, channels=1, grid=(2, 2, 2), classes=3, registers=0, body=50, constant=0.0):
        def param(*shape, **metadata):
            return nnx.Param(jnp.zeros(shape), **metadata)

        self.stem = nnx.Dict(weight=param(1, 1, 1, channels, 4, torch_axes=(4, 3, 0, 1, 2)), bias=param(4))
        self.pos = param(1, registers + int(np.prod(grid)), 4)
        self.body = nnx.Dict(weight=param(4, body), running_mean=nnx.BatchStat(jnp.zeros(4)))
        self.constant = state_dicts.TorchBuffer(jnp.full(3, constant))
        self.head = nnx.Dict(weight=param(classes, 4), scale=param(4))
        self.grid = grid

    def token_grid(self):
        return self.grid


def filled(**size) -> dict[str, np.ndarray]:
    """A state dict whose every number differs."""
    state = state_dicts.to_torch_state_dict(Toy(**size))
    starts = np.cumsum([1, *(array.size for array in state.values())])
    return {
        name: array
        if name == "constant"
        else np.arange(start, start + array.size, dtype=np.float32).reshape(array.shape)
        for (name, array), start in zip(state.items(), starts, strict=False)
    }


def moved(state, head=True, token_grid=None, **size) -> tuple[Transfer, dict[str, np.ndarray]]:
    model = Toy(**size)
    report = transfer(model, state, source="file.pth", head=head, token_grid=token_grid)
    return report, state_dicts.to_torch_state_dict(model)


def test_the_same_network_takes_everything():
    state = filled()
    report, got = moved(state)
    assert set(report.loaded) == set(state) and report == Transfer(report.loaded, (), (), ())
    for name, array in state.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert report.summary() == "loaded 8 of 8 tensors"


@pytest.mark.parametrize("options", [{"classes": 5}, {"head": False}])
def test_a_head_for_other_classes_stays_fresh_as_a_whole(options):
    state = filled()
    report, got = moved(state, **options)
    assert set(report.fresh) == {"head.weight", "head.scale"}
    assert not got["head.weight"].any() and not got["head.scale"].any()
    np.testing.assert_array_equal(got["body.weight"], state["body.weight"])
    np.testing.assert_array_equal(got["body.running_mean"], state["body.running_mean"])
    assert "left fresh 2 (head." in report.summary()


@pytest.mark.parametrize(
    ("m", "n", "want", "how"),
    [
        (1, 3, [[2, 2, 2]], "1 -> 3 input channels: copied / 3"),
        (2, 4, [[3, 4.5, 3, 4.5]], "2 -> 4 input channels: tiled * 2 / 4"),
        (2, 3, [[4, 6, 4]], "2 -> 3 input channels: tiled * 2 / 3"),
        (3, 2, [[6, 9]], "3 -> 2 input channels: truncated"),
    ],
)
def test_input_weights_by_hand(m, n, want, how):
    weight = np.array([[6.0, 9.0, 1.0]], np.float32)[:, :m]
    got, what = adapt_input(weight.reshape(1, m, 1, 1, 1), n)
    np.testing.assert_allclose(got[..., 0, 0, 0], want, rtol=1e-6)
    assert what == how and got.dtype == np.float32


def test_input_channels_are_adapted_and_said():
    state = filled()
    report, got = moved(state, channels=4)
    np.testing.assert_array_equal(got["stem.weight"], np.repeat(state["stem.weight"] / 4, 4, axis=1))
    assert report.adapted == (("stem.weight", "1 -> 4 input channels: copied / 4"),)
    assert "adapted stem.weight (1 -> 4 input channels: copied / 4)" in report.summary()


@settings(max_examples=10)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(1, 6)] * 3))
def test_position_embeddings_are_interpolated_as_pytorch_does(there, here):
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((1, int(np.prod(there)), 5), np.float32)
    grid = torch.from_numpy(values).reshape(1, *there, 5).permute(0, 4, 1, 2, 3)
    want = torch.nn.functional.interpolate(grid, size=here, mode="trilinear", align_corners=False)
    want = want.permute(0, 2, 3, 4, 1).reshape(1, -1, 5)
    np.testing.assert_allclose(adapt_positions(values, there, here), want, atol=1e-5)


def test_position_embeddings_go_to_the_networks_grid():
    state = filled(registers=2)
    report, got = moved(state, grid=(4, 2, 2), registers=2)
    np.testing.assert_array_equal(got["pos"][:, :2], state["pos"][:, :2])
    want = adapt_positions(state["pos"][:, 2:], (2, 2, 2), (4, 2, 2))
    np.testing.assert_array_equal(got["pos"][:, 2:], want)
    assert report.adapted == (("pos", "2x2x2 -> 4x2x2 tokens: interpolated"),)
    # As many tokens along other axes: taken as they are unless it is known that they lie otherwise.
    state = filled(grid=(1, 2, 4))
    assert not moved(state, grid=(4, 2, 1))[0].adapted
    report, got = moved(state, grid=(4, 2, 1), token_grid=(1, 2, 4))
    np.testing.assert_array_equal(got["pos"], adapt_positions(state["pos"], (1, 2, 4), (4, 2, 1)))
    assert len(report.adapted) == 1
    with pytest.raises(FdifError, match=r"file\.pth: pos has 12 tokens, which are no cube"):
        moved(filled(grid=(3, 2, 2)), grid=(2, 2, 2))


def test_constants_stay_the_networks_own():
    state = filled(constant=1.0)
    assert "constant" in moved(state, constant=1.0)[0].loaded
    report, got = moved(state, constant=2.0)
    assert report.fresh == ("constant",) and (got["constant"] == 2).all()


def test_what_is_missing_misshapen_or_unknown_is_reported():
    state = filled() | {"extra": np.zeros(2)}
    del state["stem.bias"]
    state["body.running_mean"] = np.zeros(7)
    report, got = moved(state)
    assert set(report.fresh) == {"stem.bias", "body.running_mean"} and report.unused == ("extra",)
    assert "did not use 1 (extra)" in report.summary()
    assert not got["body.running_mean"].any()


def test_less_than_half_of_the_encoder_is_refused_and_nothing_changed():
    state = filled(body=49)
    del state["stem.bias"]
    model = Toy()
    with pytest.raises(FdifError) as caught:
        transfer(model, state, source="file.pth")
    assert str(caught.value) == (  # stem 4 and positions 32 of 240 weights
        "file.pth fits 15% of the encoder of this Toy, less than half: it lacks stem.bias; "
        "it has of another shape body.weight (4, 49) instead of (4, 50)"
    )
    assert not any(array.any() for array in state_dicts.to_torch_state_dict(model).values())
    transfer(
        Toy(body=9), {name: a for name, a in filled(body=9).items() if name != "body.weight"}, source="x"
    )


# name: size and grid
SIZES = {
    "resenc_unet": ({"features": (4, 6), "blocks": 1}, (8, 8, 8)),
    "swin_unetr": ({"feature_size": 12, "window_size": 2, "depths": (1, 1, 1, 1)}, (64, 32, 32)),
    "vnet": ({}, (16, 16, 16)),
    "unetr": (
        {"grid": (32, 32, 32), "feature_size": 6, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
        (32, 32, 32),
    ),
    "unetr by a perceptron": (
        {
            "grid": (32, 32, 32),
            "feature_size": 6,
            "hidden_size": 24,
            "mlp_dim": 24,
            "num_heads": 2,
            "proj_type": "perceptron",
        },
        (32, 32, 32),
    ),
    "primus": (
        {"grid": (8, 8, 16), "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_embed_size": 4},
        (8, 8, 16),
    ),
}


FLAT = models.unetr.UNETR.flat_input_weights


@pytest.mark.parametrize("name", quick_of(SIZES, ["resenc_unet"], "a network more"))
def test_copies_of_an_image_in_n_channels_give_what_one_gave(name):
    size, grid = SIZES[name]
    name = name.split()[0]
    one = models.create(name, in_channels=1, out_channels=2, **size)
    many = models.create(name, in_channels=4, out_channels=2, seed=1, **size)
    state = state_dicts.to_torch_state_dict(one)
    report = transfer(many, state, source="one")
    inputs = {name for name in (*type(many).input_weights, *FLAT) if name in state}
    assert {name for name, _ in report.adapted} == inputs and not report.fresh
    image = np.random.default_rng(0).standard_normal((1, *grid, 1), np.float32)
    call = nnx.jit(lambda model, x: model(x))
    want = np.asarray(call(one, image))
    np.testing.assert_allclose(call(many, np.repeat(image, 4, axis=-1)), want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "name", quick_of(SIZES, ["resenc_unet", "primus"], "large programs; two networks are beside them")
)
def test_a_head_is_all_that_other_classes_change(name):
    size, _ = SIZES[name]
    name = name.split()[0]
    some = models.create(name, in_channels=1, out_channels=2, **size)
    more = models.create(name, in_channels=1, out_channels=30, seed=1, **size)
    state = state_dicts.to_torch_state_dict(some)
    report = transfer(more, state, source="some")
    assert report.fresh and all(name.startswith(type(more).head) for name in report.fresh)
    assert not report.adapted
    after = state_dicts.to_torch_state_dict(more)
    for name in report.loaded:
        np.testing.assert_array_equal(after[name], state[name])


@pytest.mark.parametrize(
    ("name", "value"), [("body.weight", np.nan), ("head.weight", np.inf), ("stem.bias", 1e300)]
)
def test_weights_that_are_not_finite_in_float32_are_named(name, value):
    state = {key: array.astype(np.float64) for key, array in filled().items()}
    state[name].flat[2] = value
    model = Toy()
    place = list(map(int, np.unravel_index(2, state[name].shape)))
    message = re.escape(f": {name} holds {value:g} at {place}; weights must be finite in float32")
    with pytest.raises(FdifError, match=f"^file.pth{message}"):
        transfer(model, state, source="file.pth")
    with pytest.raises(FdifError, match=f"^the state dict{message}"):
        state_dicts.load_torch_state_dict(model, state)
    assert not any(array.any() for array in state_dicts.to_torch_state_dict(model).values())


def test_what_is_not_taken_may_be_anything():
    state = filled()
    state["head.weight"][...] = np.nan
    assert "head.weight" in moved(state, head=False)[0].fresh
