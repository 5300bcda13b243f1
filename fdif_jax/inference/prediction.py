"""Label maps of new scans by fine-tuned networks: what is predicted with, which files are a case, what is written.

A prediction is on the grid of the scan's file and has its header, so that it lies on the scan in every viewer.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import nibabel as nib
import numpy as np
from isal import igzip

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import VOLUME_SUFFIXES, find_volumes, volume_type
from fdif_jax.errors import FdifError
from fdif_jax.inference.sliding_window import Progress, TiledNetwork, Windows
from fdif_jax.io.files import reading
from fdif_jax.io.nifti import DEFLATE_LEVEL, encode_nifti, read_header
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.spaces import GridShape, labels_of_scores
from fdif_jax.settings import differences
from fdif_jax.training.network import Apply
from fdif_jax.training.run_document import FINE_TUNING, RUN, Inference
from fdif_jax.training.runs import Run, load_run

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's name of a file of one channel


class Member(Protocol):
    """A fine-tuned network that can be restored: a `Run`, or what somebody else's training left."""

    @property
    def network(self) -> dict[str, Any]:
        """The network as plain data."""

    def restore(self, model: Any, which: str) -> Any:
        """Put the weights of the ``last`` step or of the ``best`` validation into the network."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Fine-tuned networks of one kind for one kind of cases.

    Attributes:
        runs: at least one.
        plan: how a case is prepared.
        conventions: of channels and labels.
        overlap, mirror_axes: of inference, as the first run has them.
        which: of every run the weights that it says to predict with, ``last`` or ``best``.
        axes: which axes of a case the network takes as its first, second and third.
        as_filed: cases have their axes as their files store them (`Scan.as_filed`), not canonical ones.
        windows: whose windows (`TiledNetwork`).
    """

    runs: tuple[Member, ...]
    plan: CasePlan
    conventions: Conventions
    overlap: float
    mirror_axes: tuple[int, ...]
    which: tuple[str, ...]
    axes: tuple[int, int, int] = (0, 1, 2)
    as_filed: bool = False
    windows: Windows = "monai"


def load_ensemble(paths: Sequence[Path]) -> Ensemble:
    """Open fine-tuning runs to predict with them; a directory of ``fold_0``, ``fold_1``, … is all of those.

    Raises:
        FdifError: a path is no fine-tuning run, or they differ in the network, or in what its cases or labels are.
    """
    runs = tuple(load_run(folder) for path in paths for folder in _folds(path))
    if not runs:
        raise FdifError("there is no run directory to predict with")
    for run in runs:
        if run.document.kind != FINE_TUNING:
            raise FdifError(
                f"{run.path}: a run of kind {run.document.kind!r}; `fdif finetune` makes those that can predict"
            )
    plans = [CasePlan.from_dict(_said(run, "cases"), f"{run.path / RUN}: cases") for run in runs]
    for run, plan in zip(runs, plans, strict=True):
        _check_same(runs[0], plans[0], run, plan)
    inferences: list[Inference] = [_said(run, "inference") for run in runs]
    return Ensemble(
        runs,
        plans[0],
        Conventions.from_dict(_said(runs[0], "labels"), f"{runs[0].path / RUN}: labels"),
        inferences[0].overlap,
        inferences[0].mirror_axes,
        tuple(inference.weights for inference in inferences),
    )


def _said(run: Run, part: str) -> Any:
    """A part of a run's document that predicting needs."""
    if (value := getattr(run.document, part)) is None:
        raise FdifError(f"{run.path / RUN}: does not say {part!r}; fine-tune again to predict with it")
    return value


def _folds(path: Path) -> list[Path]:
    """The directories of a cross-validation's runs, or the path itself."""
    folds = [] if (path / RUN).is_file() else [fold for fold in path.glob("fold_*") if fold.is_dir()]
    return sorted(folds) or [path]


def _check_same(first: Run, first_plan: CasePlan, other: Run, plan: CasePlan) -> None:
    """Two runs' logits are of the same voxels and classes; reasons of a plan may differ."""

    def said(run: Run, plan: CasePlan) -> dict[str, dict[str, Any]]:
        cases = replace(plan, reasons=()).to_dict()
        return {"cases": cases, "labels": _said(run, "labels"), "network": run.network}

    found = differences(said(first, first_plan), said(other, plan))
    if found:
        key, one, two = found[0]
        raise FdifError(f"{first.path} and {other.path} are no ensemble: {key} is {one} and {two}")


class ToPredict(NamedTuple):
    """A case without a label map, and where its prediction goes.

    Attributes:
        id: what the case is called.
        images: the files of its image: one, or one for each channel.
        out: the file of its label map.
    """

    id: str
    images: tuple[Path, ...]
    out: Path


