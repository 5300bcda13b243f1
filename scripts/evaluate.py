"""Score predicted label maps against true ones: Dice, surface Dice (NSD) and HD95 of every case and class.

PREDICTIONS and LABELS are folders of volumes (.nii.gz, .nii or .b2nd); a prediction is compared with the label map of
the same name, on the same grid. LABELS may also be a dataset's JSON list: then predictions have the names of its
cases, as `fdif finetune --save-predictions` writes them. --out gets a line a case and class; a value that is undefined
is left empty: all of a class that is in neither map, and the distance where it is in only one of them. The table has
means over cases with 95 % bootstrap intervals. Pictures of the worst cases go to a folder beside --out.

NSD and HD95 weigh surfaces by their area, as the Medical Segmentation Decathlon does; with --surface voxels they count
the voxels at the surfaces instead, as MONAI does unless told otherwise.

Names of classes, and the label of ignored voxels, are those of the dataset's JSON list, which is looked
for in LABELS and the folder above it; without one a class is every label that any map holds. Voxels labelled -1 are
never compared.

Example:
    fdif evaluate predictions Task04_Hippocampus/labelsTr --out scores.csv
    fdif evaluate runs/tuned/predictions patients/dataset.json --out scores.csv
    fdif evaluate predictions labelsTs --images imagesTs --tolerance 2 --out scores.csv --skip-bad
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from fdif_jax.datasets.conventions import Conventions, any_label, checked_label
from fdif_jax.datasets.reader import VOLUME_SUFFIXES, find_volumes, list_cases, load_conventions, read_volume
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import Surface
from fdif_jax.evaluation.scoring import MEASURES, bootstrap_interval, mean_defined, score_case
from fdif_jax.extras import lacking
from fdif_jax.io.files import check_out, make_folder, write_csv
from fdif_jax.preprocessing.scans import check_same_grid, space_of
from fdif_jax.preprocessing.spaces import Space
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.reading import each_good
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.options.long_work import ProgressOption
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.weights.state_dicts import some


@dataclass(frozen=True)
class Config(ProgressOption):
    """Options of ``fdif evaluate``."""

    predictions: tyro.conf.Positional[Path]
    """Folder of predicted label maps."""
    labels: tyro.conf.Positional[Path]
    """Folder of true ones, or a dataset's JSON list; those without a prediction are not scored."""
    out: Path
    """CSV file to write."""
    dataset: Path | None = None
    """The dataset's JSON list or folder; if not given, the list in LABELS or above it, if there is one."""
    images: Path | None = None
    """Folder of the images, NAME.nii.gz or nnU-Net's NAME_0000.nii.gz, for the pictures."""
    tolerance: float = 1.0
    """Millimetres that two surfaces may be apart and still agree, in NSD."""
    surface: Surface = "area"
    """What NSD and HD95 weigh of a surface: its area, or its voxels, one like another."""
    worst: int = 3
    """Pictures of how many cases, by mean Dice."""
    skip_bad: Flag = False
    """Go on without a case that cannot be scored, and say so."""


class _Pair(NamedTuple):
    """A case's files."""

    id: str
    prediction: Path
    label: Path
    image: Path | None


class _Maps(NamedTuple):
    """A case's label maps, in which -1 is ignored, on their grid, and the ids of the classes that it is scored for."""

    prediction: np.ndarray
    label: np.ndarray
    space: Space
    classes: list[int]


_Scored = tuple[_Pair, dict[int, np.ndarray]]
"""A case and its `MEASURES` ``(3,)`` of every class by its id."""


def run(config: Config) -> None:
    """Compare, write, and show."""
    if not config.tolerance >= 0:
        raise FdifError(f"--tolerance must be 0 or more millimetres, not {config.tolerance:g}")
    check_least(config, "{} or more", worst=0)
    check_out(config.out)
    conventions = _conventions(config)
    pairs = _pairs(config)
    scored = _scored(pairs, conventions, config)
    classes = sorted(set().union(*(scores for _, scores in scored))) or [1]
    names = conventions.class_names if conventions else tuple(map(str, classes))
    absent = np.full(len(MEASURES), np.nan)
    table = np.array([[scores.get(number, absent) for number in classes] for _, scores in scored])
    make_folder(config.out.parent)
    write_csv(config.out, _rows(scored, names, table))
    Console(width=118, highlight=False).print(_summary(names, table, config))
    pictures = _draw_worst(scored, table, conventions, config)
    print(f"{config.out}: {len(scored)} cases" + (f"; worst cases in {pictures}" if pictures else ""))


def _conventions(config: Config) -> Conventions | None:
    if config.dataset is not None or config.labels.is_file():
        return load_conventions(config.dataset or config.labels)
    near = (folder / "dataset.json" for folder in (config.labels, config.labels.absolute().parent))
    found = next((path for path in near if path.is_file()), None)
    return load_conventions(found) if found else None


def _volumes(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}{suffix}" for name, suffix in find_volumes(folder).items()}


def _pairs(config: Config) -> list[_Pair]:
    predictions, images = _volumes(config.predictions), _volumes(config.images) if config.images else {}
    if not predictions:
        raise FdifError(f"{config.predictions}: holds no volume ({', '.join(VOLUME_SUFFIXES)})")
    if config.labels.is_file():
        cases = [case for part in list_cases(config.labels) for case in part]
        labels = {case.id: case.label for case in cases}
        images = images or {case.id: case.image for case in cases}
        predictions = dict(_listed(predictions, labels, config))
    else:
        labels = _volumes(config.labels)
    unpredicted = labels.keys() - predictions.keys()
    if unpredicted:
        names = some(sorted(unpredicted))
        print(f"{config.labels}: {len(unpredicted)} of {len(labels)} label maps have no prediction: {names}")
    pairs = []
    for name, path in predictions.items():  # what is missing is found to be so when it is read
        label = labels.get(name, config.labels / f"{name}.nii.gz")
        image = images.get(f"{name}_0000", images.get(name))
        if image is None and config.images:
            image = config.images / f"{name}.nii.gz"
        pairs.append(_Pair(name, path, label, image))
    return pairs


