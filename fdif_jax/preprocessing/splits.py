"""Which cases of a dataset are trained on and which validate, drawn so that a seed gives the same everywhere."""

from collections.abc import Sequence

import jax
import numpy as np

from fdif_jax.datasets.reader import Case
from fdif_jax.errors import FdifError
from fdif_jax.keys import stream

HELD_OUT = 5  # a fifth, where nobody says what to validate on


def fold(cases: Sequence[Case], folds: int, number: int, seed: int) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of one fold of a cross-validation; every case validates in one fold.

    FdifError for less than 2 folds, more than cases, or no such fold.
    """
    if not 2 <= folds <= len(cases):
        raise FdifError(f"{folds} folds of {len(cases)} cases: there must be from 2 to as many as cases")
    if not 0 <= number < folds:
        raise FdifError(f"fold {number} of {folds}: folds are numbered from 0 to {folds - 1}")
    held_out = set(_shuffled(len(cases), seed, "folds")[number::folds])
    parts = ([i for i in range(len(cases)) if (i in held_out) is part] for part in (False, True))
    training, validation = ([cases[i] for i in part] for part in parts)
    return training, validation


def listed_folds(cases: Sequence[Case]) -> list[int]:
    """The numbers of the folds that a dataset's list puts its cases in, ascending; none if it does not."""
    return sorted({case.fold for case in cases if case.fold is not None})


def listed_fold(cases: Sequence[Case], number: int) -> tuple[list[Case], list[Case]]:
    """Training and validation cases of a fold of the list, by its number; a case without one trains in every fold.

    FdifError if no case is left to train on.
    """
    training, validation = (
        [case for case in cases if (case.fold == number) is part] for part in (False, True)
    )
    if not training:
        raise FdifError(f"all {len(cases)} cases are of fold {number}: none is left to train on")
    return training, validation


def few(cases: Sequence[Case], number: int, seed: int) -> list[Case]:
    """So many random cases, all for 0; of one seed, fewer are among more; FdifError if there are not so many."""
    if number > len(cases):
        raise FdifError(f"{number} cases are asked for, of {len(cases)}")
    return [cases[i] for i in _shuffled(len(cases), seed, "cases")[:number]] if number else list(cases)


def apart(cases: Sequence[Case], number: int, held_out: int, seed: int) -> tuple[list[Case], list[Case]]:
    """The cases of `few`, or all others for 0, and ``held_out`` that are not among them, both from one list.

    FdifError if there are not so many.
    """
    if held_out < 1 or number + held_out >= len(cases) + bool(number):
        raise FdifError(
            f"{number or 'all other'} cases to train on and {held_out} to validate on cannot be had of {len(cases)}"
        )
    order = _shuffled(len(cases), seed, "cases")
    chosen, others = order[: number or -held_out], order[-held_out:]
    return [cases[i] for i in chosen], [cases[i] for i in others]


def _shuffled(number: int, seed: int, name: str) -> list[int]:
    return np.asarray(jax.random.permutation(stream(seed, name), number)).tolist()
