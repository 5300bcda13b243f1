"""The progress that the commands share: a bar in a terminal, else plain lines for a log, or JSON for a program.

A line of JSON is an object with the keys

* ``phase``: what is being done, in words;
* ``step`` and ``total``: how much of it is done, and how much there is, numbers; ``total`` is null where nobody knows;
* ``rate``: steps a second, and ``seconds_left``: null until they were measured;
* ``measured``: what else is told, in words: loss, the case that is read.

or with the one key ``message``, for what is skipped or remarked on the way. All of it goes to stderr.
"""

import json
import math
import sys
import threading
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

Form = Literal["auto", "plain", "json"]
SECONDS = {"plain": 30.0, "json": 1.0}  # between two lines
_MEASURED_OVER = 600.0  # seconds that a rate is a mean of; a step may take minutes
_form: Form = "auto"


def show_as(form: Form) -> None:
    """Choose the form of what `progress_bar` shows from now on; ``auto`` is a bar in a terminal, and else ``plain``."""
    global _form
    _form = form


def progress_bar() -> Progress:
    """Progress on stderr: what is done, how much, the task's field ``measured`` in words, time left."""
    console = Console(stderr=True)
    if _form != "auto" or not console.is_terminal:
        return _Lines(console, "json" if _form == "json" else "plain")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def say(bar: Progress, text: str) -> None:
    """Print a line above the bar as it is, or among the lines of progress."""
    if isinstance(bar, _Lines):
        bar.say(text)
    else:
        bar.console.print(text, soft_wrap=True, highlight=False, markup=False)


class _Lines(Progress):
    """Progress as a line every so many seconds, and one of every task at the end; nothing is drawn."""

    def __init__(self, console: Console, form: Literal["plain", "json"]) -> None:
        super().__init__(console=console, disable=True, speed_estimate_period=_MEASURED_OVER)
        self._json, self._every = form == "json", SECONDS[form]
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._told: dict[int, str] = {}  # of every task its last line

    def start(self) -> None:
        """Begin to tell, in a thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Tell how far every task has come, and end."""
        if self._thread is None:
            return
        self._stopped.set()
        self._thread.join()
        self._thread, self._stopped = None, threading.Event()
        self._tell(self.tasks)

    def say(self, text: str) -> None:
        """Print a line, or ``{"message": …}``."""
        self._print(json.dumps({"message": text}) if self._json else text)

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self._tell([task for task in self.tasks if not task.finished])

    def _tell(self, tasks: list[Task]) -> None:
        """A line of each task; a program is not told twice that nothing has changed."""
        for task in tasks:
            line = json.dumps(_document(task)) if self._json else _words(task)
            if not (self._json or task.finished) or self._told.get(task.id) != line:
                self._told[task.id] = line
                self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _document(task: Task) -> dict[str, float | str | None]:
    left = task.time_remaining
    return {
        "phase": task.description,
        "step": _number(task.completed),
        "total": None if task.total is None else _number(task.total),
        "rate": None if not task.speed else float(f"{task.speed:.4g}"),
        "seconds_left": None if left is None else round(left),
        "measured": str(task.fields.get("measured", "")),
    }


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else round(value, 3)


def _words(task: Task) -> str:
    told = _document(task)
    parts = [f"{told['phase']} {told['step']}" + (f"/{told['total']}" if task.total is not None else "")]
    parts += [str(told["measured"])] if told["measured"] else []
    if task.speed:
        parts.append(f"{task.speed:.3g}/s" if task.speed >= 0.1 else f"{1 / task.speed:.3g} s each")
    if not task.finished and told["seconds_left"] is not None:
        minutes = math.ceil(float(str(told["seconds_left"])) / 60)
        parts.append(
            f"{minutes // 60} h {minutes % 60:02} min left" if minutes >= 60 else f"{minutes} min left"
        )
    return ", ".join(parts)
