"""Label new scans with a fine-tuned network, or with an ensemble.

--input is a folder of volumes (.nii.gz, .nii, .b2nd, .nrrd, .mha, .mhd, .mgz, or folders of DICOM slices), or one of
them. A case of several channels is one file of four axes, or nnU-Net's NAME_0000.nii.gz, NAME_0001.nii.gz, … --out gets
NAME in the scan's format and on its grid: .nii.gz with its header, .nrrd, .mha or .mgz. Of DICOM it is .nii.gz, or with
--dicom-seg a DICOM segmentation (.dcm) whose segments are called as the run's classes. Of a folder with several series
--series takes one. DICOM needs pip install 'fdif-jax[formats]'.

Scans are prepared as the run prepared its training cases, and a window of its patch slides over them. --model RUN_DIR
of a cross-validation is the ensemble of its folds; several --model are one ensemble. Logits are averaged over its
networks, over mirrorings, and over the windows that a voxel is in.

--model is also nnU-Net's folder of a training, with plans.json, dataset.json and fold_0, fold_1, …, of a residual
encoder U-Net or a Primus; scans are then prepared as its plans say, and --which best takes checkpoint_best.pth.

A scan whose prediction is in --out already is left out, so that the same command goes on where it stopped. A file there
that is on another grid than its scan is another scan's of the same name, and an error.

With --save-probabilities there is NAME.npz, too, in nnU-Net's form: `probabilities`, float32 (classes, z, y, x). With
--save-uncertainty there are uncertainty/NAME in the prediction's format, from 0 to 1, and a line a case in
uncertainty.csv: its mean over the predicted foreground, and over the voxels at borders between labels. Of K classes and
probabilities p_m of network m it is the networks' mutual information, (H(mean of p_m) - mean of H(p_m)) / ln K, H(p) =
-sum p ln p; of a single network its entropy H(p) / ln K.

Example:
    fdif predict --model runs/tuned --input imagesTs --out predictions
    fdif predict --model runs/a runs/b --input imagesTs --out predictions --mirror-axes 0 1 2 --which best
    fdif predict --model runs/folds --input imagesTs --out predictions --save-probabilities --save-uncertainty
    fdif predict --model nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres
        --input imagesTs --out predictions
"""

import csv
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import ahead
from fdif_jax.inference.prediction import (
    Ensemble,
    ToPredict,
    along,
    find_cases,
    predict_case,
)
from fdif_jax.inference.probabilities import (
    mean_uncertainty,
    measure_of,
    predict_closely,
    write_probabilities,
)
from fdif_jax.inference.sliding_window import Progress, TiledNetwork, Windows, tile_starts
from fdif_jax.io.files import make_folder, reading, write_atomic, write_csv
from fdif_jax.io.formats.dicom_seg import encode_dicom_seg
from fdif_jax.io.volumes import encode_like, format_of, is_volume, read_volume_header
from fdif_jax.preprocessing.preparation import Prepared, prepare, resampled_shape
from fdif_jax.preprocessing.scans import Scan, read_image
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar, say
from fdif_jax.scripts.console.reading import each_good
from fdif_jax.scripts.jobs.dry_run import SECONDS, Estimate, duration
from fdif_jax.scripts.jobs.nnunet_results import load_networks
from fdif_jax.scripts.options.long_work import LongOptions
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.training.network import Apply, Weights, functional, weights
from fdif_jax.training.run_document import Which

_PACKED = 50  # voxels of a label map that a byte of its file holds, about


@dataclass(frozen=True)
class Config(LongOptions):
    """Options of ``fdif predict``."""

    model: tuple[Path, ...]
    """Run directories of `fdif finetune`, or one results folder of nnU-Net."""
    input: Path
    """Folder of scans, or one scan: a file, or a folder of DICOM slices."""
    out: Path
    """Folder to write the label maps to."""
    which: Which | None = None
    """Weights of the last step, of the best validation, or of a step that the run kept (--keep-every); what the run
    says if not given."""
    overlap: float | None = None
    """Fraction of a window's edge that neighbours share; the run's if not given."""
    mirror_axes: Annotated[
        tuple[int, ...] | Literal["none"] | None, tyro.conf.arg(metavar="none|AXIS ...")
    ] = None
    """Axes (0 left-right, 1 back-front, 2 down-up) to average mirrored predictions over; the run's if not given."""
    windows: Windows | None = None
    """Whose places and weights of windows; MONAI's for runs, nnU-Net's for its results, if not given."""
    tile_batch: int = 2
    """Windows that the network sees at a time."""
    save_probabilities: Flag = False
    """Write the probabilities of all classes, too: NAME.npz, as nnU-Net does."""
    save_uncertainty: Flag = False
    """Write where the networks disagree, too (of one network, its entropy): a map and a number a case."""
    series: str | None = None
    """UID or description of the series to take from folders of DICOM slices that hold several."""
    dicom_seg: Flag = False
    """Write predictions of DICOM scans as DICOM segmentations."""
    overwrite: Flag = False
    """Predict scans again whose prediction is there."""
    skip_bad: Flag = False
    """Go on without a scan that cannot be predicted, and say so."""


