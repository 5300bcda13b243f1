"""`fdif runs`: what it finds, what it says of good and of damaged runs, and the picture of their curves."""

import json

import matplotlib.image
import pytest

from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli, runs

NETWORK = {"name": "resenc_unet", "in_channels": 1, "out_channels": 3, "preset": "tiny", "dtype": "float32"}
RECIPE = {"kind": "scenes", "vocabulary": ["fdif_jax.shapes:published"], "grid": [8, 9, 10]}


def write_run(path, *, measurements=(), rate=1e-4, tail="", **document):
    path.mkdir(parents=True)
    training = {"steps": 30, "learning_rate": rate, "batch_size": 2}
    document = {"kind": "pretraining", "network": NETWORK, "recipe": RECIPE, "training": training} | document
    (path / "run.json").write_text(json.dumps(document))
    (path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in measurements) + tail)
    return path


def measurements(loss, dice):
    return [
        {"step": 10, "loss": 2 * loss, "volumes_per_second": 1.0},
        {"step": 20, "loss": loss, "volumes_per_second": 3.0, "dice": dice, "nsd": dice / 2, "score": dice},
        {
            "step": 25,
            "loss": 1.5 * loss,
            "volumes_per_second": 4.0,
            "dice": dice / 2,
            "nsd": 0.05,
            "score": 0.1,
        },
    ]


@pytest.fixture
def folder(tmp_path):
    """Three runs; in two of them only the learning rate differs."""
    root = tmp_path / "runs"
    write_run(root / "a" / "slow", measurements=measurements(0.5, 0.6), command="x", versions={"jax": "1"})
    write_run(root / "a" / "fast", measurements=measurements(0.4, 0.8), rate=1e-3, command="y")
    swin = {"name": "swin_unetr", "in_channels": 1, "outputs": [5], "feature_size": 24, "dtype": "float32"}
    accuracy = [{"step": 30, "loss": 0.7, "accuracy": 0.25, "score": 0.25, "volumes_per_second": 2.0}]
    write_run(root / "b", measurements=accuracy, network=swin, tail='{"step": 3')
    (root / "b" / "checkpoints" / "30").mkdir(parents=True)
    (root / "b" / "checkpoints" / "30" / "run.json").write_text("no run")
    return root


def show(capsys, *arguments):
    cli.run("runs", [str(a) for a in arguments])
    return capsys.readouterr().out


def row(text, name):
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.run("runs", [str(a) for a in arguments])
    error = capsys.readouterr().err
    assert left.value.code == 2 and error.count("\n") == 1 and "Traceback" not in error
    return error


def test_a_row_a_run(folder, capsys):
    text = show(capsys, folder)
    assert row(text, "a/slow") == ["a/slow", "resenc_unet", "tiny", "25/30", "0.75", "0.600", "0.300", "3"]
    assert row(text, "b")[:4] == ["b", "swin_unetr", "feature_size=24", "30/30"]
    assert row(text, "b")[4:] == ["0.7", "0.250", "2"]
    assert "all runs: pretraining, published 8×9×10" in text
    differing = text.partition("differ:")[2]
    assert row(differing, "a/slow") == ["a/slow", "learning_rate=0.0001"]
    assert row(differing, "a/fast") == ["a/fast", "learning_rate=0.001"]
    assert "damaged" not in text  # half a line at the end is one that is being written


@pytest.mark.parametrize(
    ("column", "first"),
    [
        ("name", "a/fast"),
        ("dice", "a/fast"),
        ("step", "b"),
        ("loss", "a/fast"),
        ("accuracy", "b"),
        ("speed", "a/fast"),
    ],
)
def test_rows_are_sorted_best_first(folder, capsys, column, first):
    text = show(capsys, folder, "--sort", column).partition("differ:")[0]
    names = [line.split()[0] for line in text.splitlines() if line.split()[:1] and "/30" in line]
    assert len(names) == 3 and names[0] == first
    assert column not in ("dice", "nsd") or names[-1] == "b"  # it has none


