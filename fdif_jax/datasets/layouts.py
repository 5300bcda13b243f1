"""Where a dataset's files go and how they are described: a `DatasetPlan`, and the layouts.

They are MONAI's, nnU-Net v2's, and that of a classification set; `fdif_jax.datasets.writer` fills any of them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import yaml

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.b2nd import encode_b2nd
from fdif_jax.io.nifti import SPACINGS, encode_nifti
from fdif_jax.sdf.grid import Grid

Encode = Callable[[np.ndarray, np.ndarray], bytes | memoryview]
"""Voxels, and their affine: voxel index → millimetres, ``(4, 4)``."""


class Encoding(NamedTuple):
    """How one volume becomes a file: the end of its name, and its bytes."""

    suffix: str
    encode: Encode


ENCODINGS: Mapping[str, Encoding] = {
    "gzip": Encoding(".nii.gz", encode_nifti),
    "none": Encoding(".nii", partial(encode_nifti, compress=False)),
    "blosc2": Encoding(".b2nd", lambda array, affine: encode_b2nd(array)),  # these files hold no affine
}


class Layout(Protocol):
    """A dataset's files; all paths are relative to its directory."""

    name: ClassVar[str]

    def case_id(self, index: int, plan: "DatasetPlan") -> str:
        """What the case of sample ``index`` is called."""

    def files(self, index: int, plan: "DatasetPlan") -> tuple[Path, ...]:
        """Where sample ``index`` goes: its image, then its label maps, if any, a file each, then its instances."""

    def encode(self, array: np.ndarray, plan: "DatasetPlan") -> bytes | memoryview:
        """The bytes of one of those files; equal arrays of equal plans give equal bytes."""

    def documents(self, plan: "DatasetPlan") -> Mapping[str, Any]:
        """The files that describe the dataset: plain data for JSON, or a text."""


