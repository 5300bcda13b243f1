"""Segmentations, layered as 3D Slicer writes them and of DICOM, read as one label map with its segments' names."""

from dataclasses import replace

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from fdif_jax.datasets.conventions import IGNORE, Conventions
from fdif_jax.datasets.folders import find_volumes, is_one_scan
from fdif_jax.datasets.reader import Case, load_labels, read_intensities, read_label
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import volume_of, write_nifti
from fdif_jax.io.volumes import VolumeHeader, grown, read_volume, read_volume_header
from fdif_jax.preprocessing.scans import on_grid_of, space_of
from tests.helpers.dicom import write_series
from tests.helpers.segmentations import AFFINE, LABELS, NAMES, dicom_seg, slicer


def layers_of(*masks):
    return np.stack(masks).astype(np.uint8)


def test_layers_are_one_label_map(tmp_path):
    shared = np.where(LABELS < 3, LABELS, 0) * 5  # two segments share a layer
    path = slicer(
        tmp_path / "a.seg.nrrd",
        layers_of(shared, 9 * (LABELS == 3)),
        [("liver", 0, 5), ("left kidney", 0, 10), ("spleen", 1, 9)],
    )
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, np.array([0, 5, 10, 9])[LABELS])
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-12)
    assert volume.names == {5: "liver", 10: "left kidney", 9: "spleen"}
    header = read_volume_header(path)
    assert header.shape == volume.array.shape and header.dtype == volume.array.dtype
    # ITK sees the layers as components of one image, on the same grid.
    image = sitk.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 2 and image.GetSize() == LABELS.shape
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).sum(-1).T, volume.array)


