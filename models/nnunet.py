"""nnU-Net and our networks: the ResEnc U-Net that a plans file asks for, and what nnU-Net is told to build ours.

Sources: Isensee et al. 2024, nnU-Net Revisited (arXiv 2404.09556); Wald et al. 2025, Primus (arXiv 2503.01835). A plans
file is what ``nnUNetv2_plan_and_preprocess`` writes; its configurations hold ``patch_size``, ``spacing`` and, since
nnU-Net 2.4, ``architecture``.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fdif_jax.errors import FdifError, unknown
from fdif_jax.weights.nnunet_files import NnunetNetwork

if TYPE_CHECKING:
    from fdif_jax.models.primus import PrimusConfig
    from fdif_jax.models.resenc_unet import ResEncConfig

_CLASS = "ResidualEncoderUNet"  # of dynamic_network_architectures.architectures.unet
_IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")  # arguments that name Python objects
# What our network has instead of an option; a plan must say the same.
_FIXED = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
# nnU-Net's name of an argument → our option.
_OPTIONS = {
    "features_per_stage": "features",
    "kernel_sizes": "kernels",
    "strides": "strides",
    "n_blocks_per_stage": "blocks",
    "n_conv_per_stage_decoder": "decoder_convs",
    "conv_bias": "conv_bias",
}
_RESENC_L = {
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5,
    "conv_bias": True,
}
# Embedding, depth and heads of the networks that nnU-Net's Primus trainers build, with tokens of 8 voxels an edge.
_PRIMUS = {(396, 12, 6): "S", (792, 12, 12): "B", (864, 16, 12): "M", (1056, 24, 16): "L"}


class PlannedNetwork(NamedTuple):
    """What a configuration of a plans file asks for.

    Attributes:
        network: our network as plain data, but for ``in_channels`` and ``out_channels``, which a plan does not say.
        patch: voxels of a training patch, ``(D, H, W)``.
        spacing: millimetres between the voxels that nnU-Net resamples to, along the same axes.
    """

    network: dict[str, Any]
    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]


def from_plans(path: str | os.PathLike, configuration: str = "3d_fullres") -> PlannedNetwork:
    """The ResEnc U-Net that nnU-Net would build from a plans file.

    ``models.create(**from_plans(path).network, in_channels=1, out_channels=3)`` is that network.

    Args:
        path: a plans file, as ``nnUNetResEncUNetLPlans.json``.
        configuration: one of its configurations, of three dimensions.

    Raises:
        FdifError: no plans file, no such configuration, or one of another network than a 3D residual encoder U-Net.
    """
    name, plan = f"{path}, configuration {configuration}", _configuration(Path(path), configuration)
    try:
        architecture = plan["architecture"]
        built, arguments = architecture["network_class_name"], architecture["arch_kwargs"]
        patch, spacing = tuple(plan["patch_size"]), tuple(plan["spacing"])
        if len(patch) != 3:
            raise FdifError(f"{name}: its patches have {len(patch)} dimensions; take a 3D configuration")
        if built.split(".")[-1] != _CLASS:
            raise FdifError(
                f"{name}: its network is {built}, not {_CLASS}; "
                "plan with nnUNetv2_plan_and_preprocess -pl nnUNetPlannerResEncM (or L, or XL)"
            )
        for argument, value in _FIXED.items():
            if arguments[argument] != value:
                raise FdifError(f"{name}: {argument} is {arguments[argument]}; resenc_unet has {value}")
        network = {option: arguments[argument] for argument, option in _OPTIONS.items()}
    except KeyError as missing:
        raise FdifError(
            f"{name} has no {missing}; plan again with nnU-Net 2.4 or newer (nnUNetv2_plan_experiment)"
        ) from None
    return PlannedNetwork({"name": "resenc_unet", **network}, patch, spacing)


def resenc_network(config: "ResEncConfig") -> NnunetNetwork:
    """How nnU-Net builds a ResEnc U-Net of ours, and where nnssl finds its parts.

    nnssl knows one size by name, ``ResEncL``; of any other the arguments are told.
    """
    arguments = {name: _listed(getattr(config, option)) for name, option in _OPTIONS.items()}
    named = arguments == _RESENC_L
    return NnunetNetwork(
        name="ResEncL" if named else _CLASS,
        arguments=None if named else {"n_stages": len(config.features), **arguments, **_FIXED},
        imported=_IMPORTED,
        trainer="nnUNetTrainer",
        pretrained_trainer="PretrainedTrainer",
        key_to_encoder="encoder.stages",
        key_to_stem="encoder.stem",
        keys_to_in_proj=("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"),
    )


def primus_network(config: "PrimusConfig") -> NnunetNetwork:
    """How nnU-Net builds a Primus of ours, and where nnssl finds its parts.

    ``nnUNetv2_train`` has a trainer for each published size. ``PretrainedTrainer_Primusx`` reads the size from the
    plan, and builds no Primus with register tokens, another MLP, or without either of its embeddings of positions.
    """
    c = config
    usual = c.init_values is not None and c.scale_attn_inner and c.patch_embed_size == (8, 8, 8)
    name = _PRIMUS.get((c.embed_dim, c.depth, c.num_heads)) if usual else None
    buildable = (
        not c.num_register_tokens and c.use_rot_pos_emb and c.use_abs_pos_embed and c.mlp_ratio == 8 / 3
    )
    return NnunetNetwork(
        name=f"Primus{name or 'X'}",
        arguments={
            "embed_dim": c.embed_dim,
            "encoder_eva_depth": c.depth,
            "encoder_eva_numheads": c.num_heads,
            "patch_embed_size": list(c.patch_embed_size),
            "input_shape": list(c.grid),
            "drop_path_rate": c.drop_path_rate,
            "init_values": c.init_values,
            "scale_attn_inner": c.scale_attn_inner,
        },
        imported=(),
        trainer=f"nnUNet_Primus_{name}_Trainer" if name and buildable else None,
        pretrained_trainer="PretrainedTrainer_Primusx" if buildable else None,
        key_to_encoder="eva",
        key_to_stem="down_projection",
        keys_to_in_proj=("down_projection.proj",),
        key_to_lpe="eva.pos_embed",
    )


def _configuration(path: Path, name: str) -> dict[str, Any]:
    """One configuration of a plans file, with what it inherits."""
    try:
        configurations = json.loads(path.read_bytes())["configurations"]
        if name not in configurations:
            raise unknown(f"configuration of {path}", name, configurations)
        return inherited(configurations, name)
    except (FileNotFoundError, IsADirectoryError):
        raise FdifError(f"no such plans file: {path}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FdifError(f"{path} is no plans file of nnU-Net: {error!r}") from None


def inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of a plan with what it inherits from others.

    Raises:
        KeyError: it, or one that it inherits from, is not there.
    """
    plan = dict(configurations[name])
    for _ in configurations:  # no chain is longer, if it is none in a circle
        if "inherits_from" in plan:
            plan = {**configurations[plan.pop("inherits_from")], **plan}
    return plan


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, tuple) else value
