"""NIfTI in and out, against nibabel; every broken file is one clear error that names it."""

import errno
import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fdif_jax.errors import FdifError
from fdif_jax.io import streams
from fdif_jax.io.files import write_atomic
from fdif_jax.io.nifti import encode_nifti, read_nifti, write_nifti

DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "float32", "float64"]
AFFINE = np.array([[0, -1.5, 0, 10], [2.0, 0, 0, -5], [0, 0, 3.0, 7], [0, 0, 0, 1]])


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
    elements = {"min_value": -(2.0**46), "max_value": 2.0**46} if dtype.kind == "f" else None
    array = draw(hnp.arrays(dtype, shape, elements=elements))
    return np.asfortranarray(array) if draw(st.booleans()) else array


@given(array=arrays(), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_nibabel_reads_what_we_write_and_we_read_it_back(array, suffix, tmp_path_factory):
    path = tmp_path_factory.mktemp("v") / f"a{suffix}"
    write_nifti(path, array, AFFINE)
    image = nib.load(path)
    assert image.get_data_dtype() == array.dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.header.get_zooms() == (2.0, 1.5, 3.0)
    volume = read_nifti(path)
    assert volume.array.dtype == array.dtype and volume.spacing == (2.0, 1.5, 3.0)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, AFFINE)


@given(array=arrays(), big=st.booleans(), second=st.booleans(), scaled=st.booleans())
def test_we_read_what_nibabel_writes(array, big, second, scaled, tmp_path_factory):
    path = tmp_path_factory.mktemp("v") / "a.nii.gz"
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    header = (nib.Nifti2Header if second else nib.Nifti1Header)(endianness="><"[not big])
    header.set_data_dtype(array.dtype)
    image = kind(array, AFFINE, header)
    if scaled and array.dtype.itemsize <= 2:
        image.header.set_slope_inter(2.0, -3.0)
    nib.save(image, path)
    volume = read_nifti(path)
    expected = nib.load(path)
    np.testing.assert_allclose(volume.array, np.asarray(expected.dataobj), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, expected.affine)


def test_bytes_are_the_same_every_time_and_gzip_reads_them(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_nifti(tmp_path / "a.nii.gz", array)
    write_nifti(tmp_path / "other_name.nii.gz", np.asfortranarray(array))
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "other_name.nii.gz").read_bytes() == encode_nifti(array)
    assert data[4:8] == bytes(4) and not data[3] & 8  # no time, no file name
    assert gzip.decompress(data) == encode_nifti(array, compress=False)
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").affine, np.eye(4))


def test_bool_becomes_uint8():
    assert (
        nib.Nifti1Image.from_bytes(encode_nifti(np.ones((2, 2, 2), bool), compress=False)).dataobj.dtype
        == "u1"
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2)), "3 or 4 axes"),
        (np.zeros((2, 2, 2), np.float16), "float16"),
        (np.zeros((1, 40000, 1), np.uint8), "40000"),
    ],
)
def test_arrays_that_nifti_cannot_hold(array, words):
    with pytest.raises(FdifError, match=words):
        encode_nifti(array)


def test_a_name_that_is_no_nifti_name(tmp_path):
    with pytest.raises(FdifError, match=r"\.nii\.gz or \.nii"):
        write_nifti(tmp_path / "a.mha", np.zeros((2, 2, 2), np.uint8))


def save(path, array, edit=lambda header: None):
    image = nib.Nifti1Image(array, np.eye(4))
    edit(image.header)
    path.write_bytes(image.to_bytes())


def patched(path, offset, data):
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(data)] = data
    path.write_bytes(bytes(whole))


