"""Write a labelled synthetic dataset for MONAI, nnU-Net v2 or the SSL3D_classification trainer.

Sample i depends on the recipe, the seed and i alone. Stop it at any time (even with kill -9) and give the
same command again: it writes what is missing, and the directory ends up the same, byte for byte.

To share the work, give each process its --shard, and all one directory; the last to end checks every file and
writes the lists and the manifest. Shards that were written elsewhere are copied into one directory (with their
journals); any of their commands, given again, then finishes it, or says what is missing.

Options that are not given stay as the recipe has them.

Example:
    fdif generate --out data/fdif --num-samples 5000
    fdif generate --out raw --format nnunet --primitives sphere torus --min-objects 2 --max-objects 5
    fdif generate --out data/shapes --format classification --samples-per-class 200
    for i in 0 1 2 3; do fdif generate --out data/fdif --num-samples 5000 --shard $i/4 & done; wait
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import fdif_jax as fd
from fdif_jax.datasets import classification
from fdif_jax.datasets.layouts import ClassificationLayout, DatasetPlan
from fdif_jax.datasets.writer import Report, survey_dataset, write_files
from fdif_jax.errors import FdifError
from fdif_jax.extras import lacking
from fdif_jax.io.b2nd import read_b2nd
from fdif_jax.io.volumes import read_volume
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.jobs.dry_run import Estimate, duration, rate_of_samples
from fdif_jax.scripts.jobs.render_processes import files_of
from fdif_jax.scripts.options.format import DatasetJob, FormatOptions, job_of
from fdif_jax.scripts.options.long_work import LongOptions

Shard = tuple[int, int] | None


@dataclass(frozen=True)
class Config(FormatOptions, LongOptions):
    """Options of `fdif generate`."""

    out: Path | None = None
    """Directory to write to; a new datasets/fdif_TIME if not given."""
    visualize: int = 0
    """Also write this many training samples as pictures to OUT/previews."""
    batch_size: int = 1
    """Samples that a worker renders in one call."""
    workers: int | None = None
    """Threads that render, compress and write, of a large dataset on a CPU processes; one for each core (at most 16) if
    not given."""
    shard: str | None = None
    """i/n: write only the samples whose index leaves i when divided by n (i = 0 to n-1)."""


def run(config: Config) -> None:
    """Write the dataset, or what is missing of it."""
    if config.visualize < 0:
        raise FdifError(f"--visualize is {config.visualize}; it must be 0 or more")
    if config.visualize and (lack := lacking("pictures")):
        raise FdifError(f"--visualize {lack}")
    shard = _parse_shard(config.shard)
    job = job_of(config)
    out = config.out or Path("datasets", time.strftime("fdif_%Y%m%d_%H%M%S"))
    workers = min(os.cpu_count() or 1, 16) if config.workers is None else config.workers
    if config.dry_run:
        _estimate(config, job, out, workers, shard).tell()
        return
    with _Bar() as bar, files_of(config, job, workers, config.batch_size) as (make_files, threads):
        report = write_files(
            out,
            make_files,
            job.plan,
            workers=threads,
            batch_size=config.batch_size,
            shard=shard,
            progress=bar.show,
        )
    print(_summary(report, out, job.plan, config.shard, bar.seconds()))
    if report.complete and config.visualize:
        folder = _write_previews(out, job, min(config.visualize, job.plan.num_samples))
        print(f"pictures: {folder}")


def _estimate(config: Config, job: DatasetJob, out: Path, workers: int, shard: Shard) -> Estimate:
    """What writing the dataset, or what is missing of it, needs."""
    plan, batch_size = job.plan, config.batch_size
    todo = survey_dataset(out, plan, workers, batch_size, shard)
    doing = [f"{out}: {_description(plan)}", f"{len(todo)} samples to write"]
    if not todo:
        return Estimate(doing, 0.0, "all is there", 0.0, out)
    with files_of(config, job, workers, batch_size) as (make_files, _):
        rate = rate_of_samples(make_files, todo, workers, batch_size)
    return Estimate(
        doing,
        rate.first + len(todo) * rate.seconds,
        f"{rate.per_second} samples/s by {workers} workers, the first after {duration(rate.first)}",
        len(todo) * rate.bytes,
        out,
    )


def _parse_shard(text: str | None) -> Shard:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise FdifError(f"--shard {text!r}: give i/n, two whole numbers with 0 <= i < n, as in 0/4")
    return int(match[1]), int(match[2])


class _Bar:
    """A progress bar on stderr: samples done, samples a second, time left."""

    def __init__(self) -> None:
        self._progress = progress_bar()
        self._task = self._progress.add_task("compiling", total=None, measured="")
        self._marks: list[tuple[float, int]] = []  # (seconds, samples done) at the start and after the first

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._marks:
            self._progress.stop()

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` samples are there; the first call sets the start."""
        now = time.perf_counter()
        if not self._marks:
            self._progress.start()
        if len(self._marks) < 2:
            self._marks.append((now, done))
        # The first sample waits for the compiler, so the rate counts from there.
        since, before = self._marks[-1]
        rate = f"{(done - before) / (now - since):.1f} samples/s" if done > before else ""
        state = "writing" if len(self._marks) == 2 or done == total else "compiling"
        self._progress.update(self._task, completed=done, total=total, description=state, measured=rate)

    def seconds(self) -> float:
        """Seconds since the first call of `show`."""
        return time.perf_counter() - self._marks[0][0] if self._marks else 0.0


