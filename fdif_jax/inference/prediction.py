"""Label maps of new scans by fine-tuned networks: what is predicted with, which files are a case, what is written.

A prediction is on the grid of the scan's file and in its format, so that it lies on the scan in every viewer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.folders import is_one_scan, volumes_in
from fdif_jax.datasets.reader import volume_type
from fdif_jax.errors import FdifError
from fdif_jax.inference.sliding_window import Progress, TiledNetwork, Windows
from fdif_jax.io.files import check_once, visible
from fdif_jax.io.volumes import VOLUMES, format_of, is_dicom_scan, suffix_of
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.spaces import GridShape, labels_of_scores
from fdif_jax.settings import differences
from fdif_jax.training.network import Apply
from fdif_jax.training.run_document import FINE_TUNING, RUN, Inference, Which
from fdif_jax.training.runs import Run, load_run

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's name of a file of one channel


class Member(Protocol):
    """A fine-tuned network that can be restored: a `Run`, or what somebody else's training left."""

    @property
    def network(self) -> dict[str, Any]:
        """The network as plain data."""

    def restore(self, model: Any, which: Which) -> Any:
        """Put the weights of the ``last`` step, of the ``best`` validation or of a step into the network."""


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
    which: tuple[Which, ...]
    axes: tuple[int, int, int] = (0, 1, 2)
    as_filed: bool = False
    windows: Windows = "monai"

    def checkpoints(self, which: Which | None) -> tuple[Which, ...]:
        """The checkpoint of every run: ``which``, or what each says if not given."""
        return self.which if which is None else (which,) * len(self.runs)


def load_ensemble(paths: Sequence[Path]) -> Ensemble:
    """Open fine-tuning runs to predict with them; a directory of ``fold_0``, ``fold_1``, … is all of those.

    Raises:
        FdifError: a path is no fine-tuning run or given twice, or they differ in the network, or in what its cases or
            labels are.
    """
    folders = [folder for path in paths for folder in _folds(path)]
    check_once(folders)
    runs = tuple(map(load_run, folders))
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


def find_cases(
    source: Path, channels: int, out: Path, *, series: str | None = None, dicom_seg: bool = False
) -> list[ToPredict]:
    """The cases of a folder, or that of one file or DICOM series; predictions go to ``out``.

    They are called as the case, and end as the format of the image does (``.nii.gz`` of DICOM, or ``.dcm`` if they are
    to be DICOM segmentations). Of folders of DICOM slices ``series`` is taken, see `volumes_in`.

    A case of several channels is one file of 4 axes, or, in nnU-Net's way, the files NAME_0000, NAME_0001, …, of
    which those that are missing are found to be so when the case is read. Of one channel NAME_0000 is the case NAME,
    unless there are NAME_0001, …, which then are cases as well.

    Raises:
        FdifError: there is no such file or folder, it holds no volume, a case is there twice, or one that was to become
            a DICOM segmentation is not DICOM.
    """
    alone = is_one_scan(source)
    if not (source.exists() or alone):
        raise FdifError(f"{source}: no such file or folder")
    folder = source if source.is_dir() or alone else source.parent
    found: dict[str, list[Path]] = {}
    volumes = volumes_in(folder, series) if source == folder else _of_one(source)
    for name, images in _grouped(volumes, channels):
        if name in found:
            raise FdifError(
                f"{found[name][0]} and {images[0]} are both the image of case {name}; leave one out"
            )
        found[name] = images
    cases = [
        ToPredict(name, tuple(images), out / f"{name}{_ending(images[0], dicom_seg)}")
        for name, images in sorted(found.items())
        if source == folder or source in images
    ]
    if not cases:
        raise FdifError(f"{source}: {'holds' if source == folder else 'is'} no volume ({VOLUMES})")
    return cases


def _of_one(source: Path) -> dict[str, Path]:
    """A file by its name, and those that may be other channels of its case; nothing if it is no volume."""
    suffix = suffix_of(source.name)
    if not suffix:
        return {}
    names = [file.removesuffix(suffix) for file in visible(source.parent) if file.endswith(suffix)]
    own = source.name.removesuffix(suffix)
    channel = _CHANNEL.fullmatch(own)
    others = [n for n in names if channel and (match := _CHANNEL.fullmatch(n)) and match[1] == channel[1]]
    return {name: source.with_name(name + suffix) for name in sorted({own, *others})}


