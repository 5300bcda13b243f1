"""Labelled datasets read back: lists of the Decathlon or MONAI, nnU-Net's raw folders, class names, cases.

`fdif_jax.datasets.layouts` says how ours are laid out.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.datasets.conventions import Conventions, Labels, checked_label, conventions_of, labels_of
from fdif_jax.datasets.nnunet_raw import Split, check_count, check_reader, listed_files, read_splits
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_genuine, json_of, visible
from fdif_jax.io.names import safe_name, unique_names
from fdif_jax.io.nifti import Volume, check_numbers
from fdif_jax.io.remarks import remark_left_out, remark_repeated
from fdif_jax.io.volumes import (
    VOLUME_SUFFIXES,
    is_beside,
    is_volume,
    on_grid,
    read_volume,
    read_volume_header,
    suffix_of,
)
from fdif_jax.settings import first_few
from fdif_jax.tasks import Task


class Case(NamedTuple):
    """One image with its label map, and where it has several, the further ones by what they tell apart.

    An image of several channels is one file with a fourth axis, or, in nnU-Net's way, ``further_images``, a file each.
    ``id`` is no other case's of the dataset, and the name of a file on every system; ``fold`` is the one of a
    cross-validation in which the list says that the case validates.
    """

    image: Path
    label: Path
    id: str
    further_labels: tuple[tuple[str, Path], ...] = ()
    further_images: tuple[Path, ...] = ()
    fold: int | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """All files of the image."""
        return self.image, *self.further_images

    @property
    def labels(self) -> tuple[Path, ...]:
        """The files of all label maps."""
        return self.label, *(path for _, path in self.further_labels)


class Dataset(NamedTuple):
    """A labelled dataset: its label maps, in the order of a case's, what their numbers mean, and its cases."""

    tasks: tuple[Task, ...]
    labels: tuple[Labels, ...]
    training: list[Case]
    validation: list[Case]


_LISTS = (
    "data/data.json",
    "data.json",
    "dataset.json",
)  # MONAI's, in either folder; the Decathlon's, nnU-Net's


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
    if unique_names([first, *further]) != [first, *further]:
        raise FdifError(
            f"{path}: label maps {[first, *further]}: pictures are named after them; give each a name"
        )
    labels = tuple(labels_of(path, document, task) for task in (None, *further))
    tasks = tuple(Task(name, map_.label_names) for name, map_ in zip((first, *further), labels, strict=True))
    training, validation = list_cases(path)
    for case in (*training, *validation):
        for file in (*case.images, *case.labels):
            if not is_volume(file):
                raise FdifError(f"{path}: case {case.id}: no such file: {file}")
    return Dataset(tasks, labels, training, validation)


def load_conventions(path: str | os.PathLike) -> Conventions:
    """What a dataset's JSON list, or that of its directory, says of the first label map and of the images.

    FdifError if the document is missing or no such list; see `conventions_of`.
    """
    path = find_list(Path(path))
    return conventions_of(path, read_document(path))


def list_cases(path: str | os.PathLike) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases of a dataset as it lists them, their files looked for or not.

    A case is called what the list says, or else what its image's file is, by `unique_names` of all cases. FdifError if
    there is no list (`load_dataset`), no training case in it, or a case that cannot be called so.
    """
    path = find_list(Path(path))
    document = read_document(path)
    if "training" in document:
        training, validation = (_cases(path, document, split) for split in ("training", "validation"))
    elif "channel_names" in document:
        training = _nnunet_cases(path)
        validation = _nnunet_validation(path, {case.id for case in training})
    else:
        raise FdifError(f"{path}: has neither 'training' (Decathlon, MONAI) nor 'channel_names' (nnU-Net)")
    if not training:
        raise FdifError(f"{path}: lists no training case")
    cases = [*training, *validation]
    names = unique_names([case.id for case in cases], [case.image.parent for case in cases])
    cases = [case._replace(id=name) for case, name in zip(cases, names, strict=True)]
    remark_repeated(path, names, [case.images for case in cases], len(training))
    return cases[: len(training)], cases[len(training) :]


def list_splits(path: str | os.PathLike, cases: Sequence[Case]) -> list[Split]:
    """The folds of a dataset's ``cases`` by the file beside its list, if there is one; errors as of `read_splits`."""
    return read_splits(find_list(Path(path)), [case.id for case in cases])


