"""Write a run's weights for PyTorch, under the names and in the layout of the network's PyTorch twin.

--to says who reads the file:
    monai        a plain state dict, for MONAI and any PyTorch code (.pth)
    safetensors  the same as .safetensors; PyTorch need not be installed to write it
    nnunet       what nnUNetv2_train -pretrained_weights takes (.pth); resenc_unet and primus
    nnssl        what nnUNetv2_preprocess_like_nnssl and nnUNetv2_train_pretrained take (.pth); resenc_unet and primus

nnU-Net takes weights whose shapes are those of its own network. --in-channels, --out-channels and --patch write the
network for other images, classes or patches than it was trained on, by the rules by which fdif finetune loads one.
Of a run that learnt to classify, monai and safetensors get the encoder and its linear head; with --out-channels, and
for nnU-Net in any case, the file is the segmentation network with that encoder, all else fresh.

Example:
    fdif export runs/pretrain --out weights.pth
    fdif export runs/pretrain --out weights.safetensors --which best
    fdif export runs/pretrain --to nnunet --out pretrained.pth --in-channels 4
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_out
from fdif_jax.scripts import cli
from fdif_jax.training.run_document import PRETRAINING
from fdif_jax.training.runs import Run, load_run
from fdif_jax.weights import state_dicts
from fdif_jax.weights.files import check_suffix, save_weights
from fdif_jax.weights.nnunet_files import NnunetNetwork, nnssl_checkpoint, nnunet_checkpoint
from fdif_jax.weights.transfer import carry

_FEWEST = 2  # background and one class: what a network is written for that knows no number of its own

_FDIF = "FDIF: formula-driven pre-training with implicit functions (2026). arXiv:2603.23199."


@dataclass(frozen=True)
class Config:
    """Options of ``fdif export``."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `fdif pretrain`, `fdif finetune` or `fdif import` wrote."""
    out: Path
    """File to write: .pth, .pt or .safetensors."""
    to: Literal["monai", "nnunet", "nnssl", "safetensors"] | None = None
    """Who reads it; if not given the suffix says: monai for .pth and .pt, or safetensors."""
    which: Literal["best", "last"] = "last"
    """Weights of the best validation, or the newest."""
    in_channels: int | None = None
    """Write the network for images of so many channels."""
    out_channels: int | None = None
    """Write the segmentation network for so many classes, the background counted; its output head is then fresh."""
    patch: tuple[int, int, int] | None = None
    """Write the network for patches of so many voxels, which nnssl's plan then recommends; the run's if not given."""


def run(config: Config) -> None:
    """Restore the run's network and write its weights."""
    form = _form(config)
    check_out(config.out)
    training_run = load_run(config.run_dir)
    model = models.create(**training_run.network)
    nnunet = _nnunet(model, form, training_run) if form in ("nnunet", "nnssl") else None
    training_run.restore(model, which=config.which)
    model = _adapted(config, form, training_run, model)
    state = state_dicts.to_torch_state_dict(model)
    contents: dict[str, Any] = state
    if form == "nnunet":
        contents = nnunet_checkpoint(state)
    elif nnunet is not None:
        contents = _nnssl(config, training_run, state, nnunet)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(contents, config.out)
    tensors = len({id(array) for array in state.values()})
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    print(f"{config.out}: {tensors} tensors under {len(state)} names, {parameters:,} parameters")
    print(_usage(form, config.out, model, nnunet))


def _form(config: Config) -> str:
    suffix = check_suffix(config.out)
    form = config.to or ("safetensors" if suffix == ".safetensors" else "monai")
    if (form == "safetensors") != (suffix == ".safetensors"):
        wanted = ".safetensors" if form == "safetensors" else ".pth or .pt"
        raise FdifError(f"--to {form} writes {wanted}, not {config.out}")
    return form


