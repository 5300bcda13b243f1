"""The comparison of the networks with their originals: what it runs, and what it reports."""

import json
import os
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import networks

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    """In the processes that measure, too."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def die(_):
    os._exit(1)


@pytest.mark.slow("a network beside its original, in processes of their own")
def test_one_network_is_measured_and_written_down(tmp_path, capsys):
    path = tmp_path / "networks.json"
    options = [
        "--small",
        "--grid",
        "16",
        "16",
        "16",
        "--runs",
        "3",
        "--batch-size",
        "2",
        "--out-channels",
        "3",
        "--anyway",
    ]
    cli.run("bench", ["networks", "--networks", "resenc_unet", *options, "--json", str(path)])
    (row,) = json.loads(path.read_text())
    assert (row["network"], row["device"], row["grid"], row["batch_size"]) == (
        "resenc_unet",
        "cpu",
        [16] * 3,
        2,
    )
    assert row["spec"] | {"preset": "tiny", "out_channels": 3, "dtype": "float32"} == row["spec"]
    model = nnx.eval_shape(lambda: models.create(**row["spec"]))
    assert row["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    # Weights have been carried over, so both compute the same.
    assert 0 < row["difference"] < 1e-4
    for what in ("forward", "backward"):
        figures = row[what]
        seconds = np.array(figures["seconds"])
        assert seconds.shape == (3, 2) and (seconds > 0).all()
        assert [figures["ours"], figures["theirs"]] == np.median(seconds, axis=0).tolist()
        assert figures["ratio"] == figures["ours"] / figures["theirs"]
    weights = 4 * row["parameters"]
    assert row["peak_gb"] * 1e9 > 2 * weights and row["compile_seconds"] > 0
    assert "resenc_unet" in capsys.readouterr().out


@pytest.mark.slow("programs in processes of their own")
def test_both_take_the_gradient_of_the_same_loss():
    spec = {"in_channels": 1, "out_channels": 2, "features": [4, 6], "blocks": 1}
    model = models.create("resenc_unet", **spec)
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 8, 1), np.float32)
    case = networks.Case({"name": "resenc_unet", **spec, "dtype": "float32"}, "cpu", (8, 8, 8), 2, 1)
    net = networks.loaded_twin(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "loaded_twin", lambda model: net)
        networks._theirs(model, images, case).backward()
    gradient = networks._ours(model, images)[0].backward()
    name = "decoder.seg_layers.0.weight"
    want = dict(net.named_parameters())[name].grad.numpy().transpose(2, 3, 4, 1, 0)
    np.testing.assert_allclose(gradient[name], want, atol=1e-4 * np.abs(want).max())
    assert set(gradient) <= set(dict(net.named_parameters(remove_duplicate=False)))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(networks.STANDARD, marks=pytest.mark.slow("large networks; small ones are beside them")),
        networks.SMALL,
    ],
)
def test_every_size_is_one_that_the_network_takes(sizes):
    assert set(sizes) <= set(models.NETWORKS)
    config = networks.Config(grid=(96, 96, 96), small=sizes is networks.SMALL)
    cases = list(networks._cases(config, ["cpu", "gpu"]))
    assert [case.spec["dtype"] for case in cases] == ["float32"] * len(models.NETWORKS) + ["bfloat16"] * len(
        models.NETWORKS
    )
    for case in cases[: len(models.NETWORKS)]:
        nnx.eval_shape(lambda case=case: models.create(**case.spec))


@pytest.mark.slow("a process of its own")
def test_a_grid_that_a_network_cannot_take_ends_it_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "networks.json"
    with pytest.raises(SystemExit) as done:
        cli.run(
            "bench",
            ["networks", "--networks", "resenc_unet", "--grid", "20", "20", "20", "--json", str(path)],
        )
    assert done.value.code == 2 and "takes a grid whose edges are multiples of" in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow("a process of its own")
def test_a_gpu_that_is_not_there_is_an_error(capsys):
    with pytest.raises(SystemExit) as done:
        cli.run("bench", ["networks", "--networks", "resenc_unet", "--small", "--device", "gpu"])
    assert done.value.code == 2 and "see no GPU together" in capsys.readouterr().err


@pytest.mark.slow("processes")
def test_what_was_measured_before_a_process_died_is_kept(tmp_path, monkeypatch, capsys):
    row = {"ours": 1.0, "theirs": 2.0, "ratio": 0.5}
    measured = {"network": "resenc_unet", "device": "cpu", "spec": {"dtype": "float32"}, "parameters": 1}
    measured |= {"difference": 0.0, "compile_seconds": 1.0, "peak_gb": 1.0, "torch_peak_gb": None}
    answers = [["cpu"], measured | {"forward": dict(row), "backward": dict(row)}]
    apart = networks.apart

    def then_die(function, argument, died):
        return [answers.pop(0)] if answers else apart(die, argument, died=died)

    monkeypatch.setattr(networks, "apart", then_die)
    path = tmp_path / "networks.json"
    with pytest.raises(SystemExit) as done:
        cli.run("bench", ["networks", "--networks", "resenc_unet", "vnet", "--anyway", "--json", str(path)])
    printed = capsys.readouterr()
    assert done.value.code == 2 and "the process measuring vnet died" in printed.err
    assert "0.50" in printed.out and len(json.loads(path.read_text())) == 1


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FdifError, match=r"needs torch, .* 'fdif-jax\[torch\]'"):
        networks._devices(networks.Config(networks=("resenc_unet",)))
