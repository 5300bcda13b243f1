"""A fine-tuned network with all that predicting needs, as the writers of its forms take it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from fdif_jax import models
from fdif_jax.datasets.conventions import Conventions
from fdif_jax.errors import FdifError
from fdif_jax.inference.prediction import Ensemble, load_ensemble
from fdif_jax.io.files import check_out, visible
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.training.run_document import Which


class FineTuned(NamedTuple):
    """The fine-tuned network of a run directory, or those of its folds.

    Attributes:
        path: the run directory.
        ensemble: the runs, and how they predict.
        which: the checkpoint of every run.
    """

    path: Path
    ensemble: Ensemble
    which: tuple[Which, ...]

    @property
    def plan(self) -> CasePlan:
        """How cases are prepared."""
        return self.ensemble.plan

    @property
    def conventions(self) -> Conventions:
        """Of channels and labels."""
        return self.ensemble.conventions

    @property
    def classes(self) -> list[str]:
        """The names of the logits, the background first; of regions there is none."""
        return [*["background"] * (not self.conventions.regions), *self.conventions.class_names]

    @property
    def labels(self) -> dict[str, Any]:
        """What label maps hold, as nnU-Net's ``dataset.json`` says it: a number a class, or all labels of a region."""
        if not self.conventions.regions:
            return {name: number for number, name in enumerate(self.classes)}
        regions = map(list, self.conventions.regions)
        return {"background": 0} | dict(zip(self.conventions.class_names, regions, strict=True))

    @property
    def label_ids(self) -> tuple[int, ...]:
        """The labels of a prediction, but for the background."""
        return self.conventions.painted or tuple(range(1, len(self.classes)))

    def model(self, number: int = 0) -> nnx.Module:
        """The network of a run, by its place among the runs."""
        run = self.ensemble.runs[number]
        model = models.create(**run.network)
        run.restore(model, self.which[number])
        return model

    def single(self, form: str) -> nnx.Module:
        """The network of a form that holds one; FdifError for several."""
        if len(self.ensemble.runs) > 1:
            raise FdifError(
                f"{self.path}: holds {len(self.ensemble.runs)} folds, and --to {form} is of one network; "
                f"export {self.path / 'fold_0'}, or all of them --to nnunet-results"
            )
        return self.model()


def load_finetuned(path: Path, which: Which | None) -> FineTuned:
    """The fine-tuned network of a run directory, or of a cross-validation's folds; FdifError as `load_ensemble`.

    ``which`` weights are what the runs say if not given.
    """
    ensemble = load_ensemble([path])
    return FineTuned(path, ensemble, ensemble.checkpoints(which))


def write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """Write a folder, which is there when it is complete; FdifError if there is one that is not empty."""
    check_out(out, folder=True)
    if visible(out):
        raise FdifError(f"--out {out}: is not empty; give another folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write(part)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def painted_in(tuned: FineTuned) -> dict[str, Any]:
    """The labels of regions, painted in this order where their probabilities, a sigmoid each, are above 1/2; nothing of
    classes."""
    painted = tuned.conventions.painted
    return {"regions_class_order": list(painted)} if painted else {}


def about(tuned: FineTuned, **form: Any) -> dict[str, Any]:
    """What somebody needs to know who calls the network alone, as plain data."""
    plan = tuned.plan.to_dict()
    return {
        **form,
        "axes": "RAS+: the first axis runs to the patient's right, the second to the front, the third up",
        "steps": "canonical axes, crop to what is not 0 in some channel, normalise, resample, pad with 0 to a patch",
        "patch": plan["patch"],
        "spacing_mm": plan["spacing"],
        "spline_order": plan["order"],
        "channels": dict(zip(tuned.conventions.channel_names, plan["channels"], strict=True)),
        "logits": tuned.classes,
        "labels": tuned.labels,
        **painted_in(tuned),
        "overlap": tuned.ensemble.overlap,
        "mirror_axes": list(tuned.ensemble.mirror_axes),
    }
