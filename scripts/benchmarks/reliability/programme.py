"""Make faults on purpose, and count what goes wrong: hostile and damaged files, kills, disks, pairs, long runs.

Parts:
    hostile   files made to harm: bombs, pickles, names and links that lead elsewhere
    server    `fdif browse` attacked
    fuzzing   damaged files of every format, given to their readers
    kills     commands killed at random moments and begun again, until they end as whole ones
    stops     the same by SIGTERM
    full      a disk that is full at a random byte, then has room (where file systems can be mounted)
    eio       an error of the device while files are read
    denied    writing is forbidden midway
    clock     the clock jumps back by a day
    together  each command twice in one directory at the same time
    nolock    the same where the file system knows no locks
    memory    what long runs hold in their middle and at their end

Every part is made by --seed, so that the same command makes the same faults. What goes wrong is printed, and the
command ends with status 2 if anything does.

Example:
    fdif bench reliability --parts hostile server
    fdif bench reliability --parts fuzzing --inputs 100000 --formats nifti torch --json fuzzing.json
    fdif bench reliability --kills 100 --stops 20 --json reliability.json
"""

import dataclasses
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import make_folder, write_json
from fdif_jax.scripts.benchmarks.reliability import disk, fuzzing, hostile, kills, memory, server
from fdif_jax.scripts.benchmarks.reliability.commands import WRITING, Commands
from fdif_jax.scripts.benchmarks.reliability.formats import FORMATS
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.options.settings import check_least

Figures = dict[str, dict[str, Any]]
_UNLOCKED = ("generate", "bank build")  # of which two at once need no lock to leave what one does


@dataclasses.dataclass(frozen=True)
class Config:
    """What to try, and how often."""

    parts: tuple[str, ...] = ()
    """Parts to run; all if none is given."""
    formats: tuple[str, ...] = ()
    """Formats to damage; all if none is given."""
    commands: tuple[str, ...] = ()
    """Commands to disturb (generate, pretrain, finetune, predict, experiment, "bank build"); all if none is given."""
    inputs: int = 2000
    """Damaged files of each format."""
    kills: int = 10
    """Kills of each command."""
    stops: int = 3
    """Times that each command is asked to end."""
    faults: int = 3
    """Full disks, errors, refusals and jumps of the clock for each command."""
    pairs: int = 2
    """Pairs of each command."""
    samples: int = 2000
    """Samples of the long generation."""
    steps: int = 500
    """Steps of the long pre-trainings."""
    scans: int = 50
    """Scans of the long prediction."""
    seed: int = 0
    """Of everything random."""
    out: Path | None = None
    """Folder to work in, which is kept; a temporary one if not given."""
    json: Path | None = None
    """File for the figures."""


def run(config: Config) -> None:
    """Run the parts, print a table of each, write the figures; FdifError if anything went wrong."""
    _check(config)
    console, figures = Console(width=118), {}
    with tempfile.TemporaryDirectory(prefix="fdif_reliability_") as lent:
        bench = _Bench(config, config.out or Path(lent))
        for name in config.parts or PARTS:
            figures[name] = PARTS[name](bench)
            console.print(_table(name, figures[name]))
            for what, row in figures[name].items():
                for fault in row["faults"][:20]:
                    console.print(f"{name}, {what}: {fault}", markup=False, highlight=False, soft_wrap=True)
            if config.json:
                write_json(config.json, {"seed": config.seed, "parts": figures})
    wrong = sum(len(row["faults"]) for part in figures.values() for row in part.values())
    if wrong:
        raise FdifError(f"{wrong} faults")


def _check(config: Config) -> None:
    for kind, known in (("part", PARTS), ("format", FORMATS), ("command", WRITING)):
        for name in getattr(config, f"{kind}s"):
            if name not in known:
                raise unknown(kind, name, known)
    least = ("inputs", "kills", "stops", "faults", "pairs", "samples", "steps", "scans")
    check_least(config, **dict.fromkeys(least, 1))
    if config.out and config.out.exists() and any(config.out.iterdir()):
        raise FdifError(f"--out {config.out} is not empty; give a new folder")


class _Bench:
    """What the parts share: where they work, and commands with what these read, made when first asked for."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder.absolute()
        self.names = config.commands or tuple(WRITING)
        self._commands: Commands | None = None

    def place(self, name: str) -> Path:
        """A folder of a part's own."""
        make_folder(self.folder / name)
        return self.folder / name

    @property
    def commands(self) -> Commands:
        """The commands to disturb."""
        if self._commands is None:
            needed = {*self.names, *({"predict"} if "memory" in (self.config.parts or PARTS) else ())}
            self._commands = Commands(self.place("commands"), sorted(needed))
        return self._commands

    def faulty(self, fault: str) -> Figures:
        """The commands with a fault of `faulty`."""
        return disk.faulty(
            self.commands, self.names, fault, self.config.faults, self.config.seed, self.inputs
        )

    @property
    def inputs(self) -> Path:
        """Where the files are that the commands read."""
        return self.place("commands")

    def full(self) -> Figures:
        """The commands on full disks; FdifError where none can be mounted."""
        if not disk.can_mount():
            raise FdifError("this machine lets its users mount no file systems; leave the part full out")
        return disk.full(self.commands, self.names, self.config.faults, self.config.seed)

    def pairs(self, names: Sequence[str], *hook: str) -> Figures:
        """The commands of these names, two at once."""
        return disk.together(self.commands, names, self.config.pairs, *hook)


PARTS: Mapping[str, Callable[[_Bench], Figures]] = {
    "hostile": lambda b: hostile.measure(b.place("hostile")),
    "server": lambda b: server.measure(b.place("server")),
    "fuzzing": lambda b: fuzzing.measure(
        b.config.formats or tuple(FORMATS), b.config.inputs, b.config.seed, b.place("fuzzing")
    ),
    "kills": lambda b: kills.measure(b.commands, b.names, b.config.kills, b.config.seed, signal.SIGKILL),
    "stops": lambda b: kills.measure(b.commands, b.names, b.config.stops, b.config.seed, signal.SIGTERM),
    "full": _Bench.full,
    "eio": lambda b: b.faulty("eio"),
    "denied": lambda b: b.faulty("denied"),
    "clock": lambda b: b.faulty("clock"),
    "together": lambda b: b.pairs(b.names),
    "nolock": lambda b: b.pairs(
        [name for name in b.names if name in _UNLOCKED], "nolock", "1", str(b.inputs)
    ),
    "memory": lambda b: memory.measure(
        b.commands, b.inputs, b.config.samples, b.config.steps, b.config.scans
    ),
}


def _table(name: str, figures: Figures) -> Any:
    """A row for each thing that was tried; its faults are counted."""
    keys = [key for key in next(iter(figures.values()), {}) if key not in ("said", "faults")]
    rows = (
        (what, *(_number(row.get(key, "")) for key in keys), f"[bold]{len(row['faults'])}[/]")
        for what, row in figures.items()
    )
    return table_of(("", *keys, "faults"), rows, title=f"fdif bench reliability: {name}")


def _number(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
