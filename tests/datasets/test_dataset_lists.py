"""Decathlon lists and their cases: what is broken is found when it is read, and named."""

import json

import numpy as np
import pytest

from fdif_jax.datasets.conventions import Labels
from fdif_jax.datasets.reader import Case, load_dataset, load_labels
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti

GRID = (6, 7, 8)
DECATHLON = {
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "training": [{"image": "./im/a.nii.gz", "label": "./lb/a.nii.gz"}],
}


@pytest.fixture
def decathlon(tmp_path):
    """A one-case Decathlon dataset: writes its list, given as an object or as text."""
    for folder in ("im", "lb"):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "a.nii.gz", np.ones(GRID, np.uint8))

    def write(document):
        (tmp_path / "dataset.json").write_text(
            document if isinstance(document, str) else json.dumps(document)
        )
        return tmp_path / "dataset.json"

    return write


def test_decathlon_list(decathlon, tmp_path):
    tasks, labels, training, validation = load_dataset(decathlon(DECATHLON))
    assert tasks == (("class", ("liver", "tumour")),) and labels == (Labels(("liver", "tumour")),)
    assert training == [Case(tmp_path / "im/a.nii.gz", tmp_path / "lb/a.nii.gz", "a")] and validation == []


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not valid JSON"),
        ([], "holds no table"),
        ({**DECATHLON, "training": []}, "lists no training case"),
        ({"labels": DECATHLON["labels"], "test": []}, "neither 'training'"),
        ({"training": DECATHLON["training"]}, 'needs "labels"'),
        ({**DECATHLON, "training": {}}, "'training' must be a list"),
        ({**DECATHLON, "training": ["a.nii.gz"]}, r"training\[0\] needs 'image'"),
        ({**DECATHLON, "training": [{"image": "im/a.nii.gz"}]}, r"training\[0\] needs 'label'"),
        (
            {**DECATHLON, "validation": [{"image": "im/a.nii.gz", "label": "lb/b.nii.gz"}]},
            "no such file: .*lb/b.nii.gz",
        ),
    ],
)
def test_broken_lists(document, words, decathlon):
    with pytest.raises(FdifError, match=words) as error:
        load_dataset(decathlon(document))
    assert "dataset.json" in str(error.value)


def test_missing_list(tmp_path):
    with pytest.raises(FdifError, match=r"nowhere\.json: no such file"):
        load_dataset(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.zeros((6, 7, 9), np.uint8), r"shape \(6, 7, 9\)"),
        (
            np.full(GRID, 3, np.uint8),
            "label 3, which its dataset does not declare: 0 background, 1 liver, 2 tumour",
        ),
        (np.full(GRID, -2, np.int16), "label -2"),
        (np.full(GRID, 0.5, np.float32), r"label 0\.5; labels are whole"),
    ],
)
def test_bad_labels_are_found_when_a_case_is_read(label, words, decathlon):
    _, labels, (case,), _ = load_dataset(decathlon(DECATHLON))
    write_nifti(case.label, label)
    with pytest.raises(FdifError, match=words) as error:
        load_labels(case, GRID, labels)
    assert str(case.label) in str(error.value)


def test_float_labels_become_integers(decathlon):
    _, labels, (case,), _ = load_dataset(decathlon(DECATHLON))
    write_nifti(case.label, np.full(GRID, 2.0, np.float64))
    (label,) = load_labels(case, GRID, labels)
    assert label.dtype == np.int8 and (label == 2).all()


@pytest.mark.parametrize(
    ("further", "ignored", "dtype"),
    [
        ({}, -1, np.int16),
        ({"3": "ignore"}, 3, np.uint8),
        ({"255": "ignore"}, 255, np.uint8),
        ({"-1": "x"}, -1, np.int8),
    ],
)
def test_the_ignored_label_is_no_class_in_any_map(further, ignored, dtype, decathlon, tmp_path):
    numbers = DECATHLON["labels"] | further
    entry = DECATHLON["training"][0] | {"label_side": "lb/side.nii.gz"}
    label = np.arange(np.prod(GRID)).reshape(GRID) % 3
    write_nifti(tmp_path / "lb/side.nii.gz", label.astype(np.uint8))
    label[0] = ignored
    write_nifti(tmp_path / "lb/a.nii.gz", label.astype(dtype))
    listed = {"labels": numbers, "labels_side": {"none": 0, "left": 1, "right": 2}, "training": [entry]}
    tasks, labels, (case,), _ = load_dataset(decathlon(listed))
    assert tasks == (("label", ("liver", "tumour")), ("side", ("left", "right")))
    first, second = load_labels(case, GRID, labels)
    assert (first[0] == -1).all() and (first[1:] == label[1:]).all() and second.min() == 0


def test_of_many_classes_an_error_lists_none(decathlon):
    names = {str(i): f"class {i}" for i in range(300)}
    _, labels, (case,), _ = load_dataset(decathlon(DECATHLON | {"labels": names}))
    write_nifti(case.label, np.full(GRID, 300, np.int16))
    with pytest.raises(FdifError, match=r"label 300, which its dataset does not declare: 0 to 299$"):
        load_labels(case, GRID, labels)


def test_keys_of_others_that_look_like_labels_are_let_be(decathlon):
    listed = DECATHLON | {"training": [{**DECATHLON["training"][0], "label_quality": 3}]}
    assert load_dataset(decathlon(listed)).training[0].further_labels == ()
