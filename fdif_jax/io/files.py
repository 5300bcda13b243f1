"""Folders and files that are whole or not there: bytes, JSON, CSV, and JSON lines that grow."""

import contextlib
import csv
import io
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fdif_jax.errors import FdifError

MESHES = (".stl", ".ply", ".obj")  # endings of meshes that are written and read


def make_folder(path: Path) -> None:
    """Make a directory to write to, and those above it; FdifError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise FdifError(f"{path}: cannot be made a directory: {error.strerror}") from None


def write_atomic(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` so that the name holds either what it held before or all of ``data``.

    A hidden ``*.part`` file in the same folder takes the bytes first; it is removed when writing fails, and
    the OSError names ``path``.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write plain data as `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_csv(path: str | os.PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of fields, the first one their names, as `write_atomic` does; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode())


def read_json_lines(path: str | os.PathLike) -> list[Any]:
    """The values of a file of JSON lines, but of half a line at its end, which a killed process may have left.

    None are where there is no file. FdifError, naming the line, if one before the end is damaged.
    """
    data = Path(path).read_bytes() if Path(path).is_file() else b""
    values, length = whole_json_lines(data)
    rest = data[length:]
    if b"\n" in rest:
        raise FdifError(f"{path}: line {len(values) + 1} is damaged: it is no JSON")
    with contextlib.suppress(ValueError):
        values += [json.loads(rest)] if rest else []
    return values


def whole_json_lines(data: bytes) -> tuple[list[Any], int]:
    """The values of the JSON lines before the first that is damaged or not ended, and the length of these in bytes."""
    values: list[Any] = []
    length = 0
    for line in data.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        values.append(value)
        length += len(line)
    return values, length


def append_json_line(path: str | os.PathLike, value: Any) -> None:
    """Add a line to a file of JSON lines."""
    with open(path, "ab") as file:
        file.write(_json_line(value))


def write_json_lines(path: str | os.PathLike, values: Iterable[Any]) -> None:
    """Write a file of JSON lines as `write_atomic` does."""
    write_atomic(path, b"".join(map(_json_line, values)))


def _json_line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
