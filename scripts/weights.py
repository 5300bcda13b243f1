"""List released weights, or write some for the code that is to read them.

Without a name: a line for each, its name first. With a name: its card. With --out: the weights as a file, as `fdif
export` writes those of a run, and the lines that load it there; fdif-jax is not needed to read it. --init NAME of `fdif
finetune` and `fdif experiment` begins with them.

Example:
    fdif weights
    fdif weights resenc-organs
    fdif weights resenc-organs --to monai --out weights.pth
    fdif weights resenc-organs --to nnunet --out pretrained.pth --in-channels 4
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.models import released
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.tables import table_by
from fdif_jax.scripts.jobs.exporting import Form, Trained, Wanted, check_wanted, write_weights
from fdif_jax.settings import flattened


@dataclass(frozen=True, kw_only=True)
class Config(Wanted):
    """Options of ``fdif weights``."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Which weights; all are listed if not given."""
    out: Path | None = None
    """File to write: .pth, .pt or .safetensors; the card is shown if not given."""
    to: Form | None = None
    """Who reads it; if not given the suffix says: monai for .pth and .pt, or safetensors."""


def run(config: Config) -> None:
    """List all cards, show one, or write its weights."""
    asked = [
        name for name in ("to", "in_channels", "out_channels", "patch") if getattr(config, name) is not None
    ]
    if config.out is None and asked:
        raise FdifError(f"--{asked[0].replace('_', '-')} is of a file; give --out FILE")
    if config.name is None:
        if config.out is not None:
            raise FdifError(f"--out {config.out}: which weights? one of {', '.join(released.names())}")
        _list()
        return
    card = released.card_of(config.name)
    if config.out is None:
        _show(card)
        return
    form = check_wanted(config.to, config.out)
    trained = Trained(
        card.name, card.network, released.load(card.name), card.pretraining["grid"], synthetic=True
    )
    write_weights(trained, config, form, config.out)


def _list() -> None:
    cells = {
        "name": lambda card: card.name,
        "size": _size,
        "parameters": lambda card: f"{released.parameters_of(card) / 1e6:.1f} M",
        "hippocampus": partial(_gain, "hippocampus"),
        "head and neck": partial(_gain, "head and neck"),
    }
    caption = "gain on 8 cases to training from scratch, Dice points with their 95 % interval"
    Console().print(table_by(cells, map(released.card_of, released.names()), caption=caption))
    print("fdif weights NAME shows a card; fdif finetune DATASET --init NAME --out DIR begins with one")


def _gain(task: str, card: released.Card) -> str:
    return card.scores[task].gain_in_words if task in card.scores else "not measured"


def _size(card: released.Card) -> str:
    return f"{card.file.stat().st_size / 1e6:.1f} MB"


def _show(card: released.Card) -> None:
    print(f"{card.name}: {card.title}, {released.parameters_of(card):,} parameters, {_size(card)}")
    told = {"network": card.network, "pretraining": card.pretraining, "finetuning": card.finetuning}
    for name, value in flattened(told).items():
        print(f"{name}: {value}")
    for task, score in card.scores.items():
        said = f"{task}: {score.of}: Dice {score.dice:.3f}, {score.gain_in_words} points to scratch"
        print(f"{said}; {score.also}" if score.also else said)
    print(f"licence: {card.licence}\nsha256: {card.sha256}")


if __name__ == "__main__":
    cli.run("weights")
