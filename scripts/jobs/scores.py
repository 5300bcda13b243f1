"""How good a fine-tuned network is: Dice in the middle of training, and the report at its end."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from fdif_jax.datasets.reader import read_label
from fdif_jax.evaluation.evaluator import Example
from fdif_jax.evaluation.scoring import dice, mean_defined, where_labelled
from fdif_jax.inference.prediction import predict_case
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.io.files import make_folder, write_atomic, write_csv, write_json
from fdif_jax.io.volumes import encode_like, format_of, read_volume
from fdif_jax.objectives.losses import mean_dice
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.scans import on_grid_of
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.console.watching import PREDICTION, available, write_curve, write_example
from fdif_jax.scripts.jobs.cases import Chosen
from fdif_jax.tasks import Task
from fdif_jax.training.network import Weights
from fdif_jax.training.runs import SCORES, Run


class Referee:
    """Judges a network by the validation cases."""

    def __init__(self, cases: Sequence[Prepared], chosen: Chosen, network: TiledNetwork):
        """Judge by ``cases``, whose files are the validation cases of ``chosen``, with a network of any weights."""
        self._cases, self._chosen, self._network = cases, chosen, network

    def measure(self, weights: Weights) -> dict[str, float]:
        """Mean Dice, quickly: on the prepared cases and without mirroring.

        Where all cases are healthy, and found to be so, there is no Dice, and the score is the best there is.
        """
        network = self._network.of([weights])
        scores = np.stack([self._dice(network.labels(case.image), case.label) for case in self._cases])
        mean = float(mean_dice(scores))
        return {"dice": mean, "score": 1.0 if np.isnan(mean) else mean}

    def report(
        self, run: Run, weights: Weights, mirror_axes: Sequence[int], *, save_predictions: bool
    ) -> None:
        """Predict every case on its file's grid as `fdif predict` does, and score it against its file's label.

        Writes ``metrics.json``, ``dice.csv`` and pictures, and predictions if asked for; prints a table.
        """
        if not self._cases:
            print(f"{run.path}: trained, without validation")
            return
        network, rows, pictures = self._network.of([weights], mirror_axes), [], []
        conventions, folder = self._chosen.conventions, run.path / "predictions"
        draws = available("pictures")
        if save_predictions:
            make_folder(folder)
        with progress_bar() as bar:
            task = bar.add_task("evaluating", total=len(self._cases), measured="")
            for number, (case, prepared) in enumerate(zip(self._chosen.validation, self._cases, strict=True)):
                bar.update(task, measured=case.id)
                volume = read_label(case.label, conventions)
                label = on_grid_of(case.image, prepared.way.crop.source, case.label, volume)
                prediction = predict_case(network, prepared)
                rows.append(self._dice(prediction, label))
                if number == 0 and draws:
                    image = read_volume(case.image, allow_4d=True).array
                    first = Example(
                        image if image.ndim == 3 else image[..., 0], label[None], prediction[None]
                    )
                    shown = Task("class", conventions.label_names)
                    drawn = write_example(first, (shown,), run.path / PREDICTION)
                    pictures = [write_curve(run), *drawn]
                if save_predictions:
                    path = folder / f"{case.id}{format_of(case.image).answer}"
                    write_atomic(path, encode_like(case.image, prediction))
                bar.advance(task)
        self._write(run, np.stack(rows), conventions.class_names)
        print(f"{run.path}: {', '.join([SCORES, 'dice.csv', *(path.name for path in pictures)])}")

    def _dice(self, prediction: np.ndarray, label: np.ndarray | None) -> np.ndarray:
        assert label is not None  # validation cases are labelled
        conventions = self._chosen.conventions
        maps = where_labelled(prediction, label)
        return dice(*maps, len(conventions.class_names) + 1, conventions.regions)

    def _write(self, run: Run, scores: np.ndarray, names: Sequence[str]) -> None:
        ids = [case.id for case in self._cases]
        per_class, per_case = mean_defined(scores), mean_defined(scores, axis=1)
        metrics = {
            "mean_dice": _plain(mean_dice(scores)),
            "dice": dict(zip(names, _plain(per_class), strict=True)),
            "cases": dict(zip(ids, _plain(per_case), strict=True)),
        }
        write_json(run.path / SCORES, metrics)
        rows = (
            [name, *_plain(row), _plain(mean)] for name, row, mean in zip(ids, scores, per_case, strict=True)
        )
        write_csv(run.path / "dice.csv", [["case", *names, "mean"], *rows])
        told = (*metrics["dice"].items(), ("mean", metrics["mean_dice"]))
        what = "region" if self._chosen.conventions.regions else "class"
        lines = ((name, "absent" if value is None else f"{value:.4f}") for name, value in told)
        Console().print(table_of((what, "Dice"), lines, title=f"Dice of {len(ids)} validation cases"))


def _plain(values: Any) -> Any:
    """As JSON holds it: rounded, and None for what is nowhere."""
    if np.ndim(values):
        return [_plain(value) for value in np.asarray(values)]
    return None if np.isnan(values) else round(float(values), 6)
