"""Decathlon lists and their cases: what is broken is found when it is read, and named."""

import json

import numpy as np
import pytest

from fdif_jax.datasets.reader import Case, load_case, load_decathlon
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti

GRID = (6, 7, 8)
DECATHLON = {"training": [{"image": "./im/a.nii.gz", "label": "./lb/a.nii.gz"}]}


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
    training, validation = load_decathlon(decathlon(DECATHLON))
    assert training == [Case(tmp_path / "im/a.nii.gz", tmp_path / "lb/a.nii.gz", "a")] and validation == []


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not valid JSON"),
        ([], "holds no table"),
        ({"test": []}, "no key 'training'"),
        ({"training": {}}, "'training' must be a list"),
        ({"training": ["a.nii.gz"]}, r"training\[0\] needs 'image'"),
        ({"training": [{"image": "im/a.nii.gz"}]}, r"training\[0\] needs 'label'"),
        (
            {**DECATHLON, "validation": [{"image": "im/a.nii.gz", "label": "lb/b.nii.gz"}]},
            "no such file: .*lb/b.nii.gz",
        ),
    ],
)
def test_broken_lists(document, words, decathlon):
    with pytest.raises(FdifError, match=words) as error:
        load_decathlon(decathlon(document))
    assert "dataset.json" in str(error.value)


def test_missing_list(tmp_path):
    with pytest.raises(FdifError, match=r"nowhere\.json: no such file"):
        load_decathlon(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.zeros((6, 7, 9), np.uint8), r"shape \(6, 7, 9\)"),
        (np.full(GRID, 3, np.uint8), "label 3; 2 classes allow 0 to 2"),
        (np.full(GRID, -1, np.int16), "label -1"),
        (np.full(GRID, 0.5, np.float32), "not whole"),
    ],
)
def test_bad_labels_are_found_when_a_case_is_read(label, words, decathlon):
    case = load_decathlon(decathlon(DECATHLON))[0][0]
    write_nifti(case.label, label)
    with pytest.raises(FdifError, match=words) as error:
        load_case(case, 2)
    assert str(case.label) in str(error.value)


def test_float_labels_become_integers(decathlon):
    case = load_decathlon(decathlon(DECATHLON))[0][0]
    write_nifti(case.label, np.full(GRID, 2.0, np.float64))
    label = load_case(case, 2)[1].array
    assert label.dtype == np.int32 and (label == 2).all()


def test_keys_of_others_that_look_like_labels_are_let_be(decathlon):
    listed = {"training": [{**DECATHLON["training"][0], "label_quality": 3}]}
    assert load_decathlon(decathlon(listed))[0][0].further_labels == ()
