"""Long commands beside others: lines of progress, dry runs, the shell's completion, and the doctor."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest

from fdif_jax.errors import FdifError
from fdif_jax.extras import EXTRAS
from fdif_jax.scripts import cli, doctor, experiment, finetune, generate, pretrain
from fdif_jax.scripts.console import progress
from fdif_jax.scripts.console.progress import progress_bar, say, show_as
from fdif_jax.scripts.console.watching import TrainingBar
from fdif_jax.scripts.jobs import dry_run
from fdif_jax.training import loop
from tests.helpers.paths import ANATOMY, HIPPOCAMPUS

SCENES = "--grid 16 16 16 --primitives sphere --sdf-mappers inverse_cube --min-objects 1 --max-objects 1"


# ------------------------------------------------------------------------------------------------- progress


@pytest.fixture(autouse=True)
def _as_always():
    yield
    show_as("auto")


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_there_are_plain_lines(monkeypatch, capsys):
    monkeypatch.setitem(progress.SECONDS, "plain", 0.02)
    with progress_bar() as bar:
        task = bar.add_task("reading", total=4, measured="")
        bar.update(task, completed=1, measured="case_7")
        time.sleep(0.1)
        bar.update(task, completed=2)
        time.sleep(0.1)
        say(bar, "skipped: case_8")
        bar.update(task, completed=4, measured="")
    told = lines(capsys)
    assert told[0] == "reading 1/4, case_7" and "skipped: case_8" in told
    assert any(re.fullmatch(r"reading 2/4, case_7, [\d.]+/s, 1 min left", line) for line in told)
    assert re.fullmatch(r"reading 4/4, [\d.]+/s", told[-1])
    assert not any("\x1b" in line or "━" in line for line in told)


def test_lines_come_every_30_seconds_and_not_at_every_step(capsys):
    assert progress.SECONDS["plain"] == 30
    with progress_bar() as bar:
        task = bar.add_task("reading", total=100, measured="")
        for _ in range(100):
            bar.advance(task)
    assert len(lines(capsys)) == 1


def test_progress_for_programs_is_an_object_a_line(monkeypatch, capsys):
    monkeypatch.setitem(progress.SECONDS, "json", 0.02)
    show_as("json")
    with TrainingBar(20) as bar:
        time.sleep(0.1)
        bar.show(10, {"loss": 1.25})
        time.sleep(0.1)
        bar.show(12, {"loss": 1.125})
        time.sleep(0.1)
        bar.show(15, {"loss": 1.0})
        time.sleep(0.1)
        say(bar._progress, "a remark")
    told = [json.loads(line) for line in lines(capsys)]
    assert {"message": "a remark"} in told
    told = [line for line in told if "phase" in line]
    assert told[0] == {
        "phase": "compiling",
        "step": 0,
        "total": 20,
        "rate": None,
        "seconds_left": None,
        "measured": "",
    }
    last = told[-1]
    assert (last["phase"], last["step"], last["total"]) == ("training", 15, 20)
    # Three steps in 0.1 s or more.
    assert (
        0 < last["rate"] <= 30.0 and last["seconds_left"] >= 0 and last["measured"].startswith("loss 1.000")
    )
    assert sum(line == last for line in told) == 1  # nothing is told again that has not changed


def test_what_is_in_terminals_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as bar:
        bar.add_task("reading", total=4, completed=1, measured="")
    assert "━" in capsys.readouterr().err


def test_a_command_takes_the_form(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        cli.run("fit-family", ["a.nii.gz", "--shape", "x.py:y", "--progress", "lines"])
    assert "progress" in capsys.readouterr().err
    monkeypatch.setattr(generate, "run", lambda config: progress_bar().start())
    cli.run("generate", ["--progress", "json"])
    assert progress._form == "json"


# ------------------------------------------------------------------------------------------------- dry runs


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Rates are measured for an instant, in an empty folder."""
    monkeypatch.setattr(dry_run, "SECONDS", 0.0)
    monkeypatch.setattr(
        pretrain, "rehearse", lambda *given, **named: loop.rehearse(*given, **named, seconds=0.0)
    )
    monkeypatch.chdir(tmp_path)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_rate_of_samples_has_no_exponent():
    assert dry_run.SampleRate(1 / 1234.5, 1.0, 1.0).per_second == "1230"
    assert dry_run.SampleRate(1 / 12.345, 1.0, 1.0).per_second == "12.3"


