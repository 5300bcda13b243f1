"""nnU-Net itself reads the nnU-Net layout; in `make test-all`, which installs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nnunetv2")
pytestmark = pytest.mark.slow


def test_nnunet_plans_and_verifies_the_dataset(tmp_path):
    raw = tmp_path / "raw"
    generate = [sys.executable, "-m", "fdif_jax.scripts.generate", "--out", str(raw), "--nnunet-format"]
    small = [
        "--grid",
        "32",
        "32",
        "32",
        "--num-samples",
        "5",
        "--num-val-samples",
        "2",
        "--categories",
        "basic",
    ]
    subprocess.run([*generate, *small, "--dataset-id", "901", "--dataset-name", "Small"], check=True)
    environment = {**os.environ, "nnUNet_raw": str(raw)}
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        environment[name] = str(tmp_path / name)
    tool = shutil.which("nnUNetv2_plan_and_preprocess") or str(
        Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess"
    )
    for dataset in ("901", "902"):
        done = subprocess.run(
            [tool, "-d", dataset, "--verify_dataset_integrity", "-np", "1", "-npfp", "1", "-c", "3d_fullres"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verify_dataset_integrity Done" in done.stdout
    plans = sorted((tmp_path / "nnUNet_preprocessed").glob("*/nnUNetPlans.json"))
    assert [p.parent.name for p in plans] == ["Dataset901_Small", "Dataset902_Small_Val"]
