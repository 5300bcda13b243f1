"""A fine-tuned network as a bundle of MONAI's: its weights, and our way of a scan there and back in MONAI's transforms.

Source: MONAI's bundle specification (docs.monai.io/en/stable/mb_specification.html).
"""

from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any

from fdif_jax.io.files import write_atomic, write_json
from fdif_jax.models.torch_twins import TorchTwin
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import AsItIs, Normalisation, UnitRange, Window, ZScore
from fdif_jax.scripts.exports.finetuned import FineTuned, painted_in, write_folder
from fdif_jax.weights.files import save_torch
from fdif_jax.weights.state_dicts import to_torch_state_dict

# What a bundle needs where it is run, and the least version where none is installed here.
_PACKAGES = {
    "monai": "1.4.0",
    "torch": "2.6.0",
    "numpy": "1.26.0",
    "nibabel": "5.2.0",
    "scipy": "1.11.0",
    "pytorch-ignite": "0.5.0",
    "fire": "0.6.0",
}
_RUN = (
    "python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir LABELS"
)
_READ_ME = """# {title}

{network} fine-tuned with fdif-jax to segment {classes}. In this folder:

    {run}

`SCANS` holds .nii.gz or .nii files: one a case{channels}.
"""
_CHANNELS = ", of four axes, or NAME_0000.nii.gz, NAME_0001.nii.gz, … for its channels"


def write_bundle(tuned: FineTuned, out: Path) -> None:
    """Write the bundle's folder and print what runs it; FdifError for more than one network."""
    model: Any = tuned.single("monai-bundle")
    twin = model.torch_twin().predicting

    def write(part: Path) -> None:
        for folder in ("configs", "models", "docs"):
            (part / folder).mkdir()
        write_json(part / "configs" / "metadata.json", metadata(tuned, twin))
        write_json(part / "configs" / "inference.json", inference(tuned, twin))
        save_torch(to_torch_state_dict(model), part / "models" / "model.pt")
        text = _READ_ME.format(
            title=_title(tuned),
            network=twin.path.rpartition(".")[2],
            classes=", ".join(tuned.conventions.class_names),
            run=_RUN,
            channels=_CHANNELS * (len(tuned.plan.channels) > 1),
        )
        write_atomic(part / "docs" / "README.md", text.encode())

    write_folder(out, write)
    print(f"{out}: a bundle of {twin.path}\n\nIn MONAI, with {_needed(twin)} installed:\n\ncd {out}\n{_RUN}")


def _title(tuned: FineTuned) -> str:
    return f"Segmentation by {tuned.path.resolve().name}"


def _needed(twin: TorchTwin) -> str:
    further = [] if twin.package == "monai" else [twin.package]
    return ", ".join(["monai", "pytorch-ignite", "fire", *further])


def metadata(tuned: FineTuned, twin: TorchTwin) -> dict[str, Any]:
    """``metadata.json`` of the bundle."""
    packages = _PACKAGES | ({} if twin.package == "monai" else {twin.package: "0.4.1"})
    versions = {name: _version(name, least) for name, least in packages.items()}
    channels, patch = tuned.conventions.channel_names, list(tuned.plan.patch)
    part = {"type": "image", "spatial_shape": patch, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": "written by fdif export"},
        "monai_version": versions.pop("monai"),
        "pytorch_version": versions.pop("torch"),
        "numpy_version": versions.pop("numpy"),
        "required_packages_version": versions,
        "name": _title(tuned),
        "task": "segmentation of " + ", ".join(tuned.conventions.class_names),
        "description": f"A {twin.path.rpartition('.')[2]}, pre-trained on formula-driven scenes and fine-tuned",
        "authors": "",
        "copyright": "",
        "network_data_format": {
            "inputs": {
                "image": part
                | {
                    "format": "magnitude",
                    "num_channels": len(channels),
                    "value_range": [],
                    "channel_def": {str(i): name for i, name in enumerate(channels)},
                }
            },
            "outputs": {
                "pred": part
                | {
                    "format": "segmentation",
                    "num_channels": len(tuned.classes),
                    "value_range": [],
                    "channel_def": {str(i): name for i, name in enumerate(tuned.classes)},
                }
            },
        },
    }


