"""Labelled datasets read back: lists of the Decathlon or MONAI, nnU-Net's raw folders, class names, cases.

`fdif_jax.datasets.layouts` says how ours are laid out.
"""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.b2nd import read_b2nd
from fdif_jax.io.nifti import Volume, read_nifti
from fdif_jax.scenes.classes import Task


class Case(NamedTuple):
    """One image with its label map, and where it has several, the further ones by what they tell apart.

    An image of several channels is one file with a fourth axis, or, in nnU-Net's way, ``further_images``, a file each.
    """

    image: Path
    label: Path
    id: str
    further_labels: tuple[tuple[str, Path], ...] = ()
    further_images: tuple[Path, ...] = ()


class Dataset(NamedTuple):
    """A labelled dataset: its label maps, in the order of a case's, and its cases."""

    tasks: tuple[Task, ...]
    training: list[Case]
    validation: list[Case]


VOLUME_SUFFIXES = (".nii.gz", ".nii", ".b2nd")

_LISTS = (
    "data/data.json",
    "data.json",
    "dataset.json",
)  # of MONAI, in either folder, and of the Decathlon or nnU-Net


def load_dataset(path: str | os.PathLike) -> Dataset:
    """The dataset of a directory or of its JSON list: MONAI's, the Decathlon's, or nnU-Net v2's raw form.

    The directory is the dataset's own, or, of nnU-Net's, one with a single ``Dataset<id>_<name>`` in it. Its validation
    cases are those of ``Dataset<id + 1>_<name>_Val`` beside it, as `NnunetLayout` has them. Where there are several
    label maps the first is called as the list's ``tasks`` say, else ``label``.

    Raises:
        FdifError: there is no such list, or more than one; it names a file that is missing, or no training case.
    """
    path = find_list(Path(path))
    document = read_document(path)
    further = _further_tasks(document)
    names = document.get("tasks")
    first = "class" if not further else "label"
    if isinstance(names, list) and names[1:] == further:
        first = str(names[0])
    tasks = (
        Task(first, load_class_names(path)),
        *(Task(task, load_class_names(path, task)) for task in further),
    )
    training, validation = list_cases(path)
    for case in (*training, *validation):
        _check_files(path, case)
    return Dataset(tasks, training, validation)


def list_cases(path: str | os.PathLike) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases of a dataset as it lists them, their files looked for or not.

    Raises:
        FdifError: there is no list (`load_dataset`), or no training case in it.
    """
    path = find_list(Path(path))
    document = read_document(path)
    if "training" in document:
        training, validation = (_cases(path, document, split) for split in ("training", "validation"))
    elif "channel_names" in document:
        training, validation = _nnunet_cases(path), _nnunet_validation(path)
    else:
        raise FdifError(f"{path}: has neither 'training' (Decathlon, MONAI) nor 'channel_names' (nnU-Net)")
    if not training:
        raise FdifError(f"{path}: lists no training case")
    return training, validation


def _check_files(path: Path, case: Case) -> None:
    further = (file for _, file in case.further_labels)
    for file in (case.image, *case.further_images, case.label, *further):
        if not file.is_file():
            raise FdifError(f"{path}: case {case.id}: no such file: {file}")


def find_list(path: Path) -> Path:
    """The JSON list of a dataset's directory; any other path is taken for the list itself."""
    if not path.is_dir():
        return path
    for name in _LISTS:
        if (path / name).is_file():
            return path / name
    found = sorted(path.glob("Dataset*_*/dataset.json"))
    training = [one for one in found if not one.parent.name.endswith("_Val")]
    if len(training) == 1:
        return training[0]
    if training:
        names = ", ".join(one.parent.name for one in training)
        raise FdifError(f"{path}: holds several datasets ({names}); give the directory of one")
    if any(path.glob("journal*.jsonl")):
        raise FdifError(f"{path}: an unfinished dataset; the `fdif generate` that began it finishes it")
    raise FdifError(
        f"{path}: no dataset: none of {', '.join(_LISTS)}, Dataset<id>_<name>/dataset.json is there"
    )


