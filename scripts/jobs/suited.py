"""What `fdif finetune` chooses where nothing is said: initial weights, network, rate, steps, patch, patience."""

import dataclasses

import jax

from fdif_jax.datasets.reader import list_cases
from fdif_jax.models import released
from fdif_jax.preprocessing.fingerprints import VOXEL_BUDGET
from fdif_jax.scripts.jobs.initial_weights import SCRATCH
from fdif_jax.scripts.options.finetuning import AUTO, FinetuningOptions
from fdif_jax.scripts.options.network import UNKNOWN_GRID, NetworkOptions, network_of

_LEARNING_RATE = 1e-4  # of other networks

# Steps a training case, the fewest and the most; on a CPU what minutes allow.
_STEPS = {"cpu": (100, 600, 1000), "other": (250, 1000, 20_000)}
CPU_VOXELS = 48**3
"""The most voxels of a patch on a CPU, where none is given."""

_VALIDATIONS, _PATIENCE = 20, 5  # of a run that may stop early, and how many without a better Dice stop it


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
    return dataclasses.replace(chosen, **_stopping(config, chosen.steps))


def voxel_budget() -> int:
    """The most voxels of a patch that nobody gave."""
    return CPU_VOXELS if jax.default_backend() == "cpu" else VOXEL_BUDGET


def _beginning(config: FinetuningOptions) -> tuple[FinetuningOptions, released.Card | None]:
    """The options with initial weights and a network, and the card of that network if it is a released one."""
    if config.init not in (AUTO, SCRATCH):
        return config, released.card_of(config.init) if config.init in released.names() else None
    card, why = _card(config)
    if config.init == SCRATCH:
        if card is None or config.size or config.plans:
            return config, card
        print(f"network of {card.name}: {why}")
        return dataclasses.replace(config, network=card.network["name"], size=_size(card)), card
    if card is None:
        print(f"from scratch: {why}")
        return dataclasses.replace(config, init=SCRATCH), None
    print(f"released weights {card.name}: {why}; --init scratch begins without")
    network = {"init": card.name, "network": card.network["name"], "size": (), "plans": None}
    return dataclasses.replace(config, **network), card


def _card(config: FinetuningOptions) -> tuple[released.Card | None, str]:
    """The released weights of the network that is asked for, and in words why these, or why none."""
    if config.size or config.plans:
        asked = network_of(config, in_channels=1, grid=UNKNOWN_GRID, out_channels=2)
        if card := released.same(asked):
            return card, "of the network that is asked for"
        return None, f"of the network that is asked for nothing is released; {released.nearest(asked) or ''}"
    if config.network == NetworkOptions.network:
        return released.card_of(released.USUAL), "no network is asked for"
    if card := released.smallest(config.network):
        return card, f"of {config.network}, whose size is not asked for"
    return None, f"of {config.network} nothing is released"


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


def _stopping(config: FinetuningOptions, steps: int) -> dict[str, int]:
    """When a run stops early: where neither steps nor patience are said, and what validates it was held out for that.

    Cases that a list has for validation are to judge the result, so they stop nothing.
    """
    if config.patience is not None:
        return {}
    held_out = config.val_from == "validation" and not config.folds and not list_cases(config.dataset)[1]
    if config.steps or not config.val_every or not held_out:
        return {"patience": 0}
    is_said = config.val_every != FinetuningOptions.val_every
    every = config.val_every if is_said else max(steps // _VALIDATIONS, 1)
    print(
        f"stops after {_PATIENCE} validations, {every} steps apart, without a better Dice; the best is kept"
    )
    return {"patience": _PATIENCE, "val_every": every}
