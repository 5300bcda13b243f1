"""Real cases read and checked: what a dataset says of its channels and labels, and scans that keep to it.

Whatever is wrong with a case is one `FdifError` that names the file, so that a command can go on with the others.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdif_jax.datasets.reader import Case, find_list, read_document, read_volume
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import Volume
from fdif_jax.preprocessing.spaces import Space

IGNORE = -1  # voxels that nobody labelled
_APART = 0.1  # voxels between corners of grids that are taken for one


@dataclass(frozen=True)
class Conventions:
    """What the numbers of a dataset's files mean.

    Attributes:
        class_names: of label 1, 2, …
        ignore: the label of voxels that nobody labelled, where it is not only -1.
        channel_names: of the image's channels.
    """

    class_names: tuple[str, ...]
    ignore: int | None = None
    channel_names: tuple[str, ...] = ("image",)


@dataclass(frozen=True, eq=False)
class Scan:
    """A case in memory, with canonical axes.

    Attributes:
        id: what the case is called.
        image: float32 ``(D, H, W, C)``.
        label: class ids ``(D, H, W)``, signed integers, `IGNORE` where nobody labelled; None if not asked for.
        space: the grid of its files.
    """

    id: str
    image: np.ndarray
    label: np.ndarray | None
    space: Space

    @property
    def content(self) -> tuple[slice, slice, slice]:
        """The least box with all voxels that are not 0 in some channel; everything if all are."""
        filled = (self.image != 0).any(axis=3)
        found = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        if not found[0].size:
            found = [np.arange(n) for n in filled.shape]
        d, h, w = (slice(int(along[0]), int(along[-1]) + 1) for along in found)
        return d, h, w


def load_conventions(path: str | os.PathLike) -> Conventions:
    """What a dataset's JSON list, or that of its directory, says of labels and channels.

    ``labels`` maps ids to names (the Decathlon) or names to ids (nnU-Net). A label that is called "ignore", or -1, is
    no class. Channels are those of ``channel_names`` (nnU-Net) or ``modality`` (the Decathlon), else one.

    Raises:
        FdifError: the document is missing or no such list, or its classes are not numbered 1, 2, …
    """
    path = find_list(Path(path))
    document = read_document(path)
    try:
        labels = {
            int(key) if _is_id(key) else int(value): str(value) if _is_id(key) else key
            for key, value in document["labels"].items()
        }
        count = len(document["labels"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FdifError(
            f'{path}: needs "labels", a table of label ids and names, as {{"background": 0, "liver": 1}}'
        ) from None
    ignored = {i for i, name in labels.items() if name.lower() == "ignore" or i == IGNORE}
    ids = sorted(labels.keys() - ignored)
    if len(labels) < count or ids != list(range(max(len(ids), 2))) or len(ignored - {IGNORE}) > 1:
        raise FdifError(
            f'{path}: "labels" must number the classes 0 (background), 1, 2, …, not {sorted(labels)}'
        )
    ignore = max(ignored - {IGNORE}, default=None)
    return Conventions(tuple(labels[i] for i in ids[1:]), ignore, _channel_names(path, document))


def _is_id(key: str) -> bool:
    return key.removeprefix("-").isdigit()


def _channel_names(path: Path, document: dict) -> tuple[str, ...]:
    names = document.get("channel_names", document.get("modality", {"0": "image"}))
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(max(len(names), 1)))):
        raise FdifError(
            f'{path}: "channel_names" or "modality" must number the channels, as {{"0": "MRI"}}, not {names!r}'
        )
    return tuple(str(names[str(i)]) for i in range(len(names)))


def read_scan(case: Case, conventions: Conventions, *, labelled: bool = True) -> Scan:
    """Read a case and check it.

    Args:
        case: its files; an image of several channels is one file of 4 axes, or a file each.
        conventions: of its dataset.
        labelled: read its label map, too.

    Raises:
        FdifError: naming the file, if one is missing, damaged, no volume, holds NaN or infinity (see `read_volume`);
            if the grids of a case's files differ; if the image has other channels than its dataset; if the label
            map holds what its dataset does not declare, or nothing.
    """
    image, space = _read_image((case.image, *case.further_images), conventions.channel_names)
    label = None
    if labelled:
        volume = read_volume(case.label)
        check_same_grid(case.label, space_of(case.label, volume), case.image, space)
        label = np.ascontiguousarray(space.to_canonical(checked_label(case.label, volume.array, conventions)))
        if not (label > 0).any():
            raise FdifError(f"{case.label}: labels no voxel; leave the case out")
    return Scan(case.id, np.ascontiguousarray(space.to_canonical(image)), label, space)


def space_of(path: Path, volume: Volume) -> Space:
    """The grid of a volume that was read from ``path``; FdifError if it is a slice or has no axes."""
    shape = volume.array.shape[:3]
    if min(shape) < 2:
        raise FdifError(f"{path}: shape {shape}; a volume has at least 2 voxels along every axis")
    try:
        return Space(shape, volume.affine)
    except FdifError as error:
        raise FdifError(f"{path}: {error}") from None


def check_same_grid(path: Path, space: Space, other_path: Path, other: Space) -> None:
    """Raise an FdifError if two files' voxels do not lie in the same places, within a tenth of a voxel."""
    if space.shape != other.shape:
        raise FdifError(f"{path}: shape {space.shape}, but {other_path} has {other.shape}")
    apart = space.apart_from(other)
    if not apart <= _APART:
        raise FdifError(
            f"{path}: its affine lays voxels up to {apart:.3g} voxels from where that of {other_path} lays them"
        )