def _nnunet_validation(path: Path) -> list[Case]:
    numbered = re.fullmatch(r"Dataset(\d+)_(.+)", path.parent.name)
    if not numbered:
        return []
    beside = path.parent.parent / f"Dataset{int(numbered[1]) + 1:03d}_{numbered[2]}_Val" / path.name
    return _nnunet_cases(beside) if beside.is_file() else []


def _nnunet_cases(path: Path) -> list[Case]:
    """The cases of a raw dataset of nnU-Net, by the files of ``labelsTr`` and the first channels of ``imagesTr``."""
    folder, document = path.parent, read_document(path)
    ending, channels = document.get("file_ending", ".nii.gz"), document["channel_names"]
    if ending not in (".nii.gz", ".nii"):
        raise FdifError(f"{path}: file_ending is {ending}; volumes must be .nii.gz or .nii")
    tasks = _further_tasks(document)
    cases = []
    labelled = {file.name.removesuffix(ending) for file in (folder / "labelsTr").glob(f"[!.]*{ending}")}
    imaged = {
        file.name.removesuffix(f"_0000{ending}") for file in (folder / "imagesTr").glob(f"[!.]*_0000{ending}")
    }
    for name in sorted(labelled | imaged):
        label = folder / f"labelsTr/{name}{ending}"
        images = [folder / f"imagesTr/{name}_{channel:04d}{ending}" for channel in range(len(channels))]
        further = tuple((task, folder / f"labelsTr_{task}" / label.name) for task in tasks)
        cases.append(Case(images[0], label, name, further, tuple(images[1:])))
    count = document.get("numTraining", len(cases))
    if count != len(cases):
        raise FdifError(f"{path}: numTraining is {count}, but there are {len(cases)} cases of {ending} files")
    return cases


def _further_tasks(document: dict) -> list[str]:
    return [key.removeprefix("labels_") for key in document if key.startswith("labels_")]


def load_decathlon(path: str | os.PathLike) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases that a Decathlon ``dataset.json`` or MONAI ``data.json`` lists.

    Relative paths are taken from the document's folder. A case without ``id`` is called after its image file.
    A document without ``validation`` has no validation cases. Where it has ``labels_<task>``, the cases have a further
    label map, under the key ``label_<task>``.

    Raises:
        FdifError: the document or a file it lists is missing, or it is not such a document.
    """
    path = Path(path)
    document = read_document(path)
    if "training" not in document:
        raise FdifError(
            f"{path}: no key 'training'; a Decathlon list has 'training' and, if any, 'validation'"
        )
    cases = _cases(path, document, "training"), _cases(path, document, "validation")
    for case in itertools.chain(*cases):
        _check_files(path, case)
    return cases


def load_class_names(path: str | os.PathLike, task: str | None = None) -> tuple[str, ...]:
    """The foreground classes that a dataset's JSON list names; label id = position + 1.

    ``labels`` may map ids to names (Decathlon) or names to ids (nnU-Net). With ``task`` they are those of that
    further label map, from ``labels_<task>``.

    Raises:
        FdifError: the document is missing or no such list, or its ids are not 0, 1, 2, …
    """
    path, key = Path(path), f"labels_{task}" if task else "labels"
    try:
        labels = read_document(path)[key]
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


def read_document(path: Path) -> dict:
    """A dataset's JSON list as it is written; FdifError if it is missing or no JSON object."""
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
    tasks = _further_tasks(document)
    return [_case(path, entry, tasks, f"{path}: {split}[{i}]") for i, entry in enumerate(entries)]


def _case(path: Path, entry: Any, tasks: Sequence[str], where: str) -> Case:
    for key in ("image", "label", *(f"label_{task}" for task in tasks)):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise FdifError(f"{where} needs '{key}', the path of one NIfTI file")
    image = path.parent / entry["image"]
    name = re.sub(r"\.(nii(\.gz)?|b2nd)$", "", image.name)
    further = tuple((task, path.parent / entry[f"label_{task}"]) for task in tasks)
    return Case(image, path.parent / entry["label"], str(entry.get("id", name)), further)


