"""A fine-tuned network that leaves whole: what is written, that others' programs predict the same, what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from flax import nnx

from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.nnunet_plans import plans_of, read_cases
from fdif_jax.preprocessing.normalisation import AsItIs, UnitRange, Window, ZScore
from fdif_jax.scripts import cli
from fdif_jax.scripts.exports.finetuned import load_finetuned
from fdif_jax.scripts.jobs.nnunet_results import load_networks
from fdif_jax.training.network import State, set_weights, weights
from fdif_jax.training.runs import load_run, open_run
from tests.helpers.paths import HIPPOCAMPUS

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")
nnunet_client = pytest.importorskip("tests.helpers.nnunet_client")

CASES = ["hippocampus_001", "hippocampus_003", "hippocampus_004", "hippocampus_006", "hippocampus_007"]
RESENC = {"name": "resenc_unet", "in_channels": 1, "out_channels": 3, "features": [4, 6], "blocks": 1}
VNET = {"name": "vnet", "in_channels": 1, "out_channels": 3}
WINDOW = Window((-100.0, 240.0), 80.0, 40.0)


def tuned(
    folder,
    network=RESENC,
    plan=None,
    channels=("MRI",),
    classes=("anterior", "posterior"),
    regions=None,
    **inference,
):
    """A run directory as a fine-tuning would leave it, of random weights; and its network."""
    plan = plan or CasePlan((1.0, 1.0, 1.0), (16, 16, 16), (ZScore(),) * len(channels))
    return nnunet_client.save_run(
        folder,
        network,
        kind="fine-tuning",
        dataset={"list": "Task04_Hippocampus"},
        cases=plan.to_dict(),
        labels={"class_names": list(classes), "ignore": None, "channel_names": list(channels)}
        | (regions or {}),
        inference={"overlap": 0.5, "mirror_axes": [0], "weights": "last"} | inference,
    )


def export(run, to, out, *options):
    cli.run("export", [str(run), "--to", to, "--out", str(out), *map(str, options)])


def refused(capsys, *arguments, command=export) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of the ResEnc U-Net, whose classes are about as frequent, and its network."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    return folder, centred(folder, tuned(folder))


def centred(folder, model):
    """A network of random weights whose logits are 0 on average, saved in its run."""
    logits = model(np.random.default_rng(0).standard_normal((1, 16, 16, 16, 1), np.float32))
    head = "decoder.seg_layers.0.bias"
    set_weights(model, {head: weights(model)[head] - logits.mean((0, 1, 2, 3))})
    document = replace(load_run(folder).document, origin=None)
    with open_run(folder, document) as opened, opened.checkpoints() as checkpoints:
        checkpoints.save(2, State(weights(model), {"steps": jnp.array(2)}, {}), None)
    return model


def results_of(folder: Path) -> Path:
    (found,) = folder.glob("Dataset*/*__3d_fullres")
    return found


# ---------------------------------------------------------------------------------------- nnU-Net's plans


PLANS = CasePlan((2.0, 1.0, 0.5), (16, 24, 32), (WINDOW, ZScore(nonzero=True), UnitRange(), AsItIs()), 1)


def test_plans_go_to_nnunet_and_come_back():
    plans = json.loads(json.dumps(plans_of(PLANS, {}, dataset="Dataset001_A", name="plans")))
    found = read_cases(plans, plans["configurations"]["3d_fullres"], "plans.json")
    assert found == (PLANS, (0, 1, 2), False, ())


@pytest.mark.parametrize(("transposed", "axes"), [([0, 1, 2], (2, 1, 0)), ([1, 0, 2], (1, 2, 0))])
def test_axes_of_slices_rows_and_columns_are_ours_in_their_order(transposed, axes):
    plans = plans_of(PLANS, {}, dataset="Dataset001_A", name="plans")
    plans |= {"transpose_forward": transposed, "image_reader_writer": "SimpleITKIO"}
    found = read_cases(plans, plans["configurations"]["3d_fullres"], "plans.json")
    assert found.axes == axes and found.as_filed
    # an array in our order with edges as spacings, read by nnU-Net as slices, rows, columns, and then transposed
    ours = np.zeros([round(10 * s) for s in found.plan.spacing])
    theirs = ours.transpose(2, 1, 0).transpose(transposed)
    assert theirs.shape == tuple(round(10 * s) for s in PLANS.spacing)
    assert ours.transpose(found.axes).shape == theirs.shape
    assert sorted(found.plan.patch) == sorted(PLANS.patch)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patch_size": [32, 32]}, "is of slices"),
        ({"preprocessor_name": "Other"}, "preprocessor_name is Other, but fdif has only DefaultPreprocessor"),
        (
            {"resampling_fn_data": "resample_torch_fornnunet"},
            "resampling_fn_data is resample_torch_fornnunet",
        ),
        ({"normalization_schemes": ["RGBTo01Normalization"] * 4}, "normalised by RGBTo01Normalization"),
        ({"spacing": None}, "another form than the plans of nnU-Net 2"),
    ],
)
def test_steps_that_there_are_not_here_are_named(change, told):
    plans = plans_of(PLANS, {}, dataset="Dataset001_A", name="plans")
    with pytest.raises(Exception, match=told) as caught:
        read_cases(plans, plans["configurations"]["3d_fullres"] | change, "plans.json")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ there and back


def predict(model, scans, out, *options):
    cli.run("predict", ["--model", str(model), "--input", str(scans), "--out", str(out), *map(str, options)])
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(Path(out).glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A folder with one scan whose axes run otherwise than canonical ones, and the scan's file."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    affine = np.array([[0, -1.0, 0, 5], [0, 0, 1, 7], [-1, 0, 0, 0], [0, 0, 0, 1]])
    path = folder / "scan_0000.nii.gz"
    nib.save(nib.Nifti1Image(rng.normal(10, 3, (18, 15, 20)).astype(np.float32), affine), path)
    return folder


def test_what_nnunet_gets_is_predicted_with_by_us_as_before(run, scan, tmp_path):
    export(run[0], "nnunet-results", tmp_path / "results")
    folder = results_of(tmp_path / "results")
    assert folder.parts[-2:] == ("Dataset004_Hippocampus", "nnUNetTrainer__fdifPlans__3d_fullres")
    want = predict(run[0], scan, tmp_path / "a")["scan.nii.gz"]
    assert len(np.unique(want)) > 1
    found = predict(folder / "fold_0", scan, tmp_path / "b", "--windows", "monai")["scan.nii.gz"]
    np.testing.assert_array_equal(found, want)


def turn(folder):
    """Make of a results folder one that reads slices, rows and columns as filed, as nnU-Net's own trainings do."""
    plans = json.loads((folder / "plans.json").read_text())
    plans |= {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    plans |= {"image_reader_writer": "SimpleITKIO"}
    configuration = plans["configurations"]["3d_fullres"]
    for name in ("patch_size", "spacing"):
        configuration[name] = configuration[name][::-1]
    (folder / "plans.json").write_text(json.dumps(plans))
    file = folder / "fold_0/checkpoint_final.pth"
    contents = torch.load(file, weights_only=False)
    contents["inference_allowed_mirroring_axes"] = [2]
    contents["network_weights"] = {
        name: tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor
        for name, tensor in contents["network_weights"].items()
    }
    torch.save(contents, file)


def test_a_network_of_other_axes_is_ours_with_its_kernels_turned(run, scan, tmp_path):
    """nnU-Net reads slices, rows and columns as filed: kernels whose axes are reversed see what ours see."""
    export(run[0], "nnunet-results", tmp_path / "results")
    folder = results_of(tmp_path / "results")
    turn(folder)
    ensemble = load_networks([folder])
    assert ensemble.as_filed and ensemble.mirror_axes == (0,)
    with pytest.raises(FdifError, match="keeps no weights of step 5; ask for last or best"):
        ensemble.runs[0].restore(None, 5)
    # the same voxels with an affine by which their axes are canonical
    straight = nib.Nifti1Image(nib.load(scan / "scan_0000.nii.gz").get_fdata(), np.eye(4))
    (tmp_path / "straight").mkdir()
    nib.save(straight, tmp_path / "straight/scan.nii.gz")
    want = predict(run[0], tmp_path / "straight", tmp_path / "a")["scan.nii.gz"]
    found = predict(folder, scan, tmp_path / "b", "--windows", "monai")["scan.nii.gz"]
    assert (found == want).mean() > 0.999  # sums are in another order


def test_all_folds_are_in_one_results_folder_and_other_forms_ask_for_one(tmp_path, capsys):
    networks = [tuned(tmp_path / f"folds/fold_{n}") for n in range(2)]
    assert len(networks) == 2
    export(tmp_path / "folds", "nnunet-results", tmp_path / "results")
    assert len(load_networks([results_of(tmp_path / "results")]).runs) == 2
    said = refused(capsys, tmp_path / "folds", "monai-bundle", tmp_path / "bundle")
    assert "holds 2 folds" in said and "fold_0" in said
    assert not (tmp_path / "bundle").exists()


# ------------------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_written_says_why_and_what_can(run, tmp_path, capsys):
    document = replace(load_run(run[0]).document, origin=None, network=VNET)
    with open_run(tmp_path / "vnet", document):
        pass  # its weights are not asked for
    said = refused(capsys, tmp_path / "vnet", "nnunet-results", tmp_path / "a")
    assert "nnU-Net has no vnet; write it --to monai-bundle" in said
    said = refused(capsys, run[0], "onnx", tmp_path / "a.pth")
    assert "--to onnx writes .onnx" in said
    said = refused(capsys, run[0], "exported", tmp_path / "a.jaxexport", "--in-channels", 2)
    assert "--in-channels" in said
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty" in refused(capsys, run[0], "monai-bundle", tmp_path / "full")
    nnunet_client.save_run(tmp_path / "pretrained", RESENC, kind="pretraining")
    said = refused(capsys, tmp_path / "pretrained", "monai-bundle", tmp_path / "a")
    assert "`fdif finetune` makes those that can predict" in said
    assert not list(tmp_path.glob("a*"))


def test_results_folders_that_lack_something_are_refused_in_a_line(run, scan, tmp_path, capsys):
    export(run[0], "nnunet-results", tmp_path / "results")
    folder = results_of(tmp_path / "results")

    def said():
        return refused(capsys, folder, scan, tmp_path / "out", command=predict)

    described = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(described | {"channel_names": {"0": "a", "1": "b"}}))
    assert "tells of 2 in channels" in said()
    (folder / "dataset.json").unlink()
    assert "dataset.json: no such file" in said()
    plans = (folder / "plans.json").read_text()
    (folder / "plans.json").write_text("{}")
    assert "has no configuration '3d_fullres'" in said()
    (folder / "plans.json").write_text(plans[:100])
    assert "is no JSON" in said()
    (folder / "fold_0/checkpoint_final.pth").unlink()
    assert "has no fold_0/checkpoint_final.pth" in said()


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.slow("a program for three platforms, and a process that reads it")
def test_an_exported_program_runs_where_there_is_no_fdif(run, tmp_path):
    path, model = run
    export(path, "exported", tmp_path / "net.jaxexport")
    images = np.random.default_rng(1).standard_normal((3, 16, 16, 16, 1), np.float32)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; sys.modules['fdif_jax'] = None\n"
        "import numpy as np\nfrom jax import export\n"
        "network = export.deserialize(open('net.jaxexport', 'rb').read())\n"
        "np.save('logits.npy', network.call(np.load('images.npy')))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    want = np.asarray(nnx.jit(model.__class__.__call__)(model, images))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), want, atol=1e-4 * np.abs(want).max())
    told = json.loads((tmp_path / "net.json").read_text())
    assert told["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert told["patch"] == [16, 16, 16] and told["channels"] == {"MRI": {"kind": "zscore", "nonzero": False}}


@pytest.mark.slow("PyTorch's exporter takes longer than networks do")
def test_an_onnx_model_gives_our_logits(run, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    path, model = run
    export(path, "onnx", tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    for batch in (1, 3):
        images = np.random.default_rng(1).standard_normal((batch, 16, 16, 16, 1), np.float32)
        (logits,) = session.run(None, {"image": np.moveaxis(images, -1, 1)})
        want = np.moveaxis(np.asarray(model(images)), -1, 1)
        np.testing.assert_allclose(logits, want, atol=1e-4 * np.abs(want).max())
    assert json.loads((tmp_path / "net.json").read_text())["mirror_axes"] == [0]


def test_onnx_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = refused(capsys, run[0], "onnx", tmp_path / "net.onnx")
    assert "onnxscript" in said and "'fdif-jax[onnx]'" in said and not (tmp_path / "net.onnx").exists()


# ------------------------------------------------------------------------------------------ MONAI's bundle


def config_parser(folder):
    bundle = pytest.importorskip("monai.bundle")
    parser = bundle.ConfigParser()
    parser.read_config(folder / "configs/inference.json")
    parser["bundle_root"] = str(folder)
    return parser


def assert_same_logits(bundle, model, shape, within=1e-4):
    net = config_parser(bundle).get_parsed_content("network_def").eval()
    net.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    images = np.random.default_rng(3).standard_normal((1, *shape), np.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()
    want = np.moveaxis(np.asarray(nnx.jit(model.__class__.__call__)(model, images)), -1, 1)
    np.testing.assert_allclose(logits, want, atol=within * np.abs(want).max())


@pytest.mark.slow("MONAI, and a network by two libraries")
def test_a_bundle_prepares_scans_as_we_do_and_has_the_network(scan, tmp_path):
    pytest.importorskip("monai")
    from fdif_jax.preprocessing.preparation import prepare
    from fdif_jax.preprocessing.scans import read_image

    channels = ("CT", "T1", "T2", "PET")
    plan = CasePlan((0.8, 1.1, 1.3), (16, 16, 16), (WINDOW, ZScore(nonzero=True), UnitRange(), AsItIs()))
    model = tuned(tmp_path / "run", RESENC | {"in_channels": 4}, plan, channels)
    export(tmp_path / "run", "monai-bundle", tmp_path / "bundle")
    rng = np.random.default_rng(2)
    voxels = rng.normal(50, 90, (20, 18, 16, 4)).astype(np.float32)
    voxels[:2] = voxels[:, 10:, 15] = 0  # an empty border, and some more without values
    path = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(voxels, nib.load(scan / "scan_0000.nii.gz").affine), path)
    parser = config_parser(tmp_path / "bundle")
    parser["dataset_dir"] = str(tmp_path)
    (case,) = parser.get_parsed_content("cases")
    found = parser.get_parsed_content("preprocessing")(case)["image"].numpy()
    want = prepare(read_image("four", [path], load_finetuned(tmp_path / "run", None).conventions), plan)
    d, h, w = want.way.content
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), want.image[d, h, w], atol=1e-4)
    assert_same_logits(tmp_path / "bundle", model, (16, 16, 16, 4))


@pytest.mark.slow("networks of four kinds, by two libraries")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("swin_unetr", {"feature_size": 12, "depths": [1, 1, 1, 1]}),
        ("unetr", {"grid": [32, 32, 64], "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}),
        ("vnet", {}),
        ("primus", {"grid": [32, 32, 64], "embed_dim": 24, "depth": 2, "num_heads": 2}),
    ],
)
def test_a_bundle_has_the_class_and_the_weights_of_each_network(name, size, tmp_path):
    plan = CasePlan((1.0, 1.0, 1.0), (32, 32, 64), (ZScore(),))
    model = tuned(tmp_path / "run", {"name": name, "in_channels": 1, "out_channels": 3, **size}, plan)
    export(tmp_path / "run", "monai-bundle", tmp_path / "bundle")
    # weights this large make much of rounding; tests/models compare the networks more closely
    assert_same_logits(tmp_path / "bundle", model, (32, 32, 64, 1), within=1e-3)
    needed = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["required_packages_version"]
    assert ("dynamic-network-architectures" in needed) == (name == "primus")


# ------------------------------------------------------------------------------------- the programs themselves


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that was fine-tuned for a few steps; a folder of five scans, and our labels of them."""
    folder = tmp_path_factory.mktemp("trained")
    small = ["--steps", 40, "--cases", 6, "--patch", 24, 32, 24, "--mirror-axes", 0, "--val-every", 0]
    options = ["--init", "resenc-tiny", "--out", folder / "run", *small]
    cli.run("finetune", [str(HIPPOCAMPUS), *map(str, options)])
    (folder / "scans").mkdir()
    for case in CASES:
        file = HIPPOCAMPUS / "imagesTr" / f"{case}.nii.gz"
        (folder / "scans" / f"{case}_0000.nii.gz").symlink_to(file)
    return folder, predict(folder / "run", folder / "scans", folder / "ours")


def command(env, *words, cwd=None) -> str:
    done = subprocess.run(list(map(str, words)), env=env, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_agree(found: dict, want: dict):
    assert found.keys() == want.keys() and len(want) == len(CASES)
    for name, labels in want.items():
        assert len(np.unique(labels)) == 3
        assert (found[name] == labels).mean() >= 0.999, name


@pytest.mark.slow("a fine-tuning, and nnU-Net's own command")
@pytest.mark.parametrize("turned", [False, True], ids=["as exported", "as nnU-Net trains"])
def test_nnunet_predicts_what_we_predict(trained, tmp_path, turned):
    pytest.importorskip("nnunetv2")
    folder, _ = trained
    env = nnunet_client.environment(tmp_path)
    export(folder / "run", "nnunet-results", tmp_path / "results")
    model = folder / "run"
    if turned:
        model = results_of(tmp_path / "results")
        turn(model)
    want = predict(model, folder / "scans", tmp_path / "ours", "--windows", "nnunet")
    env["nnUNet_results"] = str(tmp_path / "results")
    dataset = results_of(tmp_path / "results").parent.name
    of = ["-d", dataset, "-p", "fdifPlans", "-c", "3d_fullres", "-f", 0]
    to = ["-i", folder / "scans", "-o", tmp_path / "theirs", "-device", "cpu", "-npp", 1, "-nps", 1]
    command(env, "nnUNetv2_predict", *of, *to)
    theirs = {p.name: np.asarray(nib.load(p).dataobj) for p in (tmp_path / "theirs").glob("*.nii.gz")}
    assert_agree(theirs, want)


@pytest.mark.slow("a fine-tuning, and MONAI's own command")
def test_monai_predicts_what_we_predict(trained, tmp_path):
    for package in ("monai", "ignite", "fire"):
        pytest.importorskip(package)
    folder, want = trained
    assert_agree(by_monai(folder / "run", folder / "scans", tmp_path), want)


def by_monai(run, scans, folder):
    """The labels of scans by the bundle of a run, in MONAI's own command."""
    env = nnunet_client.environment(folder)
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], *filter(None, sys.path)])
    export(run, "monai-bundle", folder / "bundle")
    given = ["--config_file", "configs/inference.json", "--dataset_dir", scans]
    given += ["--output_dir", folder / "theirs"]
    command(env, sys.executable, "-m", "monai.bundle", "run", *given, cwd=folder / "bundle")
    files = (folder / "theirs").glob("*.nii.gz")
    return {p.name.replace("_0000", ""): np.asarray(nib.load(p).dataobj) for p in files}


@pytest.mark.slow("MONAI's own command")
def test_monai_paints_regions_as_we_do(scan, tmp_path):
    """Three regions that overlap, painted with labels that are not in their order."""
    for package in ("monai", "ignite", "fire"):
        pytest.importorskip(package)
    regions = {"regions": [[1, 2, 3], [2, 3], [2]], "painted": [1, 3, 2]}
    plan = CasePlan((0.9, 1.1, 1.0), (16, 16, 16), (ZScore(),))
    classes = ("whole", "core", "middle")
    centred(tmp_path / "run", tuned(tmp_path / "run", plan=plan, classes=classes, regions=regions))
    want = predict(tmp_path / "run", scan, tmp_path / "ours")
    theirs = by_monai(tmp_path / "run", scan, tmp_path)
    assert theirs.keys() == want.keys() == {"scan.nii.gz"}
    assert set(np.unique(want["scan.nii.gz"])) == {0, 1, 2, 3}
    assert (theirs["scan.nii.gz"] == want["scan.nii.gz"]).mean() >= 0.999
    first, second = (
        nib.load(tmp_path / file).affine for file in ("ours/scan.nii.gz", "theirs/scan_0000.nii.gz")
    )
    np.testing.assert_allclose(first, second, atol=1e-5)
