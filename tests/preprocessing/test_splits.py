"""Which cases are trained on and which validate."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdif_jax.datasets.nnunet_raw import Split
from fdif_jax.datasets.reader import Case
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.splits import apart, few, fold, listed_folds


def _cases(number):
    return [Case(Path(f"im/{i}"), Path(f"lb/{i}"), str(i)) for i in range(number)]


@given(st.integers(2, 12), st.integers(0, 20), st.data())
@settings(max_examples=20, deadline=None)
def test_every_case_validates_in_one_fold_and_is_trained_on_in_the_others(number, seed, data):
    cases, folds = _cases(number), data.draw(st.integers(2, number))
    validated = []
    for part in range(folds):
        training, validation = fold(cases, folds, part, seed)
        assert sorted((*training, *validation)) == sorted(cases) and not set(training) & set(validation)
        assert number // folds <= len(validation) <= number // folds + 1
        validated += validation
    assert sorted(validated) == sorted(cases)
    assert fold(cases, folds, 0, seed) == fold(cases, folds, 0, seed)


@given(st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=9))
def test_folds_of_a_list_are_what_it_says_and_cases_without_one_always_train(folds):
    cases = [case._replace(fold=own) for case, own in zip(_cases(len(folds)), folds, strict=True)]
    found = listed_folds(cases, [Split(("0",), ("1",))] if any(own is not None for own in folds) else [])
    assert [one.number for one in found] == sorted({own for own in folds if own is not None})
    for number, training, validation in found:
        assert [case.fold for case in validation] == [number] * folds.count(number)
        assert [case.fold for case in training] == [own for own in folds if own != number]


def test_folds_of_a_file_beside_the_list_are_what_it_says():
    a, b, c, d = cases = _cases(4)
    splits = [Split(("0", "1"), ("3",)), Split(("2",), ())]
    assert listed_folds(cases, splits) == [(0, [a, b], [d]), (1, [c], [])]


def test_fewer_cases_are_among_more_and_none_of_them_validates():
    cases = _cases(9)
    chosen = [set(few(cases, number, 3)) for number in range(1, 10)]
    assert [len(c) for c in chosen] == list(range(1, 10))
    assert all(a < b for a, b in itertools.pairwise(chosen))
    assert few(cases, 0, 3) == cases
    assert few(cases, 3, 0) != few(cases, 3, 1)
    for number in (0, 2, 5):
        training, validation = apart(cases, number, 4, 3)
        assert len(training) == (number or 5) and len(validation) == 4
        assert not set(training) & set(validation)
        assert not number or set(training) == set(few(cases, number, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few(_cases(3), 4, 0), "4 cases are asked for, of 3"),
        (lambda: fold(_cases(3), 4, 0, 0), "4 folds of 3 cases"),
        (lambda: fold(_cases(3), 1, 0, 0), "1 folds of 3 cases"),
        (lambda: fold(_cases(3), 3, 3, 0), "fold 3 of 3: folds are numbered from 0 to 2"),
        (lambda: apart(_cases(6), 3, 4, 0), "3 cases to train on and 4 to validate on cannot be had of 6"),
        (lambda: apart(_cases(6), 0, 6, 0), "all other cases to train on and 6"),
        (lambda: apart(_cases(6), 3, 0, 0), "0 to validate on"),
    ],
)
def test_what_cannot_be_had(call, message):
    with pytest.raises(FdifError, match=message):
        call()
