"""Labelled datasets read back: Decathlon lists (MONAI's data.json among them), class names, cases.

`fdif_jax.layouts` says how ours are laid out.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.b2nd import read_b2nd
from fdif_jax.errors import FdifError, unknown
from fdif_jax.volumes import Volume, read_nifti


class Case(NamedTuple):
    """One image with its label map, and where it has several, the further ones by what they tell apart."""

    image: Path
    label: Path
    id: str
    further_labels: tuple[tuple[str, Path], ...] = ()


def load_decathlon(path: str | os.PathLike) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases that a Decathlon ``dataset.json`` or MONAI ``data.json`` lists.

    Relative paths are taken from the document's folder. A case without ``id`` is called after its image file.
    A document without ``validation`` has no validation cases. Where it has ``labels_<task>``, the cases have a further
    label map, under the key ``label_<task>``.

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


def load_class_names(path: str | os.PathLike, task: str | None = None) -> tuple[str, ...]:
    """The foreground classes that a dataset's JSON list names; label id = position + 1.

    ``labels`` may map ids to names (Decathlon) or names to ids (nnU-Net). With ``task`` they are those of that
    further label map, from ``labels_<task>``.

    Raises:
        FdifError: the document is missing or no such list, or its ids are not 0, 1, 2, …
    """
    path, key = Path(path), f"labels_{task}" if task else "labels"
    try:
        labels = _read_document(path)[key]
        pairs = {(int(k), str(v)) if k.isdigit() else (int(v), k) for k, v in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FdifError(
            f'{path}: needs "{key}", a table of label ids and names, as {{"0": "background"}}'
        ) from None
    names = dict(pairs)
    if len(pairs) < 2 or sorted(i for i, _ in pairs) != list(range(len(pairs))):
        raise FdifError(
            f'{path}: "{key}" must number the classes 0 (background), 1, 2, …, not {sorted(names)}'
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
    tasks = [key.removeprefix("labels_") for key in document if key.startswith("labels_")]
    return [_case(path, entry, tasks, f"{path}: {split}[{i}]") for i, entry in enumerate(entries)]


def _case(path: Path, entry: Any, tasks: Sequence[str], where: str) -> Case:
    for key in ("image", "label", *(f"label_{task}" for task in tasks)):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise FdifError(f"{where} needs '{key}', the path of one NIfTI file")
        if not (path.parent / entry[key]).is_file():
            raise FdifError(f"{where} lists {entry[key]}, and there is no such file")
    image = path.parent / entry["image"]
    name = re.sub(r"\.(nii(\.gz)?|b2nd)$", "", image.name)
    further = tuple((task, path.parent / entry[f"label_{task}"]) for task in tasks)
    return Case(image, path.parent / entry["label"], str(entry.get("id", name)), further)


def read_volume(path: str | os.PathLike) -> Volume:
    """A NIfTI volume, or a Blosc2 array (``.b2nd``), whose voxels are taken to be 1 mm wide, along the axes.

    Raises:
        FdifError: naming the file, as `read_nifti` and `read_b2nd` do, or if it is not 3D.
    """
    if not os.fspath(path).endswith(".b2nd"):
        return read_nifti(path)
    array = read_b2nd(path)
    if array.ndim != 3:
        raise FdifError(f"{path}: shape {array.shape}; a volume of 3 axes is needed")
    return Volume(array, np.eye(4), (1.0, 1.0, 1.0))


def load_case(case: Case, num_classes: int, task: str | None = None) -> tuple[Volume, Volume]:
    """Read a case's image and label.

    Args:
        case: the files.
        num_classes: foreground classes; labels must be ``0 … num_classes``.
        task: read this further label map instead of the first.

    Returns:
        The image and the label; the label's array has an integer dtype.

    Raises:
        FdifError: naming the file, if one cannot be read (see `read_volume`), the shapes differ, a label is
            no whole number or out of range, or there is no such task.
    """
    labels = dict(case.further_labels)
    if task and task not in labels:
        raise unknown(f"task of case {case.id}:", task, labels)
    path = labels[task] if task else case.label
    image, label = read_volume(case.image), read_volume(path)
    if image.array.shape != label.array.shape:
        raise FdifError(
            f"{path}: shape {label.array.shape}, but its image {case.image} has {image.array.shape}"
        )
    low, high = label.array.min(), label.array.max()
    if low < 0 or high > num_classes:
        worst = low if low < 0 else high
        raise FdifError(f"{path}: holds label {worst:g}; {num_classes} classes allow 0 to {num_classes}")
    if label.array.dtype.kind == "f":
        whole = label.array.astype(np.int32)
        if not np.array_equal(whole, label.array):
            raise FdifError(f"{path}: holds labels that are not whole numbers")
        label = Volume(whole, label.affine, label.spacing)
    return image, label
