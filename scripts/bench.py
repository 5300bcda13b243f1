"""Measure on this machine: the renderer, a step of pre-training, the networks beside their PyTorch originals, a GPU.

Example:
    fdif bench render
    fdif bench training --preset quick
    fdif bench networks --networks resenc_unet --json networks.json
    fdif bench gpu --out gpu
"""

from collections.abc import Sequence
from typing import Annotated

import tyro

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import networks, render, training
from fdif_jax.scripts.benchmarks.gpu import programme

Config = (
    Annotated[
        render.Config,
        tyro.conf.subcommand("render", description=render.__doc__),
    ]
    | Annotated[
        training.Config,
        tyro.conf.subcommand("training", description=training.__doc__),
    ]
    | Annotated[
        networks.Config,
        tyro.conf.subcommand("networks", description=networks.__doc__),
    ]
    | Annotated[
        programme.Config,
        tyro.conf.subcommand("gpu", description=programme.__doc__),
    ]
)


def defaults(arguments: Sequence[str]) -> training.Config | None:
    """The options of the preset that is asked for, of what has presets."""
    return training.defaults(arguments) if arguments[:1] == ["training"] else None


def run(
    config: render.Config | training.Config | networks.Config | programme.Config,
) -> None:
    """Measure what the configuration is of."""
    if isinstance(config, programme.Config):
        programme.run(config)
    elif isinstance(config, networks.Config):
        networks.run(config)
    elif isinstance(config, training.Config):
        training.run(config)
    else:
        render.run(config)


if __name__ == "__main__":
    cli.run("bench")