def _ending(image: Path, dicom_seg: bool) -> str:
    """The end of the name of a prediction."""
    if not dicom_seg:
        return format_of(image).answer
    if not is_dicom_scan(image):
        raise FdifError(f"{image}: is no DICOM scan, and only of those there are DICOM segmentations")
    return ".dcm"


def _grouped(volumes: Mapping[str, Path], channels: int) -> Iterator[tuple[str, list[Path]]]:
    """Names of cases and their images."""
    numbered: dict[str, dict[str, Path]] = {}  # of a case its channels' files by their numbers
    for name, path in volumes.items():
        match = _CHANNEL.fullmatch(name)
        if match and (channels == 1 or _has_one_channel(path)):
            numbered.setdefault(match[1], {})[match[2]] = path
        else:
            yield name, [path]
    for case, files in numbered.items():
        if channels > 1:
            first, like = next(iter(files.items()))
            for number in (f"{channel:04d}" for channel in range(channels)):
                files.setdefault(number, _renamed(like, f"{case}_{first}", f"{case}_{number}"))
        if channels > 1 or files.keys() == {"0000"}:
            yield case, [path for _, path in sorted(files.items())]
        else:
            yield from ((f"{case}_{number}", [path]) for number, path in sorted(files.items()))


def _renamed(path: Path, name: str, other: str) -> Path:
    """The path with another name of the file, or of the folder whose series it is."""
    if path.name.startswith(name):
        return path.with_name(other + path.name.removeprefix(name))
    return _renamed(path.parent, name, other) / path.name


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
    """Labels ``(D, H, W)`` on the grid of the case's file, as few bytes each as they need.

    Where the case was resampled its logits are interpolated, a plane at a time as they come, so that those of the whole
    volume are never in memory. The network's patch is the one that the case was prepared for.
    """
    way = prepared.way
    if way.keeps_grid:
        return way.labels_back(network.labels(prepared.image, progress))
    planes = planes_of(network, prepared, progress)
    return way.crop.uncrop(labels_of_planes(planes, way.resampled[0], way.crop.shape, network.painted))


def planes_of(
    network: TiledNetwork, prepared: Prepared, progress: Progress | None = None, *, apart: bool = False
) -> Iterator[np.ndarray]:
    """Logits ``(H, W, K)`` of plane after plane of a case as it was resampled; ``apart`` is of `TiledNetwork.slabs`."""
    depth, height, width = prepared.way.content
    return (
        logits[height, width].copy()  # a slab is gone when the next one comes
        for start, slab in network.slabs(prepared.image, progress, apart=apart)
        for number, logits in enumerate(slab, start)
        if depth.start <= number < depth.stop
    )


def labels_of_planes(
    planes: Iterable[np.ndarray], depth: int, shape: GridShape, painted: Sequence[int] = ()
) -> np.ndarray:
    """What `labels_of_scores` gives on a grid of another shape for scores ``(D, H, W, C)`` that come plane by plane."""
    result: np.ndarray | None = None
    for plane, scores in enumerate(interpolated(planes, depth, shape[0])):
        if result is None:
            result = np.empty(shape, np.min_scalar_type(max(painted or [scores.shape[2] - 1])))
        result[plane] = labels_of_scores(scores[None], (1, *shape[1:]), painted)[0]
    assert result is not None  # no grid is empty
    return result


def interpolated(planes: Iterable[np.ndarray], depth: int, wanted: int) -> Iterator[np.ndarray]:
    """``wanted`` planes over the same extent as ``depth`` of them, which come one after another: linear between two."""
    coming = iter(planes)
    before = after = next(coming)
    number = 0  # of the plane that comes after
    for middle in (np.arange(wanted) + 0.5) * depth / wanted - 0.5:
        place = min(max(middle, 0), depth - 1)  # beyond the outermost planes are these
        while number < place:
            before, after, number = after, next(coming), number + 1
        share = np.float32(number - place)
        yield after if share == 0 else share * before + (1 - share) * after
    for _ in coming:  # planes that nothing is between, so that what makes them comes to its end
        pass
