"""Measure how a training step divides over devices and processes, and what many volumes and many GPUs would cost.

The step is divided over virtual devices of this machine's CPU, which share its cores: a step of one batch should take
as long on eight as on one, and what it takes more is the price of dividing. What devices send each other is counted in
the compiled step, beside the formula for summing the gradient. The model below has these parameters: what is not
given is as measured here, with one device. A GPU's figures and all prices are yours to give.

Example:
    fdif bench scale --preset quick --batch-size 8
    fdif bench scale --preset quick --batch-size 8 --step-seconds 0.0275 --step-volumes 2 --parameters 102e6 --link 25
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_atomic
from fdif_jax.scripts.benchmarks.communication import exchanges, sent, sent_for_gradient
from fdif_jax.scripts.benchmarks.cost import Generating, Pretraining, generating, pretraining
from fdif_jax.scripts.benchmarks.parts import Steps, in_turns, spread, step_text
from fdif_jax.scripts.benchmarks.processes import apart
from fdif_jax.scripts.benchmarks.step_options import (
    Hidden,
    StepOptions,
    check,
    conditions,
    options_of,
    title_of,
)
from fdif_jax.scripts.console.compilation import keep_compiled_programs
from fdif_jax.scripts.console.tables import table_by
from fdif_jax.scripts.jobs.dry_run import duration, rate_of_samples, size
from fdif_jax.scripts.jobs.prepared import prepare
from fdif_jax.scripts.jobs.render_processes import files_of
from fdif_jax.scripts.options.format import format_of, job_of
from fdif_jax.scripts.options.presets import preset_of
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.training.processes import processes_here

_SAMPLES = 32  # of those that a volume's cost is measured by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(StepOptions):
    """What to measure, and what to reckon with."""

    virtual: tuple[int, ...] = (1, 2, 8)
    """Numbers of virtual devices to divide the batch over; of two the step is also done by two processes."""
    volumes: int = 1_000_000
    """Volumes to generate, and to pre-train on."""
    gpus: tuple[int, ...] = (1, 8, 64)
    """Numbers of GPUs to reckon with; each does a whole step of --step-volumes."""
    step_seconds: float | None = None
    """Seconds of a step on one GPU."""
    step_volumes: int | None = None
    """Volumes of that step."""
    parameters: float | None = None
    """Parameters of the network in it, each of 4 bytes."""
    start_seconds: float | None = None
    """Seconds before the first step: compiling, reading a checkpoint."""
    link: float = 25.0
    """GB/s that each GPU sends while all others do."""
    core_seconds: float | None = None
    """Core-seconds of a volume that is generated and compressed."""
    volume_bytes: float | None = None
    """Bytes of a volume on disk with its labels."""
    months: float = 1.0
    """Months that the volumes are kept."""
    price_gpu_hour: float = 2.0
    """Dollars; an example, as are the other prices."""
    price_core_hour: float = 0.04
    """Dollars."""
    price_gb_month: float = 0.02
    """Dollars."""

    devices: Hidden[int] = 0
    shard_weights: Hidden[bool] = False


def defaults(arguments: Sequence[str]) -> Config | None:
    """The options of the preset that is asked for, for those that are not given."""
    return preset_of(arguments, partial(options_of, Config))


def run(config: Config) -> None:
    """Measure, reckon, print the tables and write the figures."""
    check(config)
    check_least(config, volumes=1, step_volumes=1)
    for name in ("virtual", "gpus"):
        if not getattr(config, name) or min(getattr(config, name)) < 1:
            raise FdifError(f"--{name} must be numbers of at least 1")
    console = Console(width=118)
    with console.status("measuring the step, each time in a new process"):
        rows = _measured(config)
        given = _given(config, rows[0])
    kept = generating(
        config.volumes,
        core_seconds=given["core_seconds"],
        volume_bytes=given["volume_bytes"],
        months=config.months,
        price_core_hour=config.price_core_hour,
        price_gb_month=config.price_gb_month,
    )
    of_training = {name: value for name, value in given.items() if name != "core_seconds"}
    of_training |= {"link": config.link, "price_gpu_hour": config.price_gpu_hour}
    trained = [pretraining(config.volumes, gpus, **of_training) for gpus in config.gpus]
    figures = rows[0].pop("conditions") | {
        "steps": rows,
        "given": given,
        "generating": kept._asdict(),
        "pretraining": [row._asdict() for row in trained],
    }
    _print_steps(console, figures)
    _print_costs(console, config, given, kept, trained)
    if config.json:
        write_atomic(config.json, json.dumps(figures, indent=2).encode())


def _measured(config: Config) -> list[dict[str, Any]]:
    """A row for every way to divide the step."""
    one = dataclasses.replace(config, devices=1)
    ways = [[dataclasses.replace(config, devices=count)] for count in config.virtual]
    ways.append([dataclasses.replace(config, devices=max(config.virtual), shard_weights=True)])
    if 2 in config.virtual:
        both: list[dict[str, Any]] = [{"distributed": how} for how in processes_here(2)]
        ways.append([dataclasses.replace(one, **each) for each in both])
    died = "a process that measured the step has ended; its own words are above"
    return [apart(measure_here, *way, died=died)[0] for way in ways]  # the first; they train together


def measure_here(config: Config) -> dict[str, Any]:
    """One way to divide the step, measured in this process, where JAX has not begun."""
    jax.config.update("jax_platforms", "cpu")
    keep_compiled_programs()
    training = prepare(config)
    steps = Steps(training)
    (seconds,) = in_turns({"step": steps}, config.runs).values()
    found = exchanges(step_text(training))
    devices, processes = training.devices.count, jax.process_count()
    weights = [training.network.weights[name] for name in training.network.parameters]
    if config.distributed:
        jax.distributed.shutdown()  # which waits for the other one, as the end of such a process would not
    return {
        "conditions": conditions(config, training),
        "devices": devices,
        "processes": processes,
        "shard_weights": config.shard_weights,
        **spread(seconds),
        "compile_seconds": steps.compile_seconds,
        "exchanges": {kind: exchange._asdict() for kind, exchange in found.items()},
        "sent": sent(found, devices),
        "formula": sent_for_gradient(sum(array.nbytes for array in weights), devices),
    }


def _given(config: Config, alone: Mapping[str, Any]) -> dict[str, float]:
    """The model's parameters: those that are given, and what is measured here of the others."""
    here = {
        "step_seconds": alone["seconds"],
        "step_volumes": config.batch_size,
        "parameters": alone["conditions"]["parameters"],
        "start_seconds": alone["compile_seconds"],
    }
    if config.core_seconds is None or config.volume_bytes is None:
        options, workers = format_of(config, num_samples=config.volumes), os.cpu_count() or 1
        with files_of(options, job_of(options), workers) as (make_files, _):
            rate = rate_of_samples(make_files, range(_SAMPLES), workers, 1)
        here |= {"core_seconds": rate.seconds * workers, "volume_bytes": rate.bytes}
    given = {name: getattr(config, name) for name in (*here, "core_seconds", "volume_bytes")}
    return {name: here[name] if value is None else value for name, value in given.items()}


