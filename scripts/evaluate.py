"""Score predicted label maps against true ones: overlap, volumes, distances of surfaces, calibration; and a report.

PREDICTIONS and LABELS are folders of volumes (.nii.gz, .nii, .b2nd, .nrrd, .seg.nrrd, .mha, .mhd, .mgz, and DICOM
segmentations); a prediction is compared with the label map of the same name, on the same grid. LABELS may also be a
dataset's JSON list: then predictions have the names of its cases, as `fdif finetune --save-predictions` writes them.
--out gets a line a case and class; a value that is undefined is left empty: all of a class that is in neither map, and
what a measure cannot say of one that is in only one of them. Means over cases with 95 % bootstrap intervals are
printed, and written with every case's to NAME_summary.json beside --out; pictures of the worst cases go to the folder
NAME_worst. --report writes a page of all this: one HTML file that opens anywhere and loads nothing, with distributions,
outlines of the worst cases and a table to sort.

What --measures names, of a class of P voxels in the prediction and L in the label: dice; sensitivity |P & L| / |L|;
precision |P & L| / |P|; volume |P| - |L|, ml; relative_volume (|P| - |L|) / |L|; nsd (surface Dice), hd95 and assd
(average symmetric surface distance), which take longest; ece (expected calibration error) and brier where NAME.npz lies
beside a prediction, as `fdif predict --save-probabilities` and nnU-Net write it. --surface area, the default, weighs
surfaces by their area, as the Medical Segmentation Decathlon does; voxels counts the voxels at the surfaces, as MONAI
does unless told otherwise.

Names of classes or regions, and the label of ignored voxels, are those of the dataset's JSON list, which is looked
for in LABELS and the folder above it; without one a class is every label that any map holds. Voxels labelled -1 are
never compared. --regions scores unions of labels beside the classes.

Example:
    fdif evaluate predictions Task04_Hippocampus/labelsTr --out scores.csv --report report.html
    fdif evaluate runs/tuned/predictions patients/dataset.json --out scores.csv --measures dice volume
    fdif evaluate predictions labelsTs --out scores.csv --regions "whole=[1,2,3]" "core=[2,3]"
    fdif evaluate predictions labelsTs --images imagesTs --tolerance 2 --out scores.csv --skip-bad
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
import tyro
from rich.console import Console

from fdif_jax.datasets.conventions import RESERVED, Conventions, any_label, checked_label
from fdif_jax.datasets.folders import volumes_in
from fdif_jax.datasets.reader import list_cases, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.calibration import BINS, brier_score, calibration_error, reliability
from fdif_jax.evaluation.metrics import MEASURES
from fdif_jax.evaluation.scoring import score_case, worst_place
from fdif_jax.evaluation.surfaces import Surface
from fdif_jax.extras import lacking
from fdif_jax.inference.probabilities import read_probabilities
from fdif_jax.io.files import check_out, make_folder, write_csv, write_json
from fdif_jax.io.nifti import volume_of
from fdif_jax.io.volumes import VOLUMES, grown, read_volume, read_volume_header
from fdif_jax.preprocessing.scans import on_grid_of, space_of
from fdif_jax.preprocessing.spaces import Space
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.reading import each_good
from fdif_jax.scripts.jobs.score_tables import CALIBRATION, COLUMNS, Score, Scores, names_of
from fdif_jax.scripts.options.long_work import ProgressOption
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least, parse_settings
from fdif_jax.weights.state_dicts import some

if TYPE_CHECKING:
    from fdif_jax.scripts.jobs.score_page import Worst


@dataclass(frozen=True)
class Config(ProgressOption):
    """Options of ``fdif evaluate``."""

    predictions: tyro.conf.Positional[Path]
    """Folder of predicted label maps."""
    labels: tyro.conf.Positional[Path]
    """Folder of true ones, or a dataset's JSON list; those without a prediction are not scored."""
    out: Path
    """CSV file to write."""
    report: Path | None = None
    """HTML file to write a report to."""
    measures: tuple[Score, ...] | None = None
    """What to score, Dice always; all if not given, ece and brier where there are probabilities."""
    regions: tuple[str, ...] = ()
    """Unions of labels to score, too, as whole=[1,2,3]."""
    dataset: Path | None = None
    """The dataset's JSON list or folder; if not given, the list in LABELS or above it, if there is one."""
    images: Path | None = None
    """Folder of the images, NAME.nii.gz or nnU-Net's NAME_0000.nii.gz, for the pictures."""
    tolerance: float = 1.0
    """Millimetres that two surfaces may be apart and still agree, in NSD."""
    surface: Surface = "area"
    """What distances weigh of a surface: its area, or its voxels, one like another."""
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
    probabilities: Path | None


