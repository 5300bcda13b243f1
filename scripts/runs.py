"""List training runs side by side, and plot their curves in one picture.

Runs are the directories of `fdif pretrain`, `fdif finetune` and `fdif import`, found at any depth below the folders
that are given. Speed is the median over the run's measurements. The last column has the settings in which the runs
differ. A damaged run is listed with what is wrong with it.

Example:
    fdif runs runs
    fdif runs runs/swin runs/resenc --sort dice --out runs.png --json runs.json
"""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fdif_jax.errors import FdifError
from fdif_jax.io.files import read_json_lines, write_json
from fdif_jax.scripts import cli
from fdif_jax.settings import flattened
from fdif_jax.training.run_document import ORIGIN, RUN, RunDocument
from fdif_jax.training.runs import METRICS, load_run

_SCORES = ("dice", "nsd", "accuracy")
_OWN_COLUMNS = ("kind", "network.name", "network.preset", "training.steps")
_NO_SETTINGS = (*ORIGIN, "source", "left_fresh")  # they say where a run was begun
_NUMBERS = ("step", "loss", *_SCORES, "speed")
_TITLES = {"data": "trained on", "dice": "Dice", "nsd": "NSD", "accuracy": "acc.", "speed": "vol/s"}
_PIPED_WIDTH = 160
_SHOWN, _WIDTH = 12, 40  # differing settings that are printed, and letters of each


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of ``fdif runs``."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("."),)
    """Folders with runs in them, or runs."""
    sort: Literal["name", "step", "loss", "dice", "nsd", "accuracy", "speed"] = "name"
    """Order of the rows: best, furthest or fastest first."""
    out: Path | None = None
    """Picture to write: loss and score of all runs, step by step."""
    json: Path | None = None
    """File to write the table to, with all settings."""


@dataclass(frozen=True)
class Entry:
    """A run in a few words and numbers; None for what is not known."""

    name: str  # its folder, from the one that was given
    path: str  # the directory
    kind: str | None = None  # pretraining, fine-tuning, imported, …
    network: str | None = None  # its name and size
    data: str | None = None  # the recipe or the dataset
    step: int | None = None  # the last that was measured
    steps: int | None = None  # of the whole run
    loss: float | None = None  # the last
    dice: float | None = None  # the best; so are the following two
    nsd: float | None = None  # surface Dice
    accuracy: float | None = None  # of a classification
    speed: float | None = None  # volumes a second
    settings: Mapping[str, Any] | None = None  # ``run.json`` by dotted names
    differs: Mapping[str, Any] | None = None  # those of the settings in which the runs differ
    error: str | None = None  # what is damaged
    history: Sequence[Mapping[str, float]] = ()  # the measurements


def run(config: Config) -> None:
    """Find the runs, and show, plot and write what they measured."""
    entries = with_differences([read(name, path) for name, path in find(config.folders)])
    whole = [entry for entry in entries if entry.error is None]
    if not whole:
        more = f" (and {len(entries) - 1} more damaged runs)" if len(entries) > 1 else ""
        raise FdifError(f"{entries[0].error}{more}")
    entries = ordered(entries, config.sort)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _PIPED_WIDTH)
    _show(entries, console)
    if config.out is not None:
        write_plot(entries, config.out)
        print(f"curves: {config.out}")
    if config.json is not None:
        write_json(
            config.json, [{k: v for k, v in vars(entry).items() if k != "history"} for entry in entries]
        )
        print(f"table: {config.json}")


