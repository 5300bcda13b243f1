"""Ratios need a machine that does nothing else: what other processes use of it, and ratios that are refused.

Whatever runs beside a measurement takes time from both sides, but not alike: PyTorch's threads wait for each other.
"""

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from fdif_jax.errors import FdifError

_BUSY = 0.1  # part of the cores that others may use; the system's own services need some
_STAT = Path("/proc/stat")
_LOOK = 0.5  # seconds of looking before anything is measured
_SPENT = (
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
)  # of a row of /proc/stat, in order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Options of a measurement that gives ratios."""

    anyway: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Give ratios although other processes are at work here, which is then said beside them."""


class _Reading(NamedTuple):
    seconds: float  # of the clock
    every: float  # processor time of all processes on the cores that this one may use
    own: float  # of this process, and of its children that have ended

    def cores_since(self, before: "_Reading") -> float:
        """Cores that others have used since, on the mean."""
        now, then = self.every - self.own, before.every - before.own
        return max(now - then, 0.0) / (self.seconds - before.seconds)


class Neighbours:
    """The other processes of this machine while ratios are measured, at whatever priority.

    On Linux it is their processor time; elsewhere the load of the last minute before, which also counts what this
    process did by then.

    Raises:
        FdifError: they work now, and ``anyway`` is not given.
    """

    def __init__(self, anyway: bool):
        self._anyway, self._cores = anyway, len(_cores())
        self._begun = _reading()
        time.sleep(_LOOK)
        self.others = self._since(self._begun)
        """Cores that they use, on the mean."""
        if self.busy and not anyway:
            raise FdifError(f"{self._told()}; wait until they have ended, or give --anyway")
        self._begun = _reading()

    @property
    def busy(self) -> bool:
        """Whether they have used too much for a ratio."""
        return self.others > _BUSY * self._cores

    def mark(self, rows: Iterable[dict[str, Any]], *ratios: str) -> None:
        """Write into rows of figures that have been measured what others have used since the beginning, and take
        away their ratios if that was too much.
        """
        self.others = self._since(self._begun)
        for row in rows:
            row |= {"other_cores": round(self.others, 3), "busy": self.busy}
            if self.busy and not self._anyway:
                row |= dict.fromkeys(ratios)

    def tell(self, console: Console) -> None:
        """Say, below ratios, what others have used as of the last `mark`; nothing on a quiet machine.

        FdifError where ratios were taken away.
        """
        if self.busy and not self._anyway:
            raise FdifError(
                f"{self._told()}: measure again when they have ended, or give --anyway; ratios were left out"
            )
        if self.busy:
            console.print(f"{self._told()}.".capitalize())

    def _since(self, before: _Reading | None) -> float:
        """Cores that others have used since; by the load where the system does not tell, and then only at first."""
        now = _reading()
        if now is None or before is None:
            return getattr(self, "others", os.getloadavg()[0])
        return now.cores_since(before)

    def _told(self) -> str:
        return f"other processes use {self.others:.1f} of {self._cores} cores, so that ratios mean little"


def shown_ratio(ratio: float | None, digits: int = 2) -> str:
    """A ratio in a table; a dash where it was taken away."""
    return "-" if ratio is None else f"{ratio:.{digits}f}"


def _cores() -> set[int]:
    """The cores that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _reading() -> _Reading | None:
    """Processor time until now; None where the system has no /proc/stat."""
    try:
        table = _STAT.read_text()
    except OSError:
        return None
    own, ticks, names = os.times(), 0, {f"cpu{core}" for core in _cores()}
    for name, *counts in map(str.split, table.splitlines()):
        if name in names:
            row = dict(zip(_SPENT, map(int, counts), strict=False))
            ticks += sum(row.values()) - row["idle"] - row["iowait"]
    spent = own.user + own.system + own.children_user + own.children_system
    return _Reading(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), spent)
