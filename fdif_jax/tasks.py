"""Tasks: the label maps that come with an image."""

from typing import NamedTuple


class Task(NamedTuple):
    """One label map: what it tells apart, and its foreground classes; class id = position + 1."""

    name: str
    class_names: tuple[str, ...]
