"""Real cases read: conventions of the Decathlon and nnU-Net, and one clear line for whatever is wrong with a file."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from fdif_jax.datasets.conventions import IGNORE, Conventions
from fdif_jax.datasets.reader import Case, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.fingerprints import fingerprint, measure, plan_cases
from fdif_jax.preprocessing.scans import read_image, read_scan

SHAPE = (7, 6, 5)
AFFINE = nib.affines.from_matvec(np.array([[0, -2.0, 0], [1, 0, 0], [0, 0, 3]]), [10, 20, 30])
TWO = Conventions(("liver", "tumour"))


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    image = save(tmp_path / "a_0000.nii.gz", rng.standard_normal(SHAPE).astype(np.float32))
    label = save(tmp_path / "a.nii.gz", rng.integers(0, 3, SHAPE).astype(np.uint8))
    return Case(image, label, "a")


# --------------------------------------------------------------------------------------------- conventions


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"labels": {"0": "background", "1": "a", "2": "b"}}, Conventions(("a", "b"))),
        ({"labels": {"background": 0, "b": 2, "a": 1}, "modality": {"0": "CT"}}, (("a", "b"), None, ("CT",))),
        (
            {"labels": {"background": 0, "a": 1, "ignore": 2}, "channel_names": {"0": "T1", "1": "T2"}},
            (("a",), 2, ("T1", "T2")),
        ),
        ({"labels": {"background": 0, "a": 1, "ignore": -1}}, Conventions(("a",))),
        ({"labels": {"-1": "unlabelled", "0": "background", "1": "a"}}, Conventions(("a",))),
    ],
)
def test_conventions_of_either_kind(tmp_path, document, expected):
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    expected = Conventions(*expected) if isinstance(expected, tuple) else expected
    assert load_conventions(tmp_path) == load_conventions(tmp_path / "dataset.json") == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, 'needs "labels"'),
        ({"labels": {"background": 0, "a": 2}}, "must number the classes"),
        ({"labels": {"background": 0}}, "must number the classes"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "must number the classes"),
        ({"labels": {"0": "background", "1": "a"}, "channel_names": {"1": "CT"}}, "must number the channels"),
        ({"labels": {"0": "background", "1": "a"}, "modality": ["CT"]}, "must number the channels"),
    ],
)
def test_impossible_conventions_are_refused(tmp_path, document, message):
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(FdifError, match=rf"dataset\.json.*{message}"):
        load_conventions(tmp_path)


# ---------------------------------------------------------------------------------------------------- scans


def test_a_scan_has_canonical_axes_and_remembers_its_own(case):
    scan = read_scan(case, TWO)
    for found, path in ((scan.image[..., 0], case.image), (scan.label, case.label)):
        wanted = nib.as_closest_canonical(nib.load(path))
        np.testing.assert_array_equal(found, np.asarray(wanted.dataobj))
    assert scan.image.dtype == np.float32 and scan.label.dtype == np.int8
    np.testing.assert_allclose(scan.space.affine, AFFINE)
    alone = read_image("a", case.images, TWO)
    assert alone.label is None and (alone.image == scan.image).all()


def test_channels_are_files_or_a_fourth_axis(case, tmp_path):
    conventions = Conventions(("liver", "tumour"), None, ("T1", "T2"))
    array = np.random.default_rng(1).standard_normal((*SHAPE, 2)).astype(np.float32)
    together = case._replace(image=save(tmp_path / "b.nii.gz", array))
    apart = [save(tmp_path / f"b_{c:04d}.nii", np.ascontiguousarray(array[..., c])) for c in range(2)]
    apart_case = case._replace(image=apart[0], further_images=(apart[1],))
    image = read_scan(together, conventions).image
    assert image.shape == (6, 7, 5, 2)
    np.testing.assert_array_equal(image, read_scan(apart_case, conventions).image)
    with pytest.raises(FdifError, match=r"b\.nii\.gz: 2 channels, but its dataset has 1 \(image\)"):
        read_scan(together, TWO)
    moved = save(tmp_path / "b_0001.nii", array[..., 1], AFFINE + np.eye(4)[[3, 0, 1, 2]].T)
    with pytest.raises(FdifError, match=r"b_0001\.nii: its affine"):
        read_scan(apart_case._replace(further_images=(moved,)), conventions)


@pytest.mark.parametrize("ignored", [-1, 3, 9])
def test_ignored_voxels_are_told_by_their_own_number(case, ignored):
    labels = np.zeros(SHAPE, np.int16)
    labels[0], labels[1], labels[2] = 1, 2, ignored
    save(case.label, labels.astype(np.float32))
    found = read_scan(case, Conventions(("liver", "tumour"), None if ignored < 0 else ignored)).label
    assert set(np.unique(found)) == {IGNORE, 0, 1, 2}
    assert (found == IGNORE).sum() == 30


def _missing_label(case):
    case.label.unlink()


def _other_shape(case):
    save(case.label, np.ones((7, 6, 4), np.uint8))


def _other_affine(case):
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    save(case.label, np.ones(SHAPE, np.uint8), moved)


def _flipped(case):
    save(case.label, np.ones(SHAPE, np.uint8), AFFINE @ np.diag([-1, 1, 1, 1]))


def _nan(case):
    image = np.ones(SHAPE, np.float32)
    image[3, 3, 3] = np.nan
    save(case.image, image)


def _ignored(case):
    save(case.label, np.full(SHAPE, -1, np.int16))


def _dangling(case):
    case.image.unlink()
    case.image.symlink_to("annex/scan.nii.gz")


def _lfs(case):
    case.image.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def _page(case):
    case.image.write_bytes(b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>")


def _negative_spacing(case):
    header = bytearray(gzip.decompress(case.image.read_bytes()))
    header[80:84] = np.float32(-1.5).tobytes()  # pixdim[1]
    case.image.write_bytes(gzip.compress(header))


def _undeclared(case):
    save(case.label, np.full(SHAPE, 7, np.uint8))


def _fraction(case):
    save(case.label, np.full(SHAPE, 0.5, np.float32))


def _negative(case):
    save(case.label, np.full(SHAPE, -2, np.int16))


def _huge(case):
    save(case.label, np.full(SHAPE, 1e9, np.float32))


def _two_axes(case):
    save(case.image, np.ones((7, 6), np.float32))


def _slice(case):
    save(case.image, np.ones((7, 6, 1), np.float32))


def _one_voxel(case):
    save(case.image, np.ones((1, 1, 1), np.float32))


def _flat(case):
    flat = AFFINE.copy()
    flat[:3, 1] = flat[:3, 0] * (1 + 1e-7)  # two axes in one direction, but for rounding
    flat[0, 1] = 1e-16
    nib.save(nib.Nifti2Image(np.ones(SHAPE, np.float32), flat), case.image)  # keeps it in float64


def _truncated(case):
    case.image.write_bytes(case.image.read_bytes()[:300])


def _no_spacing(case):
    header = bytearray(gzip.decompress(case.image.read_bytes()))
    header[76:108] = bytes(32)  # pixdim
    header[252:256] = bytes(4)  # no qform, no sform: the spacing is all there is
    case.image.write_bytes(gzip.compress(header))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_missing_label, r"a\.nii\.gz: no such file"),
        (_other_shape, r"a\.nii\.gz: shape \(7, 6, 4\), but .*a_0000\.nii\.gz has \(7, 6, 5\)"),
        (_other_affine, r"a\.nii\.gz: its affine lays voxels up to 0\.5 voxels from .*a_0000\.nii\.gz"),
        (_flipped, r"a\.nii\.gz: its affine lays voxels up to 12 voxels"),
        (_nan, r"a_0000\.nii\.gz: holds NaN"),
        (_ignored, r"a\.nii\.gz: ignores every voxel"),
        (_dangling, r"a_0000\.nii\.gz: no such file: a link to annex/scan\.nii\.gz, which is not there"),
        (_lfs, r"a_0000\.nii\.gz: holds a pointer of Git LFS .*`git lfs pull`"),
        (_page, r"a_0000\.nii\.gz: holds a web page"),
        (_negative_spacing, r"a_0000\.nii\.gz: spacing \(-1\.5, .*\) mm is negative"),
        (_undeclared, r"a\.nii\.gz: holds label 7, .* declare: 0 background, 1 liver, 2 tumour"),
        (_fraction, r"a\.nii\.gz: holds label 0\.5; labels are whole numbers"),
        (_negative, r"a\.nii\.gz: holds label -2,"),
        (_two_axes, r"a_0000\.nii\.gz: shape \(7, 6\); a volume of 3 or 4 axes is needed"),
        (_slice, r"a_0000\.nii\.gz: shape \(7, 6, 1\); a volume has at least 2 voxels along every axis"),
        (_one_voxel, r"a_0000\.nii\.gz: shape \(1, 1, 1\); a volume has at least 2"),
        (_flat, r"a_0000\.nii\.gz: .*cannot be inverted"),
        (_huge, r"a\.nii\.gz: holds label 1e\+09,"),
        (_truncated, r"a_0000\.nii\.gz: truncated"),
        (_no_spacing, r"a_0000\.nii\.gz: spacing \(0, 0, 0\) mm; it must be 1e-06 to 100 mm"),
    ],
)
def test_what_is_wrong_with_a_case_is_one_line_that_names_the_file(case, damage, message):
    damage(case)
    with pytest.raises(FdifError, match=message) as caught:
        read_scan(case, TWO)
    assert "\n" not in str(caught.value)


def test_labels_that_are_whole_but_for_rounding_are_rounded_and_that_is_said_once(case, caplog):
    labels = np.zeros(SHAPE, np.float32)
    labels[0], labels[1], labels[2] = np.nextafter(np.float32(1), 0), 1.9991, -0.0004
    save(case.label, labels)
    for _ in range(2):
        found = read_scan(case, TWO).label
    assert dict(zip(*np.unique(found, return_counts=True), strict=True)) == {0: 150, 1: 30, 2: 30}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{case.label}: holds label 1.9991; such labels are rounded, here to 2"


def test_a_healthy_scan_is_background(case):
    """Its intensities count only where no scan shows any foreground."""
    sick = measure(read_scan(case, TWO), 0, 2)
    save(case.label, np.zeros(SHAPE, np.uint8))
    scan = read_scan(case, TWO)
    assert scan.label.max() == scan.label.min() == 0
    healthy = measure(scan, 1, 2)
    assert np.isnan(healthy.centres).all() and len(healthy.foreground) == np.count_nonzero(scan.image)
    ct = Conventions(TWO.class_names, None, ("CT",))
    for cases, voxels, said in (
        ([sick, healthy], sick.foreground, "the foreground"),
        ([healthy], healthy.foreground, "the scans, in which nothing is labelled"),
    ):
        plan = plan_cases(fingerprint(cases, ct), (2, 2, 2))
        np.testing.assert_allclose(plan.channels[0].window, np.percentile(voxels, [0.5, 99.5]))
        assert any(said in reason for reason in plan.reasons)


def test_a_gap_in_declared_labels_is_no_label(case):
    save(case.label, np.full(SHAPE, 5, np.uint8))
    with pytest.raises(FdifError, match="holds label 5"):
        read_scan(case, Conventions(("liver", "tumour"), 9))
