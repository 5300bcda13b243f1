"""Segmentations: what a file says of its segments, and the one label map that they are."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fdif_jax.errors import FdifError


class Segment(NamedTuple):
    """A segment of a file with layers.

    Attributes:
        label: its number in a label map.
        name: what it is called.
        layer: where its voxels are, and ``value``, what they hold there.
    """

    label: int
    name: str
    layer: int
    value: int


def flattened(path: str | os.PathLike, layers: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """One label map ``(D, H, W)`` of layers ``(D, H, W, L)``: what is of no segment is background.

    FdifError if segments overlap; ValueError for a layer that is not there.
    """
    names = {segment.label: segment.name for segment in segments}
    labels = np.zeros(layers.shape[:3], layers.dtype, order="F")
    for segment in segments:
        if not 0 <= segment.layer < layers.shape[3]:
            raise ValueError(f"segment {segment.name!r} is in layer {segment.layer} of {layers.shape[3]}")
        paint(path, labels, layers[..., segment.layer] == segment.value, segment.label, names)
    return labels


def paint(
    path: str | os.PathLike, labels: np.ndarray, inside: np.ndarray, label: int, names: Mapping[int, str]
) -> None:
    """Write a label where a segment is ``inside``, in place; FdifError where there is another segment already."""
    there = labels[inside]
    if strange := set(np.unique(there).tolist()) - {0, label}:
        raise FdifError(
            f"{path}: its segments {names.get(min(strange))!r} and {names.get(label)!r} overlap in "
            f"{np.count_nonzero(there == min(strange))} voxels or more; a label map has one segment in a voxel: "
            "write them to several files, or take one away from the other"
        )
    labels[inside] = label
