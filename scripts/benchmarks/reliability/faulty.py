"""Run a command in a process where something goes wrong: ``python -m …faulty FAULT NUMBER FOLDER COMMAND ARGUMENTS``.

FAULT is what happens at the NUMBER-th chance:

    eio      a file of FOLDER is opened, and reading it is an error of the device
    denied   a file of FOLDER is opened to be written, and may not be
    clock    the time is asked for: from then on it is a day earlier
    nolock   files are locked: from the first on, the file system knows no locks
"""

import builtins
import errno
import io
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_DAY = 86_400


class _Failing(io.RawIOBase):
    """A file whose first read is an error, without a name, as the system gives it."""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def seekable(self) -> bool:
        return True

    def seek(self, *arguments: int) -> int:
        return self._file.seek(*arguments)

    def __init__(self, path: Any) -> None:
        super().__init__()
        self._file = io.FileIO(path)

    def readinto(self, _: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _opening(number: int, folder: str, writing: bool) -> None:
    """Let the ``number``-th opening of a file of the folder fail."""
    chances, known = itertools.count(1), builtins.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        inside = isinstance(file, str | os.PathLike) and os.path.abspath(os.fspath(file)).startswith(folder)
        writes = any(letter in mode for letter in "wax+")
        if not inside or writes != writing or next(chances) != number:
            return known(file, mode, *arguments, **options)
        if writing:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(file))
        buffered = io.BufferedReader(_Failing(file))
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    builtins.open = io.open = opened  # type: ignore[assignment]


def _clock(number: int, folder: str) -> None:
    chances, seconds, nanoseconds = itertools.count(1), time.time, time.time_ns
    time.time = lambda: seconds() - _DAY * (next(chances) >= number)
    time.time_ns = lambda: nanoseconds() - _DAY * 10**9 * (next(chances) >= number)


def _no_locks(number: int, folder: str) -> None:
    from fdif_jax.io import locks

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    locks.lock_descriptor = refused  # type: ignore[assignment]


FAULTS: dict[str, Callable[[int, str], None]] = {
    "eio": lambda number, folder: _opening(number, folder, False),
    "denied": lambda number, folder: _opening(number, folder, True),
    "clock": _clock,
    "nolock": _no_locks,
}


def main(fault: str, number: str, folder: str, command: str, *arguments: str) -> None:
    """Lay the fault, and run the command."""
    from fdif_jax.scripts import cli

    FAULTS[fault](int(number), os.path.abspath(folder))
    cli.run(command, list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
