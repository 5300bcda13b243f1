"""Measure on this machine: shapes, the renderer, a step of pre-training and what objectives add to it, the networks
beside their PyTorch originals, what others have published, a GPU; what compiling for a GPU that is not here takes; how
a step divides, and what many volumes cost; and what faults made on purpose do.

Example:
    fdif bench shapes
    fdif bench render
    fdif bench training --preset quick
    fdif bench objectives
    fdif bench networks --networks resenc_unet --json networks.json
    fdif bench rivals --fdif ../FDIF
    fdif bench gpu --out gpu
    fdif bench plan --preset fdif-swinunetr --gpu h200
    fdif bench scale --preset quick --batch-size 8
    fdif bench reliability --parts hostile server fuzzing
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import (
    absent_gpu,
    networks,
    objectives,
    published,
    render,
    scale,
    shapes,
    training,
)
from fdif_jax.scripts.benchmarks.gpu import programme
from fdif_jax.scripts.benchmarks.reliability import programme as reliability

_MEASURED = {
    "shapes": shapes,
    "render": render,
    "training": training,
    "objectives": objectives,
    "networks": networks,
    "rivals": published,
    "gpu": programme,
    "plan": absent_gpu,
    "scale": scale,
    "reliability": reliability,
}
Config: Any = Union[  # noqa: UP007  # of a tuple that is computed
    tuple(
        Annotated[module.Config, tyro.conf.subcommand(name, description=module.__doc__)]  # type: ignore[attr-defined]
        for name, module in _MEASURED.items()
    )
]


def defaults(arguments: Sequence[str]) -> Any:
    """The options of the preset that is asked for, of what has presets."""
    having = {"training": training, "objectives": objectives, "scale": scale, "plan": absent_gpu}
    measured = having.get(arguments[0]) if arguments else None
    return measured.defaults(arguments) if measured else None


def run(config: Any) -> None:
    """Measure what the configuration is of."""
    for module in _MEASURED.values():
        if type(config) is module.Config:  # type: ignore[attr-defined]
            module.run(config)  # type: ignore[attr-defined]


if __name__ == "__main__":
    cli.main(["bench", *sys.argv[1:]])
