"""The forms in which weights are exported, read by the code they are for, or by what its documentation says."""

import json
import pydoc

import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.weights import state_dicts
from fdif_jax.weights.files import save_torch
from fdif_jax.weights.nnunet_files import nnssl_checkpoint

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")
nnunet_client = pytest.importorskip("tests.helpers.nnunet_client")
safetensors_torch = pytest.importorskip("safetensors.torch")

RESENC = {
    "name": "resenc_unet",
    "in_channels": 1,
    "out_channels": 4,
    "features": [4, 6, 8],
    "blocks": [1, 2, 1],
}
PRIMUS = {
    "name": "primus", "in_channels": 1, "out_channels": 4, "grid": [16, 32, 16],
    "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_path_rate": 0.0,
}  # fmt: skip
VNET = {"name": "vnet", "in_channels": 1, "out_channels": 2}
SPECS = {"resenc": RESENC, "primus": PRIMUS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with the runs ``resenc`` and ``primus``, as pre-trained on a grid of 16 x 32 x 16; and their networks."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = {"grid": [16, 32, 16]}
    saved = {
        name: nnunet_client.save_run(folder / name, spec, kind="pretraining", recipe=recipe)
        for name, spec in SPECS.items()
    }
    return folder, saved


def export(run, path, *options):
    cli.run("export", [str(run), "--out", str(path), *map(str, options)])
    return torch.load(path, weights_only=True) if path.suffix != ".safetensors" else None


def refused(capsys, run, path, *options) -> str:
    with pytest.raises(SystemExit) as caught:
        export(run, path, *options)
    assert caught.value.code == 2
    assert not path.exists()
    return capsys.readouterr().err


def images(channels=1, grid=(16, 32, 16)) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, *grid, channels), dtype=np.float32)


def assert_same_logits(model, net, x):
    with torch.no_grad():
        got = net.eval()(torch.from_numpy(x).permute(0, 4, 1, 2, 3))
    want = np.asarray(model(x))
    np.testing.assert_allclose(got.permute(0, 2, 3, 4, 1), want, atol=1e-4 * np.abs(want).max())


def equal(tensors, arrays):
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("to", [(), ("--to", "monai")])
def test_monai_and_any_pytorch_code_get_a_plain_state_dict(runs, tmp_path, suffix, to):
    folder, saved = runs
    state = export(folder / "primus", tmp_path / f"weights{suffix}", *to)
    equal(state, state_dicts.to_torch_state_dict(saved["primus"]))


@pytest.mark.parametrize("to", [(), ("--to", "safetensors")])
def test_safetensors_need_no_pytorch(runs, tmp_path, monkeypatch, to):
    folder, saved = runs
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "torch", None)
        export(folder / "resenc", tmp_path / "weights.safetensors", *to)
    state = safetensors_torch.load_file(tmp_path / "weights.safetensors")
    equal(state, state_dicts.to_torch_state_dict(saved["resenc"]))


def test_nnunet_gets_network_weights_and_a_tensor_of_several_names_once(runs, tmp_path, capsys):
    folder, saved = runs
    contents = export(folder / "resenc", tmp_path / "pre.pth", "--to", "nnunet")
    assert set(contents) == {"network_weights"}
    state = state_dicts.to_torch_state_dict(saved["resenc"])
    equal(contents["network_weights"], state)
    once = sum(array.nbytes for array in {id(array): array for array in state.values()}.values())
    assert (tmp_path / "pre.pth").stat().st_size < once + 200 * len(state)
    assert "nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS -tr nnUNetTrainer" in capsys.readouterr().out


def build(plan, in_channels, patch):
    """The network of an adaptation plan, as nnU-Net's master builds it: by the class's name and its arguments."""
    built = plan["architecture_plans"]
    name, arguments = built["arch_class_name"], dict(built["arch_kwargs"])
    if name == "ResidualEncoderUNet":
        arguments |= {
            key: arguments[key] and pydoc.locate(arguments[key])
            for key in built["arch_kwargs_requiring_import"]
        }
        cls = pydoc.locate(f"dynamic_network_architectures.architectures.unet.{name}")
        return cls(input_channels=in_channels, num_classes=9, deep_supervision=False, **arguments)
    assert name == "PrimusX" and built["arch_kwargs_requiring_import"] == []
    cls = pydoc.locate("dynamic_network_architectures.architectures.primus.Primus")
    sizes = [arguments[key] for key in ("embed_dim", "patch_embed_size")]
    sizes += [9, arguments["encoder_eva_depth"], arguments["encoder_eva_numheads"]]
    kept = {key: arguments[key] for key in ("scale_attn_inner", "init_values")}
    return cls(in_channels, *sizes, patch, **kept)


