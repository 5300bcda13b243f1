"""Part `steps`: a training step of each network by part, at one batch and at the largest that fits."""

import dataclasses
import statistics
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from fdif_jax.scripts import bench, bench_training, cli
from fdif_jax.scripts.bench_parts import Steps, compile_parts, in_turns, measure_parts
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.profile import kernels_of
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.prepared import Training, prepare

_ROOM = 0.85  # of the device's memory that a step may plan for


def config_of(options: tuple[str, ...], batch: int) -> bench_training.Config:
    """The options of `fdif bench training`, at a batch."""
    return cli.parsed("bench", bench, ["training", *options, "--batch-size", str(batch)])


def measure(size: Size, figures: Figures) -> None:
    """Each network at the batch of the programme; then each at the largest batch.

    Programs are compiled side by side while other parts measure, and measured alone.
    """
    with ThreadPoolExecutor() as pool:
        kernels = dict(
            zip(
                size.networks,
                pool.map(lambda name: _compiled(name, size, figures), size.networks),
                strict=True,
            )
        )
    for name, options in size.networks.items():
        with figures.attempt(name):
            training = prepare(config_of((*options, "--kernel", kernels[name]), size.batch))
            steps = Steps(training)
            with figures.alone():
                figures.add(name, {"kernel": kernels[name], **_by_part(training, steps, size)})
                with figures.attempt(f"{name} profile"):
                    figures.add(f"{name} profile", kernels_of(lambda steps=steps: steps(99)))
    for name, options in size.networks.items():
        with figures.attempt(f"{name} largest"):
            figures.add(f"{name} largest", _largest(name, options, size, figures))


def _compiled(name: str, size: Size, figures: Figures) -> str:
    """Compile a network's programs; which kernel they took, "off" where the GPU's failed."""
    for kernel in ("auto", "off"):
        with figures.attempt(f"{name} compiled, kernel {kernel}"):
            compile_parts(prepare(config_of((*size.networks[name], "--kernel", kernel), size.batch)))
            return kernel
    return "off"


def _by_part(training: Training, steps: Steps, size: Size) -> dict[str, Any]:
    parts, memory = measure_parts(training, steps, size.runs)
    medians = {name: statistics.median(part.seconds) for name, part in parts.items()}
    return {
        "batch": training.plan.batch_size,
        "grid": list(training.source.grid),
        "network": training.spec,
        "seconds": medians,
        "spread": {name: [min(part.seconds), max(part.seconds)] for name, part in parts.items()},
        "work": {name: part.work._asdict() for name, part in parts.items()},
        "generation_percent": 100 * medians["generate"] / medians["step"],
        "volumes_per_second": training.plan.batch_size / medians["step"],
        "compile_seconds": steps.compile_seconds,
        "memory": {**memory._asdict(), "total": memory.total},
    }


def _largest(name: str, options: tuple[str, ...], size: Size, figures: Figures) -> dict[str, Any]:
    """Volumes a second at the largest power of two that the memory of the smaller batch says will fit."""
    known = figures.known(name)
    memory, held = known["memory"], (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    a_volume = memory["temporary"] / known["batch"]
    batch = size.batch
    while 2 * batch <= size.largest and (
        held is None or memory["arguments"] + 2 * batch * a_volume < _ROOM * held
    ):
        batch *= 2
    training = prepare(config_of((*options, "--kernel", known["kernel"]), batch))
    steps = Steps(training)
    with figures.alone():
        seconds = in_turns({"step": steps}, size.runs)["step"]
    median = statistics.median(seconds)
    return {
        "batch": batch,
        "seconds": median,
        "volumes_per_second": batch / median,
        "compile_seconds": steps.compile_seconds,
        "plan": dataclasses.asdict(training.plan),
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }
