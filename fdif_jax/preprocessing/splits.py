"""Which cases of a dataset are trained on and which validate, drawn so that a seed gives the same everywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fdif_jax.datasets.nnunet_raw import Split
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


class ListedFold(NamedTuple):
    """A fold that a dataset makes: its number, and the cases that train and validate in it."""

    number: int
    training: list[Case]
    validation: list[Case]


def listed_folds(cases: Sequence[Case], splits: Sequence[Split] = ()) -> list[ListedFold]:
    """The folds that a dataset puts its cases in, by number: of the cases' own ``fold``, or else of ``splits``.

    By their own, a case validates in one fold and trains in all others; one without trains in every fold. By splits
    each fold says it of every case, and takes no other.
    """
    numbers = sorted({case.fold for case in cases if case.fold is not None})
    if numbers:
        halves = (False, True)
        return [
            ListedFold(number, *([c for c in cases if (c.fold == number) is half] for half in halves))
            for number in numbers
        ]
    by_id = {case.id: case for case in cases}
    return [
        ListedFold(number, *([by_id[name] for name in part] for part in split))
        for number, split in enumerate(splits)
    ]


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
