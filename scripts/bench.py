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

from fdif_jax.scripts import bench_networks, bench_render, bench_training, cli
from fdif_jax.scripts.benchmarks.gpu import programme
from fdif_jax.scripts.presets import preset_of

Config = (
    Annotated[
        bench_render.Config,
        tyro.conf.subcommand("render", description=bench_render.__doc__),
    ]
    | Annotated[
        bench_training.Config,
        tyro.conf.subcommand("training", description=bench_training.__doc__),
    ]
    | Annotated[
        bench_networks.Config,
        tyro.conf.subcommand("networks", description=bench_networks.__doc__),
    ]
    | Annotated[
        programme.Config,
        tyro.conf.subcommand("gpu", description=programme.__doc__),
    ]
)


def defaults(arguments: Sequence[str]) -> bench_training.Config | None:
    """The options of the preset that is asked for, of what has presets."""
    return preset_of(arguments, bench_training.of_preset) if arguments[:1] == ["training"] else None


def run(
    config: bench_render.Config | bench_training.Config | bench_networks.Config | programme.Config,
) -> None:
    """Measure what the configuration is of."""
    if isinstance(config, programme.Config):
        programme.run(config)
    elif isinstance(config, bench_networks.Config):
        bench_networks.run(config)
    elif isinstance(config, bench_training.Config):
        bench_training.run(config)
    else:
        bench_render.run(config)


if __name__ == "__main__":
    cli.run("bench")
