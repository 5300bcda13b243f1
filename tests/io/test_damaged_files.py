"""Files that once ended a command with a traceback, too much memory or a wrong result: each is one clear line."""

import gzip
import io
import json
import logging
import tomllib
import zipfile

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch

import fdif_jax as fd
from fdif_jax.anatomy.bank import Bank, build_bank
from fdif_jax.datasets.reader import load_conventions, volume_type
from fdif_jax.errors import FdifError
from fdif_jax.io import memory, remarks
from fdif_jax.io.b2nd import encode_b2nd, read_b2nd
from fdif_jax.io.files import DEEPEST, parsed, read_json_lines
from fdif_jax.io.formats.mgh import read_mgh
from fdif_jax.io.nifti import encode_nifti, read_header, read_nifti
from fdif_jax.io.npz import read_npz
from fdif_jax.models import config_of
from fdif_jax.models.nnunet import from_plans
from fdif_jax.scripts.benchmarks.reliability.formats import _plans, _scenes
from fdif_jax.shapes import meshes
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.vocabulary import resolve
from fdif_jax.weights import files
from fdif_jax.weights.files import read_weights

VOLUME = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def refused(read, path, data, match):
    path.write_bytes(data)
    with pytest.raises(FdifError, match=match) as error:
        read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------- more than there is


def test_a_stream_is_unpacked_as_far_as_the_header_says(tmp_path, monkeypatch):
    volume = encode_nifti(VOLUME)
    (tmp_path / "a.nii.gz").write_bytes(volume + gzip.compress(bytes(2**22)) * 3)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").array, VOLUME)
    assert read_header(tmp_path / "a.nii.gz").get_data_shape() == (3, 4, 5)
    # A few bytes after the voxels are looked at: the stream's checksum is among them.
    broken = bytearray(volume)
    broken[-6] ^= 1
    refused(read_nifti, tmp_path / "b.nii.gz", bytes(broken), "corrupt gzip stream")
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (400, 400))
    refused(
        read_nifti, tmp_path / "c.nii.gz", volume, "says that it holds 472 bytes, and there are 400 of memory"
    )


def test_a_claim_is_held_against_the_size_of_the_file(tmp_path):
    data = bytearray(encode_nifti(VOLUME, compress=False))
    data[42:48] = np.array([30000] * 3, "<i2").tobytes()
    refused(read_nifti, tmp_path / "a.nii", bytes(data), "truncated: 472 bytes, 54000000000352 expected")
    packed = gzip.compress(data)
    refused(read_nifti, tmp_path / "a.nii.gz", packed, f"truncated: at most {1032 * len(packed)} bytes")
    frame = bytearray(encode_b2nd(VOLUME))
    place = frame.index((3).to_bytes(8, "big"))  # its first edge, in the header
    frame[place : place + 8] = (2**31).to_bytes(8, "big")
    refused(read_b2nd, tmp_path / "a.b2nd", bytes(frame), "not a whole Blosc2 file: .* expected")


def archive(**entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return stream


def test_arrays_of_an_archive_are_what_numpy_reads_and_no_more(tmp_path, monkeypatch):
    whole = io.BytesIO()
    arrays = {"a": VOLUME, "words": np.array(["x", "yz"]), "none": np.zeros((0, 3)), "one": np.float32(3)}
    np.savez_compressed(whole, **arrays)
    read = read_npz("x", whole)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(read[name], array)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (500, 500))
    with pytest.raises(FdifError, match="bytes, and there are 500 of memory"):
        read_npz("x", whole)
    monkeypatch.undo()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with pytest.raises(FdifError, match=r"x: a\.npy is cut short"):
        read_npz("x", archive(a=header.getvalue()))