def find_list(path: Path) -> Path:
    """The JSON list of a dataset's directory; any other path is taken for the list itself."""
    if not path.is_dir():
        return path
    for file in _lists_in(path):
        return file
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


def has_list(folder: Path) -> bool:
    """Whether there is a dataset's JSON list in a folder, where `find_list` looks first."""
    return any(_lists_in(folder))


def _lists_in(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _LISTS if (folder / name).is_file())


def _nnunet_validation(path: Path, taken: Collection[str]) -> list[Case]:
    """The cases of the dataset beside it; if one is called as one that is ``taken``, with that dataset's name."""
    numbered = re.fullmatch(r"Dataset(\d+)_(.+)", path.parent.name)
    if not numbered:
        return []
    beside = path.parent.parent / f"Dataset{int(numbered[1]) + 1:03d}_{numbered[2]}_Val" / path.name
    cases = _nnunet_cases(beside) if beside.is_file() else []
    if any(case.id in taken for case in cases):
        return [case._replace(id=f"{beside.parent.name}_{case.id}") for case in cases]
    return cases


def _nnunet_cases(path: Path) -> list[Case]:
    """The cases of a raw dataset of nnU-Net: those of its key ``dataset``, or else by the files of ``labelsTr`` and the
    first channels of ``imagesTr``."""
    folder, document = path.parent, read_document(path)
    check_reader(path, document)
    if "dataset" in document:
        files = listed_files(path, document)
        names = [_name({"id": name, "image": name}, f'{path}: "dataset"') for name in files]
        return [
            Case(images[0], label, name, (), tuple(images[1:]))
            for name, (images, label) in zip(names, files.values(), strict=True)
        ]
    ending, channels = document.get("file_ending", ".nii.gz"), document["channel_names"]
    if ending not in VOLUME_SUFFIXES:
        raise FdifError(f"{path}: file_ending is {ending}; volumes must be {', '.join(VOLUME_SUFFIXES)}")
    tasks = _further_tasks(document)
    cases = []
    labelled = {file.name.removesuffix(ending) for file in (folder / "labelsTr").glob(f"[!.]*{ending}")}
    imaged = {
        file.name.removesuffix(f"_0000{ending}") for file in (folder / "imagesTr").glob(f"[!.]*_0000{ending}")
    }
    for kind, channel in (("labelsTr", ""), ("imagesTr", "_0000")):
        for file in visible(folder / kind):
            name = file.removesuffix(end := suffix_of(file)).removesuffix(channel)
            if end not in ("", ending) and name in labelled | imaged:
                path = folder / kind / file
                raise FdifError(f"{path}: case {name} is of {ending} files; leave those or this one out")
    for name in sorted(labelled | imaged):
        label = folder / f"labelsTr/{name}{ending}"
        images = [folder / f"imagesTr/{name}_{channel:04d}{ending}" for channel in range(len(channels))]
        further = tuple((task, folder / f"labelsTr_{task}" / label.name) for task in tasks)
        cases.append(Case(images[0], label, name, further, tuple(images[1:])))
    used = {file for case in cases for file in (*case.images, case.label)}
    for inner in (folder / "imagesTr", folder / "labelsTr"):
        left = [name for name in visible(inner) if inner / name not in used and not is_beside(name)]
        remark_left_out(inner, left, f"no {ending} files of cases of {len(channels)} channels")
    check_count(path, document, len(cases), f"there are {len(cases)} cases of {ending} files")
    return cases


def _further_tasks(document: dict) -> list[str]:
    return [key.removeprefix("labels_") for key in document if key.startswith("labels_")]


def read_document(path: Path) -> dict:
    """A dataset's JSON list as it is written; FdifError if it is missing or no JSON object."""
    try:
        document = json_of(path.read_bytes())
    except FileNotFoundError:
        raise FdifError(f"{path}: no such file; give a dataset's JSON list") from None
    except OSError as error:
        raise FdifError(f"{path}: cannot read: {error.strerror}") from None
    except ValueError as error:
        check_genuine(path)
        if suffix_of(path.name):
            raise FdifError(f"{path}: is a volume; give their folder, or a dataset's JSON list") from None
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
            raise FdifError(f"{where} needs '{key}', the path of one volume")
    image, fold = path.parent / entry["image"], entry.get("fold")
    further = tuple((task, path.parent / entry[f"label_{task}"]) for task in tasks)
    if fold is not None and (type(fold) is not int or fold < 0):
        raise FdifError(f"{where}: 'fold' must be a whole number from 0, not {fold!r}")
    return Case(image, path.parent / entry["label"], _name(entry, where), further, fold=fold)


