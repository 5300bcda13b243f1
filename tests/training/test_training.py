"""The training loop: exact resumption, checkpoints, refusals; with a two-layer network and painted boxes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fdif_jax.batches.scenes import scene_batch
from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_key, stream
from fdif_jax.objectives.losses import cross_entropy, dice_cross_entropy
from fdif_jax.training import loop
from fdif_jax.training.checkpoints import _checksums, check_same_network
from fdif_jax.training.loop import fit
from fdif_jax.training.network import State, functional, weights
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import load_run, open_run
from tests.helpers.paths import ROOT
from tests.helpers.slow import quick_of
from tests.helpers.training import BOXES, DOCUMENT, PLAN, Boxes, Net, Noisy, Validation


def _fit(
    path, *, plan=PLAN, document=DOCUMENT, stop_at=None, make_batch=None, net=None, data=None, **options
):
    """Train in ``path``; with ``stop_at`` ask to stop at that step as Ctrl-C does."""

    def report(step, _):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    network = functional(net or Net())
    options = {"loss": dice_cross_entropy, "report": report, "log_every": 5} | options
    with open_run(path, document) as run:
        return fit(network, make_batch or BOXES, data, plan, run, **options)


def _same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "whole"
    return path, _fit(path)


@pytest.mark.slow("two programs of a step; what it learns is below")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_adamw_on_the_loss_of_its_batch(tmp_path, accumulate):
    network = functional(Net())
    start, apply = network.weights, network.apply
    plan = TrainingPlan(steps=2, batch_size=4, accumulate=accumulate, warmup=0, clip=0.1, ema=0.5)
    final = _fit(tmp_path / "run", plan=plan, loss=cross_entropy)

    optimiser = optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.adamw(optax.warmup_cosine_decay_schedule(0, 1e-4, 0, 2), weight_decay=1e-5),
    )

    @jax.jit
    def gradient(weights, images, labels):
        entropies = optax.softmax_cross_entropy_with_integer_labels
        return jax.grad(lambda w: entropies(apply(w, images), labels).mean())(weights)

    expected, average, state = start, start, optimiser.init(start)
    for step in range(2):
        keys = jnp.stack([sample_key(plan.seed, 4 * step + row) for row in range(4)])
        batch = jax.jit(BOXES)(keys, None)
        changes, state = optimiser.update(gradient(expected, *batch), state, expected)
        expected = optax.apply_updates(expected, changes)
        keep = min(0.5, (1 + step) / (10 + step))
        average = {name: keep * average[name] + (1 - keep) * expected[name] for name in start}
    for name in start:
        np.testing.assert_allclose(final[name], average[name], atol=1e-6)
    assert not np.allclose(final["head.kernel"], start["head.kernel"], atol=1e-6)
    np.testing.assert_allclose(
        load_run(tmp_path / "run").weights()["head.kernel"], average["head.kernel"], atol=1e-6
    )


def test_a_training_sample_is_the_one_of_its_number_in_a_data_set():
    image, label = Boxes().sample_at(3, 7)
    images, labels = scene_batch(Boxes())(sample_key(3, 7)[None], None)
    np.testing.assert_array_equal(labels[0], label)
    raw = np.asarray(image, np.float64)
    np.testing.assert_allclose(images[0, ..., 0], (raw - raw.mean()) / raw.std(), atol=1e-5)


@pytest.mark.slow("a training more; a run is resumed above")
def test_what_is_random_in_training_resumes_exactly_and_running_statistics_are_kept(tmp_path):
    whole = _fit(tmp_path / "whole", net=Noisy(), document=RunDocument(network={"name": "noisy"}))
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", net=Noisy(), document=RunDocument(network={"name": "noisy"}), stop_at=5)
    _same_bits(_fit(tmp_path / "run", net=Noisy(), document=RunDocument(network={"name": "noisy"})), whole)
    assert whole["norm.num_batches_tracked"] == 12 and abs(float(whole["norm.running_mean"][0])) > 1e-4
    restored = Noisy()
    load_run(tmp_path / "run").restore(restored)
    np.testing.assert_array_equal(restored.norm.running_var[...], whole["norm.running_var"])


def test_training_draws_from_its_key_and_inference_draws_nothing():
    network, x = functional(Noisy()), jax.random.normal(jax.random.key(2), (2, 8, 8, 8, 1))
    one, other = (network.train(network.weights, x, jax.random.key(seed))[0] for seed in (0, 1))
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(network.apply(network.weights, x), network.apply(network.weights, x))
    assert set(network.parameters) == {
        name for name in network.weights if "running" not in name and "num" not in name
    }


def test_a_run_stopped_and_resumed_equals_one_that_was_not(tmp_path, uninterrupted):
    for stop in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            _fit(tmp_path / "run", stop_at=stop, checkpoint_every=2)
    resumed = _fit(tmp_path / "run")
    _same_bits(resumed, uninterrupted[1])
    steps = [m["step"] for m in load_run(tmp_path / "run").history]
    assert steps == sorted(set(steps)) and steps[-1] == 12


def test_a_run_that_ignores_ctrl_c_goes_on(tmp_path, uninterrupted):
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _same_bits(_fit(tmp_path / "run", stop_at=3), uninterrupted[1])
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, heeded)


@pytest.mark.slow("a training program more")
def test_several_steps_a_call_resume_exactly_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.jax, "default_backend", lambda: "gpu")
    whole = _fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", stop_at=8, checkpoint_every=4)
    _same_bits(_fit(tmp_path / "run"), whole)


@pytest.mark.slow("processes; a run that is stopped and resumed is beside it")
def test_killed_processes_lose_nothing_finished(tmp_path, uninterrupted):
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from fdif_jax.training.loop import fit
        from fdif_jax.objectives.losses import dice_cross_entropy
        from fdif_jax.training.runs import open_run
        from fdif_jax.training.network import functional
        from tests.helpers import training as t
        def report(step, _):
            if step == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        network = functional(t.Net())
        with open_run({os.fspath(tmp_path / "run")!r}, t.DOCUMENT) as run:
            fit(network, t.BOXES, None, t.PLAN, run, loss=dice_cross_entropy,
                  checkpoint_every=2, log_every=5, report=report)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with load_run(tmp_path / "run").checkpoints(read_only=True) as checkpoints:
        assert checkpoints.latest() in (4, 6, 8), "the write under way at the kill may be lost, no other"
    _same_bits(_fit(tmp_path / "run"), uninterrupted[1])


def test_training_learns_and_the_best_weights_are_kept(tmp_path):
    plan = TrainingPlan(steps=60, batch_size=4, learning_rate=3e-2, warmup=5)
    model = Net(features=8)
    network = functional(model)
    validate = Validation(network.apply)
    before = validate(network.weights)["dice"]
    net = {"validate": validate, "validate_every": 20, "net": model}
    final = _fit(tmp_path / "run", plan=plan, **net)
    run = load_run(tmp_path / "run")
    losses = [m["loss"] for m in run.history]
    dice = {m["step"]: m["dice"] for m in run.history if "dice" in m}
    assert losses[-1] < 0.5 * losses[0]
    assert list(dice) == [20, 40, 60] and max(dice.values()) > 0.8 > before

    run.restore(model, which="best")
    assert validate(weights(model))["dice"] == max(dice.values()) == run.best()
    run.restore(model)
    _same_bits(weights(model), final)


def test_streams_beside_the_samples_are_others():
    keys = [stream(0, name) for name in ("network", "cases")] + [sample_key(0, n) for n in range(4)]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 6


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    def make_batch(keys, _):
        images, labels = BOXES(keys, None)
        bad = (keys == sample_key(3, 12)).any()
        return jnp.where(bad, jnp.nan, images), labels

    with pytest.raises(
        FdifError,
        match=r"step 7, on samples 12 to 13 of seed 3, the loss is nan.*last good checkpoint is step 6",
    ):
        _fit(tmp_path / "run", make_batch=make_batch, checkpoint_every=2)
    assert np.isfinite(load_run(tmp_path / "run").weights()["head.kernel"]).all()


def test_weights_of_a_run_that_are_not_finite_are_named(tmp_path):
    learnt = weights(Net())
    learnt["head.kernel"] = learnt["head.kernel"].at[0, 0, 0, 1, 0].set(jnp.inf)
    with open_run(tmp_path / "run", DOCUMENT) as run, run.checkpoints() as checkpoints:
        checkpoints.save(3, State(learnt, {"count": jnp.zeros(())}, {}), None)
    with pytest.raises(
        FdifError, match=r"run: the checkpoint of step 3: head\.kernel holds inf at \[0, 0, 0, 1, 0\]"
    ):
        load_run(tmp_path / "run").restore(Net())


@pytest.mark.slow("a training more; one that is no number is above")
def test_a_loss_that_explodes_stops_the_run(tmp_path):
    with pytest.raises(
        FdifError, match=r"at step 1, on samples 0 to 1 of seed 0, the loss is [12]\..*no checkpoint yet"
    ):
        _fit(tmp_path / "run", plan=TrainingPlan(steps=12, warmup=2, max_loss=0.5))


def _damage(folder, how):
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if how == "cut" else b"")


@pytest.mark.parametrize(
    "what", quick_of(["weights cut", "moments gone", " empty"], ["weights cut"], "a training more")
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(tmp_path, uninterrupted, capsys, what):
    part, how = what.split(" ")
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", stop_at=8, checkpoint_every=4)
    _damage(tmp_path / "run" / "checkpoints" / "9" / part, how)
    _same_bits(_fit(tmp_path / "run"), uninterrupted[1])
    said = capsys.readouterr().err
    assert "the checkpoint of step 9 cannot be read" in said and said.count("\n") == 1
    assert os.listdir(tmp_path / "run" / "damaged") == ["9.0"]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8])
def test_no_flipped_bit_escapes_the_sum_of_a_checkpoint(dtype):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 99, (3, 5, 7)).astype(dtype)
    (expected,) = _checksums({"weights": {"a": array}})["weights"]
    for _ in range(40):
        flipped = array.copy()
        place = rng.integers(array.size * array.dtype.itemsize)
        flipped.view(np.uint8).reshape(-1)[place] ^= np.uint8(1 << rng.integers(8))
        assert _checksums({"weights": {"a": flipped}})["weights"][0] != expected


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", stop_at=4, checkpoint_every=4)
    _damage(tmp_path / "run" / "checkpoints", "empty")
    with pytest.raises(FdifError, match="no checkpoint can be read"):
        _fit(tmp_path / "run")


@pytest.mark.slow("a training more")
def test_checkpoints_are_kept_every_so_often(tmp_path):
    _fit(tmp_path / "run", checkpoint_every=1, keep_every=5)
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    assert {5, 10, 11, 12} <= kept and len(kept) <= 5


@pytest.mark.slow("a training more")
def test_batches_may_come_from_the_host_and_resume_exactly(tmp_path):
    images, labels = (np.asarray(a) for a in BOXES(jax.random.split(jax.random.key(5), 24), None))
    asked = []

    def feed(step):
        asked.append(step)
        return images[2 * step : 2 * step + 2], labels[2 * step : 2 * step + 2]

    fed = {"make_batch": lambda keys, data: data, "feed": feed}
    whole = _fit(tmp_path / "whole", **fed)
    assert asked == list(range(12))
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", stop_at=7, **fed)
    del asked[:]
    _same_bits(_fit(tmp_path / "run", **fed), whole)
    assert asked == list(range(8, 12))


def test_a_run_of_something_else_is_refused_and_what_differs_is_named(tmp_path, uninterrupted):
    other = replace(DOCUMENT, training={"steps": 24, "seed": 1})
    with pytest.raises(
        FdifError, match=r"training\.steps is 12 there and 24 here, training\.seed is not set"
    ):
        _fit(uninterrupted[0], document=other)


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FdifError, match="not empty and holds no run"):
        _fit(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(FdifError, match="is a file"):
        _fit(tmp_path / "thesis.tex")


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    with (
        open_run(tmp_path / "run", DOCUMENT),
        pytest.raises(FdifError, match="another process"),
        open_run(tmp_path / "run", DOCUMENT),
    ):
        pass


def test_weights_of_another_network_are_refused(uninterrupted):
    run = load_run(uninterrupted[0])
    model = Net(out_channels=7)
    before = weights(model)
    with pytest.raises(FdifError, match=r"head\.kernel is \(1, 1, 1, 4, 3\) there and \(1, 1, 1, 4, 7\)"):
        run.restore(model)
    _same_bits(weights(model), before)
    with pytest.raises(FdifError, match="of another network"):
        _fit(uninterrupted[0], net=model)


def test_heads_of_an_earlier_version_are_told_from_another_network():
    saved = {"conv": np.zeros((2, 2)), "objective.distance.map": np.zeros((2, 2))}
    with pytest.raises(
        FdifError, match=r"lacks objective\.distance\.coarser; its .* begin a new run"
    ) as error:
        check_same_network("it", saved, saved | {"objective.distance.coarser": np.zeros((4, 2))})
    assert "\n" not in str(error.value)
    with pytest.raises(FdifError, match=r"lacks conv2$"):
        check_same_network("it", saved, saved | {"conv2": np.zeros((4, 2))})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not a run directory"), ("{", "damaged"), ('{"network": 3}', "damaged"), ("{}", "damaged")],
)
def test_what_is_no_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(FdifError, match=message):
        load_run(tmp_path)


def test_a_run_without_checkpoints_says_so(tmp_path):
    with open_run(tmp_path / "run", DOCUMENT) as run, pytest.raises(FdifError, match="no checkpoint yet"):
        run.restore(Net())


def test_half_a_line_of_metrics_is_dropped(tmp_path, uninterrupted):
    history = load_run(uninterrupted[0]).history
    with open(uninterrupted[0] / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "lo')
    assert load_run(uninterrupted[0]).history == history
    assert json.loads((uninterrupted[0] / "run.json").read_text())["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"clip": -1.0}, "clip must be 0 or more"),
        ({"warmup": 100}, "must be shorter"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": 2**31}, "others are for evaluation"),
        ({"ema": 1.0}, "ema must be"),
        ({"accumulate": 3}, "cannot be accumulated in 3 equal parts"),
        ({"steps": 2**31}, "exceed the"),
    ],
)
def test_impossible_plans_are_refused(change, message):
    with pytest.raises(FdifError, match=message):
        TrainingPlan(**{"steps": 100, "warmup": 10} | change)
