"""Checkpoints of PyTorch programs to run directories: every kind of file, every network, and bad ones."""

import argparse
import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models.recognise import recognise
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs.initial_weights import read_initial
from fdif_jax.scripts.options.network import NetworkOptions
from fdif_jax.training.runs import load_run
from fdif_jax.weights import state_dicts
from fdif_jax.weights.files import read_checkpoint
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
twins = pytest.importorskip("tests.helpers.twins")
safetensors_torch = pytest.importorskip("safetensors.torch")

SMALL = {
    "features": [4, 6, 6],
    "blocks": [1, 2, 1],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "decoder_convs": [2, 1],
}
# Each network in sizes that differ from its defaults wherever the weights tell.
SIZES = {
    "resenc_unet": [SMALL, {"features": [4, 4], "conv_bias": False}],
    "swin_unetr": [
        {"feature_size": 12, "depths": [1, 2, 1, 1], "num_heads": [2, 4, 8, 12], "window_size": 3},
        {"feature_size": 12, "qkv_bias": False, "mlp_ratio": 2.5, "patch_norm": True, "use_v2": True},
    ],
    "vnet": [{"act": "prelu", "bias": True}],
    "unetr": [
        {
            "grid": [32, 32, 32],
            "feature_size": 4,
            "hidden_size": 24,
            "mlp_dim": 20,
            "num_heads": 2,
            "qkv_bias": True,
        },
        {
            "grid": [32, 16, 16],
            "feature_size": 2,
            "hidden_size": 24,
            "mlp_dim": 20,
            "num_heads": 2,
            "proj_type": "perceptron",
            "conv_block": False,
            "res_block": False,
        },
    ],
    "primus": [
        {"grid": [24, 24, 24], "embed_dim": 396, "depth": 12, "num_heads": 6},
        {
            "grid": [8, 16, 8],
            "embed_dim": 24,
            "depth": 2,
            "num_heads": 2,
            "patch_embed_size": [4, 8, 4],
            "num_register_tokens": 3,
            "init_values": None,
            "scale_attn_inner": False,
            "mlp_ratio": 2.3,
        },
    ],
}
SLOW = {("swin_unetr", 0), ("swin_unetr", 1), ("unetr", 0), ("unetr", 1), ("vnet", 0), ("primus", 0)}
# What has to be said, for the weights do not tell.
SAID = {
    ("primus", 1): {"num_heads": 2, "grid": [8, 16, 8]},
    ("unetr", 0): {"num_heads": 2},
    ("unetr", 1): {"num_heads": 2, "grid": [32, 16, 16]},
}


def weights_of(name="resenc_unet", channels=1, classes=3, **size) -> dict:
    """The state dict of a PyTorch twin with random weights."""
    pytest.importorskip("dynamic_network_architectures")
    spec = {"name": name, "in_channels": channels, "out_channels": classes, **(size or SMALL)}
    net = twins.twin(nnx.eval_shape(lambda: models.create(**spec)))
    twins.randomise(net)
    return net.state_dict()


@pytest.fixture(scope="module")
def state():
    return weights_of()


def imported(*arguments) -> Path:
    """Run the command; the run directory."""
    arguments = [str(argument) for argument in arguments]
    cli.run("import", arguments)
    return Path(arguments[arguments.index("--out") + 1])


def exported(run: Path) -> dict:
    cli.run("export", [str(run), "--out", str(run / "back.pth")])
    return torch.load(run / "back.pth", weights_only=True)


def assert_same(got: dict, want: dict):
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


# ------------------------------------------------------------------------------------------------ kinds of files


