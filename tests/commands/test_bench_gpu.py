"""The GPU programme at a toy's size: its parts, what it does with failures, and where it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fdif_jax.scripts import bench, cli
from fdif_jax.scripts.benchmarks.gpu import figures, programme
from fdif_jax.scripts.console.compilation import leave_out_searches


def test_a_failure_is_a_figure_and_the_part_goes_on(tmp_path):
    kept = figures.Figures(tmp_path, "rates")
    with kept.attempt("first"):
        raise ValueError("too large")
    with kept.attempt("second"), kept.alone():
        kept.add("second", 2.0)
    assert figures.read(tmp_path, "rates") == {"first": {"failed": "ValueError: too large"}, "second": 2.0}
    assert figures.read(tmp_path, "steps") == {}


@pytest.mark.slow("parts in processes that compile programs of their own")
def test_one_part_and_going_on(tmp_path, capsys):
    """`layers` is measured, drawn and merged; the same command has nothing left to do."""
    options = programme.Config(tmp_path, parts=("layers",), size="toy")
    programme.run(options)
    merged = json.loads((tmp_path / "gpu.json").read_text())
    assert merged["done"] == ["layers"]
    (convolution,) = (row for name, row in merged["layers"].items() if name.startswith("conv"))
    for form in ("direct", "folded", "spread", "gathered", "by plane", "channels first", "PyTorch"):
        forward, both = convolution[form]
        assert forward > 0 and both > 0
    before = (tmp_path / "layers.json").stat().st_mtime_ns
    capsys.readouterr()
    programme.run(options)
    assert "started" not in capsys.readouterr().out
    assert (tmp_path / "layers.json").stat().st_mtime_ns == before


def test_time_is_up(tmp_path, capsys):
    """A part that has no time left is ended, and what there is written."""
    programme.run(programme.Config(tmp_path, parts=("reference",), size="toy", minutes=0.26))
    assert "reference: time is up" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu.json").read_text())["done"] == []


@pytest.mark.slow("every part compiles programs of its own, for minutes")
def test_every_part_on_a_cpu(tmp_path):
    programme.run(programme.Config(tmp_path, size="toy", minutes=30, jobs=1))
    merged = json.loads((tmp_path / "gpu.json").read_text())
    assert merged["done"] == list(programme.PARTS)
    failed = {
        (part, name): figure["failed"]
        for part in programme.PARTS
        for name, figure in merged[part].items()
        if isinstance(figure, dict) and "failed" in figure
    }
    assert list(failed) == [("equality", "anatomy kernel")]
    for name in ("fdif kernel", "fdif scan", "anatomy auto"):
        assert merged["equality"][name]["labels_equal"] >= 0.9999
        assert merged["equality"][name]["within_one_grey_level"] >= 0.9999
    assert all(scene["labels_equal"] >= 0.9999 for scene in merged["equality"]["published scenes"])
    parts = merged["steps"]["resenc_unet parts"]["seconds"]
    assert set(parts) == {"generate", "forward", "backward", "update", "step"}
    assert merged["rivals"]["resenc_unet"]["files"]["seconds"] > 0
    assert (tmp_path / "weights.safetensors").stat().st_size == merged["pretraining"]["weights_bytes"]
    assert {p.name for p in (tmp_path / "pictures").iterdir()} >= {
        "rates.png",
        "steps.png",
        "equality_fdif_kernel.png",
    }


@pytest.mark.slow("a process; the programme is run beside it")
def test_the_script_runs_from_a_checkout_alone(tmp_path):
    """`make gpu`'s script makes one package of the folders, for a Python in which none is installed."""
    root = Path(cli.__file__).parent.parent
    done = subprocess.run(
        ["sh", str(root / "scripts" / "gpu.sh"), "--parts", "nothing", "--out", str(tmp_path / "out")],
        env=os.environ | {"PYTHON": sys.executable, "SITE": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "no part 'nothing'" in done.stderr or "unknown part" in done.stderr
    assert (tmp_path / "site" / "fdif_jax" / "scripts" / "bench.py").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--parts", "rate"], "rates"), (["--minutes", "0"], "--minutes must be more than 0, not 0")],
)
def test_bad_input_is_one_line(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run("bench", ["gpu", "--out", str(tmp_path / "gpu"), *options])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "gpu").exists()


def test_the_command_is_found():
    config = cli.parsed("bench", bench, ["gpu", "--half", "2", "--minutes", "4"])
    assert isinstance(config, programme.Config) and config.half == 2


def test_searches_are_left_out_where_there_is_cuda(monkeypatch):
    """What a user says stays; a version that may not know the flags gets none."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    leave_out_searches()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_enable_triton_gemm=true"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "jax_cuda13_plugin")
    leave_out_searches()
    autotuner = "--xla_gpu_experimental_enable_fusion_autotuner=false"
    softmax = "--xla_disable_hlo_passes=triton-softmax-rewriter"
    assert os.environ["XLA_FLAGS"] == f"--xla_gpu_enable_triton_gemm=true {autotuner} {softmax}"
    monkeypatch.setattr("jax.__version_info__", (0, 99, 0))
    monkeypatch.setenv("XLA_FLAGS", "")
    leave_out_searches()
    assert os.environ["XLA_FLAGS"] == ""
