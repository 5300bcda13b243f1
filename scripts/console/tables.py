"""Tables that the commands print."""

from collections.abc import Iterable, Sequence
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
