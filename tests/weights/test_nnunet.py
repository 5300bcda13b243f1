"""nnU-Net itself reads what we write: datasets, and weights for its own training; `make test-all` installs it."""

import copy
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fdif_jax.models.nnunet import from_plans
from fdif_jax.scripts import cli
from fdif_jax.weights import state_dicts

pytest.importorskip("nnunetv2")
nnunet_client = pytest.importorskip("tests.helpers.nnunet_client")


def command(name: str, *arguments, env: dict[str, str]) -> str:
    """What one of nnU-Net's commands, or ours, says; it must succeed."""
    words = [name, *map(str, arguments)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, cwd=env["nnUNet_results"])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow("nnU-Net's own commands, which plan for minutes")
def test_nnunet_plans_and_verifies_the_dataset(tmp_path):
    env = nnunet_client.environment(tmp_path)
    small = ["--grid", 32, 32, 32, "--num-samples", 5, "--num-val-samples", 2, "--categories", "basic"]
    named = ["--dataset-id", 901, "--dataset-name", "Small"]
    command("fdif", "generate", "--out", env["nnUNet_raw"], "--nnunet-format", *small, *named, env=env)
    planning = ["--verify_dataset_integrity", "-np", 1, "-npfp", 1, "-c", "3d_fullres"]
    for dataset in (901, 902):
        said = command("nnUNetv2_plan_and_preprocess", "-d", dataset, *planning, env=env)
        assert "verify_dataset_integrity Done" in said
    plans = sorted(Path(env["nnUNet_preprocessed"]).glob("*/nnUNetPlans.json"))
    assert [p.parent.name for p in plans] == ["Dataset901_Small", "Dataset902_Small_Val"]


@pytest.mark.slow("nnU-Net's network; twins are in tests/models")
def test_nnunet_loads_our_weights_into_its_own_network(tmp_path, capsys):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    plans = {"patch_size": [8, 16, 16], "spacing": [1, 1, 1], "architecture": nnunet_client.ARCHITECTURE}
    (tmp_path / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": plans}}))
    network = from_plans(tmp_path / "plans.json").network
    spec = {**network, "in_channels": 1, "out_channels": 110}
    model = nnunet_client.save_run(tmp_path / "run", spec)
    cli.run("export", [str(tmp_path / "run"), "--to", "nnunet", "--out", str(tmp_path / "pre.pth")])

    def theirs(channels):
        built = copy.deepcopy(nnunet_client.ARCHITECTURE)
        names = [built[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import")]
        return get_network_from_plans(*names, channels, 3, allow_init=True, deep_supervision=True)

    net = theirs(1)
    fresh = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    load_pretrained_weights(net, str(tmp_path / "pre.pth"))
    ours = state_dicts.to_torch_state_dict(model)
    for name, tensor in net.state_dict().items():
        want = fresh[name] if ".seg_layers." in name else ours[name]
        np.testing.assert_array_equal(tensor, want, err_msg=name)
    with pytest.raises(AssertionError, match=r"stem\.convs\.0\.conv\.weight"):
        load_pretrained_weights(theirs(2), str(tmp_path / "pre.pth"))
    options = ["--to", "nnunet", "--out", str(tmp_path / "two.pth"), "--in-channels", "2"]
    cli.run("export", [str(tmp_path / "run"), *options])
    load_pretrained_weights(theirs(2), str(tmp_path / "two.pth"))


@pytest.mark.slow("nnU-Net's own commands, which train for minutes")
def test_nnunet_trains_an_epoch_from_our_weights(tmp_path):
    env = nnunet_client.environment(tmp_path)
    command("nnUNetv2_convert_MSD_dataset", "-i", nnunet_client.decathlon_folder(tmp_path), "-np", 1, env=env)
    planning = ["-pl", "nnUNetPlannerResEncM", "-c", "3d_fullres", "-np", 1, "-npfp", 1]
    command("nnUNetv2_plan_and_preprocess", "-d", 4, *planning, env=env)
    plans = Path(env["nnUNet_preprocessed"]) / "Dataset004_Hippocampus" / "nnUNetResEncUNetMPlans.json"
    planned = from_plans(plans)
    assert planned.network["features"] == [32, 64, 128, 256] and planned.patch == (40, 56, 40)
    # A configuration of one's own beside nnU-Net's, as its page on editing plans files describes.
    document = json.loads(plans.read_text())
    document["configurations"]["small"] = {"inherits_from": "3d_fullres", **nnunet_client.SMALL}
    plans.write_text(json.dumps(document))

    spec = {**from_plans(plans, "small").network, "in_channels": 1, "out_channels": 110}
    nnunet_client.save_run(tmp_path / "run", spec)
    weights = tmp_path / "pre.pth"
    command("fdif", "export", tmp_path / "run", "--to", "nnunet", "--out", weights, env=env)
    trainer = ["-p", plans.stem, "-tr", "nnUNetTrainer_1epoch", "-device", "cpu"]
    said = command("nnUNetv2_train", 4, "small", 0, *trainer, "-pretrained_weights", weights, env=env)
    assert f"Loading pretrained weights from file  {weights}" in said
    assert re.search(r"Epoch 0\b", said) and "Training done." in said
    (folder,) = Path(env["nnUNet_results"]).glob("Dataset004_Hippocampus/*__small/fold_0")
    assert (folder / "checkpoint_final.pth").is_file()
    dice = float(re.search(r"Mean Validation Dice:\s+([\d.]+)", said).group(1))
    assert 0 <= dice <= 1