def test_generate_says_what_it_would_write(quick, tmp_path, capsys):
    arguments = [*SCENES.split(), "--num-samples", "3", "--out", "data", "--workers", "1"]
    cli.run("generate", [*arguments, "--dry-run"])
    told = capsys.readouterr().out
    assert "dry run: nothing is written" in told and "3 samples to write" in told
    assert re.search(r"time: \d+ s; [\d.]+ samples/s by 1 workers", told) and "are free" in told
    assert not files(tmp_path)
    cli.run("generate", arguments)
    written = files(tmp_path)
    promised = float(re.search(r"disk: ([\d.]+) MB", told)[1]) * 1e6
    there = sum(path.stat().st_size for path in (tmp_path / "data").rglob("*.nii.gz"))
    assert abs(promised - there) < 0.5 * there + 1e5
    cli.run("generate", [*arguments, "--dry-run"])
    assert "0 samples to write" in capsys.readouterr().out
    (tmp_path / "data" / "manifest.json").unlink()
    for wrong, says in (("data", "no dataset of ours"), ("file", "is a file")):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(SystemExit) as left:
            cli.run("generate", [*arguments, "--dry-run", "--out", wrong])
        assert left.value.code == 2 and says in capsys.readouterr().err
    assert files(tmp_path) == sorted({*written, "file"} - {"data/manifest.json"})


@pytest.mark.slow("a training step is compiled")
def test_pretrain_says_how_long_it_would_take(quick, tmp_path, capsys):
    arguments = [
        *SCENES.split(),
        "--size",
        "features=[4,8]",
        "--batch-size",
        "1",
        "--steps",
        "40",
        "--out",
        "run",
    ]
    cli.run("pretrain", [*arguments, "--dry-run"])
    told = capsys.readouterr().out
    assert "40 of 40 steps" in told and re.search(r"[\d.e-]+ s a step", told) and not files(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("")
    with pytest.raises(SystemExit) as left:
        cli.run("pretrain", [*arguments, "--dry-run"])
    assert left.value.code == 2 and "holds no run" in capsys.readouterr().err


@pytest.mark.slow("scans are prepared, and two networks compiled")
def test_finetune_and_predict_say_what_they_would_do(quick, tmp_path, capsys):
    size = "--size features=[4,8] --patch 16 16 16 --batch-size 1 --val-every 0 --cases 2 --init scratch"
    arguments = [str(HIPPOCAMPUS), *size.split(), "--steps", "2", "--cache", "cache", "--out", "run"]
    cli.run("finetune", [*arguments, "--dry-run"])
    assert "2 of 2 steps" in capsys.readouterr().out and not files(tmp_path)
    cli.run("finetune", arguments)
    cli.run("finetune", [*arguments, "--dry-run"])
    assert "0 of 2 steps; 2 are done" in capsys.readouterr().out
    before = files(tmp_path)
    shutil.copytree(HIPPOCAMPUS / "imagesTr", tmp_path.with_name("scans"))
    scans = str(tmp_path.with_name("scans"))
    predicting = ["--model", "run", "--input", scans, "--out", "labels"]
    cli.run("predict", [*predicting, "--dry-run"])
    told = capsys.readouterr().out
    count = len(list((HIPPOCAMPUS / "imagesTr").iterdir()))
    assert re.search(rf"{count} label maps to write, \d+ windows", told) and files(tmp_path) == before
    bad = tmp_path.with_name("scans") / "zz.nii.gz"
    bad.write_bytes(b"no scan")
    with pytest.raises(SystemExit) as left:
        cli.run("predict", [*predicting, "--dry-run"])
    assert left.value.code == 2 and "zz.nii.gz" in capsys.readouterr().err and files(tmp_path) == before


def test_a_study_adds_up_its_runs(quick, tmp_path, capsys, monkeypatch):
    asked = []

    def estimate(config):
        asked.append(config)
        return dry_run.Estimate([], 10.0, "1 s a step", 100, config.out)

    monkeypatch.setattr(finetune, "estimate", estimate, raising=False)
    monkeypatch.setattr(pretrain, "estimate", estimate, raising=False)
    arguments = [
        str(HIPPOCAMPUS),
        "--inits",
        "scratch",
        "fdif",
        "--cases",
        "2",
        "--seeds",
        "2",
        "--steps",
        "10",
    ]
    cli.run("experiment", [*arguments, "--pretrain=--steps 30", "--dry-run", "--out", "study"])
    told = capsys.readouterr().out
    assert "1 of 1 runs of fdif pretrain, 30 steps" in told
    assert "4 of 4 runs of fdif finetune, 40 steps" in told
    assert "time: 50 s" in told  # 10 s for the pre-training, 10 s for every fine-tuning
    assert [type(config).__name__ for config in asked] == ["PretrainingOptions", "FinetuningOptions"]
    assert asked[1].init == "scratch" and not files(tmp_path)
    assert experiment.Config(out=tmp_path).dry_run is False


def test_a_bank_is_tried_on_its_first_subject(quick, tmp_path, capsys):
    first = ANATOMY / "subject03_abdomen_mr_label.nii.gz"
    labels = [str(first), shutil.copy(first, "second.nii.gz")]
    names = f"{ANATOMY / 'label_names.json'}:mr"
    given = ["build", *labels, "--names", names, "--out", "bank.npz", "--dry-run"]
    cli.run("bank", given)
    told = capsys.readouterr().out
    assert f"a bank of {len(labels)} subjects" in told and "s a subject" in told
    assert files(tmp_path) == ["second.nii.gz"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89.5, "90 s"), (120, "2.0 minutes"), (7200, "2.0 hours")]
)
def test_durations_are_in_words(seconds, words):
    assert dry_run.duration(seconds) == words


