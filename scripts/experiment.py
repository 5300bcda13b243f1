"""A few-shot study: fine-tune several initialisations on a few labelled cases, and compare their Dice.

Every initialisation x number of cases x seed is one run of `fdif finetune`, with the same budget and the same of all
else; those of one seed are trained on the same cases. An initialisation is scratch; released weights by name (`fdif
weights` lists them); NAME=DIR or NAME=FILE, a run directory or a file of weights; or a recipe (fdif, fdif_exact,
avs_db, anatomy, ..., or NAME=FILE.toml), which is pre-trained first. The first is what the others are compared with.

With several --lrs or --warmups every initialisation gets its own: the pair of highest mean Dice on cases that are held
back from the training list, never on validation cases. --finetune and --pretrain take further options for all runs of
these commands, in quotes and after an equals sign.

The same command on the same --out goes on where it stopped, and may ask for more initialisations, cases or seeds.
It writes results.csv, results.json, table.md, dice.png and curves.png. A difference is taken seed by seed and
validation case by case; its 95 % interval is a bootstrap over seeds and cases.

Example:
    fdif experiment Task04/dataset.json --inits scratch fdif=runs/fdif --cases 4 8 --steps 600 --out study
    fdif experiment Task04/dataset.json --inits scratch fdif avs_db --cases 4 8 16 --seeds 3 --steps 600 \\
        --lrs 1e-3 4e-3 --warmups 0.1 0.3 --finetune="--patch 40 56 40 --size tiny" \\
        --pretrain="--grid 40 48 40 --size tiny --steps 3000" --jobs 2 --out study
    fdif experiment --report --out study
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from fdif_jax.datasets.reader import list_cases
from fdif_jax.errors import FdifError, unknown
from fdif_jax.models import released
from fdif_jax.scenes.recipe import load_recipe, shipped_recipes
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.jobs.dry_run import Estimate
from fdif_jax.scripts.jobs.side_by_side import Job
from fdif_jax.scripts.jobs.study import (
    RECIPE,
    SCRATCH,
    Study,
    check_continues,
    load_results,
    load_study,
    load_tuned,
    save_study,
)
from fdif_jax.scripts.jobs.study_jobs import Conductor, Jobs, checkpoints
from fdif_jax.scripts.jobs.study_report import read_report, show, write_plots, write_tables
from fdif_jax.scripts.options.long_work import LongOptions
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.training.runs import load_run

_JUDGED = ("val_every", "val_from", "val_cases", "folds", "fold", "folds_from", "patience")
_OWN = {  # options of the commands that are the study's
    "finetune": ("init", "cases", "seed", "steps", "lr", "warmup", "out", *_JUDGED),
    "pretrain": ("recipe", "data", "out"),
}


@dataclass(frozen=True, kw_only=True)
class Config(LongOptions):
    """Options of `fdif experiment`."""

    dataset: tyro.conf.Positional[Path | None] = None
    """The dataset, as `fdif finetune` takes it."""
    out: Path
    """Directory of the study: its runs, tables and plots."""
    inits: tuple[str, ...] = ("scratch", "fdif")
    """Initialisations: scratch, released weights, NAME=DIR, NAME=FILE, or a recipe to pre-train on."""
    cases: tuple[int, ...] = (4, 8, 16)
    """Numbers of labelled training cases; 0 for all."""
    seeds: int = 3
    """How many times each is run, with other training cases."""
    steps: int = 1000
    """Updates of every fine-tuning."""
    lrs: tuple[float, ...] = (1e-3,)
    """Learning rates to choose from."""
    warmups: tuple[float, ...] = (0.1,)
    """Warm-ups to choose from, as parts of the steps."""
    tune_cases: int = 8
    """Training cases of a run that tunes."""
    tune_val: int = 20
    """Cases of the training list that it is judged on."""
    tune_steps: int | None = None
    """Its updates; --steps if not given."""
    tune_seeds: int = 1
    """Such runs for each pair of learning rate and warm-up."""
    val_cases: int = 0
    """Validation cases; 0 for all."""
    val_every: int | None = None
    """Steps between the points of the learning curves; a tenth of --steps if not given."""
    finetune: str = ""
    """Further options of `fdif finetune`, e.g. --finetune="--size tiny --patch 40 56 40"."""
    pretrain: str = ""
    """Further options of `fdif pretrain`, e.g. --pretrain="--preset quick"."""
    jobs: int = 1
    """Runs side by side; the processor's cores are divided among them."""
    report: Flag = False
    """Only write tables and plots of what is there; of the other options just --out is needed."""