def nnunet_checkpoint(state: dict, patch=(32, 32, 32)) -> dict:
    """What `nnUNetTrainer.save_checkpoint` of nnU-Net 2.8 writes, with values of the types that it has."""
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    }
    first = {"patch_size": list(patch), "spacing": [1.0, 1.0, 1.0], "architecture": architecture}
    configurations = {
        "3d_lowres": first,
        "3d_fullres": {"inherits_from": "3d_lowres", "spacing": [0.5, 0.5, 0.5]},
    }
    plans = {"plans_name": "nnUNetResEncUNetMPlans", "configurations": configurations}
    return {
        "network_weights": state,
        "optimizer_state": {
            "state": {0: {"momentum_buffer": torch.zeros(2)}},
            "param_groups": [{"lr": 0.01}],
        },
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float64(0.5)],
            "ema_fg_dice": [np.float32(0.25)],
            "dice_per_class_or_region": [[np.float64(0.5), np.float64(0.25)]],
            "train_losses": [np.float32(-0.5), np.mean([0.1, 0.2])],
            "lrs": [0.01, np.int64(3), np.bool_(True)],
            "epoch_start_timestamps": np.array([1.5, 2.5]),
        },
        "_best_ema": np.float64(0.25),
        "current_epoch": 2,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0, "a": 1, "b": 2}},
            "device": torch.device("cpu"),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }


def nnssl_checkpoint(state: dict, architecture="ResEncL", patch=(32, 32, 32)) -> dict:
    """A checkpoint of nnssl with its adaptation plan."""
    plan = {
        "architecture_plans": {"arch_class_name": architecture, "arch_kwargs": None},
        "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": list(patch), "spacing": [1.0] * 3}}},
        "pretrain_num_input_channels": 1,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }
    return {"network_weights": state, "nnssl_adaptation_plan": plan, "trainer_name": "BaseMAETrainer"}


