"""`fdif pretrain`: presets, tasks, what it writes and refuses; tiny networks and few steps."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import reserved_volumes
from fdif_jax.scripts import cli, pretrain
from fdif_jax.scripts.jobs import prepared
from fdif_jax.scripts.options.presets import SHIPPED, preset_of
from fdif_jax.training.runs import load_run


def _run(out, **changes):
    small = {"grid": (16, 16, 16), "primitives": ("sphere",), "min_objects": 1, "max_objects": 2}
    short = {"size": ("features=[4,8]",), "steps": 4, "val_every": 2, "val_samples": 2}
    pretrain.run(pretrain.Config(**{"out": out} | small | short | changes))


def test_the_command_pretrains_resumes_and_refuses(tmp_path, capsys):
    _run(tmp_path / "run", ema=0.9)
    printed = capsys.readouterr().out
    assert "1 class;" in printed and "fdif export" in printed
    opened = load_run(tmp_path / "run")
    assert [m["step"] for m in opened.history if "dice" in m] == [2, 4]
    assert {"curve.png", "prediction.png", "classes.jsonl", "tensorboard"} <= set(
        os.listdir(tmp_path / "run")
    )
    assert os.listdir(tmp_path / "run" / "pictures") == ["step_000002.png", "step_000004.png"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "classes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and set(lines[1]["dice"]) == {"sphere"}
    model = models.create(**opened.network)
    opened.restore(model)
    logits = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((1, 16, 16, 16, 1)))
    assert logits.shape == (1, 16, 16, 16, 2)

    before = opened.history
    _run(tmp_path / "run", ema=0.9)  # finished: nothing is trained again
    assert load_run(tmp_path / "run").history == before
    for change, message in (
        ({"steps": 8}, r"training\.steps is 4 there and 8 here"),
        ({"primitives": ("cone",)}, r"recipe\.primitives"),
        ({"size": ("features=[4,16]",)}, r"network\.features"),
    ):
        with pytest.raises(FdifError, match=message):
            _run(tmp_path / "run", **{"ema": 0.9} | change)
    for change in ({"grid": (17, 16, 16)}, {"val_samples": 0}, {"steps": 0}, {"checkpoint_every": -1}):
        with pytest.raises(FdifError):
            _run(tmp_path / "other", **change)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow("a process of its own")
def test_a_run_on_scenes_starts_without_what_reads_scans():
    slow = {"scipy", "nibabel", "pydicom", "tensorboardX", "matplotlib", "torch"}
    code = f"import sys, fdif_jax.scripts.pretrain; assert not {slow} & set(sys.modules), {slow} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})


@pytest.mark.slow("a training more")
def test_several_label_maps_are_learnt_by_one_head(tmp_path, capsys):
    maps = {"multi_task": True, "no_mapper_as_augmentation": True, "no_displacement_as_augmentation": True}
    maps |= {"sdf_mappers": ("inverse_cube", "floor_width_0.5"), "displacement_functions": ("ridge",)}
    maps |= {"accumulate": 2}
    _run(tmp_path / "run", **maps)
    assert "voxels, displacement 2 classes, mapper 2 classes;" in capsys.readouterr().out
    opened = load_run(tmp_path / "run")
    assert opened.network["out_channels"] == 3 + 3
    assert {"dice", "nsd", "dice/displacement", "dice/mapper", "score"} <= set(opened.history[-1])
    with pytest.raises(FdifError, match="vnet has no layer before its head"):
        _run(tmp_path / "other", **maps, network="vnet", size=())


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.slow("a training each")
def test_a_classifier_has_an_encoder_that_is_fine_tuned(tmp_path, task):
    factors = {"sdf_mappers": ("inverse_cube",), "displacement_functions": ("ridge",)}
    classes = {"no_mapper_as_augmentation": True, "no_displacement_as_augmentation": True}
    _run(tmp_path / "run", task=task, primitives=("sphere", "torus"), **factors, **classes)
    opened = load_run(tmp_path / "run")
    assert opened.network["outputs"] == ([4] if task == "classification" else [2, 2, 1])
    assert 0 <= opened.history[-1]["accuracy"] <= 1
    model = models.create(**opened.network)
    opened.restore(model)
    assert model(jnp.zeros((1, 16, 16, 16, 1))).shape == (1, sum(opened.network["outputs"]))


@pytest.mark.slow("a training more; files are read in tests/batches")
def test_a_dataset_is_trained_on_and_a_resumed_run_refuses_another(tmp_path):
    for name, seed in (("data", 0), ("other", 1)):
        small = [
            "--grid",
            "16",
            "16",
            "16",
            "--primitives",
            "sphere",
            "--max-objects",
            "2",
            "--min-objects",
            "1",
        ]
        number = [
            "--num-samples",
            "4" if name == "data" else "5",
            "--num-val-samples",
            "2",
            "--seed",
            str(seed),
        ]
        cli.run("generate", [*small, *number, "--out", str(tmp_path / name)])
    files = {"primitives": (), "grid": None, "min_objects": None, "max_objects": None}
    _run(tmp_path / "run", data=tmp_path / "data", **files)
    opened = load_run(tmp_path / "run")
    assert opened.network["out_channels"] == 2 and len(opened.document.data.sha256) == 64
    assert [m["step"] for m in opened.history if "dice" in m] == [2, 4]
    with pytest.raises(FdifError, match=r"data\.sha256"):
        _run(tmp_path / "run", data=tmp_path / "other", **files)
    with pytest.raises(FdifError, match="files of a dataset are segmented"):
        _run(tmp_path / "classes", data=tmp_path / "data", task="classification", **files)


def test_held_out_volumes_are_those_of_a_reserved_seed_for_every_run():
    recipe = fd.Recipe(grid=(12, 12, 12), primitives=("sphere",), categories=(), max_objects=2, min_objects=1)
    program = fd.compile(recipe)
    image, label = jax.jit(reserved_volumes(program, 5))(jnp.uint32(3))
    ours = program.sample_at(2**31 + 5, 3)
    assert jnp.array_equal(image, ours[0]) and jnp.array_equal(label, ours[1])


# -------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_shipped_presets_are_options_of_networks_that_exist(name):
    config = preset_of(["--preset", name], lambda **given: pretrain.Config(**{"out": "run"} | given))
    source = prepared.source_of(config, None)
    spec = prepared.network_of(config, in_channels=1, grid=source.grid, **source.head)
    model = jax.eval_shape(lambda: models.create(**spec))
    assert model is not None and config.steps > config.val_every


@pytest.mark.slow("a training more; presets are read above")
def test_what_is_given_beside_a_preset_changes_it(tmp_path, capsys):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'grid = [16, 16, 16]\nprimitives = ["sphere"]\nmin_objects = 1\nmax_objects = 2\nsize = ["features=[4,8]"]\n'
        "steps = 2\nval_samples = 1\nlr = 0.5\n"
    )
    cli.run("pretrain", ["--preset", str(preset), "--lr", "0.25", "--out", str(tmp_path / "run")])
    training = load_run(tmp_path / "run").document.training
    assert training["steps"] == 2 and training["learning_rate"] == 0.25
    shutil.rmtree(tmp_path / "run")
    capsys.readouterr()
    for text, message in (
        ("lrr = 1", "did you mean 'lr'"),
        ('steps = "many"', "steps must be like 30000"),
        ("steps = ", "no TOML"),
    ):
        preset.write_text(text)
        with pytest.raises(SystemExit) as stop:
            cli.run("pretrain", ["--preset", str(preset), "--out", str(tmp_path / "run")])
        said = capsys.readouterr().err
        assert stop.value.code == 2 and message in said and said.count("\n") == 1
    for name, message in (("quik", "did you mean 'quick'"), ("none.toml", "cannot be read")):
        with pytest.raises(SystemExit):
            cli.run("pretrain", ["--preset", name, "--out", str(tmp_path / "run")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "9"], "--devices 9: there "),
        (["--batch-size", "3", "--accumulate", "2"], "equal parts|cannot be divided"),
        (["--distributed", "somewhere"], "must be auto"),
        (["--val-seed", "-1"], "val_seed must be"),
        (["--size", "tiny", "small"], "one named size"),
        (["--size", "tinny"], "did you mean 'tiny'"),
        (
            ["--recipe", "fdif + avs_db", "--task", "classification"],
            "mixture of recipes cannot be classified",
        ),
        (["--task", "classification", "--grid-scale", "0"], "grid scale is 0"),
        (["--ema", "2"], "ema must be"),
        (["--seed", "3000000000"], "others are for evaluation"),
    ],
)
def test_impossible_options_are_one_clear_line(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        cli.run("pretrain", ["--out", str(tmp_path / "run"), *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert any(part in said for part in message.split("|")), said
    assert not (tmp_path / "run").exists()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SystemExit) as stop:
        cli.run(
            "pretrain",
            ["--out", str(tmp_path / "file" / "run"), "--grid", "16", "16", "16", "--size", "features=[4,8]"],
        )
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
