"""nnU-Net's regions from a dataset's list to scores: what is learnt, painted, recorded and told by region."""

import csv
import json

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from fdif_jax.datasets.reader import load_conventions
from fdif_jax.scripts import cli, predict
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import load_run, open_run
from tests.helpers.paths import HIPPOCAMPUS

LABELS = {"background": 0, "whole": [1, 2], "anterior": [1]}
ORDER = [2, 1]
GRID = (9, 8, 10)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def read(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def maps(tmp_path):
    """Two label maps and predictions of them, and the list of a dataset with regions and an ignored label."""
    rng = np.random.default_rng(0)
    for name in "ab":
        label = np.kron(rng.integers(0, 3, (3, 2, 2)), np.ones((3, 4, 5), np.uint8)).astype(np.uint8)
        guess = np.where(rng.random(GRID) < 0.2, 2, label).astype(np.uint8)
        label[:, 0] = 3
        save(tmp_path / f"labelsTr/{name}.nii.gz", label)
        save(tmp_path / f"predicted/{name}.nii.gz", guess)
    document = {"channel_names": {"0": "MRI"}, "labels": LABELS | {"ignore": 3}, "regions_class_order": ORDER}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    return tmp_path


def test_scores_are_those_of_regions(maps, capsys):
    arguments = [maps / "predicted", maps / "labelsTr", "--out", maps / "scores.csv", "--worst", "1"]
    cli.run("evaluate", list(map(str, arguments)))
    rows = list(csv.DictReader((maps / "scores.csv").read_text().splitlines()))
    assert [(row["case"], row["class"]) for row in rows] == [
        (c, n) for c in "ab" for n in ("whole", "anterior")
    ]
    for row in rows:
        label, guess = (read(maps / folder / f"{row['case']}.nii.gz") for folder in ("labelsTr", "predicted"))
        judged = label != 3
        of = [1, 2] if row["class"] == "whole" else [1]
        a, b = (np.isin(array, of) & judged for array in (label, guess))
        assert float(row["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-6)
    assert "whole" in capsys.readouterr().out and (maps / "scores_worst/1.png").is_file()


def test_predictions_are_painted_by_what_a_run_recorded(maps, monkeypatch):
    """In place of a network: two channels of the image are the regions' logits."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(*GRID, 2)).astype(np.float32)
    save(maps / "scans/x.nii.gz", logits)
    conventions = load_conventions(maps)
    plan = {"spacing": [1, 1, 1], "patch": [8, 6, 8], "channels": [{"kind": "none"}] * 2, "order": 1}
    document = {
        "kind": "fine-tuning",
        "network": {"name": "oracle", "in_channels": 2, "out_channels": 2},
        "cases": plan,
        "labels": conventions.to_dict() | {"channel_names": ["a", "b"]},
        "inference": {"overlap": 0.5, "mirror_axes": [0], "weights": "last"},
    }
    with open_run(maps / "run", RunDocument.from_dict(document)):
        pass
    monkeypatch.setattr(
        predict, "load_members", lambda ensemble, which: (lambda _, tiles: tiles, [{"none": jnp.zeros(())}])
    )
    cli.run(
        "predict", ["--model", str(maps / "run"), "--input", str(maps / "scans"), "--out", str(maps / "out")]
    )
    expected = np.where(logits[..., 1] > 0, 1, np.where(logits[..., 0] > 0, 2, 0))
    found = read(maps / "out/x.nii.gz")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow("three trainings of hippocampi")
def test_one_training_of_regions_reaches_two_of_one_class_each(tmp_path, capsys):
    """Whole and anterior hippocampus: a network of two regions is, within a point of Dice, no worse than one for each.

    It had 0.844 and 0.822 where they had 0.839 and 0.812.
    """
    listed = json.loads((HIPPOCAMPUS / "dataset.json").read_text())
    sets = {
        "regions": (LABELS, {0: 0, 1: 1, 2: 2}),
        "whole": ({"background": 0, "whole": 1}, {0: 0, 1: 1, 2: 1}),
    }
    sets["anterior"] = ({"background": 0, "anterior": 1}, {0: 0, 1: 1, 2: 0})
    dice = {}
    for name, (labels, renumbered) in sets.items():
        folder = tmp_path / name
        for entry in listed["training"] + listed["validation"]:
            image, label = (nib.load(HIPPOCAMPUS / entry[key]) for key in ("image", "label"))
            array = np.vectorize(renumbered.get)(np.asarray(label.dataobj)).astype(np.uint8)
            for path, volume in (
                (entry["image"], image),
                (entry["label"], nib.Nifti1Image(array, label.affine)),
            ):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                nib.save(volume, folder / path)
        document = listed | {"labels": labels, "regions_class_order": ORDER}
        (folder / "dataset.json").write_text(json.dumps(document))
        # Small, and with patches drawn wherever the labels are, so that all three see the same.
        network = "--init scratch --size features=[8,16,32] --lr 5e-3 --steps 300 --warmup 30 --ema 0.98"
        patches = "--spacing 2 2 2 --patch 16 24 16 --batch-size 4 --foreground 0 --mirror-axes none"
        options = (
            f"{network} {patches} --rotate 0 --zoom 1 --no-augment --val-every 100 --save-predictions".split()
        )
        cli.run("finetune", [str(folder), "--out", str(tmp_path / "runs" / name), *options])
        dice[name] = json.loads((tmp_path / "runs" / name / "metrics.json").read_text())["dice"]
    print(dice)
    run = tmp_path / "runs/regions"
    assert load_run(run).network["out_channels"] == 2 and list(dice["regions"]) == ["whole", "anterior"]
    arguments = [
        "--model",
        str(run),
        "--input",
        str(tmp_path / "regions/imagesTr"),
        "--out",
        str(tmp_path / "out"),
    ]
    cli.run("predict", arguments)
    for path in (run / "predictions").iterdir():
        np.testing.assert_array_equal(read(path), read(tmp_path / "out" / path.name))
    cli.run(
        "evaluate",
        [
            str(tmp_path / "out"),
            str(tmp_path / "regions/dataset.json"),
            "--out",
            str(tmp_path / "scores.csv"),
        ],
    )
    cli.run("export", [str(run), "--out", str(tmp_path / "weights.safetensors")])
    assert "logits of regions, whole, anterior: a sigmoid each" in capsys.readouterr().out
    for region in ("whole", "anterior"):
        assert dice["regions"][region] > dice[region][region] - 0.01
