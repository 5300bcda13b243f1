"""What `fdif finetune` chooses where nothing is said: weights to begin with, network, learning rate, steps, patch."""

import dataclasses

import jax

from fdif_jax.datasets.reader import list_cases
from fdif_jax.models import released
from fdif_jax.preprocessing.fingerprints import VOXEL_BUDGET
from fdif_jax.scripts.jobs.initial_weights import SCRATCH
from fdif_jax.scripts.options.finetuning import AUTO, FinetuningOptions
from fdif_jax.scripts.options.network import UNKNOWN_GRID, NetworkOptions, network_of

USUAL = "resenc-tiny"  # released weights where no network is asked for
_LEARNING_RATE = 1e-4  # of other networks

# Steps a training case, the fewest and the most; on a CPU what minutes allow.
_STEPS = {"cpu": (100, 600, 1000), "other": (250, 1000, 20_000)}
CPU_VOXELS = 48**3
"""The most voxels of a patch on a CPU, where none is given."""


def suited(config: FinetuningOptions) -> FinetuningOptions:
    """The options with what was left open chosen; prints what, with the reasons.

    FdifError if there is no such dataset, or no such network.
    """
    chosen, card = _beginning(config)
    if not chosen.lr:
        rate = card.finetuning["lr"] if card else _LEARNING_RATE
        print(f"learning rate {rate:g}: " + (f"tuned for {card.name}" if card else "the usual one; see --lr"))
        chosen = dataclasses.replace(chosen, lr=rate)
    if not chosen.steps:
        chosen = dataclasses.replace(chosen, steps=_steps(config))
    return chosen


def voxel_budget() -> int:
    """The most voxels of a patch that nobody gave."""
    return CPU_VOXELS if jax.default_backend() == "cpu" else VOXEL_BUDGET


def _beginning(config: FinetuningOptions) -> tuple[FinetuningOptions, released.Card | None]:
    """The options with initial weights and a network, and the card of that network if it is a released one."""
    is_named = config.network != NetworkOptions.network or config.size or config.plans
    if config.init not in (AUTO, SCRATCH):
        return config, released.card_of(config.init) if config.init in released.names() else None
    if not is_named:
        card = released.card_of(USUAL)
        if config.init == AUTO:
            print(f"released weights {card.name}: no network is asked for; --init scratch begins without")
            return dataclasses.replace(config, init=card.name), card
        print(f"network of {card.name}: none is asked for")
        return dataclasses.replace(config, network=card.network["name"], size=_size(card)), card
    asked = network_of(config, in_channels=1, grid=UNKNOWN_GRID, out_channels=2)
    card = released.same(asked)
    if config.init == SCRATCH:
        return config, card
    if card:
        print(f"released weights {card.name}: of the network that is asked for")
        return dataclasses.replace(
            config, init=card.name, network=card.network["name"], size=(), plans=None
        ), card
    print(
        f"from scratch: of the network that is asked for nothing is released; {released.nearest(asked) or ''}"
    )
    return dataclasses.replace(config, init=SCRATCH), None


def _size(card: released.Card) -> tuple[str, ...]:
    """A released network's size as the option ``--size`` takes it."""
    fixed = ("name", "in_channels", "out_channels", "dtype", "grid", "preset")
    listed = (f"{key}={value}".replace(" ", "") for key, value in card.network.items() if key not in fixed)
    return (*([card.network["preset"]] if "preset" in card.network else []), *listed)


def _steps(config: FinetuningOptions) -> int:
    cases = config.cases or len(list_cases(config.dataset)[0])
    where = "cpu" if jax.default_backend() == "cpu" else "other"
    each, least, most = _STEPS[where]
    steps = min(max(each * cases, least), most)
    told = f"{each} for each of {cases} training cases, at least {least:,} and at most {most:,}"
    print(f"{steps:,} steps: {told}" + " on a CPU" * (where == "cpu"))
    return steps
