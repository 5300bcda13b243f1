"""The learning rate's course beside optax's, and programs that runs of other rates, lengths and seeds share."""

from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

from fdif_jax.objectives.losses import dice_cross_entropy
from fdif_jax.training.devices import Devices
from fdif_jax.training.network import functional
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.updates import fresh_state, update_of
from tests.helpers.training import BOXES, PLAN, Net


@pytest.mark.parametrize(("steps", "warmup", "rate"), [(100, 10, 1e-2), (30_000, 500, 1e-4), (7, 0, 1.0)])
def test_the_learning_rate_is_that_of_optax(steps, warmup, rate):
    plan = TrainingPlan(steps=steps, warmup=warmup, learning_rate=rate)
    done = np.arange(steps + 3)
    theirs = jax.vmap(optax.warmup_cosine_decay_schedule(0, rate, warmup, steps))(done)
    np.testing.assert_allclose(jax.vmap(plan.pace.rate)(done), theirs, atol=1e-6 * rate)


def test_plans_that_differ_in_pace_are_one_program():
    network, devices = functional(Net()), Devices(1)

    def lowered(plan):
        update = update_of(network, BOXES, plan, dice_cross_entropy, devices)
        state = fresh_state(network, plan, devices)
        return jax.jit(update).lower(state, np.int32(0), plan.pace, None).as_text()

    other = replace(PLAN, learning_rate=0.3, warmup=1, steps=2 * PLAN.steps, seed=PLAN.seed + 1)
    assert lowered(other) == lowered(PLAN)
    assert lowered(replace(PLAN, weight_decay=0.5)) != lowered(PLAN)