class _Maps(NamedTuple):
    """A case's label maps, in which -1 is ignored, their grid, that of the prediction's file, and the classes' ids.

    ``names`` are those of segments by their labels, of each file that is a segmentation.
    """

    prediction: np.ndarray
    label: np.ndarray
    space: Space
    filed: Space
    classes: list[int]
    names: Mapping[Path, Mapping[int, str]]


_Key = int | str  # a class by its id, a region by its name
_Regions = Mapping[str, Sequence[int]]  # label ids by name


class _Scored(NamedTuple):
    """The scores of a case: its measures of every class and region, what `reliability` counted of each, and names."""

    values: dict[_Key, np.ndarray]
    bins: dict[_Key, np.ndarray]
    names: Mapping[Path, Mapping[int, str]]


def run(config: Config) -> None:
    """Compare, write, and show."""
    if not config.tolerance >= 0:
        raise FdifError(f"--tolerance must be 0 or more millimetres, not {config.tolerance:g}")
    check_least(config, "{} or more", worst=0)
    check_out(config.out)
    lack = lacking("pictures")
    if config.report is not None:
        if lack:
            raise FdifError(f"--report: that {lack}")
        check_out(config.report)
    conventions = _conventions(config)
    regions = _regions(config, conventions)
    pairs = _pairs(config)
    measures = _measures(pairs, config)
    score = partial(_score, conventions=conventions, regions=regions, measures=measures, config=config)
    scored = list(each_good(pairs, score, "comparing", skip_bad=config.skip_bad))
    scores = _together(scored, conventions, regions, measures, config)
    make_folder(config.out.parent)
    write_csv(config.out, scores.rows())
    write_json(config.out.with_name(f"{config.out.stem}_summary.json"), scores.document())
    console = Console(width=118, highlight=False)
    for table in scores.tables():
        console.print(table)
    order = [] if lack else scores.worst(config.worst)
    if lack and config.worst:
        print(f"no pictures of the worst cases: that {lack}")
    judged = [pair for pair, _ in scored]
    worst = list(_draw(order, judged, scores, conventions, config)) if order else []
    if config.report is not None:
        from fdif_jax.scripts.jobs.score_page import write_page

        make_folder(config.report.parent)
        write_page(config.report, scores, worst, f"{config.predictions.name} against {config.labels.name}")
    print(f"{config.out}: {len(scored)} cases" + (f"; worst cases in {_folder(config)}" if order else ""))
    if config.report is not None:
        print(f"{config.report}: open it in a browser")


def _measures(pairs: Sequence["_Pair"], config: Config) -> list[Score]:
    """What is scored, in the order in which it is shown."""
    probable = any(pair.probabilities for pair in pairs)
    asked = config.measures
    if asked is None:
        return [name for name in COLUMNS if probable or name not in CALIBRATION]
    if not probable and not set(CALIBRATION).isdisjoint(asked):
        raise FdifError(
            f"{config.predictions}: holds no NAME.npz of probabilities, which --measures {asked[0]} is of; "
            "`fdif predict --save-probabilities` writes them"
        )
    return [name for name in COLUMNS if name == "dice" or name in asked]