def truncated_gzip(path):
    rng = np.random.default_rng(0)
    data = encode_nifti(rng.integers(0, 255, (9, 9, 9), dtype=np.uint8))
    path.write_bytes(data[: len(data) // 2])


def corrupt_gzip(path):
    data = bytearray(encode_nifti(np.random.default_rng(0).integers(0, 255, (9, 9, 9), dtype=np.uint8)))
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def not_finite(value):
    def make(path):
        array = np.zeros((3, 3, 3), np.float32)
        array[1, 2, 0] = value
        save(path, array)

    return make


def zero_spacing(path):
    save(path, np.zeros((3, 3, 3), np.uint8))
    patched(path, 76 + 8, np.float32(0).tobytes())  # pixdim[2]


def wrong_shape(path):
    save(path, np.zeros((3, 3, 3), np.uint8))
    patched(path, 40 + 4, np.int16(-5).tobytes())  # dim[2]


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "directory": (lambda path: path.mkdir(), "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "not a NIfTI"),
    "text": (lambda path: path.write_text("hello " * 100), "not a NIfTI"),
    "png in gzip": (lambda path: path.write_bytes(gzip.compress(b"\x89PNG" * 200)), "not a NIfTI"),
    "header only": (
        lambda path: path.write_bytes(encode_nifti(np.ones((3, 3, 3)))[:0] + b"\x5c\x01\0\0"),
        "not a",
    ),
    "analyze pair": (
        lambda path: (save(path, np.ones((3, 3, 3))), patched(path, 344, b"ni1\0")),
        "single-file",
    ),
    "truncated gzip": (truncated_gzip, "truncated"),
    "corrupt gzip": (corrupt_gzip, "corrupt|truncated"),
    "truncated": (
        lambda path: (save(path, np.ones((3, 3, 3))), os.truncate(path, 400)),
        "truncated: 400 bytes, 568 expected",
    ),
    "2D": (lambda path: save(path, np.ones((3, 3))), r"shape \(3, 3\)"),
    "4D": (lambda path: save(path, np.ones((3, 3, 3, 2))), r"shape \(3, 3, 3, 2\)"),
    "complex": (lambda path: save(path, np.ones((3, 3, 3), np.complex64)), "complex64"),
    "NaN": (not_finite(np.nan), "NaN or infinite"),
    "inf": (not_finite(np.inf), "NaN or infinite"),
    "-inf": (not_finite(-np.inf), "NaN or infinite"),
    "zero spacing": (zero_spacing, "spacing"),
    "negative size": (wrong_shape, "shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(case, tmp_path):
    make, words = BROKEN[case]
    path = tmp_path / "scan_07.nii"
    make(path)
    with pytest.raises(FdifError, match=words) as error:
        read_nifti(path)
    assert "scan_07.nii" in str(error.value) and "\n" not in str(error.value)


def edited(path, kind, dtype=np.uint8, **fields):
    """A file of ones with only a qform, turned and mirrored, whose header holds some other numbers."""
    image = kind(np.ones((3, 4, 5), dtype), None)
    image.header.set_zooms((0.5, 0.75, 2.0))
    image.header.set_qform(AFFINE, code=1)
    image.header["vox_offset"] = image.header.sizeof_hdr + 4
    for name, value in fields.items():
        image.header[name] = value
    data = image.header.binaryblock + bytes(4) + np.ones((3, 4, 5), dtype).tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("code", "unit"),
    [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0), (5, 1.0), (1 + 8, 1000.0), (3 + 16, 0.001)],
)
def test_lengths_become_millimetres_and_an_unusual_qfac_is_1(kind, code, unit, tmp_path):
    path = edited(tmp_path / "a.nii", kind, xyzt_units=code, pixdim=(0, 0.02, 0.015, 0.03, 0, 0, 0, 0))
    wanted = nib.load(path).affine  # nibabel mends pixdim[0], and leaves units alone
    wanted[:3] *= unit
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, wanted, rtol=1e-6)
    np.testing.assert_allclose(volume.spacing, np.array([0.02, 0.015, 0.03]) * unit, rtol=1e-6)
    mirrored = edited(tmp_path / "b.nii", kind, pixdim=(-1, 1, 1, 1, 0, 0, 0, 0))
    np.testing.assert_allclose(read_nifti(mirrored).affine, nib.load(mirrored).affine, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixdim": (1, 1, 1, 1, 0, 0, 0, 0), "xyzt_units": 1}, r"spacing \(1, 1, 1\) metres; it must be"),
        ({"pixdim": (1, 1, 1e-4, 1, 0, 0, 0, 0), "xyzt_units": 3}, r"\(1, 0.0001, 1\) microns"),
        ({"pixdim": (1, 1, 1, 1e30, 0, 0, 0, 0)}, r"\(1, 1, 1e\+30\) mm"),
        ({"pixdim": (1, 1, -1, 1, 0, 0, 0, 0)}, r"\(1, -1, 1\) mm"),
        ({"sform_code": 1, "srow_x": (1e-30, 0, 0, 0)}, r"spacing \(1e-30, 0, 0\) mm"),
        ({"sform_code": 1, "srow_x": (np.nan, 0, 0, 0)}, "affine holds NaN"),
        ({"quatern_b": 30}, "damaged NIfTI file"),
        ({"datatype": 77}, "voxels of type 77"),
        ({"vox_offset": 0}, "voxels at byte 0"),
    ],
)
def test_absurd_headers_are_one_line(fields, words, tmp_path):
    with pytest.raises(FdifError, match=words) as error:
        read_nifti(edited(tmp_path / "a.nii", nib.Nifti1Image, **fields))
    assert "a.nii: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [-1.7e308, -3.4e38, 1.1e14, np.nan])
def test_what_float32_cannot_work_with_is_named(dtype, value, tmp_path):
    array = np.zeros((3, 4, 5), dtype)
    with np.errstate(over="ignore"):
        array[2, 1, 3] = value
    save(tmp_path / "a.nii", array)
    with pytest.raises(
        FdifError, match=rf"a.nii: holds .* voxels: {array[2, 1, 3]:g} at \(2, 1, 3\)".replace("+", r"\+")
    ):
        read_nifti(tmp_path / "a.nii")


def test_scaling_overflows_only_where_its_result_does(tmp_path):
    array = np.zeros((3, 4, 5))
    array[0, 1, 2] = 2e40  # beyond float32 until it is scaled
    save(tmp_path / "a.nii", array, lambda header: None)
    for slope, fits in ((1e-38, True), (1e30, False)):
        patched(tmp_path / "a.nii", 112, np.array([slope, 1], np.float32).tobytes())
        if fits:
            wanted = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
            np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").array, wanted, rtol=1e-6)
            continue
        with pytest.raises(FdifError, match=r"holds NaN or infinite voxels: inf at \(0, 1, 2\)"):
            read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "error", [RuntimeError("two\nlines"), MemoryError(), KeyError(7), OSError(5, "bad sector")]
)
def test_whatever_a_library_raises_is_one_line(error, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    write_nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.uint8))
    for owner, name in ((nib.Nifti1Header, "get_best_affine"), (streams.igzip, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(FdifError, match=r"a\.nii\.gz: ") as caught:
                read_nifti(tmp_path / "a.nii.gz")
        assert "\n" not in str(caught.value)


def test_fourth_axis(tmp_path):
    save(tmp_path / "a.nii", np.ones((3, 4, 5, 2), np.uint8))
    assert read_nifti(tmp_path / "a.nii", allow_4d=True).array.shape == (3, 4, 5, 2)
    save(tmp_path / "b.nii", np.ones((3, 4, 5, 1), np.uint8))
    assert read_nifti(tmp_path / "b.nii").array.shape == (3, 4, 5)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    write_atomic(path, b"old")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_nifti(path, np.zeros((4, 4, 4), np.uint8))
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.nii"]
