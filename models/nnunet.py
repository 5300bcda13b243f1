"""nnU-Net and the ResEnc U-Net: the one that a plans file asks for, and what nnU-Net is told to build ours.

Source: Isensee et al. 2024, nnU-Net Revisited (arXiv 2404.09556). A plans
file is what ``nnUNetv2_plan_and_preprocess`` writes; its configurations hold ``patch_size``, ``spacing`` and, since
nnU-Net 2.4, ``architecture``.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import json_of
from fdif_jax.weights.nnunet_files import NnunetNetwork

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


class PlannedNetwork(NamedTuple):
    """What a configuration of a plans file asks for."""

    # our network as plain data, but for ``in_channels`` and ``out_channels``, which a plan does not say
    network: dict[str, Any]
    patch: tuple[int, int, int]  # voxels of a training patch, ``(D, H, W)``
    # millimetres between the voxels that nnU-Net resamples to, along the same axes
    spacing: tuple[float, float, float]


def from_plans(path: str | os.PathLike, configuration: str = "3d_fullres") -> PlannedNetwork:
    """The ResEnc U-Net that nnU-Net would build from a configuration of a plans file (``nnUNetResEncUNetLPlans.json``).

    ``models.create(**from_plans(path).network, in_channels=1, out_channels=3)`` is that network.

    Raises:
        FdifError: no plans file, no such configuration, one of another network than a 3D residual encoder U-Net, or a
            later stage of a cascade.
    """
    name, plan = f"{path}, configuration {configuration}", _configuration(Path(path), configuration)
    check_no_cascade(name, plan)
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
    except (TypeError, ValueError, AttributeError) as error:
        raise FdifError(f"{name} has another form than nnU-Net's plans: {error}") from None
    if not (_are(int, patch) and _are((int, float), spacing)):
        raise FdifError(f"{name}: patch_size {patch} and spacing {spacing} must be three numbers above 0")
    return PlannedNetwork({"name": "resenc_unet", **network}, patch, spacing)


def _are(kinds: Any, numbers: tuple[Any, ...]) -> bool:
    """Whether these are three finite numbers above 0, of these types."""
    return len(numbers) == 3 and all(
        isinstance(n, kinds) and not isinstance(n, bool) and 0 < n < math.inf for n in numbers
    )


def resenc_network(options: Mapping[str, Any]) -> NnunetNetwork:
    """How nnU-Net builds a ResEnc U-Net of ours with these options, and where nnssl finds its parts.

    nnssl knows one size by name, ``ResEncL``; of any other the arguments are told.
    """
    told = {name: options[option] for name, option in _OPTIONS.items()}
    arguments = json.loads(json.dumps(told))  # as a plan has them: lists, no tuples
    named = arguments == _RESENC_L
    told = {"n_stages": len(options["features"]), **arguments, **_FIXED}
    return NnunetNetwork(
        architecture=architecture_of(
            f"dynamic_network_architectures.architectures.unet.{_CLASS}", told, _IMPORTED
        ),
        name="ResEncL" if named else _CLASS,
        arguments=None if named else told,
        imported=_IMPORTED,
        trainer="nnUNetTrainer",
        pretrained_trainer="PretrainedTrainer",
        key_to_encoder="encoder.stages",
        key_to_stem="encoder.stem",
        keys_to_in_proj=("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"),
    )


def architecture_of(path: str, arguments: Mapping[str, Any], imported: Sequence[str] = ()) -> dict[str, Any]:
    """A network as the plans of nnU-Net tell it: its class, what that is called with, and what of it is imported."""
    return {
        "network_class_name": path,
        "arch_kwargs": dict(arguments),
        "_kw_requires_import": list(imported),
    }


def _configuration(path: Path, name: str) -> dict[str, Any]:
    """One configuration of a plans file, with what it inherits."""
    try:
        configurations = json_of(path.read_bytes())["configurations"]
        if name not in configurations:
            raise unknown(f"configuration of {path}", name, configurations)
        return inherited(configurations, name)
    except (FileNotFoundError, IsADirectoryError):
        raise FdifError(f"no such plans file: {path}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FdifError(f"{path} is no plans file of nnU-Net: {error!r}") from None


def check_no_cascade(what: str, plan: Mapping[str, Any]) -> None:
    """Raise FdifError if a configuration of a plan is a later stage of a cascade; ``what`` names it in the error."""
    if stage := plan.get("previous_stage"):
        raise FdifError(
            f"{what} is a stage of a cascade, whose network sees the labels that {stage} predicted beside the image; "
            "networks here see images alone: take 3d_fullres or 3d_lowres"
        )


def inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of a plan with what it inherits from others; KeyError where one is not there."""
    plan = dict(configurations[name])
    for _ in configurations:  # no chain is longer, if it is none in a circle
        if "inherits_from" in plan:
            plan = {**configurations[plan.pop("inherits_from")], **plan}
    return plan