def find(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """The names and directories of all runs, each once; FdifError if there is none, or no such folder."""
    found: dict[Path, tuple[str, Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FdifError(f"{folder} is not a folder; give folders with runs in them")
        for path in _run_directories(folder):
            # Of several folders the names say which.
            name = path if len(folders) > 1 or path == folder else path.relative_to(folder)
            found.setdefault(path.resolve(), (str(name), path))
    if not found:
        raise FdifError(f"there is no run ({RUN}) in {', '.join(map(str, folders))}")
    return list(found.values())


def _run_directories(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if RUN in files:
            folders.clear()  # checkpoints are many folders
            yield Path(path)
        folders.sort()


def read(name: str, path: Path) -> Entry:
    """What a run directory tells; what is damaged about it, if anything is, as its ``error``."""
    try:
        document, history = load_run(path).document, _history(path / METRICS)
        return _described(Entry(name, str(path), history=history), document)
    except FdifError as error:
        return Entry(name, str(path), error=str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Entry(name, str(path), error=f"{path / RUN} is not as a run's: {error!r}")


def _described(entry: Entry, document: RunDocument) -> Entry:
    settings = flattened({k: v for k, v in sorted(document.to_dict().items()) if k not in _NO_SETTINGS})
    steps, losses = _values(entry.history, "step"), _values(entry.history, "loss")
    speeds = _values(entry.history, "volumes_per_second")
    dice, nsd, accuracy = (max(_values(entry.history, score), default=None) for score in _SCORES)
    return replace(
        entry,
        kind=document.kind,
        network=_network(document.network),
        data=_data(document),
        step=int(steps[-1]) if steps else None,
        steps=settings.get("training.steps"),
        loss=losses[-1] if losses else None,
        dice=dice,
        nsd=nsd,
        accuracy=accuracy,
        speed=statistics.median(speeds) if speeds else None,
        settings=settings,
    )


def _history(path: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``; a run that goes on, or was killed, may have half a line at its end."""
    history = read_json_lines(path)
    for number, measurement in enumerate(history, 1):
        numbers = isinstance(measurement, dict) and all(
            isinstance(v, int | float) for v in measurement.values()
        )
        if not numbers or "step" not in measurement:
            raise FdifError(f"{path}: line {number} is damaged: it holds no numbers of a step")
    return history


def _values(history: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [m[key] for m in history if math.isfinite(m.get(key, math.nan))]


def _network(network: Mapping[str, Any]) -> str:
    others = ("name", "in_channels", "out_channels", "outputs", "dtype", "grid")
    sizes = (_setting(name, value) for name, value in network.items() if name not in others)
    return " ".join([str(network.get("name", "?")), *sizes])


def _setting(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    text = text if name == "preset" else f"{name}={text}"
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _data(document: RunDocument) -> str | None:
    recipe = document.recipe
    if recipe is not None:
        parts = [part["recipe"] for part in recipe.get("parts", [])] or [recipe]
        sources = dict.fromkeys(
            Path(v).name.split(":")[-1] for part in parts for v in part.get("vocabulary", [])
        )
        return " + ".join(sources) + " " + "×".join(map(str, recipe.get("grid", [])))
    if document.dataset is not None:
        return "/".join(Path(document.dataset.list).parts[-2:])
    return document.source.file if document.source else None


def with_differences(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, each with those of its settings that are not the same in all runs that have such a setting."""
    settings = [entry.settings for entry in entries if entry.settings is not None]
    names = dict.fromkeys(name for table in settings for name in table if name not in _OWN_COLUMNS)
    values = {name: [table[name] for table in settings if name in table] for name in names}
    differing = [name for name, given in values.items() if any(value != given[0] for value in given)]
    return [
        replace(entry, differs={n: entry.settings[n] for n in differing if n in entry.settings})
        if entry.settings is not None
        else entry
        for entry in entries
    ]


def ordered(entries: Sequence[Entry], column: str) -> list[Entry]:
    """Sorted by name or by a column, the best first; those that lack it come last."""
    entries = sorted(entries, key=lambda entry: entry.name)
    if column == "name":
        return entries
    sign = 1 if column == "loss" else -1

    def rank(entry: Entry) -> tuple[bool, float]:
        value = getattr(entry, column)
        return (True, 0.0) if value is None else (False, sign * value)

    return sorted(entries, key=rank)


def _show(entries: Sequence[Entry], console: Console) -> None:
    """Print the table, what all runs have in common, and what they differ in or is wrong with them."""
    words = [c for c in ("kind", "network", "data") if len({getattr(entry, c) for entry in entries}) > 1]
    numbers = [c for c in _NUMBERS if any(getattr(entry, c) is not None for entry in entries)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", *words):
        table.add_column(_TITLES.get(column, column), overflow="fold", min_width=6)
    for column in numbers:
        table.add_column(_TITLES.get(column, column), justify="right", no_wrap=True)
    for entry in entries:
        table.add_row(*(escape(_cell(entry, column)) for column in ("name", *words, *numbers)))
    console.print(table)
    common = [_cell(entries[0], column) for column in ("kind", "network", "data") if column not in words]
    if any(common):
        console.print(escape("all runs: " * (len(entries) > 1) + ", ".join(filter(None, common))))
    remarks = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for entry in entries:
        if text := _remarks(entry):
            remarks.add_row(escape(entry.name), text)
    if remarks.row_count:
        console.print("settings in which they differ:" if any(entry.differs for entry in entries) else "")
        console.print(remarks)


def _cell(entry: Entry, column: str) -> str:
    value = getattr(entry, column)
    if column == "kind" and entry.error is not None:
        return "damaged"
    if value is None:
        return ""
    if column == "step" and entry.steps is not None:
        return f"{value}/{entry.steps}"
    if column in ("loss", "speed"):
        return f"{value:.3g}"
    return f"{value:.3f}" if column in _SCORES else str(value)


def _remarks(entry: Entry) -> str:
    if entry.error is not None:
        return f"[red]damaged:[/] {escape(entry.error)}"
    differs = entry.differs or {}
    short = [name.rpartition(".")[2] for name in differs]
    brief = [name if short.count(last) > 1 else last for name, last in zip(differs, short, strict=True)]
    words = list(map(_setting, brief, differs.values()))
    more = [f"and {len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    return escape("  ".join([*words[:_SHOWN], *more]))


def write_plot(entries: Sequence[Entry], path: Path) -> None:
    """Draw loss and score (Dice, or a classification's accuracy) of all runs; FdifError if none has measured any."""
    from fdif_jax.viewing import viz

    panels: dict[str, dict[str, viz.Curve]] = {"loss": {}, "score": {}}
    for entry in entries:
        score = next((name for name in ("dice", "accuracy") if getattr(entry, name) is not None), "score")
        for panel, key in (("loss", "loss"), ("score", score)):
            points = [(m["step"], m[key]) for m in entry.history if math.isfinite(m.get(key, math.nan))]
            if points:
                panels[panel][entry.name] = points
    panels = {title: group for title, group in panels.items() if group}
    if not panels:
        raise FdifError(f"{path}: no run has measured anything yet")
    viz.save_panels(panels, path)


if __name__ == "__main__":
    cli.run("runs")
