"""State dicts in the wrappings that nnU-Net and nnssl read.

nnU-Net's ``nnUNetv2_train -pretrained_weights`` takes what lies under ``network_weights``, if every name of its own
network but those of the segmentation layers is there with the same shape.

nnssl's checkpoints carry an adaptation plan beside the weights: how to build the network, what it was pre-trained on,
and under which names its encoder, its stem and its position embedding lie. ``nnUNetv2_preprocess_like_nnssl`` makes
plans from it and ``nnUNetv2_train_pretrained`` loads encoder and stem; both are in nnU-Net's own repository and not in
its release 2.8.1. The format is that of ``AdaptationPlan.serialize`` in nnssl (Wald et al. 2025, arXiv 2412.17041) and
of nnU-Net's page "Finetuning from nnssl checkpoints".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NnunetNetwork:
    """How nnU-Net's code builds a network, and where nnssl finds its parts."""

    architecture: dict[str, Any]  # as the plans of nnU-Net tell it
    name: str  # nnssl's name of the architecture; the class, where the arguments say the rest
    arguments: dict[str, Any] | None  # of the class, plain data; None where the name says everything
    imported: tuple[str, ...]  # those of the arguments that name Python objects
    trainer: str | None  # the trainer of ``nnUNetv2_train`` that builds this network; None where none does
    pretrained_trainer: str | None  # the same of ``nnUNetv2_train_pretrained``
    key_to_encoder: str  # name prefix of the encoder's weights
    key_to_stem: str  # the same of what comes before the encoder
    keys_to_in_proj: tuple[str, ...]  # prefixes of the weights that have the image's channels as an axis
    key_to_lpe: str | None = None  # the learnt position embedding, if there is one


def nnunet_checkpoint(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What ``nnUNetv2_train -pretrained_weights`` reads, for `fdif_jax.weights.files.save_torch`."""
    return {"network_weights": dict(state)}


def nnssl_checkpoint(
    state: Mapping[str, np.ndarray],
    network: NnunetNetwork,
    *,
    in_channels: int,
    patch: Sequence[int],
    spacing: Sequence[float] | None,
    name: str,
    citations: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What ``nnUNetv2_preprocess_like_nnssl`` reads, for `fdif_jax.weights.files.save_torch`.

    Channels, patches ``(D, H, W)``, recommended for fine-tuning too, the millimetres between their voxels (None if they
    had no common one) and the name are those of the data of the pre-training. Of ``citations``, shown by the
    fine-tuning, each has a ``type``, a ``name`` and ``apa_citations``.
    """
    plan = {
        "architecture_plans": {
            "arch_class_name": network.name,
            "arch_kwargs": network.arguments,
            "arch_kwargs_requiring_import": list(network.imported) if network.arguments else None,
        },
        "pretrain_plan": _pretraining(name, in_channels, patch, spacing),
        "pretrain_num_input_channels": in_channels,
        "recommended_downstream_patchsize": [int(n) for n in patch],
        "key_to_encoder": network.key_to_encoder,
        "key_to_stem": network.key_to_stem,
        "keys_to_in_proj": list(network.keys_to_in_proj),
        "key_to_lpe": network.key_to_lpe,
    }
    return nnunet_checkpoint(state) | {
        "nnssl_adaptation_plan": plan,
        "citations": [dict(c) for c in citations],
    }


def _pretraining(
    name: str, channels: int, patch: Sequence[int], spacing: Sequence[float] | None
) -> dict[str, Any]:
    """The fields of nnssl's ``Plan``, with one configuration: z-scored volumes, never resampled."""
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    spacing = None if spacing is None else [float(s) for s in spacing]
    style = "noresample" if spacing is None else "onemmiso"
    configuration = {
        "data_identifier": f"{name}_{style}",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": style,
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": resampling | {"is_seg": True, "order": 1},
        "spacing": spacing,
        "patch_size": [int(n) for n in patch],
    }
    return {
        "dataset_name": name,
        "plans_name": "fdif",
        "original_median_spacing_after_transp": spacing,
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {style: configuration},
        "experiment_planner_used": "fdif",
    }
