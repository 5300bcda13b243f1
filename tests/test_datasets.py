"""Datasets: MONAI and nibabel read them, being killed changes no byte, and nothing foreign is overwritten."""

import errno
import hashlib
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImaged

import fdif_jax as fd
from fdif_jax import dataset_writer
from fdif_jax.dataset_writer import ProgramSource, write_dataset
from fdif_jax.datasets import Case, MonaiLayout, NnunetLayout, Plan, load_case, load_decathlon
from fdif_jax.errors import FdifError
from fdif_jax.volumes import write_nifti

GRID = (6, 7, 8)
PLAN = Plan({"grid": list(GRID), "max_objects": 5}, "abc", 3, 7, 3, GRID, ("ball", "cube"), MonaiLayout())
LAYOUTS = [MonaiLayout(), NnunetLayout()]


def draw(index):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 129, GRID).astype(np.uint8)
    return image, rng.integers(0, 3, GRID).astype(np.uint8 if index % 2 else np.uint16)


def source(indices):
    return [draw(i) for i in indices]


def tree(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What an uninterrupted single-threaded run leaves."""
    out = tmp_path_factory.mktemp("whole")
    write_dataset(out, source, PLAN)
    return tree(out)


def test_monai_reads_every_pair(tmp_path):
    plan = replace(PLAN, num_samples=101, num_val_samples=2)
    report = write_dataset(tmp_path, source, plan, workers=2, batch_size=3)
    assert (report.written, report.found, report.complete) == (103, 0, True)
    assert (tmp_path / "data/image/batch_0000/sample_00099_x.nii.gz").is_file()
    assert (tmp_path / "data/label/batch_0001/sample_00100_y.nii.gz").is_file()
    lists = [
        load_decathlon_datalist(tmp_path / "data/data.json", True, key) for key in ("training", "validation")
    ]
    assert list(map(len, lists)) == [101, 2]
    loader = LoadImaged(keys=("image", "label"), image_only=True)
    for index, entry in enumerate(lists[0] + lists[1]):
        if index % 20 and index < 99:
            continue
        read = loader(entry)
        image, label = draw(index)
        np.testing.assert_array_equal(read["image"].numpy(), image)
        np.testing.assert_array_equal(read["label"].numpy(), label)
        np.testing.assert_array_equal(read["image"].affine.numpy(), np.eye(4))
        assert nib.load(entry["label"]).get_data_dtype() == label.dtype
        assert entry["id"] == f"sample_{index:05d}"


def test_our_reader_agrees_with_monai(tmp_path):
    write_dataset(tmp_path, source, PLAN)
    training, validation = load_decathlon(tmp_path / "data/data.json")
    theirs = load_decathlon_datalist(tmp_path / "data/data.json", True, "validation")
    assert len(training) == 7
    assert [(os.path.realpath(c.image), os.path.realpath(c.label), c.id) for c in validation] == [
        (e["image"], e["label"], e["id"]) for e in theirs
    ]
    image, label = load_case(validation[0], 2)
    np.testing.assert_array_equal(image.array, draw(7)[0])
    np.testing.assert_array_equal(label.array, draw(7)[1])


def test_nnunet_layout(tmp_path):
    write_dataset(tmp_path, source, replace(PLAN, layout=NnunetLayout(7, "Balls")))
    assert {path.name for path in tmp_path.iterdir()} == {
        "Dataset007_Balls",
        "Dataset008_Balls_Val",
        "manifest.json",
    }
    for folder, count, first in (("Dataset007_Balls", 7, 0), ("Dataset008_Balls_Val", 3, 7)):
        names = {f"case_{i:05d}" for i in range(count)}
        assert {p.name for p in (tmp_path / folder / "imagesTr").iterdir()} == {
            f"{n}_0000.nii.gz" for n in names
        }
        assert {p.name for p in (tmp_path / folder / "labelsTr").iterdir()} == {f"{n}.nii.gz" for n in names}
        assert json.loads((tmp_path / folder / "dataset.json").read_text()) == {
            "channel_names": {"0": "SDF"},
            "labels": {"background": 0, "ball": 1, "cube": 2},
            "numTraining": count,
            "file_ending": ".nii.gz",
        }
        label = nib.load(tmp_path / folder / "labelsTr/case_00001.nii.gz")
        np.testing.assert_array_equal(np.asarray(label.dataobj), draw(first + 1)[1])


def test_manifest_says_everything_and_nothing_else(tmp_path, finished):
    write_dataset(tmp_path, source, PLAN)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["recipe"] == PLAN.recipe and manifest["seed"] == 3 and manifest["num_val_samples"] == 3
    assert manifest["made_with"]["jax"] == jax.__version__
    hashes = {path: record["sha256"] for path, record in manifest["files"].items()}
    assert hashes == {path: digest for path, digest in finished.items() if path != "manifest.json"}


@pytest.mark.parametrize(("workers", "batch_size"), [(4, 1), (1, 4), (4, 4)])
def test_threads_and_batches_change_no_byte(workers, batch_size, tmp_path, finished):
    write_dataset(tmp_path, source, PLAN, workers=workers, batch_size=batch_size)
    assert tree(tmp_path) == finished


class Balls:
    """A tiny program: noise within a ball."""

    def sample(self, key):
        z, y, x = jnp.meshgrid(*(jnp.arange(n) - n / 2 for n in GRID), indexing="ij")
        inside = x**2 + y**2 + z**2 < jax.random.uniform(key, (), minval=1.0, maxval=16.0)
        noise = jax.random.randint(key, GRID, 0, 129)
        return jnp.where(inside, noise, 0).astype(jnp.uint8), inside.astype(jnp.uint8)

    def sample_at(self, seed, index):
        return jax.jit(self.sample)(fd.sample_key(seed, index))

    def batch(self, keys):
        return jax.lax.map(self.sample, keys)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (4, 1), (1, 4), (3, 4)])
def test_a_program_renders_the_same_samples_in_every_batch_and_thread(workers, batch_size, tmp_path):
    program = Balls()
    plan = replace(PLAN, seed=11)
    write_dataset(
        tmp_path, ProgramSource(program, 11, batch_size), plan, workers=workers, batch_size=batch_size
    )
    for index in range(plan.total):
        case = plan.layout.case(index, plan)
        image, label = program.sample_at(11, index)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / case.image).dataobj), image)
        np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / case.label).dataobj), label)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_no_uint32(seed):
    with pytest.raises(FdifError, match="seed"):
        ProgramSource(Balls(), seed)


CHILD = f"""
import json, sys, time
import jax, numpy as np
from fdif_jax.dataset_writer import write_dataset
from fdif_jax.datasets import MonaiLayout, Plan
GRID = {GRID}
{inspect.getsource(draw)}
def slow(indices):
    for i in indices:
        time.sleep(0.02)
        yield draw(i)
jax.default_backend()
print("ready", flush=True)
write_dataset(sys.argv[1], slow, {PLAN}, workers=int(sys.argv[2]), batch_size=2)
"""


def test_kill_9_at_any_moment_changes_no_byte(tmp_path, finished):
    rng = random.Random(0)
    out, kills = tmp_path / "out", 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(out), str(rng.choice([1, 2]))], stdout=subprocess.PIPE
        )
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.01, 0.1))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
        if (out / "manifest.json").exists():
            break
    assert kills >= 2
    write_dataset(out, source, PLAN, workers=2)
    assert tree(out) == finished


def crash_after(count):
    """A source that fails once it has given ``count`` samples."""
    given = iter(range(count))

    def failing(indices):
        for i in indices:
            if next(given, None) is None:
                raise RuntimeError("crash")
            yield draw(i)

    return failing


def test_a_crash_keeps_what_is_finished_and_forgets_torn_lines_and_parts(tmp_path, finished):
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, crash_after(5), PLAN)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 5 and not (tmp_path / "manifest.json").exists()
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
    (tmp_path / "data/image/batch_0000/.sample_00006_x.nii.gz.0badcafe.part").write_bytes(b"half")
    lost = tmp_path / "data/label/batch_0000/sample_00001_y.nii.gz"
    lost.write_bytes(lost.read_bytes()[:40])
    seen = []
    report = write_dataset(tmp_path, source, PLAN, progress=lambda done, total: seen.append((done, total)))
    assert (report.written, report.found) == (10 - 3, 3)
    assert seen == [(done, 10) for done in range(3, 11)]
    assert tree(tmp_path) == finished


def test_a_journal_torn_in_its_first_line_starts_anew(tmp_path, finished):
    (tmp_path / "journal.jsonl").write_bytes(b'{"recipe": {"gr')
    write_dataset(tmp_path, source, PLAN)
    assert tree(tmp_path) == finished


def test_a_finished_dataset_is_left_alone_and_repaired(tmp_path, finished):
    write_dataset(tmp_path, source, PLAN)
    assert write_dataset(tmp_path, crash_after(0), PLAN) == dataset_writer.Report(0, 10, True)
    (tmp_path / "data/image/batch_0000/sample_00003_x.nii.gz").unlink()
    (tmp_path / "data/data.json").write_text("{")
    assert write_dataset(tmp_path, source, PLAN) == dataset_writer.Report(1, 9, True)
    assert tree(tmp_path) == finished


def test_shards_together_are_the_whole(tmp_path, finished):
    for shard in ((1, 3), (0, 3)):
        report = write_dataset(tmp_path, source, PLAN, shard=shard)
        assert report.complete is False and report.written == len(range(shard[0], 10, 3))
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, crash_after(1), PLAN, shard=(2, 3))
    assert write_dataset(tmp_path, source, PLAN, shard=(2, 3)) == dataset_writer.Report(2, 1, False)
    assert not (tmp_path / "manifest.json").exists()
    assert write_dataset(tmp_path, crash_after(0), PLAN) == dataset_writer.Report(0, 10, True)
    assert tree(tmp_path) == finished


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed is 3 there, 4 here"),
        (
            {"recipe": {"grid": list(GRID), "max_objects": 6}, "digest": "abd"},
            "recipe.max_objects is 5 there, 6 here",
        ),
        ({"num_samples": 8}, "num_samples is 7 there"),
        ({"grid": (6, 7, 9)}, "grid"),
        ({"layout": NnunetLayout()}, "layout.name is monai there, nnunet here"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_dataset_is_refused_and_named(change, words, complete, tmp_path):
    if complete:
        write_dataset(tmp_path, source, PLAN)
    else:
        with pytest.raises(RuntimeError):
            write_dataset(tmp_path, crash_after(2), PLAN)
    before = tree(tmp_path)
    with pytest.raises(FdifError, match=words) as error:
        write_dataset(tmp_path, source, replace(PLAN, **change))
    assert str(tmp_path) in str(error.value) and "digest" not in str(error.value)
    assert tree(tmp_path) == before


def test_other_versions_do_not_finish_it(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, crash_after(2), PLAN)
    made_with = dataset_writer._made_with()
    monkeypatch.setattr(dataset_writer, "_made_with", lambda: made_with | {"jax": "99"})
    with pytest.raises(FdifError, match=r"made_with\.jax is .* there, 99 here"):
        write_dataset(tmp_path, source, PLAN)


def test_foreign_directories_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FdifError, match="not empty"):
        write_dataset(tmp_path, source, PLAN)
    with pytest.raises(FdifError, match="cannot be made a directory"):
        write_dataset(tmp_path / "thesis.tex", source, PLAN)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(FdifError, match="no manifest of ours"):
        write_dataset(tmp_path, source, PLAN)
    assert set(tree(tmp_path)) == {"thesis.tex", "manifest.json"}


def test_two_writers_do_not_meet(tmp_path):
    def second(indices):
        for shard in (None, (0, 2)):
            with pytest.raises(FdifError, match="another process"):
                write_dataset(tmp_path, source, PLAN, shard=shard)
        return source(indices)

    assert write_dataset(tmp_path, second, PLAN).complete

    def whole(indices):
        write_dataset(tmp_path / "b", source, PLAN, shard=(1, 2))
        with pytest.raises(FdifError, match="another process"):
            write_dataset(tmp_path / "b", source, PLAN)
        return source(indices)

    assert write_dataset(tmp_path / "b", whole, PLAN, shard=(0, 2)).written == 5


def test_a_full_disk_loses_nothing_and_leaves_no_half_file(tmp_path, monkeypatch, finished):
    real, calls = Path.write_bytes, iter(range(10**6))

    def full(self, data):
        if next(calls) < 9:
            return real(self, data)
        real(self, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as error:
            write_dataset(tmp_path, source, PLAN)
        assert error.value.filename.endswith("sample_00004_y.nii.gz")
    for path, digest in tree(tmp_path).items():
        assert path == "journal.jsonl" or finished[path] == digest
    assert write_dataset(tmp_path, source, PLAN).found == 4
    assert tree(tmp_path) == finished


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(PLAN, num_samples=0), "num_samples is 0"),
        (lambda: replace(PLAN, num_val_samples=-1), "num_val_samples is -1"),
        (lambda: NnunetLayout(dataset_id=1000), "1 to 999"),
        (lambda: NnunetLayout(dataset_name="a/b"), "a/b"),
        (lambda: write_dataset("unused", source, PLAN, workers=0), "workers"),
        (lambda: write_dataset("unused", source, PLAN, batch_size=0), "batch size"),
        (lambda: write_dataset("unused", source, PLAN, shard=(2, 2)), "shard 2/2"),
    ],
)
def test_impossible_plans(make, words):
    with pytest.raises(FdifError, match=words):
        make()


DECATHLON = {"training": [{"image": "./im/a.nii.gz", "label": "./lb/a.nii.gz"}]}


@pytest.fixture
def decathlon(tmp_path):
    """A one-case Decathlon dataset: writes its list, given as an object or as text."""
    for folder in ("im", "lb"):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "a.nii.gz", np.ones(GRID, np.uint8))

    def write(document):
        (tmp_path / "dataset.json").write_text(
            document if isinstance(document, str) else json.dumps(document)
        )
        return tmp_path / "dataset.json"

    return write


def test_decathlon_list(decathlon, tmp_path):
    training, validation = load_decathlon(decathlon(DECATHLON))
    assert training == [Case(tmp_path / "im/a.nii.gz", tmp_path / "lb/a.nii.gz", "a")] and validation == []


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not valid JSON"),
        ([], "holds no table"),
        ({"test": []}, "no key 'training'"),
        ({"training": {}}, "'training' must be a list"),
        ({"training": ["a.nii.gz"]}, r"training\[0\] needs 'image'"),
        ({"training": [{"image": "im/a.nii.gz"}]}, r"training\[0\] needs 'label'"),
        (
            {**DECATHLON, "validation": [{"image": "im/a.nii.gz", "label": "lb/b.nii.gz"}]},
            "lists lb/b.nii.gz",
        ),
    ],
)
def test_broken_lists(document, words, decathlon):
    with pytest.raises(FdifError, match=words) as error:
        load_decathlon(decathlon(document))
    assert "dataset.json" in str(error.value)


def test_missing_list(tmp_path):
    with pytest.raises(FdifError, match=r"nowhere\.json: no such file"):
        load_decathlon(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (np.zeros((6, 7, 9), np.uint8), r"shape \(6, 7, 9\)"),
        (np.full(GRID, 3, np.uint8), "label 3; 2 classes allow 0 to 2"),
        (np.full(GRID, -1, np.int16), "label -1"),
        (np.full(GRID, 0.5, np.float32), "not whole"),
    ],
)
def test_bad_labels_are_found_when_a_case_is_read(label, words, decathlon):
    case = load_decathlon(decathlon(DECATHLON))[0][0]
    write_nifti(case.label, label)
    with pytest.raises(FdifError, match=words) as error:
        load_case(case, 2)
    assert str(case.label) in str(error.value)


def test_float_labels_become_integers(decathlon):
    case = load_decathlon(decathlon(DECATHLON))[0][0]
    write_nifti(case.label, np.full(GRID, 2.0, np.float64))
    label = load_case(case, 2)[1].array
    assert label.dtype == np.int32 and (label == 2).all()
