"""Part `steps`: a training step of each network, whole and by part, at one batch and at the largest that fits."""

import statistics
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import training as bench_training
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.profile import kernels_of
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.parts import Steps, in_turns, measure_parts
from fdif_jax.scripts.jobs.prepared import Training, prepare

_ROOM = 0.85  # of the device's memory that a step may plan for


def config_of(options: tuple[str, ...], batch: int) -> bench_training.Config:
    """The options of `fdif bench training`, at a batch."""
    return cli.parsed("bench training", bench_training, [*options, "--batch-size", str(batch)])


def measure(size: Size, figures: Figures) -> None:
    """Measure each network's whole step, then its parts, then the largest batch.

    Programs are compiled side by side while other parts measure, and measured alone.
    """
    prepared: dict[str, tuple[Training, Steps]] = {}
    with ThreadPoolExecutor() as pool:
        names = {
            pool.submit(ready_step, options, size.batch): name for name, options in size.networks.items()
        }
        for future in as_completed(names):
            with figures.attempt(name := names[future]):
                prepared[name] = future.result()
                figures.add(name, _whole(*prepared[name], size, figures))
                with figures.attempt(f"{name} profile"), figures.alone():
                    figures.add(f"{name} profile", kernels_of(lambda s=prepared[name][1]: s(99)))
    for name, ready in prepared.items():
        with figures.attempt(f"{name} parts"), figures.alone():
            figures.add(f"{name} parts", _by_part(*ready, size))
    for name, (training, _) in prepared.items():
        with figures.attempt(f"{name} largest"):
            batch = _largest(training, figures.known(f"{name} parts")["memory"], size)
            figures.add(f"{name} largest", _whole(*ready_step(size.networks[name], batch), size, figures))


def ready_step(options: tuple[str, ...], batch: int) -> tuple[Training, Steps]:
    """A training and its step, compiled; without the tile kernel, should that fail."""
    for kernel in ("auto", "off"):
        try:
            training = prepare(config_of((*options, "--kernel", kernel), batch))
            return training, Steps(training)
        except Exception as error:
            print(f"kernel {kernel}: {type(error).__name__}: {str(error)[:500]}", flush=True)
            failure = error
    raise failure


def _whole(training: Training, steps: Steps, size: Size, figures: Figures) -> dict[str, Any]:
    with figures.alone():
        seconds = in_turns({"step": steps}, size.runs)["step"]
    median, batch = statistics.median(seconds), training.plan.batch_size
    return {
        "batch": batch,
        "grid": list(training.source.grid),
        "network": training.spec,
        "seconds": median,
        "spread": [min(seconds), max(seconds)],
        "volumes_per_second": batch / median,
        "compile_seconds": steps.compile_seconds,
        "first_loss": steps.first_loss,
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def _by_part(training: Training, steps: Steps, size: Size) -> dict[str, Any]:
    parts, memory = measure_parts(training, steps, size.runs)
    medians = {name: statistics.median(part.seconds) for name, part in parts.items()}
    return {
        "batch": training.plan.batch_size,
        "seconds": medians,
        "spread": {name: [min(part.seconds), max(part.seconds)] for name, part in parts.items()},
        "work": {name: part.work._asdict() for name, part in parts.items()},
        "generation_percent": 100 * medians["generate"] / medians["step"],
        "memory": {**memory._asdict(), "total": memory.total},
    }


def _largest(training: Training, memory: dict[str, int], size: Size) -> int:
    """The largest power of two of batches that fits, by what the smaller batch took."""
    held = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    a_volume, batch = memory["temporary"] / training.plan.batch_size, training.plan.batch_size
    while 2 * batch <= size.largest and (
        held is None or memory["arguments"] + 2 * batch * a_volume < _ROOM * held
    ):
        batch *= 2
    return batch
