"""Headers that leave something open, or contradict themselves: what counts, against nibabel and SimpleITK, and what is
said of it."""

import logging
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from fdif_jax.io import remarks
from fdif_jax.io.volumes import read_volume

AFFINE = nib.affines.from_matvec(np.diag([1.0, 2.0, 1.5]), [-10, 20, 5])
ARRAY = np.random.default_rng(0).integers(-90, 900, (5, 4, 3)).astype("<i2")
PIXDIM, CODES = (76, "4f"), (252, "2h")  # places in a header of NIfTI-1


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(remarks, "_made", set())
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def nifti(path, *changes):
    image = nib.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    data = bytearray(image.to_bytes())
    for (place, kind), values in changes:
        struct.pack_into(f"<{kind}", data, place, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((CODES, (0, 0)), "does not say where its voxels lie"),
        ((PIXDIM, (1, 1, 2, 3)), "its sform and its pixdim say voxels of other sizes"),
        ((PIXDIM, (-1, 1, 2, 1.5)), "its sform and its qform are mirror images"),
    ],
)
def test_a_doubt_about_places_is_said_once_and_counts_as_in_nibabel(tmp_path, said, change, words):
    for name in ("a.nii", "b.nii"):
        path = nifti(tmp_path / name, change)
        np.testing.assert_allclose(read_volume(path).affine, nib.load(path).affine)
    (line,) = said()
    assert line.startswith(f"{tmp_path / 'a.nii'}: {words}")


def test_a_header_without_doubts_is_not_spoken_of(tmp_path, said):
    read_volume(nifti(tmp_path / "a.nii"))
    read_volume(nifti(tmp_path / "b.nii", (CODES, (1, 0))))
    read_volume(nifti(tmp_path / "c.nii", (CODES, (0, 2)), (PIXDIM, (-1, 1, 2, 1.5))))
    assert said() == []


def meta(path, unit):
    lines = f"NDims = 3\nDimSize = 5 4 3\nElementSpacing = 1 2 3\nOffset = 4 5 6\nDistanceUnits = {unit}\n"
    path.write_bytes(
        f"{lines}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + ARRAY.tobytes("F")
    )
    return path


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1), ("?", 1), ("um", 1e-3), ("cm", 10)])
def test_metaimage_may_say_its_unit(tmp_path, unit, millimetres):
    affine = read_volume(meta(tmp_path / "a.mha", unit)).affine
    image = sitk.ReadImage(str(meta(tmp_path / "b.mha", "mm")))
    np.testing.assert_allclose(
        affine[:3, :3].diagonal() * [-1, -1, 1], np.array(image.GetSpacing()) * millimetres
    )
    np.testing.assert_allclose(affine[:3, 3] * [-1, -1, 1], np.array(image.GetOrigin()) * millimetres)


@pytest.mark.parametrize("ends", ["", "centerings: cell cell cell\n", "centerings: node node node\n"])
def test_without_a_space_nrrd_begins_at_its_least_places(tmp_path, ends):
    path = tmp_path / "a.nrrd"
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nspacings: 1 2 3\naxis mins: 4 5 6\n{ends}"
    path.write_bytes(f"{header}encoding: raw\nendian: little\n\n".encode() + ARRAY.tobytes("F"))
    origin = sitk.ReadImage(str(path)).GetOrigin()
    np.testing.assert_allclose(read_volume(path).affine[:3, 3] * [-1, -1, 1], origin)


def test_the_data_of_a_header_may_be_called_as_in_this_folder(tmp_path):
    (tmp_path / "a.raw").write_bytes(ARRAY.tobytes("F"))
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: little\ndata file: ./a.raw\n"
    (tmp_path / "a.nhdr").write_text(header + "\n")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nhdr").array, ARRAY)
