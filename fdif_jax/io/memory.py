"""How much memory there is, so that what cannot fit is refused in a line before it is asked for."""

import contextlib
import os
import resource
from pathlib import Path

from fdif_jax.errors import FdifError

DEFLATED = 1032
"""Bytes that a byte of a deflated stream, as of gzip and zip, unpacks to at most."""


def memory() -> int:
    """Bytes that this process may have at most: the machine's, or what ulimit or its control group leaves of them."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    with contextlib.suppress(OSError):  # not Linux
        group = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip())
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no limit is the word "max"
                limits.append(int((folder / "memory.max").read_text()))
    return min(limit for limit in limits if limit > 0)


def check_fits(path: str | os.PathLike, needed: int) -> None:
    """Raise an FdifError if what a file says that it holds, in bytes, is more than the memory holds."""
    if needed > (there := memory()):
        raise FdifError(f"{path}: says that it holds {needed:,} bytes, and there are {there:,} of memory")