def _regions(config: Config, conventions: Conventions | None) -> _Regions:
    """The unions of labels that are scored beside the classes."""
    regions = parse_settings("regions", config.regions, "whole=[1,2,3]")
    if regions and conventions and conventions.regions:
        raise FdifError(
            f"--regions: the dataset has regions of its own: {', '.join(conventions.class_names)}"
        )
    last = len(conventions.class_names) if conventions else np.inf
    for name, ids in regions.items():
        if not (isinstance(ids, list) and ids and all(type(i) is int and 0 < i <= last for i in ids)):
            known = f"1 to {last}" if conventions else "1, 2, …"
            raise FdifError(
                f"--regions {name}: must be a list of labels ({known}), as {name}=[1,2], not {ids}"
            )
        if name in (*RESERVED, *(conventions.class_names if conventions else ())):
            raise FdifError(f"--regions {name}: is the name of a class or of a column; give another")
    return regions


def _conventions(config: Config) -> Conventions | None:
    if config.dataset is not None or config.labels.is_file():
        return load_conventions(config.dataset or config.labels)
    near = (folder / "dataset.json" for folder in (config.labels, config.labels.absolute().parent))
    found = next((path for path in near if path.is_file()), None)
    return load_conventions(found) if found else None


def _pairs(config: Config) -> list[_Pair]:
    predictions = volumes_in(config.predictions, segmentations=True)
    images = volumes_in(config.images) if config.images else {}
    if not predictions:
        raise FdifError(f"{config.predictions}: holds no volume ({VOLUMES})")
    if config.labels.is_file():
        cases = [case for part in list_cases(config.labels) for case in part]
        labels = {case.id: case.label for case in cases}
        images = images or {case.id: case.image for case in cases}
        predictions = dict(_listed(predictions, labels, config))
    else:
        labels = volumes_in(config.labels, segmentations=True)
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
        archive = config.predictions / f"{name}.npz"
        pairs.append(_Pair(name, path, label, image, archive if archive.is_file() else None))
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


def _score(
    pair: _Pair,
    *,
    conventions: Conventions | None,
    regions: _Regions,
    measures: Sequence[Score],
    config: Config,
) -> _Scored:
    """The scores of one case."""
    maps = _read(pair, conventions)
    prediction, label, space, _, classes, names = maps
    listed = conventions.regions if conventions else ()
    table = score_case(
        prediction,
        label,
        () if listed else classes,
        spacing=space.spacing,
        measures=[name for name in MEASURES if name in measures],
        tolerance=config.tolerance,
        surface=config.surface,
        regions=[*listed, *regions.values()],
    )
    members = listed or [[number] for number in classes]
    groups: dict[_Key, Sequence[int]] = dict(zip(classes, members, strict=True)) | dict(regions)
    bins = {}
    if not set(CALIBRATION).isdisjoint(measures):
        bins = dict.fromkeys(groups, np.zeros((BINS, 4)))
        if pair.probabilities is not None:
            least = len(listed) or 1 + max(classes, default=0)
            given, judged = _probabilities(pair.probabilities, pair.label, maps, least), label >= 0
            for place, (key, ids) in enumerate(groups.items()):
                probability = given[place] if listed else given[list(ids)].sum(0)
                truth, guess = np.isin(label, ids), np.isin(prediction, ids)
                bins[key] = reliability(probability, truth, guess, judged, space.spacing)
    further = [of for name, of in (("ece", calibration_error), ("brier", brier_score)) if name in measures]
    rows = zip(groups, table, strict=True)
    values = {key: np.array([*row, *(of(bins[key]) for of in further)]) for key, row in rows}
    return _Scored(values, bins, names)


def _probabilities(path: Path, label: Path, maps: _Maps, least: int) -> np.ndarray:
    """Probabilities ``(K, D, H, W)``, of at least so many, on the label map's grid; in their file they are on that of
    the prediction's, whose voxels may be in another order."""
    found = read_probabilities(path, maps.filed.shape, least)
    volume = volume_of(np.moveaxis(found, 0, 3), maps.filed.affine)
    return np.moveaxis(on_grid_of(label, maps.space, path, volume), 3, 0)