def run(config: Config) -> None:
    """Predict what is not there yet."""
    ensemble = load_networks(config.model)
    channels = len(ensemble.conventions.channel_names)
    cases = find_cases(config.input, channels, config.out, series=config.series, dicom_seg=config.dicom_seg)
    _check_out_holds_none(config.out, cases)
    extras = _Extras(config)
    kept = [case for case in cases if case.out.exists() and extras.has(case) and not config.overwrite]
    there = {case.id for case in kept}
    missing = [case for case in cases if case.id not in there]
    for case in kept:
        if not config.dicom_seg:
            _check_prediction(case.out, case.images[0])
    if kept:
        print(f"{config.out}: {len(kept)} of {len(cases)} are there already; --overwrite predicts them again")
    if config.dry_run:
        _estimate(ensemble, missing, config).tell()
        return
    skipped = _predict(ensemble, missing, config, extras) if missing else 0
    if skipped:
        print(f"skipped {skipped} of {len(missing)} cases", file=sys.stderr)
    if skipped == len(cases):
        raise FdifError(f"{config.input}: no case could be predicted")
    print(f"{config.out}: {len(missing) - skipped} label maps written")


class _Extras:
    """What is written of a case beside its labels: their files, and the lines of ``uncertainty.csv`` so far."""

    def __init__(self, config: Config) -> None:
        self._config, self._table = config, config.out / "uncertainty.csv"
        self._rows: dict[str, list[str]] = {}
        if config.save_uncertainty and self._table.is_file():
            with reading(self._table, "cannot be read as CSV"):
                rows = csv.reader(self._table.read_text("utf-8").splitlines()[1:])
                self._rows = {row[0]: row for row in rows if len(row) == len(_UNCERTAIN)}

    def _files(self, case: ToPredict) -> tuple[Path, Path]:
        out, suffix = self._config.out, format_of(case.images[0]).answer
        return out / f"{case.id}.npz", out / "uncertainty" / f"{case.id}{suffix}"

    def has(self, case: ToPredict) -> bool:
        """Whether all of it that is asked for is there."""
        probabilities, uncertainty = self._files(case)
        listed = case.id in self._rows and uncertainty.exists()
        return (probabilities.exists() or not self._config.save_probabilities) and (
            listed or not self._config.save_uncertainty
        )

    def predict(
        self, network: TiledNetwork, case: ToPredict, prepared: Prepared, show: Progress
    ) -> np.ndarray:
        """The labels of a case; writes what is asked for beside them."""
        config, (archive, map_) = self._config, self._files(case)
        if not (config.save_probabilities or config.save_uncertainty):
            return predict_case(network, prepared, show)
        with tempfile.TemporaryFile(dir=config.out) as file:
            scratch = file if config.save_probabilities else None
            found = predict_closely(
                network, prepared, scratch, uncertainty=config.save_uncertainty, progress=show
            )
            if scratch is not None:
                regions, classes = bool(network.painted), network.num_classes
                write_probabilities(archive, scratch, prepared.way.crop, classes, regions=regions)
        if found.uncertainty is not None:
            make_folder(map_.parent)
            write_atomic(map_, encode_like(case.images[0], found.uncertainty))
            means = mean_uncertainty(found.uncertainty, found.labels)
            told = ["" if np.isnan(mean) else f"{mean:.6g}" for mean in means]
            self._rows[case.id] = [case.id, measure_of(network.members), *told]
            write_csv(self._table, [_UNCERTAIN, *map(self._rows.__getitem__, sorted(self._rows))])
        return found.labels


_UNCERTAIN = ["case", "measure", "foreground", "border"]  # columns of uncertainty.csv


def _check_out_holds_none(out: Path, cases: Sequence[ToPredict]) -> None:
    """Raise an FdifError if ``--out`` is where a scan is, or where a link to it is, so that none is written over."""
    scans = [image for case in cases for image in case.images]
    places = {place for s in scans for place in (s.resolve(), s.resolve().parent, s.parent.resolve())}
    if out.resolve() in places:
        raise FdifError(f"--out {out}: holds the scans; give another folder")


def _check_prediction(prediction: Path, scan: Path) -> None:
    """Raise an FdifError if a prediction that is there cannot be read, or has not the grid of its scan, as far as
    headers tell."""
    try:
        there = read_volume_header(prediction)
    except FdifError as error:
        raise FdifError(f"{error}; it is no whole prediction: remove it, or --overwrite") from None
    try:
        wanted = read_volume_header(scan)
    except FdifError:  # what is wrong with a scan is told when it is read
        return
    if there.shape != wanted.shape[:3] or not np.allclose(there.affine, wanted.affine, atol=1e-3):
        raise FdifError(
            f"{prediction}: is on another grid than {scan}, so it is another scan's of that name; "
            "give another --out, or --overwrite"
        )


