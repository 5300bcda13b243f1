"""Disks that are full, fail or refuse, a clock that jumps back, and two commands in one directory."""

import random
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdif_jax.scripts.benchmarks.reliability.commands import (
    WRITING,
    Commands,
    Ended,
    contents,
    difference,
    end,
    lines_of,
)

_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
_CHANCES = {"eio": 12, "denied": 12, "clock": 20, "nolock": 1}  # of which one is drawn
_PAGE = 4096


def can_mount() -> bool:
    """Whether this machine lets its users mount file systems of their own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_MOUNTS, "true"], capture_output=True).returncode == 0


def full(commands: Commands, names: Sequence[str], count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Run commands on a disk that is full at a random byte, then again with room; what is wrong with either."""
    figures = {}
    for name in names:
        whole, _ = commands.whole(name)
        out, rng, faults, stopped = commands.out(name, "whole"), random.Random(f"{seed} {name} full"), [], 0
        size = sum(
            path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file()
        )
        for number in range(count):
            room = max(int(size * rng.random()) // _PAGE, 2) * _PAGE
            told, again, made = _on_small_disk(commands, name, room, commands.out(name, f"full{number}"))
            if told.status == 0:  # it had room enough
                continue
            stopped += 1
            faults += [] if told.is_one_line else [f"{room} bytes: {told.status}: {told.lines[-2:]}"]
            faults += [f"{room} bytes, again: {again.lines[-2:]}"] if again.status else []
            faults += [f"{room} bytes: {what} differs" for what in difference(contents(made), whole)]
        figures[name] = {"disks": count, "stopped": stopped, "faults": faults}
    return figures


def _on_small_disk(commands: Commands, name: str, room: int, kept: Path) -> tuple[Ended, Ended, Path]:
    """Run a command on a disk of so many bytes, and once more with room; its result is copied to ``kept``."""
    mount, inner = kept.parent / "mount", f"$1/{kept.name}"
    mount.mkdir(exist_ok=True)
    command = commands.shell(WRITING[name], shlex.quote(inner).replace("'", '"'))
    script = (
        f'mount -t tmpfs -o size={room} none "$1"\n{command} 2>"$2.first"; echo $? >"$2.status"\n'
        f'mount -o remount,size=1g "$1"\n{command}; status=$?; cp -r "{inner}" "$2"; exit $status\n'
    )
    process = subprocess.Popen(
        [*_MOUNTS, "bash", "-c", script, "bash", str(mount), str(kept)],
        env=commands.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    again = end(process)
    status, first = Path(f"{kept}.status"), Path(f"{kept}.first")
    if not status.is_file():
        return Ended(1, again.lines), again, kept
    return Ended(int(status.read_text()), lines_of(first.read_text())), again, kept


def faulty(
    commands: Commands, names: Sequence[str], fault: str, count: int, seed: int, folder: Path
) -> dict[str, dict[str, Any]]:
    """Run commands with a fault of `faulty` at a random chance, then without; what is wrong with either.

    Reading fails for files of what the commands read, writing for what they write. A chance that never came makes
    those that are drawn after it earlier ones.
    """
    figures = {}
    for name in names:
        whole, _ = commands.whole(name)
        rng, faults, met = random.Random(f"{seed} {name} {fault}"), [], 0
        most = _CHANCES[fault]
        for number in range(count):
            out = commands.out(name, f"{fault}{number}")
            # What becomes a file lies beside it until it is whole.
            written = out.parent if out.suffix else out
            inside = written if fault == "denied" else folder
            chance = rng.randint(1, most)
            told = end(commands.start(WRITING[name], out, fault, str(chance), str(inside)))
            if told.status:
                met += 1
                faults += [] if told.is_one_line else [f"chance {chance}: {told.status}: {told.lines[-2:]}"]
                again = end(commands.start(WRITING[name], out))
                faults += [f"chance {chance}, again: {again.lines[-2:]}"] if again.status else []
            elif fault != "clock":  # which stops nothing
                most = max(chance - 1, 1)
            faults += [f"chance {chance}: {what} differs" for what in difference(contents(out), whole)]
        figures[name] = {"runs": count, "stopped": met, "faults": faults}
    return figures


def together(commands: Commands, names: Sequence[str], count: int, *hook: str) -> dict[str, dict[str, Any]]:
    """Begin each command twice in one directory at the same time; what is wrong with what they say and leave.

    One may be told, in a line, that another is at work; what is there in the end is as of one alone.
    """
    figures = {}
    for name in names:
        whole, _ = commands.whole(name)
        faults: list[str] = []
        refused = 0
        for number in range(count):
            out = commands.out(name, f"both{''.join(hook[:1])}{number}")
            both = [commands.start(WRITING[name], out, *hook) for _ in range(2)]
            told = [end(process) for process in both]
            refused += sum(one.status != 0 for one in told)
            faults += [
                f"{one.status}: {one.lines[-2:]}" for one in told if one.status and not one.is_one_line
            ]
            faults += [] if any(one.status == 0 for one in told) else ["neither completes"]
            faults += [f"{what} differs" for what in difference(contents(out), whole)]
        figures[name] = {"pairs": count, "refused": refused, "faults": faults}
    return figures
