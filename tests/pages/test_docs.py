"""The pages in docs/: every `sh` block runs, in order and in one shell, and says what the `text` block after it shows.

Sizes are made small by replacing a few words of a page, each of which must be there.
"""

import json
import os
import sys

import pytest

from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import ZScore
from tests.helpers.pages import run_page
from tests.helpers.paths import HIPPOCAMPUS

nnunet_client = pytest.importorskip("tests.helpers.nnunet_client")
SCENES = "--primitives sphere --sdf-mappers inverse_cube --min-objects 1 --max-objects 2"
SCENES += " --batch-size 1 --val-every 0 --val-samples 1"
PLANS = "nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetResEncUNetMPlans.json"
TRAIN = "nnUNetv2_train 4 3d_fullres 0 -p nnUNetResEncUNetMPlans"


@pytest.mark.slow("a page of many commands, in a shell")
def test_from_jax_to_monai(tmp_path):
    pytest.importorskip("monai")
    env = nnunet_client.environment(tmp_path)
    network = "feature_size=12 depths=[1,1,1,1] --grid 32 32 64"
    small = {
        "feature_size=48 --grid 96 96 96 --steps 30000": f"{network} --steps 1 {SCENES}",
        "feature_size=48": "feature_size=12, depths=(1, 1, 1, 1)",
        "1, 4, 96, 96, 96": "1, 4, 32, 32, 64",
        "1, 1, 96, 96, 96": "1, 1, 32, 32, 64",
    }
    run_page("to-monai.md", tmp_path, env, small)
    assert {path.name for path in tmp_path.glob("*.*")} >= {"swin.pth", "brats.pth", "swin.safetensors"}


@pytest.fixture
def nnunet(tmp_path):
    """A folder with the Decathlon's hippocampus, nnU-Net's environment, and the command that makes its plan small."""
    pytest.importorskip("nnunetv2")
    nnunet_client.decathlon_folder(tmp_path)
    (tmp_path / "shrink.py").write_text(
        "import json, pathlib\n"
        f"path = pathlib.Path('{PLANS}')\n"
        "plans = json.loads(path.read_text())\n"
        f"plans['configurations']['3d_fullres'] |= json.loads('{json.dumps(nnunet_client.SMALL)}')\n"
        "path.write_text(json.dumps(plans))\n"
    )
    return tmp_path, nnunet_client.environment(tmp_path), "\npython shrink.py\n"


EPOCH = {
    TRAIN: f"{TRAIN} -tr nnUNetTrainer_1epoch -device cpu",
    "-c 3d_fullres\n": "-c 3d_fullres -np 1 -npfp 1\n",
}


@pytest.mark.slow("nnU-Net's own commands, which train for minutes")
def test_from_jax_to_nnunet(nnunet):
    folder, env, shrink = nnunet
    small = {
        "--steps 30000": f"--steps 2 {SCENES}",
        "109 classes": "1 class",
        "40 x 56 x 40": "24 x 32 x 24",
    }
    tensors = {"149 tensors under 536 names": "57 tensors under 188 names"}
    run_page("to-nnunet.md", folder, env, EPOCH | small | tensors, {1: shrink})
    assert (folder / "ssl.pth").is_file()


@pytest.mark.slow("nnU-Net's own commands, which train for minutes")
def test_from_nnunet_to_jax(nnunet):
    folder, env, shrink = nnunet
    split = {f"\n{TRAIN}": f"\n{shrink}{TRAIN} -tr nnUNetTrainer_1epoch -device cpu"}
    named = {"nnUNetTrainer__": "nnUNetTrainer_1epoch__", "-c 3d_fullres\n": EPOCH["-c 3d_fullres\n"]}
    small = {
        "--steps 1000": "--steps 2 --cases 2 --val-cases 1 --patch 24 32 24 --batch-size 1 --val-every 0"
    }
    run_page("from-nnunet.md", folder, env, split | named | small)
    assert os.path.getsize(folder / "finetuned.pth") > 10_000


@pytest.mark.slow("nnU-Net's, MONAI's and PyTorch's own commands")
def test_a_network_leaves_whole(tmp_path):
    for package in ("nnunetv2", "monai", "fire", "ignite", "onnxscript"):
        pytest.importorskip(package)
    env = nnunet_client.environment(tmp_path)
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], *filter(None, sys.path)])
    plan = CasePlan((1.0, 1.0, 1.0), (40, 56, 40), (ZScore(),))
    nnunet_client.save_run(
        tmp_path / "runs/tuned",
        {"name": "resenc_unet", "in_channels": 1, "out_channels": 3, "features": [4, 6], "blocks": 1},
        kind="fine-tuning",
        dataset={"list": "Task04_Hippocampus"},
        cases=plan.to_dict(),
        labels={"class_names": ["anterior", "posterior"], "ignore": None, "channel_names": ["MRI"]},
        inference={"overlap": 0.5, "mirror_axes": [], "weights": "last"},
    )
    (tmp_path / "scans").mkdir()
    image = HIPPOCAMPUS / "imagesTr/hippocampus_001.nii.gz"
    (tmp_path / "scans/hippocampus_001_0000.nii.gz").symlink_to(image)
    small = {
        "SCANS": "scans",
        "-f 0 -i": "-f 0 -device cpu -npp 1 -nps 1 -i",
        "nnUNetResEncUNetMPlans": "fdifPlans",
    }
    run_page("leave-whole.md", tmp_path, env, small)
    found = [list((tmp_path / "LABELS" / name).glob("*.nii.gz")) for name in ("monai", "nnunet", "fdif")]
    assert [len(files) for files in found] == [1, 1, 1]
