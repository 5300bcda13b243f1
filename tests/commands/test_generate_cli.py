"""`fdif generate` and `fdif render` from the command line, on a recipe that compiles in a second."""

import json
import shutil
import subprocess
from functools import partial

import jax
import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.datasets.reader import load_channels, load_dataset, load_labels, read_volume
from fdif_jax.scripts import cli, generate
from fdif_jax.scripts.options.recipe import recipe_of
from tests.helpers.trees import tree

SMALL = [
    *("--primitives", "sphere", "torus", "--sdf-mappers", "inverse_cube", "linear_slope_10.0"),
    *(
        "--displacement-functions",
        "none",
        "--grid",
        "14",
        "16",
        "18",
        "--min-objects",
        "1",
        "--max-objects",
        "3",
    ),
]
RECIPE = fd.load_recipe("fdif").replace(
    primitives=("sphere", "torus"),
    mappers=("inverse_cube", "linear_slope_10.0"),
    displacements=("none",),
    grid=(14, 16, 18),
    min_objects=1,
    max_objects=3,
)


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def assert_error(capsys, command, arguments, words):
    with pytest.raises(SystemExit) as stop:
        cli.run(command, arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"fdif {command}: error: "), error
    assert words in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("generated") / "set"
    cli.run(
        "generate", ["--out", str(out), "--num-samples", "5", "--num-val-samples", "2", "--seed", "9", *SMALL]
    )
    return out


@pytest.mark.slow("two programs more")
def test_instances_are_written_beside_labels_and_finished_later(tmp_path, dataset):
    out = tmp_path / "set"
    options = [*SMALL, "--instances", "--num-samples", "2", "--seed", "9", "--out", str(out)]
    cli.run("generate", options)
    views = jax.jit(partial(fd.compile(RECIPE).views, number=1))
    for i, entry in enumerate(json.loads((out / "data/data.json").read_text())["training"]):
        owner = voxels(out / "data" / entry["instance"])
        np.testing.assert_array_equal(owner, views(fd.sample_key(9, i)).owner)
        np.testing.assert_array_equal(owner > 0, voxels(out / "data" / entry["label"]) > 0)
        assert owner.dtype == np.uint8 and 1 <= owner.max() <= 3
        for kind in ("image", "label"):
            assert (out / "data" / entry[kind]).read_bytes() == (dataset / "data" / entry[kind]).read_bytes()
    whole = tree(out)
    (out / "data" / entry["instance"]).unlink()
    cli.run("generate", options)
    assert tree(out) == whole and load_dataset(out).tasks[0].class_names == ("sphere", "torus")
    assert "instance" not in "".join(tree(dataset)) + (dataset / "manifest.json").read_text()


def test_files_are_the_samples_of_the_recipe(dataset):
    program = fd.compile(RECIPE)
    document = json.loads((dataset / "data/data.json").read_text())
    assert (len(document["training"]), len(document["validation"])) == (5, 2)
    assert document["labels"] == {"0": "background", "1": "sphere", "2": "torus"}
    for index, entry in enumerate(document["training"] + document["validation"]):
        image, label = program.sample_at(9, index)
        np.testing.assert_array_equal(voxels(dataset / "data" / entry["image"]), image)
        np.testing.assert_array_equal(voxels(dataset / "data" / entry["label"]), label)
        assert nib.load(dataset / "data" / entry["label"]).get_data_dtype() == np.uint8
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["recipe"] == RECIPE.to_dict() and manifest["digest"] == RECIPE.digest()


def test_finished_dataset_is_said_to_be(dataset, capsys):
    before = tree(dataset)
    cli.run(
        "generate",
        ["--out", str(dataset), "--num-samples", "5", "--num-val-samples", "2", "--seed", "9", *SMALL],
    )
    assert "is finished: 5 training and 2 validation samples of 14 x 16 x 18" in capsys.readouterr().out
    assert tree(dataset) == before


def test_shards_batches_and_threads_make_the_same_directory(dataset, tmp_path, capsys):
    out = tmp_path / "set"
    common = ["--out", str(out), "--num-samples", "5", "--num-val-samples", "2", "--seed", "9", *SMALL]
    cli.run("generate", [*common, "--shard", "0/2", "--batch-size", "3"])
    cli.run("generate", [*common, "--shard", "1/2", "--workers", "4"])
    said = capsys.readouterr().out
    assert "shard 0/2 of" in said and "samples missing: 3 of shard 1/2" in said and "is finished: 5" in said
    assert tree(out) == tree(dataset)


def test_nnunet_format_and_pictures(tmp_path, capsys):
    cli.run(
        "generate",
        [
            *("--out", str(tmp_path), "--num-samples", "2", "--num-val-samples", "1", "--visualize", "1"),
            *("--nnunet-format", "--dataset-id", "12", "--dataset-name", "Toy", *SMALL),
        ],
    )
    assert f"pictures: {tmp_path / 'previews'}" in capsys.readouterr().out
    description = json.loads((tmp_path / "Dataset012_Toy/dataset.json").read_text())
    assert description["labels"] == {"background": 0, "sphere": 1, "torus": 2}
    image, _ = fd.compile(RECIPE).sample_at(0, 2)
    np.testing.assert_array_equal(
        voxels(tmp_path / "Dataset013_Toy_Val/imagesTr/case_00000_0000.nii.gz"), image
    )
    (picture,) = (tmp_path / "previews").iterdir()
    assert picture.name == "case_00000.png" and matplotlib.image.imread(picture).std() > 0.1