def _version(package: str, least: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return least


def inference(tuned: FineTuned, twin: TorchTwin) -> dict[str, Any]:
    """``inference.json`` of the bundle."""
    plan, ensemble = tuned.plan, tuned.ensemble
    called = {key: f"${value}" if key in twin.objects else value for key, value in twin.arguments.items()}
    window = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(plan.patch),
        "sw_batch_size": 2,
        "overlap": ensemble.overlap,
        "mode": "gaussian",
        "sigma_scale": 0.125,
        "padding_mode": "constant",
        "cval": 0.0,
    }
    evaluator = {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
    }
    return {
        "imports": [
            "$import glob",
            "$import re",
            "$import numpy as np",
            "$import torch",
            "$from monai.data import MetaTensor",
            "$from monai.transforms.utils import convert_applied_interp_mode",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/labels'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": twin.path, **called},
        "network": "$@network_def.to(@device)",
        **_grid(plan),
        "channels": [_transform(channel) for channel in plan.channels],
        "preprocessing": {"_target_": "Compose", "transforms": _there(plan)},
        "cases": _cases(len(plan.channels)),
        "dataset": {"_target_": "Dataset", "data": "@cases", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "window": window,
        **_inferer(ensemble.mirror_axes),
        **_labels(tuned),
        "postprocessing": {"_target_": "Compose", "transforms": _back(max(tuned.label_ids))},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": evaluator,
        "run": ["$@evaluator.run()"],
    }


def _cases(channels: int) -> str:
    files = "sorted(glob.glob(@dataset_dir + '/*.nii*'))"
    if channels == 1:
        return f"$[{{'image': path}} for path in {files}]"
    files_of = "sorted(glob.glob(path.replace('_0000.nii', '_????.nii')))"
    first = r"not re.search(r'_(?!0000)\d{4}\.nii', path)"
    return f"$[{{'image': {files_of}}} for path in {files} if {first}]"


def _inferer(mirror_axes: tuple[int, ...]) -> dict[str, Any]:
    """How a volume is inferred: by windows, of which each is mirrored along all of some axes."""
    if not mirror_axes:
        return {"inferer": "@window"}
    subsets = [axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)]
    one = "torch.flip(network(torch.flip(tiles, axes)), axes)"
    mean = f"sum({one} for axes in @mirrorings) / len(@mirrorings)"
    return {
        "mirrorings": [[axis + 2 for axis in axes] for axes in subsets],
        "inferer": f"$lambda images, network, *args, **kwargs: @window(images, lambda tiles: {mean})",
    }


def _there(plan: CasePlan) -> list[Any]:
    """The way of a scan to the network's grid (`preprocessing.preparation`), but for the padding of the windows."""
    axes = [["L", "R"], ["P", "A"], ["I", "S"]]
    return [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": "NibabelReader",
            "ensure_channel_first": True,
        },
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": axes},
        {
            "_target_": "CropForegroundd",
            "keys": "image",
            "source_key": "image",
            "select_fn": "$lambda image: image != 0",
            "allow_smaller": True,
        },
        *_normalised([_transform(channel) for channel in plan.channels]),
        "@with_grid",
        {
            "_target_": "ResampleToMatchd",
            "keys": "image",
            "key_dst": "grid",
            "mode": plan.order,
            "padding_mode": "nearest",
            "align_corners": False,
        },
        {"_target_": "DeleteItemsd", "keys": "grid"},
    ]


def _grid(plan: CasePlan) -> dict[str, str | list[float]]:
    """How the grid to resample to is made: the outer faces stay, so that the spacing is the plan's but for rounding."""
    sizes = "[max(round(n * float(s) / t), 1) for n, s, t in zip(image.shape[1:], image.pixdim, @spacing)]"
    scales = "[n / new for n, new in zip(image.shape[1:], size)]"
    matrix = "np.block([[np.diag(scales), (np.array(scales)[:, None] - 1) / 2], [np.zeros((1, 3)), 1]])"
    return {
        "spacing": list(plan.spacing),
        "size_of": f"$lambda image: {sizes}",
        "affine_of": f"$lambda image, size: (lambda scales: np.matmul(image.affine.numpy(), {matrix}))({scales})",
        "grid_of": "$lambda image, size: MetaTensor(torch.zeros(1, *size), affine=@affine_of(image, size))",
        "with_grid": "$lambda data: {**data, 'grid': @grid_of(data['image'], @size_of(data['image']))}",
    }


def _normalised(channels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The transforms that normalise all channels; of channels that differ each has its own, listed in the config."""
    first = channels[0]
    if any(channel != first for channel in channels):
        parts = "torch.cat([normalise(image[i : i + 1]) for i, normalise in enumerate(@channels)])"
        return [{"_target_": "Lambdad", "keys": "image", "func": f"$lambda image: {parts}"}]
    if first["_target_"] == "Identity":
        return []
    each = {} if first["_target_"] == "ScaleIntensityRange" else {"channel_wise": True}
    return [first | {"_target_": f"{first['_target_']}d", "keys": "image"} | each]


def _transform(channel: Normalisation) -> dict[str, Any]:
    """The transform of MONAI's that normalises one channel."""
    if isinstance(channel, Window):
        low, high = channel.window
        return {
            "_target_": "ScaleIntensityRange",
            "a_min": low,
            "a_max": high,
            "b_min": (low - channel.mean) / channel.deviation,
            "b_max": (high - channel.mean) / channel.deviation,
            "clip": True,
        }
    if isinstance(channel, ZScore):
        return {"_target_": "NormalizeIntensity", "nonzero": channel.nonzero}
    if isinstance(channel, UnitRange):
        return {"_target_": "ScaleIntensity", "minv": 0.0, "maxv": 1.0}
    assert isinstance(channel, AsItIs), channel
    return {"_target_": "Identity"}


def _labels(tuned: FineTuned) -> dict[str, Any]:
    """How labels are made of logits: the greatest, or, of regions, painted where they are above 0, a later one over
    those before it."""
    if not tuned.conventions.regions:
        return {"discrete": {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}}
    last = "torch.stack([(n + 1) * (region > 0) for n, region in enumerate(logits.as_tensor())]).amax(0, keepdim=True)"
    labels = f"torch.tensor([0, *@regions_class_order], device=logits.device)[{last}]"
    return {
        **painted_in(tuned),
        "paint": f"$lambda logits: torch.zeros_like(logits[:1]) + {labels}",  # with where its voxels lie
        "discrete": {"_target_": "Lambdad", "keys": "pred", "func": "@paint"},
    }


def _back(most: int) -> list[Any]:
    """The way of the logits back to the scan's grid, and to a file of labels up to ``most``."""
    traces = "convert_applied_interp_mode(data['image'].applied_operations, 'bilinear', False)"
    return [
        # logits go back linearly, however the image was resampled
        f"$lambda data: [setattr(data['image'], 'applied_operations', {traces}), data][1]",
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
        "@discrete",
        # without this MONAI 1.6 takes a volume of one channel for a slice, and fails where axes are in another order
        "$lambda data: [data['pred'].meta.update(original_channel_dim='no_channel'), data][1]",
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "",
            "output_ext": ".nii.gz",
            "output_dtype": "$np.uint8" if most < 256 else "$np.uint16",
            "resample": False,
            "separate_folder": False,
        },
    ]
