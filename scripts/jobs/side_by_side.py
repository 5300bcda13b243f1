"""Commands run as processes of their own, several side by side on a machine whose cores they divide."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdif_jax.errors import FdifError
from fdif_jax.io.files import make_folder
from fdif_jax.signals import handled
from fdif_jax.training.runs import METRICS

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 120  # for a process that is asked to save and stop; it may be compiling


@dataclass(frozen=True)
class Job:
    """A training command."""

    name: str  # in words
    command: str  # one of ours
    arguments: tuple[str, ...]  # its arguments
    log: Path  # file that gets all it prints, after what is there
    directory: Path  # its run directory
    steps: int  # of the whole run

    def done(self) -> float:
        """The fraction of the run that its measurements say is done."""
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError, TypeError):
            return min(json.loads(_last_line(self.directory / METRICS))["step"] / self.steps, 1.0)
        return 0.0


def run_all(
    jobs: Sequence[Job],
    at_once: int,
    *,
    finished: Callable[[Job, float], None],
    failed: Callable[[Job, FdifError], None],
    running: Callable[[Sequence[Job]], None],
    keep_on: bool = False,
) -> dict[Job, FdifError]:
    """Run jobs in their order, ``at_once`` many on equal shares of this process's cores; what went wrong with those
    that failed.

    Where one fails before any has succeeded no more are begun, as they would fail too, unless they ``keep_on``. Ctrl-C,
    SIGTERM and a closed terminal stop the jobs that run, which save their state, and raise KeyboardInterrupt.

    ``finished`` is called with every job that has succeeded and the seconds it took, ``failed`` with every other one
    and what went wrong, ``running`` again and again with the jobs that run.
    """
    waiting, free = list(jobs), list(_shares(at_once))
    active: dict[Job, tuple[subprocess.Popen, set[int], float]] = {}
    failures: dict[Job, FdifError] = {}
    succeeded = False
    with _stop_requests() as asked:
        try:
            while waiting or active:
                if asked:
                    raise KeyboardInterrupt
                while waiting and free:
                    share, job = free.pop(0), waiting.pop(0)
                    active[job] = (_start(job, share, at_once), share, time.monotonic())
                running(list(active))
                time.sleep(_POLL_SECONDS)
                for job, (process, share, begun) in list(active.items()):
                    if process.poll() is None:
                        continue
                    del active[job]
                    free.append(share)
                    if process.returncode:
                        failures[job] = _failure(job, process.returncode)
                        failed(job, failures[job])
                        waiting = waiting if succeeded or keep_on else []
                    else:
                        succeeded = True
                        finished(job, time.monotonic() - begun)
        finally:
            _stop([process for process, _, _ in active.values()])
    return failures


def program(job: Job) -> list[str]:
    """The program and arguments of a job's process."""
    return [sys.executable, "-m", f"fdif_jax.scripts.{job.command}", *job.arguments]


def _shares(count: int) -> list[set[int]]:
    """This process's cores divided in equal parts; a core is in several where there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::count]) or {cores[i % len(cores)]} for i in range(count)]


def _start(job: Job, share: set[int], at_once: int) -> subprocess.Popen:
    make_folder(job.log.parent)
    with open(job.log, "ab") as log:
        process = subprocess.Popen(
            program(job),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who pass it on once
            env=_environment(at_once),
        )
    if share and at_once > 1:
        # Long before it makes its threads; XLA counts the cores it may use.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, share)
    return process


def _environment(at_once: int) -> Mapping[str, str]:
    """Side by side on a GPU, each gets its part of the memory instead of three quarters of it."""
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / at_once:.3f}"} if at_once > 1 else {}
    return memory | {"PYTHONUNBUFFERED": "1"} | os.environ


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Ask to save and stop, wait for it, and end those that do not; a second request to stop ends them at once."""
    for process in processes:
        process.terminate()
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
    finally:
        for process in processes:
            process.kill()  # nothing where it has ended
            process.wait()


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Notes Ctrl-C, SIGTERM and a closed terminal in a list, so that no process is begun and then forgotten; a second
    one interrupts at once."""
    asked: list[int] = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with handled(note, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield asked


def _failure(job: Job, status: int) -> FdifError:
    line = ""
    with contextlib.suppress(OSError, IndexError):
        line = _last_line(job.log).partition(": error: ")[2] or _last_line(job.log)
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else "failed"
    return FdifError(f"{job.name} {how}: {line or 'it said nothing'} (all it said: {job.log})")


def _last_line(path: Path) -> str:
    """The last line with a letter or a number in it; IndexError if there is none."""
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))][-1]
