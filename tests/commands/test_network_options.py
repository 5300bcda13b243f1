"""Networks as the commands name them: sizes, plans of nnU-Net, and every network pre-trained and fine-tuned."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models.nnunet import resenc_network
from fdif_jax.scripts import finetune, pretrain
from fdif_jax.scripts.jobs.prepared import prepare
from fdif_jax.scripts.options.network import NetworkOptions, network_of, parse_size
from fdif_jax.training.runs import load_run
from fdif_jax.weights.state_dicts import to_torch_state_dict
from tests.helpers.paths import HIPPOCAMPUS

LIST = HIPPOCAMPUS / "dataset.json"


def spec(**options):
    return network_of(NetworkOptions(**options), in_channels=1, out_channels=3, grid=(32, 32, 64))


def test_sizes_are_read_as_in_toml_and_words_need_no_quotes():
    items = (
        "feature_size=24",
        "features=[8,16]",
        "use_v2=true",
        "downsample=mergingv2",
        "mlp_ratio=2.5",
        'act="elu"',
    )
    assert parse_size(items) == {
        "feature_size": 24,
        "features": [8, 16],
        "use_v2": True,
        "downsample": "mergingv2",
        "mlp_ratio": 2.5,
        "act": "elu",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": ("features=",)}, "--size features=: must be name=value"),
        ({"size": ("a=1", "a=2")}, "a is given twice"),
        ({"size": ("a=[1",)}, r"\[1 is no number"),
        ({"size": ("dtype=float32",)}, "dtype is not a size"),
        ({"network": "vnett"}, "did you mean 'vnet'"),
        ({"plans": Path("nowhere.json")}, "no such plans file: nowhere.json"),
        ({"plans": Path("nowhere.json"), "size": ("S",)}, "leave out --network and a named --size"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(FdifError, match=message):
        spec(**options)


def test_a_network_gets_the_grid_only_where_its_weights_depend_on_it():
    assert spec() == {
        "name": "resenc_unet",
        "in_channels": 1,
        "out_channels": 3,
        "preset": "small",
        "dtype": "float32",
    }
    assert spec(network="unetr")["grid"] == [32, 32, 64] and "grid" not in spec(network="vnet")
    assert "preset" not in spec(size=("features=[4,8]",))


@pytest.fixture
def plans(tmp_path):
    """A plans file as nnU-Net writes it, of a network of ours."""
    config = models.create(
        "resenc_unet", in_channels=1, out_channels=2, features=(4, 8, 8), strides=(1, 2, (1, 2, 2))
    ).config
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": resenc_network(dataclasses.asdict(config)).arguments,
    }
    full = {"patch_size": [16, 24, 32], "spacing": [1.0, 1.0, 1.0], "architecture": network}
    path = tmp_path / "nnUNetResEncUNetMPlans.json"
    path.write_text(json.dumps({"configurations": {"3d_fullres": full}}))
    return path


def test_plans_of_nnunet_say_network_and_patch(plans, tmp_path, monkeypatch):
    planned = spec(plans=plans)
    assert models.create(**planned).config.strides == ((1, 1, 1), (2, 2, 2), (1, 2, 2))
    with pytest.raises(FdifError, match="--plans says strides"):
        spec(plans=plans, size=("strides=[1,2,2]",))
    few = {"steps": 1, "val_every": 0}
    document = json.loads(plans.read_text())
    document["configurations"]["cascade"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans.write_text(json.dumps(document))
    with pytest.raises(
        FdifError, match=r"configuration cascade is a stage of a cascade, .* 3d_lowres predicted"
    ):
        spec(plans=plans, configuration="cascade")
    config = pretrain.Config(
        out=tmp_path, plans=plans, primitives=("sphere",), min_objects=1, max_objects=2, **few
    )
    assert prepare(config).source.grid == (16, 24, 32)
    monkeypatch.setattr(finetune, "fit", lambda network, *_, **__: network.weights)
    monkeypatch.setattr(finetune.Referee, "report", lambda *_, **__: None)
    tuned = {"dataset": LIST, "init": "scratch", "out": tmp_path / "tuned", "cases": 1, "val_cases": 1}
    finetune.run(finetune.Config(**tuned, plans=plans, **few))
    assert load_run(tmp_path / "tuned").document.cases["patch"] == [16, 24, 32]


SMALL = {
    "vnet": ((16, 16, 32), (), None),
    "primus": ((16, 16, 24), ("embed_dim=24", "depth=1", "num_heads=1"), (24, 16, 16)),
    "unetr": ((32, 16, 16), ("feature_size=2", "hidden_size=12", "mlp_dim=12", "num_heads=2"), (16, 32, 32)),
    "swin_unetr": ((64, 32, 32), ("feature_size=12", "depths=[1,1,1,1]"), None),
}


@pytest.mark.slow("two trainings of each network; their weights move in tests/weights")
@pytest.mark.parametrize("name", SMALL)
def test_every_network_pretrains_and_is_fine_tuned_from_it(name, tmp_path, capsys):
    grid, size, patch = SMALL[name]
    few = {"steps": 2, "val_every": 0, "batch_size": 1}
    out = tmp_path / "run"
    pretrain.run(
        pretrain.Config(
            out=out,
            network=name,
            size=size,
            grid=grid,
            primitives=("sphere",),
            min_objects=1,
            max_objects=2,
            **few,
        )
    )
    pretrained = models.create(**load_run(out).network)
    load_run(out).restore(pretrained)
    capsys.readouterr()
    finetune.run(
        finetune.Config(
            dataset=LIST,
            init=str(out),
            out=tmp_path / "tuned",
            cases=1,
            val_cases=1,
            patch=patch or grid,
            **few,
        )
    )
    printed = capsys.readouterr().out
    head = tuple(type(pretrained).head)
    fresh = sum(key.startswith(head) for key in to_torch_state_dict(pretrained))
    assert f"left fresh {fresh} (" in printed
    assert (" tokens: interpolated)" in printed) == (patch is not None)
    tuned = load_run(tmp_path / "tuned")
    assert np.isfinite([m["loss"] for m in tuned.history]).all()
    if patch:
        assert tuned.network["grid"] == list(patch)
