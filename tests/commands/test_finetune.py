"""Fine-tuning: real scans of both layouts, loading pre-trained weights, cross-validation, and bad input."""

import csv
import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from itertools import count, repeat

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
import torch

from fdif_jax import models
from fdif_jax.datasets import reader
from fdif_jax.datasets.reader import list_cases, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.io.volumes import read_volume
from fdif_jax.preprocessing.fingerprints import fingerprint, measure, mirror_axes
from fdif_jax.preprocessing.scan_store import ScanStore
from fdif_jax.preprocessing.scans import read_scan
from fdif_jax.scripts import cli, finetune
from fdif_jax.scripts.jobs import scores
from fdif_jax.training.network import State, weights
from fdif_jax.training.processes import processes_here
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import load_run, open_run
from fdif_jax.weights.state_dicts import to_torch_state_dict
from tests.helpers.formats import write_itk
from tests.helpers.paths import HIPPOCAMPUS

DATA = HIPPOCAMPUS
NETWORK = {"name": "resenc_unet", "in_channels": 1, "features": [4, 8], "dtype": "float32"}


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two training cases and one for validation, in nnU-Net's way of naming labels."""
    root = tmp_path_factory.mktemp("data")
    document = json.loads((DATA / "dataset.json").read_text())
    document["training"], document["validation"] = document["training"][:2], document["validation"][:1]
    document["labels"] = {"background": 0, "Anterior": 1, "Posterior": 2}
    for entry in document["training"] + document["validation"]:
        for path in (entry["image"], entry["label"]):
            (root / path).parent.mkdir(exist_ok=True)
            shutil.copy(DATA / path, root / path)
    (root / "dataset.json").write_text(json.dumps(document))
    return root / "dataset.json"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run directory with a checkpoint of a network of five output channels."""
    path = tmp_path_factory.mktemp("runs") / "pretrained"
    network = {**NETWORK, "out_channels": 5}
    with (
        open_run(path, RunDocument(kind="pretraining", network=network)) as run,
        run.checkpoints() as checkpoints,
    ):
        model = models.create(**network, seed=7)
        checkpoints.save(1, State(weights(model), {"count": jnp.zeros(())}, {}), None)
    return path


def _config(dataset, out, init="scratch", **changes):
    sizes = {"size": ("features=[4,8]",)} if init == "scratch" else {}
    small = {"steps": 4, "patch": (16, 16, 16), "val_every": 2, "seed": 1} | sizes
    return finetune.Config(dataset=dataset, out=out, init=str(init), **small | changes)


@pytest.mark.slow("a training, its evaluation twice, and a prediction")
def test_finetune_from_a_run_loads_all_but_the_head_and_reports_dice(dataset, pretrained, tmp_path, capsys):
    out = tmp_path / "run"
    config = _config(dataset, out, pretrained, save_predictions=True, cases=2, layer_decay=0.5)
    finetune.run(config)
    printed = capsys.readouterr().out
    number = len(weights(models.create(**{**NETWORK, "out_channels": 3})))
    assert f"loaded {number - 2} of {number} tensors; left fresh 2 (decoder.seg_layers.0" in printed
    assert "Anterior" in printed and "mean" in printed
    for reason in ("spacing 1 × 1 × 1 mm: that of all 2 cases", "channel MRI: z-score", "mirrored along"):
        assert reason in printed

    document = json.loads(dataset.read_text())
    case = document["validation"][0]["image"].split("/")[-1].removesuffix(".nii.gz")
    truth = nib.load(dataset.parent / document["validation"][0]["label"])
    saved = nib.load(out / "predictions" / f"{case}.nii.gz")
    np.testing.assert_allclose(saved.affine, truth.affine)
    a, b = np.asarray(saved.dataobj), np.asarray(truth.dataobj)
    expected = [2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum()) for c in (1, 2)]
    metrics = json.loads((out / "metrics.json").read_text())
    np.testing.assert_allclose(list(metrics["dice"].values()), expected, atol=1e-5)
    assert metrics["mean_dice"] == pytest.approx(np.mean(expected), abs=1e-5)
    rows = list(csv.DictReader((out / "dice.csv").open()))
    assert [r["case"] for r in rows] == [case]
    assert float(rows[0]["Posterior"]) == pytest.approx(expected[1], abs=1e-5)
    assert {"curve.png", "prediction.png"} <= {p.name for p in out.iterdir()}
    history = load_run(out).history
    assert [m["step"] for m in history] == [2, 4]

    finetune.run(config)  # finished: only evaluates
    assert load_run(out).history == history and json.loads((out / "metrics.json").read_text()) == metrics
    with pytest.raises(FdifError, match=r"training\.learning_rate is 0\.0001 there and 0\.01 here"):
        finetune.run(_config(dataset, out, pretrained, cases=2, layer_decay=0.5, lr=1e-2))

    cli.run(
        "predict",
        ["--model", str(out), "--input", str(dataset.parent / "imagesTr"), "--out", str(tmp_path / "p")],
    )
    again = nib.load(tmp_path / "p" / f"{case}.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), a)  # what new scans get is what was scored


@pytest.mark.slow("four processes that train")
def test_two_processes_with_divided_weights_equal_one(dataset, tmp_path):
    """And so do two devices of one."""

    def begin(name, *more):
        options = "--init scratch --size features=[4,8] --patch 16 16 16 --steps 4 --val-every 2 --lr 1e-2"
        command = [sys.executable, "-m", "fdif_jax.scripts.finetune", str(dataset), *options.split(), *more]
        return subprocess.Popen(
            [*command, "--out", str(tmp_path / name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    pair = [begin("two", "--distributed", how, "--shard-weights") for how in processes_here(2)]
    for process in (*pair, begin("one"), begin("devices", "--devices", "2")):
        said, _ = process.communicate()
        assert process.returncode == 0, said[-2000:]
    results = []
    for name in ("one", "two", "devices"):
        history = load_run(tmp_path / name).history
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        results.append(([m["loss"] for m in history], metrics["mean_dice"]))
    for losses, dice in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-3)
        assert dice == pytest.approx(results[0][1], abs=0.02)


# -------------------------------------------------------------------------------------------------- real scans


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory):
    """A raw dataset of nnU-Net's: two channels, wide oblique voxels, an ignore label, a class that most cases lack."""
    root = tmp_path_factory.mktemp("nnunet") / "Dataset007_Made"
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    affine = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([-1.0, 2.0, 1.5]), [10, -20, 30]
    )
    for number in range(4):
        label = np.zeros((20, 12, 14), np.uint8)
        label[4:12, 3:8, 4:9] = 1
        label[13:17, 3:8, 4:9] = 2 * (number == 0)
        label[:, :, 12:] = 3
        for channel in range(2):
            image = 100.0 * label + 20 * rng.standard_normal(label.shape)
            nib.save(
                nib.Nifti1Image(image.astype(np.float32), affine),
                root / f"imagesTr/case_{number}_{channel:04d}.nii.gz",
            )
        nib.save(nib.Nifti1Image(label, affine), root / f"labelsTr/case_{number}.nii.gz")
    document = {
        "channel_names": {"0": "CT", "1": "noNorm"},
        "labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(document))
    return root


@pytest.mark.slow("two trainings and their predictions")
def test_folds_on_two_channels_from_a_pytorch_file_with_a_frozen_encoder(two_channels, tmp_path, capsys):
    model = models.create(**NETWORK, out_channels=7, seed=3)
    state = to_torch_state_dict(model)
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "weights.pth")
    config = _config(
        two_channels,
        tmp_path / "folds",
        tmp_path / "weights.pth",
        patch=None,
        steps=6,
        folds=2,
        patience=1,
        val_every=1,
        freeze_encoder=True,
        lr=1e-9,  # so little that no validation is better than the first
        cache=tmp_path / "cache",
    )
    finetune.run(config)
    printed = capsys.readouterr().out
    assert "1 -> 2 input channels: copied / 2" in printed and "left fresh" in printed
    assert "channel CT: clipped to" in printed and "as its name says" in printed
    assert len(list((tmp_path / "cache").iterdir())) == 4  # folds share a plan, and so the cases
    validated = []
    for fold in (0, 1):
        run = load_run(tmp_path / "folds" / f"fold_{fold}")
        validated += run.document.dataset.validation
        assert run.document.cases["spacing"] == pytest.approx([1.0, 2.0, 1.5])
        assert [m["step"] for m in run.history] == [1, 2]  # stopped early
        assert run.document.inference.weights == "best"
        trained = models.create(**run.network)
        run.restore(trained)
        kept = to_torch_state_dict(trained)["encoder.stem.convs.0.conv.weight"]
        first = state["encoder.stem.convs.0.conv.weight"]
        np.testing.assert_array_equal(kept, np.concatenate([first, first], axis=1) / 2)
        dice = json.loads((run.path / "metrics.json").read_text())["dice"]
        assert dice["organ"] is not None
    assert sorted(validated) == [f"case_{n}" for n in range(4)]

    out = tmp_path / "out"
    cli.run(
        "predict", ["--model", str(config.out), "--input", str(two_channels / "imagesTr"), "--out", str(out)]
    )
    assert len(list(out.glob("case_*.nii.gz"))) == 4


