"""Segmentations of 3D Slicer and DICOM where commands take label maps."""

import csv
import json

import numpy as np
import pytest

from fdif_jax.anatomy.organ_masks import read_subject
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti
from fdif_jax.io.volumes import read_volume
from fdif_jax.scripts import evaluate
from fdif_jax.scripts.jobs.score_tables import names_of
from tests.helpers.dicom import write_series
from tests.helpers.segmentations import AFFINE, LABELS, NAMES, dicom_seg, slicer

GUESS = np.roll(LABELS, 1, axis=0)
UP = AFFINE @ np.diag([1, 1, -1, 1])  # slices of DICOM are in a right-handed order


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """The rows of an evaluation of files that ``fill`` writes into folders of predictions and labels."""

    def run(fill, **options):
        folder = tmp_path_factory.mktemp("evaluated")
        files = [folder / "predictions", folder / "labels"]
        for file in files:
            file.mkdir()
        fill(*files)
        evaluate.run(evaluate.Config(*files, folder / "scores.csv", worst=0, **options))
        return list(csv.DictReader((folder / "scores.csv").open()))

    return run


@pytest.fixture(scope="module")
def plain(scores):
    def fill(predictions, labels):
        write_nifti(predictions / "a.nii.gz", GUESS, UP)
        write_nifti(labels / "a.nii.gz", LABELS, UP)

    return scores(fill)


def without_names(rows):
    return [{key: value for key, value in row.items() if key != "class"} for row in rows]


def test_segmentations_score_as_label_maps_do_and_name_the_classes(scores, plain, tmp_path):
    series = write_series(tmp_path / "scan", LABELS.astype(np.int16), UP)

    def of_dicom(predictions, labels):
        dicom_seg(series, predictions / "a.dcm", GUESS)
        dicom_seg(series, labels / "a.dcm", LABELS)

    def of_slicer(predictions, labels):
        write_nifti(predictions / "a.nii.gz", GUESS, UP)
        slicer(labels / "a.seg.nrrd", LABELS[..., 1:], [(NAMES[i], 0, i) for i in NAMES], UP @ moved(0, 0, 1))

    for fill in (of_dicom, of_slicer):
        rows = scores(fill)
        assert [row["class"] for row in rows] == list(NAMES.values())
        assert without_names(rows) == without_names(plain)


def moved(*by):
    affine = np.eye(4)
    affine[:3, 3] = by
    return affine


def test_a_list_numbers_segments_by_their_names(scores, plain, tmp_path):
    """Slicer numbers segments as they come; the list's classes have their names."""
    listed = tmp_path / "dataset.json"
    listed.write_text(json.dumps({"labels": {"background": 0} | {name: i for i, name in NAMES.items()}}))

    def fill(predictions, labels):
        write_nifti(predictions / "a.nii.gz", GUESS, UP)
        shuffled = np.array([0, 7, 3, 5], np.uint8)
        slicer(
            labels / "a.seg.nrrd", shuffled[LABELS], [(NAMES[i], 0, int(shuffled[i])) for i in (3, 1, 2)], UP
        )

    rows = scores(fill, dataset=listed)
    assert without_names(rows) == without_names(plain)
    with pytest.raises(
        FdifError, match=r"b: calls label 1 'liver', and another file 'spleen'; give .* as --dataset"
    ):
        names_of([{tmp_path / "a": {1: "spleen"}}, {tmp_path / "b": {1: "liver"}}], [1])
    assert names_of([{tmp_path / "a": {1: "x", 2: "x"}}], [1, 2, 3]) == ("x 1", "x 2", "3")


def test_organs_are_called_as_segments(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", np.pad(LABELS, 3), [(NAMES[i], 0, i) for i in NAMES])
    subject, _ = read_subject(path, {1: "LIVER"}, min_voxels=1)
    assert set(subject.parts) == {"LIVER", "left kidney", "spleen"}


@pytest.mark.slow("outlines of label maps are compiled")
def test_a_segmentation_is_viewed_with_its_names(tmp_path):
    from fdif_jax.scripts.jobs.view_targets import Choice, views_of

    series = write_series(tmp_path / "scan", LABELS.astype(np.int16), UP)
    path = dicom_seg(series, tmp_path / "a.dcm", LABELS)
    (view,) = views_of(str(path), Choice())
    assert read_volume(path).names == NAMES
    assert set(NAMES.values()) <= set(view.legend)
