"""What `--dry-run` tells of a long command: what it would do, how long it would take, disk and memory."""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from fdif_jax.scripts.console.watching import peak_memory
from fdif_jax.training.loop import Rehearsal
from fdif_jax.training.processes import is_first_process
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import check_begins, load_run

if TYPE_CHECKING:  # slow to import
    from fdif_jax.datasets.writer import MakeFiles

SECONDS = 3.0  # that a rate is measured for, after compiling
_KEPT = 3  # checkpoints at a time: the newest two and the best


class Estimate(NamedTuple):
    """What a command would need.

    Attributes:
        doing: what it would do, a line each.
        seconds: how long it would take.
        rate: the rate that this follows from, in words.
        disk: bytes that it would write.
        out: where.
    """

    doing: Sequence[str]
    seconds: float
    rate: str
    disk: float
    out: Path

    def tell(self) -> None:
        """Print it, with the disk's room, and the memory that measuring took."""
        if not is_first_process():
            return
        peak = size(peak_memory(jax.local_devices()))
        lines = [
            *self.doing,
            f"time: {duration(self.seconds)}; {self.rate}",
            f"disk: {size(self.disk)} in {self.out}, where {size(room(self.out))} are free",
            f"memory: {peak} at most, as measured so far",
        ]
        print("dry run: nothing is written", *lines, sep="\n  ")


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 3.4 minutes, 5.6 hours."""
    if seconds < 90:
        return f"{max(math.ceil(seconds), 0)} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def size(count: float) -> str:
    """Bytes in words: 12 MB, 3.4 GB."""
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def room(path: Path) -> int:
    """Bytes that are free where ``path`` is, or would be."""
    return shutil.disk_usage(next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())).free


def rate_of_training(rehearsal: Rehearsal) -> str:
    """A measured step in words."""
    return f"{rehearsal.step:.3g} s a step, {duration(rehearsal.compiling)} to compile it"


def estimate_training(
    out: Path, document: RunDocument, steps: int, keep_every: int, rehearse: Callable[[], Rehearsal]
) -> Estimate:
    """What a training needs, from where its directory is; FdifError as of `open_run`, before anything is measured."""
    done = steps_done(out) if check_begins(out, document) else 0
    measured = rehearse()
    left = max(steps - done, 0)
    doing = f"{left} of {steps} steps" + (f"; {done} are done" if done else "")
    kept = _KEPT + (steps // keep_every if keep_every else 0)
    return Estimate(
        [doing],
        left * measured.step + measured.compiling * (left > 0),
        rate_of_training(measured) + ", validations not counted",
        kept * measured.state_bytes,
        out,
    )


def steps_done(run: Path) -> int:
    """The step of a run's newest checkpoint; 0 where it has none."""
    with load_run(run).checkpoints(read_only=True) as checkpoints:
        return checkpoints.latest() or 0


class SampleRate(NamedTuple):
    """What a sample of a dataset costs: seconds with all workers at it, bytes, and the seconds of the first."""

    seconds: float
    bytes: float
    first: float

    @property
    def per_second(self) -> str:
        """Samples a second to three digits, without an exponent."""
        return f"{float(f'{1 / self.seconds:.3g}'):g}"


def rate_of_samples(
    make_files: "MakeFiles", indices: Sequence[int], workers: int, batch_size: int
) -> SampleRate:
    """Make the files of some of a dataset's samples as the writer does, with as many threads, and keep none."""
    runs = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]

    def rendered(run: Sequence[int]) -> list[int]:
        return [sum(map(len, files)) for files in make_files(run)]

    begun = time.perf_counter()
    sizes = rendered(runs[0])
    first = time.perf_counter() - begun
    with ThreadPoolExecutor(workers) as pool:
        rounds = _again(runs, workers)
        list(pool.map(rendered, next(rounds)))  # each worker begins
        begun, measured = time.perf_counter(), 0
        for some in rounds:
            found = [bytes_ for of_run in pool.map(rendered, some) for bytes_ in of_run]
            sizes, measured = sizes + found, measured + len(found)
            if time.perf_counter() - begun > SECONDS:
                break
    return SampleRate((time.perf_counter() - begun) / measured, sum(sizes) / len(sizes), first)


def _again(runs: Sequence[Any], count: int) -> Iterator[Iterable[Any]]:
    """``count`` of the runs at a time, again and again."""
    start = 0
    while True:
        yield [runs[(start + i) % len(runs)] for i in range(count)]
        start += count
