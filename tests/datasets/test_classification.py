"""Classification sets: blosc2, json and yaml read them as the trainer does; one centred object; folds that add up."""

import dataclasses
import inspect
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import blosc2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import fdif_jax as fd
from fdif_jax.datasets import classification
from fdif_jax.datasets.layouts import FOLDER, ClassificationLayout, DatasetPlan
from fdif_jax.datasets.writer import Report, write_dataset
from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli

GRID = (14, 16, 18)
SMALL = [
    *("--primitives", "sphere", "torus", "--sdf-mappers", "inverse_cube", "linear_slope_10.0"),
    *("--displacement-functions", "ridge", "--grid", *map(str, GRID), "--format", "classification"),
    *("--samples-per-class", "4", "--n-splits", "2", "--seed", "5"),
]
COMBINED = ["--no-mapper-as-augmentation", "--no-displacement-as-augmentation"]
LAYOUT = ClassificationLayout((0, 1, 2), 3, 2)
PLAN = DatasetPlan({"grid": list(GRID)}, "abc", 3, 9, 0, GRID, {"class": ("a", "b", "c")}, LAYOUT)


def draw(index):
    return (np.random.default_rng(index).normal(size=(1, *GRID)).astype(np.float32),)


def source(indices):
    return [draw(i) for i in indices]


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def read_as_the_trainer(root, split, fold):
    """Images and labels of one side of a fold, with the calls of the trainer's own data set."""
    names = json.loads((root / "splits_final.json").read_text())[fold][split]
    labels = json.loads((root / "labelsTr.json").read_text())
    paths = (str(root / FOLDER / f"{name}.b2nd") for name in names)
    opened = (blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1}) for path in paths)
    return [(array[...], labels[name]) for name, array in zip(names, opened, strict=True)]


def generate(out, *arguments):
    cli.run("generate", ["--out", str(out), *SMALL, *arguments])
    return out


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("set") / "whole", "--visualize", "2")


@pytest.fixture(scope="module")
def program():
    recipe = fd.load_recipe("fdif").replace(
        primitives=("sphere", "torus"),
        mappers=("inverse_cube", "linear_slope_10.0"),
        displacements=("ridge",),
        grid=GRID,
    )
    return fd.compile(classification.centred(recipe, 0.4))


@pytest.mark.slow("another library's training")
def test_the_trainer_reads_volumes_and_classes(dataset, program):
    assert {path for path in files(dataset) if not path.startswith((FOLDER, "previews"))} == {
        "labelsTr.json",
        "splits_final.json",
        "sdf_classification.yaml",
        "manifest.json",
    }
    train, val = (read_as_the_trainer(dataset, split, 1) for split in ("train", "val"))
    assert Counter(label for _, label in train) == Counter(label for _, label in val) == {0: 2, 1: 2}
    for image, _ in train + val:
        assert image.shape == (1, *GRID) and image.dtype == np.float32
        assert abs(image.mean()) < 1e-5 and abs(image.std() - 1) < 1e-5

    draw_scene, render = jax.jit(program.draw), jax.jit(program.renderer.intensities)
    for index in range(8):
        table = draw_scene(fd.sample_key(5, index), jnp.asarray([index % 2]))
        intensity, label = map(np.asarray, render(table))
        array = blosc2.open(str(dataset / FOLDER / f"case_{index:05d}.b2nd"))
        assert array.schunk.cparams.codec == blosc2.Codec.ZSTD and array.schunk.cparams.clevel == 8
        expected = (intensity - intensity.mean(dtype=np.float64)) / intensity.std(dtype=np.float64)
        np.testing.assert_allclose(array[...][0], expected, atol=2e-4)
        # One object, of the class that the list says, in the middle.
        name = f"case_{index:05d}"
        labels = json.loads((dataset / "labelsTr.json").read_text())
        assert set(np.unique(label)) == {0, labels[name] + 1} and int(table.number) == 1
        centroid = np.argwhere(label > 0).mean(0)
        assert np.abs(centroid - (np.asarray(GRID) - 1) / 2).max() < 1
    assert (dataset / "previews/case_00001.png").stat().st_size > 1000


