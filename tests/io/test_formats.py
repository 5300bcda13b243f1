"""Every format of volumes, against SimpleITK, nibabel and pydicom; what is wrong with a file is one line."""

import gzip
import re
import sys
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from fdif_jax.errors import FdifError
from fdif_jax.io import memory
from fdif_jax.io.nifti import encode_nifti
from fdif_jax.io.volumes import encode_like, files_of, format_of, read_volume, read_volume_header
from tests.helpers.dicom import geometry, write_multiframe, write_series
from tests.helpers.formats import to_itk, write_formats, write_itk
from tests.helpers.paths import HIPPOCAMPUS

OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() @ np.diag([0.5, 1.5, 3]),
    [10, -20, 30.25],
)
FLIPPED = nib.affines.from_matvec(np.array([[0, -1.5, 0], [0, 0, 2.0], [0.5, 0, 0]]), [7, -8, 9])
ARRAY = np.random.default_rng(0).integers(-90, 900, (7, 6, 5)).astype(np.int16)
WAYS = ["nifti", "mgz", "nrrd", "nhdr", "seg.nrrd", "mha", "mhd", "zraw", "series", "multi-frame"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A made scan in two spaces, and a part of a real one, in every format."""
    folder = tmp_path_factory.mktemp("formats")
    real = nib.load(HIPPOCAMPUS / "imagesTr/hippocampus_001.nii.gz")
    scans = {
        "oblique": (ARRAY, OBLIQUE),
        "flipped": (ARRAY, FLIPPED),
        "hippocampus": (np.asarray(real.dataobj)[::2, ::3, ::4], real.affine @ np.diag([2, 3, 4, 1])),
    }
    return {name: (*scan, write_formats(folder / name, "scan", *scan)) for name, scan in scans.items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scan", ["oblique", "flipped", "hippocampus"])
def test_a_scan_is_the_same_in_every_format(written, scan, way):
    array, affine, paths = written[scan]
    volume = read_volume(paths[way])
    if scan == "flipped" and way in (
        "series",
        "multi-frame",
    ):  # slices of DICOM are always in a right-handed order
        array, affine = array[:, :, ::-1], affine @ nib.affines.from_matvec(np.diag([1, 1, -1]), [0, 0, 4])
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=2e-6)  # NIfTI and MGH have it in float32
    np.testing.assert_allclose(volume.spacing, nib.affines.voxel_sizes(affine), rtol=1e-6)
    header = read_volume_header(paths[way])
    assert header.shape == volume.array.shape and header.dtype == volume.array.dtype
    np.testing.assert_array_equal(header.affine, volume.affine)
    assert volume.array.dtype == array.dtype


@pytest.mark.parametrize("way", ["nrrd", "mha", "mgz", "series", "multi-frame"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_labels_and_maps_are_written_in_the_scans_format_and_on_its_grid(written, tmp_path, way, dtype):
    _, affine, paths = written["oblique"]
    labels = np.random.default_rng(1).integers(0, 200, ARRAY.shape).astype(dtype)
    end = format_of(paths[way]).answer
    assert end == {"nrrd": ".nrrd", "mha": ".mha", "mgz": ".mgz"}.get(way, ".nii.gz")
    (out := tmp_path / f"a{end}").write_bytes(encode_like(paths[way], labels))
    if end in (".nrrd", ".mha"):
        found, expected = sitk.ReadImage(str(out)), to_itk(labels, affine)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found).T, labels)
        for of in ("GetOrigin", "GetSpacing", "GetDirection", "GetPixelID"):
            np.testing.assert_allclose(getattr(found, of)(), getattr(expected, of)(), atol=1e-12)
    else:
        found = nib.load(out)
        np.testing.assert_array_equal(np.asarray(found.dataobj), labels)
        np.testing.assert_allclose(found.affine, affine, atol=2e-6)
    again = read_volume(out)
    np.testing.assert_array_equal(again.array, labels)
    np.testing.assert_allclose(again.affine, affine, atol=2e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("end", ["nrrd", "mha"])
def test_every_type_of_numbers_is_read_and_channels_are_the_last_axis(tmp_path, dtype, end):
    array = np.random.default_rng(0).integers(0, 100, (4, 3, 2)).astype(dtype)
    volume = read_volume(write_itk(tmp_path / f"a.{end}", array, OBLIQUE))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, array)
    several = np.stack([array, array[::-1]], axis=-1)
    image = sitk.Compose([to_itk(several[..., c], OBLIQUE) for c in range(2)])
    sitk.WriteImage(image, str(tmp_path / f"b.{end}"))
    volume = read_volume(tmp_path / f"b.{end}", allow_4d=True)
    np.testing.assert_array_equal(volume.array, several)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-12)
    with pytest.raises(FdifError, match=rf"b\.{end}: shape \(4, 3, 2, 2\); a volume of 3 axes is needed"):
        read_volume(tmp_path / f"b.{end}")


def test_frames_of_mgh_are_channels(tmp_path):
    several = np.stack([ARRAY, ARRAY + 1], axis=-1)
    nib.save(nib.MGHImage(several, OBLIQUE), tmp_path / "a.mgh")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mgh", allow_4d=True).array, several)


NRRD = {
    "type": "short", "dimension": "3", "space": "RAS", "sizes": "7 6 5", "endian": "little", "encoding": "raw",
    "space directions": "(0,0,.5) ( -1.5 , 0, 0) (0,2,0)", "space origin": "(7,-8,9)",
}  # fmt: skip
LITTLE, BIG = (ARRAY.astype(order).tobytes(order="F") for order in ("<i2", ">i2"))
META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "DimSize": "7 6 5", "ElementSpacing": "0.5 1.5 2",
    "ElementType": "MET_SHORT", "TransformMatrix": "0 0 1 1 0 0 0 -1 0", "Offset": "-7 8 9", "ElementDataFile": "LOCAL",
}  # fmt: skip


def nrrd_of(data=LITTLE, **changes):
    fields = {k: v for k, v in (NRRD | changes).items() if v is not None}
    return (
        "".join(["NRRD0005\n# made by hand\n", *(f"{k}: {v}\n" for k, v in fields.items()), "\n"]).encode()
        + data
    )


def meta_of(data=LITTLE, **changes):
    last = {"ElementDataFile": changes.pop("ElementDataFile", "LOCAL")}
    fields = {k: v for k, v in (META | changes).items() if v is not None and k not in last} | last
    return "".join(f"{k} = {v}\n" for k, v in fields.items()).encode() + data


@pytest.mark.parametrize(
    ("name", "contents"),
    {
        "as it is": ("a.nrrd", nrrd_of()),
        "of ITK": ("a.nrrd", nrrd_of(**{
            "space": "left-posterior-superior", "space origin": "(-7,8,9)",
            "space directions": "(0,0,.5) (1.5,0,0) (0,-2,0)",
        })),
        "of no space": ("a.nrrd", nrrd_of(**{
            "space": None, "dimension": "3\nspace dimension: 3", "space origin": "(-7,8,9)",
            "space directions": "(0,0,.5) (1.5,0,0) (0,-2,0)",
        })),
        "to the left": ("a.nrrd", nrrd_of(**{
            "space": "LAS", "space origin": "(-7,-8,9)", "space directions": "(0,0,.5) (1.5,0,0) (0,2,0)"
        })),
        "in micrometres": ("a.nrrd", nrrd_of(**{
            "space units": '"um" "um" "um"', "space origin": "(7e3,-8e3,9e3)",
            "space directions": "(0,0,500) (-1500,0,0) (0,2000,0)",
        })),
        "big endian": ("a.nrrd", nrrd_of(BIG, endian="big", type="signed short int")),
        "deflated, after 3 bytes": (
            "a.nrrd", nrrd_of(gzip.compress(b"abc" + LITTLE), encoding="gz", **{"byte skip": "3"}),
        ),
        "at the end": ("a.nrrd", nrrd_of(b"whatever" + LITTLE, **{"byte skip": "-1"})),
        "with texts": ("a.nrrd", nrrd_of(**{"Segment0_Name:=a": "b", "content": "x: y"})),
        "MetaImage": ("a.mha", meta_of()),
        "MetaImage, big endian": ("a.mha", meta_of(BIG, BinaryDataByteOrderMSB="True")),
        "MetaImage, older names": ("a.mha", meta_of(
            TransformMatrix=None, Orientation=META["TransformMatrix"], Offset=None, Position="-7 8 9",
            ElementSpacing=None, ElementSize="0.5 1.5 2",
        )),
        "MetaImage, at the end": ("a.mha", meta_of(b"whatever" + LITTLE, HeaderSize="-1")),
        "MetaImage, deflated": ("a.mha", meta_of(
            zlib.compress(LITTLE), CompressedData="True", CompressedDataSize=len(zlib.compress(LITTLE)),
        )),
    }.values(),
)  # fmt: skip
def test_what_headers_may_say(tmp_path, name, contents):
    (tmp_path / name).write_bytes(contents)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, FLIPPED, atol=1e-12)
    # ITK reads a header made by hand as we do, but for units and skipped bytes, which it does not know or not there.
    if b"um" not in contents and b"byte skip" not in contents and b"whatever" not in contents:
        image = sitk.ReadImage(str(tmp_path / name))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, ARRAY)
        np.testing.assert_allclose(image.GetOrigin(), (-7, 8, 9))
        np.testing.assert_allclose(image.GetDirection(), (0, 1, 0, 0, 0, -1, 1, 0, 0))


def test_spacings_alone_and_channels_before_space(tmp_path):
    fields = {"space": None, "space directions": None, "space origin": None, "spacings": "0.5 1.5 2"}
    (tmp_path / "a.nrrd").write_bytes(nrrd_of(**fields))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").affine, np.diag([-0.5, -1.5, 2, 1]))
    layers = np.stack([ARRAY, -ARRAY]).astype("<i2")
    layered = {"dimension": "4", "sizes": "2 7 6 5", "space directions": "none " + NRRD["space directions"]}
    (tmp_path / "b.nrrd").write_bytes(nrrd_of(layers.tobytes(order="F"), **layered))
    volume = read_volume(tmp_path / "b.nrrd", allow_4d=True)
    np.testing.assert_array_equal(volume.array, np.moveaxis(layers, 0, -1))
    np.testing.assert_allclose(volume.affine, FLIPPED, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- refusals

HUGE = "99999 99999 99999"
REFUSED = {
    "an empty nrrd": ("a.nrrd", b"", "not an NRRD file"),
    "a web page": ("a.nrrd", b"<html>", "holds a web page"),
    "a truncated nrrd": ("a.nrrd", nrrd_of(LITTLE[:-1]), "truncated: 419 bytes, 420 expected"),
    "terabytes in an nrrd": ("a.nrrd", nrrd_of(sizes=HUGE), "truncated: 420 bytes, .* expected"),
    "terabytes in a deflated nrrd": (
        "a.nrrd", nrrd_of(gzip.compress(LITTLE), encoding="gzip", sizes=HUGE), "truncated: at most .* bytes",
    ),
    "a stream that ends": ("a.nrrd", nrrd_of(gzip.compress(LITTLE)[:-60], encoding="gzip"), "truncated"),
    "a stream without its end": ("a.nrrd", nrrd_of(gzip.compress(LITTLE)[:-4], encoding="gzip"), "truncated"),
    "a damaged stream": (
        "a.nrrd", nrrd_of(gzip.compress(LITTLE)[:-8] + bytes(8), encoding="gzip"), "corrupt gzip stream",
    ),
    "a stream of less": ("a.nrrd", nrrd_of(gzip.compress(LITTLE[:-9]), encoding="gzip"), "truncated: 411 bytes"),
    "a secret of an nrrd": ("a.nhdr", nrrd_of(b"", **{"data file": "../../etc/passwd"}), "in a file of its own folder"),
    "an absolute secret": ("a.nhdr", nrrd_of(b"", **{"datafile": "/etc/passwd"}), "in a file of its own folder"),
    "a list of secrets": ("a.nhdr", nrrd_of(b"", **{"data file": "LIST"}), "LIST: no such file"),
    "a link to a secret": ("a.nhdr", nrrd_of(b"", **{"data file": "link"}), "in a file of its own folder"),
    "nothing beside": ("a.nhdr", nrrd_of(b"", **{"data file": "b.raw"}), r"b\.raw: no such file"),
    "bzip2": ("a.nrrd", nrrd_of(encoding="bzip2"), "encoded as bzip2; write them raw or as gzip"),
    "blocks": ("a.nrrd", nrrd_of(type="block"), "voxels of type block"),
    "two axes": ("a.nrrd", nrrd_of(sizes="7 6"), "a volume has 3 axes, or 4 with channels, not 2"),
    "edges of 0": ("a.nrrd", nrrd_of(sizes="7 0 5"), "damaged header"),
    "negative edges": ("a.nrrd", nrrd_of(sizes="-7 -6 5"), "damaged header"),
    "no byte order": ("a.nrrd", nrrd_of(endian=None), "there is no 'endian'"),
    "directions that are not there": ("a.nrrd", nrrd_of(**{"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}), "NaN"),
    "a flat space": ("a.nrrd", nrrd_of(**{"space directions": "(1,0,0) (1,0,0) (0,0,1)"}), "cannot be inverted"),
    "two directions": ("a.nrrd", nrrd_of(**{"space directions": "(1,0,0) (0,1,0)"}), "not those of 3 axes"),
    "unknown units": ("a.nrrd", nrrd_of(**{"space units": '"px" "px" "px"'}), "space units are"),
    "an endless header": ("a.nrrd", b"NRRD0004\n" + (b"a: " + b"b" * 9000 + b"\n") * 120, "does not end within"),
    "lines to skip": ("a.nrrd", nrrd_of(**{"line skip": "2"}), "skipped lines"),
    "NaN": ("a.nrrd", nrrd_of(np.full(210, np.nan, "<f4").tobytes(), type="float"), "NaN or infinite voxels"),
    "an empty mha": ("a.mha", b"", "not a MetaImage"),
    "a truncated mha": ("a.mha", meta_of(LITTLE[:-1]), "truncated: 419 bytes, 420 expected"),
    "terabytes in an mha": ("a.mha", meta_of(DimSize=HUGE), "truncated: 420 bytes"),
    "terabytes in a deflated mha": (
        "a.mha", meta_of(zlib.compress(LITTLE), CompressedData="True", DimSize=HUGE), "truncated: at most",
    ),
    "a damaged stream of an mha": (
        "a.mha", meta_of(zlib.compress(LITTLE)[:-4] + bytes(4), CompressedData="True"), "corrupt gzip stream",
    ),
    "a secret of an mhd": ("a.mhd", meta_of(b"", ElementDataFile="../../etc/passwd"), "in a file of its own folder"),
    "an absolute secret of an mhd": ("a.mhd", meta_of(b"", ElementDataFile="/etc/passwd"), "of its own folder"),
    "a list of files": ("a.mhd", meta_of(b"a.raw\n", ElementDataFile="LIST"), "in several files"),
    "a pattern of files": ("a.mhd", meta_of(b"", ElementDataFile="a_%03d.raw 1 9 1"), "in several files"),
    "text": ("a.mha", meta_of(BinaryData="False"), "its voxels are text"),
    "names": ("a.mha", meta_of(ElementType="MET_STRING"), "voxels of type MET_STRING"),
    "turned by words": ("a.mha", meta_of(TransformMatrix="a b c"), "damaged MetaImage file"),
    "an empty mgz": ("a.mgz", b"", "not an MGH file"),
    "a gzip of nothing": ("a.mgz", gzip.compress(b"no"), "not an MGH file"),
    "half an mgz": ("a.mgz", gzip.compress(bytes(nib.MGHImage(ARRAY, OBLIQUE).to_bytes()))[:300], "truncated"),
    "terabytes in an mgh": ("a.mgh", bytes([0, 0, 0, 1]) + bytes([0, 1, 0, 0]) * 3 + bytes(900), "truncated|damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path, case, capfd):
    name, contents, message = REFUSED[case]
    (tmp_path / "secret").write_bytes(LITTLE)
    (folder := tmp_path / "in/inner").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / name).write_bytes(contents)
    with pytest.raises(FdifError, match=message) as error:
        read_volume(folder / name)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_more_than_memory_holds_is_refused_before_it_is_asked_for(written, monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (400, 400))
    for way in ("nrrd", "mha", "mgz", "series", "multi-frame"):
        with pytest.raises(FdifError, match="bytes, and there are 400 of memory"):
            read_volume(written["oblique"][2][way])


# -------------------------------------------------------------------------------------------------------- DICOM


def test_slices_are_rescaled_each_as_it_says(tmp_path):
    volume = read_volume(write_series(tmp_path / "ct", ARRAY, OBLIQUE, rescale=(2, -1024)))
    np.testing.assert_array_equal(volume.array, 2.0 * ARRAY - 1024)
    pet = write_series(tmp_path / "pet", ARRAY, OBLIQUE, RescaleSlope=lambda k: k + 1, RescaleIntercept=None)
    np.testing.assert_array_equal(read_volume(pet).array, ARRAY * np.arange(1.0, 6))
    assert volume.array.dtype == np.float32 == read_volume_header(pet).dtype
    frames = write_multiframe(tmp_path / "a.dcm", ARRAY, OBLIQUE, rescale=(3, 1), order=[4, 0, 2, 1, 3])
    np.testing.assert_array_equal(read_volume(frames).array, 3.0 * ARRAY + 1)


def test_compressed_slices_are_unpacked(tmp_path, capfd):
    import pydicom
    from pydicom.uid import RLELossless

    folder = write_series(tmp_path / "rle", ARRAY, OBLIQUE, rescale=(2, -1024))
    for file in folder.iterdir():
        slice_ = pydicom.dcmread(file)
        slice_.compress(RLELossless, generate_instance_uid=False)
        slice_.save_as(file)
    np.testing.assert_array_equal(read_volume(folder).array, 2.0 * ARRAY - 1024)
    # Lossless JPEG, which PACS send most and pydicom alone cannot unpack.
    folder = write_series(tmp_path / "jpeg", ARRAY.astype(np.uint16), OBLIQUE, rescale=(2, -1024))
    for file in folder.iterdir():
        plain = pydicom.dcmread(file)
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(tmp_path / "one.dcm"))
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(plain.pixel_array[None]))
        packed = pydicom.dcmread(tmp_path / "one.dcm")
        assert packed.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
        plain.file_meta.TransferSyntaxUID, plain.PixelData = (
            packed.file_meta.TransferSyntaxUID,
            packed.PixelData,
        )
        plain["PixelData"].is_undefined_length = True
        plain.save_as(file)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, 2.0 * ARRAY.astype(np.uint16) - 1024)
    assert capfd.readouterr() == ("", "")


def test_of_several_series_one_is_chosen_by_its_uid_or_description(tmp_path):
    write_series(tmp_path / "a", ARRAY, OBLIQUE)
    write_series(tmp_path / "a", ARRAY + 1, OBLIQUE, series="1.2.9", description="coronal")
    (tmp_path / "a/notes.txt").write_text("read me")
    listed = r"1\.2\.3 \(axial, 5 slices\); 1\.2\.9 \(coronal, 5 slices\)"
    with pytest.raises(
        FdifError,
        match=rf"/a: holds 2 series; choose one by its UID or description, as .*/a/1\.2\.3, or by --series .*{listed}",
    ):
        read_volume(tmp_path / "a")
    for name, more in (("1.2.3", 0), ("axial", 0), ("1.2.9", 1), ("coronal", 1)):
        np.testing.assert_array_equal(read_volume(tmp_path / "a" / name).array, ARRAY + more)
    with pytest.raises(FdifError, match=rf"/a: no series is called 'sagittal'; there are {listed}"):
        read_volume(tmp_path / "a/sagittal")
    assert len(files_of(tmp_path / "a")) == 10


ORIENTATION, _, POSITION = geometry(OBLIQUE)
DICOM = {
    "a missing slice": (
        {"leave_out": [2]}, r"3 mm apart, but 1\.2\.3_010\.dcm and 1\.2\.3_024\.dcm 6 mm: slices are missing",
    ),
    "uneven slices": (
        {"ImagePositionPatient": lambda k: [0, 0, k + 0.4 * (k == 3)], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        "missing, or not evenly",
    ),
    "two volumes": ({"ImagePositionPatient": lambda k: POSITION(k // 2).round(6).tolist()}, "lie in one place"),
    "a tilted gantry": (
        {"ImagePositionPatient": lambda k: (POSITION(k) + 0.3 * k * np.array(ORIENTATION[3:])).round(6).tolist()},
        r"shifted by 0\.3 mm against the one before \(gantry tilt, 5\.71°\)",
    ),
    "slices across": (
        {"ImageOrientationPatient": lambda k: [1, 0, 0, 0, 1, 0] if k else [0, 1, 0, 0, 0, 1]}, "are not parallel",
    ),
    "several sizes": ({"Rows": lambda k: 5 + (k > 2)}, "slices of several sizes"),
    "several spacings": ({"PixelSpacing": lambda k: [1, 1 + (k > 2)]}, "other spacings"),
    "several types": ({"PixelRepresentation": lambda k: int(k > 2)}, "numbers of several types"),
    "one slice": ({"leave_out": [0, 1, 2, 3]}, "holds one slice"),
    "no position": ({"ImagePositionPatient": None}, r"1\.2\.3_003\.dcm: has no ImagePositionPatient"),
    "no spacing": ({"PixelSpacing": None}, "has no PixelSpacing"),
    "colours": ({"SamplesPerPixel": 3}, "holds colours"),
    "12 bits": ({"BitsAllocated": 12}, "voxels of 12 bits"),
    "terabytes": ({"Rows": 65535, "Columns": 65535}, r"1\.2\.3_003\.dcm: truncated: .* expected"),
    "few pixels": ({"PixelData": b"1234"}, r"1\.2\.3_003\.dcm: damaged DICOM file"),
    "no scan": ({"Modality": "SEG"}, "holds no DICOM file of a scan"),
    "frames without a place": ({"NumberOfFrames": 2}, "does not say where they lie"),
}  # fmt: skip


@pytest.mark.parametrize("case", DICOM)
def test_a_series_that_is_no_volume_is_refused(tmp_path, case, capfd):
    changes, message = DICOM[case]
    with pytest.raises(FdifError, match=message) as error:
        read_volume(write_series(tmp_path / "a", ARRAY, OBLIQUE, **changes))
    assert str(tmp_path / "a") in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_damaged_dicom_files_are_named(tmp_path, capfd):
    folder = write_series(tmp_path / "a", ARRAY, OBLIQUE)
    file = folder / "1.2.3_003.dcm"
    whole = file.read_bytes()
    for data, message in (
        (whole[:200], "damaged DICOM file"),
        (whole[:-9], r"less than expected|truncated|damaged"),
        (whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1), "deflated as a whole"),
        (whole[:132] + bytes(400), r"damaged DICOM file|has no"),
    ):
        file.write_bytes(data)
        with pytest.raises(FdifError, match=rf"1\.2\.3_003\.dcm: .*({message})"):
            read_volume(folder)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(FdifError, match="/empty: holds no DICOM file"):
        read_volume(empty)
    with pytest.raises(FdifError, match=r"b\.dcm: no such file"):
        read_volume(tmp_path / "b.dcm")
    for data, message in (
        (b"", "not a DICOM file"),
        (b"<html>", "holds a web page"),
        (bytes(900), "not a DICOM file"),
    ):
        (folder / "no.dcm").write_bytes(data)
        with pytest.raises(FdifError, match=rf"no\.dcm: {message}"):
            read_volume(folder / "no.dcm")
    bare = write_multiframe(tmp_path / "IM0001", ARRAY, OBLIQUE)
    np.testing.assert_array_equal(read_volume(bare).array, ARRAY)
    short = write_multiframe(tmp_path / "c.dcm", ARRAY, OBLIQUE, NumberOfFrames=2000)
    with pytest.raises(FdifError, match=r"c\.dcm: has 2000 frames, and says of 5 where they lie"):
        read_volume(short)
    assert capfd.readouterr() == ("", "")


def test_what_is_not_installed_is_said_in_a_line(written, tmp_path, monkeypatch):
    from fdif_jax.io.formats.dicom_seg import encode_dicom_seg

    series = written["oblique"][2]["series"]
    for library, read in (
        ("pydicom", lambda: read_volume(series)),
        ("highdicom", lambda: encode_dicom_seg(series, ARRAY, ["a"])),
    ):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(FdifError, match=rf"scan.*: .* needs {library}, .* 'fdif-jax\[formats\]'"):
            read()
        monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "SimpleITK", None)  # which none of these needs
    for way in ("nrrd", "mha", "mgz"):
        assert read_volume(written["oblique"][2][way]).array.shape == ARRAY.shape


def test_a_dicom_segmentation_is_what_highdicom_and_simpleitk_read(written, tmp_path):
    import highdicom
    import pydicom

    from fdif_jax.io.formats.dicom_seg import encode_dicom_seg

    _, affine, paths = written["oblique"]
    labels = np.random.default_rng(2).integers(0, 3, ARRAY.shape).astype(np.uint8)
    labels[:, :, 0] = 0  # a slice without a segment
    for way in ("series", "multi-frame"):
        (out := tmp_path / f"{way}.dcm").write_bytes(
            encode_dicom_seg(paths[way], labels, ["liver", "left kidney"])
        )
        found = highdicom.seg.segread(out)
        assert [found.get_segment_description(n).segment_label for n in (1, 2)] == ["liver", "left kidney"]
        assert found.StudyInstanceUID == "1.2.3.4" and found.FrameOfReferenceUID == "1.2.3.5"
        volume = found.get_volume(combine_segments=True)
        expected = nib.Nifti1Image(labels, affine)
        ours = nib.as_closest_canonical(
            nib.Nifti1Image(volume.array.astype(np.uint8), np.diag([-1.0, -1, 1, 1]) @ volume.affine)
        )
        canonical = nib.as_closest_canonical(expected)
        place = nib.affines.apply_affine(np.linalg.inv(canonical.affine), ours.affine[:3, 3]).round(3)
        window = tuple(slice(int(p), int(p) + n) for p, n in zip(place, ours.shape, strict=True))
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(canonical.dataobj)[window])
        assert (np.asarray(ours.dataobj) > 0).sum() == (labels > 0).sum()
        frames = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
        assert (frames > 0).sum() == (labels > 0).sum()
        assert pydicom.dcmread(out).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"


def test_a_segmentation_of_nothing_has_its_segments(written, tmp_path, caplog, capfd):
    import highdicom

    from fdif_jax.io.formats.dicom_seg import encode_dicom_seg

    empty = np.zeros(ARRAY.shape, np.uint8)
    (tmp_path / "a.dcm").write_bytes(
        encode_dicom_seg(written["oblique"][2]["series"], empty, ["x" * 80, "b"])
    )
    found = highdicom.seg.segread(tmp_path / "a.dcm")
    labels = [found.get_segment_description(n).segment_label for n in found.segment_numbers]
    assert labels == ["x" * 64, "b"] and not found.pixel_array.any()
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_equal_labels_are_equal_bytes(written):
    labels = np.zeros(ARRAY.shape, np.uint8)
    for way in ("nrrd", "mha", "mgz", "series"):
        assert bytes(encode_like(written["oblique"][2][way], labels)) == bytes(
            encode_like(written["oblique"][2][way], np.asfortranarray(labels))
        )


def test_a_header_of_nothing_is_never_read_as_nifti(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(encode_nifti(ARRAY, compress=False))
    with pytest.raises(FdifError, match=re.escape("a.nrrd: not an NRRD file")):
        read_volume(tmp_path / "a.nrrd")