def find_cases(source: Path, channels: int, out: Path) -> list[ToPredict]:
    """The cases of a folder, or that of one file; predictions go to ``NAME.nii.gz`` in ``out``.

    A case of several channels is one file of 4 axes, or, in nnU-Net's way, the files NAME_0000, NAME_0001, …, of
    which those that are missing are found to be so when the case is read. Of one channel NAME_0000 is the case NAME,
    unless there are NAME_0001, …, which then are cases as well.

    Raises:
        FdifError: there is no such file or folder, it holds no volume, or a case is there twice.
    """
    if not source.exists():
        raise FdifError(f"{source}: no such file or folder")
    folder = source if source.is_dir() else source.parent
    found: dict[str, list[Path]] = {}
    for name, images in _grouped(folder, channels):
        if name in found:
            raise FdifError(
                f"{found[name][0]} and {images[0]} are both the image of case {name}; leave one out"
            )
        found[name] = images
    cases = [
        ToPredict(name, tuple(images), out / f"{name}.nii.gz")
        for name, images in sorted(found.items())
        if source == folder or source in images
    ]
    if not cases:
        raise FdifError(
            f"{source}: {'holds' if source == folder else 'is'} no volume ({', '.join(VOLUME_SUFFIXES)})"
        )
    return cases


def _grouped(folder: Path, channels: int) -> Iterator[tuple[str, list[Path]]]:
    """Names of cases and their images."""
    numbered: dict[str, dict[str, str]] = {}  # of a case its channels' numbers and suffixes
    for name, suffix in find_volumes(folder).items():
        path, match = folder / f"{name}{suffix}", _CHANNEL.fullmatch(name)
        if match and (channels == 1 or _has_one_channel(path)):
            numbered.setdefault(match[1], {})[match[2]] = suffix
        else:
            yield name, [path]
    for case, suffixes in numbered.items():
        if channels > 1:
            wanted = (f"{channel:04d}" for channel in range(channels))
            suffixes = dict.fromkeys(wanted, next(iter(suffixes.values()))) | suffixes
        images = [folder / f"{case}_{number}{suffix}" for number, suffix in sorted(suffixes.items())]
        if channels > 1 or suffixes.keys() == {"0000"}:
            yield case, images
        else:
            yield from (
                (f"{case}_{number}", [path]) for number, path in zip(sorted(suffixes), images, strict=True)
            )


def along(apply: Apply, axes: Sequence[int]) -> Apply:
    """A network that takes the axes of its images in another order (`Ensemble.axes`), as one that takes ours."""
    there = (0, *(axis + 1 for axis in axes), 4)
    back = tuple(map(int, np.argsort(there)))
    return lambda weights, tiles: apply(weights, tiles.transpose(there)).transpose(back)


def _has_one_channel(path: Path) -> bool:
    try:
        return len(volume_type(path)[0]) == 3
    except FdifError:
        return True  # what is wrong with it is told when it is read


def predict_case(network: TiledNetwork, prepared: Prepared, progress: Progress | None = None) -> np.ndarray:
    """Class ids ``(D, H, W)`` on the grid of the case's file, as few bytes each as the classes need.

    Where the case was resampled its logits are interpolated, a plane at a time as they come, so that those of the whole
    volume are never in memory. The network's patch is the one that the case was prepared for.
    """
    way = prepared.way
    if way.keeps_grid:
        return way.labels_back(network.labels(prepared.image, progress))
    depth, height, width = way.content
    planes = (
        logits[height, width].copy()  # a slab is gone when the next one comes
        for start, slab in network.slabs(prepared.image, progress)
        for number, logits in enumerate(slab, start)
        if depth.start <= number < depth.stop
    )
    return way.crop.uncrop(labels_of_planes(planes, way.resampled[0], way.crop.shape))


def labels_of_planes(planes: Iterable[np.ndarray], depth: int, shape: GridShape) -> np.ndarray:
    """What `labels_of_scores` gives on a grid of another shape for scores ``(D, H, W, C)`` that come plane by plane."""
    coming = iter(planes)
    before = after = next(coming)
    number = 0  # of the plane that comes after
    result = np.empty(shape, np.min_scalar_type(after.shape[2] - 1))
    for plane, middle in enumerate((np.arange(shape[0]) + 0.5) * depth / shape[0] - 0.5):
        place = min(max(middle, 0), depth - 1)  # beyond the outermost planes are these
        while number < place:
            before, after, number = after, next(coming), number + 1
        share = np.float32(number - place)
        scores = after if share == 0 else share * before + (1 - share) * after
        result[plane] = labels_of_scores(scores[None], (1, *shape[1:]))[0]
    for _ in coming:  # planes that nothing is between, so that what makes them comes to its end
        pass
    return result


def encode_like(source: Path, labels: np.ndarray) -> bytes | memoryview:
    """The bytes of a ``.nii.gz`` file of a label map, unsigned ``(D, H, W)``, with the header of the image that it is
    of.

    Affine, codes, units, and texts stay as they are; what describes intensities (slope, window, intent) does not.
    Blosc2 has no header.
    """
    if source.name.lower().endswith(".b2nd"):
        return encode_nifti(labels)
    header = read_header(source)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with reading(source, "its header cannot be written again"):
        header.set_data_dtype(labels.dtype)
        header.set_intent("none")
        header["cal_min"] = header["cal_max"] = header["vox_offset"] = 0
        return igzip.compress(kind(labels, None, header).to_bytes(), DEFLATE_LEVEL, mtime=0)
