"""Weights to and from PyTorch, and through files, both ways."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.training.network import State, weights
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run
from fdif_jax.weights import files, state_dicts

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("dynamic_network_architectures")
twins = pytest.importorskip("tests.helpers.twins")


def build(seed: int = 0):
    """A small network of ours and its twin."""
    model = models.create(
        "resenc_unet", in_channels=1, out_channels=3, seed=seed, features=(4, 6, 6), blocks=(1, 2, 1)
    )
    return model, twins.twin(model)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_files_load_strictly_and_come_back(tmp_path, suffix):
    model, net = build()
    state = state_dicts.to_torch_state_dict(model)
    path = tmp_path / f"weights{suffix}"
    files.save_weights(state, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".safetensors":
        net.load_state_dict(safetensors_torch.load_file(path), strict=True)
    else:
        net.load_state_dict(torch.load(path, weights_only=True), strict=True)
        # PyTorch's format shares a tensor of several names.
        once = sum(array.nbytes for array in {id(array): array for array in state.values()}.values())
        assert path.stat().st_size < once + 200 * len(state)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor, state[name])
    other, _ = build(seed=1)
    state_dicts.load_torch_state_dict(other, files.read_weights(path))
    for name, array in state_dicts.to_torch_state_dict(other).items():
        np.testing.assert_array_equal(array, state[name])


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    files.save_weights({"a": np.zeros(3)}, path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        files.save_weights({"a": np.ones(3)}, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(files.read_weights(path)["a"], np.zeros(3))


def test_states_that_do_not_fit_are_named_and_not_loaded():
    model, net = build()
    before = state_dicts.to_torch_state_dict(model)
    twins.randomise(net)
    state = net.state_dict()
    for key in list(state):  # all names of the stem's norm, and one that has no others
        if (
            "stem.convs.0.norm" in key
            or "stem.convs.0.all_modules.1" in key
            or key.endswith("seg_layers.0.bias")
        ):
            del state[key]
    state["head.weight"] = torch.zeros(1)
    state["decoder.seg_layers.1.bias"] = torch.zeros(7)
    with pytest.raises(FdifError) as caught:
        state_dicts.load_torch_state_dict(model, state)
    message = str(caught.value)
    assert "does not fit this ResEncUNet" in message
    assert "3 missing: " in message and "encoder.stem.convs.0.norm.weight" in message
    assert "1 unexpected: head.weight" in message
    assert "1 of another shape: decoder.seg_layers.1.bias (7,) instead of (3,)" in message
    for name, array in state_dicts.to_torch_state_dict(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_half_precision_weights_load_as_float32():
    model, net = build()
    twins.randomise(net)
    state_dicts.load_torch_state_dict(model, net.to(torch.bfloat16).state_dict())
    weight = model.encoder.stem.convs[0].conv.weight[...]
    assert weight.dtype == jnp.float32
    want = net.encoder.stem.convs[0].conv.weight.detach().float().permute(2, 3, 4, 1, 0)
    np.testing.assert_array_equal(weight, want)


class Toy(nnx.Module):
    """A linear layer and a batch norm, with the names of `torch.nn.Sequential`'s and no aliases."""

    def __init__(self):
        self.linear = nnx.Dict(weight=nnx.Param(jnp.arange(6.0).reshape(2, 3), torch_axes=(1, 0)))
        self.norm = nnx.Dict(
            running_mean=nnx.BatchStat(jnp.arange(3.0)), num_batches_tracked=nnx.BatchStat(jnp.array(7))
        )
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))


def test_running_statistics_travel_and_random_states_do_not():
    model, other = Toy(), Toy()
    state = state_dicts.to_torch_state_dict(model)
    assert set(state) == {"linear.weight", "norm.running_mean", "norm.num_batches_tracked"}
    net = torch.nn.ModuleDict({"linear": torch.nn.Linear(2, 3, bias=False)})
    net["linear"].load_state_dict({"weight": torch.from_numpy(state["linear.weight"])})
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(net["linear"](torch.from_numpy(x)).detach(), x @ model.linear.weight[...])
    state["norm.num_batches_tracked"] = torch.tensor(9)
    state_dicts.load_torch_state_dict(other, state)
    assert other.norm.num_batches_tracked[...] == 9
    assert other.norm.num_batches_tracked[...].dtype == jnp.int32


