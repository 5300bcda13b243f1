"""Folders as they are compared."""

from pathlib import Path


def tree(folder: str | Path) -> dict[str, bytes]:
    """The contents of all files of a folder by path within it."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