def _summary(report: Report, out: Path, plan: DatasetPlan, shard: str | None, seconds: float) -> str:
    what = _description(plan)
    if report.complete and not report.written:
        return f"{out} is finished: {what}; nothing to write"
    speed = f"wrote {report.written} samples in {seconds:.1f} s"
    if report.found:
        speed += f"; {report.found} were there"
    if report.complete:
        return f"{speed}\n{out} is finished: {what}"
    return f"{speed}\nshard {shard} of {out} is done; {_missing(report.missing, plan, shard)}"


def _missing(indices: Sequence[int], plan: DatasetPlan, shard: str | None) -> str:
    """What other shards still have to write, and how it comes about."""
    number = int(str(shard).partition("/")[2])
    counts = Counter(index % number for index in indices)
    shards = ", ".join(f"{count} of shard {i}/{number}" for i, count in sorted(counts.items()))
    first = plan.layout.files(indices[0], plan)[0]
    return f"samples missing: {shards} (the first: {first}); the last shard to end finishes the dataset"


def _description(plan: DatasetPlan) -> str:
    grid = " x ".join(map(str, plan.grid))
    counts = f"{plan.num_samples} training and {plan.num_val_samples} validation samples"
    classes = ", ".join(f"{len(names)} of {task}" for task, names in plan.tasks.items())
    if isinstance(plan.layout, ClassificationLayout):
        counts = f"{plan.num_samples} cases in {plan.layout.n_splits} folds"
    if len(plan.tasks) == 1:
        classes = f"{len(plan.class_names)} class{'es' * (len(plan.class_names) != 1)}"
    else:
        classes = "classes: " + classes
    return f"{counts} of {grid} voxels, {classes}"


def _write_previews(out: Path, job: DatasetJob, count: int) -> Path:
    from fdif_jax.viewing import viz

    folder = out / "previews"
    folder.mkdir(exist_ok=True)
    for index in range(count):
        for name, image, label, class_names in _pictures(out, job, index):
            viz.save_slices(image, label, folder / f"{name}.png", class_names, spacing=job.plan.spacing)
    return folder


def _pictures(
    out: Path, job: DatasetJob, index: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Name, image, label and names of the label's classes of every picture of a sample."""
    plan, layout = job.plan, job.plan.layout
    case = layout.case_id(index, plan)
    image, *labels = (out / path for path in layout.files(index, plan))
    if job.program:
        # The file holds no label map; the program knows where it put the object.
        (label,) = jax.jit(classification.masks(job.program))(fd.sample_key(plan.seed, index), index)
        yield case, read_b2nd(image)[0], np.asarray(label), job.program.class_names
        return
    voxels = read_volume(image).array
    # Instances, if there are any, are the last file, and no classes.
    for number, (label, (task, class_names)) in enumerate(zip(labels, plan.tasks.items(), strict=False)):
        yield case + f"_{task}" * (number > 0), voxels, read_volume(label).array, class_names


if __name__ == "__main__":
    cli.run("generate")
