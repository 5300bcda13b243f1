"""Measure what objectives cost on this machine: a step's time and memory by objective, beside a step of classes alone.

The options that say what `fdif pretrain` trains say it here; without --preset it is quick. All steps are measured in
turns in one run; memory is what XLA plans for the step. A busy machine gives no ratios of time.

Example:
    fdif bench objectives
    fdif bench objectives --objectives distance "class + 0.5*contrast" --json objectives.json
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import tyro
from rich.console import Console

from fdif_jax.io.files import write_atomic
from fdif_jax.objectives.combined import parse_objective
from fdif_jax.scripts.benchmarks.parts import Steps, in_turns, spread, step_memory
from fdif_jax.scripts.benchmarks.quiet import Comparison, Neighbours, shown_ratio
from fdif_jax.scripts.benchmarks.step_options import (
    Hidden,
    StepOptions,
    check,
    conditions,
    options_of,
    title_of,
)
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.jobs.prepared import Training, prepare
from fdif_jax.scripts.options.presets import preset_of

PLAIN = "class"
"""The objective that others are compared with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Comparison, StepOptions):
    """What to measure: objectives, and a run of `fdif pretrain` but for what takes no time in its step."""

    objectives: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OBJECTIVE ...")] = (
        "class + distance",
        "class + restore",
        "class + contrast",
        "distance",
        "contrast",
    )
    """Sums of objectives, as `fdif pretrain --objective` takes them, each compared with class."""
    objective: Hidden[str] = PLAIN


def defaults(arguments: Sequence[str]) -> Config | None:
    """The options of the preset that is asked for, else of quick, for those that are not given."""
    return preset_of([*arguments, "--preset=quick"], partial(options_of, Config))


def run(config: Config) -> None:
    """Measure, print the table and write the figures."""
    check(config)
    trainings = _prepared(config)
    neighbours = Neighbours(config.anyway)
    figures, console = conditions(config, trainings[PLAIN]), Console(width=118)
    with console.status("compiling and measuring the steps"):
        figures["objectives"] = measured(trainings, config.runs)
    neighbours.mark(figures["objectives"].values(), "ratio")
    _print(console, figures)
    if config.json:
        write_atomic(config.json, json.dumps(figures, indent=2).encode())
    neighbours.tell(console)


def measured(trainings: Mapping[str, Training], runs: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of a step by objective, and how many times those of the first one."""
    steps = {name: Steps(training) for name, training in trainings.items()}
    seconds = in_turns(steps, runs)
    rows: dict[str, dict[str, float]] = {}
    for name, training in trainings.items():
        memory = step_memory(training)
        rows[name] = {**spread(seconds[name]), "memory": memory.total, "temporary": memory.temporary}
    first = next(iter(rows.values()))
    return {
        name: row
        | {"ratio": row["seconds"] / first["seconds"], "memory_ratio": row["memory"] / first["memory"]}
        for name, row in rows.items()
    }


def _prepared(config: Config) -> dict[str, Training]:
    """What is trained by objective, `PLAIN` first; FdifError before anything is compiled."""
    changes: dict[str, dict[str, Any]] = {
        name: {"objective": name, "contrast": config.contrast if "contrast" in parse_objective(name) else ()}
        for name in (PLAIN, *config.objectives)
    }
    return {name: prepare(dataclasses.replace(config, **changed)) for name, changed in changes.items()}


def _print(console: Console, figures: Mapping[str, Any]) -> None:
    table = table_of(
        ("objective", "ms/step", "spread", "ratio", "MB/step", "ratio"),
        (
            (
                name,
                f"{row['seconds'] * 1e3:.1f}",
                f"{row['fastest'] * 1e3:.1f}-{row['slowest'] * 1e3:.1f}",
                f"[bold]{shown_ratio(row['ratio'])}[/]",
                f"{row['memory'] / 1e6:.0f}",
                f"[bold]{row['memory_ratio']:.2f}[/]",
            )
            for name, row in figures["objectives"].items()
        ),
        title=title_of("objectives", figures),
        caption=f"{figures['device']}; load {figures['load']:.1f} on {figures['cores']} cores",
    )
    console.print(table)
