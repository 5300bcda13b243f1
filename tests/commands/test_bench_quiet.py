"""Ratios are given on a quiet machine only: what others use is found out, and what comes of it."""

import io
import os
import subprocess
import sys
import time

import pytest
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import quiet


@pytest.fixture
def others(monkeypatch):
    """Says how many of 2 cores others use from now on; a second passes between two readings."""
    now = {"cores": 0.0, "seconds": 0.0, "every": 0.0}

    def reading():
        now["seconds"] += 1
        now["every"] += now["cores"] + 0.5  # half a core is ours
        return quiet._Reading(now["seconds"], now["every"], 0.5 * now["seconds"])

    monkeypatch.setattr(quiet, "_reading", reading)
    monkeypatch.setattr(quiet, "_cores", lambda: {0, 1})
    monkeypatch.setattr(quiet.time, "sleep", lambda seconds: None)
    return lambda cores: now.update(cores=cores)


def told(neighbours):
    text = io.StringIO()
    neighbours.tell(Console(file=text, width=200))
    return text.getvalue()


def test_a_quiet_machine_keeps_its_ratios(others):
    others(0.15)
    neighbours, row = quiet.Neighbours(anyway=False), {"ratio": 2.0}
    neighbours.mark([row], "ratio")
    assert row == {"ratio": 2.0, "other_cores": 0.15, "busy": False} and told(neighbours) == ""


def test_a_busy_machine_is_refused_before_anything_is_measured(others):
    others(1.7)
    with pytest.raises(FdifError, match=r"other processes use 1.7 of 2 cores.* wait .* or give --anyway"):
        quiet.Neighbours(anyway=False)


def test_ratios_are_taken_away_where_others_began_meanwhile(others):
    neighbours, rows = quiet.Neighbours(anyway=False), [{"ratio": 2.0, "ours": 1.0}, {"ratio": 3.0}]
    others(0.5)
    neighbours.mark(rows, "ratio")
    assert rows[0] == {"ratio": None, "ours": 1.0, "other_cores": 0.5, "busy": True}
    assert rows[1]["ratio"] is None and quiet.shown_ratio(None) == "-" and quiet.shown_ratio(2.0) == "2.00"
    with pytest.raises(FdifError, match=r"use 0.5 of 2 cores.*or give --anyway; ratios were left out"):
        neighbours.tell(Console())


def test_anyway_keeps_them_and_says_so(others):
    others(1.0)
    neighbours, row = quiet.Neighbours(anyway=True), {"ratio": 2.0}
    neighbours.mark([row], "ratio")
    assert row == {"ratio": 2.0, "other_cores": 1.0, "busy": True}
    assert told(neighbours) == "Other processes use 1.0 of 2 cores, so that ratios mean little.\n"


def test_the_table_of_the_system_is_read_for_the_cores_at_hand(tmp_path, monkeypatch):
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("no /proc/stat")
    # user nice system idle iowait irq softirq steal guest guest_nice; those of guests are in user and nice already.
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 20 300 7 7 4000 0 50000 1 1\ncpu1 2 0 0 7 7 0 0 0 0 0\nintr 5 5\n"
    )
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "stat")
    second = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(quiet, "_cores", lambda: {0})
    assert quiet._reading().every == 54321 / second
    monkeypatch.setattr(quiet, "_cores", lambda: {0, 1})
    assert quiet._reading().every == 54323 / second
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "none")
    assert quiet._reading() is None
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    with pytest.raises(FdifError, match=r"use 1.5 of 2 cores"):  # by the load instead
        quiet.Neighbours(anyway=False)


def test_what_this_process_and_its_children_use_is_its_own():
    if quiet._reading() is None:
        pytest.skip("no /proc/stat")
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    before, used = quiet._reading(), time.process_time()
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    while time.process_time() - used < 0.3:
        pass
    after = quiet._reading()
    assert 0.65 < after.own - before.own < 3
    assert after.every - before.every > 0.6  # the system saw both; its ticks are 10 ms
    assert after.cores_since(before) <= len(quiet._cores()) + 0.1


@pytest.mark.parametrize(
    "command",
    [
        ["networks", "--networks", "resenc_unet", "--small"],
        ["objectives", "--objectives", "distance"],
        ["training", "--preset", "quick", "--from", "files"],
        ["shapes", "--sdf", "CHECKOUT"],
        ["rivals", "--sdf", "CHECKOUT"],
    ],
)
def test_every_command_with_ratios_refuses(command, others, tmp_path, monkeypatch, capsys):
    from fdif_jax.scripts.benchmarks import networks, objectives, shapes, training

    for module in (objectives, training):
        monkeypatch.setattr(module, "_prepared", lambda config: {"class": None})
    monkeypatch.setattr(networks, "cases_of", lambda config: [])
    for name in ("library", "theirs"):
        monkeypatch.setattr(shapes, name, lambda _: {"drilled": None})
    others(1.7)
    with pytest.raises(SystemExit) as stopped:
        cli.run("bench", [text.replace("CHECKOUT", str(tmp_path)) for text in command])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert "other processes use 1.7 of 2 cores" in said and "--anyway" in said
