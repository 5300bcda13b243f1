"""Files made to harm: bombs, pickles, names and links that lead elsewhere; and what reading each of them does."""

import functools
import gzip
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fdif_jax as fd
from fdif_jax.anatomy.bank import Bank
from fdif_jax.datasets.reader import list_cases, load_dataset
from fdif_jax.io.files import write_atomic
from fdif_jax.io.nifti import encode_nifti
from fdif_jax.io.npz import read_npz
from fdif_jax.io.volumes import read_volume
from fdif_jax.scripts.benchmarks.reliability.formats import Format, _state
from fdif_jax.scripts.benchmarks.reliability.fuzzing import trial
from fdif_jax.shapes.meshes import from_mesh
from fdif_jax.weights.files import read_checkpoint

MARK = "harmed"  # a file in the folder above, which no case may make or change


class Case(NamedTuple):
    """A hostile file: what it is called, what makes it, what reads it, and whether it may be read."""

    name: str
    make: Callable[[Path], bytes | None]
    read: Callable[[Path], Any]
    harmless: bool = False


class _Pickled:
    """What runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def _mark(path: Path) -> Path:
    return path.parent.parent / MARK


def _volume() -> np.ndarray:
    return np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


def _claiming(*dims: int) -> bytes:
    """A NIfTI whose header says that it has these axes."""
    data = bytearray(encode_nifti(_volume(), compress=False))
    data[40:56] = struct.pack("<8h", len(dims), *dims, *[1] * (7 - len(dims)))
    return bytes(data)


def _bomb(path: Path) -> bytes:
    """About 100 kB that say that they are 125 GB, and are 100 MB of zeros."""
    return gzip.compress(_claiming(5000, 5000, 5000), mtime=0) + _zeros() * 6


def _endless(path: Path) -> bytes:
    """A volume of 60 voxels and ten gigabytes after it, in 10 MB."""
    return gzip.compress(encode_nifti(_volume(), compress=False), mtime=0) + _zeros() * 640


@functools.cache
def _zeros() -> bytes:
    """A gzip stream of 16 MiB of zeros."""
    return gzip.compress(bytes(2**24), 9, mtime=0)


def _archive(**entries: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _npy(array: Any, shape: tuple[int, ...] | None = None) -> bytes:
    stream = io.BytesIO()
    if shape is None:
        np.save(stream, array, allow_pickle=True)
    else:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _objects(path: Path) -> bytes:
    array = np.empty(1, object)
    array[0] = _Pickled(_mark(path))
    return _archive(**{"values.npy": _npy(array), "version.npy": _npy(np.int32(1))})


def _read_npz(path: Path) -> None:
    with path.open("rb") as file:
        read_npz(path, file)


def _torch(zipped: bool) -> Callable[[Path], bytes]:
    def made(path: Path) -> bytes:
        import torch

        stream = io.BytesIO()
        torch.save(
            {"state_dict": {"a": _Pickled(_mark(path))}}, stream, _use_new_zipfile_serialization=zipped
        )
        return stream.getvalue()

    return made


def _expanded(path: Path) -> bytes:
    """A state dict of 4 bytes that says that it is 4 TB."""
    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.ones(1).expand(2**20, 2**20)}, stream)
    return stream.getvalue()


def _escaping(data: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    """An archive that has one entry more, whose name leads out of any folder."""

    def made(path: Path) -> bytes:
        stream = io.BytesIO(data(path))
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(f"../../{MARK}", b"harm")
            archive.writestr(str(_mark(path)), b"harm")
        return stream.getvalue()

    return made


def _weights(path: Path) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in _state().items()}, stream)
    return stream.getvalue()


def _blosc2(path: Path) -> bytes:
    """A Blosc2 file with a pickle, as older ones keep arrays."""
    import blosc2

    return blosc2.compress2(pickle.dumps(_Pickled(_mark(path))))


def _reference(path: Path) -> None:
    """A Blosc2 file that is an expression of another file."""
    import blosc2

    (path.parent / "inner").mkdir(exist_ok=True)
    array = blosc2.asarray(_volume(), urlpath=str(path.parent / "inner/other.b2nd"), mode="w")
    (array + 1).save(urlpath=str(path))


def _materials(path: Path) -> bytes:
    """A mesh whose materials are a pipe, which who reads it waits for."""
    pipe = path.parent / "pipe.mtl"
    if not pipe.exists():
        os.mkfifo(pipe)
    corners = "v 0 0 0\nv 4 0 0\nv 0 4 0\nv 0 0 4\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    return f"mtllib pipe.mtl\nusemtl x\n{corners}".encode()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _listed(**case: str) -> Callable[[Path], bytes]:
    def made(path: Path) -> bytes:
        (path.parent / "a.nii").write_bytes(encode_nifti(_volume(), compress=False))
        entry = {"image": "a.nii", "label": "a.nii", **case}
        return json.dumps({"labels": {"0": "background", "1": "x"}, "training": [entry]}).encode()

    return made


def _nrrd(encoding: str, *further: str) -> Callable[[Path], bytes]:
    """An NRRD that claims 15 EB, of some zeros; ``further`` lines are of its header."""
    lines = (
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "sizes: 2500000 2500000 2500000",
        f"encoding: {encoding}",
    )
    return lambda path: "\n".join((*lines, *further, "", "")).encode() + _zeros()


def _metaimage(file: str) -> Callable[[Path], bytes]:
    lines = ("NDims = 3", "DimSize = 1 2 3", "ElementType = MET_UCHAR", f"ElementDataFile = {file}", "")
    return lambda path: "\n".join(lines).encode()


def _read_label(path: Path) -> None:
    read_volume(load_dataset(path).training[0].label)


def _named_safely(path: Path) -> None:
    """Write a result under the name of each case, as commands do."""
    for case in list_cases(path)[0]:
        write_atomic(path.parent / f"{case.id}.txt", b"result")


def _over_a_link(path: Path) -> None:
    write_atomic(path, b"result")


CASES: Mapping[str, Case] = {
    "a gzip of 100 kB that claims 125 GB": Case("scan.nii.gz", _bomb, read_volume),
    "a gzip of 10 MB with 10 GB after the voxels": Case("scan.nii.gz", _endless, read_volume, harmless=True),
    "a NIfTI of 400 bytes that claims 35 TB": Case(
        "scan.nii", lambda path: _claiming(32767, 32767, 32767), read_volume
    ),
    "a raw NRRD that claims 15 EB": Case("scan.nrrd", _nrrd("raw"), read_volume),
    "a deflated NRRD that claims 15 EB": Case("scan.nrrd", _nrrd("gzip"), read_volume),
    "an NRRD whose voxels are a secret": Case(
        "scan.nhdr", _nrrd("raw", "data file: ../secret"), read_volume
    ),
    "a MetaImage whose voxels are a secret": Case("scan.mhd", _metaimage("../secret"), read_volume),
    "an array of 100 bytes that claims 4 TB": Case(
        "bank.npz", lambda path: _archive(**{"values.npy": _npy(None, (2**20, 2**20))}), Bank.load
    ),
    "an array of 1 GB in 1 MB, which is no bank": Case(
        "bank.npz", lambda path: _archive(**{"values.npy": _npy(None, (2**28,)) + bytes(2**26)}), Bank.load
    ),
    "weights of 4 bytes that claim 4 TB": Case("weights.pth", _expanded, read_checkpoint),
    "JSON nested 1,000,000 times": Case("scenes.json", lambda path: b"[" * 1_000_000, fd.load_scenes),
    "TOML nested 100,000 times": Case(
        "recipe.toml", lambda path: b"grid = " + b"[" * 100_000, fd.load_recipe
    ),
    "a number of 1,000,000 digits": Case(
        "recipe.toml", lambda path: b"class_seed = " + b"9" * 1_000_000, fd.load_recipe
    ),
    "a pickle in a .pth": Case("weights.pth", _torch(True), read_checkpoint),
    "a pickle in an old .pth": Case("weights.pth", _torch(False), read_checkpoint),
    "a pickle called safetensors": Case("weights.safetensors", _torch(False), read_checkpoint),
    "a pickle in a bank": Case("bank.npz", _objects, Bank.load),
    "a pickle in a cache": Case("case.npz", _objects, _read_npz),
    "a pickle in a Blosc2 file": Case("scan.b2nd", _blosc2, read_volume),
    "a Blosc2 file that names another": Case("scan.b2nd", _reference, read_volume),
    "entries ../ of a bank": Case("bank.npz", _escaping(_objects), Bank.load),
    "entries ../ of a .pth": Case("weights.pth", _escaping(_weights), read_checkpoint, harmless=True),
    "a mesh whose materials are a pipe": Case("mesh.obj", _materials, from_mesh, harmless=True),
    "a pipe in the place of a scan": Case("scan.nii", _pipe, read_volume),
    "a link to an endless device": Case("scan.nii", _link("/dev/zero"), read_volume),
    "a link to a secret": Case("scan.nii", _link("../secret"), read_volume),
    "a list that names a secret": Case("dataset.json", _listed(label="../secret"), _read_label),
    "an id that leads elsewhere": Case(
        "dataset.json", _listed(id=f"../{MARK}"), _named_safely
    ),
    "an id that begins at the root": Case(
        "dataset.json", _listed(id="/tmp/harmed"), _named_safely, harmless=True
    ),
    "a link in the place of a result": Case("result.txt", _link(f"../{MARK}.kept"), _over_a_link, harmless=True),
}  # fmt: skip


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Read every hostile file; what came of it, in how many seconds, and what is wrong with that, if anything."""
    figures = {}
    for number, (what, case) in enumerate(CASES.items()):
        place = folder / f"case{number}"
        inner = place / "inner"
        inner.mkdir(parents=True)
        (place / "secret").write_text("SECRET")
        (place / f"{MARK}.kept").write_text("kept")
        path = inner / case.name
        data = case.make(path)
        if data is not None:
            path.write_bytes(data)
        began = time.perf_counter()
        kind, said = trial(Format(case.name, lambda _: [], case.read), path)
        seconds = time.perf_counter() - began
        faults = [said] if kind == "fault" else []
        faults += ["was read"] if kind == "read" and not case.harmless else []
        faults += [] if sorted(os.listdir(place)) == [f"{MARK}.kept", "inner", "secret"] else ["made a file"]
        faults += [] if (place / f"{MARK}.kept").read_text() == "kept" else ["wrote through a link"]
        faults += ["shows a secret"] if "SECRET" in said else []
        figures[what] = {"came of it": kind, "seconds": seconds, "said": said, "faults": faults}
    return figures