@pytest.mark.parametrize("name", SPECS)
def test_nnssl_gets_a_plan_that_builds_the_network_and_finds_its_parts(runs, tmp_path, capsys, name):
    folder, saved = runs
    contents = export(folder / name, tmp_path / "ssl.pth", "--to", "nnssl")
    assert set(contents) == {"network_weights", "nnssl_adaptation_plan", "citations"}
    trainer = {"resenc": "PretrainedTrainer", "primus": "PretrainedTrainer_Primusx"}[name]
    assert (
        f"nnUNetv2_train_pretrained DATASET 3d_fullres FOLD -p PLANS -tr {trainer}\n"
        in capsys.readouterr().out
    )
    for cited in contents["citations"]:
        assert set(cited) == {"type", "name", "apa_citations"} and isinstance(cited["apa_citations"], list)
    state, plan = contents["network_weights"], contents["nnssl_adaptation_plan"]
    equal(state, state_dicts.to_torch_state_dict(saved[name]))

    # What nnUNetv2_preprocess_like_nnssl reads, and writes into a JSON file.
    assert json.loads(json.dumps(plan)) == plan
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["spacing"] == [1, 1, 1] and configuration["patch_size"] == [16, 32, 16]
    assert plan["recommended_downstream_patchsize"] == [16, 32, 16]
    assert plan["pretrain_num_input_channels"] == 1

    # What nnUNetv2_train_pretrained does: encoder and stem are loaded, strictly.
    net = build(plan, 1, [16, 32, 16])
    for key in ("key_to_encoder", "key_to_stem", "key_to_lpe"):
        assert plan[key] == getattr(net, key)
    assert plan["keys_to_in_proj"] == list(net.keys_to_in_proj)
    for key in (plan["key_to_encoder"], plan["key_to_stem"]):
        part = {k.removeprefix(f"{key}."): v for k, v in state.items() if k.startswith(f"{key}.")}
        net.get_submodule(key).load_state_dict(part, strict=True)
    for key in plan["keys_to_in_proj"]:
        assert state[f"{key}.weight"].shape[1] == 1

    # All but the head is ours: with our head too, the network is.
    ours = build(plan, 1, [16, 32, 16]).state_dict()
    assert set(ours) == set(state)
    head = ("decoder.seg_layers.", "up_projection.")
    assert all(ours[k].shape == state[k].shape for k in state if not k.startswith(head))


@pytest.mark.parametrize("preset", ["M", "L"])
def test_nnssl_knows_resenc_l_and_primus_by_name(preset):
    resenc = nnx.eval_shape(
        lambda: models.create("resenc_unet", in_channels=1, out_channels=2, preset=preset)
    ).nnunet()
    assert (resenc.name, resenc.arguments) == ("ResEncL", None)
    primus = nnx.eval_shape(
        lambda: models.create("primus", in_channels=1, out_channels=2, preset=preset, grid=[16, 16, 16])
    ).nnunet()
    assert (primus.name, primus.trainer) == (f"Primus{preset}", f"nnUNet_Primus_{preset}_Trainer")
    by_name = nnssl_checkpoint({}, resenc, in_channels=1, patch=(8, 8, 8), spacing=None, name="x")
    assert by_name["nnssl_adaptation_plan"]["architecture_plans"] == {
        "arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None,
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["S", "B", "M", "L"])
def test_nnunets_primus_trainers_build_our_primus(preset):
    trainers = pytest.importorskip("nnunetv2.training.nnUNetTrainer.primus.primus_trainers")
    spec = {"preset": preset, "in_channels": 2, "out_channels": 3, "grid": [16, 24, 32]}
    model = nnx.eval_shape(lambda: models.create("primus", **spec))
    plan = type("Plan", (), {"patch_size": (16, 24, 32)})
    trainer = getattr(trainers, model.nnunet().trainer)
    with torch.device("meta"):
        net = trainer.build_network_architecture(None, plan, 2, 3)
    theirs = {name: tuple(p.shape) for name, p in net.named_parameters()}
    ours = {}
    for _, (name, *_), variable in state_dicts.torch_variables(model):
        axes = variable.get_metadata().get("torch_axes") or range(variable.ndim)
        ours[name] = tuple(variable.shape[axis] for axis in axes)
    assert {name: shape for name, shape in ours.items() if name != "mask_token"} == theirs


