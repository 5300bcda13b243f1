"""Label new scans with a fine-tuned network, or with an ensemble.

--input is a folder of volumes (.nii.gz, .nii or .b2nd), or one of them. A case of several channels is one file of
four axes, or nnU-Net's NAME_0000.nii.gz, NAME_0001.nii.gz, … --out gets NAME.nii.gz with the scan's grid, affine and
header.

Scans are prepared as the run prepared its training cases, and a window of its patch slides over them. --model RUN_DIR
of a cross-validation is the ensemble of its folds; several --model are one ensemble. Logits are averaged over its
networks, over mirrorings, and over the windows that a voxel is in.

--model is also nnU-Net's folder of a training, with plans.json, dataset.json and fold_0, fold_1, …, of a residual
encoder U-Net or a Primus; scans are then prepared as its plans say, and --which best takes checkpoint_best.pth.

A scan whose prediction is in --out already is left out, so that the same command goes on where it stopped. A file there
that is on another grid than its scan is another scan's of the same name, and an error.

Example:
    fdif predict --model runs/tuned --input imagesTs --out predictions
    fdif predict --model runs/a runs/b --input imagesTs --out predictions --mirror-axes 0 1 2 --which best
    fdif predict --model nnUNet_results/Dataset004_Hippocampus/nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres
        --input imagesTs --out predictions
"""

import contextlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import nibabel as nib
import numpy as np
import tyro

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import ahead
from fdif_jax.inference.prediction import (
    Ensemble,
    ToPredict,
    along,
    encode_like,
    find_cases,
    predict_case,
)
from fdif_jax.inference.sliding_window import TiledNetwork, Windows
from fdif_jax.io.files import make_folder, write_atomic
from fdif_jax.preprocessing.preparation import Prepared, prepare
from fdif_jax.preprocessing.scans import read_image
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar, say
from fdif_jax.scripts.jobs.nnunet_results import load_networks
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.training.network import Apply, Weights, functional, weights


@dataclass(frozen=True)
class Config:
    """Options of ``fdif predict``."""

    model: tuple[Path, ...]
    """Run directories of `fdif finetune`, or one results folder of nnU-Net."""
    input: Path
    """Folder of scans, or one scan."""
    out: Path
    """Folder to write the label maps to."""
    which: Literal["last", "best"] | None = None
    """Weights of the last step or of the best validation; what the run says if not given."""
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
    overwrite: Flag = False
    """Predict scans again whose prediction is there."""
    skip_bad: Flag = False
    """Go on without a scan that cannot be predicted, and say so."""


def run(config: Config) -> None:
    """Predict what is not there yet."""
    ensemble = load_networks(config.model)
    cases = find_cases(config.input, len(ensemble.conventions.channel_names), config.out)
    if config.out.resolve() == cases[0].images[0].parent.resolve():
        raise FdifError(f"--out {config.out}: holds the scans; give another folder")
    kept = [case for case in cases if case.out.exists() and not config.overwrite]
    there = {case.id for case in kept}
    missing = [case for case in cases if case.id not in there]
    for case in kept:
        if not _lies_on(case.out, case.images[0]):
            raise FdifError(
                f"{case.out}: is on another grid than {case.images[0]}, so it is another scan's of that name; "
                "give another --out, or --overwrite"
            )
    if kept:
        print(f"{config.out}: {len(kept)} of {len(cases)} are there already; --overwrite predicts them again")
    skipped = _predict(ensemble, missing, config) if missing else 0
    if skipped:
        print(f"skipped {skipped} of {len(missing)} cases", file=sys.stderr)
    if skipped == len(cases):
        raise FdifError(f"{config.input}: no case could be predicted")
    print(f"{config.out}: {len(missing) - skipped} label maps written")


def _lies_on(prediction: Path, scan: Path) -> bool:
    """Whether a prediction that is there has the grid of its scan, as far as both files' headers tell."""
    with contextlib.suppress(Exception):  # what is wrong with a scan is told when it is read
        files: list[Any] = [nib.load(path) for path in (prediction, scan)]
        there, wanted = files
        return there.shape == wanted.shape[:3] and np.allclose(there.affine, wanted.affine, atol=1e-3)
    return True


def load_members(ensemble: Ensemble, which: str | None) -> tuple[Apply, list[Weights]]:
    """The network as a function of its weights and images, and the weights of every run."""
    model, members = models.create(**ensemble.runs[0].network), []
    for training_run, own in zip(ensemble.runs, ensemble.which, strict=True):
        training_run.restore(model, which or own)
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
        windows=config.windows or ensemble.windows,
    )
    spacing, patch = (" × ".join(f"{n:.3g}" for n in numbers) for numbers in (plan.spacing, plan.patch))
    said = [f"spacing {spacing} mm", f"patch {patch}", f"overlap {overlap:g}"]
    said += [f"{len(members)} network{'s' * (len(members) > 1)}"]
    said += [f"{2 ** len(mirror_axes)} mirrorings" if mirror_axes else "no mirroring"]
    print(", ".join(said))
    return network


def _predict(ensemble: Ensemble, cases: Sequence[ToPredict], config: Config) -> int:
    """Predict and write; how many were skipped."""
    network, skipped = _tiled(ensemble, config), 0
    make_folder(config.out)
    with ThreadPoolExecutor(1) as reader, progress_bar() as bar:
        task = bar.add_task("predicting", total=len(cases), measured="")
        read = ahead(reader.submit(_read, case, ensemble) for case in cases)

        def show(number: int, name: str, done: int, tiles: int) -> None:
            bar.update(task, completed=number + done / tiles, measured=f"{name}, window {done} of {tiles}")

        for number, (case, coming) in enumerate(zip(cases, read, strict=True)):
            bar.update(task, measured=case.id)
            try:
                labels = predict_case(network, coming.result(), partial(show, number, case.id))
                write_atomic(case.out, encode_like(case.images[0], labels))
            except FdifError as error:
                if not config.skip_bad:
                    raise
                skipped += 1
                say(bar, f"skipped: {error}")
            bar.update(task, completed=number + 1)
    return skipped


def _read(case: ToPredict, ensemble: Ensemble) -> Prepared:
    names = ensemble.conventions.channel_names
    if len(case.images) > 1:
        for name, path in zip(names, case.images, strict=False):
            if not path.is_file():
                raise FdifError(f"{path}: no such file; it would be the channel {name} of case {case.id}")
    image = read_image(case.id, case.images, ensemble.conventions)
    return prepare(image.as_filed() if ensemble.as_filed else image, ensemble.plan)


if __name__ == "__main__":
    cli.run("predict")
