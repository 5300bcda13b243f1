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

import blosc2
import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImaged

import fdif_jax as fd
from fdif_jax.datasets import writer
from fdif_jax.datasets.conventions import labels_of
from fdif_jax.datasets.layouts import DatasetPlan, MonaiLayout, NnunetLayout
from fdif_jax.datasets.reader import load_channels, load_dataset, load_labels, read_document, read_volume
from fdif_jax.datasets.sources import RenderedSource, labelled
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.errors import FdifError
from tests.helpers.slow import quick_of
from tests.helpers.trees import tree

GRID = (6, 7, 8)
TASKS = {"class": ("ball", "cube")}
PLAN = DatasetPlan({"grid": list(GRID), "max_objects": 5}, "abc", 3, 7, 3, GRID, TASKS, MonaiLayout())
FACTORS = {"shape": ("ball", "cube"), "displacement": ("none", "ridge", "wave"), "mapper": ("flat", "steep")}


def draw(index):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 129, GRID).astype(np.uint8)
    return image, rng.integers(0, 3, GRID).astype(np.uint8 if index % 2 else np.uint16)


def source(indices):
    return [draw(i) for i in indices]


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
    _, labels, training, validation = load_dataset(tmp_path / "data/data.json")
    theirs = load_decathlon_datalist(tmp_path / "data/data.json", True, "validation")
    assert len(training) == 7
    assert [(os.path.realpath(c.image), os.path.realpath(c.label), c.id) for c in validation] == [
        (e["image"], e["label"], e["id"]) for e in theirs
    ]
    np.testing.assert_array_equal(load_channels(validation[0])[..., 0], draw(7)[0])
    np.testing.assert_array_equal(load_labels(validation[0], GRID, labels), draw(7)[1:])


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


@pytest.mark.parametrize("layout", [MonaiLayout(), MonaiLayout("none"), NnunetLayout(7, "Balls")])
def test_files_say_how_far_voxels_lie_apart(layout, tmp_path):
    spacing = (2.5, 0.7, 1.25)
    write_dataset(tmp_path, source, replace(PLAN, layout=layout, spacing=spacing))
    assert json.loads((tmp_path / "manifest.json").read_text())["spacing"] == list(spacing)
    volumes = [nib.load(path) for path in tmp_path.rglob("*.nii*")]
    for volume in volumes:
        np.testing.assert_allclose(volume.affine, np.diag([*spacing, 1.0]), rtol=1e-6)
        np.testing.assert_allclose(volume.header.get_zooms(), spacing, rtol=1e-6)
        assert volume.header.get_xyzt_units()[0] == "mm"
    assert len(volumes) == 2 * PLAN.total


def test_manifest_says_everything_and_nothing_else(tmp_path, finished):
    write_dataset(tmp_path, source, PLAN)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "spacing" not in manifest  # datasets may be older than it
    assert manifest["recipe"] == PLAN.recipe and manifest["seed"] == 3 and manifest["num_val_samples"] == 3
    assert manifest["made_with"]["jax"] == jax.__version__
    hashes = {path: record["sha256"] for path, record in manifest["files"].items()}
    assert hashes == {
        path: hashlib.sha256(data).hexdigest() for path, data in finished.items() if path != "manifest.json"
    }


@pytest.mark.parametrize(("workers", "batch_size"), [(4, 1), (1, 4), (4, 4)])
def test_threads_and_batches_change_no_byte(workers, batch_size, tmp_path, finished):
    write_dataset(tmp_path, source, PLAN, workers=workers, batch_size=batch_size)
    assert tree(tmp_path) == finished


class Balls:
    """A tiny program: noise within a ball."""

    tasks = (("class", ("ball",)),)

    def sample(self, key):
        z, y, x = jnp.meshgrid(*(jnp.arange(n) - n / 2 for n in GRID), indexing="ij")
        inside = x**2 + y**2 + z**2 < jax.random.uniform(key, (), minval=1.0, maxval=16.0)
        noise = jax.random.randint(key, GRID, 0, 129)
        return jnp.where(inside, noise, 0).astype(jnp.uint8), inside.astype(jnp.uint8)


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 1), (4, 1), (1, 4), (3, 4)])
def test_a_program_renders_the_same_samples_in_every_batch_and_thread(workers, batch_size, tmp_path):
    program = Balls()
    plan = replace(PLAN, seed=11)
    rendered = RenderedSource(labelled(program), 11, batch_size)
    write_dataset(tmp_path, rendered, plan, workers=workers, batch_size=batch_size)
    render = jax.jit(program.sample)
    for index in range(plan.total):
        expected = render(fd.sample_key(11, index))
        for path, array in zip(plan.layout.files(index, plan), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / path).dataobj), array)


class Factors:
    """A tiny program of two label maps, the first of too many classes for a byte."""

    tasks = (("shape", tuple(map(str, range(300)))), ("mapper", ("flat", "steep")))

    def sample(self, key):
        low, high = jnp.asarray([0, 0], jnp.uint16), jnp.asarray([300, 2], jnp.uint16)
        label = jax.random.randint(key, (*GRID, 2), low, high + 1, jnp.uint16)
        return label[..., 1].astype(jnp.uint8), jnp.moveaxis(label, -1, 0)