@dataclass(frozen=True)
class DatasetPlan:
    """Everything that decides a dataset's bytes (together with the versions that make it).

    Attributes:
        recipe: the recipe as plain data, and ``digest``, its SHA-256.
        seed: sample ``i`` is drawn from ``(recipe, seed, i)`` and nothing else.
        num_samples: training samples, indices ``0 … num_samples - 1``.
        num_val_samples: validation samples, the indices after those.
        grid: ``(D, H, W)``.
        tasks: the label maps in order: what one tells apart → its foreground classes, the first of them label 1.
        layout: how the files are laid out.
        instances: every sample has a map of its instances, too: 0 is background.
        spacing: millimetres between voxel centres along z, y, x, which NIfTI files hold in their affine.
    """

    recipe: Mapping[str, Any]
    digest: str
    seed: int
    num_samples: int
    num_val_samples: int
    grid: tuple[int, int, int]
    tasks: Mapping[str, tuple[str, ...]]
    layout: Layout
    instances: bool = False
    spacing: tuple[float, float, float] = Grid.spacing

    def __post_init__(self):
        least, greatest = SPACINGS
        if not all(least <= s <= greatest for s in self.spacing):
            raise FdifError(
                f"spacing {list(self.spacing)}: a volume's is {least:g} to {greatest:g} mm along every axis"
            )
        if self.num_samples < 1:
            raise FdifError(f"num_samples is {self.num_samples}; it must be at least 1")
        if self.num_val_samples < 0:
            raise FdifError(f"num_val_samples is {self.num_val_samples}; it must be 0 or more")

    @property
    def total(self) -> int:
        """Training and validation samples together."""
        return self.num_samples + self.num_val_samples

    @property
    def affine(self) -> np.ndarray:
        """Voxel index → millimetres, ``(4, 4)``: the first voxel is at 0."""
        return np.diag([*self.spacing, 1.0])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The foreground classes of the first label map."""
        return next(iter(self.tasks.values()))

    @property
    def further_tasks(self) -> tuple[str, ...]:
        """The label maps after the first."""
        return tuple(self.tasks)[1:]

    def identity(self) -> dict[str, Any]:
        """The plan as JSON holds it: what a directory must have been made by to be continued."""
        plain = {**asdict(self), "layout": {"name": self.layout.name, **asdict(self.layout)}}  # type: ignore[call-overload]
        for key, default in (("instances", False), ("spacing", Grid.spacing)):
            if plain[key] == default:  # datasets may be older than this key
                del plain[key]
        return json.loads(json.dumps(plain))


@dataclass(frozen=True)
class MonaiLayout:
    """MONAI's / the Decathlon's layout: ``data/data.json`` lists the pairs, 100 to a folder.

    With several label maps every one has its file and its key: ``label``, then ``label_displacement`` and so on.
    Instances have the key ``instance``.
    """

    name: ClassVar[str] = "monai"
    compress: str = "gzip"

    def __post_init__(self):
        _check_encoding(self.compress)

    def encode(self, array: np.ndarray, plan: DatasetPlan) -> bytes | memoryview:
        """See `Layout`."""
        return ENCODINGS[self.compress].encode(array, plan.affine)

    def case_id(self, index: int, plan: DatasetPlan) -> str:
        """Training and validation samples share one numbering."""
        return f"sample_{index:05d}"

    def files(self, index: int, plan: DatasetPlan) -> tuple[Path, ...]:
        """Training and validation samples share the folders."""
        batch, case = f"batch_{index // 100:04d}", self.case_id(index, plan)
        suffix = ENCODINGS[self.compress].suffix
        several = plan.further_tasks != ()
        labels = (f"{case}_y{f'_{task}' * several}{suffix}" for task in plan.tasks)
        instances = [Path("data/instance", batch, f"{case}_i{suffix}")] * plan.instances
        return (
            Path("data/image", batch, f"{case}_x{suffix}"),
            *(Path("data/label", batch, name) for name in labels),
            *instances,
        )

    def documents(self, plan: DatasetPlan) -> dict[str, Any]:
        """``data.json``; its paths are relative to the folder it is in."""
        keys = ("image", "label", *(f"label_{task}" for task in plan.further_tasks))
        keys += ("instance",) * plan.instances

        def entry(index: int) -> dict[str, str]:
            paths = (path.relative_to("data").as_posix() for path in self.files(index, plan))
            return {**dict(zip(keys, paths, strict=True)), "id": self.case_id(index, plan)}

        document = {
            "name": "fdif",
            "tensorImageSize": "3D",
            "modality": {"0": "SDF"},
            **_task_names(plan),
            **{
                key: {str(i): name for name, i in labels.items()}
                for key, labels in _labels_by_key(plan).items()
            },
            "numTraining": plan.num_samples,
            "training": [entry(i) for i in range(plan.num_samples)],
            "validation": [entry(i) for i in range(plan.num_samples, plan.total)],
        }
        return {"data/data.json": document}


@dataclass(frozen=True)
class NnunetLayout:
    """nnU-Net v2's raw layout; validation samples become the dataset with the next id, named ``…_Val``.

    nnU-Net reads one label map, ``labelsTr``. Further ones lie beside it, ``labelsTr_displacement`` and so on, and
    instances in ``instancesTr``.
    """

    name: ClassVar[str] = "nnunet"
    dataset_id: int = 999
    dataset_name: str = "SDFSynthetic"
    compress: str = "gzip"

    def __post_init__(self):
        if not 1 <= self.dataset_id <= 999:
            raise FdifError(f"dataset id {self.dataset_id}: nnU-Net's ids are 1 to 999")
        check_name(self.dataset_name)
        if self.compress == "blosc2":
            raise FdifError("nnU-Net's raw datasets are NIfTI: compress is gzip or none there, not blosc2")
        _check_encoding(self.compress)

    def encode(self, array: np.ndarray, plan: DatasetPlan) -> bytes | memoryview:
        """See `Layout`."""
        return ENCODINGS[self.compress].encode(array, plan.affine)

    def _folder(self, validation: bool) -> str:
        return f"Dataset{self.dataset_id + validation:03d}_{self.dataset_name}{'_Val' * validation}"

    def case_id(self, index: int, plan: DatasetPlan) -> str:
        """Both datasets number their cases from 0."""
        return f"case_{index - plan.num_samples * (index >= plan.num_samples):05d}"

    def files(self, index: int, plan: DatasetPlan) -> tuple[Path, ...]:
        """See `Layout`."""
        folder, case = Path(self._folder(index >= plan.num_samples)), self.case_id(index, plan)
        suffix = ENCODINGS[self.compress].suffix
        labels = ("labelsTr", *(f"labelsTr_{task}" for task in plan.further_tasks))
        labels += ("instancesTr",) * plan.instances
        return (
            folder / f"imagesTr/{case}_0000{suffix}",
            *(folder / name / f"{case}{suffix}" for name in labels),
        )

    def documents(self, plan: DatasetPlan) -> dict[str, Any]:
        """One ``dataset.json`` a dataset."""
        counts = {False: plan.num_samples, True: plan.num_val_samples}
        return {
            f"{self._folder(validation)}/dataset.json": {
                "channel_names": {"0": "SDF"},
                **_task_names(plan),
                **_labels_by_key(plan),
                "numTraining": count,
                "file_ending": ENCODINGS[self.compress].suffix,
            }
            for validation, count in counts.items()
            if count
        }


FOLDER = "nnUNetResEncUNetLPlans_3d_fullres"
CODEC, LEVEL = "ZSTD", 8

ClassLabel = int | tuple[int, int, int]
"""What ``labelsTr.json`` says of a class, from 0: its number, or those of its shape, displacement and mapper."""


@dataclass(frozen=True)
class ClassificationLayout:
    """One object a volume, in the files that the SSL3D_classification trainer reads: arrays, classes, folds,
    configuration.

    Case i is of class i modulo the number of classes, so that a set with fewer samples a class is the beginning of one
    with more. The folds are those of a cross-validation, class by class: a class's cases are dealt to the folds in
    turn; every case validates in one fold and trains in all others. A fold then validates 1/n_splits of a class's
    samples, rounded up or down, which is ceil(train / (n_splits - 1)) where the division leaves nothing.

    Attributes:
        labels: of every class, what its cases are labelled.
        samples_per_class: cases of each class, over all folds.
        n_splits: folds.
        dataset_name: what the trainer calls the set.
    """

    name: ClassVar[str] = "classification"
    labels: tuple[ClassLabel, ...]
    samples_per_class: int = 25
    n_splits: int = 5
    dataset_name: str = "sdf_classification"

    def __post_init__(self):
        if self.samples_per_class < 1:
            raise FdifError(f"samples per class is {self.samples_per_class}; it must be at least 1")
        if self.n_splits < 2:
            raise FdifError(f"n_splits is {self.n_splits}; folds that train and validate are at least 2")
        if self.n_splits > self.samples_per_class:
            raise FdifError(
                f"n_splits ({self.n_splits}) exceeds the samples per class ({self.samples_per_class}); "
                "every fold validates at least one case of each class"
            )
        check_name(self.dataset_name)

    @property
    def num_samples(self) -> int:
        """Cases in all."""
        return len(self.labels) * self.samples_per_class

    @property
    def multilabel(self) -> bool:
        """Whether a case has three labels."""
        return not isinstance(self.labels[0], int)

    def encode(self, array: np.ndarray, plan: DatasetPlan) -> bytes:
        """See `Layout`."""
        return encode_b2nd(array, CODEC, LEVEL)

    def case_id(self, index: int, plan: DatasetPlan | None = None) -> str:
        """See `Layout`."""
        return f"case_{index:05d}"

    def files(self, index: int, plan: DatasetPlan) -> tuple[Path, ...]:
        """The image alone."""
        return (Path(FOLDER, f"{self.case_id(index)}.b2nd"),)

    def documents(self, plan: DatasetPlan) -> dict[str, Any]:
        """Labels, folds and the configuration."""
        classes = len(self.labels)
        return {
            "labelsTr.json": {self.case_id(i): self.labels[i % classes] for i in range(self.num_samples)},
            "splits_final.json": [self._fold(fold) for fold in range(self.n_splits)],
            f"{self.dataset_name}.yaml": self._config(plan),
        }

    def _fold(self, fold: int) -> dict[str, list[str]]:
        split: dict[str, list[str]] = {"train": [], "val": []}
        for i in range(self.num_samples):
            turn, number = divmod(i, len(self.labels))
            # Class after class, dealt on where the last one ended: folds differ by one case, in a class and in all.
            validates = (number * self.samples_per_class + turn) % self.n_splits == fold
            split["val" if validates else "train"].append(self.case_id(i))
        return split

    def _config(self, plan: DatasetPlan) -> str:
        """The trainer's settings as published; Hydra fills in what stands in ``${…}``."""
        patch = "${data.patch_size}"
        settings = {
            "data": {
                "module": {
                    "_target_": "datasets.sdf_classification.SDFClassificationDataModule",
                    "name": self.dataset_name,
                    "data_root_dir": "${data_dir}",
                    "batch_size": 1,
                    "train_transforms": {
                        "_target_": "augmentation.policies.batchgenerators.get_training_transforms",
                        "patch_size": patch,
                        "rotation_for_DA": 0.523599,
                        "mirror_axes": [0, 1, 2],
                        "do_dummy_2d_data_aug": False,
                    },
                    "test_transforms": None,
                },
                "cv": {"k": self.n_splits},
                "num_classes": 3 if self.multilabel else len(self.labels),
                "patch_size": list(plan.grid),
            },
            "model": {
                "task": "Classification",
                "subtask": "multilabel" if self.multilabel else "multiclass",
                "input_channels": 1,
                "input_dim": 3,
                "input_shape": patch,
                "optimizer": "AdamW",
                "lr": 1e-4,
                "warmstart": 20,
                "weight_decay": 1e-2,
                "label_smoothing": 0.2,
            },
            "trainer": {
                "logger": {"project": self.dataset_name},
                "accumulate_grad_batches": 48,
                "max_epochs": 400,
                "sync_batchnorm": True,
            },
            "metrics": ["f1", "balanced_acc", "ap", "auroc"],
        }
        return "# @package _global_\n" + yaml.safe_dump(settings, sort_keys=False)


def check_name(name: str) -> None:
    """Raise an FdifError unless ``name`` can be a dataset's, in file names everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise FdifError(f"dataset name {name!r}: use letters, digits, '_' and '-' only")


def _check_encoding(name: str) -> None:
    if name not in ENCODINGS:
        raise unknown("compression", name, ENCODINGS)


def _task_names(plan: DatasetPlan) -> dict[str, list[str]]:
    """Under ``tasks``: what the label maps tell apart, in order; nothing where there is one."""
    return {"tasks": list(plan.tasks)} if plan.further_tasks else {}


def _labels_by_key(plan: DatasetPlan) -> dict[str, dict[str, int]]:
    """Under ``labels``, and ``labels_<task>`` for further tasks: class ids by name, background first."""
    keys = ("labels", *(f"labels_{task}" for task in plan.further_tasks))
    return {
        key: {"background": 0} | {name: i for i, name in enumerate(names, 1)}
        for key, names in zip(keys, plan.tasks.values(), strict=True)
    }
