"""What the numbers in a dataset's files mean: names of classes, regions and channels, and ignored voxels."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.labels import whole_numbers
from fdif_jax.settings import Plain

IGNORE = -1  # ignored voxels
RESERVED = ("case", "mean")
"""What no class may be called, as tables of scores have columns and rows of that name."""
_LISTED = 12  # class names in an error


@dataclass(frozen=True)
class Labels(Plain):
    """What the numbers of a label map mean.

    Attributes:
        class_names: what is told apart: the classes of label 1, 2, …, or the regions.
        ignore: the label of ignored voxels, where it is not only -1.
        regions: of each region the labels that it unites, where `class_names` are those of regions (nnU-Net's), which
            may overlap.
        painted: of each region the label that a prediction has there; a later region's goes over an earlier one's.
    """

    later: ClassVar[tuple[str, ...]] = ("regions", "painted")

    class_names: tuple[str, ...]
    ignore: int | None = None
    regions: tuple[tuple[int, ...], ...] = field(default=(), kw_only=True)
    painted: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """Of everything that is told apart the labels that it unites: a region's, or a class's own."""
        return self.regions or tuple((label,) for label in range(1, len(self.class_names) + 1))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of label 1, 2, …: the classes, or the smallest region that a label is in, the last painted of several.

        Labels that are alike in this have their number behind the name.
        """
        if not self.regions:
            return self.class_names
        smallest = [
            min((len(of), -place) for place, of in enumerate(self.regions) if label in of)
            for label in range(1, max(itertools.chain(*self.regions)) + 1)
        ]
        names = [self.class_names[-place] for _, place in smallest]
        return tuple(
            f"{name} ({label})" if names.count(name) > 1 else name
            for label, name in enumerate(names, start=1)
        )

    @property
    def ids(self) -> list[int]:
        """All labels that there may be, -1 first."""
        further = [] if self.ignore is None else [self.ignore]
        return [IGNORE, *range(max(itertools.chain(*self.members), default=0) + 1), *further]

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

    The document's table maps ids to names (the Decathlon) or names to ids or to lists of them (nnU-Net's classes and
    regions). A label that is called "ignore", or -1, is no class. FdifError if there is no such table, its classes are
    not numbered 1, 2, …, two have one name, or a region is impossible.
    """
    key = f"labels_{task}" if task else "labels"
    try:
        table = {str(name): of for name, of in document[key].items()}
        if any(isinstance(of, list) and len(of) != 1 for of in table.values()):
            if task:
                raise FdifError(
                    f'{path}: "{key}" has regions, which only the first label map, "labels", may have'
                )
            return _regions_of(f'{path}: "{key}"', table, document.get("regions_class_order"))
        table = {name: of[0] if isinstance(of, list) else of for name, of in table.items()}
        labels = {
            int(key) if _is_id(key) else _id(value): str(value) if _is_id(key) else key
            for key, value in table.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise FdifError(
            f'{path}: needs "{key}", a table of class ids and names, as {{"background": 0, "liver": 1}}'
        ) from None
    ignored = {i for i, name in labels.items() if name.lower() == "ignore" or i == IGNORE}
    ids = sorted(labels.keys() - ignored)
    if len(labels) < len(table) or ids != list(range(max(len(ids), 2))) or len(ignored - {IGNORE}) > 1:
        raise FdifError(
            f'{path}: "{key}" must number the classes 0 (background), 1, 2, … without a gap, as nnU-Net asks, too, '
            f"not {sorted(labels)}"
        )
    names = tuple(labels[i] for i in ids[1:])
    if twice := [name for name in names if names.count(name) > 1]:
        raise FdifError(
            f'{path}: "{key}" calls two classes {twice[0]!r}, but scores go by names; give each its own'
        )
    _check_names(f'{path}: "{key}"', names)
    return Labels(names, max(ignored - {IGNORE}, default=None))


def _regions_of(where: str, table: Mapping[str, Any], order: Any) -> Labels:
    """What a table of nnU-Net's regions says, with its ``regions_class_order``; FdifError, naming what is impossible.

    A region unites labels; what is mapped to one label is a region of that label alone. Source: nnU-Net 2, its
    ``LabelManager`` and documentation/region_based_training.md.
    """
    regions: dict[str, tuple[int, ...]] = {}
    ignored: list[int] = []
    for name, of in table.items():
        united: list[Any] = of if isinstance(of, list) else [of]
        if not united or not all(type(label) is int for label in united):
            raise FdifError(f"{where}: region {name!r} is {of!r}; it must list one label or more, as [1, 2]")
        if name.lower() == "ignore" or of == IGNORE:
            ignored += united
        elif of != 0:
            regions[name] = tuple(sorted(set(united)))
    if 0 not in table.values() or 0 in ignored or len(ignored) > 1:
        raise FdifError(f'{where} needs "background": 0 beside its regions, and at most one label to ignore')
    _check_names(where, regions)
    for name, own in regions.items():
        if wrong := {0, IGNORE, *ignored} & {*own}:
            what = "the background" if 0 in wrong else "ignored"
            raise FdifError(f"{where}: region {name!r} has label {max(wrong)}, which is {what}; leave it out")
    labels = sorted({*itertools.chain(*regions.values())})
    if labels != list(range(1, len(labels) + 1)):
        raise FdifError(
            f"{where}: the labels of its regions must be 1, 2, …, without a gap, as nnU-Net's, not {labels}"
        )
    return Labels(
        tuple(regions),
        max({*ignored} - {IGNORE}, default=None),
        regions=tuple(regions.values()),
        painted=_painted(where, regions, order),
    )


def _painted(where: str, regions: Mapping[str, Sequence[int]], order: Any) -> tuple[int, ...]:
    """The label that every region is painted with, by ``regions_class_order``; FdifError if it does not say them."""
    if not (isinstance(order, list) and len(order) == len(regions) and all(type(i) is int for i in order)):
        raise FdifError(
            f'{where} has regions ({", ".join(regions)}), so "regions_class_order" beside it must list {len(regions)} '
            f"labels, that of each region in a prediction, not {order!r}"
        )
    for label, (name, united) in zip(order, regions.items(), strict=True):
        if label not in united:
            raise FdifError(
                f'{where}: "regions_class_order" paints region {name!r} with label {label}, which is none of its own, '
                f"{list(united)}"
            )
    return tuple(order)


def _check_names(where: str, names: Iterable[str]) -> None:
    """Raise an FdifError for a class or region that is called as a column of scores, or has no name."""
    for name in names:
        if name in RESERVED:
            raise FdifError(f"{where} calls a class {name!r}, as tables of scores call a column; rename it")
        if not name.strip():
            raise FdifError(f"{where} has a class without a name")


def _id(value: Any) -> int:
    """The whole number that a list says; ValueError for anything else."""
    if isinstance(value, bool) or float(value) != int(value):
        raise ValueError(value)
    return int(value)


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
    return Conventions(
        labels.class_names, labels.ignore, channels, regions=labels.regions, painted=labels.painted
    )


def checked_label(
    path: Path, array: np.ndarray, labels: Labels, names: Mapping[int, str] | None = None
) -> np.ndarray:
    """Class ids of a label map that was read from ``path``: signed integers, `IGNORE` where voxels are ignored.

    A segmentation whose segments are called (``names``, by label) as classes is numbered as those are.

    FdifError if it holds what is no whole number (`whole_numbers`), or a label that its dataset does not declare; or if
    some of the segments are called as classes, and another is not.
    """
    array = whole_numbers(path, array)
    if names and not labels.regions:
        array = _numbered(path, array, labels, names)
    declared = labels.ids
    if array.min() < min(declared) or array.max() > max(declared):
        raise _undeclared(path, array, labels)
    found = array.astype(labels.dtype, copy=False)
    contiguous = max(declared) == len(declared) - 2
    if not (contiguous or np.isin(found, declared).all()):
        raise _undeclared(path, array, labels)
    if labels.ignore is not None:
        found = np.where(found == labels.ignore, found.dtype.type(IGNORE), found)
    return found


def _numbered(path: Path, array: np.ndarray, labels: Labels, names: Mapping[int, str]) -> np.ndarray:
    """Labels of segments as those of the classes that are called alike; as they are where no class is."""
    ids = {name.casefold(): number for number, name in enumerate(labels.class_names, start=1)}
    if labels.ignore is not None:
        ids["ignore"] = labels.ignore
    keys = {label: name.strip().casefold() for label, name in names.items()}
    classes = {label: ids[key] for label, key in keys.items() if key in ids}
    if not classes:
        return array
    if strange := sorted({*np.unique(array).tolist()} - {0, *classes}):
        raise FdifError(
            f"{path}: its segment {names.get(strange[0], strange[0])!r} is called as no class of its dataset: "
            f"{_listed(labels.class_names)}; call all segments as classes, or none"
        )
    found = np.zeros(array.shape, labels.dtype)
    for label, number in classes.items():
        found[array == label] = number
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
        f"{path}: holds label {strange:g}, which its dataset does not declare: {_listed(labels.label_names)}"
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > _LISTED:
        return f"0 to {len(names)}"
    return ", ".join(f"{i} {name}" for i, name in enumerate(("background", *names)))
