"""What the numbers in a dataset's files mean: names of classes and channels, and ignored voxels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.labels import whole_numbers
from fdif_jax.settings import Plain

IGNORE = -1  # ignored voxels
_LISTED = 12  # class names in an error


@dataclass(frozen=True)
class Labels(Plain):
    """What the numbers of a label map mean.

    Attributes:
        class_names: of label 1, 2, …
        ignore: the label of ignored voxels, where it is not only -1.
    """

    class_names: tuple[str, ...]
    ignore: int | None = None

    @property
    def ids(self) -> list[int]:
        """All labels that there may be, -1 first."""
        further = [] if self.ignore is None else [self.ignore]
        return [IGNORE, *range(len(self.class_names) + 1), *further]

    @property
    def dtype(self) -> np.dtype:
        """The smallest signed integers that hold the labels of a file, and class ids and -1."""
        return np.min_scalar_type(-max(self.ids) - 1)


@dataclass(frozen=True)
class Conventions(Labels):
    """What the numbers of a dataset's files mean, its first label map's and its images'.

    Attributes:
        channel_names: of the image's channels.
    """

    channel_names: tuple[str, ...] = ("image",)


def labels_of(path: Path, document: Mapping[str, Any], task: str | None = None) -> Labels:
    """What a dataset's JSON list at ``path`` says of its first label map, or of that of a further task
    (``labels_<task>``).

    The document's table maps ids to names (the Decathlon) or names to ids (nnU-Net). A label that is called "ignore",
    or -1, is no class. FdifError if there is no such table, its classes are not numbered 1, 2, …, or two have one name.
    """
    key = f"labels_{task}" if task else "labels"
    _refuse_regions(path, key, document)
    try:
        labels = {
            int(key) if _is_id(key) else int(value): str(value) if _is_id(key) else key
            for key, value in document[key].items()
        }
        count = len(document[key])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise FdifError(
            f'{path}: needs "{key}", a table of class ids and names, as {{"background": 0, "liver": 1}}'
        ) from None
    ignored = {i for i, name in labels.items() if name.lower() == "ignore" or i == IGNORE}
    ids = sorted(labels.keys() - ignored)
    if len(labels) < count or ids != list(range(max(len(ids), 2))) or len(ignored - {IGNORE}) > 1:
        raise FdifError(
            f'{path}: "{key}" must number the classes 0 (background), 1, 2, …, not {sorted(labels)}'
        )
    names = tuple(labels[i] for i in ids[1:])
    if twice := [name for name in names if names.count(name) > 1]:
        raise FdifError(
            f'{path}: "{key}" calls two classes {twice[0]!r}, but scores go by names; give each its own'
        )
    return Labels(names, max(ignored - {IGNORE}, default=None))


def _refuse_regions(path: Path, key: str, document: Mapping[str, Any]) -> None:
    """Raise an FdifError if a dataset has nnU-Net's regions, unions of labels that may overlap, in place of classes."""
    labels: Any = document.get(key)
    regions = {n: of for n, of in labels.items() if isinstance(of, list)} if isinstance(labels, dict) else {}
    if regions:
        named = {name: of for name, of in labels.items() if name not in regions}
        numbers = sorted({i for of in regions.values() for i in of if isinstance(i, int)} - {*named.values()})
        wanted = json.dumps(named | {f"label {number}": number for number in numbers})
        raise FdifError(
            f'{path}: "{key}" has regions of nnU-Net\'s, {json.dumps(regions)}; a network here learns classes that do '
            f"not overlap: name each label of the files, as {wanted}, and unite predicted labels to regions"
        )


def _is_id(key: str) -> bool:
    return key.removeprefix("-").isdigit()


def conventions_of(path: Path, document: Mapping[str, Any]) -> Conventions:
    """What a dataset's JSON list says of its first label map and of its images.

    Channels are those of ``channel_names`` (nnU-Net) or ``modality`` (the Decathlon), else one. FdifError if they are
    not numbered 0, 1, …; see `labels_of`.
    """
    labels = labels_of(path, document)
    names = document.get("channel_names", document.get("modality", {"0": "image"}))
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(max(len(names), 1)))):
        raise FdifError(
            f'{path}: "channel_names" or "modality" must number the channels, as {{"0": "MRI"}}, not {names!r}'
        )
    channels = tuple(str(names[str(i)]) for i in range(len(names)))
    return Conventions(labels.class_names, labels.ignore, channels)


def checked_label(path: Path, array: np.ndarray, labels: Labels) -> np.ndarray:
    """Class ids of a label map that was read from ``path``: signed integers, `IGNORE` where voxels are ignored.

    FdifError if it holds what is no whole number (`whole_numbers`), or a label that its dataset does not declare.
    """
    array = whole_numbers(path, array)
    declared = labels.ids
    if array.min() < min(declared) or array.max() > max(declared):
        raise _undeclared(path, array, labels)
    found = array.astype(labels.dtype, copy=False)
    contiguous = max(declared) <= len(labels.class_names) + 1
    if not (contiguous or np.isin(found, declared).all()):
        raise _undeclared(path, array, labels)
    if labels.ignore is not None:
        found = np.where(found == labels.ignore, found.dtype.type(IGNORE), found)
    return found


def any_label(path: Path, array: np.ndarray) -> np.ndarray:
    """Labels of a map that was read from ``path`` and has no list: signed integers, `IGNORE` where voxels are ignored.

    FdifError if it holds anything but whole numbers (`whole_numbers`) from `IGNORE` on.
    """
    array = whole_numbers(path, array)
    if array.min() >= IGNORE and array.max() < 2**63:
        found = array.astype(np.min_scalar_type(-max(int(array.max()), 0) - 1), copy=False)
        if np.array_equal(found, array):
            return found
    raise FdifError(f"{path}: is no label map: it holds values other than 0, 1, 2, … and -1 (ignored)")


def _undeclared(path: Path, array: np.ndarray, labels: Labels) -> FdifError:
    present = np.unique(array)
    strange = present[~np.isin(present, labels.ids)][0]
    return FdifError(
        f"{path}: holds label {strange:g}, which its dataset does not declare: {_listed(labels.class_names)}"
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > _LISTED:
        return f"0 to {len(names)}"
    return ", ".join(f"{i} {name}" for i, name in enumerate(("background", *names)))
