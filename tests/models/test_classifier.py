"""Classifiers: the encoder's features are the PyTorch twins', and its weights go into segmentation networks and out."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.training.network import weights
from fdif_jax.weights import state_dicts
from fdif_jax.weights.transfer import carry, transfer
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")
pytest.importorskip("monai")
nnunet_client = pytest.importorskip("tests.helpers.nnunet_client")
twins = pytest.importorskip("tests.helpers.twins")

HEAD = {"classification_head.weight", "classification_head.bias"}

# name: size, a grid it takes, the module of its PyTorch twin whose result are the encoder's features
SIZES = {
    "resenc_unet": ({"features": [4, 6, 8], "blocks": 1}, (8, 12, 8), "encoder"),
    "swin_unetr": (
        {"feature_size": 12, "window_size": 2, "depths": [1, 1, 1, 1]},
        (64, 32, 32),
        "swinViT",
    ),
    "unetr": (
        {"grid": [32, 16, 32], "feature_size": 6, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
        (32, 16, 32),
        "vit",
    ),
    "vnet": ({}, (16, 32, 16), "down_tr256"),
    "primus": (
        {"grid": [8, 8, 16], "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_embed_size": 4}
        | {"num_register_tokens": 2},
        (8, 8, 16),
        "eva",
    ),
}


def images(grid) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, *grid, 1), dtype=np.float32)


def torch_features(net, x, module: str) -> np.ndarray:
    """What a module of a PyTorch network leaves, flattened to ``(B, tokens, features)``."""
    left = []
    net.get_submodule(module).register_forward_hook(lambda module, inputs, outputs: left.append(outputs))
    with torch.no_grad():
        net(torch.from_numpy(x).permute(0, 4, 1, 2, 3))
    (features,) = left
    if module in ("encoder", "swinViT"):
        features = features[-1]
    elif isinstance(features, tuple):
        features = features[0]
    return (features.flatten(2).mT if features.ndim == 5 else features).numpy()


@pytest.mark.parametrize(
    "name",
    quick_of(SIZES, [], "large programs; their weights are carried over below"),
)
def test_features_and_scores_are_those_of_the_twins_encoder(name):
    size, grid, module = SIZES[name]
    spec = {"name": name, "in_channels": 1, "outputs": [3, 2], **size}
    model = models.create(**spec)
    net = twins.twin(nnx.eval_shape(lambda: models.create(**models.segmenting(spec, 4))))
    twins.randomise(net)
    report = transfer(model, net.state_dict(), source="net")
    assert set(report.fresh) == HEAD and not report.adapted

    x = images(grid)
    features, scores = nnx.jit(lambda model, x: (model.encode(x), model(x)))(model, x)
    want = torch_features(net, x, module)[:, size.get("num_register_tokens", 0) :]
    assert features.shape[-1] == model.encoded_features == want.shape[-1]
    features = np.asarray(features).reshape(want.shape)
    np.testing.assert_allclose(features, want, atol=1e-4 * np.abs(want).max())

    head = torch.nn.Linear(want.shape[-1], 5)
    state = state_dicts.to_torch_state_dict(model)
    head.load_state_dict({k: torch.from_numpy(state[f"classification_head.{k}"]) for k in ("weight", "bias")})
    with torch.no_grad():
        wanted = head(torch.from_numpy(want.mean(1))).numpy()
    assert scores.shape == (2, 5) and scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, wanted, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize(
    "name",
    quick_of(SIZES, ["primus"], "a large program; it does nothing here that others do not"),
)
def test_weights_are_the_encoders_by_its_names_and_go_into_the_segmentation_network(name):
    size, _, _ = SIZES[name]
    spec = {"name": name, "in_channels": 1, "outputs": [5], **size}
    classifier, whole = models.create(**spec, seed=1), models.create(**models.segmenting(spec, 4))
    assert isinstance(classifier, models.Classifier)
    prefixes = type(whole).encoder
    for names in (weights, state_dicts.to_torch_state_dict):
        held, there = names(classifier), names(whole)
        encoder = {
            name: array.shape
            for name, array in there.items()
            if name.removeprefix("decoder.").startswith(prefixes)
        }
        assert {name: array.shape for name, array in held.items() if name not in HEAD} == encoder
        assert held.keys() - encoder.keys() == HEAD
    state, before = state_dicts.to_torch_state_dict(classifier), state_dicts.to_torch_state_dict(whole)
    report = carry(whole, classifier, source="run")
    after = state_dicts.to_torch_state_dict(whole)
    assert set(report.unused) == HEAD and not report.adapted
    assert "did not use 2 (classification_head." in report.summary()
    assert all(name.startswith(prefixes) for name in report.loaded)
    assert report.fresh and not any(name.startswith(prefixes) for name in report.fresh)
    for name, array in after.items():
        np.testing.assert_array_equal(array, state.get(name, before[name]), err_msg=name)


@pytest.mark.slow("a program more")
def test_a_classifier_takes_the_grids_and_the_key_of_its_network():
    resenc = models.create("resenc_unet", in_channels=2, outputs=[2], features=[4, 4])
    assert resenc.grid_multiple == (2, 2, 2) and not hasattr(resenc, "token_grid")
    for shape in ((1, 8, 8, 8, 1), (1, 8, 9, 8, 2), (8, 8, 8, 2)):
        with pytest.raises(FdifError, match="resenc_unet takes"):
            resenc(jnp.zeros(shape))
    size = SIZES["primus"][0] | {"drop_path_rate": 0.9, "depth": 2}
    primus = models.create("primus", in_channels=1, outputs=[2], **size)
    assert primus.token_grid() == (2, 2, 4)
    x = images((8, 8, 16))
    call = nnx.jit(lambda model, x, key: model(x, key=key))
    drawn = [np.asarray(call(primus, x, jax.random.key(seed))) for seed in range(4)]
    assert len({array.tobytes() for array in drawn}) > 1, "a key drops blocks at random"


@pytest.mark.slow("20 million weights")
def test_running_statistics_of_the_encoder_follow_the_batch_in_training():
    model = models.create("vnet", in_channels=1, outputs=[2])
    names = set(weights(model, nnx.BatchStat))
    assert names and all(name.startswith(("in_tr.", "down_tr")) for name in names)
    nnx.jit(lambda model, x: model(x, key=jax.random.key(0)))(model, images((16, 32, 16)))
    assert weights(model, nnx.BatchStat)["down_tr256.bn1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    "size, message",
    [
        ({}, "resenc_unet: give out_channels, .*, or outputs, .*, not neither"),
        ({"outputs": [2], "out_channels": 3}, "not both"),
        ({"outputs": [], "features": [4, 4]}, r"numbers of classes of one or more labels, got \[\]"),
        ({"outputs": [2, 0], "features": [4, 4]}, r"numbers of classes of one or more labels, got \[2, 0\]"),
        (
            {"outputs": [2], "feature": [4]},
            "unknown option of resenc_unet 'feature'; did you mean 'features'",
        ),
    ],
)
def test_impossible_classifiers_are_refused(size, message):
    with pytest.raises(FdifError, match=message):
        models.create("resenc_unet", in_channels=1, **size)


# --------------------------------------------------------------------------------------- runs that learnt to classify

RESENC = {
    "name": "resenc_unet",
    "in_channels": 1,
    "outputs": [5, 2],
    "features": [4, 6, 8],
    "blocks": [1, 2, 1],
}


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    """A run of a classifier and its network."""
    folder = tmp_path_factory.mktemp("runs") / "classified"
    return folder, nnunet_client.save_run(folder, RESENC, kind="pretraining", recipe={"grid": [8, 16, 8]})


def export(folder, path, *options):
    cli.run("export", [str(folder), "--out", str(path), *options])
    return torch.load(path, weights_only=True)


@pytest.mark.slow("a program and its export")
def test_a_run_is_exported_as_encoder_and_head_which_a_twin_loads(classified, tmp_path, capsys):
    folder, model = classified
    state = export(folder, tmp_path / "weights.pth")
    want = state_dicts.to_torch_state_dict(model)
    assert set(state) == set(want)
    scope: dict = {}
    exec(capsys.readouterr().out.split(":\n\n")[1], scope)  # the code that export prints
    features = scope["net"].encoder(torch.from_numpy(images((8, 16, 8))).permute(0, 4, 1, 2, 3))[-1]
    np.testing.assert_allclose(
        features.detach().permute(0, 2, 3, 4, 1), model.encode(images((8, 16, 8))), atol=1e-3
    )
    more = export(folder, tmp_path / "more.pth", "--in-channels", "2")
    assert set(more) == set(want) and more["encoder.stem.convs.0.conv.weight"].shape[1] == 2
    np.testing.assert_array_equal(more["classification_head.weight"], want["classification_head.weight"])


@pytest.mark.parametrize(
    "options",
    quick_of(
        [("--out-channels", "3"), ("--to", "nnunet"), ("--to", "nnssl")], [("--to", "nnssl")], "a form more"
    ),
)
def test_a_run_is_exported_as_a_segmentation_network_with_that_encoder(classified, tmp_path, capsys, options):
    folder, model = classified
    contents = export(folder, tmp_path / "weights.pth", *options)
    assert "did not use 2 (classification_head." in capsys.readouterr().out
    state = contents if "--to" not in options else contents["network_weights"]
    out_channels = 3 if "--to" not in options else 2
    whole = models.create(**models.segmenting(RESENC, out_channels))
    state_dicts.load_torch_state_dict(whole, state)  # strict
    for name, array in state_dicts.to_torch_state_dict(model).items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal(state[name], array, err_msg=name)
    if "nnssl" in options:
        plan = contents["nnssl_adaptation_plan"]
        assert plan["recommended_downstream_patchsize"] == [8, 16, 8]
        assert plan["architecture_plans"]["arch_kwargs"]["features_per_stage"] == [4, 6, 8]


def test_a_spec_of_a_classifier_is_plain_data_and_so_is_that_of_its_network():
    whole = models.segmenting(json.loads(json.dumps(RESENC)), 3)
    assert whole == {k: v for k, v in RESENC.items() if k != "outputs"} | {"out_channels": 3}
    assert "outputs" in RESENC and models.segmenting(whole, 4)["out_channels"] == 4