def _read_image(paths: Sequence[Path], names: Sequence[str]) -> tuple[np.ndarray, Space]:
    volumes = [read_volume(path, allow_4d=True) for path in paths]
    spaces = [space_of(path, volume) for path, volume in zip(paths, volumes, strict=True)]
    for path, space in zip(paths, spaces, strict=True):
        check_same_grid(path, space, paths[0], spaces[0])
    arrays = [v.array if v.array.ndim == 4 else v.array[..., None] for v in volumes]
    found = sum(array.shape[3] for array in arrays)
    if found != len(names):
        raise FdifError(
            f"{paths[0]}: {found} channels, but its dataset has {len(names)} ({', '.join(names)})"
        )
    return np.concatenate(arrays, axis=3, dtype=np.float32), spaces[0]


def checked_label(path: Path, array: np.ndarray, conventions: Conventions) -> np.ndarray:
    """Class ids of a label map that was read from ``path``: signed integers, `IGNORE` where nobody labelled.

    Raises:
        FdifError: it holds what is no whole number, or a label that its dataset does not declare.
    """
    highest = len(conventions.class_names)
    declared = [IGNORE, *range(highest + 1), *([] if conventions.ignore is None else [conventions.ignore])]
    if array.min() < min(declared) or array.max() > max(declared):
        raise _undeclared(path, array, declared, conventions)
    labels = array.astype(np.min_scalar_type(-max(declared) - 1), copy=False)
    contiguous = max(declared) <= highest + 1
    if not np.array_equal(labels, array) or not (contiguous or np.isin(labels, declared).all()):
        raise _undeclared(path, array, declared, conventions)
    if conventions.ignore is not None:
        labels = np.where(labels == conventions.ignore, labels.dtype.type(IGNORE), labels)
    return labels


def _undeclared(
    path: Path, array: np.ndarray, declared: Sequence[int], conventions: Conventions
) -> FdifError:
    present = np.unique(array)
    strange = present[~np.isin(present, declared)][0]
    names = ", ".join(f"{i} {name}" for i, name in enumerate(("background", *conventions.class_names)))
    return FdifError(f"{path}: holds label {strange:g}, which its dataset does not declare: {names}")