@pytest.mark.slow("a network is trained until it has learnt")
def test_ignored_voxels_are_no_error_of_the_network(two_channels, tmp_path):
    """Where nobody labelled, neither the loss nor Dice looks."""
    finetune.run(_config(two_channels, tmp_path / "run", steps=40, lr=3e-2, val_every=40, patch=(16, 12, 12)))
    dice = json.loads((tmp_path / "run" / "metrics.json").read_text())["dice"]
    assert dice["organ"] > 0.8


def test_without_a_list_of_validation_cases_a_part_of_the_training_cases_validates(dataset, tmp_path, capsys):
    document = json.loads(dataset.read_text())
    del document["validation"]
    alone = dataset.with_name("alone.json")
    alone.write_text(json.dumps(document))
    chosen = finetune.choose_cases(_config(alone, tmp_path))
    assert "one in 2 of the training cases validates" in capsys.readouterr().out
    assert len(chosen.training) == len(chosen.validation) == 1
    chosen = finetune.choose_cases(_config(alone, tmp_path, val_every=0))
    assert len(chosen.training) == 2 and not chosen.validation


@pytest.mark.parametrize("folds", [0, 2])
def test_training_scans_are_decoded_once(dataset, tmp_path, folds, monkeypatch):
    """Measured, prepared, and prepared again in every fold; what is validated on is once more compared as it is."""
    decoded = Counter()

    def read_volume(path, **options):
        decoded[path] += 1
        return real(path, **options)

    real = reader.read_volume
    monkeypatch.setattr(reader, "read_volume", read_volume)
    monkeypatch.setattr(finetune, "fit", lambda network, *_, **__: network.weights)
    monkeypatch.setattr(finetune.Referee, "report", lambda *_, **__: None)
    finetune.run(_config(dataset, tmp_path / "run", folds=folds))
    listed = json.loads(dataset.read_text())
    cases = listed["training"] + ([] if folds else listed["validation"])
    assert decoded == {dataset.parent / case[kind]: 1 for case in cases for kind in ("image", "label")}


