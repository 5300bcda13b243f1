"""The core of the package: what is imported without its extras, and what is said of one that is missing."""

import subprocess
import sys
import textwrap

import pytest

from fdif_jax.errors import FdifError
from fdif_jax.extras import EXTRAS, lacking, needing
from tests.helpers.paths import HIPPOCAMPUS

WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from fdif_jax.scripts import cli
command, *arguments = sys.argv[1:]
cli.run(command, arguments)
"""
MODULES = sorted({module for extra in EXTRAS.values() for module in extra.modules})
SCENES = "--grid 16 16 16 --primitives sphere --sdf-mappers inverse_cube --min-objects 1 --max-objects 1"
SHORT = "--batch-size 1 --val-every 1 --size features=[4,8]"


def fdif(folder, words):
    """A command in a process in which the libraries of all extras are missing."""
    program = textwrap.dedent(WITHOUT.format(modules=MODULES))
    done = subprocess.run(
        [sys.executable, "-c", program, *words.split()], cwd=folder, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_an_extra_that_is_missing_is_named(monkeypatch):
    with needing("pictures"):
        import matplotlib  # noqa: F401  # is there
    assert lacking("pictures") is None
    monkeypatch.setitem(sys.modules, "igl", None)
    assert lacking("surfaces") == (
        "needs igl, which is not installed: pip install 'fdif-jax[surfaces]' brings it"
    )
    with pytest.raises(FdifError, match=r"needs igl, .* 'fdif-jax\[surfaces\]'"), needing("surfaces"):
        import igl  # noqa: F401
    with pytest.raises(ModuleNotFoundError), needing("surfaces"):
        import no_such_module_of_anybody  # noqa: F401


@pytest.mark.slow("four commands, each in a process of its own")
def test_the_four_commands_run_without_any_extra(tmp_path):
    status, out, err = fdif(tmp_path, f"generate --out data --num-samples 1 {SCENES}")
    assert status == 0, err
    pretraining = f"pretrain --out pre --steps 2 --val-samples 1 {SHORT} {SCENES}"
    status, out, err = fdif(tmp_path, pretraining)
    assert status == 0, err
    assert all(f"'fdif-jax[{extra}]'" in out for extra in ("pictures", "tensorboard"))
    assert {"metrics.jsonl", "classes.jsonl"} <= {path.name for path in (tmp_path / "pre").iterdir()}
    assert not list((tmp_path / "pre").rglob("*.png")) and not (tmp_path / "pre" / "tensorboard").exists()
    tuning = (
        f"finetune {HIPPOCAMPUS} --init pre --out tuned --steps 2 --cases 2 --val-cases 1 --patch 16 16 16"
    )
    status, out, err = fdif(tmp_path, f"{tuning} {SHORT.partition(' --size')[0]}")
    assert status == 0 and "'fdif-jax[pictures]'" in out, err
    assert (tmp_path / "tuned" / "metrics.json").is_file()
    scan = sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))[0]
    status, out, err = fdif(tmp_path, f"predict --model tuned --input {scan} --out labels")
    assert status == 0 and (tmp_path / "labels" / scan.name).is_file(), err
    truth = HIPPOCAMPUS / "labelsTr"
    status, out, err = fdif(tmp_path, f"evaluate labels {truth} --out scores.csv")
    assert status == 0 and "'fdif-jax[pictures]'" in out, err
    for refused, extra in (("view sphere", "surfaces"), ("export pre --out weights.pth", "torch")):
        status, out, err = fdif(tmp_path, refused)
        assert status == 2 and err.count("\n") == 1 and f"'fdif-jax[{extra}]'" in err, err
    status, out, err = fdif(tmp_path, f"generate --out more --num-samples 1 --visualize 1 {SCENES}")
    assert status == 2 and "'fdif-jax[pictures]'" in err and not (tmp_path / "more").exists()
