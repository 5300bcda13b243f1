"""Decathlon lists and their cases: what is broken is found when it is read, and named."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax.datasets.conventions import Labels
from fdif_jax.datasets.reader import Case, list_cases, load_channels, load_dataset, load_labels
from fdif_jax.errors import FdifError
from fdif_jax.io import remarks
from fdif_jax.io.nifti import write_nifti
from tests.helpers.names import HOSTILE, names_no_other_file

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
        (
            json.dumps(DECATHLON).replace('"1": "liver"', '"1": "liver", "1": "spleen"'),
            "the key '1' is there twice in one table",
        ),
        (json.dumps(DECATHLON)[:-1] + ', "training": []}', "the key 'training' is there twice"),
        (DECATHLON | {"labels": {"background": 0, "liver": 1.5, "tumour": 2}}, 'needs "labels"'),
        (DECATHLON | {"labels": {"background": 0, "liver": True, "tumour": 2}}, 'needs "labels"'),
        (
            DECATHLON | {"labels": {"0": "background", "1": "mean"}},
            "calls a class 'mean', as tables of scores",
        ),
        (DECATHLON | {"labels": {"0": "background", "1": " "}}, "has a class without a name"),
        ({**DECATHLON, "training": []}, "lists no training case"),
        ({"labels": DECATHLON["labels"], "test": []}, "neither 'training'"),
        ({"training": DECATHLON["training"]}, 'needs "labels"'),
        ({**DECATHLON, "training": {}}, "'training' must be a list"),
        ({**DECATHLON, "training": ["a.nii.gz"]}, r"training\[0\] needs 'image'"),
        ({**DECATHLON, "training": [{"image": "im/a.nii.gz"}]}, r"training\[0\] needs 'label'"),
        (
            DECATHLON | {"labels": {"0": "background", "1": "liver", "2": "liver"}},
            "calls two classes 'liver'",
        ),
        (
            DECATHLON | {"labels_../x": DECATHLON["labels"], "tasks": ["a", "../x"]},
            r"label maps \['a', '\.\./x'\]",
        ),
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


def test_a_label_or_channel_is_put_where_its_image_lies_or_refused(decathlon, tmp_path):
    """In the image's order where it is in another; as it is where one of the two is nowhere, in an identity."""
    _, labels, (case,), _ = load_dataset(decathlon(DECATHLON))
    array = np.arange(np.prod(GRID)).reshape(GRID)
    affine, flipped = np.diag([1.5, 2, 2.5, 1]), np.diag([-1.5, 2, 2.5, 1])
    flipped[0, 3] = 1.5 * (GRID[0] - 1)
    two = case._replace(further_images=(tmp_path / "im/second.nii.gz",))

    def read(values, where):
        write_nifti(two.image, array.astype(np.int16), affine)
        write_nifti(two.further_images[0], values.astype(np.int16), where)
        write_nifti(two.label, (values % 3).astype(np.uint8), where)
        return load_channels(two)[..., 1], load_labels(two, GRID, labels)[0]

    for values, where in ((array, affine), (array[::-1], flipped), (array, np.eye(4))):
        channel, label = read(values, where)
        np.testing.assert_array_equal(channel, array)
        np.testing.assert_array_equal(label, array % 3)
    elsewhere = affine.copy()
    elsewhere[1, 3] = 80
    for where in (elsewhere, np.diag([3.0, 3, 3, 1])):
        read(array, affine)
        write_nifti(two.label, array.astype(np.int16) % 3, where)
        with pytest.raises(
            FdifError, match=r"lb/a\.nii\.gz: its affine lays voxels up to .* of .*im/a\.nii\.gz"
        ):
            load_labels(two, GRID, labels)
        write_nifti(two.further_images[0], array.astype(np.int16), where)
        with pytest.raises(FdifError, match=r"im/second\.nii\.gz: its affine lays voxels up to"):
            load_channels(two)


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


# ------------------------------------------------------------------------------------------ what cases are called


def listed(tmp_path, *entries, **more):
    """The ids of the cases of a list with these entries, training then validation."""
    entries = [{"label": "l.nii.gz", "image": "i.nii.gz", **entry} for entry in entries]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries, **more}))
    return [case.id for cases in list_cases(tmp_path) for case in cases]


def test_cases_of_one_base_name_are_called_by_their_folders_too(tmp_path):
    further = [{"image": "patient_3/image.nii.gz", "label": "l.nii.gz"}]
    two = [{"image": f"patient_{k}/image.nii.gz"} for k in (1, 2)]
    assert listed(tmp_path, *two, validation=further) == [f"patient_{k}_image" for k in (1, 2, 3)]
    deep = [{"image": f"{site}/{k}/t1/image.nii"} for site in "ab" for k in (1, 2)]
    assert listed(tmp_path, *deep) == ["a_1_image", "a_2_image", "b_1_image", "b_2_image"]
    assert listed(tmp_path, two[0], two[0]) == ["image", "image_2"]


