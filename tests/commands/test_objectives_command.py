"""`fdif pretrain --objective`: objectives beside classes; what they write, resume, leave behind and refuse."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.scripts import pretrain
from fdif_jax.scripts.jobs.initial_weights import read_initial
from fdif_jax.scripts.jobs.prepared import prepare
from fdif_jax.training.loop import fit
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import load_run, open_run
from tests.helpers.paths import ROOT

ALL = "class + 0.5*contrast + 2*distance + restore"
SMALL = {
    "recipe": "fdif", "look": ("gaussian=0.2",), "grid": (16, 16, 16), "primitives": ("sphere", "torus"),
    "min_objects": 2, "max_objects": 3, "sdf_mappers": ("inverse_cube",), "displacement_functions": ("ridge",),
    "steps": 4, "size": ("features=[4,8]",), "val_every": 2, "val_samples": 2, "objective": ALL,
    "contrast": ("voxels=32", "features=8"), "lr": 1e-3, "curriculum": ("goal=0.8", "objects=0.5"),
}  # fmt: skip


def _config(out, **changes):
    return pretrain.Config(**{"out": out} | SMALL | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("objectives") / "run"
    pretrain.run(_config(path))
    return path


def _kept(path):
    with load_run(path).checkpoints(read_only=True) as checkpoints:
        return checkpoints.result(checkpoints.latest())


@pytest.mark.slow("a training of all objectives; each by itself is in tests/objectives")
def test_all_objectives_are_learnt_and_the_heads_stay_behind(whole):
    run, kept = load_run(whole), _kept(whole)
    assert run.document.objective["weights"] == {
        "class": 1.0,
        "contrast": 0.5,
        "distance": 2.0,
        "restore": 1.0,
    }
    assert run.document.objective["contrast"]["voxels"] == 32
    assert {"dice", "retrieval", "distance_error", "restore_error"} <= set(run.history[-1])
    assert run.history[-1]["score"] == run.history[-1]["dice"]
    assert 0 < run.history[-1]["distance_error"] < 8 and 0 < run.history[-1]["restore_error"] < 3
    assert any(name.startswith("objective.contrast.levels.1.") for name in kept)
    assert kept["objective.distance.map.kernel"].shape == (4, 2)
    assert kept["objective.distance.coarser.0.kernel"].shape == (8, 2)
    assert not any(name.startswith("objective.restore.coarser") for name in kept)
    assert kept["objective.restore.map.kernel"].shape == (4, 1)
    model = models.create(**run.network)
    run.restore(model)
    assert model(jnp.zeros((1, 16, 16, 16, 1))).shape == (1, 16, 16, 16, 3)
    initial = read_initial(str(whole), "last", pretrain.Config(out=whole))
    assert initial and not any("objective" in name for name in initial.state)


@pytest.mark.slow("trainings of all objectives")
def test_the_curriculum_is_told_and_the_run_goes_on_with_no_other(whole):
    run = load_run(whole)
    assert json.loads((whole / "run.json").read_text())["curriculum"] == {
        "goal": 0.8, "focus": 1.0, "floor": 0.2, "objects": 0.5, "scale": 1.5
    }  # fmt: skip
    assert 0 < run.history[-1]["competence"] < 0.2 and run.history[-1]["objects"] == 2
    for other, message in (
        (None, r"curriculum\.goal is 0\.8 there and not set here"),
        (("objects=0.5",), r"curriculum\.goal is 0\.8 there and 0\.5 here"),
    ):
        with pytest.raises(FdifError, match=message) as error:
            pretrain.run(_config(whole, curriculum=other))
        assert "\n" not in str(error.value)


@pytest.mark.slow("two trainings more; curricula resume in tests/batches")
def test_it_resumes_to_the_bit(whole, tmp_path):
    training = prepare(_config(tmp_path / "run"))

    class Stop(Exception):
        pass

    def stop(step, _):
        if step == 3:
            raise Stop

    document = RunDocument(network=training.spec)
    source = training.source
    for report in (stop, lambda *_: None):
        try:
            with open_run(tmp_path / "run", document) as run:
                fit(
                    training.network, source.make_batch, None, training.plan, run, loss=source.objective.loss,
                    checkpoint_every=2, report=report, course=source.course,
                )  # fmt: skip
        except Stop:
            pass
    ours, theirs = _kept(tmp_path / "run"), _kept(whole)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.slow("two processes compile a training of two objectives each, a minute and a half")
def test_eight_devices_learn_what_one_does(tmp_path):
    options = {k: v for k, v in SMALL.items()} | {"batch_size": 8, "steps": 2, "val_every": 2}
    script = (
        f"import sys, json; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
        "from fdif_jax.scripts import pretrain\n"
        "o = json.loads(sys.argv[1]); o = {k: tuple(v) if isinstance(v, list) else v for k, v in o.items()}\n"
        "pretrain.run(pretrain.Config(out=Path(sys.argv[2]), devices=int(sys.argv[3]), **o))\n"
    )
    for devices in (1, 8):
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(options), os.fspath(tmp_path / str(devices)), str(devices)],
            check=True, capture_output=True,
        )  # fmt: skip
    one, eight = (load_run(tmp_path / name).history[-1] for name in ("1", "8"))
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=2e-4)
    for name, within in {"retrieval": 0.1, "distance_error": 1e-2, "restore_error": 1e-2}.items():
        assert abs(eight[name] - one[name]) < within, name
    ours, theirs = _kept(tmp_path / "8"), _kept(tmp_path / "1")
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-2, atol=2e-3, err_msg=name)


@pytest.mark.slow("a training of two views; one is above")
def test_contrast_alone_is_scored_by_retrieval(tmp_path):
    pretrain.run(_config(tmp_path / "run", objective="contrast", curriculum=None, steps=2))
    last = load_run(tmp_path / "run").history[-1]
    assert last["score"] == last["retrieval"] and "dice" not in last
    assert 0 <= last["score"] <= 1


WINDOWED = {
    "grid": (16, 16, 16), "min_objects": 2, "max_objects": 3, "size": ("features=[4,8]",), "steps": 2, "val_every": 2,
    "val_samples": 2, "objective": "distance",
}  # fmt: skip


@pytest.mark.slow("trainings of organs, a minute each")
@pytest.mark.parametrize("recipe", ["anatomix", "anatomy_random"])
def test_distances_are_learnt_through_windows(recipe, tmp_path):
    pretrain.run(pretrain.Config(out=tmp_path / "run", recipe=recipe, **WINDOWED))
    last = load_run(tmp_path / "run").history[-1]
    assert 0 < last["distance_error"] < 8 and last["score"] == 1 - last["distance_error"] / 16


def test_the_class_objective_is_the_one_without_objectives(tmp_path):
    training = prepare(_config(tmp_path, objective="class", contrast=()))
    assert not any(name.startswith("objective") for name in training.network.weights)
    assert training.source.weighed is None
    images, labels = jax.eval_shape(training.source.make_batch, jax.random.split(jax.random.key(0), 2), None)
    assert images.shape == (2, 16, 16, 16, 1) and labels.shape == (2, 16, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "classes"}, "unknown objective"),
        ({"objective": "class"}, "the objective 'class' has no contrast"),
        ({"contrast": ("voxel=3",)}, "voxel"),
        ({"task": "classification", "contrast": ()}, "--task classification gives classes alone"),
        ({"data": "somewhere", "contrast": ()}, "--data gives classes alone"),
        ({"objective": "distances"}, "did you mean 'distance'"),
        ({"objective": "0*distance"}, "'0' is no weight"),
        (
            {"look": (), "objective": "restore", "contrast": (), "augment": False},
            "no look that degrades images, so there is nothing to restore",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path, changes, message):
    with pytest.raises(FdifError, match=message) as error:
        prepare(_config(tmp_path, **changes))
    assert "\n" not in str(error.value)
