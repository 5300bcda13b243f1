"""The commands that write, at tiny sizes: what they read, how they are begun, and what of their results is compared."""

import csv
import hashlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fdif_jax.errors import FdifError
from fdif_jax.training.runs import load_run

_SHAPES = "--primitives sphere --sdf-mappers inverse_cube --displacement-functions none --min-objects 1 --max-objects 2"
_SIZE = "--size features=[4,8]"
SCENES = f"generate --grid 16 16 16 {_SHAPES} --num-val-samples 2"
TRAINED = f"pretrain --grid 16 16 16 {_SHAPES} {_SIZE} --lr 3e-3 --val-samples 2"
TUNED = f"finetune {{data}} --init scratch {_SIZE} --patch 16 16 16 --lr 1e-2"
PREDICTED = "predict --model {model} --input {scans}"
WRITING: Mapping[str, str] = {
    "generate": f"{SCENES} --num-samples 40",
    "pretrain": f"{TRAINED} --steps 40 --val-every 10 --checkpoint-every 5",
    "finetune": f"{TUNED} --steps 30 --val-every 10 --save-predictions",
    "predict": PREDICTED,
    "experiment": "experiment {data} --inits scratch --cases 2 --seeds 2 --steps 10 --val-every 5 --jobs 1 "
    f'"--finetune={_SIZE} --patch 16 16 16"',
    "bank build": "bank build {labels} --names {names}",
}
_ALONE = ("bank build",)  # whose --out is a file, not a folder
# What is no result: times, logs, locks, and what a run began with.
_LEFT_OUT = ("events.out", "train.lock", "lock", "tensorboard", "logs", "checkpoints", "run.json")
_TIMES = ("volumes_per_second", "seconds")
_BARS = (
    "training ",
    "compiling ",
    "rendering",
    "predicting",
    "reading",
    "writing",
    "cases",
    "preparing",
    "study",
)


class Ended(NamedTuple):
    """How a process ended: its status, and the lines that it wrote to stderr, but for bars."""

    status: int
    lines: list[str]

    @property
    def is_one_line(self) -> bool:
        """Whether it failed as is wanted: status 2, one line that says what is wrong, no traceback."""
        told = [line for line in self.lines if ": error: " in line]
        return self.status == 2 and len(told) == 1 and not any("Traceback" in line for line in self.lines)


class Commands:
    """Commands in a folder that has what they read."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Make in ``folder`` what the commands of these names read: a data set, a model, scans."""
        self._folder = folder
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "COLUMNS": "200",
        }
        self._environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, str] = {}
        self._wholes: dict[str, tuple[Mapping[str, str], float]] = {}
        if set(names) - {"generate", "pretrain"}:
            self._make(f"{SCENES} --num-samples 4 --compress none", "data")
            images = sorted((folder / "data").rglob("*_x.nii"))
            labels = sorted((folder / "data").rglob("*_y.nii"))
            (folder / "scans").mkdir(exist_ok=True)
            for image in images:
                (folder / "scans" / image.name).write_bytes(image.read_bytes())
            (folder / "names.json").write_text(json.dumps({str(i): f"organ{i}" for i in range(1, 4)}))
            self._known = {
                "data": str(folder / "data"), "scans": str(folder / "scans"), "names": str(folder / "names.json"),
                "labels": " ".join(map(str, labels)), "model": str(folder / "model"),
            }  # fmt: skip
        if "predict" in names:
            self._make(f"{TUNED} --steps 4 --val-every 0", "model")

    def _make(self, command: str, name: str) -> None:
        ended = end(self.start(command, self._folder / name))
        if ended.status:
            raise FdifError(f"{command.split()[0]}: {' '.join(ended.lines[-3:])}")

    def start(self, command: str, out: Path, *hook: str) -> subprocess.Popen:
        """Begin a command that writes to ``out``; with a ``hook`` by `faulty`, whose arguments these are."""
        name, *arguments = shlex.split(command.format(**self._known))
        module = ["-m", f"{__package__}.faulty", *hook, name] if hook else ["-m", f"fdif_jax.scripts.{name}"]
        return subprocess.Popen(
            [sys.executable, *module, *arguments, "--out", str(out)],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def shell(self, command: str, out: str) -> str:
        """The command as a line of a shell."""
        name, *arguments = shlex.split(command.format(**self._known))
        return shlex.join([sys.executable, "-m", f"fdif_jax.scripts.{name}", *arguments, "--out"]) + f" {out}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the commands."""
        return self._environment

    def whole(self, name: str) -> tuple[Mapping[str, str], float]:
        """What an undisturbed command of `WRITING` leaves, and the seconds it takes when all is compiled."""
        if name in self._wholes:
            return self._wholes[name]
        out = self.out(name, "whole")
        for number in range(2):
            again = out if not number else self.out(name, "again")
            began = time.monotonic()
            ended = end(self.start(WRITING[name], again))
            if ended.status:
                raise FdifError(f"{name}: {' '.join(ended.lines[-3:])}")
        if differing := difference(contents(out), contents(again)):
            raise FdifError(f"{name}: two undisturbed runs differ: {differing[:5]}")
        self._wholes[name] = contents(out), time.monotonic() - began
        return self._wholes[name]

    def out(self, name: str, run: str) -> Path:
        """Where a command writes to in one of its runs."""
        folder = self._folder / f"{name.replace(' ', '_')}-{run}"
        return folder.with_suffix(".npz") if name in _ALONE else folder


def end(process: subprocess.Popen, timeout: float = 900.0) -> Ended:
    """Wait for a process; it is killed, with all that it began, if it does not end."""
    try:
        _, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, error = process.communicate()
        error += "\ndid not end"
    return Ended(process.returncode, lines_of(error))


def lines_of(text: str) -> list[str]:
    """The lines of what a command says on stderr, but for bars."""
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(_BARS)]


def contents(out: Path) -> dict[str, str]:
    """Digests of what a command made, by name: files, and of runs the weights."""
    files = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    found = {}
    for path in files:
        inner = "result" if path == out else path.relative_to(out).as_posix()
        if not any(part.startswith(_LEFT_OUT) for part in Path(inner).parts):
            found[inner] = _digest(_readers.get(path.suffix, Path.read_bytes)(path))
    for document in sorted(out.rglob("run.json")) if out.is_dir() else []:
        for name, array in load_run(document.parent).weights().items():
            found[f"{document.parent.relative_to(out).as_posix()}: {name}"] = _digest(array.tobytes())
    return found


def difference(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The names of what is not the same in both."""
    return [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in _TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _lines(path: Path) -> bytes:
    rows = [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    return json.dumps(rows).encode()


def _document(path: Path) -> bytes:
    return json.dumps(_without_times(json.loads(path.read_bytes()))).encode()


def _table(path: Path) -> bytes:
    rows = csv.DictReader(io.StringIO(path.read_text()))
    return json.dumps([_without_times(row) for row in rows]).encode()


_readers: Mapping[str, Callable[[Path], bytes]] = {".jsonl": _lines, ".json": _document, ".csv": _table}
