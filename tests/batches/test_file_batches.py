"""Batches from files: the voxels that others read, in an order that seed and step alone decide."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from fdif_jax.batches.files import FileSource, file_batch
from fdif_jax.datasets.layouts import DatasetPlan, MonaiLayout, NnunetLayout
from fdif_jax.datasets.reader import load_dataset
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts import cli
from tests.helpers.paths import HIPPOCAMPUS

GRID = (5, 6, 7)
TASKS = {"shape": ("ball", "cube"), "mapper": tuple(f"m{i}" for i in range(300))}
ONE = {"class": TASKS["shape"]}
PLAN = DatasetPlan({}, "abc", 3, 7, 3, GRID, ONE, MonaiLayout())


def draw(index, tasks=ONE):
    """Image and label maps of sample ``index``; every voxel of the image has a value of its own."""
    rng = np.random.default_rng(index)
    labels = (rng.integers(0, len(names) + 1, GRID).astype(np.uint16) for names in tasks.values())
    return rng.permutation(np.prod(GRID)).reshape(GRID).astype(np.uint8), *labels


def write(out, layout=PLAN.layout, tasks=ONE, plan=PLAN):
    write_dataset(
        out, lambda indices: [draw(i, tasks) for i in indices], replace(plan, layout=layout, tasks=tasks)
    )
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("files") / "set")


def numbers_of(images):
    """Which samples of `draw` a batch of images holds."""
    drawn = [draw(i)[0] for i in range(PLAN.total)]
    return [next(i for i, one in enumerate(drawn) if (one == image[..., 0]).all()) for image in images]


def assert_same(batch, other):
    for one, two in zip(batch, other, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("tasks", [ONE, TASKS], ids=["one", "two"])
@pytest.mark.parametrize(
    "layout",
    [MonaiLayout(), MonaiLayout("blosc2"), NnunetLayout(7, "Balls"), NnunetLayout(7, "Balls", "none")],
    ids=lambda layout: f"{layout.name}-{layout.compress}",
)
def test_what_generate_writes_is_what_comes(layout, tasks, tmp_path):
    write(tmp_path, layout, tasks)
    source = FileSource(tmp_path, 3, 5, workers=2)
    assert dict(source.tasks) == tasks and source.class_names == TASKS["shape"]
    assert (source.grid, source.channels, len(source)) == (GRID, 1, 7)
    images, labels = source.feed(0)
    assert images.shape == (3, *GRID, 1) and images.dtype == np.uint8
    assert labels.dtype == (np.uint8 if tasks is ONE else np.uint16)
    for image, label, number in zip(images, labels, numbers_of(images), strict=True):
        assert number < 7
        expected, *maps = draw(number, tasks)
        np.testing.assert_array_equal(image[..., 0], expected)
        np.testing.assert_array_equal(label, maps[0] if tasks is ONE else np.stack(maps))
    held_out = FileSource(tmp_path, 1, 0, split="validation")
    assert len(held_out) == 3
    assert numbers_of(held_out.read([2, 0])[0]) == [9, 7]


def test_every_epoch_is_another_order_of_all_cases(written):
    source = FileSource(written, 2, 0, workers=2)
    drawn = [number for step in range(14) for number in numbers_of(source.feed(step)[0])]
    epochs = [tuple(drawn[i : i + 7]) for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) == 4
    other = FileSource(written, 2, 1)
    assert drawn[:14] != [number for step in range(7) for number in numbers_of(other.feed(step)[0])]


def test_a_batch_is_a_function_of_the_step_alone(written):
    patch = (3, 8, 4)
    source = FileSource(written, 3, 8, patch, workers=3)
    batches = [source.feed(step) for step in range(8)]
    again = FileSource(written, 3, 8, patch, workers=1)
    for step in (5, 6, 2, 2, 7):
        assert_same(again.feed(step), batches[step])
    assert_same(again.feed(10**9), FileSource(written, 3, 8, patch).feed(10**9))
    assert again.digest == source.digest


def test_processes_read_their_rows_of_one_batch(written):
    options = {"batch_size": 6, "seed": 2, "patch": (4, 4, 4)}
    whole = FileSource(written, **options)
    parts = [FileSource(written, **options, process_index=i, process_count=3, workers=1) for i in range(3)]
    for step in (0, 1, 4):
        rows = zip(*(part.feed(step) for part in parts), strict=True)
        assert_same(map(np.concatenate, rows), whole.feed(step))


def test_parts_are_cut_at_random_and_small_volumes_padded(written):
    source = FileSource(written, 7, 4, (3, 9, 7))
    places = []
    for images, labels in map(source.feed, range(3)):
        for image, label in zip(images[..., 0], labels, strict=True):
            ((number, first),) = [  # 9 rows around 6: one before, two after
                (i, z)
                for i in range(7)
                for z in range(3)
                if (draw(i)[0][z : z + 3] == image[:, 2:8]).all()
                or (draw(i)[0][z : z + 3] == image[:, 1:7]).all()
            ]
            expected = [np.pad(a[first : first + 3], ((0, 0), (2, 1), (0, 0))) for a in draw(number)]
            np.testing.assert_array_equal(image, expected[0])
            np.testing.assert_array_equal(label, expected[1])
            places.append(first)
    assert set(places) == {0, 1, 2}
    image, label = FileSource(written, 1, 0, (3, 2, 7)).read([6])
    np.testing.assert_array_equal(image[0, ..., 0], draw(6)[0][1:4, 2:4])
    np.testing.assert_array_equal(label[0], draw(6)[1][1:4, 2:4])


def test_padding_is_the_least_value_of_each_channel(tmp_path):
    (tmp_path / "im").mkdir()
    channels = np.random.default_rng(0).normal(size=(4, 4, 4, 2)).astype(np.float32)
    write_nifti(tmp_path / "im/a.nii.gz", channels + np.float32([5, -5]))
    write_nifti(tmp_path / "im/y.nii", np.ones((4, 4, 4), np.uint8))
    listed = {
        "labels": {"0": "background", "1": "a"},
        "training": [{"image": "im/a.nii.gz", "label": "im/y.nii"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    source = FileSource(tmp_path, 1, 0, (8, 4, 4))
    assert source.channels == 2
    (image,), (label,) = source.feed(3)
    for c in range(2):
        expected = nib.load(tmp_path / "im/a.nii.gz").get_fdata(dtype=np.float32)[..., c]
        padded = np.pad(expected, ((2, 2), (0, 0), (0, 0)), constant_values=expected.min())
        np.testing.assert_array_equal(image[..., c], padded)
    assert label.sum() == 64 and label[2:6].all()


def test_channels_of_nnunet_are_files(tmp_path):
    write(tmp_path, NnunetLayout(7, "Balls"))
    folder = tmp_path / "Dataset007_Balls"
    document = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(document | {"channel_names": {"0": "a", "1": "b"}}))
    with pytest.raises(FdifError, match=r"no such file: .*imagesTr/case_00000_0001\.nii\.gz"):
        FileSource(tmp_path, 1, 0)
    for i in range(7):
        write_nifti(folder / f"imagesTr/case_{i:05d}_0001.nii.gz", draw(i)[0].astype(np.int16) - 300)
    images, _ = FileSource(folder / "dataset.json", 2, 0).feed(0)
    assert images.dtype == np.int16 and images.shape == (2, *GRID, 2)
    np.testing.assert_array_equal(images[..., 1], images[..., 0] - 300)


def test_real_volumes_of_many_shapes_and_types():
    with pytest.raises(FdifError, match=r"hippocampus_003.*shape.*hippocampus_001.* has .*give a patch"):
        FileSource(HIPPOCAMPUS, 2, 0)
    source = FileSource(HIPPOCAMPUS, 4, 0, (32, 40, 32))
    assert len(source) == 8 and source.class_names == ("Anterior", "Posterior")
    images, labels = source.feed(0)
    assert images.dtype == np.float32 and labels.dtype == np.int8 and labels.max() == 2
    case = load_dataset(HIPPOCAMPUS / "dataset.json").training[1]
    image, label = (np.asarray(nib.load(path).dataobj) for path in case[:2])
    (read,), (read_label,) = source.read([1])
    for theirs, ours, fill in ((image, read[..., 0], image.min()), (label, read_label, 0)):
        at = [(n - p) // 2 for n, p in zip(theirs.shape, (32, 40, 32), strict=True)]
        padded = np.pad(theirs, 50, constant_values=fill)
        expected = padded[tuple(slice(50 + a, 50 + a + p) for a, p in zip(at, (32, 40, 32), strict=True))]
        np.testing.assert_array_equal(ours, expected)


def test_batches_are_normalised_on_the_device(written):
    data = FileSource(written, 3, 0).feed(1)
    two = np.concatenate([data[0], 3.0 * data[0] ** 2.0], axis=-1)
    images, labels = jax.jit(file_batch)(jnp.zeros(3), (two, data[1]))
    assert images.dtype == jnp.float32 and images.shape == (3, *GRID, 2)
    np.testing.assert_array_equal(labels, data[1])
    expected = (two - two.mean((1, 2, 3), keepdims=True)) / two.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_set_of_the_command(tmp_path):
    options = ["--primitives", "sphere", "--sdf-mappers", "inverse_cube", "--grid", "8", "8", "8"]
    options += ["--max-objects", "2", "--min-objects", "1", "--displacement-functions", "none"]
    cli.run("generate", ["--out", str(tmp_path), "--num-samples", "1", "--format", "nnunet", *options])
    source = FileSource(tmp_path, 2, 0)
    assert source.tasks == (("class", ("sphere",)),)
    folder = tmp_path / "Dataset999_SDFSynthetic"
    expected = [
        nib.load(folder / f"{name}.nii.gz") for name in ("imagesTr/case_00000_0000", "labelsTr/case_00000")
    ]
    for image, label in zip(*source.feed(0), strict=True):  # the one case, twice
        assert_same((image[..., 0], label), (np.asarray(volume.dataobj) for volume in expected))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "name", "words"),
    [
        (cut, "image", "truncated"),
        (cut, "label", "truncated"),
        (Path.unlink, "label", "no such file"),
        (lambda path: path.write_bytes(b"x" * 500), "image", "not a NIfTI file"),
        (
            lambda path: write_nifti(path, np.full(GRID, 3, np.uint8)),
            "label",
            "label 3, which its dataset does not declare: 0 background, 1 ball, 2 cube",
        ),
        (lambda path: write_nifti(path, np.zeros((5, 6, 8), np.uint8)), "label", r"shape \(5, 6, 8\)"),
    ],
)
def test_a_spoilt_file_is_named(spoil, name, words, tmp_path):
    write(tmp_path, plan=replace(PLAN, num_samples=2, num_val_samples=0))
    path = getattr(load_dataset(tmp_path).training[1], name)
    good = path.read_bytes()
    source = FileSource(tmp_path, 2, 0) if name == "label" else None
    spoil(path)
    with pytest.raises(FdifError, match=words) as error:
        (source or FileSource(tmp_path, 2, 0)).feed(4)
    assert path.name in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(good)
    if source:
        assert_same(source.feed(4), FileSource(tmp_path, 2, 0).feed(4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 3, "process_count": 2}, "multiple of the 2 processes"),
        ({"process_index": 1}, "process 1 of 1"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed -1"),
        ({"patch": (4, 4)}, r"patch is \(4, 4\)"),
    ],
)
def test_impossible_options(options, words, written):
    with pytest.raises(FdifError, match=words):
        FileSource(written, **{"batch_size": 2, "seed": 0} | options)


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(FdifError, match=r"nowhere: no such file"):
        FileSource(tmp_path / "nowhere", 1, 0)
    with pytest.raises(FdifError, match=r"no dataset: none of data/data\.json"):
        FileSource(tmp_path, 1, 0)
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(FdifError, match="an unfinished dataset"):
        FileSource(tmp_path, 1, 0)
    write(tmp_path / "raw", NnunetLayout(7, "Balls"), plan=replace(PLAN, num_val_samples=0))
    folder = tmp_path / "raw/Dataset007_Balls"
    with pytest.raises(FdifError, match="lists no validation case"):
        FileSource(folder, 1, 0, split="validation")
    shutil.copytree(folder, tmp_path / "raw/Dataset012_More")
    with pytest.raises(FdifError, match=r"several datasets \(Dataset007_Balls, Dataset012_More\)"):
        FileSource(tmp_path / "raw", 1, 0)
    (folder / "labelsTr/case_00006.nii.gz").unlink()
    with pytest.raises(FdifError, match=r"case case_00006: no such file: .*labelsTr/case_00006\.nii\.gz"):
        FileSource(folder, 1, 0)
    (folder / "imagesTr/case_00006_0000.nii.gz").unlink()
    with pytest.raises(FdifError, match=r"numTraining is 7, but there are 6 cases of \.nii\.gz files"):
        FileSource(folder, 1, 0)
    document = json.loads((folder / "dataset.json").read_text())
    for change, words in (
        ({"file_ending": ".png"}, r"file_ending is \.png"),
        ({"channel_names": None}, "neither 'training'"),
    ):
        kept = {key: value for key, value in (document | change).items() if value is not None}
        (folder / "dataset.json").write_text(json.dumps(kept))
        with pytest.raises(FdifError, match=words):
            FileSource(folder, 1, 0)
