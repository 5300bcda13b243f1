"""The runs of a few-shot study: their commands, in which order they are run, and what tuning chooses."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_json
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import say
from fdif_jax.scripts.jobs.side_by_side import Job, run_all
from fdif_jax.scripts.jobs.study import (
    SCRATCH,
    TUNED,
    Cell,
    Pair,
    Study,
    cell_folder,
    is_finished,
    load_tuned,
    mean_score,
    pretraining_folder,
    tuning_folder,
)
from fdif_jax.scripts.jobs.study_report import read_report, write_tables
from fdif_jax.training.runs import CHECKPOINTS

_TUNING_SEED = 1_000_000  # the first of those that tune, apart from the study's


def checkpoints(run: Path) -> set[int]:
    """Steps of a run's checkpoints, without the libraries that take hold of an accelerator to read them."""
    return {int(path.name) for path in (run / CHECKPOINTS).glob("*") if path.name.isdigit()}


def _parsed(name: str, arguments: Sequence[str]) -> Any:
    return cli.parsed(name, cli.module_of(name), arguments)


class Jobs:
    """The runs of a study, as jobs."""

    def __init__(self, folder: Path, study: Study) -> None:
        """The jobs of ``study``, whose runs are in ``folder``."""
        self._folder, self._study = folder, study

    def check_options(self) -> None:
        """Have the commands read their options: what is wrong with them is said before anything is run."""
        study = self._study
        for init in filter(study.recipe, study.inits):
            self.pretraining(init)
        jobs = [self.cell(study.cells[0], study.pairs[0])]
        jobs += [self.tuning(study.baseline, study.pairs[0], 0)] if len(study.pairs) > 1 else []
        for job in jobs:
            _parsed("finetune", job.arguments)

    def pretraining(self, init: str) -> Job:
        """The pre-training of an initialisation that is a recipe."""
        recipe, directory = self._study.recipe(init), pretraining_folder(self._folder, init)
        arguments = ["--recipe", str(recipe), "--out", str(directory), *self._study.pretrain]
        steps = _parsed("pretrain", arguments).steps
        return self._job(f"pre-training {init}", "pretrain", arguments, directory, steps)

    def tuning(self, init: str, pair: Pair, number: int) -> Job:
        """A run that tunes: on the training list alone."""
        study, seed = self._study, _TUNING_SEED + number
        directory = tuning_folder(self._folder, init, pair, seed)
        held_out = ["--val-from", "training", "--val-cases", str(study.tune_val), "--val-every", "0"]
        cell = Cell(init, study.tune_cases, seed)
        name = f"tuning {init}, learning rate {pair.lr:g}, warm-up {pair.warmup:g}, seed {number}"
        return self._finetuning(name, cell, pair, study.tune_steps, directory, held_out)

    def trials(self, init: str) -> dict[Pair, list[Job]]:
        """The runs that tune an initialisation: of every pair as many as the study asks for."""
        numbers = range(self._study.tune_seeds)
        return {pair: [self.tuning(init, pair, n) for n in numbers] for pair in self._study.pairs}

    def cell(self, cell: Cell, pair: Pair) -> Job:
        """A cell of the study."""
        study, name = self._study, f"{cell.init}, {cell.cases} cases, seed {cell.seed}"
        judged = ["--val-cases", str(study.val_cases), "--val-every", str(study.val_every)]
        return self._finetuning(name, cell, pair, study.steps, cell_folder(self._folder, cell), judged)

    def _finetuning(
        self, name: str, cell: Cell, pair: Pair, steps: int, directory: Path, judged: list[str]
    ) -> Job:
        recipe, source = self._study.recipe(cell.init), self._study.inits[cell.init]
        options = {
            "init": pretraining_folder(self._folder, cell.init) if recipe else source,
            "cases": cell.cases,
            "seed": cell.seed,
            "steps": steps,
            "lr": pair.lr,
            "warmup": min(round(pair.warmup * steps), steps - 1),
            "out": directory,
        }
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        network = self._scratch_network() if source == SCRATCH else []
        arguments = [self._study.dataset, *words, *judged, *network, *self._study.finetune]
        return self._job(name, "finetune", arguments, directory, steps)

    def _scratch_network(self) -> list[str]:
        """Which network is trained from scratch where nothing says it: what `fdif pretrain` makes of the recipes."""
        study = self._study
        named = any(word.partition("=")[0] in ("--network", "--size", "--plans") for word in study.finetune)
        return [] if named or not any(map(study.recipe, study.inits)) else ["--size", "small"]

    def _job(self, name: str, of: str, arguments: list[str], directory: Path, steps: int) -> Job:
        log = self._folder / "logs" / f"{'-'.join(directory.relative_to(self._folder).parts)}.log"
        return Job(name, of, tuple(arguments), log, directory, steps)


