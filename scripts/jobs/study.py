"""A few-shot study on disk: what it asks, where its runs are, and what they came to.

::

    study.json                   what is asked; inits, cases and seeds may grow
    pretrain/NAME/               run of `fdif pretrain`, of an initialisation that is a recipe
    tune/NAME/lr…_warmup…/seed…  runs that chose a learning rate and a warm-up
    tuned.json                   what they chose
    runs/NAME/n8/seed0/          run of `fdif finetune`: a cell of the study
    logs/                        what the runs printed
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.statistics import Result, mean_of_cases
from fdif_jax.io.files import json_of, make_folder, read_json_lines, write_json
from fdif_jax.training.runs import METRICS, SCORES

STUDY, TUNED = "study.json", "tuned.json"
SCRATCH, RECIPE = "scratch", "recipe "
_GROWING = ("inits", "cases", "seeds")


class Cell(NamedTuple):
    """One fine-tuning of a study: what it begins with, labelled cases, and seed."""

    init: str
    cases: int
    seed: int


class Pair(NamedTuple):
    """What tuning chooses: a learning rate, and a warm-up as a part of the steps."""

    lr: float
    warmup: float


@dataclass(frozen=True)
class Study:
    """What a study asks."""

    dataset: str  # as `fdif finetune` takes it
    # what each initialisation is, by its name: "scratch", a run directory, a file of weights, or "recipe "
    # and the name or file of one
    inits: dict[str, str]
    cases: list[int]  # numbers of labelled cases, ascending
    seeds: int  # how many, from 0 on
    steps: int  # of every fine-tuning
    lrs: list[float]  # learning rates, and
    warmups: list[float]  # parts of the steps, to choose a pair from
    tune_cases: int  # training cases of a run that tunes,
    tune_val: int  # cases of the training list it is judged on,
    tune_steps: int  # its steps, and
    tune_seeds: int  # how many such runs for each pair
    val_cases: int  # validation cases; 0 for all
    val_every: int  # steps between validations
    finetune: list[str]  # further options of every fine-tuning
    pretrain: list[str]  # further options of every pre-training

    @property
    def baseline(self) -> str:
        """The initialisation that the others are compared with: the first."""
        return next(iter(self.inits))

    def recipe(self, init: str) -> str | None:
        """What an initialisation is pre-trained on by the study itself, if it is."""
        source = self.inits[init]
        return source.removeprefix(RECIPE) if source.startswith(RECIPE) else None

    @property
    def pairs(self) -> list[Pair]:
        """Learning rates and warm-ups to choose from."""
        return [Pair(lr, warmup) for lr in self.lrs for warmup in self.warmups]

    @property
    def cells(self) -> list[Cell]:
        """All cells in the order in which they are run: an unfinished study has the same of all initialisations."""
        return [Cell(init, n, seed) for n in self.cases for seed in range(self.seeds) for init in self.inits]


def load_study(folder: Path) -> Study:
    """The study that a folder holds; FdifError if it holds none."""
    try:
        return Study(**json_of((folder / STUDY).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise FdifError(f"{folder}: there is no study ({STUDY}) here yet") from None
    except (ValueError, TypeError) as error:
        raise FdifError(f"{folder / STUDY} is damaged: {error}") from None


def check_continues(folder: Path, study: Study) -> None:
    """Raise FdifError, saying what differs, if a folder holds another study, or something else.

    A study goes on with more initialisations, cases or seeds. One that has no run yet may become any other.
    """
    if folder.exists() and not folder.is_dir():
        raise FdifError(f"{folder} is a file; give a directory for the study")
    if not (folder / STUDY).is_file():
        if folder.is_dir() and any(not path.name.endswith(".part") for path in folder.iterdir()):
            raise FdifError(
                f"{folder} is not empty and holds no study ({STUDY}); give a new or empty directory"
            )
        return
    old, new = load_study(folder), vars(study)
    told = [
        f"{'--' * (name != 'dataset')}{name.replace('_', '-')} is {_told(value)} there and {_told(new[name])} here"
        for name, value in vars(old).items()
        if name not in _GROWING and value != new[name]
    ]
    for name, source in old.inits.items():
        if study.inits.get(name) != source:
            here = f"{study.inits[name]} here" if name in study.inits else "not here"
            told.append(f"initialisation {name} is {source} there and {here}")
    if not set(old.cases) <= set(study.cases):
        told.append(f"--cases are {_told(old.cases)} there and {_told(study.cases)} here")
    if old.seeds > study.seeds:
        told.append(f"--seeds is {old.seeds} there and {study.seeds} here")
    is_begun = any(any(folder.glob(f"{part}/**/run.json")) for part in ("pretrain", "tune", "runs"))
    if told and is_begun:
        raise FdifError(
            f"{folder} holds another study: {', '.join(told)}; --inits, --cases and --seeds may be more, "
            "the rest as it was; or give another directory"
        )


def _told(value: Any) -> str:
    return " ".join(map(str, value)) or "nothing" if isinstance(value, list) else str(value)


def save_study(folder: Path, study: Study) -> None:
    """Write what is asked."""
    make_folder(folder)
    write_json(folder / STUDY, dataclasses.asdict(study))


def pretraining_folder(folder: Path, init: str) -> Path:
    """The run directory of an initialisation that the study pre-trains."""
    return folder / "pretrain" / init


def cell_folder(folder: Path, cell: Cell) -> Path:
    """The run directory of a cell."""
    return folder / "runs" / cell.init / f"n{cell.cases}" / f"seed{cell.seed}"


def tuning_folder(folder: Path, init: str, pair: Pair, seed: int) -> Path:
    """The run directory of a run that tunes."""
    return folder / "tune" / init / f"lr{pair.lr:g}_warmup{pair.warmup:g}" / f"seed{seed}"


def load_tuned(folder: Path) -> dict[str, dict[str, Any]]:
    """What was chosen, by initialisation: ``lr``, ``warmup`` and the ``trials``; empty where nothing was tuned."""
    path = folder / TUNED
    try:
        return json_of(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise FdifError(f"{path} is damaged: {error}") from None


def is_finished(run: Path) -> bool:
    """Whether a fine-tuning has been evaluated."""
    return (run / SCORES).is_file()


def load_scores(run: Path, of: Literal["cases", "dice"] = "cases") -> dict[str, float]:
    """The Dice of a finished fine-tuning, of each validation case or (``of="dice"``) class; NaN where there is nothing
    to find; FdifError for a damaged file.
    """
    path = run / SCORES
    try:
        scores = json_of(path.read_bytes())[of]
        return {str(name): math.nan if dice is None else float(dice) for name, dice in scores.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FdifError(f"{path} is damaged: {error!r}") from None


def mean_score(run: Path) -> float:
    """Mean Dice of a finished fine-tuning; NaN if no case has a foreground."""
    return mean_of_cases(load_scores(run))


def load_results(folder: Path, study: Study) -> list[Result]:
    """The results of the cells that are finished, in the order of the study's initialisations."""
    found = []
    for cell in sorted(study.cells, key=lambda cell: list(study.inits).index(cell.init)):
        run = cell_folder(folder, cell)
        if is_finished(run):
            found.append(Result(*cell, load_scores(run), _curve(run / METRICS), load_scores(run, "dice")))
    return found


def _curve(path: Path) -> list[tuple[int, float]]:
    try:
        return [(int(line["step"]), float(line["dice"])) for line in read_json_lines(path) if "dice" in line]
    except (ValueError, KeyError, TypeError) as error:
        raise FdifError(f"{path} is damaged: {error!r}") from None