def test_bad_files_are_refused(tmp_path, monkeypatch):
    state = {"a": np.zeros(3)}
    with pytest.raises(FdifError, match=r"weights\.h5: a weights file ends in \.pth, \.pt or \.safetensors"):
        files.save_weights(state, tmp_path / "weights.h5")
    for name in ("weights", "weights.pth"):
        with pytest.raises(FdifError, match=rf"{name}: no such file"):
            files.read_weights(tmp_path / name)
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"these are no weights")
        with pytest.raises(FdifError, match=rf"{name}:? cannot be read as") as caught:
            files.read_weights(tmp_path / name)
        assert "weights_only" not in str(caught.value)
    for content, says in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS"),
        (b"/annex/objects/MD5E-s12--3f.pth\n", "a pointer of git-annex"),
        (b"<html>403 Forbidden</html>", "a web page"),
    ):
        for name in ("broken.pth", "broken.safetensors", "broken.ckpt"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FdifError, match=rf"{name}: holds {says}") as caught:
                files.read_weights(tmp_path / name)
            assert "weights_only" not in str(caught.value)
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "weightless.pth")
    with pytest.raises(FdifError, match=r"weightless\.pth holds no state dict"):
        files.read_weights(tmp_path / "weightless.pth")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(FdifError, match=r"needs torch, .* 'fdif-jax\[torch\]'"):
        files.save_weights(state, tmp_path / "weights.pth")
    files.save_weights(state, tmp_path / "weights.safetensors")
    assert not (tmp_path / "weights.pth").exists()


def test_what_a_file_of_weights_holds_is_told_by_its_bytes(tmp_path):
    state = {"a": np.arange(3.0, dtype=np.float32)}
    for suffix in (".pth", ".safetensors"):
        files.save_weights(state, tmp_path / f"weights{suffix}")
        for name in ("other.ckpt", "other.pth", "other.bin", "other"):
            shutil.copy(tmp_path / f"weights{suffix}", tmp_path / name)
            np.testing.assert_array_equal(files.read_weights(tmp_path / name)["a"], state["a"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with four checkpoints, the second of which has the highest Dice, and the first is kept for good."""
    spec = {"name": "resenc_unet", "in_channels": 1, "out_channels": 3, "features": [4, 6]}
    folder = tmp_path_factory.mktemp("runs") / "run"
    states = {}
    with open_run(folder, RunDocument(network=spec)) as run, run.checkpoints(keep_every=5) as checkpoints:
        for step, which, dice in ((5, "5", 0.1), (6, "best", 0.8), (7, "last", 0.4), (8, "last", 0.3)):
            model = models.create(**spec, seed=step)
            states[which] = state_dicts.to_torch_state_dict(model)
            checkpoints.save(step, State(weights(model), {"steps": jnp.array(step)}, {}), dice)
    return folder, states


@pytest.mark.parametrize(
    "which, file", [("last", "new/weights.pth"), ("best", "weights.safetensors"), ("5", "weights.pth")]
)
def test_export_prints_how_to_load_what_it_wrote(trained, tmp_path, monkeypatch, capsys, which, file):
    folder, states = trained
    monkeypatch.chdir(tmp_path)
    cli.run("export", [str(folder), "--out", file, "--which", which])
    summary, code = capsys.readouterr().out.split("In PyTorch:")
    parameters = sum(array.size for array in {id(a): a for a in states[which].values()}.values())
    assert f"{file}: " in summary and f"{parameters:,} parameters" in summary
    scope: dict = {}
    exec(code, scope)
    for name, tensor in scope["net"].state_dict().items():
        np.testing.assert_array_equal(tensor, states[which][name])


def test_export_refuses_what_is_no_run_and_other_suffixes(trained, tmp_path, capsys):
    for arguments, message in [
        ([str(tmp_path), "--out", "weights.pth"], "is not a run directory"),
        ([str(trained[0]), "--out", str(tmp_path / "weights.onnx")], "ends in .pth, .pt or .safetensors"),
        (
            [str(trained[0]), "--out", str(tmp_path / "weights.pth"), "--which", "4"],
            f"unknown checkpoint of {trained[0]} '4'; known: 5, 6, 7, 8, best, last",
        ),
    ]:
        with pytest.raises(SystemExit) as caught:
            cli.run("export", arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
