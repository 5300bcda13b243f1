"""Several processes that train together: how they find each other, wait, and agree."""

import os
import re
import socket
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fdif_jax.errors import FdifError

_WAIT_SECONDS = 300.0  # for process 0 to listen
_LOST = (
    "Gloo",
    "NCCL",
    "CoordinationService",
)  # in the words of an exchange that fails, as another process is gone


def join_processes(how: str) -> None:
    """Make this process one of several that train together; before anything else is done with JAX.

    Args:
        how: ``auto`` where the cluster says who is who (SLURM, Open MPI, cloud TPUs), or ``HOST:PORT,i/n``: where
            process 0 listens, and which of how many this one is.

    Raises:
        FdifError: ``how`` is neither, or the others cannot be found.
    """
    explicit = re.fullmatch(r"([^,\s]+:\d+),(\d+)/(\d+)", how)
    if explicit is None and how != "auto":
        raise FdifError(f"--distributed {how}: must be auto, or HOST:PORT,i/n as in node0:9876,0/2")
    where: dict[str, Any] = {}
    if explicit:
        address, index, count = explicit[1], int(explicit[2]), int(explicit[3])
        if index >= count:
            raise FdifError(f"--distributed {how}: processes are counted from 0, so i must be below {count}")
        _check_reachable(how, address, listens=index == 0)
        where = {"coordinator_address": address, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**where)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if how == "auto" and isinstance(error, ValueError):
            reason = "no cluster here says who is who; give HOST:PORT,i/n"
        raise FdifError(f"--distributed {how}: the processes did not find each other: {reason}") from None


def processes_here(count: int) -> list[str]:
    """What `join_processes` takes in each of so many processes of this machine, with a port that nobody listens at."""
    port = free_port()
    return [f"localhost:{port},{i}/{count}" for i in range(count)]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def _check_reachable(how: str, address: str, listens: bool) -> None:
    """Check that process 0 can listen, or wait until it does; what JAX does itself if not is to abort."""
    host, port = address.rsplit(":", 1)
    end, told = time.monotonic() + _WAIT_SECONDS, False
    while True:
        try:
            if listens:
                with socket.socket() as listener:
                    # What the system keeps of connections that have ended, as of a run before this one, is no matter.
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind(("", int(port)))
            else:
                socket.create_connection((host, int(port)), timeout=_WAIT_SECONDS).close()
            return
        except (OSError, OverflowError) as error:
            if listens:
                raise FdifError(f"--distributed {how}: port {port} cannot be listened at: {error}") from None
            # On a cluster a name may be there only once what has it is.
            if time.monotonic() > end or isinstance(error, OverflowError):
                raise FdifError(
                    f"--distributed {how}: process 0 does not listen at {address}: {error}"
                ) from None
            if not told:
                print(f"waiting for process 0 at {address}: {error}", file=sys.stderr, flush=True)
            told = True
            time.sleep(0.5)


def lost_process(error: BaseException) -> str | None:
    """What is wrong where an error comes of another process that has ended; else None."""
    if not (jax.distributed.is_initialized() and any(sign in str(error) for sign in _LOST)):
        return None
    return (
        "another process of this training has ended or does something else; it tells why. Given to all of them, the "
        f"same command goes on from the last checkpoint ({str(error).splitlines()[0]})"
    )


def leave_others(status: int) -> None:
    """End this process at once where others train with it, for which JAX would wait at its end, and they for it.

    They end, too: when they next exchange something, or after the 100 s in which they have not heard of it.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def is_first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Wait until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())
