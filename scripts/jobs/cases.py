"""The cases of `fdif finetune`: which are trained on, what follows from them, and how they are read and kept."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case, list_cases, list_splits, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.models.nnunet import PlannedNetwork
from fdif_jax.preprocessing.case_cache import CaseCache
from fdif_jax.preprocessing.fingerprints import (
    CasePlan,
    Measurement,
    fingerprint,
    mirror_axes,
    plan_cases,
)
from fdif_jax.preprocessing.preparation import Prepared, prepare
from fdif_jax.preprocessing.scan_store import ScanStore
from fdif_jax.preprocessing.splits import HELD_OUT, ListedFold, apart, few, fold, listed_folds
from fdif_jax.scripts.console.reading import each_good
from fdif_jax.scripts.jobs.suited import voxel_budget
from fdif_jax.scripts.options.finetuning import FinetuningOptions
from fdif_jax.weights.state_dicts import some


@dataclass(frozen=True)
class Chosen:
    """Which cases are for what."""

    training: tuple[Case, ...]  # to train on
    validation: tuple[Case, ...]  # to validate on
    # that the plan follows from: those to train on; of a cross-validation all, so that its folds share it
    measured: tuple[Case, ...]
    conventions: Conventions  # what the numbers in their files mean
    skipped: tuple[str, ...] = ()  # ids of those that were bad


def choose_cases(config: FinetuningOptions) -> Chosen:
    """Training and validation cases, as the options ask for them; FdifError if there are not so many."""
    conventions = load_conventions(config.dataset)
    listed, validation = list_cases(config.dataset)
    own = listed_folds(listed, list_splits(config.dataset, listed)) if config.folds_from == "list" else []
    training = listed
    if config.folds:
        training, validation = _fold(config, listed, own)
    elif config.val_from == "training":
        training, validation = apart(training, config.cases, config.val_cases, config.seed)
    elif not validation and config.val_every and own and own[0].training:
        number, training, validation = own[0]
        print(f"no validation cases are listed: those of fold {number} validate; see --folds, --folds-from")
    elif not validation and config.val_every and len(training) > 1:
        folds = min(HELD_OUT, len(training))
        training, validation = fold(training, folds, 0, config.seed)
        print(f"no validation cases are listed: one in {folds} of the training cases validates; see --folds")
    asked = (("", training, config.cases), ("val-", validation, config.val_cases))
    for option, cases, wanted in asked:
        if wanted > len(cases):
            there = f"{len(cases)} {'validation' if option else 'training'} cases"
            raise FdifError(f"--{option}cases {wanted}: there are {there} in {config.dataset}")
    if config.val_every and not validation:
        raise FdifError(f"{config.dataset}: no case is left to validate on; --val-every 0 does without")
    if config.val_from == "validation":
        training = few(training, config.cases, config.seed)
    measured = listed if config.folds else training
    return Chosen(
        tuple(training), tuple(validation[: config.val_cases or None]), tuple(measured), conventions
    )


def _fold(
    config: FinetuningOptions, cases: Sequence[Case], own: Sequence[ListedFold]
) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of the fold that the options ask for, of the dataset's ``own`` or a drawn one."""
    number = config.fold or 0
    if not own:
        return fold(cases, config.folds, number, config.seed)
    if config.folds != len(own) or number >= len(own):
        asked = f"--folds {config.folds}" if config.folds != len(own) else f"--fold {number}"
        numbers = ", ".join(str(one.number) for one in own)
        raise FdifError(
            f"{asked}: the cases of {config.dataset} have {len(own)} folds ({numbers}); take these by "
            f"--folds {len(own)}, or draw others by --folds-from seed"
        )
    listed, training, validation = own[number]
    if not training:
        raise FdifError(f"all {len(cases)} cases are of fold {listed}: none is left to train on")
    always = len({case.id for case in cases}.difference(*({c.id for c in one.validation} for one in own)))
    said = f"the {len(validation)} cases of the list's fold {listed} validate"
    print(said + f", {always} of no fold never do" * (always > 0) + "; --folds-from seed draws folds instead")
    return training, validation


def plan_for(
    config: FinetuningOptions,
    chosen: Chosen,
    multiple: Sequence[int],
    like: PlannedNetwork | None,
    scans: ScanStore,
) -> tuple[CasePlan, tuple[int, ...], Chosen]:
    """How cases are prepared, and the axes to mirror along, printed with the reasons; the cases without bad ones.

    What the plan follows from are the training cases, or, of a cross-validation, all of them. ``multiple`` is what the
    network divides a patch by; ``like`` a planned network, whose patch is taken if none is given.
    """
    bad = {case.id for case in chosen.measured}
    measurements: list[Measurement] = []

    def measure(case: Case) -> Measurement:
        return scans.measure(case, len(measurements))

    what = "measuring the training cases"
    for case, measurement in each_good(chosen.measured, measure, what, skip_bad=config.skip_bad):
        bad.discard(case.id)
        measurements.append(measurement)
    measured = fingerprint(measurements, chosen.conventions)
    absent = np.isnan(measured.centres).all((0, 2))
    if nowhere := [name for name, there in zip(measured.class_names, ~absent, strict=True) if not there]:
        print(f"no training case shows {some(nowhere)}: nothing can be learnt of that")
    plan = plan_cases(
        measured,
        multiple,
        spacing=config.spacing,
        patch=config.patch or (like.patch if like else None),
        window=config.window,
        order=config.order,
        budget=voxel_budget(),
    )
    axes, why = tuple(a for a in config.mirror_axes if isinstance(a, int)), "as given"
    if config.mirror_axes == "auto":
        axes, why = mirror_axes(measured)
    for line in (*plan.reasons, f"mirrored along {' and '.join(map(str, axes)) or 'no axis'}: {why}"):
        print(line)
    return plan, axes, _without(chosen, bad)


def read_prepared(
    config: FinetuningOptions, chosen: Chosen, plan: CasePlan, scans: ScanStore
) -> tuple[list[Prepared], list[Prepared], Chosen]:
    """The training and the validation cases as the network sees them, and the files of those that are good."""
    cache = CaseCache(config.cache, plan, chosen.conventions) if config.cache else None

    def read(case: Case) -> Prepared:
        def anew() -> Prepared:
            return prepare(scans.read(case), plan)

        return cache.get(case, anew) if cache else anew()

    prepared: list[list[Prepared]] = []
    good: set[str] = set()
    for cases, what in ((chosen.training, "training"), (chosen.validation, "validation")):
        doing = f"preparing {what} cases"
        pairs = list(each_good(cases, read, doing, skip_bad=config.skip_bad)) if cases else []
        good |= {case.id for case, _ in pairs}
        prepared.append([ready for _, ready in pairs])
    print(f"{len(prepared[0])} training and {len(prepared[1])} validation cases")
    bad = {case.id for case in (*chosen.training, *chosen.validation) if case.id not in good}
    return prepared[0], prepared[1], _without(chosen, bad)


def _without(chosen: Chosen, bad: Collection[str]) -> Chosen:
    """The cases but for some bad ones, whose ids are noted."""

    def good(cases: Sequence[Case]) -> tuple[Case, ...]:
        return tuple(case for case in cases if case.id not in bad)

    return dataclasses.replace(
        chosen,
        training=good(chosen.training),
        validation=good(chosen.validation),
        skipped=(*chosen.skipped, *sorted(bad)),
    )
