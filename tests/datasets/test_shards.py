"""Shards end in one dataset, the one that a single call writes, whoever wrote them, wherever and in what order."""

import inspect
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from fdif_jax.datasets import writer
from fdif_jax.datasets.layouts import DatasetPlan, MonaiLayout, NnunetLayout
from fdif_jax.datasets.writer import Report, write_dataset
from fdif_jax.errors import FdifError
from fdif_jax.scripts.generate import _summary
from tests.helpers.trees import tree

GRID = (6, 7, 8)
PLAN = DatasetPlan({"max_objects": 5}, "abc", 3, 7, 3, GRID, {"class": ("ball", "cube")}, MonaiLayout())


def draw(index):
    rng = np.random.default_rng(index)
    return rng.integers(0, 129, GRID).astype(np.uint8), rng.integers(0, 3, GRID).astype(np.uint8)


def source(indices):
    return [draw(i) for i in indices]


def never(indices):
    raise AssertionError("nothing was to be drawn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What one call without shards leaves."""
    out = tmp_path_factory.mktemp("whole")
    write_dataset(out, source, PLAN)
    return tree(out)


CHILD = f"""
import sys, time
import numpy as np
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.datasets.layouts import MonaiLayout, DatasetPlan
GRID = {GRID}
{inspect.getsource(draw)}
def slow(indices):
    for i in indices:
        time.sleep(float(sys.argv[3]))
        yield draw(i)
print(write_dataset(sys.argv[1], slow, {PLAN}, shard=(int(sys.argv[2]), 2)), flush=True)
"""


def start(out, number, seconds):
    command = [sys.executable, "-c", CHILD, str(out), str(number), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_at_once(write, count):
    threads = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow("processes that compile")
def test_two_processes_at_once_and_one_that_is_killed(tmp_path, finished):
    journal = tmp_path / "journal-1-of-2.jsonl"
    children = [start(tmp_path, 0, 0), start(tmp_path, 1, 0.2)]
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1)
    children[1].send_signal(signal.SIGKILL)
    said, error = children[0].communicate(timeout=60)
    assert children[1].wait() == -signal.SIGKILL and "complete=False" in said and "missing=(" in said, error
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(FdifError, match="seed is 3 there and 4 here"):
        write_dataset(tmp_path, source, replace(PLAN, seed=4), shard=(1, 2))
    children = [start(tmp_path, 1, 0.05), start(tmp_path, 0, 0)]
    outputs = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert any("complete=True" in said for said, _ in outputs), outputs
    assert tree(tmp_path) == finished


def test_one_after_another(tmp_path, finished):
    reports = [write_dataset(tmp_path, source, PLAN, shard=(i, 3)) for i in (1, 0, 2)]
    assert reports == [
        Report(3, 0, False, (0, 2, 3, 5, 6, 8, 9)),
        Report(4, 0, False, (2, 5, 8)),
        Report(3, 0, True),
    ]
    assert tree(tmp_path) == finished
    for shard in ((0, 3), (1, 2), None):  # whatever is asked for of a finished one, it is there
        assert write_dataset(tmp_path, never, PLAN, shard=shard).complete
    assert tree(tmp_path) == finished


def test_two_that_end_at_once_finish_it_once(tmp_path, finished, monkeypatch):
    for i in range(2):
        write_dataset(tmp_path / str(i), source, PLAN, shard=(i, 2))
        shutil.copytree(tmp_path / str(i), tmp_path / "set", dirs_exist_ok=True)
    real, calls, reports = writer._finish, [], []

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.2)
        real(*arguments)

    monkeypatch.setattr(writer, "_finish", slow)
    run_at_once(lambda i: reports.append(write_dataset(tmp_path / "set", never, PLAN, shard=(i, 2))), 2)
    assert len(calls) == 1 and reports == [Report(0, 5, True)] * 2
    assert tree(tmp_path / "set") == finished


def test_many_at_once(tmp_path, finished):
    reports = {}

    def write(number):
        reports[number] = write_dataset(tmp_path, source, PLAN, shard=(number, 5))

    run_at_once(write, 5)
    assert sum(report.written for report in reports.values()) == 10
    assert any(report.complete for report in reports.values())
    assert tree(tmp_path) == finished


@pytest.mark.parametrize("layout", [MonaiLayout(), NnunetLayout(7, "Balls", "none")], ids=["monai", "nnunet"])
def test_written_elsewhere_and_copied_together(layout, tmp_path):
    plan = replace(PLAN, layout=layout)
    write_dataset(tmp_path / "whole", source, plan)
    for i in range(2):
        assert not write_dataset(tmp_path / str(i), source, plan, shard=(i, 2)).complete
        shutil.copytree(tmp_path / str(i), tmp_path / "together", dirs_exist_ok=True)
    assert write_dataset(tmp_path / "together", never, plan, shard=(0, 2)) == Report(0, 5, True)
    assert tree(tmp_path / "together") == tree(tmp_path / "whole")


def test_what_was_damaged_on_the_way_is_found_and_written_again(tmp_path, finished):
    for i in range(2):
        write_dataset(tmp_path / str(i), source, PLAN, shard=(i, 2))
        shutil.copytree(tmp_path / str(i), tmp_path / "set", dirs_exist_ok=True)
    damaged = tmp_path / "set/data/image/batch_0000/sample_00003_x.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    report = write_dataset(tmp_path / "set", never, PLAN, shard=(0, 2))
    assert report == Report(0, 5, False, (3,)) and not (tmp_path / "set/manifest.json").exists()
    assert write_dataset(tmp_path / "set", source, PLAN, shard=(1, 2)) == Report(1, 4, True)
    assert tree(tmp_path / "set") == finished
    shutil.rmtree(tmp_path / "set")
    for i in range(2):
        shutil.copytree(tmp_path / str(i), tmp_path / "set", dirs_exist_ok=True)
    damaged.unlink()
    assert write_dataset(tmp_path / "set", source, PLAN) == Report(1, 9, True)
    assert tree(tmp_path / "set") == finished