class Conductor:
    """Has the jobs of a study done, with a progress bar over the steps of all."""

    def __init__(self, folder: Path, study: Study, at_once: int, bar: Progress) -> None:
        self._folder, self._study, self._at_once, self._bar = folder, study, at_once, bar
        self._jobs = Jobs(folder, study)
        self._over, self._runs = 0, 0
        tuned = load_tuned(folder)
        self._pretraining = [self._jobs.pretraining(init) for init in study.inits if study.recipe(init)]
        self._tuning = {
            init: self._jobs.trials(init)
            for init in study.inits
            if len(study.pairs) > 1 and init not in tuned
        }
        trials = [job for pairs in self._tuning.values() for jobs in pairs.values() for job in jobs]
        steps = [job.steps for job in (*self._pretraining, *trials)] + [study.steps] * len(study.cells)
        self._total_runs = len(steps)
        self._task = bar.add_task("steps", total=sum(steps), measured="")

    def conduct(self) -> dict[Job, FdifError]:
        """Everything that is not done yet; gives what went wrong with cells.

        FdifError if a pre-training, or all that tunes an initialisation, has failed; KeyboardInterrupt if asked to
        stop.
        """
        pretrained = [job for job in self._pretraining if job.steps in checkpoints(job.directory)]
        for failure in self._do(self._pretraining, pretrained).values():
            raise failure
        for init, pairs in self._tuning.items():
            self._tune(init, pairs)
        tuned = load_tuned(self._folder).items()
        best = {init: Pair(chosen["lr"], chosen["warmup"]) for init, chosen in tuned}
        only = self._study.pairs[0]
        cells = [self._jobs.cell(cell, best.get(cell.init, only)) for cell in self._study.cells]
        finished = [job for job in cells if is_finished(job.directory)]
        return self._do(cells, finished, lambda: write_tables(read_report(self._folder, self._study)))

    def _tune(self, init: str, pairs: Mapping[Pair, Sequence[Job]]) -> None:
        """Try the pairs and write down which is the best; one that fails, as by exploding, is worse than any."""
        jobs = [job for trials in pairs.values() for job in trials]
        finished = [job for job in jobs if is_finished(job.directory)]
        failures = self._do(jobs, finished, keep_on=True)
        trials: list[dict[str, Any]] = []
        for pair, of_pair in pairs.items():
            scores = [math.nan if job in failures else mean_score(job.directory) for job in of_pair]
            dice = [None if math.isnan(score) else score for score in scores]
            trials.append(pair._asdict() | {"dice": dice})
        whole = [trial for trial in trials if None not in trial["dice"]]
        if not whole:
            raise next(iter(failures.values()), FdifError(f"{jobs[0].directory}: no case has a foreground"))
        best = max(whole, key=lambda trial: sum(trial["dice"]))
        chosen = {"lr": best["lr"], "warmup": best["warmup"], "trials": trials}
        write_json(self._folder / TUNED, load_tuned(self._folder) | {init: chosen})

    def _do(
        self,
        jobs: Sequence[Job],
        done: Sequence[Job],
        after_each: Callable[[], object] = lambda: None,
        keep_on: bool = False,
    ) -> dict[Job, FdifError]:
        def finished(job: Job, seconds: float) -> None:
            dice = f"Dice {mean_score(job.directory):.4f}, " if is_finished(job.directory) else ""
            say(self._bar, f"{job.name}: {dice}{seconds / 60:.1f} minutes")
            self._count([job])
            after_each()

        def failed(job: Job, error: FdifError) -> None:
            say(self._bar, f"failed: {error}")
            self._count([job])

        self._count(done)
        waiting = [job for job in jobs if job not in done]
        return run_all(
            waiting, self._at_once, finished=finished, failed=failed, running=self._show, keep_on=keep_on
        )

    def _count(self, jobs: Sequence[Job]) -> None:
        self._over += sum(job.steps for job in jobs)
        self._runs += len(jobs)
        self._show([])

    def _show(self, running: Sequence[Job]) -> None:
        text = f"{self._runs} of {self._total_runs} runs" + "".join(f"; {job.name}" for job in running)
        completed = self._over + sum(job.done() * job.steps for job in running)
        self._bar.update(self._task, completed=completed, measured=text)