def test_weights_that_repeat_what_they_hold_are_refused(tmp_path):
    torch.save({"a": torch.ones(2).expand(10_000, 2)}, tmp_path / "a.pth")
    with pytest.raises(FdifError, match=r"a of shape \(10000, 2\) is more than its"):
        read_weights(tmp_path / "a.pth")
    tied = torch.ones(300)
    torch.save({"a": tied, "b": tied.view(3, 100)}, tmp_path / "b.pth")
    assert read_weights(tmp_path / "b.pth")["b"].shape == (3, 100)


def test_a_length_in_an_old_pth_is_held_against_the_file(tmp_path):
    stream = io.BytesIO()
    torch.save({"weight": torch.arange(3.0)}, stream, _use_new_zipfile_serialization=False)
    data = stream.getvalue()
    (tmp_path / "a.pth").write_bytes(data)
    np.testing.assert_array_equal(read_weights(tmp_path / "a.pth")["weight"], [0, 1, 2])
    with files._Bounded(tmp_path / "a.pth") as file:
        assert file.read(5) == data[:5] and file.read(2**40) == data[5:] and file.read(2**40) == b""
        file.seek(3)
        assert file.read() == data[3:]
    place = data.index(b"X\x06\0\0\0weight")
    claiming = data[: place + 1] + (2**32 - 1).to_bytes(4, "little") + data[place + 5 :]
    refused(read_weights, tmp_path / "b.pth", claiming, "cannot be read as PyTorch weights")


# -------------------------------------------------------------------------------------------- other data, code


def test_a_blosc2_file_that_refers_to_another_is_no_array(tmp_path):
    other = blosc2.asarray(VOLUME, urlpath=str(tmp_path / "other.b2nd"))
    (other + 1).save(urlpath=str(tmp_path / "a.b2nd"))
    for read in (read_b2nd, volume_type):
        with pytest.raises(FdifError, match=r"a\.b2nd: refers to other data"):
            read(tmp_path / "a.b2nd")
    assert volume_type(tmp_path / "other.b2nd") == ((3, 4, 5), np.dtype(np.int16))


def test_what_a_mesh_names_is_not_read_and_nothing_is_logged(tmp_path, caplog):
    (tmp_path / "a.mtl").write_text("newmtl x\nmap_Kd /etc/passwd\n")
    corners = "v 0 0 0\nv 4 0 0\nv 0 4 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\nusemtl x\n{corners}")
    (tmp_path / "a.mtl").chmod(0)
    assert meshes.outline_of_mesh(tmp_path / "a.obj").upper.tolist() == [4, 4, 4]
    (tmp_path / "b.stl").write_text("solid x\nfacet normal 0 0 z\nouter loop\nvertex 0 0 0\n")
    with caplog.at_level(logging.DEBUG), pytest.raises(FdifError, match=r"b\.stl"):
        meshes.outline_of_mesh(tmp_path / "b.stl")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    (tmp_path / "c.obj").write_text(corners.replace("v 4 0 0", "v 1e300 0 0"))
    with pytest.raises(FdifError, match="NaN, infinite or beyond 1e"):
        meshes.outline_of_mesh(tmp_path / "c.obj")


