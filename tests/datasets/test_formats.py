"""Other formats than NIfTI wherever volumes are read: lists, raw datasets, folders, banks, masks, scores."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from fdif_jax.anatomy.organ_masks import read_subject
from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import list_cases, load_channels, load_conventions, load_dataset, load_labels
from fdif_jax.errors import FdifError
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.io.nifti import encode_nifti, write_nifti
from fdif_jax.preprocessing.case_cache import CaseCache
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.likeness import likeness_of
from fdif_jax.preprocessing.normalisation import AsItIs
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scans import read_scan
from fdif_jax.scripts import browse, evaluate
from tests.helpers.dicom import write_series
from tests.helpers.formats import write_formats, write_itk

AFFINE = nib.affines.from_matvec(np.array([[0, 0, 2.5], [-0.8, 0, 0], [0, -0.8, 0]]), [10, -20, 30])
IMAGE = np.random.default_rng(0).integers(0, 500, (12, 10, 9)).astype(np.int16)
LABEL = np.random.default_rng(1).integers(0, 3, IMAGE.shape).astype(np.uint8)
LABELS = {"0": "background", "1": "a", "2": "b"}
# The same voxels as dcm2niix lays them: rows run the other way, and here slices, too.
TURNED = LABEL[:, ::-1, ::-1]
TURNED_AFFINE = AFFINE @ nib.affines.from_matvec(np.diag([1, -1, -1]), [0, 9, 8])


@pytest.fixture
def listed(tmp_path):
    """A list of DICOM series, one of them beside another, with label maps of another order of voxels."""
    write_series(tmp_path / "p1/dicom", IMAGE, AFFINE)
    write_series(tmp_path / "p2/dicom", IMAGE, AFFINE)
    write_series(tmp_path / "p2/dicom", IMAGE + 1, AFFINE, series="1.2.9", description="late")
    for name in ("p1", "p2"):
        write_nifti(tmp_path / name / "label.nii.gz", TURNED, TURNED_AFFINE)
    images = {"p1": "p1/dicom", "p2": "p2/dicom/late"}
    entries = [
        {"image": image, "label": f"{name}/label.nii.gz", "id": name} for name, image in images.items()
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS, "training": entries}))
    return tmp_path


def test_a_list_names_folders_and_series_of_dicom(listed):
    dataset = load_dataset(listed)
    conventions = load_conventions(listed)
    for number, case in enumerate(dataset.training):
        scan = read_scan(case, conventions)
        wanted, label = (
            np.asarray(nib.as_closest_canonical(nib.Nifti1Image(a, AFFINE)).dataobj)
            for a in (IMAGE + number, LABEL)
        )
        np.testing.assert_array_equal(scan.image[..., 0], wanted)
        np.testing.assert_array_equal(scan.label, label)
        image = load_channels(case)  # as pictures and pages show them
        np.testing.assert_array_equal(image[..., 0], IMAGE + number)
        np.testing.assert_array_equal(load_labels(case, image.shape[:3], dataset.labels)[0], LABEL)
    (listed / "dataset.json").write_text(
        (listed / "dataset.json").read_text().replace("dicom/late", "dcm/late")
    )
    with pytest.raises(FdifError, match=r"case p2: no such file: .*dcm/late"):
        load_dataset(listed)


def test_the_page_of_a_dataset_shows_dicom(listed):
    cases = browse.Cases(load_dataset(listed), "title")
    described = cases.describe(0)
    assert described["shape"] == IMAGE.shape and described["spacing"] == pytest.approx((0.8, 0.8, 2.5))
    voxels = [one["voxels"] for one in described["labels"][0]]
    assert voxels == np.bincount(LABEL.ravel())[1:].tolist()
    image, label = (nib.Nifti1Image.from_bytes(bytes(one)) for one in (cases.image(1, 0), cases.label(1, 0)))
    np.testing.assert_array_equal(np.asarray(image.dataobj), IMAGE + 1)
    np.testing.assert_array_equal(np.asarray(label.dataobj), LABEL)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)


def test_a_prepared_series_is_kept_until_one_of_its_slices_changes(listed, tmp_path):
    case, _ = list_cases(listed)[0]
    conventions, plan = Conventions(("a", "b")), CasePlan((0.8, 2.5, 0.8), (4, 4, 4), (AsItIs(),))
    cache, made = CaseCache(tmp_path / "cache", plan, conventions), []

    def anew():
        made.append(prepare(read_scan(case, conventions), plan))
        return made[-1]

    first = cache.get(case, anew)
    np.testing.assert_array_equal(cache.get(case, anew).image, first.image)
    assert len(made) == 1
    write_series(listed / "p1/dicom", IMAGE + 9, AFFINE)
    np.testing.assert_allclose(cache.get(case, anew).image, first.image + 9, rtol=1e-5)
    assert len(made) == 2


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_a_raw_dataset_of_nnunet_has_any_file_ending(tmp_path, ending, caplog):
    for name in ("case_1", "case_2"):
        write_itk(tmp_path / f"imagesTr/{name}_0000{ending}", IMAGE, AFFINE)
        write_itk(tmp_path / f"labelsTr/{name}{ending}", LABEL, AFFINE)
    document = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "file_ending": ending,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(document | {"numTraining": 2}))
    dataset = load_dataset(tmp_path)
    assert [case.id for case in dataset.training] == ["case_1", "case_2"] and not caplog.records
    scan = read_scan(dataset.training[1], load_conventions(tmp_path))
    assert scan.image.shape == (9, 12, 10, 1) and scan.space.spacing == pytest.approx((0.8, 0.8, 2.5))
    write_nifti(tmp_path / "labelsTr/case_1.nii.gz", LABEL)
    with pytest.raises(FdifError, match=rf"case_1\.nii\.gz: case case_1 is of \{ending} files"):
        load_dataset(tmp_path)


def test_scans_are_as_alike_in_every_format(tmp_path):
    paths = write_formats(tmp_path, "scan", IMAGE, AFFINE)
    expected = likeness_of(paths["nifti"].parent)
    for way in ("nrrd", "mhd", "mgz", "series", "multi-frame"):
        for path in {paths[way].parent, *([paths[way]] if way == "series" else [])}:
            found = likeness_of(path)
            assert found.cases == 1 and found.channel_names == expected.channel_names
            for one, other in zip(found.typical, expected.typical, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)


def test_masks_and_banks_take_every_format(tmp_path):
    paths = write_formats(tmp_path, "scan", LABEL, AFFINE)
    for way in ("nrrd", "seg.nrrd", "mha", "zraw", "mgz", "series"):
        mask = Mask.load(paths[way], 2)
        np.testing.assert_array_equal(mask.inside, LABEL == 2)
        np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    first, *others = (
        read_subject(paths[way], {1: "a", 2: "b"})[0] for way in ("nifti", "nrrd", "mha", "mgz", "series")
    )
    assert set(first.parts) == {"a", "b"}
    for other in others:
        np.testing.assert_allclose(other.corners, first.corners, atol=1e-4)
        for organ, part in first.parts.items():
            np.testing.assert_allclose(other.parts[organ].centroid, part.centroid, atol=1e-4)
            np.testing.assert_allclose(other.parts[organ].grid.values, part.grid.values, atol=1)
            assert other.parts[organ].volume == pytest.approx(part.volume)


def test_predictions_are_scored_against_labels_of_another_format(tmp_path):
    (tmp_path / "labels").mkdir()
    write_nifti(tmp_path / "labels/x.nii.gz", TURNED, TURNED_AFFINE)
    for end in ("nrrd", "mha"):
        write_itk(tmp_path / f"{end}/x.{end}", LABEL, AFFINE, compress=True)
        (pair,) = evaluate._pairs(
            evaluate.Config(tmp_path / end, tmp_path / "labels", tmp_path / "scores.csv")
        )
        maps = evaluate._read(pair, None)
        np.testing.assert_array_equal(maps.prediction, TURNED)
        np.testing.assert_array_equal(maps.label, TURNED)


def test_a_folder_of_slices_beside_volumes_is_not_taken_for_a_scan(tmp_path):
    write_series(tmp_path, IMAGE, AFFINE)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(encode_nifti(IMAGE, compress=False))))
    assert likeness_of(tmp_path).typical.shape.tolist() == [12, 10, 9]
