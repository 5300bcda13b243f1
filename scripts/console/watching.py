"""What a person sees of a training run: the progress line, TensorBoard, curves, scores per class, and pictures.

::

    tensorboard/              every measurement
    classes.jsonl             one line an evaluation: its step, and the scores of every class
    curve.png                 loss, scores and learning rate so far
    prediction.png            image, label and prediction of the first volume; one a task where there are several
    pictures/step_000500.png  the same of every evaluation

Where the extra tensorboard or pictures of the package is not installed, a line says so, and its files are not written.
"""

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from fdif_jax.evaluation.evaluator import Evaluation, Example
from fdif_jax.extras import lacking
from fdif_jax.io.files import append_json_line, read_json_lines, write_atomic, write_json_lines
from fdif_jax.objectives.combined import MEASURES
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.tasks import Task
from fdif_jax.training.processes import is_first_process
from fdif_jax.training.runs import Run

CLASSES, CURVE, PREDICTION = "classes.jsonl", "curve.png", "prediction.png"
PICTURES, TENSORBOARD = "pictures", "tensorboard"
_CURVES = ("loss", "dice", "nsd", "accuracy", *MEASURES.values(), "competence", "learning_rate")
_FLUSH_SECONDS = 10


class TrainingBar:
    """A progress bar on stderr: steps, loss, scores, volumes a second, memory, time left. Use it in a ``with`` block.

    In a process that is not the first it shows nothing.
    """

    def __init__(self, steps: int) -> None:
        self._progress = progress_bar()
        self._task = self._progress.add_task("compiling", total=steps, measured="")
        self._seen: dict[str, float] = {}

    def __enter__(self) -> "TrainingBar":
        if is_first_process():
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if is_first_process():
            self._progress.stop()

    def show(self, step: int, measurement: Mapping[str, float]) -> None:
        """Show a step and its measurements; those that were not measured again stay."""
        if not self._seen:
            # Neither compiling nor what a resumed run did before says how long the rest takes.
            self._progress.reset(self._task, completed=step, description="training")
        self._seen |= measurement
        texts = {
            "loss": "loss {:.3f}",
            "dice": "Dice {:.3f}",
            "accuracy": "acc. {:.3f}",
            "retrieval": "retrieval {:.3f}",
            "distance_error": "distance {:.2f} voxels",
            "restore_error": "restored {:.2f}",
            "competence": "competence {:.2f}",
            "objects": "{:.0f} objects",
            "volumes_per_second": "{:.3g} vol/s",
        }
        measured = [text.format(self._seen[name]) for name, text in texts.items() if name in self._seen]
        measured.append(f"{peak_memory(jax.local_devices()) / 2**30:.1f} GiB")
        self._progress.update(self._task, completed=step, measured="  ".join(measured))


def peak_memory(devices: Sequence[jax.Device]) -> int:
    """The most bytes that were in use on one of these devices; where they do not tell, of this process."""
    told = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices]
    if any(told):
        return max(told)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else 1024 * resident


def available(extra: str) -> bool:
    """Whether an extra of the package that a run can do without is installed; a line says so if it is not."""
    lack = lacking(extra)
    if lack:
        print(f"without {extra}: that {lack}")
    return lack is None


class Watch:
    """Shows a run and writes down what there is to see of it. Use it in a ``with`` block, inside `open_run`'s.

    A resumed run ends its files where it resumes, so that nothing is there twice. A process that is not the first
    writes nothing.
    """

    def __init__(self, run: Run, steps: int, tasks: Sequence[Task] = ()) -> None:
        """Watch an opened run of so many steps in all; ``tasks`` are those of its `Evaluator`, if it has one."""
        self._run, self._tasks = run, tuple(tasks)
        self._bar = TrainingBar(steps)
        self._tensorboard: Any = None
        self._begun = False
        self._has_pictures = self._has_tensorboard = True

    def __enter__(self) -> "Watch":
        if is_first_process():
            self._has_pictures = available("pictures")
            self._has_tensorboard = available("tensorboard")
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()
        if self._tensorboard:
            self._tensorboard.close()

    def show(self, step: int, measurement: Mapping[str, float]) -> None:
        """Show a step, and write down what the run recorded there; for `fit` to report to."""
        self._bar.show(step, measurement)
        recorded = self._run.history[-1] if self._run.history else {}
        if recorded.get("step") != step or not is_first_process():
            return
        self._begin(step)
        for name, value in recorded.items():
            if name != "step" and self._tensorboard:
                self._tensorboard.add_scalar(name, value, step)
        if "score" in recorded and self._has_pictures:
            write_curve(self._run)

    def evaluation(self, step: int, evaluation: Evaluation) -> dict[str, float]:
        """Write down an evaluation; gives its scalars, for `fit` to record."""
        if is_first_process():
            self._begin(step)
            append_json_line(self._run.path / CLASSES, {"step": step, **evaluation.classes})
            if not self._has_pictures:
                return evaluation.scalars
            (self._run.path / PICTURES).mkdir(exist_ok=True)
            for path in write_example(
                evaluation.example, self._tasks, self._run.path / PICTURES / f"step_{step:06d}.png"
            ):
                newest = path.name.replace(f"step_{step:06d}", Path(PREDICTION).stem)
                write_atomic(self._run.path / newest, path.read_bytes())
        return evaluation.scalars

    def _begin(self, step: int) -> None:
        """Before the first thing is written, at ``step``: drop what was written after the run's history ended."""
        if self._begun:
            return
        self._begun = True
        kept = max((int(m["step"]) for m in self._run.history if m["step"] < step), default=-1)
        if (classes := self._run.path / CLASSES).exists():
            write_json_lines(classes, [line for line in read_json_lines(classes) if line["step"] <= kept])
        if not self._has_tensorboard:
            return
        from tensorboardX import SummaryWriter  # slow to import

        folder = self._run.path / TENSORBOARD
        # A file of its own name, even if the last one was begun in this very second.
        self._tensorboard = SummaryWriter(
            str(folder),
            purge_step=kept + 1 if folder.exists() else None,
            flush_secs=_FLUSH_SECONDS,
            filename_suffix=f".{len(list(folder.glob('*'))):06d}",
        )


def write_curve(run: Run) -> Path:
    """Draw what the run has measured so far into its ``curve.png``."""
    from fdif_jax.viewing import viz

    series = {name: [(m["step"], m[name]) for m in run.history if name in m] for name in _CURVES}
    viz.save_curves({name: points for name, points in series.items() if points}, run.path / CURVE)
    return run.path / CURVE


def write_example(example: Example, tasks: Sequence[Task], path: Path) -> list[Path]:
    """Draw image, label and prediction of a volume: one picture, or one a task, its name at the end of the file's.

    A volume that is classified is drawn with its classes in words. Gives the pictures.
    """
    from fdif_jax.viewing import viz

    if example.label.ndim == 1:
        words = [
            f"{task.name}: {task.class_names[label]}, predicted {task.class_names[prediction]}"
            for task, label, prediction in zip(tasks, example.label, example.prediction, strict=True)
        ]
        viz.save_slices(example.image, None, path, title="\n".join(words))
        return [path]
    several = len(tasks) > 1
    paths = [path.with_stem(f"{path.stem}_{task.name}") if several else path for task in tasks]
    for task, label, prediction, picture in zip(tasks, example.label, example.prediction, paths, strict=True):
        viz.save_slices(example.image, label, picture, task.class_names, prediction)
    return paths
