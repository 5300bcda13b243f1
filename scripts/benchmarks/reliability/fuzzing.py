"""Damaged files given to their readers, thousands a format, in a process that has little memory.

Run by `fdif bench reliability`, a process a format: ``python -m …reliability.fuzzing FORMAT FIRST COUNT SEED FOLDER``.
"""

import contextlib
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fdif_jax.errors import FdifError
from fdif_jax.io.files import append_json_line, make_folder, read_json_lines
from fdif_jax.scripts.benchmarks.reliability.formats import FORMATS, Format
from fdif_jax.scripts.benchmarks.reliability.mutation import damaged, packed

SECONDS = 10.0  # that a file may take
ROOM = 2**30  # bytes of addresses that a process may ask for beyond those that it has when it begins
GROWTH = 2**28  # bytes that a file of kilobytes may add to what the process holds at most
_PORTION = 10_000  # files that one process reads: some libraries keep a little memory of every damaged one
_STUCK = 60.0  # seconds after which a process that does not answer is ended


class Hang(BaseException):
    """A file took longer than `SECONDS`."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the block after so many seconds."""

    def told(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, told)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def trial(form: Format, path: Path) -> tuple[str, str]:
    """What comes of reading a file: ``read``, ``refused``, or a fault, which is said in the second text.

    Whatever the command line tells in one line is refused: an FdifError, or an error of the system.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # what was held at most counts from here on
    held, logged = _held(), _Logged()
    with logged, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with time_limit(SECONDS):
                form.read(path)
            found = "read", ""
        except (FdifError, OSError) as error:
            found = ("fault", "asked for memory") if _of_memory(error) else ("refused", str(error))
        except Hang:
            found = "fault", f"took longer than {SECONDS:g} s"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = "fault", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    if found[0] != "fault" and _held() - held > GROWTH:
        found = "fault", "took memory"
    noise = [
        f"{one.message} ({one.filename}:{one.lineno})"
        for one in told
        if one.category is not DeprecationWarning
    ]
    noise += logged.texts
    return ("fault", f"says more than a line: {noise[0]}") if noise and found[0] != "fault" else found


def _held() -> int:
    """Bytes that this process has held at most."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


class _Logged(logging.Handler):
    """What libraries log in a block and would print; our own remarks are meant to be read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "fdif_jax":
            self.texts.append(f"{record.name}: {record.getMessage()}")

    def __enter__(self) -> "_Logged":
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        logging.getLogger().removeHandler(self)


def _of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def inputs(name: str, folder: Path, seed: int, first: int, count: int) -> Iterator[tuple[int, Path]]:
    """Number and path of damaged files, each in the place of the one before; the same whatever is read."""
    form = FORMATS[name]
    seeds, path = form.seeds(folder), folder / form.name
    for number in range(first, first + count):
        # The number is part of the generator's seed, so that each file can be made again by itself.
        path.write_bytes(damaged(random.Random(f"{seed} {name} {number}"), form, seeds))
        yield number, path


def search(name: str, folder: Path, seed: int, first: int, count: int) -> None:
    """Read damaged files in a folder within ``folder``, and write there what comes of them.

    That is a line for each fault, the file itself, and how many were read.
    """
    form, place, log = FORMATS[name], folder / name, folder / f"{name}.jsonl"
    inner, elsewhere = place / "inner", place / "elsewhere"
    make_folder(inner)
    make_folder(elsewhere)
    for data in form.seeds(inner):  # so that what is loaded once is there
        whole = inner / form.name
        whole.write_bytes(packed(form, data))
        form.read(whole)
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    os.chdir(elsewhere)
    told: Counter[str] = Counter()
    for number, path in inputs(name, inner, seed, first, count):
        before = _names(place)
        (folder / f"{name}.now").write_text(str(number))
        kind, said = trial(form, path)
        if _names(place) - before:
            kind, said = "fault", f"made {sorted(_names(place) - before)}"
        told[kind] += 1
        if kind == "fault":
            append_json_line(log, {"input": number, "fault": said})
            (folder / f"{name}.{number}").write_bytes(path.read_bytes())
    append_json_line(log, {"counts": told})


def _names(folder: Path) -> set[str]:
    """All that is in a folder."""
    return {os.path.join(at, name) for at, folders, files in os.walk(folder) for name in (*folders, *files)}


def measure(names: Sequence[str], count: int, seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Search all formats, in processes of their own; how many files were read, were refused, or are faults."""
    figures = {}
    for name in names:
        began, log = time.monotonic(), folder / f"{name}.jsonl"
        log.unlink(missing_ok=True)
        first = 0
        while first < count:
            portion = min(count - first, _PORTION)
            arguments = [name, str(first), str(portion), str(seed), str(folder)]
            ended = _run([sys.executable, "-m", __spec__.name, *arguments], folder / f"{name}.now")
            if ended == 0:
                first += portion
                continue
            now = folder / f"{name}.now"
            at = int(now.read_text()) if now.is_file() else first
            append_json_line(log, {"input": at, "fault": f"the process ended with {ended}"})
            first = at + 1
        lines = read_json_lines(log)
        told: Counter[str] = Counter()
        for line in lines:
            told.update(line.get("counts", {}))
        faults = [f"{line['input']}: {line['fault']}" for line in lines if "fault" in line]
        figures[name] = {
            "inputs": count,
            "read": told["read"],
            "refused": told["refused"],
            "seconds": time.monotonic() - began,
            "faults": faults,
        }
    return figures


def _run(command: Sequence[str], now: Path) -> int:
    """The status of a process, ended where the file that says what it is at does not change."""
    now.unlink(missing_ok=True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.2)
            if now.is_file() and time.time() - now.stat().st_mtime > _STUCK:
                process.kill()
        return process.returncode


if __name__ == "__main__":
    (kind, start, number, generator), place = sys.argv[1:5], Path(sys.argv[5]).absolute()
    search(kind, place, int(generator), int(start), int(number))