def _together(
    scored: Sequence[tuple[_Pair, _Scored]],
    conventions: Conventions | None,
    regions: _Regions,
    measures: Sequence[Score],
    config: Config,
) -> Scores:
    """The scores of all cases; where there is no list, of every label that some case has."""
    ids = sorted({key for _, found in scored for key in found.values if isinstance(key, int)}) or [1]
    keys: list[_Key] = [*ids, *regions]
    names = conventions.class_names if conventions else names_of((found.names for _, found in scored), ids)
    numbers = [*ids, *(ids[-1] + number for number, _ in enumerate(regions, start=1))]
    absent, nothing = np.full(len(measures), np.nan), np.zeros((BINS, 4))
    values = np.array([[found.values.get(key, absent) for key in keys] for _, found in scored])
    bins = None
    if any(found.bins for _, found in scored):
        bins = sum(np.array([found.bins.get(key, nothing) for key in keys]) for _, found in scored)
    cases = [pair.id for pair, _ in scored]
    classes, distances = (*names, *regions), (config.tolerance, config.surface)
    return Scores(cases, classes, len(regions), measures, values, bins, numbers, *distances)


def _read(pair: _Pair, conventions: Conventions | None) -> _Maps:
    truth, guess = read_volume(pair.label), read_volume(pair.prediction)
    if truth.is_part:
        for path in filter(None, (pair.prediction, pair.image)):
            truth = grown(pair.label, truth, read_volume_header(path))
    space = space_of(pair.label, truth)
    guessed = on_grid_of(pair.label, space, pair.prediction, guess)
    if conventions:
        prediction = checked_label(pair.prediction, guessed, conventions, guess.names)
        label = checked_label(pair.label, truth.array, conventions, truth.names)
        classes = list(range(1, 1 + len(conventions.class_names)))
    else:
        prediction, label = any_label(pair.prediction, guessed), any_label(pair.label, truth.array)
        present = np.union1d(prediction, label)
        classes = present[present > 0].tolist()
    named = ((path, one.names) for path, one in ((pair.label, truth), (pair.prediction, guess)) if one.names)
    filed = space_of(pair.prediction, guess)
    return _Maps(np.maximum(prediction, 0), label, space, filed, classes, dict(named))


def _folder(config: Config) -> Path:
    """Where pictures of the worst cases are."""
    return config.out.with_name(f"{config.out.stem}_worst")


def _draw(
    order: Sequence[int],
    pairs: Sequence[_Pair],
    scores: Scores,
    conventions: Conventions | None,
    config: Config,
) -> "Iterator[Worst]":
    """Draw these cases into the folder of the worst; gives what a report shows of them, if there is to be one."""
    from fdif_jax.scripts.jobs.score_page import Worst
    from fdif_jax.viewing import viz

    make_folder(_folder(config))
    names, colours = conventions.label_names if conventions else (), scores.colours
    if conventions and conventions.regions:
        colours = viz.class_colours(range(1, 1 + len(names)))
    for rank, number in enumerate(order, start=1):
        pair = pairs[number]
        try:
            image, label, prediction, space = _canonical(pair, conventions)
        except FdifError as error:
            if not config.skip_bad:
                raise
            print(f"no picture: {error}", file=sys.stderr)
            continue
        title = f"{pair.id}: mean Dice {scores.per_case[number, 0]:.3f}"
        path = _folder(config) / f"{rank}.png"
        viz.save_slices(image, label, path, names, prediction, title, space.spacing)
        if config.report is not None:
            place = worst_place(prediction, label, space.spacing)
            drawn = viz.outlines(image, label, prediction, place, colours, space.spacing)
            yield Worst(number, drawn, nib.affines.apply_affine(space.affine, place).tolist())


def _canonical(
    pair: _Pair, conventions: Conventions | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Space]:
    """Image, label map and prediction with canonical axes, and their space; black where there is no image."""
    prediction, label, space, *_ = _read(pair, conventions)
    image = np.zeros(label.shape, np.uint8)
    if pair.image is not None:
        volume = read_volume(pair.image, allow_4d=True)
        image = on_grid_of(pair.label, space, pair.image, volume)
        image = image if image.ndim == 3 else image[..., 0]
    turned = [space.to_canonical(array) for array in (image, label, prediction)]
    return turned[0], turned[1], turned[2], space.canonical


if __name__ == "__main__":
    cli.run("evaluate")