@pytest.mark.slow("two datasets more")
def test_more_samples_a_class_begin_with_the_same(dataset, tmp_path):
    more = files(generate(tmp_path / "more", "--samples-per-class", "6"))
    images = {path: data for path, data in files(dataset).items() if path.startswith(FOLDER)}
    assert len(images) == 8 and images.items() <= more.items()


@pytest.mark.slow("a data set six times; segmentation sets are in test_generate_cli")
def test_shards_batches_and_threads_make_the_same_directory(dataset, tmp_path):
    out = tmp_path / "set"
    generate(out, "--shard", "1/2", "--batch-size", "3")
    generate(out, "--shard", "0/2", "--workers", "3")
    generate(out)
    assert files(out) == {path: data for path, data in files(dataset).items() if "previews" not in path}


@pytest.mark.slow("a program more")
def test_grid_scale_shows_larger_objects(program):
    def share(scale):
        scaled = fd.compile(
            classification.centred(
                program.recipe.replace(primitives=["sphere"], mappers=["linear_slope_20.0"]), scale
            )
        )
        table = jax.jit(scaled.draw)(fd.sample_key(0, 0), jnp.asarray([0]))
        return float((jax.jit(scaled.renderer.intensities)(table)[1] > 0).mean())

    assert share(0.8) < 0.5 * share(0.4)


