"""Tables that the commands print."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table


def table_of(headings: Iterable[str], rows: Iterable[Sequence[str]], words: int = 1, **options: Any) -> Table:
    """A table of texts.

    Args:
        headings: of the columns.
        rows: a text a column.
        words: how many columns, the first ones, are flush left; those of numbers after them are flush right.
        options: of `rich.table.Table`.
    """
    table = Table(**options)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < words else "right")
    for row in rows:
        table.add_row(*row)
    return table
