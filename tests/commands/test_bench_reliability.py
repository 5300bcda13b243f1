"""`fdif bench reliability`: nothing it makes does harm, and harm that is done is found."""

import json
import random
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest

from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks.reliability import disk, formats, fuzzing, hostile, memory, mutation, server
from fdif_jax.scripts.benchmarks.reliability.commands import Commands, Ended, difference
from fdif_jax.scripts.benchmarks.reliability.formats import FORMATS, Format
from fdif_jax.scripts.benchmarks.reliability.kills import measure as measure_kills
from fdif_jax.scripts.benchmarks.reliability.mutation import packed


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "a/inner"
    inner.mkdir(parents=True)
    for data in FORMATS[name].seeds(inner):
        (inner / FORMATS[name].name).write_bytes(packed(FORMATS[name], data))
        FORMATS[name].read(inner / FORMATS[name].name)
    told = [fuzzing.trial(FORMATS[name], path) for _, path in fuzzing.inputs(name, inner, 7, 0, 25)]
    assert [said for kind, said in told if kind == "fault"] == []
    assert "refused" in {kind for kind, _ in told}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a"] and list((tmp_path / "a").iterdir()) == [inner]


def test_the_same_number_makes_the_same_file_again(tmp_path):
    made = [
        [path.read_bytes() for _, path in fuzzing.inputs("nifti", tmp_path, seed, first, 3)]
        for seed, first in ((0, 5), (0, 5), (1, 5))
    ]
    assert made[0] == made[1] != made[2] and len(set(made[0])) == 3
    assert made[0][1] == next(path.read_bytes() for _, path in fuzzing.inputs("nifti", tmp_path, 0, 6, 1))


def _allocates(path):
    held = np.ones(fuzzing.GROWTH + 2**24, np.uint8)
    raise FdifError(f"refused after {held.size} bytes")


def _warns(path):
    warnings.warn("look here", stacklevel=1)


def _of_memory(path):
    try:
        raise MemoryError
    except MemoryError as error:
        raise FdifError("refused") from error


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda path: [][0], "IndexError: list index out of range"),
        (lambda path: [None for _ in iter(int, 1)], "took longer than 0.1 s"),
        (_of_memory, "asked for memory"),
        (_warns, "says more than a line: look here"),
        (_allocates, "took memory"),
    ],
)
def test_what_a_reader_does_wrong_is_a_fault(read, said, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.1 if "longer" in said else 60)
    kind, told = fuzzing.trial(Format("x", lambda folder: [], read), tmp_path)
    assert kind == "fault" and said in told


def test_every_change_of_a_file_changes_it():
    rng, data = random.Random(0), bytes(range(97, 123)) * 4
    for change in mutation._CHANGES:
        assert any(change(rng, data) != data for _ in range(5)), change


def test_hostile_files_do_no_harm(tmp_path):
    figures = hostile.measure(tmp_path)
    assert {what: row["faults"] for what, row in figures.items() if row["faults"]} == {}
    assert max(row["seconds"] for row in figures.values()) < 10
    assert sum(row["came of it"] == "refused" for row in figures.values()) >= 20


def test_a_pickle_that_is_run_would_be_seen(tmp_path, monkeypatch):
    import torch

    trusting = hostile.Case(
        "weights.pth", hostile._torch(True), lambda path: torch.load(path, weights_only=False)
    )
    monkeypatch.setattr(hostile, "CASES", {"a pickle": trusting})
    assert hostile.measure(tmp_path)["a pickle"]["faults"] == ["was read", "made a file"]


def test_the_browsers_server_withstands_attacks(tmp_path):
    figures = server.measure(tmp_path, edge=24)
    assert {what: row["faults"] for what, row in figures.items() if row["faults"]} == {}


def test_a_server_that_gives_a_secret_away_would_be_seen(tmp_path, monkeypatch):
    data = server._case(tmp_path, 4)
    monkeypatch.setitem(server.browse._FILES, "/secret", (str(tmp_path / "secret"), "text/plain"))
    with server.served(data, "attacked") as port:
        assert any("/secret:" in fault for fault in server._traversal(port))


def test_figures_are_printed_and_written_and_faults_end_with_2(tmp_path, capsys, monkeypatch):
    path = tmp_path / "figures.json"
    few = {name: hostile.CASES[name] for name in ("a pickle in a cache", "a link to a secret")}
    monkeypatch.setattr(hostile, "CASES", few)
    options = ["reliability", "--parts", "hostile", "--out", str(tmp_path / "work"), "--json", str(path)]
    cli.run("bench", options)
    rows = json.loads(path.read_text())["parts"]["hostile"]
    assert list(rows) == list(few) and all(row["faults"] == [] for row in rows.values())
    assert "fdif bench reliability: hostile" in capsys.readouterr().out
    broken = hostile.Case("scan.nii", lambda path: b"", lambda path: None)
    monkeypatch.setattr(hostile, "CASES", {"a reader that looks at nothing": broken})
    with pytest.raises(SystemExit) as stop:
        cli.run("bench", [*options, "--out", str(tmp_path / "more")])
    said = capsys.readouterr()
    assert stop.value.code == 2 and "1 faults" in said.err and "was read" in said.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parts", "hostil"], "did you mean 'hostile'"),
        (["--formats", "nift"], "did you mean 'nifti'"),
        (["--commands", "train"], "did you mean 'pretrain'"),
        (["--kills", "0"], "--kills must be at least 1"),
    ],
)
def test_impossible_options_are_one_clear_line(options, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run("bench", ["reliability", *options])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and said in message and message.count("\n") == 1


def test_one_line_is_a_status_of_2_and_no_traceback():
    good = "fdif predict: error: scan.nii: truncated"
    assert Ended(2, ["a remark", good]).is_one_line
    for bad in (
        Ended(1, [good]),
        Ended(2, []),
        Ended(2, [good, good]),
        Ended(2, [good, "Traceback (most …"]),
    ):
        assert not bad.is_one_line
    assert difference({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["a", "b", "c"]


@pytest.mark.slow("commands in processes of their own, killed and begun again")
def test_a_command_that_is_killed_ends_as_a_whole_one(tmp_path):
    commands = Commands(tmp_path, ["bank build"])
    for by in (signal.SIGKILL, signal.SIGTERM):
        row = measure_kills(commands, ["bank build"], 2, 0, by)["bank build"]
        assert row["killed"] == 2 and row["faults"] == []


@pytest.mark.slow("commands in processes of their own, on disks of their own")
def test_full_and_failing_disks_and_two_at_once(tmp_path):
    commands = Commands(tmp_path, ["bank build"])
    for fault in ("eio", "denied", "clock"):
        row = disk.faulty(commands, ["bank build"], fault, 2, 0, tmp_path)["bank build"]
        assert row["faults"] == []
    assert disk.together(commands, ["bank build"], 1)["bank build"]["faults"] == []
    if disk.can_mount():
        assert disk.full(commands, ["bank build"], 2, 0)["bank build"]["faults"] == []


@pytest.mark.slow("a generation in a process of its own, long enough to be measured")
def test_memory_in_the_middle_and_at_the_end(tmp_path):
    commands = Commands(tmp_path, ["generate"])
    row = memory._watched(commands, f"{memory.SCENES} --num-samples 400", Path(tmp_path / "long"))
    assert row["middle"] > 2**26 and 0.5 < row["ratio"] < 2


def test_every_format_has_a_seed_that_is_read_and_no_two_a_name_in_one_place():
    assert len({form.name for form in formats.FORMATS.values()}) == len(formats.FORMATS)