def prefixed(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


FILES = {
    "bare": dict,
    "ordered": collections.OrderedDict,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "args": argparse.Namespace(lr=0.1)},
    "model": lambda state: {"model": state, "optimizer": {}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "nnunet": nnunet_checkpoint,
    "nnssl": nnssl_checkpoint,
    "parallel": prefixed("module."),
    "compiled": prefixed("module._orig_mod."),
    "inner": prefixed("net.model."),
}


@pytest.mark.parametrize("kind", quick_of(FILES, ["bare", "nnunet", "compiled"], "a form more"))
def test_every_kind_of_file_comes_back_bit_for_bit(kind, state, tmp_path, capsys):
    torch.save(FILES[kind](state), tmp_path / "file.pth")
    run = imported(tmp_path / "file.pth", "--out", tmp_path / "run")
    report = capsys.readouterr().out
    assert "file.pth: resenc_unet" in report and "loaded 59 of 59 tensors\n" in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pth", "run"]
    assert_same(exported(run), state)


def test_a_later_stage_of_a_cascade_is_refused(state, tmp_path, capsys):
    contents = nnunet_checkpoint(state)
    arguments = contents["init_args"]
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    arguments["plans"]["configurations"]["3d_cascade_fullres"] = cascade
    torch.save(
        contents | {"init_args": arguments | {"configuration": "3d_cascade_fullres"}}, tmp_path / "c.pth"
    )
    with pytest.raises(SystemExit):
        imported(tmp_path / "c.pth", "--out", tmp_path / "run")
    assert (
        "c.pth is a stage of a cascade, whose network sees the labels that 3d_lowres"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow("wants nnU-Net, whose files are made up above")
def test_what_nnunet_itself_saves_is_read(state, tmp_path):
    """Its trainer's own method, on a trainer that has just what the method reads."""
    training = pytest.importorskip("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    logging = pytest.importorskip("nnunetv2.training.logging.nnunet_logger")
    net = twins.twin(
        nnx.eval_shape(lambda: models.create("resenc_unet", in_channels=1, out_channels=3, **SMALL))
    )
    net.load_state_dict(state)
    trainer = object.__new__(training.nnUNetTrainer)
    trainer.local_rank, trainer.disable_checkpointing, trainer.is_ddp = 0, False, False
    trainer.network, trainer.grad_scaler = net, None
    trainer.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.99, nesterov=True)
    trainer.logger = logging.LocalLogger()
    for key, value in {
        "train_losses": np.mean([np.float32(1)]),
        "dice_per_class_or_region": [np.float64(1)],
    }.items():
        trainer.logger.log(key, value, 0)
    trainer._best_ema, trainer.current_epoch = np.mean([0.5]), 0
    trainer.my_init_kwargs = nnunet_checkpoint(state)["init_args"]
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.save_checkpoint(tmp_path / "checkpoint_final.pth")
    assert_same(exported(imported(tmp_path / "checkpoint_final.pth", "--out", tmp_path / "run")), state)


def test_safetensors_and_what_the_run_says(state, tmp_path):
    safetensors_torch.save_file(
        {name: tensor.clone() for name, tensor in state.items()}, tmp_path / "w.safetensors"
    )
    run = imported(tmp_path / "w.safetensors", "--out", tmp_path / "run")
    assert_same(exported(run), state)
    document = load_run(run).document
    assert document.kind == "imported" and document.left_fresh == ()
    assert document.network == {
        "name": "resenc_unet", "in_channels": 1, "out_channels": 3, **SMALL, "conv_bias": True,
    }  # fmt: skip
    assert document.source.file == "w.safetensors" and len(document.source.sha256) == 64
    assert set(document.origin.versions) >= {"fdif-jax", "jax"}


def test_files_of_numpy_1_and_legacy_files_are_read(state, tmp_path):
    torch.save(
        {"state_dict": state, "best": np.float64(0.5)},
        tmp_path / "old.pt",
        _use_new_zipfile_serialization=False,
    )
    contents = (tmp_path / "old.pt").read_bytes()
    assert contents.count(b"numpy._core.multiarray") == 1
    (tmp_path / "old.pt").write_bytes(contents.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_checkpoint(tmp_path / "old.pt").state.keys() == state.keys()


# ---------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param(
            name,
            index,
            marks=pytest.mark.slow("large programs; another size of the network, or other networks, do")
            if (name, index) in SLOW
            else (),
        )
        for name, sizes in SIZES.items()
        for index in range(len(sizes))
    ],
)
def test_every_network_and_size_comes_back_bit_for_bit(name, index, tmp_path):
    size, said = SIZES[name][index], SAID.get((name, index), {})
    whole = weights_of(name, channels=2, **size)
    torch.save(whole, tmp_path / "w.pth")
    options = [f"{option}={value}" for option, value in said.items()]
    run = imported(tmp_path / "w.pth", "--out", tmp_path / "run", *(["--size", *options] if options else []))
    assert_same(exported(run), whole)
    network = load_run(run).network
    assert network["name"] == name
    # The network of what was recognised has the configuration of the one that was saved.
    again, saved = (
        nnx.eval_shape(lambda spec=spec: models.create(**spec)).config
        for spec in (network, {"name": name, "in_channels": 2, "out_channels": 3, **size})
    )
    kept = set(saved.__dataclass_fields__) - {"mlp_ratio"}  # some ratios round down to the same number
    assert {field: getattr(again, field) for field in kept} == {
        field: getattr(saved, field) for field in kept
    }


@pytest.mark.slow("a large network; others are beside it")
def test_self_supervised_swin_encoders_take_their_place(tmp_path, capsys):
    """MONAI's published files: the transformer alone, under other names, from a data-parallel run."""
    whole = weights_of("swin_unetr", feature_size=12, window_size=2, depths=(1, 1, 1, 1))
    encoder = {name: tensor for name, tensor in whole.items() if name.startswith("swinViT.")}
    renamed = {
        "module." + name.removeprefix("swinViT.").replace("linear1", "fc1").replace("linear2", "fc2"): tensor
        for name, tensor in encoder.items()
    }
    renamed["module.rotation_head.weight"] = torch.zeros(4, 192)
    torch.save({"epoch": 1, "state_dict": renamed, "optimizer": {}}, tmp_path / "ssl.pt")
    with pytest.raises(FdifError, match=r"ssl\.pt has no output head; give --out-channels"):
        _run(tmp_path / "ssl.pt", tmp_path / "run")
    run = imported(
        tmp_path / "ssl.pt", "--out", tmp_path / "run", "--out-channels", 5, "--size", "normalize=false"
    )
    report = capsys.readouterr().out
    assert "did not use 1 (swinViT.rotation_head.weight)" in report and "downsample=merging" in report
    assert "normalize=True" not in report
    got = exported(run)
    assert got["out.conv.conv.weight"].shape[0] == 5
    assert_same({name: got[name] for name in encoder}, encoder)


