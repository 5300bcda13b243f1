"""Measure a step of pre-training on this machine: each part beside the least it could take, memory, volumes a second.

The options that say what `fdif pretrain` trains say it here, --preset too. Parts: generate draws the scenes and gives
them augmentation; forward is the network in training and the loss; backward is what the gradient takes beyond that;
update is what the whole step takes beyond generating and the gradient (AdamW, clipping, average). Flops and bytes are
XLA's count for the compiled programs, of a loop one round; a part's floor is the longer of both at the rates that
this machine reaches on a matrix product in the network's precision and on a pass over memory.

With --from the same network is trained in turns on a dataset's files, and its PyTorch original on a batch that stays
in memory; a busy machine gives no such ratios.

Example:
    fdif bench training --preset quick
    fdif bench training --preset fdif-swinunetr --dtype float32 --batch-size 1 --json training.json
    fdif bench training --preset quick --from files torch
"""

import contextlib
import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_atomic
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.scripts.benchmarks.parts import (
    Part,
    Peaks,
    Steps,
    in_turns,
    loss_memory,
    measure_parts,
    measure_peaks,
    share_of_floor,
    spread,
)
from fdif_jax.scripts.benchmarks.quiet import Comparison, Neighbours, shown_ratio
from fdif_jax.scripts.benchmarks.rivals import TorchSteps, from_files
from fdif_jax.scripts.benchmarks.step_options import StepOptions, check, conditions, options_of, title_of
from fdif_jax.scripts.console.tables import table_by, table_of
from fdif_jax.scripts.jobs.prepared import Training, prepare
from fdif_jax.scripts.options.presets import preset_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison, StepOptions):
    """What to measure: a run of `fdif pretrain`, but for what takes no time in its step."""

    rivals: Annotated[
        tuple[Literal["files", "torch"], ...], tyro.conf.arg(name="from", metavar="files|torch ...")
    ] = ()
    """Also train from files, and with PyTorch from memory."""


def defaults(arguments: Sequence[str]) -> Config | None:
    """The options of the preset that is asked for, for those that are not given."""
    return preset_of(arguments, partial(options_of, Config))


def run(config: Config) -> None:
    """Measure, print the tables and write the figures, also those before a rival that failed."""
    check(config)
    if "torch" in config.rivals:
        # JAX would take most of a GPU's memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    training = _prepared(config)
    neighbours = Neighbours(config.anyway) if config.rivals else None
    figures, console = conditions(config, training), Console(width=118)
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("compiling and measuring the step"))
        original = {"torch": TorchSteps(training)} if "torch" in config.rivals else {}
        steps = Steps(training)
        figures |= _measured(config, training, steps)
        _print_parts(console, figures)
        try:
            if neighbours:
                status.update("training in turns with its rivals")
                contestants: dict[str, Steps | TorchSteps] = {"in the loop": steps}
                if "files" in config.rivals:
                    contestants["files"] = stack.enter_context(from_files(training, config))
                figures["contest"] = _contest(config, contestants | original)
                neighbours.mark(figures["contest"].values(), "ratio")
                _print_contest(console, figures["contest"])
        finally:
            if config.json:
                write_atomic(config.json, json.dumps(figures, indent=2).encode())
    if neighbours:
        neighbours.tell(console)


def _prepared(config: Config) -> Training:
    """What `fdif pretrain` would train; FdifError if the rivals cannot."""
    training = prepare(config)
    if config.rivals and not isinstance(training.source.objective, Segmentation):
        raise FdifError(
            f"--from {' '.join(config.rivals)} trains segmentation; leave out --task {config.task}"
        )
    if "torch" in config.rivals and training.devices.count > 1:
        raise FdifError(f"--from torch trains on one device; give --devices 1, not {training.devices.count}")
    return training


def _measured(config: Config, training: Training, steps: Steps) -> dict[str, Any]:
    """The figures of training in the loop."""
    parts, memory = measure_parts(training, steps, config.runs)
    peaks = measure_peaks(training.devices, config.dtype, config.runs)
    rows = {name: _row(part, parts["step"], peaks) for name, part in parts.items()}
    return {
        "peaks": peaks._asdict(),
        "parts": rows,
        "generation_percent": 100 * rows["generate"]["share"],
        "volumes_per_second": config.batch_size / rows["step"]["seconds"],
        "compile_seconds": steps.compile_seconds,
        "memory": {**memory._asdict(), "total": memory.total},
        "loss_memory": loss_memory(training),
    }


