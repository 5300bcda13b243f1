"""What the options of `fdif pretrain` ask for, ready to be trained or measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fdif_jax import models
from fdif_jax.objectives.combined import Combined
from fdif_jax.scripts.jobs.training_sources import TrainingSource, source_of
from fdif_jax.scripts.options.network import network_of, planned
from fdif_jax.scripts.options.pretraining import PretrainingOptions
from fdif_jax.scripts.options.training import devices_of, plan_of
from fdif_jax.training.devices import Devices
from fdif_jax.training.loop import STEPS_PER_CALL
from fdif_jax.training.network import Network, functional
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.updates import update_of


@dataclass(frozen=True)
class Training:
    """All that `fit` is given, the network that it was made of, and that network as plain data."""

    source: TrainingSource
    spec: dict[str, Any]
    model: nnx.Module
    network: Network
    plan: TrainingPlan
    devices: Devices

    @property
    def rows(self) -> int:
        """Samples that go through the network at once, on all devices."""
        return self.plan.batch_size // self.plan.accumulate

    @property
    def several(self) -> int:
        """Steps of a call, as `fit` has it."""
        return 1 if jax.default_backend() == "cpu" else STEPS_PER_CALL

    def update(self, plan: TrainingPlan) -> Callable:
        """The step by a plan."""
        source = self.source
        return update_of(
            self.network,
            source.make_batch,
            plan,
            source.objective.loss,
            self.devices,
            fed=source.feed is not None,
            course=source.course,
        )


def prepare(config: PretrainingOptions) -> Training:
    """Make what `fdif pretrain` or `fdif bench training` is asked for; nothing is written yet.

    FdifError for options that contradict each other, or a grid that the network cannot take.
    """
    devices, plan = devices_of(config), plan_of(config, config.steps, config.seed)
    source = source_of(config, planned(config))
    spec = network_of(config, in_channels=source.channels, grid=source.grid, **source.head)
    model = models.create(**spec, seed=config.seed)
    if isinstance(source.objective, Combined):
        source.objective.add_heads(model, config.seed)
        network = functional(model, forward=source.objective.forward)
    else:
        network = functional(model)
    jax.eval_shape(network.apply, network.weights, jnp.zeros((1, *source.grid, source.channels)))
    return Training(source, spec, model, network, plan, devices)