def test_code_that_is_run_is_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(remarks, "_made", set())
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import fdif_jax as fd\n@fd.family\ndef dot(key, grid):\n    return fd.shapes.sphere(3.0)\n"
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "mine_too.py").write_text("from fdif_jax.shapes import published\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            resolve([str(tmp_path / "mine.py")])
            resolve(["mine_too:published"])
            resolve(["fdif_jax.shapes:published"])
        with pytest.raises(FdifError, match="cannot be loaded"):
            resolve(["../../../outside"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/mine.py: this Python file is run, with all that it asks for",
        "mine_too:published: the Python module mine_too is run, with all that it asks for",
    ]


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(FdifError, match=r"a\.nii: cannot read: it is no file"):
        read_nifti(tmp_path / "a.nii")


# ------------------------------------------------------------------------------------------------ documents


@pytest.mark.parametrize(
    ("loads", "text"),
    [
        (json.loads, b"[" * 100_000),
        (json.loads, b"[" * 300 + b"]" * 300),
        (json.loads, b'{"a":' * 300 + b"1" + b"}" * 300),
        (tomllib.loads, "a = " + "[" * 5000),
        (tomllib.loads, ".".join("a" * 500) + " = 1"),
    ],
)
def test_documents_are_as_deep_as_any_of_ours(loads, text):
    with pytest.raises(ValueError, match=f"nested more than {DEEPEST} times"):
        parsed(loads, text)


def test_documents_within_the_depth_are_what_they_say(tmp_path):
    deep: list = []
    for _ in range(DEEPEST - 3):
        deep = [deep, {"a": [1, 2]}]
    assert parsed(json.loads, json.dumps(deep)) == deep
    wide = [{"a": [i]} for i in range(1000)]
    assert parsed(json.loads, json.dumps(wide).encode("utf-16")) == wide
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + b"[" * 100_000)
    assert read_json_lines(tmp_path / "a.jsonl") == [1]  # half a line, as a killed process leaves it


def test_labels_beyond_all_numbers(tmp_path):
    document = b'{"labels": {"background": 0, "a": 1e999}, "training": []}'
    refused(load_conventions, tmp_path / "dataset.json", document, "a table of class ids and names")


@pytest.mark.parametrize("key", ["class", "displacement", "mapper"])
def test_names_of_a_scene_are_texts(key, tmp_path):
    (scene,) = json.loads(_scenes(tmp_path)[0])
    scene["objects"][0][key] = ["x"]
    refused(
        fd.load_scenes,
        tmp_path / "scenes.json",
        json.dumps(scene).encode(),
        f"object 0: {key} must be a name",
    )


def test_numbers_of_a_scene_are_finite_in_float32(tmp_path):
    (scene,) = json.loads(_scenes(tmp_path)[0])
    scene["objects"][0]["inverse_transform"][0][3] = 1e300
    data = json.dumps(scene).encode()
    refused(fd.load_scenes, tmp_path / "scenes.json", data, "4×4 matrix of finite numbers")
    for value in ([[0, 0], [1, 0], [1e300, 1]], [[0, 0], [1, 0], [1]], [["x", 0]] * 3, 3):
        with pytest.raises(FdifError, match=r"p: vertices must be three pairs of finite numbers"):
            Reader({"vertices": value}, "p").vertices("three")
    assert Reader({"vertices": [[0, 0], [1, 0], [0, 1]]}, "p").vertices("three").dtype == np.float32


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patch_size": 3.5}, "another form than nnU-Net's plans"),
        ({"patch_size": [8, 8, -8]}, "must be three numbers above 0"),
        ({"spacing": [1, 1, float("nan")]}, "must be three numbers above 0"),
        ({"architecture": 3}, "another form"),
    ],
)
def test_plans_of_another_form(change, match, tmp_path):
    plans = json.loads(_plans(tmp_path)[0])
    plans["configurations"]["base"] |= change
    refused(from_plans, tmp_path / "plans.json", json.dumps(plans).encode(), match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"max_objects = 1\n[placement]\nkind = ['a']\n", "unknown kind of placement"),
        (b"[window]\ncrop = 1" + b"0" * 400, "window|crop"),
        (b"grid = [8, 8, 1" + b"0" * 400 + b"]", "a grid has at most 2,147,483,647 voxels"),
        (b"[[parts]]\nrecipe = 'fdif'\nweight = 1" + b"0" * 400 + b"\n[kind]\n", "unknown kind of"),
        (b"kind = 'mixture'\n[[parts]]\nrecipe = 'fdif'\nweight = 1" + b"0" * 400, "weight must be a number"),
    ],
)
def test_values_of_a_recipe_beyond_what_numbers_and_names_are(text, match, tmp_path):
    refused(fd.load_recipe, tmp_path / "recipe.toml", text, match)


