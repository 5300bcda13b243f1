"""Make a run directory of the weights in a PyTorch checkpoint, for `fdif finetune --init` and `fdif export`.

Understood are the files of MONAI's networks (state dicts, bare or beside other things), of nnU-Net and of nnssl, as
PyTorch saves them (.pth, .pt, .ckpt, …) or .safetensors. Which network it is and its size are read off the weights; no
code in the file is run.

Every weight must find its place. Where other channels or another grid than the file's are asked for, where the file
has no output head, for nnssl's files and with --partial, what fits is taken, what can be is adapted, the rest starts
fresh, and all this is reported; a file that less than half of the encoder can be taken from is refused.

Example:
    fdif import checkpoint_final.pth --out runs/nnunet
    fdif import swin_unetr.pth --in-channels 4 --out-channels 3 --out runs/brats
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models.recognise import Recognised, recognise
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs.initial_weights import token_grid_of
from fdif_jax.scripts.options.network import parse_size
from fdif_jax.scripts.options.settings import shown
from fdif_jax.training.network import State, count_parameters, weights
from fdif_jax.training.run_document import IMPORTED, ImportedFile, RunDocument
from fdif_jax.training.runs import open_run
from fdif_jax.weights.files import read_checkpoint
from fdif_jax.weights.state_dicts import some
from fdif_jax.weights.transfer import Transfer, transfer

_Channels = Annotated[int | None, shown("INT", "the file's")]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of ``fdif import``."""

    file: tyro.conf.Positional[Path]
    """Checkpoint: PyTorch's (.pth, .pt, .ckpt, …) or .safetensors."""
    out: Path
    """Run directory to make."""
    network: str | None = None
    """One of resenc_unet, swin_unetr, unetr, vnet, primus, if the file is of several or of another than thought."""
    size: tuple[str, ...] = ()
    """What the weights do not tell of the file's network, as num_heads=8, act=relu or grid=[96,96,64]."""
    in_channels: _Channels = None
    """Channels of the images to be trained on."""
    out_channels: _Channels = None
    """Channels of the logits: classes and background."""
    grid: Annotated[tuple[int, int, int] | None, shown("D H W", "the file's")] = None
    """Voxels to be trained on, for networks with position embeddings (unetr, primus)."""
    partial: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Take what fits, though the file lacks weights or has others."""


def run(config: Config) -> None:
    """Recognise the network, load it, and write the run directory."""
    if config.out.exists():
        raise FdifError(f"--out {config.out} exists; give a new directory")
    size = parse_size(config.size)
    for name in size.keys() & {"in_channels", "out_channels"}:
        raise FdifError(f"--size {name}: the file tells; --{name.replace('_', '-')} asks for another number")
    checkpoint = read_checkpoint(config.file)
    found = recognise(checkpoint, source=str(config.file), network=config.network, size=size)
    network = _asked(config, found)
    model = models.create(**network)
    report = transfer(model, found.state, source=str(config.file), token_grid=token_grid_of(found.network))
    if network == found.network and not config.partial and "nnssl_adaptation_plan" not in checkpoint.plans:
        _check_complete(config.file, network["name"], report)
    with open(config.file, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = ImportedFile(config.file.name, digest)
    _write(
        config.out, RunDocument(kind=IMPORTED, network=network, source=origin, left_fresh=report.fresh), model
    )

    parameters = count_parameters(model)
    print(f"{config.file}: {network['name']}, {parameters:,} parameters; " + _listed(network))
    if found.assumed:
        print(f"the weights do not tell, so as by default: {_listed(found.assumed)} (--size says otherwise)")
    print(report.summary())
    print(
        f"next: fdif finetune DATASET.json --init {config.out} --out DIR, or fdif export {config.out} --out FILE"
    )


def _asked(config: Config, found: Recognised) -> dict[str, Any]:
    """The network to make: the file's, with the channels and the grid that are asked for."""
    name = found.network["name"]
    asked: dict[str, Any] = {"in_channels": config.in_channels, "out_channels": config.out_channels}
    if config.grid is not None and not models.takes_grid(name):
        raise FdifError(f"--grid: the weights of {name} are of no particular grid; leave it out")
    asked["grid"] = None if config.grid is None else list(config.grid)
    network = found.network | {option: value for option, value in asked.items() if value is not None}
    if network["out_channels"] is None:
        raise FdifError(f"{config.file} has no output head; give --out-channels, classes and background")
    return network


def _check_complete(file: Path, network: str, report: Transfer) -> None:
    faults = {"it lacks, or has otherwise,": report.fresh, "the network lacks": report.unused}
    listed = "; ".join(f"{what} {some(names)}" for what, names in faults.items() if names)
    if listed:
        raise FdifError(f"{file} is no complete {network}: {listed}; --partial takes what fits")


def _write(out: Path, document: RunDocument, model: nnx.Module) -> None:
    """A run directory with one checkpoint, under its name when it is complete."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with open_run(part, document) as opened, opened.checkpoints() as checkpoints:
            checkpoints.save(0, State(weights(model), {"steps": np.int32(0)}, {}), None)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _listed(options: dict[str, Any]) -> str:
    told = ((option, str(value).replace(" ", "")) for option, value in options.items() if option != "name")
    return ", ".join(f"{option}={value}" for option, value in told)


if __name__ == "__main__":
    cli.run("import")
