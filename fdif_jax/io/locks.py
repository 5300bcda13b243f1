"""Open files that one process at a time holds."""

from typing import IO

from filelock import lock_descriptor


def hold(file: IO, *, wait: bool = False) -> bool:
    """Hold an open file until it is closed; False where another process does, unless this is to wait for it.

    A file system without locks lets everybody have it.
    """
    try:
        return lock_descriptor(file.fileno(), blocking=wait)
    except OSError:
        return True
