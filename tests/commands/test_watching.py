"""Watching: TensorBoard's points are the history's, files of a resumed run are those of one that never stopped."""

import json
import struct
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fdif_jax.evaluation.evaluator import Evaluation, Example
from fdif_jax.scripts.console import watching
from fdif_jax.scripts.console.watching import TrainingBar, Watch, write_curve, write_example
from fdif_jax.tasks import Task
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run

TASKS = (Task("class", ("dark", "bright")),)
DOCUMENT = RunDocument(kind="test", network={"name": "tiny", "out_channels": 3}, training={"steps": 30})
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 129, (6, 7, 8)).astype(np.uint8)
LABEL = (IMAGE > 100).astype(np.uint8) + (IMAGE > 60)


def points(folder):
    """TensorBoard's rule: what was told from the step on at which a session starts is forgotten."""
    told = []
    for path in sorted(Path(folder).iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.session_log.status == SessionLog.START:
                told = [point for point in told if point[0] < event.step]
            told += [(event.step, v.tag, pytest.approx(v.simple_value)) for v in event.summary.value]
    return told


def evaluation(step):
    dice = {"dark": step / 100, "bright": 0.5}
    return Evaluation({"score": 0.5, "dice": 0.5}, {"dice": dice}, Example(IMAGE, LABEL[None], LABEL[None]))


def train(path, start, stop, *, forget=None):
    """What `fit` does from ``start`` to ``stop``: every step reported, every fifth recorded, every tenth evaluated."""
    with open_run(path, DOCUMENT) as run:
        run._forget_after(start if forget is None else forget)
        with Watch(run, 30, TASKS) as watch:
            for step in range(start + 1, stop + 1):
                measured = {"loss": 1 / step}
                if step % 10 == 0:
                    measured |= watch.evaluation(step, evaluation(step))
                if step % 5 == 0:
                    run.record(step=step, **measured, learning_rate=0.1)
                watch.show(step, measured)
        return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(run):
    return [(m["step"], name, value) for m in run.history for name, value in m.items() if name != "step"]


def test_tensorboard_holds_the_recorded_measurements(tmp_path):
    run = train(tmp_path, 0, 20)
    assert points(tmp_path / "tensorboard") == recorded(run)
    assert {name for _, name, _ in recorded(run)} == {"loss", "learning_rate", "dice", "score"}


@pytest.mark.slow("a training more")
def test_a_resumed_run_has_nothing_twice(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run = train(whole, 0, 30)
    train(parts, 0, 23)  # then killed, the newest checkpoint being of step 12
    with open(parts / "classes.jsonl", "a") as file:
        file.write('{"step": 3')
    train(parts, 12, 22)
    train(parts, 22, 30)
    assert points(parts / "tensorboard") == recorded(run)
    assert (parts / "classes.jsonl").read_text() == (whole / "classes.jsonl").read_text()
    assert len(list((parts / "tensorboard").iterdir())) == 3
    wanted = [{"step": s, "dice": {"dark": s / 100, "bright": 0.5}} for s in (10, 20, 30)]
    assert lines(whole / "classes.jsonl") == wanted


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    train(tmp_path, 0, 12)
    run = train(tmp_path, 0, 10)
    assert points(tmp_path / "tensorboard") == recorded(run)
    assert [line["step"] for line in lines(tmp_path / "classes.jsonl")] == [10]


def test_pictures_of_every_evaluation_and_the_curve(tmp_path):
    train(tmp_path, 0, 20)
    pictures = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert pictures == ["step_000010.png", "step_000020.png"]
    assert (tmp_path / "prediction.png").read_bytes() == (tmp_path / "pictures" / pictures[1]).read_bytes()
    widths = matplotlib.image.imread(tmp_path / "curve.png").shape[1]
    assert widths >= 1800  # loss, score and learning rate


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, monkeypatch, capsys):
    with open_run(tmp_path, DOCUMENT) as run:
        before = set(tmp_path.iterdir())
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with Watch(run, 30, TASKS) as watch:
            assert watch.evaluation(10, evaluation(10)) == {"score": 0.5, "dice": 0.5}
            run.history.append({"step": 10, "loss": 1.0, "score": 0.5})
            watch.show(10, {"loss": 1.0})
        assert set(tmp_path.iterdir()) == before
    assert capsys.readouterr().err == ""


def test_a_picture_a_task_and_classes_in_words(tmp_path):
    tasks = (*TASKS, Task("any", ("object",)))
    maps = np.stack([LABEL, (LABEL > 0).astype(np.uint8)])
    paths = write_example(Example(IMAGE, maps, maps), tasks, tmp_path / "step_000001.png")
    assert [p.name for p in paths] == ["step_000001_class.png", "step_000001_any.png"]
    assert paths[0].read_bytes() != paths[1].read_bytes()
    drawn = [
        write_example(Example(IMAGE, np.array([0, 0]), np.array([p, 0])), tasks, tmp_path / f"{p}.png")[0]
        for p in (0, 1)
    ]
    assert drawn[0].read_bytes() != drawn[1].read_bytes()  # another class is predicted
    heights = [matplotlib.image.imread(path).shape[0] for path in (drawn[0], paths[0])]
    assert heights[0] < heights[1] / 2  # the image alone


def test_pictures_of_a_finetuned_network(tmp_path):
    with open_run(tmp_path, DOCUMENT) as run:
        run.record(step=10, loss=0.5, dice=0.2)
        example = Example(IMAGE, LABEL[None], LABEL[None])
        paths = [write_curve(run), *write_example(example, TASKS[:1], tmp_path / "prediction.png")]
    assert [path.name for path in paths] == ["curve.png", "prediction.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


class Device:
    def __init__(self, told):
        self.memory_stats = lambda: told


@pytest.mark.parametrize(
    ("told", "shown"),
    [([{"peak_bytes_in_use": 3 * 2**30}, {"peak_bytes_in_use": 2**30}], "3.0 GiB"), ([None], None)],
)
def test_the_bar_shows_measurements_memory_and_time_left(told, shown, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(watching.jax, "local_devices", lambda: [Device(t) for t in told])
    with TrainingBar(20) as bar:
        bar.show(10, {"loss": 1.25, "dice": 0.5, "volumes_per_second": 2.0})
        bar.show(11, {"loss": 1.125})
        task = bar._progress.tasks[0]
        assert (
            task.completed == 11 and task.speed is None
        )  # ten steps of an earlier session were not done just now
    text = capsys.readouterr().err
    assert all(part in text for part in ("11/20", "loss 1.125", "Dice 0.500", "2 vol/s", shown or " GiB"))
    if shown is None:
        assert " 0.0 GiB" not in text  # of the process