def test_every_label_map_has_the_smallest_type_it_fits_in():
    source = RenderedSource(labelled(Factors()), 2)
    (image, shape, mapper), _ = source([5, 6])
    label = Factors().sample(fd.sample_key(2, 5))[1]
    assert (image.dtype, shape.dtype, mapper.dtype) == (np.uint8, np.uint16, np.uint8)
    np.testing.assert_array_equal(shape, label[0])
    np.testing.assert_array_equal(mapper, label[1])


def test_instances_of_a_raw_dataset_lie_beside_its_labels(tmp_path):
    plan = replace(PLAN, layout=NnunetLayout(), instances=True)
    write_dataset(tmp_path, lambda indices: [(*draw(i), draw(i + 50)[1]) for i in indices], plan)
    for folder, count in (("Dataset999_SDFSynthetic", 7), ("Dataset1000_SDFSynthetic_Val", 3)):
        files = sorted((tmp_path / folder / "instancesTr").iterdir())
        assert [file.name for file in files] == [f"case_{i:05d}.nii.gz" for i in range(count)]
    owner = nib.load(tmp_path / "Dataset999_SDFSynthetic/instancesTr/case_00004.nii.gz")
    np.testing.assert_array_equal(np.asarray(owner.dataobj), draw(54)[1])
    assert len(load_dataset(tmp_path).tasks) == 1 and plan.identity()["instances"]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_are_no_uint32(seed):
    with pytest.raises(FdifError, match="seed"):
        RenderedSource(labelled(Balls()), seed)


CHILD = f"""
import json, sys, time
import jax, numpy as np
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.datasets.layouts import MonaiLayout, DatasetPlan
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


@pytest.mark.parametrize("most", quick_of([2, 8], [2], "processes more"))
def test_kill_9_at_any_moment_changes_no_byte(tmp_path, finished, most):
    rng = random.Random(0)
    out, kills = tmp_path / "out", 0
    for _ in range(most):
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
    assert write_dataset(tmp_path, crash_after(0), PLAN) == writer.Report(0, 10, True)
    (tmp_path / "data/image/batch_0000/sample_00003_x.nii.gz").unlink()
    (tmp_path / "data/data.json").write_text("{")
    assert write_dataset(tmp_path, source, PLAN) == writer.Report(1, 9, True)
    assert tree(tmp_path) == finished


def voxels(path):
    """What the file's own library reads."""
    return blosc2.open(str(path))[...] if path.suffix == ".b2nd" else np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("compress", ["gzip", "none", "blosc2"])
def test_every_compression_is_read_back_by_others_and_by_us(compress, tmp_path):
    plan = replace(PLAN, layout=MonaiLayout(compress))
    write_dataset(tmp_path / "a", source, plan, workers=3)
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "b", crash_after(4), plan)
    assert write_dataset(tmp_path / "b", source, plan).found == 4
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    _, labels, training, validation = load_dataset(tmp_path / "a/data/data.json")
    suffix = {"gzip": ".nii.gz", "none": ".nii", "blosc2": ".b2nd"}[compress]
    for index, case in enumerate(training + validation):
        assert case.image.name == f"sample_{index:05d}_x{suffix}" and case.id == f"sample_{index:05d}"
        np.testing.assert_array_equal(load_labels(case, GRID, labels), draw(index)[1:])
        for path, volume, expected in zip(case[:2], map(read_volume, case[:2]), draw(index), strict=True):
            for read in (voxels(path), volume.array):
                np.testing.assert_array_equal(read, expected)
                assert read.dtype == expected.dtype
            np.testing.assert_array_equal(volume.affine, np.eye(4))


def factors(indices):
    """A sample's image and three label maps."""
    for i in indices:
        rng = np.random.default_rng(i)
        labels = (rng.integers(0, len(names) + 1, GRID).astype(np.uint8) for names in FACTORS.values())
        yield rng.integers(0, 129, GRID).astype(np.uint8), *labels


def test_monai_reads_every_label_map(tmp_path):
    plan = replace(PLAN, tasks=FACTORS)
    write_dataset(tmp_path, factors, plan, workers=2)
    path = tmp_path / "data/data.json"
    entry = load_decathlon_datalist(path, True, "validation")[1]
    keys = ("image", "label", "label_displacement", "label_mapper")
    assert set(entry) == {*keys, "id"} and entry["label"].endswith("sample_00008_y_shape.nii.gz")
    read = LoadImaged(keys=keys, image_only=True)(entry)
    ((*expected,),) = factors([8])
    for key, array in zip(keys, expected, strict=True):
        np.testing.assert_array_equal(read[key].numpy(), array)

    dataset = load_dataset(path)
    case = dataset.validation[1]
    assert (
        dict(dataset.tasks)
        == {task: dataset.labels[i].class_names for i, task in enumerate(FACTORS)}
        == FACTORS
    )
    np.testing.assert_array_equal(load_channels(case)[..., 0], expected[0])
    np.testing.assert_array_equal(load_labels(case, GRID, dataset.labels), expected[1:])
    with pytest.raises(FdifError, match=r"needs \"labels_color\""):
        labels_of(path, read_document(path), "color")
    case.further_labels[0][1].unlink()
    with pytest.raises(FdifError, match=r"no such file: .*sample_00008_y_displacement\.nii\.gz"):
        load_dataset(path)