def test_nnssl_encoders_take_their_place(state, tmp_path):
    """An encoder alone shows no strides: nnssl's plan says them; without one they must be given."""
    size = {"features": [4, 6], "blocks": 1}
    encoder = {
        n.removeprefix("encoder."): t for n, t in weights_of(**size).items() if n.startswith("encoder.")
    }
    torch.save(nnssl_checkpoint(encoder), tmp_path / "nnssl.pth")
    run = imported(tmp_path / "nnssl.pth", "--out", tmp_path / "run", "--out-channels", 4, "--in-channels", 2)
    assert load_run(run).network["strides"] == [[1, 1, 1], [2, 2, 2]]
    assert len(load_run(run).document.left_fresh) == 8
    want = encoder["stem.convs.0.conv.weight"].repeat(1, 2, 1, 1, 1) / 2
    assert torch.equal(exported(run)["encoder.stem.convs.0.conv.weight"], want)
    torch.save(encoder, tmp_path / "bare.pth")
    with pytest.raises(FdifError, match=r"do not tell strides; give strides=…"):
        recognise(read_checkpoint(tmp_path / "bare.pth"), source="bare.pth")
    given = {"strides": [[1, 1, 1], [1, 2, 2]]}
    assert recognise(read_checkpoint(tmp_path / "bare.pth"), source="b", size=given).network["strides"][
        1
    ] == [1, 2, 2]