# ------------------------------------------------------------------------------------ completion, the doctor


COMPLETE = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_tyro_fdif
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.slow("all commands are imported")
def test_bash_completes_commands_and_options(tmp_path, capsys):
    script = tmp_path / "fdif"
    cli.run("completion", ["bash"])
    script.write_text(capsys.readouterr().out)

    def completed(*words):
        program = COMPLETE.format(script=script, words=" ".join(words))
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert set(completed("fdif", "pre")) == {"predict", "pretrain"}
    assert "--num-samples" in completed("fdif", "generate", "--num-s")
    assert "--min-voxels" in completed("fdif", "bank", "build", "--min")
    cli.run("completion", ["zsh"])
    assert capsys.readouterr().out.startswith("#compdef fdif")


def test_the_doctor_tells_facts_and_fails_with_a_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    heavy = {name: (lambda: "left out") for name in ("scene", "training")}
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS | heavy)
    cli.run("doctor", ["--json"])
    told = json.loads(capsys.readouterr().out)
    assert all(check["well"] for check in told["checks"].values()) and told["cores"] >= 1
    assert told["versions"]["jax"] and told["devices"] and told["memory"] > 2**20
    assert set(told["extras"]) == set(EXTRAS)
    assert not list(tmp_path.iterdir())

    def broken():
        raise FdifError("no locks here")

    monkeypatch.setattr(doctor, "CHECKS", {"locks": broken, "ball": doctor.CHECKS["ball"]})
    with pytest.raises(SystemExit) as left:
        cli.run("doctor", [])
    shown = capsys.readouterr()
    assert left.value.code == 2 and "1 of 2 checks failed: locks" in shown.err
    assert re.search(r"^FAILED +locks: FdifError: no locks here", shown.out, re.MULTILINE)
    assert re.search(r"^ok +ball: distances are within", shown.out, re.MULTILINE)


@pytest.mark.slow("a training step and a scene are compiled")
def test_the_whole_self_test(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.run("doctor", [])
    assert capsys.readouterr().out.count("\nok ") == len(doctor.CHECKS) and os.listdir(tmp_path) == []
