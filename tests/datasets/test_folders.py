"""Folders of files as people have them: every file is used or named, whatever its letters and wherever links lead."""

import json

import numpy as np
import pytest

from fdif_jax.datasets.folders import find_volumes
from fdif_jax.datasets.reader import list_cases, read_volume
from fdif_jax.errors import FdifError
from fdif_jax.inference.prediction import find_cases
from fdif_jax.io.b2nd import encode_b2nd
from fdif_jax.io.nifti import encode_nifti, write_nifti
from fdif_jax.io.volumes import VOLUMES
from fdif_jax.preprocessing.likeness import likeness_of
from fdif_jax.shapes import meshes

VOLUME = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
MADE = {"a.nii": False, "B.NII.GZ": True, "c.Nii.gz": True, "e.NII": False}


@pytest.fixture
def folder(tmp_path):
    """Volumes in letters of every size, a link that leads nowhere, and what is no volume."""
    folder = tmp_path / "scans"
    (folder / "more.nii.gz").mkdir(parents=True)
    for name, compress in MADE.items():
        (folder / name).write_bytes(encode_nifti(VOLUME, compress=compress))
    (folder / "d.B2ND").write_bytes(encode_b2nd(VOLUME))
    (folder / "gone.nii.gz").symlink_to(tmp_path / "annex" / "x")
    for name in ("scan.png", "notes.txt", ".hidden.nii.gz"):
        (folder / name).write_bytes(b"none")
    return folder


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def test_every_file_of_a_folder_is_used_or_named(folder, caplog):
    found = find_volumes(folder)
    assert {name + suffix for name, suffix in found.items()} == {*MADE, "d.B2ND", "gone.nii.gz"}
    (line,) = said(caplog)
    assert line.startswith(f"{folder}: left out, as no volumes ({VOLUMES}): more.nii.gz, notes.txt, scan.png")
    for name, suffix in found.items():
        if name != "gone":
            np.testing.assert_array_equal(read_volume(folder / f"{name}{suffix}").array, VOLUME)
    with pytest.raises(FdifError, match=r"gone\.nii\.gz: no such file: a link to .*annex/x"):
        read_volume(folder / "gone.nii.gz")
    with pytest.raises(FdifError, match=r"gone\.nii\.gz: no such file: a link"):
        likeness_of(folder)


def test_a_prediction_is_made_of_each(folder, tmp_path):
    cases = find_cases(folder, 1, tmp_path / "out")
    assert [case.out.name for case in cases] == [f"{n}.nii.gz" for n in ("B", "a", "c", "d", "e", "gone")]
    (one,) = find_cases(folder / "B.NII.GZ", 1, tmp_path)
    assert one.images == (folder / "B.NII.GZ",)


def test_one_scan_in_two_letters_is_refused(folder):
    (folder / "a.NII").write_bytes(b"")
    with pytest.raises(FdifError, match=r"there is a\.NII, too"):
        find_volumes(folder)


def test_files_of_no_case_of_a_raw_dataset_are_named(tmp_path, caplog):
    for inner, names in (
        ("imagesTr", ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.NII.GZ", "c.nii.gz")),
        ("labelsTr", ("a.nii.gz", "b.NII.GZ")),
    ):
        (tmp_path / inner).mkdir()
        for name in names:
            write_nifti(tmp_path / inner / name, VOLUME)
    document = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    training, _ = list_cases(tmp_path)
    assert [case.id for case in training] == ["a"]
    images, labels = said(caplog)
    assert images.endswith(
        "imagesTr: left out, as no .nii.gz files of cases of 1 channels: a_0001.nii.gz, "
        "b_0000.NII.GZ, c.nii.gz"
    )
    assert labels.endswith(": b.NII.GZ")


def test_files_that_are_no_shapes_are_named(tmp_path, caplog):
    (tmp_path / "livers").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "livers"
    (folder / "one.STL").write_bytes(b"")
    (folder / "one.mtl").write_bytes(b"")
    (folder / "linked").symlink_to(elsewhere)
    assert [path.name for *_, path in meshes._files(folder)] == ["one.STL"]
    (line,) = said(caplog)
    assert line.startswith(f"{folder}: left out, as no meshes or masks") and line.endswith(
        ": linked, one.mtl"
    )
    for name in ("one.STL", "two.obj"):
        (folder / name).write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        )
        with pytest.raises(FdifError, match=f"{name}: holds a pointer of Git LFS"):
            meshes.outline_of_mesh(folder / name)
    (folder / "two.ply").symlink_to(tmp_path / "nowhere.ply")
    with pytest.raises(FdifError, match=r"two\.ply: no such file: a link to"):
        meshes.vocabulary_of(folder, cache=False)
