"""Real cases read and checked: scans that keep to what their dataset says of its channels and labels.

Whatever is wrong with a case is one `FdifError` that names the file, so that a command can go on with the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case, read_intensities, read_label
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import Volume
from fdif_jax.io.volumes import on_grid
from fdif_jax.preprocessing.spaces import Box, Crop, Space
from fdif_jax.sdf.masks import extent


@dataclass(frozen=True, eq=False)
class Scan:
    """A case in memory, with canonical axes.

    Attributes:
        id: what the case is called.
        image: float32 ``(D, H, W, C)``.
        label: class ids ``(D, H, W)``, signed integers, `IGNORE` where voxels are ignored; None if not asked for.
        space: the grid of its files.
        box: what of its canonical grid the arrays are; None for all.
    """

    id: str
    image: np.ndarray
    label: np.ndarray | None
    space: Space
    box: Box | None = None

    @cached_property
    def content(self) -> tuple[slice, slice, slice]:
        """The least box with all voxels that are not 0 in some channel; everything if all are."""
        filled = (self.image != 0).any(axis=3)
        first, stop = extent(filled if filled.any() else ~filled)
        d, h, w = map(slice, first.tolist(), stop.tolist())
        return d, h, w

    @property
    def crop(self) -> Crop:
        """The box that the arrays are of, or are cropped to."""
        return Crop(self.space, self.content if self.box is None else self.box)

    def cropped(self) -> "Scan":
        """Its content alone, as contiguous arrays."""
        if self.box is not None:
            return self
        box = self.content
        label = None if self.label is None else np.ascontiguousarray(self.label[box])
        return Scan(self.id, np.ascontiguousarray(self.image[box]), label, self.space, box)

    def as_filed(self) -> "Scan":
        """The image with its axes as its file stores them, in a space in which those are the canonical ones."""
        space = Space(self.space.shape, np.diag([*self.space.spacing, 1.0]))
        return Scan(self.id, np.ascontiguousarray(self.space.from_canonical(self.image)), None, space)


def read_scan(case: Case, conventions: Conventions) -> Scan:
    """Read a labelled case and check it by what its dataset says.

    Raises:
        FdifError: see `read_image`; or if the label map has another grid, holds what its dataset does not declare, or
            says of no voxel what it is. One of background alone is that of a healthy scan.
    """
    scan = read_image(case.id, case.images, conventions)
    volume = on_grid_of(case.image, scan.space, case.label, read_label(case.label, conventions))
    label = np.ascontiguousarray(scan.space.to_canonical(volume))
    if label.max() < 0:
        raise FdifError(f"{case.label}: ignores every voxel; leave the case out")
    return replace(scan, label=label)


def read_image(name: str, paths: Sequence[Path], conventions: Conventions) -> Scan:
    """Read a case called ``name`` without a label and check it; its image is one file of 3 or 4 axes, or one a channel.

    Raises:
        FdifError: naming the file, if one is missing, damaged, no volume, holds what is no intensity
            (see `read_intensities`); if the grids of the files differ; or if the image has other channels than the
            dataset.
    """
    volumes, names = [read_intensities(path) for path in paths], conventions.channel_names
    space = space_of(paths[0], volumes[0])
    found_arrays = (on_grid_of(paths[0], space, *one) for one in zip(paths, volumes, strict=True))
    arrays = [array if array.ndim == 4 else array[..., None] for array in found_arrays]
    found = sum(array.shape[3] for array in arrays)
    if found != len(names):
        raise FdifError(
            f"{paths[0]}: {found} channels, but its dataset has {len(names)} ({', '.join(names)})"
        )
    image = np.concatenate(arrays, axis=3, dtype=np.float32)
    return Scan(name, np.ascontiguousarray(space.to_canonical(image)), None, space)


def space_of(path: Path, volume: Volume) -> Space:
    """The grid of a volume that was read from ``path``; FdifError if it is a slice or has no axes."""
    shape = volume.array.shape[:3]
    if min(shape) < 2:
        raise FdifError(f"{path}: shape {shape}; a volume has at least 2 voxels along every axis")
    try:
        return Space(shape, volume.affine)
    except FdifError as error:
        raise FdifError(f"{path}: {error}") from None


def on_grid_of(other_path: Path, other: Space, path: Path, volume: Volume) -> np.ndarray:
    """The array of a volume that was read from ``path``, its axes as those of another file's grid run.

    FdifError if the two files' voxels do not lie in the same places (`on_grid`); see `space_of`, too.
    """
    space_of(path, volume)
    return on_grid(path, volume, other_path, other.shape, other.affine)
