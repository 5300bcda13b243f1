"""Blosc2 files: the library reads what we write, equal arrays give equal bytes, broken files are one clear error."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import blosc2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fdif_jax.errors import FdifError
from fdif_jax.io import b2nd
from fdif_jax.io.b2nd import encode_b2nd, read_b2nd

DTYPES = st.sampled_from(["uint8", "uint16", "int32", "float32"]).map(np.dtype)


@given(
    array=DTYPES.flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=3, max_dims=4, max_side=6),
            elements={"min_value": 0, "max_value": 99},
        )
    ),
    codec=st.sampled_from([("LZ4", 1), ("ZSTD", 8)]),
)
def test_blosc2_and_we_read_what_we_write(array, codec, tmp_path_factory):
    path = tmp_path_factory.mktemp("v") / "a.b2nd"
    path.write_bytes(encode_b2nd(array, *codec))
    # As nnU-Net's data loaders open their files.
    for read in (
        blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})[...],
        read_b2nd(path),
    ):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def scene(edge=40):
    image = np.random.default_rng(0).normal(size=(1, edge, edge + 1, edge + 2)).astype(np.float32)
    image[np.abs(image) < 1] = 0
    return image


def test_bytes_are_the_same_in_every_thread_and_whatever_the_library_is_set_to(monkeypatch):
    image = scene()
    with ThreadPoolExecutor(4) as pool:
        written = {hashlib.sha256(data).hexdigest() for data in pool.map(encode_b2nd, [image] * 8)}
    before = blosc2.set_nthreads(8)
    try:
        written.add(hashlib.sha256(encode_b2nd(np.asfortranarray(image))).hexdigest())
    finally:
        blosc2.set_nthreads(before)
    assert len(written) == 1


def test_compression_and_cuts_are_ours(tmp_path):
    (tmp_path / "a.b2nd").write_bytes(encode_b2nd(scene(80), "ZSTD", 8))
    array = blosc2.open(str(tmp_path / "a.b2nd"))
    assert array.schunk.cparams.codec == blosc2.Codec.ZSTD and array.schunk.cparams.clevel == 8
    assert array.chunks == (1, 80, 81, 82) and array.blocks == (1, 39, 81, 82)


def test_large_volumes_are_several_chunks(monkeypatch, tmp_path):
    monkeypatch.setattr(b2nd, "_CHUNK", 2**17)
    monkeypatch.setattr(b2nd, "_BLOCK", 2**15)
    image = scene()
    (tmp_path / "a.b2nd").write_bytes(encode_b2nd(image))
    assert blosc2.open(str(tmp_path / "a.b2nd")).chunks[1] < 40
    np.testing.assert_array_equal(read_b2nd(tmp_path / "a.b2nd"), image)


def truncated(path):
    path.write_bytes(encode_b2nd(scene()))
    os.truncate(path, path.stat().st_size // 2)


def corrupt(path):
    data = bytearray(encode_b2nd(scene()))
    data[8:80] = bytes(72)
    path.write_bytes(data)


BROKEN = {
    "missing": (lambda path: None, "no such file"),
    "directory": (lambda path: path.mkdir(), "a folder, where a file is wanted"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole Blosc2 file"),
    "text": (lambda path: path.write_text("hello " * 100), "not a whole Blosc2 file"),
    "truncated": (truncated, "not a whole Blosc2 file"),
    "corrupt": (corrupt, "not a whole Blosc2 file"),
    "words": (
        lambda path: path.write_bytes(blosc2.asarray(np.asarray(["a", "b"])).to_cframe()),
        "integers or floats",
    ),
    "a pickled array": (
        lambda path: blosc2.save_array(np.ones((3, 3, 3)), str(path)),
        "not a whole Blosc2 file",
    ),
    "NaN": (lambda path: path.write_bytes(encode_b2nd(np.full((3, 3, 3), np.nan))), "NaN or infinite"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(case, tmp_path):
    make, words = BROKEN[case]
    path = tmp_path / "scan_07.b2nd"
    make(path)
    with pytest.raises(FdifError, match=words) as error:
        read_b2nd(path)
    assert "scan_07.b2nd" in str(error.value) and "\n" not in str(error.value)