def run(config: Config) -> None:
    """Pre-train, tune and fine-tune what is not done yet, then report."""
    failures: dict[Job, FdifError] = {}
    if config.report:
        study = load_study(config.out)
    else:
        study = planned(config)
        check_continues(config.out, study)
        if config.dry_run:
            _estimate(config, study).tell()
            return
        with progress_bar() as bar:
            bar.speed_estimate_period = 24 * 3600  # runs take minutes to hours
            conductor = Conductor(config.out, study, config.jobs, bar)
            save_study(config.out, study)
            failures = conductor.conduct()
    if not failures or load_results(config.out, study):
        report = read_report(config.out, study)
        files = write_tables(report) + write_plots(report)
        show(report)
        print(f"{config.out}: {', '.join(files)}")
    for failure in failures.values():
        more = f"; {len(failures)} runs failed in all" if len(failures) > 1 else ""
        raise FdifError(f"{failure}{more}")


def _estimate(config: Config, study: Study) -> Estimate:
    """What the study needs, by a run of each command that can begin now: the others take as long for each step."""
    jobs, tuned = Jobs(config.out, study), load_tuned(config.out)
    untuned = [init for init in study.inits if len(study.pairs) > 1 and init not in tuned]
    every = {
        "pretrain": [jobs.pretraining(init) for init in study.inits if study.recipe(init)],
        "finetune": [job for init in untuned for of_pair in jobs.trials(init).values() for job in of_pair]
        + [jobs.cell(cell, study.pairs[0]) for cell in study.cells],
    }
    doing, rates, seconds, disk = [], [], 0.0, 0.0
    for command, of_command in every.items():
        left = [job for job in of_command if job.steps not in checkpoints(job.directory)]
        steps = sum(job.steps for job in left)
        doing += [f"{len(left)} of {len(of_command)} runs of fdif {command}, {steps} steps"] * bool(
            of_command
        )
        ready = [job for job in left if _can_begin(job)]
        if left and not ready:
            rates.append(f"a step of fdif {command} is not measured before a pre-training is done")
        if ready:
            module = cli.module_of(command)
            one = module.estimate(cli.parsed(command, module, ready[0].arguments))
            seconds += one.seconds * steps / ready[0].steps
            disk += one.disk * len(left)
            rates.append(f"fdif {command}: {one.rate}")
    return Estimate(doing, seconds / config.jobs, "; ".join(rates) or "all is done", disk, config.out)


def _can_begin(job: Job) -> bool:
    """Whether the run that a job begins with, if it is one of the study's own, is there."""
    begins = job.arguments[job.arguments.index("--init") + 1] if "--init" in job.arguments else SCRATCH
    return (
        job.command == "pretrain"
        or not Path(begins).is_relative_to(job.log.parents[1])
        or Path(begins).exists()
    )