def test_sizes_that_are_no_lists():
    with pytest.raises(FdifError, match=r"resenc_unet: .* are no sizes of it"):
        config_of("resenc_unet", in_channels=1, out_channels=2, features=3)
    assert config_of("resenc_unet", in_channels=1, out_channels=2, features=[4, 8]).features == (4, 8)


def test_a_number_of_a_shape_beyond_float32(tmp_path):
    fd.save(fd.shapes.sphere(3.0), tmp_path / "a.json")
    text = (tmp_path / "a.json").read_bytes()
    assert float(fd.load(tmp_path / "a.json").radius) == 3.0
    refused(fd.load, tmp_path / "a.json", text.replace(b"3.0", b'{"float32": 1e300}'), "makes no shape")


# ---------------------------------------------------------------------------------------------------- banks


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:8, 3:8, 3:8] = 1
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "label.nii")
    build_bank([folder / "label.nii"], [{1: "cube"}]).save(folder / "bank.npz")
    return folder / "bank.npz"


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("start", lambda a: a + 10**6, "grids beyond its values"),
        ("organ", lambda a: a + 1, "members of organs, subjects or grids that are not there"),
        ("inverse", lambda a: a * 0, "grids without an extent"),
        ("inverse", lambda a: a * np.float32(1e-9), "grids with steps above"),
        ("inverse", lambda a: a[:, :2], "inverse is float32 of shape"),
        ("mean", lambda a: a * np.nan, "mean is float32 .* or not finite"),
        ("size", lambda a: a.astype(np.int64), "size is int64"),
        ("organs", lambda a: a[:0], "no organs|of shape"),
    ],
)
def test_a_bank_whose_arrays_do_not_fit_each_other(name, change, match, bank, tmp_path):
    with np.load(bank) as stored:
        arrays = {key: stored[key] for key in stored.files}
    np.savez_compressed(tmp_path / "b.npz", **{**arrays, name: change(arrays[name])})
    with pytest.raises(FdifError, match=match) as error:
        Bank.load(tmp_path / "b.npz")
    assert "b.npz: not an organ bank" in str(error.value)
    assert Bank.load(bank).organs == ("cube",)


@pytest.mark.filterwarnings("error")
def test_numbers_that_overflow_while_a_header_is_read_are_told_in_its_line_alone(tmp_path):
    nifti = bytearray(encode_nifti(VOLUME, compress=False))
    # The number of axes, whose successor nibabel computes in 16 bits.
    nifti[40:42] = np.array(32767, "<i2").tobytes()
    refused(read_nifti, tmp_path / "a.nii", bytes(nifti), "volume of 3 axes is needed|damaged NIfTI")
    mgh = bytearray(nib.MGHImage(VOLUME, np.eye(4)).to_bytes())
    mgh[4:16] = np.array([2**31 - 1] * 3, ">i4").tobytes()
    refused(read_mgh, tmp_path / "a.mgh", bytes(mgh), "damaged MGH file|truncated")


# float16's largest number is 65504, far below the bound of float32's.
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", (np.inf, -np.inf, np.nan))
def test_numbers_of_half_precision_are_checked_as_others_are(value, tmp_path):
    volume = np.full((2, 3, 4), 65504, np.float16)
    (tmp_path / "a.b2nd").write_bytes(encode_b2nd(volume))
    np.testing.assert_array_equal(read_b2nd(tmp_path / "a.b2nd"), volume)
    volume[1, 2, 3] = value
    refused(read_b2nd, tmp_path / "b.b2nd", encode_b2nd(volume), r"NaN or infinite voxels: .* at \(1, 2, 3\)")


def test_texts_and_folders_in_the_place_of_weights(tmp_path):
    refused(read_weights, tmp_path / "a.pth", b"hello world", "torch.save did not write it")
    with pytest.raises(FdifError, match="a folder, where a file is wanted"):
        read_weights(tmp_path)
