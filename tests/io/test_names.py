"""Names of files for whatever things are called: safe on every system, and each of them once."""

import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax.io.names import LONGEST, safe_name, unique_names
from tests.helpers.names import HOSTILE, names_no_other_file


@given(HOSTILE)
def test_a_safe_name_is_a_file_in_its_folder_everywhere_and_stays_as_it_is(text):
    name = safe_name(text)
    assert safe_name(name) == name
    if name:
        assert names_no_other_file(name)


@given(st.lists(HOSTILE, max_size=8), st.data())
def test_no_two_names_are_the_same_for_any_file_system(texts, data):
    folders = data.draw(st.lists(HOSTILE, min_size=len(texts), max_size=len(texts)) | st.just([]))
    names = unique_names(texts, folders)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names) == len(texts)
    assert all(map(names_no_other_file, filter(None, names)))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hippocampus_001", "hippocampus_001"),
        ("sub-1/ses-1", "sub-1_ses-1"),
        ("/data/sub-1.", "data_sub-1"),
        ("a\\b:c", "a_b_c"),
        ("Jörg 3", "Jörg 3"),
        ("NUL", "_NUL"),
        ("com1.5", "_com1.5"),
        ("console", "console"),
        ("a\tb\u202e", "a_b_"),
        ("../..", ""),
    ],
)
def test_what_becomes_of_a_name(text, name):
    assert safe_name(text) == name


def test_long_names_that_begin_alike_differ():
    one, two = safe_name("é" * 300 + "1"), safe_name("é" * 300 + "2")
    assert one != two and len(one.encode()) <= LONGEST and one.startswith("é" * 50)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["p1/image", "p2/image", "p3/other"], ["p1_image", "p2_image", "other"]),
        (["p1/mri/image", "p2/mri/image"], ["p1_image", "p2_image"]),
        (["p1/mri/image", "p1/ct/image", "p2/mri/image"], ["p1_mri_image", "p1_ct_image", "p2_mri_image"]),
        (["image", "p/image"], ["image", "p_image"]),
        (["p/image", "p/image"], ["image", "image_2"]),
        (["a_b/c", "a/b_c", "d/c", "d/b_c"], ["a_b_c", "a_b_c_2", "d_c", "d_b_c"]),
        (["x/a", "y/A", "z/x_a"], ["x_a", "y_A", "x_a_2"]),
    ],
)
def test_names_that_repeat_take_the_folders_in_which_they_differ(paths, names):
    paths = list(map(Path, paths))
    assert unique_names([path.name for path in paths], [path.parent for path in paths]) == names


def test_windows_takes_them():
    """What Python itself says of names there."""
    for text in ("con", "aux.nii", "LPT3", "a.", "b ", "c:d"):
        path = PureWindowsPath("x:/out") / safe_name(text)
        assert not path.is_reserved() and path.parent == PureWindowsPath("x:/out")