def _nnunet(model: Any, form: str, training_run: Run) -> NnunetNetwork:
    """How nnU-Net builds the network, which it must for this form."""
    name = training_run.network["name"]
    if not hasattr(model, "nnunet"):
        raise FdifError(
            f"{training_run.path}: --to {form} is for resenc_unet and primus, nnU-Net has no {name}; "
            "write it --to monai or --to safetensors"
        )
    nnunet = model.nnunet()
    if (nnunet.trainer if form == "nnunet" else nnunet.pretrained_trainer) is None:
        other = "--to nnssl or " if nnunet.pretrained_trainer else ""
        raise FdifError(
            f"{training_run.path}: no trainer of nnU-Net's for --to {form} builds a {name} of this kind; "
            f"write it {other}--to monai, for code of your own"
        )
    return nnunet


def _adapted(config: Config, form: str, training_run: Run, model: Any) -> nnx.Module:
    """The network for other images, classes or patches, if they are asked for."""
    spec = training_run.network
    wanted = dict(spec)
    if config.in_channels is not None:
        wanted["in_channels"] = config.in_channels
    out_channels = config.out_channels
    if out_channels is None and "outputs" in spec and form in ("nnunet", "nnssl"):
        out_channels = _FEWEST
    if out_channels is not None:
        wanted = models.segmenting(wanted, out_channels)
    if config.patch and models.takes_grid(spec["name"]):
        wanted["grid"] = list(config.patch)
    elif config.patch and form != "nnssl":
        raise FdifError(f"--patch changes nothing: {spec['name']} is the same for patches of any size")
    if wanted == spec:
        return model
    adapted = models.create(**wanted)
    print(carry(adapted, model, source=str(training_run.path)).summary())
    return adapted


def _nnssl(
    config: Config, training_run: Run, state: dict[str, np.ndarray], nnunet: NnunetNetwork
) -> dict[str, Any]:
    document = training_run.document
    grid, trained = (document.recipe or {}).get("grid"), (document.training or {}).get("patch")
    patch = config.patch or grid or trained or training_run.network.get("grid")
    if patch is None:
        raise FdifError(
            f"{training_run.path} does not say what patches it was trained on; give --patch D H W"
        )
    synthetic = document.kind == PRETRAINING  # those volumes have voxels of 1 mm, others any
    return nnssl_checkpoint(
        state,
        nnunet,
        in_channels=config.in_channels or training_run.network["in_channels"],
        patch=patch,
        spacing=(1.0, 1.0, 1.0) if synthetic else None,
        name="FDIF" if synthetic else training_run.path.resolve().name,
        citations=[{"type": "Pre-training", "name": "FDIF", "apa_citations": [_FDIF]}] if synthetic else [],
    )


_TORCH = "import torch\nnet.load_state_dict(torch.load({file!r}, weights_only=True){rest})"
_SAFETENSORS = "from safetensors.torch import load_file\nnet.load_state_dict(load_file({file!r}){rest})"
_ENCODER = (
    ", strict=False"  # the file lacks the decoder, and has a linear head that the network has no place for
)
_NNUNET = "nnUNetv2_train DATASET 3d_fullres FOLD -p PLANS -tr {trainer} -pretrained_weights {file}"
_NNSSL = """nnUNetv2_preprocess_like_nnssl -d DATASET -n NAME -pc {file} -am like_pretrained
nnUNetv2_train_pretrained DATASET 3d_fullres FOLD -p PLANS -tr {trainer}"""


def _usage(form: str, path: Path, model: Any, nnunet: NnunetNetwork | None) -> str:
    """What to do with the file, in the words of who reads it."""
    if nnunet is None:
        load = _SAFETENSORS if form == "safetensors" else _TORCH
        encoder = isinstance(model, models.Classifier)
        which = ", with as many classes as you have" if encoder else ""
        call = load.format(file=str(path), rest=_ENCODER if encoder else "")
        return f"\nIn PyTorch{which}:\n\n{model.torch_code()}\n{call}"
    commands, trainer = (_NNUNET, nnunet.trainer) if form == "nnunet" else (_NNSSL, nnunet.pretrained_trainer)
    return f"\nIn nnU-Net:\n\n{commands.format(file=path, trainer=trainer)}"


if __name__ == "__main__":
    cli.run("export")