def test_nnunet_keeps_further_label_maps_beside_the_first(tmp_path):
    write_dataset(tmp_path, factors, replace(PLAN, tasks=FACTORS, layout=NnunetLayout(7, "Balls", "none")))
    for folder, count, first in (("Dataset007_Balls", 7, 0), ("Dataset008_Balls_Val", 3, 7)):
        names = [f"case_{i:05d}.nii" for i in range(count)]
        ((image, *labels),) = factors([first + 1])
        image_path = tmp_path / folder / "imagesTr/case_00001_0000.nii"
        np.testing.assert_array_equal(voxels(image_path), image)
        for part, label in zip(("", "_displacement", "_mapper"), labels, strict=True):
            labels_folder = tmp_path / folder / f"labelsTr{part}"
            assert sorted(p.name for p in labels_folder.iterdir()) == names
            np.testing.assert_array_equal(voxels(labels_folder / names[1]), label)
        document = json.loads((tmp_path / folder / "dataset.json").read_text())
        assert document["file_ending"] == ".nii" and document["labels"] == {
            "background": 0,
            "ball": 1,
            "cube": 2,
        }
        assert document["labels_displacement"] == {"background": 0, "none": 1, "ridge": 2, "wave": 3}
        assert load_dataset(tmp_path / folder).labels[2].class_names == FACTORS["mapper"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        (
            {"recipe": {"grid": list(GRID), "max_objects": 6}, "digest": "abd"},
            "recipe.max_objects is 5 there and 6 here",
        ),
        ({"num_samples": 8}, "num_samples is 7 there"),
        ({"grid": (6, 7, 9)}, "grid"),
        ({"layout": NnunetLayout()}, 'layout.name is "monai" there and "nnunet" here'),
        ({"layout": MonaiLayout("none")}, 'layout.compress is "gzip" there and "none" here'),
        ({"tasks": FACTORS}, r'tasks.class is \["ball", "cube"\] there and not set here'),
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
    made_with = writer.made_with()
    monkeypatch.setattr(writer, "made_with", lambda: made_with | {"jax": "99"})
    with pytest.raises(FdifError, match=r'made_with\.jax is ".*" there and "99" here'):
        write_dataset(tmp_path, source, PLAN)


@pytest.mark.parametrize(
    "there, here, other",
    [
        ("0.1.0", "0.1.0.post1.dev4+g12ab.d20260101", "0.1.1"),
        ("0.1.0.post1.dev4+g1", "0.1.0.post1.dev5+g2", "0.1.0.1.post1.dev4+g1"),
    ],
)
def test_another_commit_of_the_release_finishes_it_and_another_release_does_not(
    there, here, other, tmp_path, monkeypatch
):
    made_with = writer.made_with()
    monkeypatch.setattr(writer, "made_with", lambda: made_with | {"fdif-jax": there})
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path, crash_after(2), PLAN)
    monkeypatch.setattr(writer, "made_with", lambda: made_with | {"fdif-jax": other})
    with pytest.raises(FdifError, match=r"made_with\.fdif-jax is "):
        write_dataset(tmp_path, source, PLAN)
    monkeypatch.setattr(writer, "made_with", lambda: made_with | {"fdif-jax": here})
    assert write_dataset(tmp_path, source, PLAN).complete
    assert json.loads((tmp_path / "manifest.json").read_text())["made_with"]["fdif-jax"] == here


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
    for path, data in tree(tmp_path).items():
        assert path == "journal.jsonl" or finished[path] == data
    assert write_dataset(tmp_path, source, PLAN).found == 4
    assert tree(tmp_path) == finished


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(PLAN, num_samples=0), "num_samples is 0"),
        (lambda: replace(PLAN, num_val_samples=-1), "num_val_samples is -1"),
        (lambda: replace(PLAN, spacing=(1.0, 1.0, 200.0)), "a volume's is 1e-06 to 100 mm"),
        (lambda: NnunetLayout(dataset_id=1000), "1 to 999"),
        (lambda: NnunetLayout(dataset_name="a/b"), "a/b"),
        (lambda: NnunetLayout(compress="blosc2"), "not blosc2"),
        (lambda: MonaiLayout("gzipp"), "did you mean 'gzip'"),
        (lambda: write_dataset("unused", source, PLAN, workers=0), "workers"),
        (lambda: write_dataset("unused", source, PLAN, batch_size=0), "batch size"),
        (lambda: write_dataset("unused", source, PLAN, shard=(2, 2)), "shard 2/2"),
    ],
)
def test_impossible_plans(make, words):
    with pytest.raises(FdifError, match=words):
        make()