@pytest.mark.parametrize(
    ("change", "shard", "words"),
    [
        ({"recipe": {"max_objects": 6}, "digest": "abd"}, (1, 2), "recipe.max_objects is 5 there and 6 here"),
        ({"digest": "abd"}, (1, 2), 'digest is "abc" there and "abd" here'),
        ({"seed": 4}, (1, 2), "seed is 3 there and 4 here"),
        ({"num_samples": 8}, (0, 2), "num_samples is 7 there and 8 here"),
        ({}, (1, 3), r"holds a shard of 2 \(journal-0-of-2.jsonl\), this is one of 3"),
    ],
)
def test_a_shard_of_another_set_is_refused(change, shard, words, tmp_path):
    write_dataset(tmp_path, source, PLAN, shard=(0, 2))
    before = tree(tmp_path)
    with pytest.raises(FdifError, match=words) as error:
        write_dataset(tmp_path, never, replace(PLAN, **change), shard=shard)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert tree(tmp_path) == before


def test_shards_that_do_not_belong_together_are_refused_when_copied_together(tmp_path, monkeypatch):
    write_dataset(tmp_path / "a", source, PLAN, shard=(0, 2))
    made_with = writer.made_with()
    with monkeypatch.context() as patch:
        patch.setattr(writer, "made_with", lambda: made_with | {"jax": "99"})
        write_dataset(tmp_path / "b", source, PLAN, shard=(1, 2))
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    for shard in ((0, 2), None):
        with pytest.raises(FdifError, match=r'made_with\.jax is "99" there'):
            write_dataset(tmp_path / "a", never, PLAN, shard=shard)
    write_dataset(tmp_path / "c", source, PLAN, shard=(1, 3))
    (tmp_path / "a/journal-1-of-2.jsonl").unlink()
    shutil.copytree(tmp_path / "c", tmp_path / "a", dirs_exist_ok=True)
    with pytest.raises(FdifError, match="holds a shard of 3"):
        write_dataset(tmp_path / "a", never, PLAN, shard=(0, 2))
    assert write_dataset(tmp_path / "a", source, PLAN) == Report(3, 7, True)  # 3, 5, 9: of neither


def test_a_kill_while_finishing_leaves_a_finished_set_or_one_to_finish(tmp_path, finished, monkeypatch):
    write_dataset(tmp_path, source, PLAN, shard=(0, 2))
    real = writer._write

    def killed(path, data):
        if path.name == "data.json":
            raise KeyboardInterrupt
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path, source, PLAN, shard=(1, 2))
    (tmp_path / ".turn").touch()  # as a kill leaves it
    assert write_dataset(tmp_path, never, PLAN, shard=(0, 2)).complete
    assert tree(tmp_path) == finished


def test_lost_files_of_a_finished_set_are_written_by_their_shard(tmp_path, finished):
    write_dataset(tmp_path, source, PLAN)
    for index in (2, 5):
        (tmp_path / f"data/image/batch_0000/sample_{index:05d}_x.nii.gz").unlink()
    assert write_dataset(tmp_path, source, PLAN, shard=(0, 2)) == Report(1, 4, False, (5,))
    assert json.loads((tmp_path / "journal.jsonl").read_bytes().splitlines()[0])["seed"] == 3
    assert write_dataset(tmp_path, source, PLAN, shard=(1, 2)) == Report(1, 4, True)
    assert tree(tmp_path) == finished


def test_the_command_names_what_is_missing(tmp_path):
    report = write_dataset(tmp_path, source, PLAN, shard=(1, 3))
    said = _summary(report, tmp_path, PLAN, "1/3", 2.0)
    assert f"shard 1/3 of {tmp_path} is done; samples missing: 4 of shard 0/3, 3 of shard 2/3" in said
    assert "(the first: data/image/batch_0000/sample_00000_x.nii.gz)" in said


def test_a_shard_that_two_tasks_were_given_is_refused_to_the_second(tmp_path, finished):
    def meanwhile(indices):
        with pytest.raises(FdifError, match=r"another process is writing here \(journal-0-of-2.jsonl\)"):
            write_dataset(tmp_path, never, PLAN, shard=(0, 2))
        return source(indices)

    assert not write_dataset(tmp_path, meanwhile, PLAN, shard=(0, 2)).complete
    assert write_dataset(tmp_path, source, PLAN, shard=(1, 2)).complete
    assert tree(tmp_path) == finished


def test_where_files_cannot_be_locked_two_tasks_of_a_shard_leave_what_one_leaves(
    tmp_path, finished, monkeypatch
):
    monkeypatch.setattr(writer, "hold", lambda file, **_: True)

    def slow(indices):
        time.sleep(0.02)
        return source(indices)

    run_at_once(lambda number: write_dataset(tmp_path, slow, PLAN, shard=(number % 2, 2)), 4)
    for number in range(2):  # as one of them may have been told that the other's files are gone
        write_dataset(tmp_path, source, PLAN, shard=(number, 2))
    assert tree(tmp_path) == finished