def test_values_of_two_layers_that_are_alike_are_numbered(tmp_path):
    layers = layers_of(*(np.equal(LABELS, i) for i in NAMES))
    segments = [(name, layer, 1) for layer, name in enumerate(NAMES.values())]
    for path in (
        slicer(tmp_path / "a.seg.nrrd", layers, segments),
        slicer(tmp_path / "old.seg.nrrd", layers, [(name, None, None) for name in NAMES.values()]),
    ):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, LABELS)
        assert volume.names == NAMES
    single = read_volume(slicer(tmp_path / "b.seg.nrrd", LABELS, [(NAMES[i], 0, i) for i in NAMES]))
    np.testing.assert_array_equal(single.array, LABELS)
    assert single.names == NAMES and single.is_part


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("a", 0, 1), ("b", 1, 1)], r"its segments 'a' and 'b' overlap in \d+ voxels"),
        ([("a", 0, 1), ("b", 2, 1)], "segment 'b' is in layer 2 of 2"),
        ([("a", -1, 1)], "layer -1 of 2"),
        ([("a", "x", 1)], "damaged NRRD file"),
    ],
)
def test_what_is_no_label_map_is_one_line(tmp_path, segments, message):
    path = slicer(tmp_path / "a.seg.nrrd", layers_of(LABELS > 0, LABELS > 1), segments)
    with pytest.raises(FdifError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


CONVENTIONS = Conventions(("spleen", "Liver", "left kidney"))


def test_segments_are_the_classes_that_are_called_alike(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", LABELS, [(NAMES[i], 0, i) for i in NAMES])
    ids = np.array([0, 2, 3, 1])
    found = read_label(path, CONVENTIONS).array
    np.testing.assert_array_equal(found, ids[LABELS])
    assert found.dtype.kind == "i"
    strange = slicer(
        tmp_path / "b.seg.nrrd", LABELS, [("liver", 0, 1), ("left kidney", 0, 2), ("Milz", 0, 3)]
    )
    with pytest.raises(FdifError, match=r"its segment 'Milz' is called as no class .*0 background, 1 spleen"):
        read_label(strange, CONVENTIONS)
    other = slicer(tmp_path / "c.seg.nrrd", LABELS, [(f"Segment_{i}", 0, i) for i in NAMES])
    np.testing.assert_array_equal(read_label(other, CONVENTIONS).array, LABELS)
    ignoring = Conventions(("liver", "left kidney"), 9)
    ignored = slicer(
        tmp_path / "d.seg.nrrd", LABELS, [("ignore", 0, 1), ("liver", 0, 2), ("left kidney", 0, 3)]
    )
    np.testing.assert_array_equal(read_label(ignored, ignoring).array, np.array([0, IGNORE, 1, 2])[LABELS])
    with pytest.raises(
        FdifError, match=r"is a segmentation \(liver, left kidney, spleen\); a scan is needed"
    ):
        read_intensities(path)


@pytest.mark.parametrize("turned", [False, True])
def test_a_cropped_segmentation_lies_in_its_scans_grid(tmp_path, turned):
    label = np.zeros((11, 8, 7), np.uint8)
    label[2:10, 1:6, 3:7] = LABELS
    inner = AFFINE @ nib.affines.from_matvec(np.eye(3), (2, 1, 3))
    array = LABELS
    if turned:  # voxels in another order
        array, inner = (
            LABELS[::-1].transpose(2, 0, 1),
            inner @ np.array([[0, -1, 0, 7], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
        )
    path = slicer(tmp_path / "a.seg.nrrd", np.asfortranarray(array), [(NAMES[i], 0, i) for i in NAMES], inner)
    write_nifti(tmp_path / "image.nii.gz", label, AFFINE)
    case, plain = Case(tmp_path / "image.nii.gz", path, "a"), Conventions(("a", "b", "c"))
    (found,) = load_labels(case, label.shape, [plain])
    np.testing.assert_array_equal(found, label)
    space = space_of(case.image, volume_of(label, AFFINE))
    np.testing.assert_array_equal(on_grid_of(case.image, space, path, read_label(path, plain)), label)
    beyond = AFFINE @ nib.affines.from_matvec(np.eye(3), (0, 0, 4))
    with pytest.raises(FdifError, match=r"a\.seg\.nrrd: shape .*, but .*image\.nii\.gz has \(11, 8, 7\)"):
        on_grid_of(case.image, space_of(case.image, volume_of(label, beyond)), path, read_label(path, plain))
    between = nib.affines.from_matvec(np.eye(3), (0.3, 0, 0))
    moved = VolumeHeader(label.shape, label.dtype, AFFINE @ between)
    assert grown(path, read_volume(path), moved).array.shape == array.shape


# ---------------------------------------------------------------------------------------------- DICOM segmentations


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A scan, whose slices go up, as DICOM."""
    folder = tmp_path_factory.mktemp("dicom")
    return write_series(folder / "scan", LABELS.astype(np.int16), AFFINE @ np.diag([1, 1, -1, 1]))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("omit", [True, False])
def test_a_dicom_segmentation_is_the_label_map_that_highdicom_wrote(tmp_path, series, kind, omit):
    path = dicom_seg(series, tmp_path / "a.dcm", LABELS, kind, omit_empty_frames=omit)
    volume, scan = read_volume(path), read_volume(series)
    assert volume.names == NAMES and volume.array.dtype.kind == "u"
    assert volume.array.shape == (8, 5, 3 if omit else 4)  # the slice between is there, the lowest is not
    header = read_volume_header(path)
    assert header.shape == volume.array.shape and header.dtype == volume.array.dtype
    plain = Conventions(("a", "b", "c"))
    (found,) = load_labels(Case(series, path, "a"), scan.array.shape, [plain])
    np.testing.assert_array_equal(found, scan.array)  # the scan's numbers are the labels
    # highdicom's reader puts them in the same places, and ITK, which knows no label maps, finds as many voxels.
    theirs = hd.seg.segread(path).get_volume(combine_segments=True)
    placed = volume_of(theirs.array.astype(np.uint8), np.diag([-1.0, -1, 1, 1]) @ theirs.affine)
    whole = on_grid_of(series, space_of(series, scan), path, replace(placed, is_part=True))
    np.testing.assert_array_equal(whole, scan.array)
    if kind == "BINARY":
        frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert (frames > 0).sum() == (LABELS > 0).sum()


def test_segmentations_of_dicom_that_are_no_label_maps_are_refused(tmp_path, series):
    masks = np.stack([LABELS > 0, LABELS > 1, LABELS > 2], -1).transpose(2, 1, 0, 3)
    path = dicom_seg(series, tmp_path / "a.dcm", LABELS, masks=masks.astype(np.uint8))
    with pytest.raises(FdifError, match=r"a\.dcm: its segments 'liver' and 'left kidney' overlap"):
        read_volume(path)
    path = dicom_seg(series, tmp_path / "b.dcm", LABELS, "FRACTIONAL", masks=masks * 0.5)
    with pytest.raises(FdifError, match=r"b\.dcm: a segmentation of type FRACTIONAL is no label map"):
        read_volume(path)
    whole = dicom_seg(series, tmp_path / "c.dcm", LABELS).read_bytes()
    for data in (whole[:-3], whole[:700], whole[:400]):
        (tmp_path / "c.dcm").write_bytes(data)
        with pytest.raises(FdifError, match=r"c\.dcm: "):
            read_volume(tmp_path / "c.dcm")
    changed = pydicom.dcmread(tmp_path / "a.dcm")
    changed.Rows = changed.Columns = 60000
    changed.save_as(tmp_path / "d.dcm")
    with pytest.raises(FdifError, match=r"d\.dcm: truncated: \d+ bytes, \d+ expected"):
        read_volume(tmp_path / "d.dcm")
    changed = pydicom.dcmread(dicom_seg(series, tmp_path / "e.dcm", LABELS))
    changed.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [1, 2, 3.3]
    changed.save_as(tmp_path / "e.dcm")
    with pytest.raises(FdifError, match=r"e\.dcm: slices are .* mm apart, and .* from where one lies"):
        read_volume(tmp_path / "e.dcm")


def test_folders_of_segmentations(tmp_path, series):
    labels = tmp_path / "labels"
    labels.mkdir()
    one = dicom_seg(series, labels / "a.dcm", LABELS)
    assert find_volumes(labels, segmentations=True) == {"a": ".dcm"} and not is_one_scan(labels)
    assert find_volumes(labels) == {}  # where scans are looked for
    dicom_seg(series, labels / "b", LABELS)
    assert find_volumes(labels, segmentations=True) == {"a": ".dcm", "b": ""} and not is_one_scan(labels)
    (tmp_path / "folders/p1").mkdir(parents=True)
    (tmp_path / "folders/p1/IM0001").write_bytes(one.read_bytes())
    assert find_volumes(tmp_path / "folders", segmentations=True) == {"p1": ""}
    np.testing.assert_array_equal(read_volume(tmp_path / "folders/p1").array, read_volume(one).array)
    (both := tmp_path / "both").mkdir()
    for file in (*series.iterdir(), one):
        (both / file.name).write_bytes(file.read_bytes())
    np.testing.assert_array_equal(
        read_volume(both).array, read_volume(series).array
    )  # beside a scan it is left out