def test_format_nnunet_is_nnunet_format(tmp_path):
    for number, flags in enumerate(
        (["--nnunet-format"], ["--format", "nnunet"], ["--format", "nnunet", "--nnunet-format"])
    ):
        cli.run("generate", ["--out", str(tmp_path / str(number)), "--num-samples", "1", *flags, *SMALL])
    trees = [tree(tmp_path / str(number)) for number in range(3)]
    assert trees[0] == trees[1] == trees[2] and "Dataset999_SDFSynthetic/dataset.json" in trees[0]


@pytest.mark.parametrize(("compress", "suffix"), [("none", ".nii"), ("blosc2", ".b2nd")])
def test_compressions_hold_the_same_voxels(compress, suffix, dataset, tmp_path):
    common = ["--num-samples", "5", "--num-val-samples", "2", "--seed", "9", *SMALL]
    cli.run("generate", ["--out", str(tmp_path), "--compress", compress, *common])
    paths = [path.relative_to(dataset) for path in (dataset / "data").rglob("*.nii.gz")]
    assert len(paths) == 14
    for path in paths:
        other = tmp_path / path.parent / path.name.replace(".nii.gz", suffix)
        np.testing.assert_array_equal(read_volume(other).array, voxels(dataset / path))


MULTI_TASK = [
    *("--multi-task", "--no-mapper-as-augmentation", "--no-displacement-as-augmentation", *SMALL),
    *("--displacement-functions", "ridge"),
]


@pytest.mark.slow("a program more; label maps of scenes are tested beside them")
def test_multi_task_sets_have_a_file_a_label_map(tmp_path):
    out = tmp_path / "set"
    arguments = [
        "--out",
        str(out),
        "--num-samples",
        "2",
        "--num-val-samples",
        "1",
        "--visualize",
        "1",
        *MULTI_TASK,
    ]
    cli.run("generate", arguments)
    program = fd.compile(
        RECIPE.replace(
            displacements=("ridge",),
            multi_task=True,
            mapper_as_augmentation=False,
            displacement_as_augmentation=False,
        )
    )
    names = {"shape": ("sphere", "torus"), "displacement": ("none", "ridge"), "mapper": RECIPE.mappers}
    assert {task.name: task.class_names for task in program.tasks} == names
    dataset = load_dataset(out / "data/data.json")
    assert dict(dataset.tasks) == names
    for index, case in enumerate(dataset.training + dataset.validation):
        image, labels = program.sample_at(0, index)
        np.testing.assert_array_equal(load_channels(case)[..., 0], image)
        np.testing.assert_array_equal(load_labels(case, image.shape, dataset.labels), labels)
        assert all(read_volume(path).array.dtype == np.uint8 for path in case.labels)
    pictures = {path.name for path in (out / "previews").iterdir()}
    assert pictures == {f"sample_00000{task}.png" for task in ("", "_displacement", "_mapper")}
    before = tree(out)
    (out / "data/label/batch_0000/sample_00001_y_mapper.nii.gz").unlink()
    cli.run("generate", arguments)
    assert tree(out) == before