@pytest.mark.slow("networks more; transfer is in tests/weights")
def test_networks_are_written_for_other_images_and_classes(runs, tmp_path, capsys):
    folder, saved = runs
    options = ("--to", "nnunet", "--in-channels", 3, "--out-channels", 2)
    state = export(folder / "resenc", tmp_path / "pre.pth", *options)["network_weights"]
    assert "1 -> 3 input channels: copied / 3" in capsys.readouterr().out
    model = models.create(**RESENC | {"in_channels": 3, "out_channels": 2})
    state_dicts.load_torch_state_dict(model, state)  # strict
    # Three equal channels give what the one gave: the features beneath the head are the same.
    x = images()
    same = model.encoder(np.repeat(x, 3, axis=-1))
    for got, want in zip(same, saved["resenc"].encoder(x), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def test_networks_are_written_for_other_patches(runs, tmp_path):
    folder, saved = runs
    contents = export(folder / "primus", tmp_path / "ssl.pth", "--to", "nnssl", "--patch", 32, 32, 32)
    state, plan = contents["network_weights"], contents["nnssl_adaptation_plan"]
    assert plan["recommended_downstream_patchsize"] == [32, 32, 32]
    there = torch.tensor(np.asarray(saved["primus"].eva.pos_embed[...]))
    there = there.reshape(1, 2, 4, 2, 24).permute(0, 4, 1, 2, 3)
    want = torch.nn.functional.interpolate(there, (4, 4, 4), mode="trilinear", align_corners=False)
    want = want.permute(0, 2, 3, 4, 1).reshape(1, 64, 24)
    np.testing.assert_allclose(state["eva.pos_embed"], want, atol=1e-5)
    net = build(plan, 1, [32, 32, 32])
    other = models.create(**PRIMUS | {"grid": [32, 32, 32]})
    state_dicts.load_torch_state_dict(other, state)
    net.load_state_dict({k: v for k, v in state.items() if "up_projection" not in k}, strict=False)
    np.testing.assert_array_equal(net.eva.pos_embed.detach(), other.eva.pos_embed[...])
    resenc = export(folder / "resenc", tmp_path / "resenc.pth", "--to", "nnssl", "--patch", 24, 24, 24)
    (configuration,) = resenc["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"].values()
    assert configuration["patch_size"] == [24, 24, 24]


def test_a_fine_tuned_run_tells_its_patch_and_no_spacing(tmp_path):
    training = {"patch": [8, 16, 8]}
    nnunet_client.save_run(tmp_path / "run", RESENC, kind="fine-tuning", training=training)
    contents = export(tmp_path / "run", tmp_path / "ssl.pth", "--to", "nnssl")
    (configuration,) = contents["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"].values()
    assert configuration["patch_size"] == [8, 16, 8] and configuration["spacing"] is None
    assert contents["citations"] == []


def test_what_cannot_be_written_is_refused_in_one_line(runs, tmp_path, capsys, monkeypatch):
    folder, _ = runs
    resenc, primus, out = folder / "resenc", folder / "primus", tmp_path / "weights.pth"
    soft = tmp_path / "weights.safetensors"
    for form in ("monai", "nnunet", "nnssl"):
        assert f"--to {form} writes .pth or .pt, not" in refused(capsys, resenc, soft, "--to", form)
    assert "--to safetensors writes .safetensors, not" in refused(capsys, resenc, out, "--to", "safetensors")
    assert "ends in .pth, .pt or .safetensors" in refused(capsys, resenc, tmp_path / "weights.onnx")
    assert "is not a run directory" in refused(capsys, tmp_path / "none", out)
    assert "--patch changes nothing" in refused(capsys, resenc, out, "--patch", 8, 8, 8)
    assert "channels and sizes must be whole" in refused(capsys, resenc, out, "--in-channels", 0)
    error = refused(capsys, primus, out, "--to", "nnunet")
    assert (
        "no trainer of nnU-Net's for --to nnunet builds a primus of this kind; write it --to nnssl" in error
    )

    def begun(network, **document):
        folder = tmp_path / network["name"]
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"network": network, **document}))
        return folder

    error = refused(capsys, begun(VNET), out, "--to", "nnunet")
    assert "--to nnunet is for resenc_unet and primus, nnU-Net has no vnet; write it --to monai" in error
    error = refused(capsys, begun(PRIMUS | {"num_register_tokens": 2}), out, "--to", "nnssl")
    assert "write it --to monai" in error and "--to nnssl or" not in error
    assert "the run has no checkpoint yet" in refused(capsys, begun(RESENC), out)
    nnunet_client.save_run(tmp_path / "imported", RESENC, kind="imported")
    error = refused(capsys, tmp_path / "imported", out, "--to", "nnssl")
    assert "does not say what patches it was trained on; give --patch D H W" in error
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    for form in ("monai", "nnunet", "nnssl"):
        assert "pip install 'fdif-jax[torch]'" in refused(capsys, resenc, out, "--to", form)


