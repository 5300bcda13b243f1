"""Folders and files that are whole or not there: bytes, JSON, CSV, and JSON lines that grow."""

import contextlib
import csv
import io
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError

MESHES = (".stl", ".ply", ".obj")  # endings of meshes that are written and read
# Characters of a file's name in that of its part, which is not to be too long where the name is not.
_SHOWN = 40
DEEPEST = 200  # tables and lists in each other
_STAND_INS = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the data; `git lfs pull` fetches them",
    b"/annex/objects/": "a pointer of git-annex instead of the data; `git annex get` fetches them",
    b"<": "a web page (HTML or XML) instead of the data; its address asks for a login, or is not that of the file",
}


def make_folder(path: Path) -> None:
    """Make a directory to write to, and those above it; FdifError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise FdifError(f"{path}: cannot be made a directory: {error.strerror}") from None


def check_out(path: Path, *, folder: bool = False) -> None:
    """Check before long work that what comes of it, a file or a ``folder``, can be written to ``path``.

    FdifError if the other of them has the name, or the folder above takes no files.
    """
    if path.exists() and path.is_dir() != folder:
        there, wanted = ("file", "folder") if folder else ("folder", "file")
        raise FdifError(f"{path}: is a {there}; give the name of a {wanted}")
    near = next(above for above in path.absolute().parents if above.exists())
    if not near.is_dir():
        raise FdifError(f"{path}: cannot be written: {near} is no folder")
    if not os.access(near, os.W_OK):
        raise FdifError(f"{path}: cannot be written: the folder {near} takes no files")


def check_once(paths: Iterable[str | os.PathLike]) -> None:
    """Raise an FdifError if a file or folder is given twice, so that it would count twice."""
    seen: set[str] = set()
    for path in paths:
        if (real := os.path.realpath(path)) in seen:
            raise FdifError(f"{path}: is given twice, and would count twice; leave one of them out")
        seen.add(real)


def not_there(path: str | os.PathLike) -> FdifError:
    """The error for a file that is missing, or that is a folder; of a link it says where that leads."""
    if os.path.isdir(path):
        return FdifError(f"{path}: a folder, where a file is wanted")
    if os.path.islink(path):
        return FdifError(
            f"{path}: no such file: a link to {os.readlink(os.fspath(path))}, which is not there"
        )
    return FdifError(f"{path}: no such file")


def visible(folder: Path) -> list[str]:
    """The names of what is in a folder, in order, but for what is hidden; none where there is no folder."""
    return sorted(name for name in os.listdir(folder) if name[0] != ".") if folder.is_dir() else []


def is_file_or_link(path: str | os.PathLike) -> bool:
    """Whether there is a file, or a link to one that is not there, which reading it tells."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def check_genuine(path: str | os.PathLike) -> None:
    """Raise an FdifError if a file that could not be read as data holds what often lies in the place of such files."""
    with open(path, "rb") as file:
        start = file.read(80).lstrip()
    for sign, what in _STAND_INS.items():
        if start.startswith(sign):
            raise FdifError(f"{path}: holds {what}")


@contextlib.contextmanager
def reading(path: str | os.PathLike, fault: str) -> Iterator[None]:
    """Read a file in the block: whatever a library raises becomes an FdifError of its path, the fault, and why; or of
    what the file is instead, see `check_genuine`. NumPy says nothing of numbers that overflow, which are checked.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except FdifError:
        raise
    except Exception as error:  # libraries raise whatever they stumble over
        if os.path.isfile(path):
            check_genuine(path)
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise FdifError(f"{path}: {fault} ({why})") from error


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file in the block, under the name that it gives, so that ``path`` is either as it was before or whole.

    That is a hidden ``*.part`` file in the same folder; it is removed when writing fails, and the OSError names
    ``path``.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:_SHOWN]}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def write_atomic(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` as a `whole_file`."""
    with whole_file(path) as part:
        part.write_bytes(data)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write plain data as `write_atomic` does."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())


def write_csv(path: str | os.PathLike, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of fields, the first one their names, as `write_atomic` does; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"))


def parsed(loads: Callable[[Any], Any], text: str | bytes) -> Any:
    """What ``loads``, of JSON or TOML, makes of a text; ValueError if it is damaged, or deeper than any of ours.

    A value that is nested a thousand times ends whoever reads or prints it.
    """
    brackets = (b"[", b"{", b".") if isinstance(text, bytes) else ("[", "{", ".")
    try:
        value = loads(text)
        may_be_deep = max(map(text.count, brackets)) > DEEPEST  # type: ignore[arg-type]
        level, depth = [value] * may_be_deep, 0
        while level:
            inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
            level, depth = list(itertools.chain.from_iterable(inner)), depth + 1
            if depth > DEEPEST:
                raise RecursionError
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} times") from None
    return value


def json_of(text: str | bytes) -> Any:
    """What JSON says, see `parsed`; ValueError, too, if a table has a key twice, of which readers take the last."""
    return parsed(partial(json.loads, object_pairs_hook=_table), text)


def _table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice in one table")
    return table


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
        values += [parsed(json.loads, rest)] if rest else []
    return values


def whole_json_lines(data: bytes) -> tuple[list[Any], int]:
    """The values of the JSON lines before the first that is damaged or not ended, and the length of these in bytes."""
    values: list[Any] = []
    length = 0
    for line in data.splitlines(keepends=True):
        try:
            value = parsed(json.loads, line)
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
