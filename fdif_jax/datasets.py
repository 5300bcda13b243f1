"""Segmentation datasets as files: what goes where, how it is described, and reading it back.

Two layouts: MONAI's / the Decathlon's and nnU-Net v2's. `fdif_jax.dataset_writer` fills them.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.volumes import Volume, read_nifti


class Case(NamedTuple):
    """One image with its label; the paths are relative to the dataset's directory in a layout."""

    image: Path
    label: Path
    id: str


@dataclass(frozen=True)
class Plan:
    """Everything that decides a dataset's bytes (together with the versions that make it).

    Attributes:
        recipe: the recipe as plain data, and ``digest``, its SHA-256.
        seed: sample ``i`` is drawn from ``(recipe, seed, i)`` and nothing else.
        num_samples: training samples, indices ``0 … num_samples - 1``.
        num_val_samples: validation samples, the indices after those.
        grid: ``(D, H, W)``.
        class_names: foreground classes; the label of the first is 1.
        layout: how the files are laid out.
    """

    recipe: Mapping[str, Any]
    digest: str
    seed: int
    num_samples: int
    num_val_samples: int
    grid: tuple[int, int, int]
    class_names: tuple[str, ...]
    layout: "MonaiLayout | NnunetLayout"

    def __post_init__(self):
        if self.num_samples < 1:
            raise FdifError(f"num_samples is {self.num_samples}; it must be at least 1")
        if self.num_val_samples < 0:
            raise FdifError(f"num_val_samples is {self.num_val_samples}; it must be 0 or more")

    @property
    def total(self) -> int:
        """Training and validation samples together."""
        return self.num_samples + self.num_val_samples

    @property
    def labels(self) -> dict[str, int]:
        """Label ids by name, background first."""
        return {"background": 0} | {name: i for i, name in enumerate(self.class_names, 1)}

    def identity(self) -> dict[str, Any]:
        """The plan as JSON holds it: what a directory must have been made by to be continued."""
        plain = {**asdict(self), "layout": {"name": self.layout.name, **asdict(self.layout)}}
        return json.loads(json.dumps(plain))


@dataclass(frozen=True)
class MonaiLayout:
    """MONAI's / the Decathlon's layout: ``data/data.json`` lists the pairs, 100 to a folder."""

    name: ClassVar[str] = "monai"

    def case(self, index: int, plan: Plan) -> Case:
        """Training and validation samples share the folders and one numbering."""
        batch, name = f"batch_{index // 100:04d}", f"sample_{index:05d}"
        return Case(
            Path("data/image", batch, f"{name}_x.nii.gz"), Path("data/label", batch, f"{name}_y.nii.gz"), name
        )

    def documents(self, plan: Plan) -> dict[str, dict]:
        """``data.json``; its paths are relative to the folder it is in."""

        def entry(index: int) -> dict[str, str]:
            image, label, name = self.case(index, plan)
            return {
                "image": image.relative_to("data").as_posix(),
                "label": label.relative_to("data").as_posix(),
                "id": name,
            }

        document = {
            "name": "fdif",
            "tensorImageSize": "3D",
            "modality": {"0": "SDF"},
            "labels": {str(i): name for name, i in plan.labels.items()},
            "numTraining": plan.num_samples,
            "training": [entry(i) for i in range(plan.num_samples)],
            "validation": [entry(i) for i in range(plan.num_samples, plan.total)],
        }
        return {"data/data.json": document}


@dataclass(frozen=True)
class NnunetLayout:
    """nnU-Net v2's raw layout; validation samples become the dataset with the next id, named ``…_Val``."""

    name: ClassVar[str] = "nnunet"
    dataset_id: int = 999
    dataset_name: str = "SDFSynthetic"

    def __post_init__(self):
        if not 1 <= self.dataset_id <= 999:
            raise FdifError(f"dataset id {self.dataset_id}: nnU-Net's ids are 1 to 999")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.dataset_name):
            raise FdifError(f"dataset name {self.dataset_name!r}: use letters, digits, '_' and '-' only")

    def _folder(self, validation: bool) -> str:
        return f"Dataset{self.dataset_id + validation:03d}_{self.dataset_name}{'_Val' * validation}"

    def case(self, index: int, plan: Plan) -> Case:
        """Both datasets number their cases from 0."""
        validation = index >= plan.num_samples
        name = f"case_{index - validation * plan.num_samples:05d}"
        folder = Path(self._folder(validation))
        return Case(folder / f"imagesTr/{name}_0000.nii.gz", folder / f"labelsTr/{name}.nii.gz", name)

    def documents(self, plan: Plan) -> dict[str, dict]:
        """One ``dataset.json`` a dataset."""
        counts = {False: plan.num_samples, True: plan.num_val_samples}
        return {
            f"{self._folder(validation)}/dataset.json": {
                "channel_names": {"0": "SDF"},
                "labels": plan.labels,
                "numTraining": count,
                "file_ending": ".nii.gz",
            }
            for validation, count in counts.items()
            if count
        }