def load_members(ensemble: Ensemble, which: Which | None) -> tuple[Apply, list[Weights]]:
    """The network as a function of its weights and images, and the weights of every run."""
    model, members = models.create(**ensemble.runs[0].network), []
    for training_run, checkpoint in zip(ensemble.runs, ensemble.checkpoints(which), strict=True):
        training_run.restore(model, checkpoint)
        members.append(weights(model))
    return along(functional(model).apply, ensemble.axes), members


def _tiled(ensemble: Ensemble, config: Config) -> TiledNetwork:
    plan, axes = ensemble.plan, config.mirror_axes
    overlap = ensemble.overlap if config.overlap is None else config.overlap
    mirror_axes = ensemble.mirror_axes if axes is None else () if axes == "none" else axes
    apply, members = load_members(ensemble, config.which)
    network = TiledNetwork(
        apply,
        members,
        plan.patch,
        in_channels=len(plan.channels),
        overlap=overlap,
        tile_batch=config.tile_batch,
        mirror_axes=mirror_axes,
        painted=ensemble.conventions.painted,
        windows=config.windows or ensemble.windows,
    )
    spacing, patch = (" × ".join(f"{n:.3g}" for n in numbers) for numbers in (plan.spacing, plan.patch))
    said = [f"spacing {spacing} mm", f"patch {patch}", f"overlap {overlap:g}"]
    said += [f"{len(members)} network{'s' * (len(members) > 1)}"]
    said += [f"{2 ** len(mirror_axes)} mirrorings" if mirror_axes else "no mirroring"]
    print(", ".join(said))
    return network


def _predict(ensemble: Ensemble, cases: Sequence[ToPredict], config: Config, extras: _Extras) -> int:
    """Predict and write; how many were skipped."""
    network, skipped = _tiled(ensemble, config), 0
    names = ensemble.conventions.class_names
    encode = partial(encode_dicom_seg, names=names) if config.dicom_seg else encode_like
    make_folder(config.out)
    with ThreadPoolExecutor(1) as reader, progress_bar() as bar:
        task = bar.add_task("predicting", total=len(cases), measured="")
        read = ahead(reader.submit(_read, case, ensemble) for case in cases)

        def show(number: int, name: str, done: int, tiles: int) -> None:
            bar.update(task, completed=number + done / tiles, measured=f"{name}, window {done} of {tiles}")

        for number, (case, coming) in enumerate(zip(cases, read, strict=True)):
            bar.update(task, measured=case.id)
            try:
                labels = extras.predict(network, case, coming.result(), partial(show, number, case.id))
                write_atomic(case.out, encode(case.images[0], labels))
            except FdifError as error:
                if not config.skip_bad:
                    raise
                skipped += 1
                say(bar, f"skipped: {error}")
            bar.update(task, completed=number + 1)
    return skipped


def _estimate(ensemble: Ensemble, cases: Sequence[ToPredict], config: Config) -> Estimate:
    """What predicting needs. All scans are read, as bad ones are to be found; nothing is resampled."""
    doing = [f"{len(cases)} label maps to write"]
    if not cases:
        return Estimate(doing, 0.0, "all are there", 0, config.out)
    network = _tiled(ensemble, config)

    def needed(case: ToPredict) -> tuple[int, int]:
        """A case's voxels, and its windows."""
        scan = _scan(case, ensemble)
        resampled = resampled_shape(scan, ensemble.plan)
        return scan.image[..., 0].size, len(
            tile_starts(resampled, network.patch, network.overlap, network.windows)
        )

    read = [found for _, found in each_good(cases, needed, "reading", skip_bad=config.skip_bad)]
    voxels, windows = map(sum, zip(*read, strict=True))
    compiling, window = network.rehearse(SECONDS)
    return Estimate(
        [f"{len(read)} label maps to write, {windows} windows"],
        compiling + windows * window,
        f"{window:.3g} s a window, {duration(compiling)} to compile",
        voxels / _PACKED
        + voxels * 4 * (network.num_classes * config.save_probabilities + config.save_uncertainty),
        config.out,
    )


def _read(case: ToPredict, ensemble: Ensemble) -> Prepared:
    return prepare(_scan(case, ensemble), ensemble.plan)


def _scan(case: ToPredict, ensemble: Ensemble) -> Scan:
    names = ensemble.conventions.channel_names
    if len(case.images) > 1:
        for name, path in zip(names, case.images, strict=False):
            if not is_volume(path):
                raise FdifError(f"{path}: no such file; it would be the channel {name} of case {case.id}")
    image = read_image(case.id, case.images, ensemble.conventions)
    return image.as_filed() if ensemble.as_filed else image


if __name__ == "__main__":
    cli.run("predict")
