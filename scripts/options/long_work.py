"""The options of commands that work for long: how they tell their progress, and a dry run."""

from dataclasses import dataclass

from fdif_jax.scripts.console.progress import Form
from fdif_jax.scripts.options.recipe import Flag


@dataclass(frozen=True, kw_only=True)
class ProgressOption:
    """How progress is told."""

    progress: Form = "auto"
    """Progress on stderr: auto, a bar in a terminal and else a line every 30 seconds; plain, such lines; json, an
    object a line for programs: phase, step, total, rate, seconds_left, measured."""


@dataclass(frozen=True, kw_only=True)
class LongOptions(ProgressOption):
    """How progress is told, and whether to work at all."""

    dry_run: Flag = False
    """Write nothing: check all that is asked for, measure a rate for a few seconds, and say what would be done, how
    long it would take, and what disk and memory it needs."""
