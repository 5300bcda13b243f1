"""What only nnU-Net v2's raw datasets say: how files are read, the files of every case, the folds.

Sources: nnU-Net 2, its documentation of datasets and manual splits, and ``get_filenames_of_train_images_and_targets``.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import json_of
from fdif_jax.io.names import safe_name

SPLITS = "splits_final.json"
_READERS = (
    "None",
    "SimpleITKIO",
    "NibabelIO",
    "NibabelIOWithReorient",
)  # of volumes, which we read by their suffix


class Split(NamedTuple):
    """A fold: the cases to train on and those to validate on, by name; a case may be in neither."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def check_reader(path: Path, document: Mapping[str, Any]) -> None:
    """Raise FdifError if ``overwrite_image_reader_writer`` names a reader of nnU-Net's of what is no volume here."""
    name = document.get("overwrite_image_reader_writer", "None")
    if name not in _READERS:
        raise unknown(f"overwrite_image_reader_writer of {path}:", str(name), _READERS)


def listed_files(path: Path, document: Mapping[str, Any]) -> dict[str, tuple[list[Path], Path]]:
    """The images, a file a channel, and the label map of every case under ``dataset``, by the case's name.

    Paths are relative to the folder of the list, ``path``; variables of the environment ($HOME) are put in. FdifError,
    naming the case, where one has no label map, or not as many images as ``channel_names`` says; or if there are not
    as many cases as ``numTraining`` says.
    """
    listed, channels = document["dataset"], len(document["channel_names"])
    found: dict[str, tuple[list[Path], Path]] = {}
    if not isinstance(listed, dict):
        raise FdifError(f'{path}: "dataset" must be a table of cases, not {listed!r}')
    check_count(path, document, len(listed), f'"dataset" lists {len(listed)} cases')
    for name, files in listed.items():
        images, label = [files.get(key) if isinstance(files, dict) else None for key in ("images", "label")]
        if not isinstance(label, str) or not _are_texts(images):
            raise FdifError(
                f'{path}: "dataset": case {name!r} needs "images", a list of files, and "label", a file'
            )
        if len(images) != channels:
            raise FdifError(
                f'{path}: "dataset": case {name!r} has {len(images)} images, but "channel_names" are {channels}'
            )
        found[name] = ([_file(path, image) for image in images], _file(path, label))
    return found


def _file(path: Path, text: str) -> Path:
    return path.parent / os.path.expandvars(text)


def check_count(path: Path, document: Mapping[str, Any], cases: int, there: str) -> None:
    """Raise an FdifError if ``numTraining``, a number or its text, says otherwise than what is ``there``."""
    told = document.get("numTraining", cases)
    if str(told) != str(cases):
        raise FdifError(f"{path}: numTraining is {told}, but {there}")


def read_splits(path: Path, names: Collection[str]) -> list[Split]:
    """The folds that nnU-Net's ``splits_final.json`` beside a dataset's list, ``path``, makes; none without that file.

    FdifError if it is no list of folds, a fold has a case that is not among ``names``, the ids of the dataset's cases,
    one both to train and to validate on, or none to train on.
    """
    file = path.parent / SPLITS
    try:
        document = json_of(file.read_bytes())
        folds = [(fold["train"], fold["val"]) for fold in document]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FdifError(f"{file}: cannot read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        folds = []
    if not folds or not all(_are_texts(part) for fold in folds for part in fold):
        raise FdifError(f'{file}: must list folds, as [{{"train": ["case_1"], "val": ["case_2"]}}]')
    splits = [Split(*(tuple(map(safe_name, part)) for part in fold)) for fold in folds]
    for number, (training, validation) in enumerate(splits):
        if strange := {*training, *validation} - {*names}:
            raise FdifError(f"{file}: fold {number} has case {min(strange)!r}, which is not in {path}")
        if both := {*training} & {*validation}:
            raise FdifError(f"{file}: fold {number} trains and validates on case {min(both)!r}")
        if not training:
            raise FdifError(f"{file}: fold {number} has no case to train on")
    return splits


def _are_texts(values: Any) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
