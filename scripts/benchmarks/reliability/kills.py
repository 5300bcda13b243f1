"""Commands killed, or asked to end, at random moments and begun again until they end; compared with whole ones."""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fdif_jax.scripts.benchmarks.reliability.commands import WRITING, Commands, contents, difference, end

_EARLIEST = 0.2  # of a command's time: before it, Python is still importing


def measure(
    commands: Commands, names: Sequence[str], count: int, seed: int, by: signal.Signals
) -> dict[str, dict[str, Any]]:
    """Kill each command ``count`` times by a signal, whole process groups; what differs at the end from a whole run."""
    figures = {}
    for name in names:
        whole, seconds = commands.whole(name)
        rng, killed, ended, faults = random.Random(f"{seed} {name} {by}"), 0, 0, []
        expected = _comparable(whole, by)
        while killed < count:
            out = commands.out(name, f"{by.name}{ended}")
            process = commands.start(WRITING[name], out)
            time.sleep(seconds * rng.uniform(_EARLIEST, 1.0))
            if process.poll() is None:
                killed += 1
                _send(process.pid, by)
            told = end(process)
            if any("Traceback" in line for line in told.lines):
                faults.append(f"traceback: {told.lines[-1]}")
            if told.status == 0:  # it had ended by then, and the next one begins anew
                faults += _compare(out, expected, by)
                ended += 1
        out = commands.out(name, f"{by.name}{ended}")
        if (told := end(commands.start(WRITING[name], out))).status:
            faults.append(f"the same command does not complete: {told.lines[-1:]}")
        else:
            faults += _compare(out, expected, by)
        figures[name] = {"killed": killed, "compared": ended + 1, "seconds": seconds, "faults": faults}
    return figures


def _send(group: int, by: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, by)


def _comparable(made: dict[str, str], by: signal.Signals) -> dict[str, str]:
    """What is to be the same. A stop, other than a kill, adds a line to what is measured, and a point to its curve."""
    if by == signal.SIGKILL:
        return made
    return {name: digest for name, digest in made.items() if not name.endswith((".jsonl", "curve.png"))}


def _compare(out: Path, expected: dict[str, str], by: signal.Signals) -> list[str]:
    differing = difference(_comparable(contents(out), by), expected)
    if not differing:
        shutil.rmtree(out, ignore_errors=True)
    return [f"{out.name}: {name} differs" for name in differing]