def test_the_configuration_says_what_was_published(dataset):
    text = (dataset / "sdf_classification.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    config = yaml.safe_load(text)
    module = config["data"]["module"]
    assert module["_target_"] == "datasets.sdf_classification.SDFClassificationDataModule"
    assert (module["name"], module["batch_size"]) == ("sdf_classification", 1)
    transforms = module["train_transforms"]
    assert transforms["_target_"] == "augmentation.policies.batchgenerators.get_training_transforms"
    assert transforms["rotation_for_DA"] == 0.523599 and transforms["mirror_axes"] == [0, 1, 2]
    assert transforms["do_dummy_2d_data_aug"] is False
    assert config["data"]["cv"]["k"] == 2 and config["data"]["num_classes"] == 2
    assert config["data"]["patch_size"] == list(GRID)
    model = {"task": "Classification", "subtask": "multiclass", "input_channels": 1, "input_dim": 3}
    model |= {"optimizer": "AdamW", "lr": 1e-4, "warmstart": 20, "weight_decay": 1e-2, "label_smoothing": 0.2}
    assert model.items() <= config["model"].items()
    trainer = {"accumulate_grad_batches": 48, "max_epochs": 400, "sync_batchnorm": True}
    assert trainer.items() <= config["trainer"].items()
    assert config["metrics"] == ["f1", "balanced_acc", "ap", "auroc"]


@pytest.mark.slow("a program more")
def test_multilabel_names_shape_displacement_and_mapper(tmp_path, capsys):
    out = generate(tmp_path, *COMBINED, "--multilabel", "--samples-per-class", "2", "--dataset-name", "Three")
    assert "2 of shape, 2 of displacement, 2 of mapper" in capsys.readouterr().out
    labels = json.loads((out / "labelsTr.json").read_text())
    recipe = fd.load_recipe("fdif").replace(
        primitives=("sphere", "torus"),
        mappers=("inverse_cube", "linear_slope_10.0"),
        displacements=("ridge",),
        mapper_as_augmentation=False,
        displacement_as_augmentation=False,
    )
    names = fd.compile(recipe).class_names
    parts = (("sphere", "torus"), ("none", "ridge"), ("inverse_cube", "linear_slope_10.0"))
    assert len(labels) == 2 * len(names) == 16
    for index, label in enumerate(labels.values()):
        words = [part[i] for part, i in zip(parts, label, strict=True)]
        assert "+".join(word for word in words if word != "none") == names[index % len(names)]
    config = yaml.safe_load((out / "Three.yaml").read_text())
    assert config["model"]["subtask"] == "multilabel" and config["data"]["num_classes"] == 3
    assert config["data"]["module"]["name"] == "Three"
    assert len(read_as_the_trainer(out, "val", 0)) == 8


@given(
    classes=st.integers(1, 7),
    splits=st.integers(2, 6),
    more=st.integers(0, 9),
)
def test_folds_are_a_cross_validation_of_every_class(classes, splits, more):
    samples = splits + more
    layout = ClassificationLayout(tuple(range(classes)), samples, splits)
    documents = layout.documents(dataclasses.replace(PLAN, layout=layout))
    folds, labels = documents["splits_final.json"], documents["labelsTr.json"]
    assert len(folds) == splits and len(labels) == classes * samples == layout.num_samples
    assert Counter(name for fold in folds for name in fold["val"]) == dict.fromkeys(labels, 1)
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == list(labels)
        train, val = (Counter(labels[name] for name in fold[side]) for side in ("train", "val"))
        for label in range(classes):
            assert val[label] in (samples // splits, -(-samples // splits))
            if samples % splits == 0:
                assert val[label] == -(-train[label] // (splits - 1))


CHILD = f"""
import sys, time
import jax, numpy as np
from fdif_jax.datasets.layouts import ClassificationLayout
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.datasets.layouts import DatasetPlan
GRID = {GRID}
{inspect.getsource(draw)}
def slow(indices):
    for i in indices:
        time.sleep(0.05)
        yield draw(i)
jax.default_backend()
print("ready", flush=True)
write_dataset(sys.argv[1], slow, {PLAN}, workers=2)
"""


@pytest.mark.slow("processes; sets of scenes are killed in test_datasets")
def test_kill_9_at_any_moment_changes_no_byte(tmp_path):
    write_dataset(tmp_path / "whole", source, PLAN)
    rng, kills, out = random.Random(1), 0, tmp_path / "out"
    while not (out / "manifest.json").exists() and kills < 3:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.02, 0.15))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        child.stdout.close()
    assert kills >= 2
    assert write_dataset(out, source, PLAN, workers=2).complete
    assert files(out) == files(tmp_path / "whole")
    (out / "labelsTr.json").unlink()
    assert write_dataset(out, source, PLAN) == Report(0, 9, True)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassificationLayout((0,), 0), "samples per class is 0"),
        (lambda: ClassificationLayout((0,), 5, 1), "n_splits is 1"),
        (lambda: ClassificationLayout((0,), 3, 4), r"n_splits \(4\) exceeds the samples per class \(3\)"),
        (lambda: ClassificationLayout((0,), dataset_name="a/b"), "a/b"),
        (lambda: classification.centred(fd.load_recipe("fdif"), float("nan")), "grid scale is nan"),
    ],
)
def test_impossible_sets(make, words):
    with pytest.raises(FdifError, match=words):
        make()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples-per-class", "0"], "samples per class is 0"),
        (["--n-splits", "1"], "n_splits is 1"),
        (["--n-splits", "5"], "n_splits (5) exceeds the samples per class (4)"),
        (["--grid-scale", "0"], "grid scale is 0"),
        (["--grid-scale", "-1"], "grid scale is -1"),
        (["--multilabel"], "multilabel excludes displacement_as_augmentation"),
        (["--multilabel", "--no-displacement-as-augmentation"], "multilabel excludes mapper_as_augmentation"),
        (["--max-objects", "3"], "--max-objects 3: a classification set has one object a volume"),
        (["--min-objects", "2"], "--min-objects 2: a classification set has one object a volume"),
        (["--multi-task", *COMBINED], "--multi-task goes with --format monai or nnunet"),
        (["--num-samples", "9"], "--num-samples goes with --format monai or nnunet, not with classification"),
        (["--num-val-samples", "9"], "--num-val-samples goes with"),
        (["--dataset-id", "9"], "--dataset-id goes with --format nnunet"),
        (["--compress", "none"], "--compress none: a classification set's volumes are Blosc2"),
        (["--nnunet-format"], "--nnunet-format is --format nnunet, and --format classification"),
        (["--dataset-name", "a b"], "dataset name 'a b'"),
        (["--format", "monai"], "--samples-per-class goes with --format classification, not with monai"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        generate(tmp_path / "out", *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("fdif generate: error: "), error
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