def test_the_picture_and_the_table_as_files(folder, capsys, tmp_path):
    picture, table = tmp_path / "runs.png", tmp_path / "runs.json"
    text = show(capsys, folder, "--out", picture, "--json", table)
    assert str(picture) in text and str(table) in text
    rows = {entry["name"]: entry for entry in json.loads(table.read_text())}
    assert rows["a/fast"]["dice"] == 0.8 and rows["a/fast"]["loss"] == pytest.approx(0.6)
    assert rows["a/fast"]["settings"]["training.learning_rate"] == 1e-3
    assert rows["b"]["accuracy"] == 0.25 and rows["b"]["dice"] is None and rows["b"]["steps"] == 30
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[1] > 1000  # loss and score
    show(capsys, folder / "b", "--out", tmp_path / "one.png")
    other = matplotlib.image.imread(tmp_path / "one.png")
    assert other.shape != pixels.shape or (other != pixels).any()


def test_names_are_from_the_given_folder_or_say_which(folder, capsys, monkeypatch):
    assert row(show(capsys, folder / "a"), "fast")
    monkeypatch.chdir(folder)
    assert row(show(capsys), "a/fast") and row(show(capsys, "a/fast", "b", "a"), "a/slow")
    assert show(capsys, "a", "a/fast").count("fast") == show(capsys, "a").count("fast")  # once


def test_damaged_runs_among_others_are_said_to_be(folder, capsys):
    write_run(folder / "half", measurements=measurements(1, 0.1), tail='{"step"\n{"step": 40, "loss": 1}\n')
    write_run(folder / "words", measurements=[{"step": 1, "loss": "low"}])
    write_run(folder / "list", recipe={"parts": [3]})
    (folder / "json").mkdir()
    (folder / "json" / "run.json").write_text("{")
    text = show(capsys, folder)
    said = " ".join(text.split())
    for name, reason in {
        "half": "metrics.jsonl: line 4 is damaged",
        "words": "metrics.jsonl: line 1 is damaged",
        "list": "run.json is not as a run's",
        "json": "run.json is damaged",
    }.items():
        assert row(text, name)[:2] == [name, "damaged"]
        assert f"damaged: {folder / name / reason}" in said
    assert row(text, "a/slow")[-1] == "3"


def test_runs_that_measured_nothing_yet(tmp_path, capsys):
    write_run(tmp_path / "new")
    (tmp_path / "new" / "metrics.jsonl").unlink()
    source = {"source": {"file": "model.pth", "sha256": "0"}, "recipe": None, "training": {}}
    write_run(tmp_path / "taken", kind="imported", **source)
    text = show(capsys, tmp_path)
    assert row(text, "taken") == ["taken", "imported", "model.pth"]
    assert row(text, "new") == ["new", "pretraining", "published", "8×9×10"]
    assert "measured anything" in refused(capsys, tmp_path, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_nothing_to_list_is_one_line(tmp_path, capsys):
    assert "no run (run.json) in" in refused(capsys, tmp_path)
    assert "is not a folder" in refused(capsys, tmp_path / "nowhere")
    write_run(tmp_path / "a", tail="]\n")
    write_run(tmp_path / "b", tail="{}\n")
    assert "line 1 is damaged" in (error := refused(capsys, tmp_path)) and "1 more damaged" in error


def test_a_mixture_and_a_dataset_in_words(tmp_path):
    parts = [{"recipe": {"vocabulary": [v], "grid": [4, 4, 4]}} for v in ("x.y:shapes", "banks/torso.npz")]
    write_run(tmp_path / "m", recipe={"kind": "mixture", "parts": parts, "grid": [4, 4, 4]})
    write_run(tmp_path / "d", recipe=None, dataset={"list": "/data/Task04/dataset.json"})
    (name, path), other = runs.find([tmp_path])
    assert runs.read(name, path).data == "Task04/dataset.json"
    assert runs.read(*other).data == "shapes + torso.npz 4×4×4"
    with pytest.raises(FdifError, match="not a folder"):
        runs.find([tmp_path / "d" / "run.json"])