@pytest.fixture
def patients(tmp_path):
    """A MONAI list of ``patient_k/image.nii.gz`` (or ``.mha``) in five folds, one of no fold, each somewhere else; no
    validation.
    """
    entries = []
    for k in range(6):
        folder, affine = tmp_path / f"patient_{k}", np.diag([1.0, 1, 1, 1])
        folder.mkdir()
        affine[0, 3] = k
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:8] = label[:, 4:9] = 1
        image = label * np.float32(90) + np.random.default_rng(k).normal(0, 9, label.shape).astype(np.float32)
        end = ".mha" if k == 4 else ".nii.gz"
        for name, array in (("image", image), ("label", label)):
            if end == ".mha":
                write_itk(folder / f"{name}.mha", array, affine)
            else:
                nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
        fold = {"fold": k % 5} if k < 5 else {}
        entries.append({kind: f"patient_{k}/{kind}{end}" for kind in ("image", "label")} | fold)
    document = {"labels": {"background": 0, "liver": 1}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    return tmp_path / "dataset.json"


def test_patients_whose_files_have_one_name_keep_every_prediction_and_score(patients, tmp_path, monkeypatch):
    """Predictions are made up: of each case another number of planes of the label is found."""

    def predict_case(network, prepared):
        found[prepared.id] = prepared.way.labels_back(prepared.label)
        found[prepared.id][: len(found)] = 0
        return found[prepared.id]

    found = {}
    listed = json.loads(patients.read_text())
    listed["training"], listed["validation"] = listed["training"][:2], listed["training"][2:]
    patients.write_text(json.dumps(listed))
    monkeypatch.setattr(scores, "predict_case", predict_case)
    monkeypatch.setattr(finetune, "fit", lambda network, *_, **__: network.weights)
    finetune.run(_config(patients, tmp_path / "run", save_predictions=True))
    names = [f"patient_{k}_image" for k in range(2, 6)]
    dice = json.loads((tmp_path / "run/metrics.json").read_text())["cases"]
    assert list(dice) == names and len(set(dice.values())) == 4
    assert [row["case"] for row in csv.DictReader((tmp_path / "run/dice.csv").open())] == names
    for k, name in enumerate(names, 2):
        written = read_volume(tmp_path / f"run/predictions/{name}{'.mha' if k == 4 else '.nii.gz'}")
        np.testing.assert_array_equal(written.array, found[name])
        assert written.affine[0, 3] == k
    assert len(list((tmp_path / "run/predictions").iterdir())) == 4


def test_splits_beside_the_list_are_its_folds(patients, tmp_path, capsys):
    document = json.loads(patients.read_text())
    for number, entry in enumerate(document["training"]):
        entry.pop("fold", None)
        entry["id"] = f"p{number}"
    patients.write_text(json.dumps(document))
    splits = [{"train": ["p0", "p1"], "val": ["p2"]}, {"train": ["p5", "p3"], "val": ["p4", "p0"]}]
    (patients.parent / "splits_final.json").write_text(json.dumps(splits))

    def chosen(**options):
        both = finetune.choose_cases(_config(patients, tmp_path, **options))
        return [[case.id for case in part] for part in (both.training, both.validation)]

    assert [chosen(folds=2, fold=fold) for fold in (0, 1)] == [list(split.values()) for split in splits]
    assert "the 2 cases of the list's fold 1 validate, 3 of no fold never do" in capsys.readouterr().out
    assert chosen() == list(splits[0].values())
    training, validation = chosen(folds=2, fold=1, folds_from="seed")
    assert sorted([*training, *validation]) == [f"p{i}" for i in range(6)]
    with pytest.raises(FdifError, match=r"--folds 5: .* have 2 folds \(0, 1\)"):
        chosen(folds=5)


def test_folds_of_the_list_are_taken_unless_others_are_asked_for(patients, tmp_path, capsys):
    def validated(**options):
        chosen = finetune.choose_cases(_config(patients, tmp_path, **options))
        ids = [{int(case.id.split("_")[1]) for case in part} for part in (chosen.training, chosen.validation)]
        assert ids[0] | ids[1] == set(range(6)) and not ids[0] & ids[1]
        return ids[1], capsys.readouterr().out

    for fold in range(5):
        validation, said = validated(folds=5, fold=fold)
        assert validation == {fold} and "1 of no fold never do; --folds-from seed draws folds instead" in said
    drawn = [validated(folds=3, fold=fold, folds_from="seed")[0] for fold in range(3)]
    assert sorted(k for fold in drawn for k in fold) == list(range(6)) and max(map(len, drawn)) == 2
    assert validated() == (
        {0},
        "no validation cases are listed: those of fold 0 validate; see --folds, --folds-from\n",
    )
    assert "one in 5 of the training cases validates" in validated(folds_from="seed")[1]
    for options, said in (
        ({"folds": 3}, "--folds 3: .* have 5 folds"),
        ({"folds": 5, "fold": 5}, "--fold 5: .* have"),
    ):
        with pytest.raises(FdifError, match=rf"{said}.*\(0, 1, 2, 3, 4\).*--folds-from seed"):
            finetune.run(_config(patients, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_validating_on_training_cases_that_are_not_trained_on(tmp_path):
    config = _config(DATA / "dataset.json", tmp_path, cases=3, val_from="training", val_cases=4)
    chosen = finetune.choose_cases(config)
    listed = {case.id for case in list_cases(DATA)[0]}
    ids = [{case.id for case in cases} for cases in (chosen.training, chosen.validation)]
    assert list(map(len, ids)) == [3, 4] and not ids[0] & ids[1] and ids[0] | ids[1] <= listed


def test_hippocampi_are_mirrored_left_to_right_only():
    """Anterior and posterior are told apart by the other two axes."""
    conventions = load_conventions(DATA)
    scans = (read_scan(case, conventions) for case in list_cases(DATA)[0])
    axes, why = mirror_axes(fingerprint(map(measure, scans, count(), repeat(2)), conventions))
    assert axes == (0,)
    assert "axis 1 (back to front), on which Posterior lies before Anterior" in why


# ------------------------------------------------------------------------------------------------- bad input


def test_labels_may_map_either_way_round(dataset):
    names = ("Anterior", "Posterior")
    assert (
        load_conventions(DATA / "dataset.json").class_names == load_conventions(dataset).class_names == names
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, 'needs "labels"'),
        ({"0": "background", "2": "Posterior"}, "must number the classes"),
        ({"0": "background"}, "must number the classes"),
        (["background", "Anterior"], 'needs "labels"'),
    ],
)
def test_labels_that_number_no_classes_are_refused(tmp_path, labels, message):
    (tmp_path / "d.json").write_text(json.dumps({"training": [], "labels": labels}))
    with pytest.raises(FdifError, match=message):
        load_conventions(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": 9}, "--cases 9: there are 2 training cases"),
        ({"val_cases": 2}, "--val-cases 2: there are 1 validation cases"),
        ({"cases": -1}, "--cases must be 0"),
        ({"steps": -1}, "--steps must be 0 or more"),
        ({"patch": (16, 16, 15)}, "multiples of"),
        ({"patch": (0, 16, 16)}, "--patch must be"),
        ({"window": (5.0, 5.0)}, "--window must be"),
        ({"spacing": (0.0, 1.0, 1.0)}, "spacing must be three numbers of 1e-06 to 100 millimetres"),
        ({"mirror_axes": (0, 3)}, "--mirror-axes must be"),
        ({"overlap": 1.0}, "--overlap must be"),
        ({"rotate": -1.0}, "--rotate must be"),
        ({"zoom": 0.5}, "--zoom must be"),
        ({"foreground": 1.5}, "--foreground must be"),
        ({"layer_decay": 0.0}, "--layer-decay must be"),
        ({"freeze_encoder": True}, "random weights"),
        ({"patience": 2, "val_every": 0}, "--patience counts validations"),
        ({"fold": 1}, "of how many"),
        ({"folds": 3}, "3 folds of 2 cases"),
        ({"folds": 2, "fold": 2}, "fold 2 of 2"),
        ({"val_from": "training", "val_cases": 2}, "cannot be had of 2"),
        ({"init": "nowhere"}, "unknown --init 'nowhere'; known: FILE, RUN_DIR"),
        ({"init": "nowhere.pth"}, "nowhere.pth: no such file"),
        ({"val_every": -1}, "--val-every must be 0 or more"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(dataset, tmp_path, changes, message):
    with pytest.raises(FdifError, match=message):
        finetune.run(_config(dataset, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_sizes_that_contradict_the_run_are_refused(dataset, pretrained, tmp_path):
    for changes, option in [
        ({"size": ("features=[4,16]",)}, "--size features"),
        ({"size": ("small",)}, "--size small"),
        ({"network": "vnet"}, "--network"),
        ({"dtype": "bfloat16"}, "--dtype"),
    ]:
        with pytest.raises(FdifError, match=f"{option} contradicts .*pretrained, whose network is"):
            finetune.run(_config(dataset, tmp_path / "run", pretrained, **changes))
    assert not (tmp_path / "run").exists()


def _rewritten(path, change, affine=None):
    image = nib.load(path)
    array = change(np.asarray(image.dataobj).copy())
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def _in_microns(path):
    image = nib.load(path)
    image.header.set_xyzt_units("micron")
    nib.save(image, path)


def _with_nan(array):
    array = array.astype(np.float32)
    array[1, 2, 3] = np.nan
    return array


def _zero_spacing(image, label):
    raw = nib.load(image)
    header = raw.header.copy()
    header["pixdim"][2] = 0
    header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), 1)
    header.set_qform(None, 0)
    contents = bytearray(nib.Nifti1Image(np.asarray(raw.dataobj), None, header).to_bytes())
    image.unlink()
    image.write_bytes(gzip.compress(bytes(contents)))


BAD = {
    "no image": (lambda image, label: image.unlink(), "no such file"),
    "no label": (lambda image, label: label.unlink(), "no such file"),
    "truncated": (lambda image, label: image.write_bytes(image.read_bytes()[:2000]), "truncated|damaged"),
    "undeclared": (
        lambda image, label: _rewritten(label, lambda a: a * 3),
        "holds label [36], which its dataset",
    ),
    "shape": (lambda image, label: _rewritten(label, lambda a: a[1:]), "but .* has"),
    "affine": (lambda image, label: _rewritten(label, lambda a: a, np.diag([1, 1, 2, 1])), "its affine lays"),
    "nan": (lambda image, label: _rewritten(image, _with_nan), "NaN|finite"),
    "ignored": (
        lambda image, label: _rewritten(label, lambda a: np.full_like(a, -1, np.int16)),
        "ignores every voxel",
    ),
    "beyond float32": (
        lambda image, label: _rewritten(image, lambda a: np.where(a == a.max(), -1.7e308, a)),
        "absurd voxels: -1.7e",
    ),
    "microns": (
        lambda *paths: [_in_microns(path) for path in paths],
        "more than 100 times as coarse or as fine",
    ),
    "2D": (lambda image, label: _rewritten(image, lambda a: a[:, :, 0]), "axes|2 voxels"),
    "one voxel": (lambda image, label: _rewritten(image, lambda a: a[:1, :1, :1]), "at least 2 voxels|has"),
    "zero spacing": (_zero_spacing, "spacing|affine|invert"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_case_is_one_line_that_names_its_file_and_the_others_go_on(dataset, tmp_path, fault, capsys):
    damage, message = BAD[fault]
    root = tmp_path / "data"
    shutil.copytree(dataset.parent, root)
    document = json.loads((root / "dataset.json").read_text())
    damage(*(root / document["training"][0][key] for key in ("image", "label")))
    bad = document["training"][0]["image"].split("/")[-1].removesuffix(".nii.gz")
    with pytest.raises(FdifError, match=rf"{bad}.*({message})"):
        finetune.run(_config(root, tmp_path / "run"))
    assert not (tmp_path / "run").exists()

    config = _config(root, tmp_path / "run", skip_bad=True)
    chosen = finetune.choose_cases(config)
    with ScanStore(chosen.conventions) as scans:
        plan, _, chosen = finetune.plan_for(config, chosen, (2, 2, 2), None, scans)
        trained_on, _, chosen = finetune.read_prepared(config, chosen, plan, scans)
    assert len(trained_on) == 1 and chosen.skipped == (bad,)
    told = capsys.readouterr().err.replace("\n", "")
    assert f"skipped: {root}" in told or f"skipped: case {bad}: spacing" in told


def test_a_class_that_no_training_case_shows_is_said(dataset, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(dataset.parent, root)
    document = json.loads((root / "dataset.json").read_text())
    for case in document["training"]:
        _rewritten(root / case["label"], lambda a: np.where(a == 2, 0, a).astype(np.uint8))
    config = _config(root, tmp_path / "run")
    chosen = finetune.choose_cases(config)
    with ScanStore(chosen.conventions) as scans:
        finetune.plan_for(config, chosen, (2, 2, 2), None, scans)
    name = chosen.conventions.class_names[1]
    assert f"no training case shows {name}: nothing can be learnt of that" in capsys.readouterr().out


@pytest.mark.slow("two trainings")
@pytest.mark.parametrize("cases", [0, 1])
def test_healthy_scans_are_trained_and_validated_on(dataset, tmp_path, cases):
    """All of them, or the only one that is drawn; a validation case, too, which is found to be healthy or is not."""
    root = tmp_path / "data"
    shutil.copytree(dataset.parent, root)
    document = json.loads((root / "dataset.json").read_text())
    healthy = [*document["training"][: 2 * cases or 1], *document["validation"]]
    for case in healthy:
        _rewritten(root / case["label"], lambda a: np.zeros_like(a, np.uint8))
    config = _config(root, tmp_path / "run", cases=cases, steps=2, val_every=1)
    finetune.run(config)
    history = load_run(config.out).history
    assert all(np.isfinite(m["loss"]) for m in history) and "score" in history[-1]
    metrics = json.loads((config.out / "metrics.json").read_text())
    (found,) = metrics["cases"].values()
    assert found in (None, 0.0) and metrics["mean_dice"] == found


def test_no_good_case_is_an_error(dataset, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(dataset.parent, root)
    for label in (root / "labelsTr").iterdir():
        label.write_bytes(b"no volume")
    with pytest.raises(FdifError, match="none of 2 cases is good"):
        finetune.run(_config(root, tmp_path / "run", skip_bad=True))
    assert not (tmp_path / "run").exists()