def load_decathlon(path: str | os.PathLike) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases that a Decathlon ``dataset.json`` or MONAI ``data.json`` lists.

    Relative paths are taken from the document's folder. A case without ``id`` is called after its image file.
    A document without ``validation`` has no validation cases.

    Raises:
        FdifError: the document or a file it lists is missing, or it is not such a document.
    """
    path = Path(path)
    document = _read_document(path)
    if "training" not in document:
        raise FdifError(
            f"{path}: no key 'training'; a Decathlon list has 'training' and, if any, 'validation'"
        )
    return _cases(path, document, "training"), _cases(path, document, "validation")


def load_class_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The foreground classes that a dataset's JSON list names; label id = position + 1.

    ``labels`` may map ids to names (Decathlon) or names to ids (nnU-Net).

    Raises:
        FdifError: the document is missing or no such list, or its ids are not 0, 1, 2, …
    """
    path = Path(path)
    try:
        labels = _read_document(path)["labels"]
        pairs = {(int(k), str(v)) if k.isdigit() else (int(v), k) for k, v in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FdifError(
            f'{path}: needs "labels", a table of label ids and names, as {{"0": "background"}}'
        ) from None
    names = dict(pairs)
    if len(pairs) < 2 or sorted(i for i, _ in pairs) != list(range(len(pairs))):
        raise FdifError(
            f'{path}: "labels" must number the classes 0 (background), 1, 2, …, not {sorted(names)}'
        )
    return tuple(names[i] for i in range(1, len(names)))


def _read_document(path: Path) -> dict:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FdifError(f"{path}: no such file; give a dataset's JSON list") from None
    except OSError as error:
        raise FdifError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:
        raise FdifError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise FdifError(f"{path}: holds no table; give a dataset's JSON list")
    return document


def _cases(path: Path, document: dict, split: str) -> list[Case]:
    entries = document.get(split, [])
    if not isinstance(entries, list):
        raise FdifError(f"{path}: '{split}' must be a list of cases")
    cases = []
    for i, entry in enumerate(entries):
        for key in ("image", "label"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise FdifError(f"{path}: {split}[{i}] needs '{key}', the path of one NIfTI file")
            if not (path.parent / entry[key]).is_file():
                raise FdifError(f"{path}: {split}[{i}] lists {entry[key]}, and there is no such file")
        image = path.parent / entry["image"]
        name = re.sub(r"\.nii(\.gz)?$", "", image.name)
        cases.append(Case(image, path.parent / entry["label"], str(entry.get("id", name))))
    return cases


def load_case(case: Case, num_classes: int) -> tuple[Volume, Volume]:
    """Read a case's image and label.

    Args:
        case: the files.
        num_classes: foreground classes; labels must be ``0 … num_classes``.

    Returns:
        The image and the label; the label's array has an integer dtype.

    Raises:
        FdifError: naming the file, if one cannot be read (see `read_nifti`), the shapes differ, or a label is
            no whole number or out of range.
    """
    image, label = read_nifti(case.image), read_nifti(case.label)
    if image.array.shape != label.array.shape:
        raise FdifError(
            f"{case.label}: shape {label.array.shape}, but its image {case.image} has {image.array.shape}"
        )
    low, high = label.array.min(), label.array.max()
    if low < 0 or high > num_classes:
        worst = low if low < 0 else high
        raise FdifError(
            f"{case.label}: holds label {worst:g}; {num_classes} classes allow 0 to {num_classes}"
        )
    if label.array.dtype.kind == "f":
        whole = label.array.astype(np.int32)
        if not np.array_equal(whole, label.array):
            raise FdifError(f"{case.label}: holds labels that are not whole numbers")
        label = Volume(whole, label.affine, label.spacing)
    return image, label
