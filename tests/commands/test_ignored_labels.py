"""Ignored voxels, in an nnU-Net dataset with an ``ignore`` label and in a MONAI list with -1: no command
takes them for a class."""

import csv
import json

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.datasets.reader import load_dataset
from fdif_jax.scripts import browse, cli
from fdif_jax.scripts.jobs.view_targets import Choice, views_of
from fdif_jax.training.runs import load_run

GRID = (16, 16, 16)
IGNORED = 5 * 16 * 16
SMALL = ["--size", "features=[4,8]", "--steps", "2", "--warmup", "1", "--val-every", "2"]


def volumes(number):
    """An image, and a label map of an organ whose last slices are -1; the image shows the organ there, too."""
    label = np.zeros(GRID, np.int16)
    label[2:14, 3 : 9 + number, 4:12] = 1
    image = 100 * label + np.random.default_rng(number).normal(0, 10, GRID)
    label[11:] = -1
    return image.astype(np.float32), label


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def write_nnunet(root):
    """Two training cases and one for validation; label 2 is ``ignore``."""
    for folder, numbers in (("Dataset007_Made", (0, 1)), ("Dataset008_Made_Val", (2,))):
        for number in numbers:
            image, label = volumes(number)
            save(root / folder / f"imagesTr/case_{number}_0000.nii.gz", image)
            ignored = np.where(label < 0, 2, label).astype(np.uint8)
            save(root / folder / f"labelsTr/case_{number}.nii.gz", ignored)
        labels = {"background": 0, "organ": 1, "ignore": 2}
        document = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(numbers)}
        (root / folder / "dataset.json").write_text(json.dumps(document | {"file_ending": ".nii.gz"}))
    return root / "Dataset007_Made", root / "Dataset007_Made/labelsTr"


def write_monai(root):
    """The same cases as a list; the files hold -1."""
    cases = []
    for number in range(3):
        image, label = volumes(number)
        save(root / f"images/case_{number}.nii.gz", image)
        save(root / f"labelsTr/case_{number}.nii.gz", label)
        cases.append({"image": f"images/case_{number}.nii.gz", "label": f"labelsTr/case_{number}.nii.gz"})
    document = {"labels": {"0": "background", "1": "organ"}, "training": cases[:2], "validation": cases[2:]}
    (root / "dataset.json").write_text(json.dumps(document))
    return root, root / "labelsTr"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("ignored")
    return write_nnunet(root / "raw"), write_monai(root / "list")


def measured(run):
    """What a run measured, but for how fast it was."""
    return [{k: v for k, v in line.items() if k != "volumes_per_second"} for line in load_run(run).history]


@pytest.mark.slow("two trainings; fine-tuning is below")
def test_pretrain_on_files(datasets, tmp_path):
    for (folder, _), run in zip(datasets, "ab", strict=True):
        arguments = ["--data", folder, *SMALL, "--val-samples", "1", "--out", tmp_path / run]
        cli.run("pretrain", list(map(str, arguments)))
        assert load_run(tmp_path / run).network["out_channels"] == 2
        (scores,) = map(json.loads, (tmp_path / run / "classes.jsonl").read_text().splitlines())
        assert set(scores["dice"]) <= {"organ"}
    assert measured(tmp_path / "a") == measured(tmp_path / "b") != []


@pytest.mark.slow("two trainings; losses and scores are in tests/objectives and tests/evaluation")
def test_finetune_predict_and_evaluate(datasets, tmp_path):
    for (folder, labels), name in zip(datasets, "ab", strict=True):
        run, out = tmp_path / name, tmp_path / f"predicted_{name}"
        arguments = [folder, "--init", "scratch", *SMALL, "--patch", *GRID, "--out", run]
        cli.run("finetune", list(map(str, arguments)))
        assert load_run(run).network["out_channels"] == 2
        assert set(json.loads((run / "metrics.json").read_text())["dice"]) == {"organ"}
        images = next(folder.glob("images*"))
        cli.run("predict", ["--model", str(run), "--input", str(images), "--out", str(out)])
        predicted = np.asarray(nib.load(out / "case_0.nii.gz").dataobj)
        assert predicted.dtype == np.uint8 and predicted.max() <= 1

        for number in range(2):  # as labelled, and the organ wherever voxels are ignored
            save(out / f"case_{number}.nii.gz", np.where(volumes(number)[1] == 0, 0, 1).astype(np.uint8))
        (out / "case_2.nii.gz").unlink(missing_ok=True)
        table = tmp_path / f"{name}.csv"
        cli.run("evaluate", [str(out), str(labels), "--out", str(table)])
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert [(row["case"], row["class"], row["dice"]) for row in rows] == [
            (f"case_{number}", "organ", "1") for number in range(2)
        ]
    assert measured(tmp_path / "a") == measured(tmp_path / "b") != []


def test_browse_shows_them_as_ignored(datasets):
    for folder, _ in datasets:
        cases = browse.Cases(load_dataset(folder), "title")
        assert cases.listing()["tasks"] == [{"name": "class", "classes": ("organ",)}]
        described = cases.describe(0)
        organ = int((volumes(0)[1] == 1).sum())
        assert described["labels"] == [[{"id": 1, "name": "organ", "voxels": organ}]]
        assert described["ignored"] == [IGNORED] and "error" not in described
        shown = np.asarray(nib.Nifti1Image.from_bytes(bytes(cases.label(0, 0))).dataobj)
        np.testing.assert_array_equal(shown, volumes(0)[1] == 1)


@pytest.mark.slow("pictures and surfaces of three scans")
def test_view_hatches_them(datasets, tmp_path):
    options = {"seed": 0, "members": None, "grid": fd.Grid(*GRID), "displacement": "none", "mapper": "none"}
    options |= {"vocabulary": (), "catalogue": (), "resolution": 32}
    for folder, _ in datasets:
        (seen,) = views_of(str(folder), Choice(case="case_1", **options))
        assert list(seen.legend) == ["organ"] and len(seen.things) == 1
        np.testing.assert_array_equal(seen.volume[1], volumes(1)[1])
    quick = ["--resolution", "32", "--size", "64", "--out", str(tmp_path)]
    cli.run("view", [str(datasets[0][0]), *quick])
    cli.run("view", [str(datasets[1][1] / "case_0.nii.gz"), *quick])  # a label map that holds -1
    assert "label 1" in (tmp_path / "case_0.html").read_text()
    assert hatched(tmp_path / "case_0_slices.png") > 100


def hatched(path):
    """Pixels of the light grey of stripes on black."""
    rgb = matplotlib.image.imread(path)[..., :3]
    return (abs(rgb - 0.45) < 0.01).all(-1).sum()