def _row(part: Part, step: Part, peaks: Peaks) -> dict[str, Any]:
    seconds, work = spread(part.seconds), part.work
    floors = {"flops_floor": work.flops / peaks.flops, "bytes_floor": work.bytes / peaks.bytes}
    return {
        **seconds,
        "share": seconds["seconds"] / statistics.median(step.seconds),
        **work._asdict(),
        **floors,
        "floor": max(floors.values()),
    }


def _contest(config: Config, contestants: Mapping[str, Steps | TorchSteps]) -> dict[str, dict[str, Any]]:
    """Seconds a step of each way to train, and how many times its volumes the first one trains on in a second."""
    rows = {name: spread(seconds) for name, seconds in in_turns(contestants, config.runs).items()}
    ours = next(iter(rows.values()))["seconds"]
    return {
        name: {
            **row,
            "volumes_per_second": config.batch_size / row["seconds"],
            "ratio": row["seconds"] / ours,
            "first_loss": contestants[name].first_loss,
        }
        for name, row in rows.items()
    }


def _print_parts(console: Console, figures: Mapping[str, Any]) -> None:
    peaks = figures["peaks"]
    cells = {
        "part": lambda row: row["name"],
        "ms/step": lambda row: f"{row['seconds'] * 1e3:.1f}",
        "spread": lambda row: f"{row['fastest'] * 1e3:.1f}-{row['slowest'] * 1e3:.1f}",
        "share": lambda row: f"{row['share']:.1%}",
        "Gflop": lambda row: f"{row['flops'] / 1e9:.2f}",
        "GB": lambda row: f"{row['bytes'] / 1e9:.2f}",
        "ms by flops": lambda row: f"{row['flops_floor'] * 1e3:.1f}",
        "ms by bytes": lambda row: f"{row['bytes_floor'] * 1e3:.1f}",
        "floor/time": share_of_floor,
    }
    table = table_by(
        cells,
        ({"name": name, **row} for name, row in figures["parts"].items()),
        title=title_of("training", figures),
        caption=f"{figures['device']}: {peaks['flops'] / 1e9:.0f} Gflop/s, {peaks['bytes'] / 1e9:.0f} GB/s; "
        f"load {figures['load']:.1f} on {figures['cores']} cores",
    )
    memory, loss = figures["memory"], figures["loss_memory"]
    reached = f"; the device has held {memory['reached'] / 1e9:.2f} GB" if memory["reached"] else ""
    console.print(table)
    console.print(
        f"{figures['volumes_per_second']:.3g} volumes/s; generating is {figures['generation_percent']:.1f} % of the "
        f"step; compiled in {figures['compile_seconds']:.1f} s"
    )
    console.print(
        f"step: {memory['total'] / 1e9:.2f} GB a device ({memory['arguments'] / 1e9:.2f} weights and their averages, "
        f"{memory['temporary'] / 1e9:.2f} temporary){reached}"
    )
    console.print(
        f"loss of {loss['channels']} channels: {loss['temporary_bytes'] / 1e6:.0f} MB beside logits of "
        f"{loss['logits_bytes'] / 1e6:.0f} MB and their gradient"
    )


def _print_contest(console: Console, contest: Mapping[str, Mapping[str, Any]]) -> None:
    title = "the same network, in turns; ratio: volumes/s in the loop to volumes/s so"
    table = table_of(("trained", "volumes/s", "ms/step", "spread", "ratio"), (), title=title)
    names = {"files": "from files", "torch": "by PyTorch, from memory"}
    for name, row in contest.items():
        table.add_row(
            names.get(name, name),
            f"{row['volumes_per_second']:.3g}",
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['fastest'] * 1e3:.1f}-{row['slowest'] * 1e3:.1f}",
            f"[bold]{shown_ratio(row['ratio'])}[/]",
        )
    console.print(table)