def test_nested_contents_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    shared = np.arange(6.0).reshape(2, 3)
    path = tmp_path / "contents.pth"
    contents = {"a": {"x": shared, "y": shared}, "plan": [1, 2.5, "three", None, (True, {"z": shared})]}
    save_torch(contents, path)
    read = torch.load(path, weights_only=True)
    assert read["plan"][:4] == [1, 2.5, "three", None] and read["plan"][4][0] is True
    for tensor in (read["a"]["x"], read["a"]["y"], read["plan"][4][1]["z"]):
        np.testing.assert_array_equal(tensor, shared)
        assert tensor.data_ptr() == read["a"]["x"].data_ptr()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        save_torch({}, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert torch.load(path, weights_only=True)["plan"][2] == "three"


# --------------------------------------------------------------------------------------- networks of nnU-Net's plans


def plans(folder, **changed) -> str:
    """A plans file with the configurations 2d, 3d_fullres and, inheriting from it, large."""
    full = {"patch_size": [8, 16, 16], "spacing": [3.0, 1.0, 1.0], "architecture": nnunet_client.ARCHITECTURE}
    plain = {**nnunet_client.ARCHITECTURE, "network_class_name": "x.y.PlainConvUNet"}
    arguments = {**nnunet_client.ARCHITECTURE["arch_kwargs"], "nonlin": "torch.nn.ReLU"}
    configurations = {
        "2d": {**full, "patch_size": [16, 16], "spacing": [1.0, 1.0]},
        "3d_fullres": full,
        "large": {"inherits_from": "3d_fullres", "patch_size": [16, 32, 32]},
        "plain": {**full, "architecture": plain},
        "relu": {**full, "architecture": {**nnunet_client.ARCHITECTURE, "arch_kwargs": arguments}},
        "old": {"patch_size": [8, 8, 8], "spacing": [1, 1, 1], "UNet_class_name": "ResidualEncoderUNet"},
        "circle": {"inherits_from": "circle"},
        **changed,
    }
    path = folder / "plans.json"
    path.write_text(json.dumps({"plans_name": "plans", "configurations": configurations}))
    return str(path)


@pytest.mark.slow("a network more, by three libraries")
def test_a_plans_network_is_ours_with_equal_outputs(tmp_path):
    from fdif_jax.models.nnunet import from_plans

    planned = from_plans(plans(tmp_path))
    assert planned.patch == (8, 16, 16) and planned.spacing == (3.0, 1.0, 1.0)
    assert json.loads(json.dumps(planned.network)) == planned.network
    arguments = dict(nnunet_client.ARCHITECTURE["arch_kwargs"])
    for key in nnunet_client.ARCHITECTURE["_kw_requires_import"]:
        arguments[key] = arguments[key] and pydoc.locate(arguments[key])
    cls = pydoc.locate(nnunet_client.ARCHITECTURE["network_class_name"])
    net = cls(input_channels=2, num_classes=3, deep_supervision=False, **arguments)
    nnunet_client.twins.randomise(net)
    model = models.create(**planned.network, in_channels=2, out_channels=3)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    assert_same_logits(model, net, images(2, planned.patch))
    assert model.nnunet().arguments == nnunet_client.ARCHITECTURE["arch_kwargs"]  # and back
    inherited = from_plans(plans(tmp_path), "large")
    assert inherited == planned._replace(patch=(16, 32, 32))


@pytest.mark.parametrize(
    "configuration, message",
    [
        ("3d_full", "unknown configuration of .*plans.json '3d_full'; did you mean '3d_fullres'"),
        ("2d", "its patches have 2 dimensions; take a 3D configuration"),
        (
            "plain",
            "its network is x.y.PlainConvUNet, not ResidualEncoderUNet; plan with .*nnUNetPlannerResEncM",
        ),
        ("relu", "nonlin is torch.nn.ReLU; resenc_unet has torch.nn.LeakyReLU"),
        ("old", "has no 'architecture'; plan again with nnU-Net 2.4 or newer"),
        ("circle", "has no 'architecture'"),
    ],
)
def test_plans_of_other_networks_are_refused(tmp_path, configuration, message):
    from fdif_jax.models.nnunet import from_plans

    with pytest.raises(FdifError, match=message):
        from_plans(plans(tmp_path), configuration)


def test_files_that_are_no_plans_are_refused(tmp_path):
    from fdif_jax.models.nnunet import from_plans

    with pytest.raises(FdifError, match=r"no such plans file: .*none\.json"):
        from_plans(tmp_path / "none.json")
    for text in ("no JSON", "[]", '{"configurations": 3}', '{"configurations": {"3d_fullres": 4}}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(FdifError, match=r"other\.json is no plans file of nnU-Net"):
            from_plans(tmp_path / "other.json")