def planned(config: Config) -> Study:
    """The study that the options ask for; FdifError if it is impossible."""
    _check_numbers(config)
    if config.dataset is None:
        raise FdifError("give the dataset: fdif experiment DATASET --out DIR")
    training, validation = map(len, list_cases(config.dataset))
    cases = sorted(n or training for n in config.cases)
    as_given = ("seeds", "steps", "tune_cases", "tune_val", "tune_seeds", "val_cases")
    study = Study(
        dataset=str(config.dataset),
        inits=_sources(config.inits),
        cases=cases,
        lrs=sorted(config.lrs),
        warmups=sorted(config.warmups),
        tune_steps=config.tune_steps or config.steps,
        val_every=config.val_every or max(config.steps // 10, 1),
        finetune=_further("finetune", config.finetune),
        pretrain=_further("pretrain", config.pretrain),
        **{name: getattr(config, name) for name in as_given},
    )
    if cases[-1] > training:
        raise FdifError(f"--cases {cases[-1]}: {config.dataset} lists {training} training cases")
    if twice := {n for n in cases if cases.count(n) > 1}:
        raise FdifError(f"--cases: {min(twice)} is there twice" + " (0 is all)" * (0 in config.cases))
    if not validation:
        raise FdifError(f"{config.dataset}: lists no validation cases")
    if config.val_cases > validation:
        raise FdifError(
            f"--val-cases {config.val_cases}: {config.dataset} lists {validation} validation cases"
        )
    if len(study.pairs) > 1 and config.tune_cases + config.tune_val > training:
        raise FdifError(
            f"--tune-cases {config.tune_cases} and --tune-val {config.tune_val}: together more than the "
            f"{training} training cases of {config.dataset}"
        )
    Jobs(config.out, study).check_options()
    return study


def _check_numbers(config: Config) -> None:
    least = dict.fromkeys(("seeds", "steps", "tune_cases", "tune_val", "tune_seeds", "jobs"), 1)
    check_least(config, "{} or more", **least, val_cases=0, tune_steps=1, val_every=1)
    for name in ("inits", "cases", "lrs", "warmups"):
        values = getattr(config, name)
        if not values:
            raise FdifError(f"--{name} must name at least one")
        if twice := [value for value in values if values.count(value) > 1]:
            raise FdifError(f"--{name}: {twice[0]} is there twice")
    if min(config.cases) < 0:
        raise FdifError(f"--cases must be 0 (all) or more, not {min(config.cases)}")
    if bad := [lr for lr in config.lrs if not 0 < lr < float("inf")]:
        raise FdifError(f"--lrs must be above 0, not {bad[0]:g}")
    if bad := [part for part in config.warmups if not 0 <= part < 1]:
        raise FdifError(f"--warmups are parts of the steps, at least 0 and below 1, not {bad[0]:g}")


def _sources(inits: Sequence[str]) -> dict[str, str]:
    """Names of initialisations and what they are, as `Study` has them; FdifError if one is unknown or comes twice."""
    sources: dict[str, str] = {}
    for text in inits:
        name, equals, source = text.partition("=")
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise FdifError(f"--inits {text}: the name {name!r} must be of letters, digits and . + - _")
        if name in sources:
            raise FdifError(f"--inits: {name} is there twice")
        sources[name] = _path(text, source) if equals else _known(name)
    return sources


def _known(name: str) -> str:
    if name == SCRATCH or name in released.names():
        return name
    if name not in shipped_recipes():
        raise unknown(
            "initialisation", name, (SCRATCH, "NAME=RUN_DIR", *released.names(), *shipped_recipes())
        )
    return RECIPE + name


def _path(text: str, source: str) -> str:
    path = Path(source)
    if path.suffix == ".toml":
        load_recipe(source)
        return RECIPE + source
    if path.is_dir():
        load_run(path)
        if not checkpoints(path):
            raise FdifError(f"--inits {text}: the run has no checkpoint yet; let it reach one first")
    elif not path.is_file():
        raise FdifError(f"--inits {text}: {source} is neither a run directory nor a file of weights")
    return source


def _further(name: str, options: str) -> list[str]:
    """Further options of a command, as a list; FdifError for an open quote, or one of the study's own."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise FdifError(f"--{name} {options!r}: {error}") from None
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option[2:].replace("-", "_") in _OWN[name]:
            raise FdifError(f"--{name}: {option} is what the study sets itself")
    return words


if __name__ == "__main__":
    cli.run("experiment")
