"""Which network a state dict in PyTorch's names is of, and of which size, read off names and shapes.

What shapes do not tell but changes what the network computes is taken as the original has it by default and named in
``assumed``, or has to be said where there is no such default.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models import NETWORKS, primus, vit
from fdif_jax.models.nnunet import check_no_cascade, inherited
from fdif_jax.weights.files import Checkpoint
from fdif_jax.weights.state_dicts import some


class Recognised(NamedTuple):
    """A network in a file."""

    # as plain data, for `fdif_jax.models.create`; ``out_channels`` is None where the file has no head
    network: dict[str, Any]
    state: dict[str, np.ndarray]  # the weights under the names that the network has in PyTorch
    assumed: dict[str, Any]  # options that no shape tells, as the original has them by default


class _Layout(NamedTuple):
    """Names that give a network away."""

    network: str  # its registry name
    # a weight that every file of it has; what stands before it stands before all of the network's names
    mark: str
    inside: str = ""  # what the names lack in front, for the mark is of a part of the network


# Whole networks before the encoders alone, whose names are shorter.
_LAYOUTS = (
    _Layout("resenc_unet", "encoder.stem.convs.0.conv.weight"),
    _Layout("swin_unetr", "swinViT.patch_embed.proj.weight"),
    _Layout("unetr", "encoder2.transp_conv_init.conv.weight"),
    _Layout("vnet", "in_tr.conv_block.conv.weight"),
    _Layout("primus", "down_projection.proj.weight"),
    _Layout("resenc_unet", "stem.convs.0.conv.weight", "encoder."),
    _Layout("swin_unetr", "patch_embed.proj.weight", "swinViT."),
    _Layout("unetr", "patch_embedding.patch_embeddings.weight", "vit."),
)


# A weight of the network that nnU-Net makes where it is not told to make a ResEnc U-Net.
_PLAIN_UNET = "encoder.stages.0.0.convs.0.conv.weight"


class _File:
    """A state dict under a network's own names, and questions about it."""

    def __init__(self, state: dict[str, np.ndarray], plans: Mapping[str, Any], what: str):
        self.state, self.plans, self.what = state, plans, what

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight that has to be there."""
        if name not in self:
            raise FdifError(f"{self.what}, but it lacks {name}")
        return self.state[name].shape

    def outputs(self, name: str) -> int | None:
        """Length of a weight's first axis, None if it is not there."""
        return self.shape(name)[0] if name in self else None

    def count(self, prefix: str) -> int:
        """How many of ``prefix0.``, ``prefix1.``, … begin a name."""
        number = 0
        while any(name.startswith(f"{prefix}{number}.") for name in self.state):
            number += 1
        return number

    def architecture(self) -> tuple[str | None, Mapping[str, Any]]:
        """The plan's name of the network's class, and the arguments it is built with, as far as it has them."""
        if nnssl := self.plans.get("nnssl_adaptation_plan"):
            built = nnssl.get("architecture_plans", {})
            return built.get("arch_class_name"), built.get("arch_kwargs") or {}
        built = self.configuration().get("architecture", {})
        return built.get("network_class_name"), built.get("arch_kwargs") or {}

    def patch(self) -> list[int] | None:
        """Voxels of a training patch, if the plan tells them."""
        patch = self.configuration().get("patch_size")
        return [int(n) for n in patch] if patch else None

    def configuration(self) -> Mapping[str, Any]:
        """Of the plan that nnU-Net or nnssl trained by; empty if there is none."""
        if nnssl := self.plans.get("nnssl_adaptation_plan"):
            return next(iter(nnssl.get("pretrain_plan", {}).get("configurations", {}).values()), {})
        if arguments := self.plans.get("init_args"):
            return inherited(arguments["plans"]["configurations"], arguments["configuration"])
        return {}


