"""Measure on this machine: the renderer, or the networks beside their PyTorch originals.

Example:
    fdif bench render
    fdif bench networks --networks resenc_unet --json networks.json
"""

from typing import Annotated

import tyro

from fdif_jax.scripts import bench_networks, bench_render, cli

Config = (
    Annotated[
        bench_render.Config,
        tyro.conf.subcommand("render", description=bench_render.__doc__),
    ]
    | Annotated[
        bench_networks.Config,
        tyro.conf.subcommand("networks", description=bench_networks.__doc__),
    ]
)


def run(config: bench_render.Config | bench_networks.Config) -> None:
    """Measure what the configuration is of."""
    if isinstance(config, bench_networks.Config):
        bench_networks.run(config)
    else:
        bench_render.run(config)


if __name__ == "__main__":
    cli.run("bench")