def test_the_grid_of_position_embeddings(tmp_path, capsys):
    """A cube if nothing else is known, the plan's patch, or what is said; --grid interpolates."""
    size = {"grid": [8, 16, 8], "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_embed_size": 4}
    whole = weights_of("primus", **size)
    torch.save(nnssl_checkpoint(whole, "PrimusX", (8, 16, 8)), tmp_path / "plan.pth")
    torch.save(whole, tmp_path / "bare.pth")
    heads = {"num_heads": 2}
    assert recognise(read_checkpoint(tmp_path / "plan.pth"), source="x", size=heads).network["grid"] == [
        8,
        16,
        8,
    ]
    with pytest.raises(FdifError, match=r"do not tell grid; give grid=…"):
        recognise(read_checkpoint(tmp_path / "bare.pth"), source="x", size=heads)
    run = imported(
        tmp_path / "bare.pth",
        "--out",
        tmp_path / "run",
        "--size",
        "num_heads=2",
        "grid=[8,16,8]",
        "--grid",
        16,
        8,
        8,
    )
    assert "eva.pos_embed (2x4x2 -> 4x2x2 tokens: interpolated)" in capsys.readouterr().out
    assert load_run(run).network["grid"] == [16, 8, 8]
    embedding = whole["eva.pos_embed"].reshape(1, 2, 4, 2, 24).permute(0, 4, 1, 2, 3)
    want = torch.nn.functional.interpolate(embedding, size=(4, 2, 2), mode="trilinear", align_corners=False)
    want = want.permute(0, 2, 3, 4, 1).reshape(1, 16, 24)
    torch.testing.assert_close(exported(run)["eva.pos_embed"], want, rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------- other channels


def test_other_channels_are_transferred_and_reported(state, tmp_path, capsys):
    torch.save(state, tmp_path / "w.pth")
    run = imported(tmp_path / "w.pth", "--out", tmp_path / "run", "--in-channels", 4, "--out-channels", 7)
    report = capsys.readouterr().out
    assert "encoder.stem.convs.0.conv.weight (1 -> 4 input channels: copied / 4)" in report
    assert "left fresh 4 (decoder.seg_layers." in report
    got = exported(run)
    stem = "encoder.stem.convs.0.conv.weight"
    assert torch.equal(got[stem], state[stem].repeat(1, 4, 1, 1, 1) / 4)
    assert got["decoder.seg_layers.1.weight"].shape[0] == 7
    same = [
        name for name, tensor in state.items() if got[name].shape == tensor.shape and "seg_layers" not in name
    ]
    assert len(same) == len(state) - 8  # the stem under four names, two heads
    assert_same({name: got[name] for name in same}, {name: state[name] for name in same})


def test_incomplete_files_need_to_be_meant(state, tmp_path, capsys):
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.stages.0")}
    torch.save(partial | {"extra": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(FdifError) as caught:
        _run(tmp_path / "w.pth", tmp_path / "run")
    assert "lacks" in str(caught.value) and "decoder.stages.0" in str(caught.value)
    assert "extra" in str(caught.value) and "--partial" in str(caught.value)
    run = imported(tmp_path / "w.pth", "--out", tmp_path / "run", "--partial")
    assert "did not use 1 (extra)" in capsys.readouterr().out
    assert all(name.startswith("decoder.stages.0") for name in load_run(run).document.left_fresh)


@pytest.mark.parametrize(
    "form", quick_of(["monai", "safetensors", "nnunet", "nnssl"], ["safetensors", "nnssl"], "a form more")
)
def test_what_export_writes_comes_back(form, state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    first = imported(tmp_path / "w.pth", "--out", tmp_path / "first")
    file = tmp_path / ("out.safetensors" if form == "safetensors" else "out.pth")
    patch = ["--patch", "16", "16", "16"] if form == "nnssl" else []
    cli.run("export", [str(first), "--to", form, "--out", str(file), *patch])
    second = imported(file, "--out", tmp_path / "second")
    assert load_run(second).network == load_run(first).network
    assert_same(exported(second), state)


def test_an_nnssl_plan_tells_the_heads_of_a_primus_of_no_published_size(tmp_path):
    size = {"grid": [8, 16, 8], "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_embed_size": 4}
    torch.save(weights_of("primus", **size), tmp_path / "w.pth")
    first = imported(
        tmp_path / "w.pth", "--out", tmp_path / "first", "--size", "num_heads=2", "grid=[8,16,8]"
    )
    cli.run("export", [str(first), "--to", "nnssl", "--out", str(tmp_path / "nnssl.pth")])
    second = imported(tmp_path / "nnssl.pth", "--out", tmp_path / "second")
    assert load_run(second).network == load_run(first).network


def test_finetune_takes_an_imported_run(state, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    run = load_run(imported(tmp_path / "w.pth", "--out", tmp_path / "run"))
    model = models.create(**run.network, seed=5)
    run.restore(model)
    got = state_dicts.to_torch_state_dict(model)
    assert all(np.array_equal(got[name], tensor) for name, tensor in state.items())


# ------------------------------------------------------------------------------------------------------- bad input


def _run(file: Path, out: Path, *more: str) -> None:
    """The command without the layer that makes errors a line."""
    from fdif_jax.scripts import import_

    options = {"partial": "--partial" in more}
    import_.run(import_.Config(file=file, out=out, **options))


class Trap:
    """Unpickled by a reader that runs code, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["beside", "value", "plain pickle", "numpy object"])
def test_code_in_files_is_refused_and_not_run(where, state, tmp_path):
    trap = tmp_path / "trap"
    file = tmp_path / "hostile.pth"
    if where == "beside":
        torch.save({"state_dict": state, "config": Trap(trap)}, file)
    elif where == "value":
        torch.save({**state, "encoder.weight": Trap(trap)}, file)
    elif where == "numpy object":
        torch.save({"state_dict": state, "logging": np.array([Trap(trap)], object)}, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Trap(trap)}))
    with pytest.raises(FdifError) as caught:
        read_checkpoint(file)
    assert not trap.exists()
    message = " ".join(str(caught.value).split())
    assert "hostile.pth" in message and ("could run code" in message or "cannot be read" in message)
    if where in ("beside", "value"):
        assert "posix.mkdir" in message and "torch.save the state dict" in message
    pickle.loads(pickle.dumps(Trap(trap)))  # the trap is one
    assert trap.exists()


def test_bad_input_is_one_line(state, tmp_path, capsys):
    torch.save(state, tmp_path / "w.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    torch.save({"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(3, 3)}, tmp_path / "plain.pth")
    torch.save({"stem.convs.0.conv.weight": torch.zeros(4, 1, 3, 3)}, tmp_path / "flat.pth")
    torch.save({"patch_embed.proj.weight": torch.zeros(4, 1, 2, 2, 2)}, tmp_path / "vit.pth")
    name = next(key for key, tensor in state.items() if tensor.is_floating_point())
    torch.save(state | {name: torch.full_like(state[name], torch.nan)}, tmp_path / "nan.pth")
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    for file, options, message in [
        ("none.pth", [], "no such file"),
        ("w.onnx", [], "no such file"),
        ("empty.pth", [], "cannot be read as PyTorch weights"),
        ("cut.pth", [], "cannot be read as PyTorch weights"),
        ("cut.safetensors", [], "cannot be read as safetensors"),
        ("nothing.pth", [], "holds no state dict"),
        ("other.pth", [], "is of none of the networks"),
        ("plain.pth", [], "nnU-Net's plain U-Net; its ResEnc planners"),
        ("flat.pth", [], "not that of a 3D network"),
        ("nan.pth", [], f"nan.pth: {name} holds nan at [0, 0, 0, 0, 0]; weights must be finite"),
        ("vit.pth", [], "looks like swin_unetr, but it lacks swinViT.layers1.0.blocks.0.attn."),
        ("w.pth", ["--network", "vnet"], "is of no vnet but of resenc_unet"),
        ("w.pth", ["--network", "vnett"], "did you mean 'vnet'?"),
        ("w.pth", ["--size", "feature=3"], "did you mean 'features'?"),
        ("w.pth", ["--size", "features"], "unknown preset of resenc_unet"),
        ("w.pth", ["--size", "in_channels=3"], "--in-channels"),
        ("w.pth", ["--size", "features=[4,6,8]"], "is no complete resenc_unet"),
        ("w.pth", ["--size", "features=[40,60,60]", "--out-channels", "4"], "less than half"),
        ("w.pth", ["--grid", "8", "8", "8"], "resenc_unet are of no particular grid"),
    ]:
        with pytest.raises(SystemExit) as caught:
            cli.run("import", [str(tmp_path / file), "--out", str(tmp_path / "run"), *options])
        error = capsys.readouterr().err.strip()
        assert caught.value.code == 2 and message in error, error
        assert "\n" not in error and sorted(tmp_path.iterdir()) == before
    with pytest.raises(SystemExit):
        cli.run("import", [str(tmp_path / "w.pth"), "--out", str(tmp_path / "there")])
    assert "there exists; give a new directory" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "w.pth")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fdif_jax.training.runs.Checkpoints.save", fail)
    with pytest.raises(OSError, match="No space"):
        _run(tmp_path / "w.pth", tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_a_file_of_weights_begins_a_fine_tuning_whatever_it_is_called(state, tmp_path):
    read = []
    for name in ("w.pth", "w.ckpt", "w"):
        torch.save(state, tmp_path / name)
        read.append(read_initial(str(tmp_path / name), "last", NetworkOptions()))
    assert all(initial.network == read[0].network for initial in read)
    assert len({initial.start("last").weights_sha256 for initial in read}) == 1
