"""What a person sees of a training run: the progress line, the curve and a picture of what the network does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fdif_jax import viz
from fdif_jax.runs import Run
from fdif_jax.scripts.progress import progress_bar


class TrainingBar:
    """A progress bar on stderr: steps, loss, Dice, volumes a second, time left. Use it in a ``with`` block."""

    def __init__(self, steps: int) -> None:
        self._progress = progress_bar()
        self._task = self._progress.add_task("compiling", total=steps, measured="")
        self._seen: dict[str, float] = {}

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, measurement: Mapping[str, float]) -> None:
        """Show a step and its measurements; those that were not measured again stay."""
        self._seen |= measurement
        texts = {"loss": "loss {:.3f}", "dice": "Dice {:.3f}", "volumes_per_second": "{:.2f} volumes/s"}
        measured = "  ".join(t.format(self._seen[k]) for k, t in texts.items() if k in self._seen)
        self._progress.update(self._task, completed=step, description="training", measured=measured)


def write_pictures(
    run: Run, example: tuple[np.ndarray, np.ndarray, np.ndarray], class_names: Sequence[str]
) -> list[Path]:
    """Write ``curve.png`` and ``prediction.png`` into the run's folder.

    Args:
        run: the run, for its history.
        example: image, label and prediction ``(D, H, W)``.
        class_names: names of label 1, 2, …
    """
    series = {
        name: [(m["step"], m[name]) for m in run.history if name in m]
        for name in ("loss", "dice")
        if any(name in m for m in run.history)
    }
    curve, picture = run.path / "curve.png", run.path / "prediction.png"
    viz.save_curves(series, curve)
    image, label, prediction = example
    viz.save_slices(image, label, picture, class_names, prediction)
    return [curve, picture]
