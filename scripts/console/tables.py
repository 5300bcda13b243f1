"""Tables that the commands print."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table


def table_of(headings: Iterable[str], rows: Iterable[Sequence[str]], words: int = 1, **options: Any) -> Table:
    """A `rich.table.Table` (``options`` are its own) of texts; the first ``words`` columns flush left, numbers after
    them right.
    """
    table = Table(**options)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < words else "right")
    for row in rows:
        table.add_row(*row)
    return table


def table_by(
    cells: Mapping[str, Callable[..., str]], rows: Iterable[Any], words: int = 1, **options: Any
) -> Table:
    """A `table_of` what is in the rows: by heading, the text of a row's cell."""
    return table_of(cells, ([cell(row) for cell in cells.values()] for row in rows), words, **options)