@pytest.mark.slow("nnU-Net's own commands, which plan for minutes")
def test_nnunet_plans_and_verifies_a_multi_task_set(tmp_path):
    pytest.importorskip("nnunetv2")
    env = pytest.importorskip("tests.helpers.nnunet_client").environment(tmp_path)
    options = [
        "--format",
        "nnunet",
        "--dataset-id",
        "903",
        "--num-samples",
        "5",
        *MULTI_TASK,
        "--grid",
        *["32"] * 3,
    ]
    for compress in ("gzip", "none"):
        raw = tmp_path / "nnUNet_raw"
        cli.run("generate", ["--out", str(raw / compress), "--compress", compress, *options])
        folder = (raw / compress / "Dataset903_SDFSynthetic").rename(raw / "Dataset903_SDFSynthetic")
        command = [
            "nnUNetv2_plan_and_preprocess",
            "-d",
            "903",
            "--verify_dataset_integrity",
            "-np",
            "1",
            "-npfp",
            "1",
        ]
        done = subprocess.run([*command, "-c", "3d_fullres"], env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "verify_dataset_integrity Done" in done.stdout, (
            done.stdout + done.stderr
        )
        shutil.rmtree(folder)


def test_a_directory_of_its_own_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.run("generate", ["--num-samples", "1", *SMALL])
    (out,) = (tmp_path / "datasets").iterdir()
    assert out.name.startswith("fdif_20") and (out / "manifest.json").is_file()


def config(**options):
    return recipe_of(generate.Config(**options))


def test_options_change_the_recipe_and_only_where_they_are_given():
    assert config() == fd.load_recipe("fdif")
    changed = config(
        grid=(20, 30, 40),
        min_objects=3,
        max_objects=4,
        sdf_mappers=("modular_5",),
        displacement_functions=("ridge",),
        no_transform=True,
        no_mapper_as_augmentation=True,
        no_displacement_as_augmentation=True,
    )
    assert changed.grid == (20, 30, 40) and (changed.min_objects, changed.max_objects) == (3, 4)
    assert changed.mappers == ("modular_5",) and changed.displacements == ("ridge",)
    assert not changed.transform
    assert not changed.mapper_as_augmentation and not changed.displacement_as_augmentation


def test_augmentation_flags_switch_a_recipe_that_is_without(tmp_path):
    path = tmp_path / "plain.toml"
    fd.Recipe(primitives=("sphere",), categories=()).save(path)
    assert not config(recipe=str(path)).mapper_as_augmentation
    changed = config(recipe=str(path), mapper_as_augmentation=True, displacement_as_augmentation=True)
    assert changed.mapper_as_augmentation and changed.displacement_as_augmentation


def test_num_classes_draws_by_seed():
    drawn = [fd.compile(config(num_classes=6, seed=seed)).class_names for seed in (0, 0, 1)]
    assert len(drawn[0]) == 6 and drawn[0] == drawn[1] != drawn[2]


def test_primitives_win_over_a_recipe_of_categories(tmp_path):
    path = tmp_path / "by_category.toml"
    category = fd.compile(fd.load_recipe("fdif")).classes[0].family.category
    fd.load_recipe("fdif").replace(categories=[category]).save(path)
    assert fd.compile(config(recipe=str(path), primitives=("torus",))).class_names == ("torus",)
    assert len(fd.compile(config(recipe=str(path))).class_names) > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-samples", "0"], "num_samples is 0"),
        (["--num-val-samples", "-1"], "num_val_samples is -1"),
        (["--visualize", "-1"], "--visualize is -1"),
        (["--workers", "0"], "workers (0)"),
        (["--batch-size", "0"], "batch size (0)"),
        (["--shard", "2"], "--shard '2'"),
        (["--shard", "2/2"], "shard 2/2"),
        (["--seed", "-1"], "seed -1"),
        (["--grid", "0", "8", "8"], "grid"),
        (["--max-objects", "5"], "max_objects (5)"),
        (["--primitives", "spheer"], "did you mean 'sphere'"),
        (["--recipe", "fdiff"], "unknown recipe 'fdiff'"),
        (["--multi-task"], "multi_task excludes"),
        (["--mapper-as-augmentation", "--no-mapper-as-augmentation"], "exclude each other"),
        (["--nnunet-format", "--dataset-id", "0"], "1 to 999"),
        (["--nnunet-format", "--format", "monai"], "--nnunet-format is --format nnunet, and --format monai"),
        (["--format", "nnunet", "--compress", "blosc2"], "--compress blosc2 goes with --format monai"),
        (["--dataset-id", "5"], "--dataset-id goes with --format nnunet, not with monai"),
        (["--dataset-name", "A"], "--dataset-name goes with --format nnunet or classification"),
        (
            ["--samples-per-class", "9"],
            "--samples-per-class goes with --format classification, not with monai",
        ),
        (["--format", "nnunet", "--grid-scale", "0.3"], "--grid-scale goes with --format classification"),
        (["--n-splits", "3"], "--n-splits goes with --format classification"),
        (["--multilabel"], "--multilabel goes with --format classification, not with monai"),
        (["--format", "classification", "--recipe", "fdif + fdif_exact"], "is a mixture"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(arguments, words, tmp_path, capsys):
    assert_error(capsys, "generate", ["--out", str(tmp_path / "out"), *arguments], words)
    assert not (tmp_path / "out").exists()


def test_another_dataset_in_the_directory_is_refused(dataset, capsys):
    assert_error(
        capsys,
        "generate",
        ["--out", str(dataset), "--num-samples", "5", *SMALL],
        "seed is 9 there and 0 here",
    )


def test_render_gives_back_saved_scenes(tmp_path, capsys):
    program = fd.compile(RECIPE)
    fd.save_scenes([program.scene_at(9, i) for i in range(2)], tmp_path / "scenes.json")
    cli.run("render", [str(tmp_path / "scenes.json"), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"rendered 2 scenes to {tmp_path / 'out'}\n"
    for index in range(2):
        image, label = program.sample_at(9, index)
        # A document holds decimal numbers, so a value on the edge of truncation may fall the other way.
        difference = voxels(tmp_path / f"out/image_{index}.nii.gz").astype(int) - np.asarray(image, int)
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-2
        written = voxels(tmp_path / f"out/label_{index}.nii.gz")
        assert written.dtype == np.uint8 and (written != label).mean() < 1e-3


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "does not exist"), ("{", "not valid JSON"), ("[]", "holds no scene"), ("[3]", "scene 0")],
)
def test_render_refuses_what_is_no_scene_file(text, words, tmp_path, capsys):
    if text is not None:
        (tmp_path / "scenes.json").write_text(text)
    assert_error(capsys, "render", [str(tmp_path / "scenes.json"), "--out", str(tmp_path / "out")], words)
    assert not (tmp_path / "out").exists()
