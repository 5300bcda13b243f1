"""What nnU-Net's raw datasets say beyond a folder of files: regions, explicit files, readers, folds."""

import json
from pathlib import Path

import numpy as np
import pytest

from fdif_jax.batches.files import FileSource
from fdif_jax.datasets.conventions import Conventions, Labels
from fdif_jax.datasets.reader import list_cases, list_splits, load_conventions, load_dataset
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti
from fdif_jax.preprocessing.spaces import labels_of_scores, paint

BRATS = {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3}
KITS = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2, "ignore": 4}
RAW = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def written(folder, document):
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder / "dataset.json"


# -------------------------------------------------------------------------------------------------- regions


def test_regions_are_what_nnunet_says(tmp_path):
    path = written(tmp_path, {"labels": KITS, "regions_class_order": [1, 3, 2]})
    found = load_conventions(path)
    assert found == Conventions(
        ("kidney", "masses", "tumor"), 4, regions=((1, 2, 3), (2, 3), (2,)), painted=(1, 3, 2)
    )
    assert found.ids == [-1, 0, 1, 2, 3, 4] and found.label_names == ("kidney", "tumor", "masses")
    assert Conventions.from_dict(json.loads(json.dumps(found.to_dict())), "run.json") == found


def test_a_list_of_one_label_alone_is_a_class(tmp_path):
    path = written(tmp_path, {"labels": {"background": 0, "a": [1], "b": 2}})
    assert load_conventions(path) == Conventions(("a", "b"))
    assert Conventions(("a", "b")).to_dict().keys() == {"class_names", "ignore", "channel_names"}


def test_labels_that_no_region_tells_apart_are_called_by_it_and_their_number():
    assert Labels(("all", "core"), regions=((1, 2, 3), (3,)), painted=(1, 3)).label_names == (
        "all (1)",
        "all (2)",
        "core",
    )


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (BRATS, None, r'"regions_class_order" beside it must list 3 labels.*not None'),
        (BRATS, [1, 2], r"must list 3 labels.*not \[1, 2\]"),
        (BRATS, [1, 2, "3"], "must list 3 labels"),
        (BRATS, [1, 2, 4], r"paints region 'enhancing' with label 4, which is none of its own, \[3\]"),
        (
            BRATS | {"core": [2, 5]},
            [1, 2, 3],
            r"must be 1, 2, …, without a gap, as nnU-Net's, not \[1, 2, 3, 5\]",
        ),
        (BRATS | {"core": []}, [1, 2, 3], r"region 'core' is \[\]; it must list one label or more"),
        (BRATS | {"core": [2, True]}, [1, 2, 3], "region 'core' is"),
        (
            BRATS | {"ignore": 3},
            [1, 2, 3],
            "region 'whole tumor' has label 3, which is ignored; leave it out",
        ),
        (BRATS | {"core": [-1, 2]}, [1, 2, 3], "region 'core' has label -1, which is ignored"),
        (BRATS | {"core": [0, 2]}, [1, 2, 3], "region 'core' has label 0, which is the background"),
        (BRATS | {"ignore": [4, 5]}, [1, 2, 3], "at most one label to ignore"),
        ({"whole": [1, 2]}, [1], 'needs "background": 0'),
    ],
)
def test_impossible_regions_are_refused(tmp_path, labels, order, words):
    path = written(tmp_path, {"labels": labels} | ({} if order is None else {"regions_class_order": order}))
    with pytest.raises(FdifError, match=rf'dataset\.json: "labels".*{words}') as error:
        load_conventions(path)
    assert "\n" not in str(error.value)


def test_files_with_regions_are_not_pretrained_on(tmp_path):
    for name in "xy":
        write_nifti(tmp_path / f"{name}.nii.gz", np.zeros((3, 3, 3), np.uint8))
    document = {"labels": BRATS, "regions_class_order": [1, 2, 3]}
    path = written(tmp_path, document | {"training": [{"image": "x.nii.gz", "label": "y.nii.gz"}]})
    assert load_dataset(path).tasks == (("class", ("whole tumor", "core", "enhancing")),)
    with pytest.raises(FdifError, match=r"dataset\.json: has regions, which `fdif finetune` learns"):
        FileSource(path, 1, 0)


def test_regions_of_a_further_map_are_refused(tmp_path):
    path = written(tmp_path, {"labels": {"background": 0, "a": 1}, "labels_side": BRATS, "training": []})
    with pytest.raises(FdifError, match='"labels_side" has regions, which only the first label map'):
        load_dataset(path)


@pytest.mark.parametrize(("labels", "order"), [(BRATS, [1, 2, 3]), (BRATS, [3, 2, 3]), (KITS, [1, 3, 2])])
def test_painting_is_nnunets(tmp_path, labels, order):
    handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    theirs = handling.LabelManager(labels, order)
    ours = load_conventions(written(tmp_path, {"labels": labels, "regions_class_order": order}))
    assert len(ours.members) == theirs.num_segmentation_heads and ours.ignore == theirs.ignore_label
    assert [(of,) if isinstance(of, int) else of for of in theirs.foreground_regions] == list(ours.members)
    logits = np.random.default_rng(0).normal(size=(3, 7, 6, 5)).astype(np.float32)
    expected = theirs.convert_logits_to_segmentation(logits)
    np.testing.assert_array_equal(paint(logits, ours.painted), expected)
    scores = np.moveaxis(logits, 0, -1)
    np.testing.assert_array_equal(labels_of_scores(scores, (7, 6, 5), ours.painted), expected)
    np.testing.assert_array_equal(
        paint(logits, ours.painted),
        theirs.convert_probabilities_to_segmentation(1 / (1 + np.exp(-logits.astype(np.float64)))),
    )


