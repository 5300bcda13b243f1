"""The files of a dataset made by several processes, each with one thread of XLA's.

XLA's threads on a CPU wait for work by spinning. Within one process they take the cores from what compresses and writes
beside them, so that on two cores a sample takes a sixth longer.
"""

import contextlib
import math
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import jax

from fdif_jax.datasets.sources import RenderedSource
from fdif_jax.datasets.writer import MakeFiles, encoded
from fdif_jax.errors import FdifError
from fdif_jax.scripts.console.compilation import keep_compiled_programs
from fdif_jax.scripts.options.format import DatasetJob, FormatOptions, job_of

WORTH = 10**9  # voxels to render, from which on processes gain more than their start takes
_CONTEXT = multiprocessing.get_context("spawn")  # XLA's threads do not survive a fork


@contextlib.contextmanager
def files_of(
    options: FormatOptions, job: DatasetJob, workers: int, batch_size: int = 1
) -> Iterator[tuple[MakeFiles, int]]:
    """What makes a dataset's files, and from how many threads to call it to have ``workers`` cores at work.

    Args:
        options: that the job follows from; each process finds it again.
        job: the dataset; a small one, or one on a GPU, is rendered by threads of this process.
        workers: cores.
        batch_size: samples of a call.

    Raises:
        FdifError: as `RenderedSource`.
    """
    make_files = _made_here(options, job, batch_size)
    large = job.plan.total * math.prod(job.plan.grid) >= WORTH
    if workers < 2 or not large or jax.default_backend() != "cpu":
        yield make_files, workers
        return
    processes = RenderProcesses(options, workers, batch_size)
    try:
        yield processes, workers + 1  # one writes while the others wait for their processes
    finally:
        processes.close()


def _made_here(options: FormatOptions, job: DatasetJob, batch_size: int) -> MakeFiles:
    return encoded(RenderedSource(job.sample, options.seed, batch_size), job.plan)


class RenderProcesses:
    """Makes files in ``count`` processes, which begin with the first call; called from several threads at once.

    The first process compiles while the others wait. They end when this one does, however it ends.
    """

    def __init__(self, options: FormatOptions, count: int, batch_size: int):
        self._options, self._count, self._batch_size = options, count, batch_size
        self._beginning, self._compiled = threading.Lock(), _CONTEXT.Event()
        self._free: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._connections: list[Connection] = []
        self._processes: list[Any] = []

    def _begin(self) -> None:
        with _no_interrupts():
            for number in range(self._count):
                ours, theirs = _CONTEXT.Pipe()
                arguments = (self._options, self._batch_size, theirs, self._compiled, number == 0)
                process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                theirs.close()  # so that its end is seen here
                self._processes.append(process)
                self._connections.append(ours)
                self._free.put(ours)

    def __call__(self, indices: Sequence[int]) -> list[list[bytes]]:
        """The contents of each sample's files; FdifError if a process is killed, and what one raises."""
        with self._beginning:
            if not self._processes:
                self._begin()
        connection = self._free.get()
        try:
            connection.send(list(indices))
            answer: Any = connection.recv()
        except (EOFError, OSError):
            raise FdifError(
                "a process that renders was ended, perhaps for want of memory; give fewer --workers: the same "
                "command goes on from here"
            ) from None
        finally:
            self._free.put(connection)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that are started within never hear Ctrl-C, which is for this one; where there are such signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    options: FormatOptions, batch_size: int, connection: Connection, compiled: Event, first: bool
) -> None:
    """Answer indices with the contents of files, until the other end is closed; the first process compiles."""
    # Threads of XLA's, which counts them as JAX computes for the first time.
    os.environ.setdefault("NPROC", "1")
    keep_compiled_programs()
    make_files = _made_here(options, job_of(options), batch_size)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            indices = connection.recv()
            while not (first or compiled.wait(1)):
                if connection.poll():  # closed, as nothing else is sent before an answer
                    return
            connection.send(_answer(make_files, indices))
            compiled.set()


def _answer(make_files: MakeFiles, indices: Sequence[int]) -> list[list[bytes]] | Exception:
    try:
        return [list(map(bytes, files)) for files in make_files(indices)]
    except Exception as error:  # whatever it is, the process that asks tells it
        return error
