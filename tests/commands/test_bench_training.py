"""`fdif bench training`: its figures are there, about what was asked for, and agree with each other."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import parts as bench_parts
from fdif_jax.scripts.benchmarks import rivals
from fdif_jax.scripts.benchmarks import training as bench_training
from tests.helpers.slow import quick_of

GRID = (8, 8, 8)
TINY = ["training", "--grid", "8", "8", "8", "--primitives", "sphere", "--size", "features=[2,4]", "blocks=1"]
SPEC = {"name": "convolution", "dtype": "float32"}
ONE = {"primitives": ("sphere",), "sdf_mappers": ("inverse_cube",), "displacement_functions": ("none",)}


def configured(**changes):
    small = {"grid": GRID, "min_objects": 1, "max_objects": 2, "size": ("features=[2,4]", "blocks=1")}
    config = bench_training.Config(**small | ONE | changes)
    return config, bench_training._prepared(config)


def noise(keys, _):
    """Batches that take no time to compile."""
    images = jax.vmap(lambda key: jax.random.normal(key, (*GRID, 1)))(keys)
    return images, (images[..., 0] > 0).astype(jnp.uint8)


def convolved(**changes):
    """A network of 64 features of 3³ voxels and a head, and `noise`: what they are made of can be counted."""
    config, training = configured(**changes)
    source = dataclasses.replace(training.source, make_batch=noise)
    head = training.source.objective.channels
    weights = {"kernel": jnp.ones((3, 3, 3, 1, 64)), "head": jnp.ones((64, head))}

    def train(weights, images, key):
        axes = ("NDHWC", "DHWIO", "NDHWC")
        features = jax.lax.conv_general_dilated(
            images, weights["kernel"], (1, 1, 1), "SAME", dimension_numbers=axes
        )
        return features @ weights["head"], {}

    network = training.network._replace(weights=weights, parameters=("kernel", "head"), train=train)
    return config, dataclasses.replace(training, network=network, source=source)


@pytest.mark.slow("a program for every part")
def test_every_part_has_times_work_and_floors(tmp_path, capsys, monkeypatch):
    _, training = convolved(accumulate=2, ema=0.9)
    training = dataclasses.replace(training, spec=SPEC)
    monkeypatch.setattr(bench_training, "_prepared", lambda config: training)
    path = tmp_path / "training.json"
    cli.run(
        "bench",
        [*TINY, "--runs", "2", "--accumulate", "2", "--ema", "0.9", "--clip", "1", "--json", str(path)],
    )
    figures = json.loads(path.read_text())
    parts, peaks, memory = figures["parts"], figures["peaks"], figures["memory"]
    assert list(parts) == ["generate", "forward", "backward", "update", "step"]
    for name, row in parts.items():
        assert 0 <= row["fastest"] <= row["seconds"] <= row["slowest"] and row["bytes"] > 0
        assert row["seconds"] > 0 or name in ("backward", "update")
        assert row["share"] == row["seconds"] / parts["step"]["seconds"]
        floors = row["flops"] / peaks["flops"], row["bytes"] / peaks["bytes"]
        assert (row["flops_floor"], row["bytes_floor"], row["floor"]) == (*floors, max(floors))
    inside = sum(parts[name]["flops"] for name in ("generate", "forward", "backward"))
    assert parts["step"]["flops"] == pytest.approx(inside + parts["update"]["flops"])
    # Of every weight the moments, their corrections, the decay and the average: ten operations or so.
    assert 10 < parts["update"]["flops"] / figures["parameters"] < 200
    assert figures["generation_percent"] == 100 * parts["generate"]["share"]
    assert figures["volumes_per_second"] == 2 / parts["step"]["seconds"]
    assert figures["training"]["accumulate"] == 2 and figures["recipe"]["primitives"] == ["sphere"]
    # Weights, two moments and the average are float32; a few numbers more count steps.
    assert 0 < memory["arguments"] - 4 * 4 * figures["parameters"] < 100
    assert memory["total"] == memory["arguments"] + memory["results"] + memory["temporary"]
    loss = figures["loss_memory"]
    assert loss["logits_bytes"] == 4 * 8**3 * loss["channels"] and figures["compile_seconds"] > 0
    assert "contest" not in figures
    printed = capsys.readouterr().out
    assert "volumes/s; generating is" in printed and f"loss of {loss['channels']} channels" in printed


def test_the_forward_pass_has_the_operations_of_its_convolution():
    _, training = convolved(batch_size=3)
    parts, memory = bench_parts.measure_parts(training, bench_parts.Steps(training), 1)
    layers = 2 * 64 * (3 * 8 - 2) ** 3 + 2 * 64 * 2 * 8**3  # XLA leaves out products with padding
    per_voxel = (parts["forward"].work.flops - 3 * layers) / (3 * 8**3)
    assert 5 < per_voxel < 100, per_voxel  # the loss of 2 scores
    # A layer's gradient by its weights has as many operations as the layer, and so has the head's by the features.
    assert parts["backward"].work.flops > 3 * layers
    # Weights and two moments; a few numbers more count steps.
    assert 0 < memory.arguments - 4 * 3 * (27 + 2) * 64 < 100


def test_differences_are_of_each_run_and_not_negative():
    whole = bench_parts.Part((5.0, 3.0), bench_parts.Work(10.0, 7.0))
    inner = bench_parts.Part((1.0, 2.0), bench_parts.Work(4.0, 4.0))
    assert whole.beyond(inner) == ((4.0, 1.0), (6.0, 3.0))
    assert whole.beyond(inner, whole) == ((0.0, 0.0), (0.0, 0.0))


def test_turns_alternate_and_the_first_does_not_count():
    seen = []

    def call(name):
        return lambda turn: seen.append((name, turn)) or 10.0 * turn

    assert bench_parts.in_turns({"a": call("a"), "b": call("b")}, 2) == {"a": (10.0, 20.0), "b": (10.0, 20.0)}
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_compile_seconds_include_what_the_cache_saved():
    def build():
        jax.monitoring.record_event_duration_secs("/jax/compilation_cache/compile_time_saved_sec", 50.0)
        return 7

    built, seconds = bench_parts._timed_compilation(build)
    assert built == 7 and 50 < seconds < 60


@pytest.mark.slow("two trainings")
def test_files_hold_the_scenes_that_are_drawn_in_the_loop_and_train_the_same_network():
    config, training = configured(seed=4, augment=False)
    with rivals.from_files(training, config) as steps:
        source = steps._training.source
        assert source.tasks == training.source.tasks
        keys = jax.vmap(lambda i: bench_parts.sample_key(4, i))(jnp.arange(8))
        drawn = jax.jit(training.source.make_batch)(keys, None)
        batch = jax.jit(lambda data: source.make_batch(keys, data))
        for step in range(2):
            for image, label in zip(*batch(source.feed(step)), strict=True):
                (same,) = np.flatnonzero((drawn[1] == label).all((1, 2, 3)) & np.ptp(label))
                np.testing.assert_allclose(drawn[0][same], image, atol=1e-5)
        contest = bench_training._contest(config, {"in the loop": steps, "files": steps})
    assert contest["in the loop"]["ratio"] == 1 and contest["files"]["ratio"] > 0
    for row in contest.values():
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["volumes_per_second"] == 2 / row["seconds"]
    bench_training._print_contest(bench_training.Console(), contest)


@pytest.mark.parametrize(
    "criterion", quick_of(["dice_ce", "ce"], ["ce"], "a training step more, by two libraries")
)
def test_pytorch_takes_the_same_loss_and_its_first_step_too(criterion):
    torch = pytest.importorskip("torch")
    pytest.importorskip("monai")
    pytest.importorskip("dynamic_network_architectures")
    deep = ("features=[2,4,4]", "blocks=1", "deep_supervision=true")
    _, training = configured(size=deep, clip=1e-3, ema=0.5, lr=0.1, accumulate=2, loss=criterion)
    training = dataclasses.replace(training, source=dataclasses.replace(training.source, make_batch=noise))
    theirs = rivals.TorchSteps(training)
    before = [weight.detach().clone() for weight in theirs._net.parameters()]
    assert theirs(0) > 0
    network, keys = training.network, jnp.stack([bench_parts.sample_key(0, i) for i in range(2)])
    images, labels = noise(keys, None)
    outputs, _ = jax.jit(network.train)(network.weights, images, keys[0])
    assert theirs.first_loss == pytest.approx(
        float(training.source.objective.loss(outputs, labels)), rel=1e-4
    )
    moved = [
        float((a - b).detach().abs().max()) for a, b in zip(theirs._net.parameters(), before, strict=True)
    ]
    assert 0.09 < max(moved) < 0.11  # AdamW's first step is the learning rate
    norm = torch.stack([w.grad.norm() for w in theirs._net.parameters() if w.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_preset_says_what_is_measured(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_training, "run", asked.append)
    preset = tmp_path / "mine.toml"
    preset.write_text('batch_size = 1\nloss = "ce"\nsteps = 7\nval_samples = 3\nplans = "plans.json"\n')
    cli.run("bench", [*TINY, "--preset", str(preset), "--batch-size", "3", "--from", "files", "torch"])
    (config,) = asked
    assert (config.batch_size, config.loss, config.steps, config.val_samples) == (3, "ce", 7, 3)
    assert config.rivals == ("files", "torch") and config.grid == GRID and config.plans == Path("plans.json")
    monkeypatch.undo()
    preset.write_text('data = "somewhere"\n')
    with pytest.raises(SystemExit):
        cli.run("bench", [*TINY, "--preset", str(preset)])
    assert "data is not measured" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runs", "0"], "--runs must be at least 1"),
        (["--grid", "9", "8", "8"], "takes a grid whose edges are multiples of"),
        (["--preset", "quik"], "did you mean 'quick'"),
        (["--batch-size", "0"], "must be positive"),
        (["--task", "classification", "--from", "torch"], "trains segmentation; leave out --task"),
        (["--from", "torch", "--anyway"], "pip install 'fdif-jax[torch]'"),
    ],
)
def test_impossible_options_are_one_clear_line(options, says, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(SystemExit) as stop:
        cli.run("bench", [*TINY, *options])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and says in message and message.count("\n") == 1
