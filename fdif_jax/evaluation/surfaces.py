"""Surfaces of label maps: where they are, how large their parts are, and how far two of them are apart.

A surface is either of two things. By ``"area"`` it is made of elements between the voxel centres, each of some area:
Nikolov et al. 2021, arXiv 1809.04430, section "Surface Dice"; the Medical Segmentation Decathlon scores so. An element
lies at every corner where voxels meet of which some are of the class and some are not; its area is that of the
triangles that marching cubes (Lorensen and Cline 1987) puts between these eight voxels. By ``"voxels"`` it is the
voxels of the class that have a face neighbour of another label, one like another: on anisotropic voxels that weighs
the surface by where it lies, not by how much of it there is. What lies beyond the volume is background.

All classes' surfaces are found in one pass, and distances are looked up between their points alone. So the cost
follows the surfaces, not the number of classes, nor how far a class is scattered: the first predictions of a network
that has learnt nothing are noise, where boxes around the classes would be the whole volume.
"""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Surface = Literal["area", "voxels"]


class Side(NamedTuple):
    """One of a class's two surfaces: areas ``(n,)`` of its elements, and how far each is from the other surface."""

    areas: np.ndarray
    apart: np.ndarray  # float32, in the units of the spacing; infinite where there is no other surface


class _Elements(NamedTuple):
    """Parts of surfaces: where they are ``(n, 3)``, in the units of the spacing, and their areas ``(n,)``."""

    points: np.ndarray
    areas: np.ndarray


def surfaces_apart(
    prediction: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    steps: np.ndarray,
    surface: Surface,
    limit: float = np.inf,
) -> Iterator[tuple[Side, Side]]:
    """Per foreground class its surface in the prediction and in the label, class ids ``(D, H, W)`` of one shape.

    ``steps`` are the voxels' edges. Distances that exceed the limit may be infinite, which makes them cheaper.
    """
    find = _between if surface == "area" else _outermost
    both = []
    for volume in (prediction, label):
        ids, elements = find(volume, num_classes, steps)
        order = np.argsort(ids, kind="stable")
        starts = np.searchsorted(ids[order], np.arange(1, num_classes + 1))
        both.append([np.split(part[order], starts)[1:-1] for part in elements])
    for ours, theirs in zip(
        *(itertools.starmap(_Elements, zip(*side, strict=True)) for side in both), strict=True
    ):
        yield (
            Side(ours.areas, _nearest(ours.points, theirs.points, limit)),
            Side(theirs.areas, _nearest(theirs.points, ours.points, limit)),
        )


def _between(labels: np.ndarray, num_classes: int, steps: np.ndarray) -> tuple[np.ndarray, _Elements]:
    """Elements between the voxels, and the class ``(n,)`` of each; two classes that touch have one each."""
    padded = np.pad(labels, 1)
    eight = np.array([*itertools.product((0, 1), repeat=3)])
    octants = [
        padded[tuple(slice(first, first + n + 1) for first, n in zip(corner, labels.shape, strict=True))]
        for corner in eight.tolist()
    ]
    mixed = np.zeros(octants[0].shape, bool)
    for octant in octants[1:]:
        mixed |= octant != octants[0]
    corners = np.argwhere(mixed)
    first, further = (np.ravel_multi_index(at.T, padded.shape) for at in (corners, eight))
    around = padded.ravel()[np.add.outer(first, further)]
    table, found = _areas(steps), []
    for number, ids in enumerate(around.T):
        same = around == ids[:, None]
        # A class is found at the first of the voxels that are of it.
        new = (ids > 0) & (ids < num_classes) & ~same[:, :number].any(axis=1)
        found.append((ids[new], corners[new], table[np.packbits(same[new], axis=1)[:, 0]]))
    ids, corners, areas = map(np.concatenate, zip(*found, strict=True))
    return ids, _Elements(corners * steps, areas)


def _areas(steps: np.ndarray) -> np.ndarray:
    """Area ``(256,)`` of the surface between eight voxels, by which are inside: the first has the highest bit."""
    return np.linalg.norm(_triangles() * (steps.prod() / steps), axis=-1).sum(axis=-1)


@cache
def _triangles() -> np.ndarray:
    """Of every one of the 256 cases of marching cubes its triangles' normals, as long as their areas, ``(256, 4, 3)``.

    More than four voxels inside make the surface of those outside, so that an object and a hole in one are alike. The
    file has them in eighths, as scikit-image's marching cubes (Lorensen's method) gives them.
    """
    return np.load(Path(__file__).with_name("cubes.npy")) / 8


def _outermost(labels: np.ndarray, num_classes: int, steps: np.ndarray) -> tuple[np.ndarray, _Elements]:
    """Centres of the voxels at surfaces, each of area 1, and their classes ``(n,)``."""
    surface = borders(labels)
    for axis in range(3):
        np.moveaxis(surface, axis, 0)[[0, -1]] = True
    surface &= (labels > 0) & (labels < num_classes)
    ids = labels[surface]
    return ids, _Elements(np.argwhere(surface) * steps, np.ones(len(ids)))


def borders(labels: np.ndarray) -> np.ndarray:
    """The voxels, bool ``(D, H, W)``, that have a face neighbour of another label."""
    border = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        ids, on = np.moveaxis(labels, axis, 0), np.moveaxis(border, axis, 0)  # views
        differs = ids[1:] != ids[:-1]
        on[1:] |= differs
        on[:-1] |= differs
    return border


def _nearest(points: np.ndarray, others: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance ``(n,)`` of each point to the nearest other; what exceeds the limit may be infinite.

    In float32, so that steps of 0.1 make a distance of 0.3.
    """
    from scipy.spatial import KDTree  # slow to import

    if not len(points) or not len(others):
        return np.full(len(points), np.inf, np.float32)
    bound = limit * (1 + 1e-6) + 1e-6  # the tree's own limit is exclusive
    return KDTree(others).query(points, distance_upper_bound=bound)[0].astype(np.float32)
