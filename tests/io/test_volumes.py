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
from fdif_jax.io.files import write_atomic
from fdif_jax.io.nifti import encode_nifti, read_nifti, write_nifti

DTYPES = ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "float32", "float64"]
AFFINE = np.array([[0, -1.5, 0, 10], [2.0, 0, 0, -5], [0, 0, 3.0, 7], [0, 0, 0, 1]])


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
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
