"""Processes that make a dataset's files, against the threads that make them of a small one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs import render_processes
from fdif_jax.scripts.jobs.render_processes import RenderProcesses, files_of
from fdif_jax.scripts.options.format import FormatOptions, job_of
from tests.helpers.trees import tree

SMALL = (
    "--primitives sphere torus --displacement-functions none --grid 14 16 18 --min-objects 1 --max-objects 3"
)
OPTIONS = FormatOptions(primitives=("sphere",), displacement_functions=("none",), grid=(16, 16, 16))


@pytest.mark.slow("processes that start and compile")
def test_processes_make_the_same_directory_as_threads(tmp_path, monkeypatch):
    def generate(name, *arguments):
        cli.run("generate", [*SMALL.split(), "--num-samples", "7", "--out", str(tmp_path / name), *arguments])

    generate("threads", "--workers", "2")
    begun: list[RenderProcesses] = []

    def begin(*given):
        begun.append(RenderProcesses(*given))
        return begun[-1]

    monkeypatch.setattr(render_processes, "WORTH", 0)
    monkeypatch.setattr(render_processes, "RenderProcesses", begin)
    for workers, batch in ((2, 1), (3, 2)):
        name = f"{workers} processes"
        generate(name, "--workers", str(workers), "--batch-size", str(batch))
        assert tree(tmp_path / name) == tree(tmp_path / "threads")
        ended = [process.exitcode is not None for process in begun[-1]._processes]
        assert ended == workers * [True]
    assert "NPROC" not in os.environ


def test_small_datasets_and_one_worker_start_no_process(monkeypatch):
    monkeypatch.setattr(render_processes, "RenderProcesses", None)
    job = job_of(OPTIONS)
    with files_of(OPTIONS, job, 2) as (make_files, threads):
        assert threads == 2 and len(make_files([0, 1])) == 2
    monkeypatch.setattr(render_processes, "WORTH", 0)
    with files_of(OPTIONS, job, 1) as (_, threads):
        assert threads == 1


@pytest.mark.slow("processes that start and compile")
def test_what_goes_wrong_in_a_process_is_raised_here():
    with closing(RenderProcesses(OPTIONS, 1, 1)) as make_files:
        with pytest.raises(OverflowError):
            make_files([-1])
        assert len(make_files([0])[0]) == 2  # it goes on


@pytest.mark.slow("processes that start and compile")
def test_a_process_that_is_killed_is_told_in_one_line():
    with closing(RenderProcesses(OPTIONS, 2, 1)) as make_files:
        make_files([0])
        for process in make_files._processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        with pytest.raises(FdifError, match="was ended, perhaps for want of memory; give fewer --workers"):
            make_files([1])


@pytest.mark.slow("processes that start and compile")
def test_processes_end_with_the_one_that_began_them():
    code = """
from fdif_jax.scripts.jobs.render_processes import RenderProcesses
from fdif_jax.scripts.options.format import FormatOptions
if __name__ == "__main__":
    make_files = RenderProcesses(FormatOptions(grid=(16, 16, 16), primitives=("sphere",)), 3, 1)
    make_files._begin()
    print(*[process.pid for process in make_files._processes], flush=True)
    input()
"""
    begun = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    numbers = begun.stdout.readline().split()
    begun.kill()
    begun.communicate()
    assert len(numbers) == 3
    deadline = time.monotonic() + 60
    while any(map(_runs, numbers)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _runs(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow("processes that start and compile")
def test_control_c_is_told_in_one_line_and_ends_all(tmp_path):
    few = ["--primitives", "sphere", "--displacement-functions", "none", "--grid", "64", "64", "64"]
    command = [
        sys.executable,
        "-m",
        "fdif_jax.scripts.generate",
        *few,
        "--num-samples",
        "5000",
        "--out",
        "set",
    ]
    begun = subprocess.Popen(
        [*command, "--progress", "json"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal, deadline = tmp_path / "set/journal.jsonl", time.monotonic() + 120
    while not journal.exists() or len(journal.read_text().splitlines()) < 4:
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(begun.pid, signal.SIGINT)
    told = [line for line in begun.communicate()[1].splitlines() if not line.startswith("{")]
    assert (
        told == ["fdif generate: interrupted; the same command goes on from here"] and begun.returncode == 130
    )
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(begun.pid, 0)
            time.sleep(0.2)