# ---------------------------------------------------------------------------------------------------- files


def test_a_case_is_the_files_that_dataset_names(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", str(tmp_path / "far"))
    listed = {
        "one": {"images": ["x/1.nii.gz", "x/2.nii"], "label": "y/1.nii.gz"},
        "sub-1/ses-1": {"images": ["$WHERE/1.nii.gz", "../2.nii.gz"], "label": "${WHERE}/l.nii.gz"},
    }
    path = written(tmp_path, RAW | {"dataset": listed, "numTraining": 2})
    (one, two), validation = list_cases(path)
    assert (
        one.images == (tmp_path / "x/1.nii.gz", tmp_path / "x/2.nii") and one.label == tmp_path / "y/1.nii.gz"
    )
    assert two.images == (tmp_path / "far/1.nii.gz", tmp_path / "../2.nii.gz")
    assert two.label == tmp_path / "far/l.nii.gz" and (one.id, two.id) == ("one", "sub-1_ses-1")
    assert validation == []
    written(path.parent, RAW | {"dataset": listed})
    (path.parent / "splits_final.json").write_text(json.dumps([{"train": ["one"], "val": ["sub-1/ses-1"]}]))
    assert list_splits(path, [one, two]) == [(("one",), ("sub-1_ses-1",))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": []}, '"dataset" must be a table of cases'),
        (
            {"dataset": {"one": {"images": ["x", "y"]}}},
            'case \'one\' needs "images", a list of files, and "label"',
        ),
        ({"dataset": {"one": {"images": "x", "label": "y"}}}, "case 'one' needs \"images\""),
        ({"dataset": {"one": ["x"]}}, "case 'one' needs \"images\""),
        ({"dataset": {"one": {"images": ["x"], "label": "y"}}}, 'has 1 images, but "channel_names" are 2'),
        ({"dataset": {"../one": {"images": ["x", "y"], "label": "z"}}}, "give it a name"),
        ({"dataset": {}, "numTraining": 3}, 'numTraining is 3, but "dataset" lists 0 cases'),
        ({"dataset": {}}, "lists no training case"),
        (
            {"overwrite_image_reader_writer": "Tiff3DIO"},
            "unknown overwrite_image_reader_writer of .* 'Tiff3DIO'; .*IO",
        ),
    ],
)
def test_what_a_raw_dataset_cannot_say_is_refused(tmp_path, change, words):
    with pytest.raises(FdifError, match=words) as error:
        list_cases(written(tmp_path, RAW | change))
    assert "dataset.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "None"])
def test_readers_of_volumes_are_ours(tmp_path, reader):
    path = written(tmp_path, RAW | {"channel_names": {"0": "CT"}, "overwrite_image_reader_writer": reader})
    for file in ("labelsTr/a.nii.gz", "imagesTr/a_0000.nii.gz"):
        (tmp_path / file).parent.mkdir()
        write_nifti(tmp_path / file, np.zeros((3, 3, 3), np.uint8))
    assert [case.id for case in list_cases(path)[0]] == ["a"]


# ---------------------------------------------------------------------------------------------------- folds


@pytest.fixture
def raw(tmp_path):
    """A raw dataset of four cases, whose files are empty."""
    listed = {name: {"images": [f"{name}.nii.gz"], "label": f"{name}_y.nii.gz"} for name in "abcd"}
    return written(tmp_path, RAW | {"channel_names": {"0": "CT"}, "dataset": listed})


def split(path: Path, splits):
    (path.parent / "splits_final.json").write_text(splits if isinstance(splits, str) else json.dumps(splits))
    return list_splits(path, list_cases(path)[0])


def test_splits_are_read_from_beside_the_list(raw):
    assert list_splits(raw, list_cases(raw)[0]) == []
    splits = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["d"], "val": ["a", "b"]}]
    assert split(raw, splits) == [(("a", "b"), ("c",)), (("d",), ("a", "b"))]


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ("[", "must list folds"),
        ([], "must list folds"),
        ({"train": ["a"], "val": ["b"]}, "must list folds"),
        ([{"train": ["a"]}], "must list folds"),
        ([{"train": "a", "val": ["b"]}], "must list folds"),
        ([{"train": ["a"], "val": [1]}], "must list folds"),
        ([{"train": ["a"], "val": ["e"]}], "fold 0 has case 'e', which is not in .*dataset.json"),
        (
            [{"train": ["a"], "val": ["b"]}, {"train": ["a", "b"], "val": ["b"]}],
            "fold 1 trains and validates on",
        ),
        ([{"train": [], "val": ["b"]}], "fold 0 has no case to train on"),
    ],
)
def test_impossible_splits_are_refused(raw, splits, words):
    with pytest.raises(FdifError, match=rf"splits_final\.json: {words}") as error:
        split(raw, splits)
    assert "\n" not in str(error.value)
