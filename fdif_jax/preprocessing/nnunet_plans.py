"""nnU-Net's plans of how cases are prepared, and a `CasePlan` for them: one from the other.

Both crop to what is not 0, normalise, and resample by splines that keep the outer faces, in this order. nnU-Net reads
files as arrays of slices, rows and columns, turned to RAS by one of its readers alone, and then permutes the axes.
Source: Isensee et al. 2021 (doi 10.1038/s41592-020-01008-z) and the plans files of nnU-Net 2.8.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import AsItIs, Normalisation, UnitRange, Window, ZScore

Axes = tuple[int, int, int]

_TURNED = "NibabelIOWithReorient"  # nnU-Net's reader that turns files to RAS
_READERS = {
    _TURNED: False,
    "NibabelIO": True,
    "SimpleITKIO": True,
}  # and those of NIfTI that leave them as filed
_RESAMPLING = "resample_data_or_seg_to_shape"
_PREPROCESSOR = "DefaultPreprocessor"
_ANISOTROPIC = 3  # spacings that differ more have slices that nnU-Net resamples apart
_SCHEMES = {
    Window: "CTNormalization",
    ZScore: "ZScoreNormalization",
    UnitRange: "RescaleTo01Normalization",
    AsItIs: "NoNormalization",
}


class NnunetCases(NamedTuple):
    """How nnU-Net prepares the cases of a plan.

    Attributes:
        plan: along the axes of our arrays.
        axes: which of those axes the network's first, second and third are.
        as_filed: arrays have their axes as the file stores them, not canonical ones.
        remarks: what nnU-Net does otherwise than we do, a line each.
    """

    plan: CasePlan
    axes: Axes
    as_filed: bool
    remarks: tuple[str, ...]


def read_cases(plans: Mapping[str, Any], configuration: Mapping[str, Any], what: str) -> NnunetCases:
    """How cases are prepared by plans and one of their configurations, with what it inherits.

    FdifError, naming ``what`` they are, for a step that there is not here, or plans of another form than nnU-Net's.
    """
    try:
        _check(plans, configuration, what)
        d, h, w = (2 - axis for axis in plans["transpose_forward"])
        axes = (d, h, w)
        resampling = configuration["resampling_fn_data_kwargs"]
        plan = CasePlan(
            _ordered(configuration["spacing"], axes),
            _ordered(configuration["patch_size"], axes),
            tuple(_normalisations(plans, configuration, what)),
            resampling["order"],
        )
        separate = resampling.get("force_separate_z", False)
        remarks = []
        if separate or (separate is None and max(plan.spacing) > _ANISOTROPIC * min(plan.spacing)):
            remarks = [
                f"{what}: nnU-Net resamples between slices to the nearest one, fdif by splines along all axes; where "
                "a scan is resampled along its coarse axis some labels between slices differ"
            ]
        return NnunetCases(plan, axes, _READERS[plans["image_reader_writer"]], tuple(remarks))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FdifError(f"{what} has another form than the plans of nnU-Net 2: {error!r}") from None


def _check(plans: Mapping[str, Any], configuration: Mapping[str, Any], what: str) -> None:
    """Raise an FdifError for steps that there are not here."""
    if len(configuration["patch_size"]) != 3:
        raise FdifError(f"{what}: is of slices; fdif predicts with 3D configurations, such as 3d_fullres")
    known = {
        "image_reader_writer": (plans, tuple(_READERS)),
        "preprocessor_name": (configuration, (_PREPROCESSOR,)),
        "resampling_fn_data": (configuration, (_RESAMPLING,)),
    }
    for key, (table, values) in known.items():
        if table[key] not in values:
            raise FdifError(f"{what}: {key} is {table[key]}, but fdif has only {', '.join(values)}")
    if sorted(plans["transpose_forward"]) != [0, 1, 2]:
        raise FdifError(f"{what}: transpose_forward {plans['transpose_forward']} is no order of three axes")


def _ordered(numbers: Sequence[Any], axes: Axes) -> tuple[Any, Any, Any]:
    """Numbers along the network's axes, along ours."""
    first, second, third = (numbers[axes.index(axis)] for axis in range(3))
    return first, second, third


def _normalisations(plans: Mapping[str, Any], configuration: Mapping[str, Any], what: str):
    measured = plans["foreground_intensity_properties_per_channel"]
    masked = configuration["use_mask_for_norm"]
    for channel, scheme in enumerate(configuration["normalization_schemes"]):
        if scheme == _SCHEMES[Window]:
            said = measured[str(channel)]
            low, high = said["percentile_00_5"], said["percentile_99_5"]
            yield Window((low, high), said["mean"], max(said["std"], 1e-8))
        elif scheme == _SCHEMES[ZScore]:
            yield ZScore(nonzero=bool(masked[channel]))
        elif scheme == _SCHEMES[UnitRange]:
            yield UnitRange()
        elif scheme == _SCHEMES[AsItIs]:
            yield AsItIs()
        else:
            raise FdifError(
                f"{what}: channel {channel} is normalised by {scheme}, but fdif has only "
                f"{', '.join(_SCHEMES.values())}"
            )


def plans_of(plan: CasePlan, architecture: Mapping[str, Any], *, dataset: str, name: str) -> dict[str, Any]:
    """nnU-Net's plans of cases that are prepared by a plan of ours, with one configuration, ``3d_fullres``.

    ``architecture`` is the network's part of it; ``dataset`` and ``name`` are what nnU-Net calls dataset and plans.
    The scans are turned to RAS as they are here, and their axes brought into our order.
    """
    resampling = {"is_seg": False, "order": plan.order, "order_z": 0, "force_separate_z": False}
    configuration = {
        "data_identifier": f"{name}_3d_fullres",
        "preprocessor_name": _PREPROCESSOR,
        "batch_size": 2,
        "patch_size": list(plan.patch),
        "median_image_size_in_voxels": [float(n) for n in plan.patch],
        "spacing": list(plan.spacing),
        "normalization_schemes": [_SCHEMES[type(channel)] for channel in plan.channels],
        "use_mask_for_norm": [isinstance(c, ZScore) and c.nonzero for c in plan.channels],
        "resampling_fn_data": _RESAMPLING,
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": _RESAMPLING,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": _RESAMPLING,
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "batch_dice": False,
        "architecture": dict(architecture),
    }
    return {
        "dataset_name": dataset,
        "plans_name": name,
        "original_median_spacing_after_transp": list(plan.spacing),
        "original_median_shape_after_transp": list(plan.patch),
        "image_reader_writer": _TURNED,
        "transpose_forward": [2, 1, 0],
        "transpose_backward": [2, 1, 0],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "fdif",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(number): _measured(channel) for number, channel in enumerate(plan.channels)
        },
    }


def _measured(channel: Normalisation) -> dict[str, float]:
    """What nnU-Net's normalisation of a channel has to know of the dataset."""
    if not isinstance(channel, Window):
        return {}
    low, high = channel.window
    return {"mean": channel.mean, "std": channel.deviation, "percentile_00_5": low, "percentile_99_5": high}