def _print_steps(console: Console, figures: Mapping[str, Any]) -> None:
    alone = figures["steps"][0]["seconds"]
    cells = {
        "CPU devices": lambda row: f"{row['devices']}" + ", weights divided" * row["shard_weights"],
        "processes": lambda row: str(row["processes"]),
        "ms/step": lambda row: f"{row['seconds'] * 1e3:.1f}",
        "spread": lambda row: f"{row['fastest'] * 1e3:.1f}-{row['slowest'] * 1e3:.1f}",
        "of the first": lambda row: f"{row['seconds'] / alone:.2f}",
        "exchanges": lambda row: ", ".join(
            f"{e['calls']} {kind} {e['bytes'] / 1e6:.3f} MB" for kind, e in row["exchanges"].items()
        ),
        "sent by each, MB": lambda row: f"{row['sent'] / 1e6:.3f}",
        "formula, MB": lambda row: f"{row['formula'] / 1e6:.3f}",
    }
    caption = (
        f"load {figures['load']:.1f} on {figures['cores']} cores, beside which times mean little and counts are exact; "
        "formula: 2(n-1)/n of the gradient's bytes"
    )
    console.print(table_by(cells, figures["steps"], title=title_of("scale", figures), caption=caption))


def _print_costs(
    console: Console,
    config: Config,
    given: Mapping[str, float],
    kept: Generating,
    trained: Sequence[Pretraining],
) -> None:
    cells = {
        "GPUs": lambda row: str(row.gpus),
        "volumes/s": lambda row: f"{row.rate:,.1f}",
        "ms/step": lambda row: f"{row.step * 1e3:.1f}",
        "of it exchange": lambda row: f"{row.exchange * 1e3:.1f}",
        "sent by each, MB": lambda row: f"{row.sent / 1e6:.1f}",
        "efficiency": lambda row: f"{row.efficiency:.0%}",
        "time": lambda row: duration(row.hours * 3600),
        "of it starting": lambda row: f"{row.starting:.0%}",
        "dollars": lambda row: f"{row.dollars:,.2f}",
        "from files, GB/s": lambda row: f"{row.read / 1e9:.2f}",
    }
    console.print(
        f"{config.volumes:,} volumes of {given['core_seconds']:.3g} core-seconds and {size(given['volume_bytes'])}: "
        f"{kept.core_hours:,.1f} core-hours, {size(kept.bytes)}; {kept.dollars:,.2f} dollars once, "
        f"{kept.dollars_kept:,.2f} for {config.months:g} months"
    )
    title = (
        f"pre-training on {config.volumes:,} volumes: {given['step_seconds'] * 1e3:.4g} ms for "
        f"{given['step_volumes']:g} a GPU, {given['parameters'] / 1e6:.3g} M parameters, {config.link:g} GB/s a GPU"
    )
    console.print(table_by(cells, trained, words=0, title=title))
