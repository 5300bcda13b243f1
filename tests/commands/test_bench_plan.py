"""`fdif bench plan`: what a step takes on a card that is described; here the machine's CPU is in the card's place."""

import dataclasses
import json

import jax
import pytest

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import absent_gpu

TINY = ["--grid", "8", "8", "8", "--primitives", "sphere", "--size", "features=[2,4]", "blocks=1"]


def test_weights_are_counted_and_what_does_not_fit_is_told(tmp_path, capsys, monkeypatch):
    """AdamW has two moments a weight; three numbers beside them are counts."""
    small = dataclasses.replace(absent_gpu.GPUS["h100"], memory=0)
    monkeypatch.setitem(absent_gpu.GPUS, "h200", small)
    monkeypatch.setattr(absent_gpu, "_described", lambda gpu: jax.devices()[0])
    path = tmp_path / "plan.json"
    for gpu in ("h100", "h200"):
        cli.run("bench", ["plan", *TINY, "--gpu", gpu, "--batches", "1", "2", "--json", str(path)])
        figures = json.loads(path.read_text())
        one, two = figures["programs"]
        assert (one["batch"], two["batch"]) == (1, 2)
        assert one["fits"] == (gpu == "h100")
        weights = 3 * 4 * figures["parameters"]
        assert weights <= one["memory"]["arguments"] == two["memory"]["arguments"] < weights + 200
        assert 0 < one["memory"]["temporary"] < two["memory"]["temporary"]
        shown = capsys.readouterr().out
        assert ("yes" if gpu == "h100" else "no") in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batches", "2", "0"], "--batches must be 1 or more, not 0"),
        ([], "compiling for a GPU that is not here needs pip install jax-cuda12-plugin"),
    ],
)
def test_bad_input_is_one_line(options, message, capsys, monkeypatch):
    monkeypatch.setattr(absent_gpu, "has_gpu_plugin", lambda: False)
    with pytest.raises(SystemExit) as ended:
        cli.run("bench", ["plan", *TINY, *options])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow("a program for a GPU")
def test_a_card_is_compiled_for(tmp_path):
    """A program is made for a card that is not here, where JAX has its plugin for CUDA."""
    pytest.importorskip("jax_cuda12_plugin")
    path = tmp_path / "plan.json"
    cli.run("bench", ["plan", *TINY, "--grid", "16", "16", "16", "--json", str(path)])
    (program,) = json.loads(path.read_text())["programs"]
    assert program["fits"] and program["kernels"] > 10