def recognise(
    checkpoint: Checkpoint, *, source: str, network: str | None = None, size: Mapping[str, Any] | None = None
) -> Recognised:
    """The network that the weights of a file (``source``, for errors) are of.

    ``network``, a registry name, and options of ``size`` are given if they are known, and go before what the file
    tells.

    Raises:
        FdifError: it is of none of our networks, of another than ``network``, or of a later stage of nnU-Net's cascade,
            or does not tell an option.
    """
    if network is not None and network not in NETWORKS:
        raise unknown("network", network, NETWORKS)
    layout, prefix = _layout(checkpoint, source, network)
    renamed = {_renamed(name, prefix, layout): array for name, array in checkpoint.state.items()}
    file = _File(renamed, checkpoint.plans, f"{source} looks like {layout.network}")
    # A plan of another form is asked no further.
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        check_no_cascade(source, file.configuration())
    try:
        seen = {**_READERS[layout.network](file), **(size or {})}
    except (
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # other shapes, or another form of plan
        raise FdifError(f"{file.what}, but its size cannot be read off: {error!r}") from None
    hidden = [option for option in _NEEDED & seen.keys() if seen[option] is None]
    if hidden:
        raise FdifError(
            f"{source}, {layout.network}: the weights do not tell {' and '.join(hidden)}; "
            f"give {' '.join(f'{option}=…' for option in hidden)} (--size)"
        )
    assumed = {option: value.value for option, value in seen.items() if isinstance(value, _Default)}
    return Recognised({"name": layout.network, **seen, **assumed}, renamed, assumed)


def _layout(checkpoint: Checkpoint, source: str, network: str | None) -> tuple[_Layout, str]:
    """The first layout that fits, and what stands before all its names."""
    state, found = checkpoint.state, []
    for layout in _LAYOUTS:
        prefixes = [name.removesuffix(layout.mark) for name in state if name.endswith(layout.mark)]
        prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
        if prefixes:
            found.append((layout, min(prefixes, key=len)))
    if not found:
        plain = any(name.endswith(_PLAIN_UNET) for name in state)
        what = (
            "nnU-Net's plain U-Net; its ResEnc planners make one that is" if plain else some(list(state), 3)
        )
        raise FdifError(f"{source} is of none of the networks {', '.join(NETWORKS)}; it has {what}")
    fitting = [entry for entry in found if network in (None, entry[0].network)]
    if not fitting:
        raise FdifError(f"{source} is of no {network} but of {found[0][0].network}; leave --network out")
    layout, prefix = fitting[0]
    mark = state[prefix + layout.mark]
    if mark.ndim != 5:
        raise FdifError(f"{source}: {layout.mark} has shape {mark.shape}, which is not that of a 3D network")
    return layout, prefix


def _renamed(name: str, prefix: str, layout: _Layout) -> str:
    name = layout.inside + name.removeprefix(prefix) if name.startswith(prefix) else name
    if layout.network == "swin_unetr":  # MONAI's self-supervised training has other names for an MLP's maps
        name = name.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")
    return name


# nnssl's names of ResEnc U-Nets, which stride by 2 along every axis.
_ALWAYS_HALVED = ("ResEncL", "NoSkipResEncL")
# What has no default to fall back on.
_NEEDED = {"strides", "window_size", "num_heads", "grid", "feature_size"}


class _Default(NamedTuple):
    """The original's default of an option that changes what the network computes but not its weights."""

    value: Any


def _resenc_unet(file: _File) -> dict[str, Any]:
    stages = range(file.count("encoder.stages."))
    first = [file.shape(f"encoder.stages.{i}.blocks.0.conv1.conv.weight") for i in stages]
    decoder = range(len(stages) - 1)
    return {
        "in_channels": file.shape("encoder.stem.convs.0.conv.weight")[1],
        "out_channels": file.outputs(f"decoder.seg_layers.{len(stages) - 2}.weight"),
        "features": [shape[0] for shape in first],
        "strides": _strides(file, len(stages)),
        "kernels": [list(shape[2:]) for shape in first],
        "blocks": [file.count(f"encoder.stages.{i}.blocks.") for i in stages],
        "decoder_convs": [file.count(f"decoder.stages.{i}.convs.") or 1 for i in decoder]
        or [1] * (len(stages) - 1),
        "conv_bias": "encoder.stem.convs.0.conv.bias" in file,
    }


def _strides(file: _File, stages: int) -> list[list[int]] | None:
    """Kernels of transposed convolutions are the strides; of an encoder alone only a plan tells."""
    up = [f"decoder.transpconvs.{i}.weight" for i in reversed(range(stages - 1))]
    if all(name in file for name in up):
        return [[1, 1, 1], *(list(file.shape(name)[2:]) for name in up)]
    name, arguments = file.architecture()
    return [[1, 1, 1], *([[2, 2, 2]] * (stages - 1))] if name in _ALWAYS_HALVED else arguments.get("strides")


def _swin_unetr(file: _File) -> dict[str, Any]:
    features, channels = file.shape("swinViT.patch_embed.proj.weight")[:2]
    blocks = [f"swinViT.layers{i}.0.blocks." for i in range(1, 5)]
    tables = [file.shape(f"{block}0.attn.relative_position_bias_table") for block in blocks]
    window = (round(tables[0][0] ** (1 / 3)) + 1) // 2
    return {
        "in_channels": channels,
        "out_channels": file.outputs("out.conv.conv.weight"),
        "feature_size": features,
        "depths": [file.count(block) for block in blocks],
        "num_heads": [heads for _, heads in tables],
        "window_size": window if (2 * window - 1) ** 3 == tables[0][0] else None,
        "qkv_bias": f"{blocks[0]}0.attn.qkv.bias" in file,
        "mlp_ratio": file.shape(f"{blocks[0]}0.mlp.linear1.weight")[0] / features,
        "patch_norm": "swinViT.patch_embed.norm.weight" in file,
        "use_v2": file.count("swinViT.layers1c.") > 0,
        "normalize": _Default(True),
        "downsample": _Default("merging"),
    }


def _unetr(file: _File) -> dict[str, Any]:
    _, tokens, hidden = file.shape("vit.patch_embedding.position_embeddings")
    flat = "vit.patch_embedding.patch_embeddings.1.weight" in file
    whole = "encoder2.transp_conv_init.conv.weight" in file
    image = "encoder1.layer.conv1.conv.weight" if flat else "vit.patch_embedding.patch_embeddings.weight"
    return {
        "in_channels": file.shape(image)[1],
        "out_channels": file.outputs("out.conv.conv.weight"),
        "grid": _grid(file, tokens, (vit.EDGE,) * 3),
        "feature_size": file.outputs("encoder1.layer.conv1.conv.weight"),
        "hidden_size": hidden,
        "mlp_dim": file.shape("vit.blocks.0.mlp.linear1.weight")[0],
        "num_heads": _Default(12) if hidden == 768 else None,
        "proj_type": "perceptron" if flat else "conv",
        "conv_block": not whole or "encoder2.blocks.0.1.conv1.conv.weight" in file,
        "res_block": not whole or "decoder5.conv_block.conv3.conv.weight" in file,
        "qkv_bias": "vit.blocks.0.attn.qkv.bias" in file,
    }


def _vnet(file: _File) -> dict[str, Any]:
    return {
        "in_channels": file.shape("in_tr.conv_block.conv.weight")[1],
        "out_channels": file.outputs("out_tr.conv2.weight"),
        "act": "prelu" if "in_tr.act_function.weight" in file else _Default("elu"),
        "bias": "in_tr.conv_block.conv.bias" in file,
    }


def _primus(file: _File) -> dict[str, Any]:
    features, channels, *patch = file.shape("down_projection.proj.weight")
    depth, stages = file.count("eva.blocks."), file.count("up_projection.decode.")
    registers = file.shape("register_tokens")[1] if "register_tokens" in file else 0
    last, hidden = f"up_projection.decode.{stages - 1}.weight", file.shape("eva.blocks.0.mlp.fc1_g.weight")[0]
    named = [
        p["num_heads"] for p in primus.PRESETS.values() if (p["embed_dim"], p["depth"]) == (features, depth)
    ]
    embedded = "eva.pos_embed" in file
    tokens = file.shape("eva.pos_embed")[1] - registers if embedded else None
    return {
        "in_channels": channels,
        "out_channels": file.shape(last)[1] if last in file else None,
        "grid": _grid(file, tokens, patch),
        "embed_dim": features,
        "depth": depth,
        "num_heads": named[0] if named else file.architecture()[1].get("encoder_eva_numheads"),
        "patch_embed_size": patch,
        "num_register_tokens": registers,
        "use_abs_pos_embed": embedded,
        # Rounded down: half a channel more than there are gives as many again.
        "mlp_ratio": 8 / 3 if int(features * 8 / 3) == hidden else (hidden + 0.5) / features,
        "init_values": 0.1 if "eva.blocks.0.gamma_1" in file else None,
        "scale_attn_inner": "eva.blocks.0.attn.norm.weight" in file,
        "use_rot_pos_emb": _Default(True),
    }


def _grid(file: _File, tokens: int | None, patch: Sequence[int]) -> list[int] | None:
    """Voxels of the images that this many tokens are of: what the plan says, else a cube."""
    planned = file.patch()
    if planned and tokens in (None, math.prod(n // p for n, p in zip(planned, patch, strict=True))):
        return planned
    edge = round((tokens or 0) ** (1 / 3))
    return [edge * p for p in patch] if tokens and edge**3 == tokens else None


_READERS: dict[str, Callable[[_File], dict[str, Any]]] = {
    "resenc_unet": _resenc_unet,
    "swin_unetr": _swin_unetr,
    "unetr": _unetr,
    "vnet": _vnet,
    "primus": _primus,
}
