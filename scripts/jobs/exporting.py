"""A trained network's weights as files for PyTorch, MONAI, nnU-Net and nnssl, and how they are loaded there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_out
from fdif_jax.training.network import count_parameters
from fdif_jax.weights import state_dicts
from fdif_jax.weights.files import check_suffix, save_weights
from fdif_jax.weights.nnunet_files import NnunetNetwork, nnssl_checkpoint, nnunet_checkpoint
from fdif_jax.weights.transfer import carry

Form = Literal["monai", "nnunet", "nnssl", "safetensors"]

_FEWEST = 2  # background and one class: what a network is written for that knows no number of its own

_FDIF = "FDIF: formula-driven pre-training with implicit functions (2026). arXiv:2603.23199."


class Trained(NamedTuple):
    """A trained network.

    Attributes:
        source: what holds it, for messages: a run directory, or the name of released weights.
        network: as plain data.
        model: itself.
        patch: voxels that it was trained on, if known.
        synthetic: whether it was trained on scenes, whose voxels are 1 mm.
    """

    source: str
    network: dict[str, Any]
    model: nnx.Module
    patch: Sequence[int] | None
    synthetic: bool


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The options of a command that writes weights."""

    in_channels: int | None = None
    """Write the network for images of so many channels."""
    out_channels: int | None = None
    """Write the segmentation network for so many classes, the background counted; its output head is then fresh."""
    patch: tuple[int, int, int] | None = None
    """Write the network for patches of so many voxels, which nnssl's plan then recommends; the run's if not given."""


def check_wanted(to: Form | None, out: Path) -> Form:
    """The form in which to write ``out``; FdifError if it cannot be written, or has another suffix."""
    form = _form(to, out)
    check_out(out)
    return form


def write_weights(trained: Trained, wanted: Wanted, form: Form, out: Path) -> None:
    """Write a network's weights, and print what loads them.

    FdifError if the form is not for this network, or the network cannot be adapted as wanted.
    """
    nnunet = built_by_nnunet(trained.source, trained.network, trained.model, form)
    model = _adapted(trained, wanted, form)
    state = state_dicts.to_torch_state_dict(model)
    contents: dict[str, Any] = state
    if form == "nnunet":
        contents = nnunet_checkpoint(state)
    elif nnunet is not None:
        contents = _nnssl(trained, wanted, state, nnunet)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(contents, out)
    tensors = len({id(array) for array in state.values()})
    parameters = count_parameters(model)
    print(f"{out}: {tensors} tensors under {len(state)} names, {parameters:,} parameters")
    print(_usage(form, out, model, nnunet))


def _form(to: Form | None, out: Path) -> Form:
    suffix = check_suffix(out)
    form = to or ("safetensors" if suffix == ".safetensors" else "monai")
    if (form == "safetensors") != (suffix == ".safetensors"):
        suffixes = ".safetensors" if form == "safetensors" else ".pth or .pt"
        raise FdifError(f"--to {form} writes {suffixes}, not {out}")
    return form


def built_by_nnunet(source: str, network: dict[str, Any], model: Any, form: str) -> NnunetNetwork | None:
    """How nnU-Net builds a network, for a form that it reads; None for others.

    FdifError, naming the ``source``, if nnU-Net has no such network, or no trainer for it. Weights may be missing yet.
    """
    if form not in ("nnunet", "nnssl", "nnunet-results"):
        return None
    name, whole = network["name"], form == "nnunet-results"
    if not hasattr(model, "nnunet"):
        raise FdifError(
            f"{source}: --to {form} is for resenc_unet and primus, nnU-Net has no {name}; "
            f"write it --to {'monai-bundle' if whole else 'monai or --to safetensors'}"
        )
    nnunet = model.nnunet()
    if (nnunet.pretrained_trainer if form == "nnssl" else nnunet.trainer) is None:
        other = "--to nnssl or " if nnunet.pretrained_trainer and not whole else ""
        raise FdifError(
            f"{source}: no trainer of nnU-Net's for --to {form} builds a {name} of this kind; "
            f"write it {other}--to {'monai-bundle' if whole else 'monai, for code of your own'}"
        )
    return nnunet


def _adapted(trained: Trained, asked: Wanted, form: Form) -> nnx.Module:
    """The network for other images, classes or patches, if they are asked for."""
    spec = trained.network
    wanted = dict(spec)
    if asked.in_channels is not None:
        wanted["in_channels"] = asked.in_channels
    out_channels = asked.out_channels
    if out_channels is None and "outputs" in spec and form in ("nnunet", "nnssl"):
        out_channels = _FEWEST
    if out_channels is not None:
        wanted = models.segmenting(wanted, out_channels)
    if asked.patch and models.takes_grid(spec["name"]):
        wanted["grid"] = list(asked.patch)
    elif asked.patch and form != "nnssl":
        raise FdifError(f"--patch changes nothing: {spec['name']} is the same for patches of any size")
    if wanted == spec:
        return trained.model
    adapted = models.create(**wanted)
    print(carry(adapted, trained.model, source=trained.source).summary())
    return adapted


def _nnssl(
    trained: Trained, wanted: Wanted, state: dict[str, np.ndarray], nnunet: NnunetNetwork
) -> dict[str, Any]:
    patch = wanted.patch or trained.patch or trained.network.get("grid")
    if patch is None:
        raise FdifError(f"{trained.source} does not say what patches it was trained on; give --patch D H W")
    return nnssl_checkpoint(
        state,
        nnunet,
        in_channels=wanted.in_channels or trained.network["in_channels"],
        patch=patch,
        spacing=(1.0, 1.0, 1.0) if trained.synthetic else None,
        name="FDIF" if trained.synthetic else Path(trained.source).resolve().name,
        citations=[{"type": "Pre-training", "name": "FDIF", "apa_citations": [_FDIF]}]
        if trained.synthetic
        else [],
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
        return f"\nIn PyTorch{which}:\n\n{model.torch_twin().code()}\n{call}"
    commands, trainer = (_NNUNET, nnunet.trainer) if form == "nnunet" else (_NNSSL, nnunet.pretrained_trainer)
    return f"\nIn nnU-Net:\n\n{commands.format(file=path, trainer=trainer)}"