def test_an_image_that_is_listed_again_is_said(decathlon, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(remarks, "_made", set())
    (tmp_path / "im/link.nii.gz").symlink_to("a.nii.gz")
    a, again, other = ({"image": f"im/{name}.nii.gz", "label": "lb/a.nii.gz"} for name in ("a", "link", "b"))
    path = decathlon(DECATHLON | {"training": [a, other, a], "validation": [again, other | {"id": "c"}]})
    training, validation = list_cases(path)
    assert [case.id for case in (*training, *validation)] == ["a", "b", "a_2", "link", "c"]
    learnt, twice = (record.getMessage() for record in caplog.records)
    assert "validation cases that are training cases, too" in learnt and learnt.endswith(": link, c")
    assert "cases whose image is another case's" in twice and twice.endswith(": a_2")


def test_ids_of_a_list_are_names_of_files(tmp_path):
    ids = ["sub-1/ses-1", "sub-1_ses-1", "con", 7, "a", "A", None]
    made = ["sub-1_ses-1", "sub-1_ses-1_2", "_con", "7", "a", "A_2", "i"]
    assert listed(tmp_path, *({"id": id} for id in ids)) == made
    assert listed(tmp_path, *({"id": "x", "image": f"{k}/i.nii"} for k in "ab")) == ["a_x", "b_x"]


@pytest.mark.parametrize(
    "id", ["../../x", "..", "a/../b", "..\\x", "", " ", "/", "...", ["a"], {}, True, 1.5]
)
def test_ids_that_are_no_names_are_refused_with_their_entry(tmp_path, id):
    with pytest.raises(FdifError, match=r"dataset\.json: training\[1\]: 'id' (is|must be)") as error:
        listed(tmp_path, {}, {"id": id})
    assert "\n" not in str(error.value)


@given(
    st.lists(HOSTILE | st.integers(), max_size=5),
    st.lists(HOSTILE, max_size=5),
    st.lists(HOSTILE, max_size=2),
)
def test_nothing_a_list_says_is_written_outside(tmp_path_factory, ids, images, tasks):
    """Ids, image paths and names of label maps, which files are called after: refused, or each a plain file."""
    folder = tmp_path_factory.mktemp("hostile")
    entries = [{"id": id} for id in ids] + [{"image": image} for image in images]
    try:
        names = listed(folder, *entries, validation=[{"image": "i", "label": "l"}])
    except FdifError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(map(names_no_other_file, names))
        assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(entries) + 1
    numbers = {"none": 0, "one": 1}
    maps = {f"labels_{task}": numbers for task in tasks}
    entry = {"image": "i", "label": "l", **{f"label_{task}": "l" for task in tasks}}
    document = {"labels": numbers, **maps, "tasks": ["first", *tasks], "training": [entry]}
    (folder / "dataset.json").write_text(json.dumps(document))
    for name in "il":
        (folder / name).touch()
    try:
        maps = [task.name for task in load_dataset(folder).tasks]
    except FdifError:
        pass
    else:
        assert all(map(names_no_other_file, maps)) and len(set(maps)) == len(maps)


@given(st.lists(HOSTILE.map(lambda name: name.replace("/", "").replace("\0", "")), max_size=4))
def test_nothing_an_nnunet_folder_says_is_written_outside(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("hostile")
    document = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(document))
    (folder / "labelsTr").mkdir()
    for name in ("a", *names):
        try:
            (folder / f"labelsTr/{name}.nii.gz").touch()
        except (OSError, UnicodeEncodeError):  # no file can be called so
            continue
    ids = [case.id for case in list_cases(folder)[0]]
    seen = [file for file in (folder / "labelsTr").iterdir() if not file.name.startswith(".")]
    assert len(ids) == len(seen) and all(map(names_no_other_file, ids))
    assert len({unicodedata.normalize("NFC", id).casefold() for id in ids}) == len(ids)


def test_validation_cases_of_nnunet_that_are_called_as_training_cases_have_their_datasets_name(tmp_path):
    for dataset, names in (("Dataset007_Liver", "ab"), ("Dataset008_Liver_Val", "bc")):
        (tmp_path / dataset / "labelsTr").mkdir(parents=True)
        (tmp_path / dataset / "dataset.json").write_text('{"channel_names": {"0": "CT"}}')
        for name in names:
            (tmp_path / dataset / "labelsTr" / f"{name}.nii.gz").touch()
    training, validation = ([case.id for case in cases] for cases in list_cases(tmp_path))
    assert training == ["a", "b"] and validation == ["Dataset008_Liver_Val_b", "Dataset008_Liver_Val_c"]


@pytest.mark.parametrize("file", ["labelsTr/a.nii", "imagesTr/a_0000.nii"])
def test_a_case_of_nnunet_in_two_files_of_other_endings_is_refused(tmp_path, file):
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}}')
    for one in ("labelsTr/a.nii.gz", "imagesTr/a_0000.nii.gz", file):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).touch()
    with pytest.raises(FdifError, match=rf"{file}: case a is of \.nii\.gz files"):
        list_cases(tmp_path)


@pytest.mark.parametrize("fold", ["0", -1, 1.0, True, [0]])
def test_a_fold_that_is_no_number_is_refused(tmp_path, fold):
    with pytest.raises(FdifError, match=r"training\[1\]: 'fold' must be a whole number from 0"):
        listed(tmp_path, {"fold": 0}, {"fold": fold})
