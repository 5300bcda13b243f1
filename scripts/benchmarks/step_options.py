"""Options of the commands that measure a step of pre-training: those of `fdif pretrain` that its time depends on."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from fdif_jax.errors import FdifError
from fdif_jax.scripts import pretrain
from fdif_jax.scripts.console.progress import Form
from fdif_jax.scripts.jobs.prepared import Training
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.scripts.options.training import settings_of

Option = TypeVar("Option")
Hidden = Annotated[Option, tyro.conf.Suppress]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions(pretrain.Config):
    """A run of `fdif pretrain`, but for what takes no time in its step."""

    runs: int = 5
    """Runs of each measurement; medians are reported, and the fastest and the slowest."""
    json: Path | None = None
    """Also write the figures to this file."""

    # Presets may set them, so they are here.
    out: Hidden[Path] = Path()
    data: Hidden[Path | None] = None
    distributed: Hidden[str | None] = None
    steps: Hidden[int] = pretrain.Config.steps
    lr: Hidden[float] = pretrain.Config.lr
    weight_decay: Hidden[float] = pretrain.Config.weight_decay
    warmup: Hidden[int | None] = None
    max_loss: Hidden[float] = pretrain.Config.max_loss
    val_every: Hidden[int] = pretrain.Config.val_every
    val_samples: Hidden[int] = pretrain.Config.val_samples
    val_seed: Hidden[int] = pretrain.Config.val_seed
    checkpoint_every: Hidden[int] = pretrain.Config.checkpoint_every
    keep_every: Hidden[int] = pretrain.Config.keep_every
    progress: Hidden[Form] = "auto"
    dry_run: Hidden[bool] = False


Options = TypeVar("Options", bound=StepOptions)


def options_of(config: type[Options], **settings: Any) -> Options:
    """The options that a preset sets; what it has as texts are paths here, or the subcommand would not take them."""
    for name in settings.keys() & {"data", "plans"}:
        settings[name] = Path(settings[name])
    for name in ("catalogue", "mesh_dir"):
        settings[name] = tuple(map(Path, settings.get(name, ())))
    return config(**settings)


def check(config: StepOptions) -> None:
    """FdifError where there is nothing to measure, or what is not measured."""
    check_least(config, runs=1)
    for name in ("data", "distributed"):
        if getattr(config, name) is not None:
            raise FdifError(f"preset {config.preset}: {name} is not measured; scenes are, in one process")


def conditions(config: StepOptions, training: Training) -> dict[str, Any]:
    """What is measured, and where."""
    return {
        "task": training.source.task,
        "recipe": training.source.recipe,
        "name": training.source.name,
        "grid": list(training.source.grid),
        "network": training.spec,
        "parameters": sum(training.network.weights[name].size for name in training.network.parameters),
        "training": settings_of(config, training.plan),
        "device": training.devices.describe(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "runs": config.runs,
    }


def title_of(bench: str, figures: Mapping[str, Any]) -> str:
    """What a table of ``fdif bench`` is of: scenes, batch and network, as `conditions` has them."""
    plan, network = figures["training"], figures["network"]
    return (
        f"fdif bench {bench}: {figures['name']}, {'×'.join(map(str, figures['grid']))}, batch "
        f"{plan['batch_size']}; {network['name']} {network['dtype']}, {figures['parameters'] / 1e6:.1f} M weights"
    )