def _listed(
    predictions: Mapping[str, Path], labels: Collection[str], config: Config
) -> Iterator[tuple[str, Path]]:
    """The predictions that are of a case of the dataset; FdifError, or a line, for others."""
    for name, path in predictions.items():
        if name in labels:
            yield name, path
            continue
        strange = f"{path}: no case of {config.labels} is called {name}"
        if not config.skip_bad:
            raise FdifError(strange)
        print(f"skipped: {strange}", file=sys.stderr)


def _scored(pairs: Sequence[_Pair], conventions: Conventions | None, config: Config) -> list[_Scored]:
    def score(pair: _Pair) -> dict[int, np.ndarray]:
        prediction, label, space, classes = _read(pair, conventions)
        scores = score_case(
            prediction,
            label,
            classes,
            spacing=space.spacing,
            tolerance=config.tolerance,
            surface=config.surface,
        )
        return dict(zip(classes, scores, strict=True))

    return list(each_good(pairs, score, "comparing", skip_bad=config.skip_bad))


def _read(pair: _Pair, conventions: Conventions | None) -> _Maps:
    truth, guess = read_volume(pair.label), read_volume(pair.prediction)
    space = space_of(pair.label, truth)
    check_same_grid(pair.prediction, space_of(pair.prediction, guess), pair.label, space)
    if conventions:
        prediction = checked_label(pair.prediction, guess.array, conventions)
        label = checked_label(pair.label, truth.array, conventions)
        classes = list(range(1, 1 + len(conventions.class_names)))
    else:
        prediction, label = any_label(pair.prediction, guess.array), any_label(pair.label, truth.array)
        present = np.union1d(prediction, label)
        classes = present[present > 0].tolist()
    return _Maps(np.maximum(prediction, 0), label, space, classes)


def _rows(scored: Sequence[_Scored], names: Sequence[str], table: np.ndarray) -> Iterator[Sequence[str]]:
    yield "case", "class", "dice", "nsd", "hd95_mm"
    for (pair, _), rows in zip(scored, table, strict=True):
        for name, values in zip(names, rows, strict=True):
            yield pair.id, name, *("" if np.isnan(v) else f"{v:.6g}" for v in values)


def _summary(names: Sequence[str], table: np.ndarray, config: Config) -> Table:
    """Means over cases with their intervals, a row a class, and of each case's mean over its classes."""
    headings = ("class", "cases", "Dice", f"NSD {config.tolerance:g} mm", "HD95 mm", "no HD95")
    title = f"{len(table)} cases, mean [95 % interval], surfaces by {config.surface}"
    shown = table_of(headings, (), title=title, box=box.SIMPLE_HEAD)
    rows = [*zip(names, table.swapaxes(0, 1), strict=True), ("mean", mean_defined(table, axis=1))]
    for name, values in rows:
        scores, _, distances = values.T
        present = ~np.isnan(scores)
        cells = [_with_interval(column, digits) for column, digits in zip(values.T, (4, 4, 2), strict=True)]
        undefined = int((present & np.isnan(distances)).sum())
        shown.add_row(name, str(int(present.sum())), *cells, str(undefined or ""))
    return shown


def _with_interval(values: np.ndarray, digits: int) -> str:
    mean, (low, high) = mean_defined(values), bootstrap_interval(values)
    return "-" if np.isnan(mean) else f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _draw_worst(
    scored: Sequence[_Scored], table: np.ndarray, conventions: Conventions | None, config: Config
) -> Path | None:
    """Pictures of the cases with the least mean Dice, worst first; the folder they are in."""
    means = mean_defined(table[..., 0], axis=1)
    order = [number for number in np.argsort(means) if not np.isnan(means[number])][: config.worst]
    if not order:
        return None
    if lack := lacking("pictures"):
        print(f"no pictures of the worst cases: that {lack}")
        return None
    folder = config.out.with_name(f"{config.out.stem}_worst")
    make_folder(folder)
    for rank, number in enumerate(order, start=1):
        pair, _ = scored[number]
        title = f"{pair.id}: mean Dice {means[number]:.3f}"
        try:
            _draw(pair, conventions, folder / f"{rank}.png", title)
        except FdifError as error:
            if not config.skip_bad:
                raise
            print(f"no picture: {error}", file=sys.stderr)
    return folder


def _draw(pair: _Pair, conventions: Conventions | None, path: Path, title: str) -> None:
    """Image, label map and prediction in three planes; on black where there is no image."""
    from fdif_jax.viewing import viz

    prediction, label, space, _ = _read(pair, conventions)
    image = np.zeros(label.shape, np.uint8)
    if pair.image is not None:
        volume = read_volume(pair.image, allow_4d=True)
        check_same_grid(pair.image, space_of(pair.image, volume), pair.label, space)
        image = volume.array if volume.array.ndim == 3 else volume.array[..., 0]
    image, label, prediction = map(space.to_canonical, (image, label, prediction))
    names = conventions.class_names if conventions else ()
    viz.save_slices(image, label, path, names, prediction, title, space.canonical.spacing)


if __name__ == "__main__":
    cli.run("evaluate")