def _name(entry: Mapping[str, Any], where: str) -> str:
    """What a case is called: its ``id``, or else its image's base name; FdifError if no file can be called so."""
    key = "image" if entry.get("id") is None else "id"
    text = entry[key]
    if not isinstance(text, str | int) or isinstance(text, bool):
        raise FdifError(f"{where}: 'id' must be a text or a whole number, not {text!r}")
    file = Path(entry["image"]).name
    name = str(text) if key == "id" else file.removesuffix(suffix_of(file))
    if ".." in re.split(r"[/\\]", name) or not safe_name(name):
        raise FdifError(f"{where}: {key!r} is {text!r}; files are named after a case: give it a name as 'id'")
    return name


def read_intensities(path: str | os.PathLike) -> Volume:
    """A volume of 3 or 4 axes whose numbers a network sees in float32; errors are as of `read_volume`.

    FdifError, too, for integers beyond what `check_numbers` lets pass; as labels they mean no more than others; and for
    a segmentation.
    """
    volume = read_volume(path, allow_4d=True)
    if volume.is_part:
        raise FdifError(
            f"{path}: is a segmentation ({first_few([*volume.names.values()])}); a scan is needed"
        )
    if volume.array.dtype.kind in "iu":
        check_numbers(path, volume.array)
    return volume


def volume_type(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a volume of 3 or 4 axes as `read_volume` gives it, from the file's header.

    Errors are as of `read_volume`; what is wrong after the header shows when the volume is read.
    """
    with contextlib.suppress(Exception):  # what is wrong with a file `read_volume` says
        header = read_volume_header(path)
        return header.shape, header.dtype
    array = read_volume(path, allow_4d=True).array
    return array.shape, array.dtype


def load_channels(case: Case) -> np.ndarray:
    """Read a case's image with all its channels, ``(D, H, W, C)``; it may be read-only.

    Channels in files of their own lie where the first one does, see `load_labels`. Errors are as of `read_intensities`.
    """
    volumes = [read_intensities(path) for path in case.images]
    shape, affine = volumes[0].array.shape, volumes[0].affine
    arrays = [_laid_on(case, shape, affine, *one) for one in zip(case.images, volumes, strict=True)]
    arrays = [array if array.ndim == 4 else array[..., None] for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def load_labels(case: Case, shape: tuple[int, ...], labels: Sequence[Labels]) -> list[np.ndarray]:
    """Read a case's label maps, each of the image's ``shape`` ``(D, H, W)``, as `read_label` does.

    A map of the image's voxels in another order is put in theirs; where one of the two has no place in space, its
    affine being the identity, it is taken as it is. ``labels`` say what the numbers of each map mean, as `Dataset` has
    it. FdifError, naming the file, if its voxels are others, or lie elsewhere.
    """
    affine = read_volume_header(case.image).affine
    return [
        _laid_on(case, shape, affine, path, read_label(path, meaning))
        for path, meaning in zip(case.labels, labels, strict=True)
    ]


def _laid_on(
    case: Case, shape: tuple[int, ...], affine: np.ndarray, path: Path, volume: Volume
) -> np.ndarray:
    """The array of one of a case's volumes, its axes as those of the image, of ``shape`` and ``affine``, run."""
    nowhere = np.eye(4)
    placed = not (np.array_equal(volume.affine, nowhere) or np.array_equal(affine, nowhere))
    if not placed and volume.array.shape[:3] == shape[:3]:
        return volume.array
    return on_grid(path, volume, case.image, shape[:3], affine)


def read_label(path: Path, labels: Labels) -> Volume:
    """Read a label map: class ids, signed integers, -1 where voxels are ignored; see `read_volume`, `checked_label`."""
    volume = read_volume(path)
    return replace(volume, array=checked_label(path, volume.array, labels, volume.names))