def find_volumes(folder: Path) -> dict[str, str]:
    """Names, in order, and suffixes of the volumes in a folder.

    Raises:
        FdifError: there is no such folder, or two volumes differ in their suffixes only.
    """
    if not folder.is_dir():
        raise FdifError(f"{folder}: no such folder")
    found: dict[str, str] = {}
    for file in sorted(path.name for path in folder.iterdir() if path.is_file()):
        suffix = next((suffix for suffix in VOLUME_SUFFIXES if file.endswith(suffix)), None)
        if suffix is None or file.startswith("."):
            continue
        name = file.removesuffix(suffix)
        if name in found:
            raise FdifError(f"{folder / file}: there is {name}{found[name]}, too; leave one of them out")
        found[name] = suffix
    return found


def read_volume(path: str | os.PathLike, *, allow_4d: bool = False) -> Volume:
    """A NIfTI volume, or a Blosc2 array (``.b2nd``), whose voxels are taken to be 1 mm wide, along the axes.

    Raises:
        FdifError: naming the file, as `read_nifti` and `read_b2nd` do, or if it has not 3 axes (or 4 if allowed).
    """
    if not os.fspath(path).endswith(".b2nd"):
        return read_nifti(path, allow_4d=allow_4d)
    array = read_b2nd(path)
    if array.ndim != 3 and not (allow_4d and array.ndim == 4):
        raise FdifError(
            f"{path}: shape {array.shape}; a volume of {'3 or 4' if allow_4d else '3'} axes is needed"
        )
    return Volume(array, np.eye(4), (1.0, 1.0, 1.0))


def volume_type(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a volume of 3 or 4 axes as `read_volume` gives it, from the file's header.

    Raises:
        FdifError: see `read_volume`; what is wrong after the header shows when the volume is read.
    """
    with contextlib.suppress(Exception):  # what is wrong with a file `read_volume` says
        shape, dtype = _header(os.fspath(path))
        if len(shape) in (3, 4):
            return shape, dtype
    array = read_volume(path, allow_4d=True).array
    return array.shape, array.dtype


def _header(path: str) -> tuple[tuple[int, ...], np.dtype]:
    if path.endswith(".b2nd"):
        import blosc2  # half a second that only those pay who have such files

        array = blosc2.open(path, mode="r")
        return array.shape, array.dtype
    volume: Any = nib.Nifti1Image.from_filename(path).dataobj
    shape = volume.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    scaled = (volume.slope, volume.inter) != (1, 0)
    return shape, np.dtype(np.float32) if scaled else volume.dtype.newbyteorder("=")


def load_channels(case: Case) -> np.ndarray:
    """Read a case's image with all its channels, ``(D, H, W, C)``; it may be read-only.

    Raises:
        FdifError: naming the file, if one cannot be read (see `read_volume`) or their shapes differ.
    """
    paths = (case.image, *case.further_images)
    arrays = [read_volume(path, allow_4d=True).array for path in paths]
    for path, array in zip(paths, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise FdifError(f"{path}: shape {array.shape}, but {case.image} has {arrays[0].shape}")
    arrays = [array if array.ndim == 4 else array[..., None] for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def load_labels(case: Case, shape: tuple[int, ...], num_classes: Sequence[int]) -> list[np.ndarray]:
    """Read a case's label maps, each of the image's ``shape`` ``(D, H, W)`` and with an integer dtype.

    Args:
        case: the files.
        shape: of the image.
        num_classes: foreground classes of each map.

    Raises:
        FdifError: see `load_case`.
    """
    paths = (case.label, *(path for _, path in case.further_labels))
    return [
        _load_label(path, case.image, shape, count).array
        for path, count in zip(paths, num_classes, strict=True)
    ]


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
    image = read_volume(case.image)
    return image, _load_label(path, case.image, image.array.shape, num_classes)


def _load_label(path: Path, image: Path, shape: tuple[int, ...], num_classes: int) -> Volume:
    label = read_volume(path)
    if shape != label.array.shape:
        raise FdifError(f"{path}: shape {label.array.shape}, but its image {image} has {shape}")
    low, high = label.array.min(), label.array.max()
    if low < 0 or high > num_classes:
        worst = low if low < 0 else high
        raise FdifError(f"{path}: holds label {worst:g}; {num_classes} classes allow 0 to {num_classes}")
    if label.array.dtype.kind == "f":
        whole = label.array.astype(np.int32)
        if not np.array_equal(whole, label.array):
            raise FdifError(f"{path}: holds labels that are not whole numbers")
        label = Volume(whole, label.affine, label.spacing)
    return label
