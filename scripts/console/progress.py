"""The progress bar that the commands share."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar() -> Progress:
    """A bar on stderr: what is done, how much, the task's field ``measured`` in words, time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def say(bar: Progress, text: str) -> None:
    """Print a line above the bar as it is."""
    bar.console.print(text, soft_wrap=True, highlight=False, markup=False)
