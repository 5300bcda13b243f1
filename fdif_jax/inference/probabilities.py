"""Probabilities of a prediction's classes, and how far the networks of an ensemble agree.

A label is the class of the highest mean logit, a probability the softmax of the mean logits. Of regions, which may
overlap, a probability is the sigmoid of the mean logit, and labels are painted (`spaces.paint`). Uncertainty is from 0
to 1:

* of several networks, the mutual information of class and network (Smith and Gal 2018, arXiv 1803.08533),
  (H(mean of p_m) - mean of H(p_m)) / ln K, with p_m the softmax of network m's logits and H(p) = -Σ p ln p over K
  classes: it is 0 where all say the same, however sure they are;
* of one network, which has nobody to disagree with, the entropy of its probabilities, H(p) / ln K;
* of regions the mean over them, each taken as two classes, the region and what is not.

Planes come one after another, as in `prediction`: all classes of a whole scan are on disk, never in memory.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from scipy import special

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.surfaces import borders
from fdif_jax.inference.prediction import interpolated, planes_of
from fdif_jax.inference.sliding_window import Progress, TiledNetwork
from fdif_jax.io.files import reading, whole_file
from fdif_jax.io.npz import read_npz
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.spaces import Crop, GridShape, paint, resample

KEY = "probabilities"  # of the archive, as nnU-Net calls it


class Predicted(NamedTuple):
    """A prediction on the grid of its scan's file.

    Attributes:
        labels: class ids, unsigned ``(D, H, W)``.
        uncertainty: float32 ``(D, H, W)``, from 0 to 1, 0 outside of what was cropped; None where it was not asked for.
    """

    labels: np.ndarray
    uncertainty: np.ndarray | None


def measure_of(networks: int) -> str:
    """What uncertainty is called, of so many networks."""
    return "mutual information" if networks > 1 else "entropy"


def predict_closely(
    network: TiledNetwork,
    prepared: Prepared,
    scratch: BinaryIO | None = None,
    *,
    uncertainty: bool = False,
    progress: Progress | None = None,
) -> Predicted:
    """The labels of `predict_case`, with probabilities and uncertainty as they are asked for.

    The labels are those of the highest probability; where two are equal in float32, the first. A ``scratch`` file takes
    the probabilities, float32 ``(D, K, H, W)`` of the crop, for `write_probabilities`.
    """
    way, classes, painted = prepared.way, network.num_classes, network.painted
    labels = np.empty(way.crop.shape, np.min_scalar_type(max(painted or [classes - 1])))
    uncertain = np.empty(way.crop.shape if uncertainty else (0, 0, 0), np.float32)
    for number, logits in enumerate(_on_the_grid(network, prepared, progress, apart=uncertainty)):
        members = logits.reshape(*logits.shape[:2], -1, classes)
        mean = members.mean(2)
        if painted:
            probabilities, labels[number] = sigmoid(mean), paint(np.moveaxis(mean, -1, 0), painted)
        else:
            probabilities = softmax(mean)
            labels[number] = probabilities.argmax(-1)
        if uncertainty and painted:
            pairs = np.stack([sigmoid(members), sigmoid(-members)], axis=-1)
            uncertain[number] = uncertainty_of(pairs.swapaxes(-2, -3)).mean(-1)
        elif uncertainty:
            uncertain[number] = uncertainty_of(softmax(members))
        if scratch is not None:
            scratch.write(np.moveaxis(probabilities, -1, 0).tobytes())
    return Predicted(way.crop.uncrop(labels), way.crop.uncrop(uncertain) if uncertainty else None)


def _on_the_grid(
    network: TiledNetwork, prepared: Prepared, progress: Progress | None, apart: bool
) -> Iterator[np.ndarray]:
    """Logits ``(H, W, C)`` of plane after plane of the crop of the file's grid."""
    way = prepared.way
    planes = planes_of(network, prepared, progress, apart=apart)
    for scores in planes if way.keeps_grid else interpolated(planes, way.resampled[0], way.crop.shape[0]):
        flat: GridShape = (1, *way.crop.shape[1:])
        channels = np.moveaxis(scores, -1, 0)
        yield np.stack([resample(channel[None], flat, order=1)[0] for channel in channels], axis=-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, float32."""
    powers = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float32)
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of each logit by itself, float32."""
    return special.expit(logits).astype(np.float32, copy=False)


def uncertainty_of(members: np.ndarray) -> np.ndarray:
    """Uncertainty ``(...)``, float32, of M networks' probabilities ``(..., M, K)``; see above."""

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log(np.maximum(p, np.finfo(np.float32).tiny))).sum(-1)

    whole = entropy(members.mean(-2))
    own = entropy(members).mean(-1) if members.shape[-2] > 1 else 0
    return np.clip((whole - own) / np.log(members.shape[-1]), 0, 1).astype(np.float32)


def mean_uncertainty(uncertainty: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean uncertainty over the predicted foreground, and over the voxels on both sides of borders between labels.

    NaN where there is none.
    """
    places = labels > 0, borders(labels)
    inside, border = (float(uncertainty[where].mean()) if where.any() else np.nan for where in places)
    return inside, border


def write_probabilities(
    path: Path, scratch: BinaryIO, crop: Crop, classes: int, *, regions: bool = False
) -> None:
    """Write what `predict_closely` left in ``scratch`` as nnU-Net does: an ``.npz`` file, ``probabilities``, float32
    ``(K, z, y, x)``, the axes of SimpleITK's array of the scan; outside of the crop all is background: the first class,
    and none of ``regions``.

    A class at a time is in memory, 12 bytes a voxel at the most.
    """
    z, y, x = crop.source.shape[::-1]
    header = {"descr": "<f4", "fortran_order": False, "shape": (classes, z, y, x)}
    with (
        whole_file(path) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{KEY}.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, header)
        for number in range(classes):
            planes = np.empty(crop.shape, np.float32)
            # Read, as pages of a mapped file count as the process's memory.
            for place, plane in enumerate(planes):
                scratch.seek((place * classes + number) * plane.nbytes)
                plane[:] = np.frombuffer(scratch.read(plane.nbytes), np.float32).reshape(plane.shape)
            whole = crop.uncrop(planes, around=float(number == 0 and not regions))
            for plane in whole.T:
                entry.write(plane.tobytes())


def read_probabilities(path: Path, shape: GridShape, least: int) -> np.ndarray:
    """The probabilities ``(K, D, H, W)`` of an archive, of at least so many classes or regions on a grid of this shape.

    FdifError, naming the file, if it holds none, others, or what is no probability.
    """
    with reading(path, "is no archive of probabilities"), open(path, "rb") as file:
        found = read_npz(path, file).get(KEY)
    wanted = f"floats ({least}, {', '.join(map(str, shape[::-1]))}), (classes, z, y, x)"
    if found is None:
        raise FdifError(f"{path}: has no {KEY}, {wanted}")
    fits = found.ndim == 4 and found.shape[:0:-1] == tuple(shape) and len(found) >= least
    if not fits or found.dtype.kind != "f":
        raise FdifError(f"{path}: {KEY} must be {wanted}, not {found.dtype} {found.shape}")
    if not (found.min() >= 0 and found.max() <= 1 + 1e-3):
        raise FdifError(f"{path}: {KEY} must be from 0 to 1, not {found.min():g} to {found.max():g}")
    return found.transpose(0, 3, 2, 1)
