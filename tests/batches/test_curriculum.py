"""The curriculum: what it says of how scenes are drawn, the scenes drawn so, and training that it is a part of."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fdif_jax as fd
from fdif_jax.batches.curriculum import Competence, Curriculum, SceneCourse
from fdif_jax.batches.scenes import scene_batch
from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_key, sample_keys
from fdif_jax.objectives.losses import dice_cross_entropy
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scenes.world import Views
from fdif_jax.tasks import Task
from fdif_jax.training.devices import Devices
from fdif_jax.training.loop import fit
from fdif_jax.training.network import functional
from fdif_jax.training.runs import load_run, open_run
from fdif_jax.training.updates import fresh_state, step_numbers, update_of
from tests.helpers.training import COURSE, DOCUMENT, PLAN, Boxes, Net

SCENES = scene_batch(Boxes())
# Few sizes, as each is compiled.
SCORES = arrays.arrays(np.float32, st.sampled_from([2, 9]), elements=st.floats(0, 1, width=32))
SETTINGS = st.builds(
    Curriculum,
    goal=st.floats(0.01, 1),
    focus=st.floats(0, 5),
    floor=st.floats(0.01, 1),
    objects=st.floats(0.01, 1),
    scale=st.floats(1, 4),
)


# ---------------------------------------------------------------------------------------- what it says


@given(SETTINGS, SCORES)
def test_weights_sum_to_one_no_class_dies_out_and_the_worse_known_come_first(curriculum, dice):
    weights = np.asarray(curriculum.weights(Competence(jnp.asarray(dice))), np.float64)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    assert (weights >= curriculum.floor / dice.size * (1 - 1e-5)).all()
    assert (np.diff(weights[np.argsort(dice)]) <= 1e-6).all()
    expected = np.maximum(1 - dice.astype(np.float64), 1e-3) ** curriculum.focus
    expected = curriculum.floor / dice.size + (1 - curriculum.floor) * expected / expected.sum()
    np.testing.assert_allclose(weights, expected, rtol=1e-3)


@given(SETTINGS, SCORES, st.integers(1, 50), st.floats(0, 1))
def test_scenes_grow_with_competence_to_what_the_recipe_has(curriculum, dice, most, more):
    better = dice + np.float32(more) * (1 - dice)
    now, later = (curriculum.sampling(Competence(jnp.asarray(d)), most) for d in (dice, better))
    assert 1 <= now.objects <= later.objects <= most
    assert curriculum.scale + 1e-5 >= now.scale >= later.scale >= 1
    ready = curriculum.sampling(Competence(jnp.full(dice.size, curriculum.goal + 1e-6)), most)
    assert ready.objects == most and ready.scale == 1
    begin = curriculum.sampling(Competence(jnp.zeros(dice.size)), most)
    assert abs(float(begin.objects) - max(1, curriculum.objects * most)) <= 0.5 + 1e-4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(-3, 20))
def test_numbers_of_objects_stay_those_that_a_table_has_room_for(a, b, objects):
    least, most = min(a, b), max(a, b)
    low, high = Sampling(jnp.zeros(2), jnp.int32(objects), jnp.float32(1)).between(least, most)
    assert 1 <= low <= high <= most and low <= least
    assert high == np.clip(objects, 1, most)


def test_the_average_moves_where_a_class_was_seen():
    rng = np.random.default_rng(2)
    known, expected = Competence(jnp.zeros(5)), np.zeros(5)
    for _ in range(30):
        labelled = rng.integers(0, 3, 5)
        dice = np.where(labelled, rng.random(5), np.nan)
        known = known.update(jnp.asarray(dice, jnp.float32), jnp.asarray(labelled))
        expected = np.where(labelled, 0.95 * expected + 0.05 * np.nan_to_num(dice), expected)
    np.testing.assert_allclose(known.dice, expected, rtol=1e-5)


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_is_recognised_is_counted_over_the_batch(tasks):
    rng = np.random.default_rng(3)
    kinds = (Task("shape", ("a", "b", "c")), Task("mapper", ("d",)))[:tasks]
    logits = rng.normal(size=(2, 4, 4, 4, sum(len(k.class_names) + 1 for k in kinds))).astype(np.float32)
    labels = np.stack([rng.integers(0, len(k.class_names) + 1, (2, 4, 4, 4)) for k in kinds], axis=1)
    given_labels = labels if tasks > 1 else labels[:, 0]
    counts = Segmentation(kinds).overlap(jnp.asarray(logits), jnp.asarray(given_labels))
    expected, first = [], 0
    for task, kind in enumerate(kinds):
        size = len(kind.class_names) + 1
        found, label = logits[..., first : first + size].argmax(-1), labels[:, task]
        first += size
        for c in range(1, size):
            expected.append([np.sum((found == c) & (label == c)), np.sum(found == c), np.sum(label == c)])
    np.testing.assert_array_equal(counts, np.transpose(expected))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"goal": 0.0}, "goal of the curriculum must be above 0"),
        ({"floor": 0}, "floor of the curriculum must be above 0"),
        ({"objects": 1.5}, "objects of the curriculum .* at most 1, not 1.5"),
        ({"focus": -1.0}, "focus must be 0 or more"),
        ({"scale": 0.5}, "scale of the curriculum must be from 1 to 4"),
        ({"scale": float("nan")}, "scale of the curriculum must be from 1 to 4"),
        ({"goal": "high"}, "goal must be a number"),
        ({"gaol": 0.5}, "did you mean 'goal'"),
    ],
)
def test_impossible_settings_are_one_line(settings, message):
    with pytest.raises(FdifError, match=message) as error:
        Curriculum.from_dict(settings, "curriculum")
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------- scenes drawn so


@pytest.fixture(scope="module")
def spheres():
    recipe = fd.Recipe(
        grid=(16, 16, 16),
        primitives=("sphere",),
        mappers=("inverse_cube", "contour", "floor_width_0.5"),
        min_objects=4,
        max_objects=6,
    )
    program = fd.compile(recipe)

    @jax.jit
    def tables(sampling):
        return jax.lax.map(lambda key: program.draw(key, sampling=sampling), sample_keys(0, 0, 400))

    return program, tables


def _sampling(weights, objects=6, scale=1.0):
    logits = jnp.log(jnp.asarray(weights, jnp.float32))
    return Sampling(logits, jnp.asarray(objects, jnp.int32), jnp.asarray(scale, jnp.float32))


def test_classes_are_drawn_as_often_and_objects_are_as_many_and_as_large_as_said(spheres):
    _, tables = spheres
    few = tables(_sampling([0.6, 0.3, 0.1], objects=5, scale=2.0))
    seen = np.bincount(np.asarray(few.label).ravel() - 1, minlength=3)
    assert scipy.stats.chisquare(seen, 2400 * np.array([0.6, 0.3, 0.1])).pvalue > 1e-3
    assert set(np.asarray(few.number).tolist()) == {4, 5}
    plain = tables(_sampling([1, 1, 1]))
    np.testing.assert_array_equal(few.inverse, plain.inverse / 2)
    assert set(np.asarray(plain.number).tolist()) == {4, 5, 6}
    assert set(np.asarray(tables(_sampling([1, 1, 1], objects=2)).number).tolist()) == {2}


def test_a_scene_is_a_pure_function_of_recipe_key_and_competence(spheres):
    program, _ = spheres
    curriculum = Curriculum()
    draw = jax.jit(lambda keys, known: program.batch(keys, curriculum.sampling(known, program.objects)))
    one, other = Competence(jnp.zeros(3)), Competence(jnp.array([0.6, 0.0, 0.9]))
    keys = sample_keys(5, 0, 4)
    images, labels = draw(keys, one)
    again = draw(keys[::-1], one)
    np.testing.assert_array_equal(images, again[0][::-1])
    np.testing.assert_array_equal(labels, again[1][::-1])
    assert not np.array_equal(labels, draw(keys, other)[1])


def test_parts_of_a_mixture_draw_their_own_classes_of_the_common_labels(monkeypatch):
    parts = [
        fd.Part(fd.Recipe(grid=(8, 8, 8), primitives=names, max_objects=2), 1.0)
        for names in (("sphere", "torus"), ("torus", "cone"))
    ]
    program = fd.compile(fd.Mixture(tuple(parts)))

    def unrendered(part, key, number, sampling, extra):
        label = jnp.full(part.grid, part.draw(key, sampling=sampling).label[0, 0], jnp.uint8)
        return Views(label[None], label, label)

    monkeypatch.setattr(fd.Program, "views", unrendered)
    torus = program.class_names.index("torus+inverse_cube")
    sampling = Sampling(jnp.full(3, -99.0).at[torus].set(0.0), jnp.int32(9), jnp.float32(2))
    _, labels = jax.jit(program.batch)(sample_keys(1, 0, 16), sampling)
    assert set(np.unique(labels).tolist()) == {torus + 1}


def test_classes_of_several_maps_are_weighed_by_both():
    recipe = fd.Recipe(
        grid=(8, 8, 8), primitives=("sphere", "cone"), mappers=("inverse_cube", "contour"), multi_task=True
    )
    program = fd.compile(recipe)
    logits = jnp.arange(4.0)  # of sphere, cone, inverse_cube, contour
    names = {task.name: task.class_names for task in program.tasks}
    first = {"shape": 0, "mapper": len(names["shape"])}
    expected = [
        float(logits[first["shape"] + names["shape"].index(c.family.name)])
        + float(logits[first["mapper"] + names["mapper"].index(c.mapper)])
        for c in program.classes
    ]
    got = program._class_logits(Sampling(logits, jnp.int32(1), jnp.float32(1)))
    np.testing.assert_allclose(got, expected)


# ------------------------------------------------------------------------------------- training with it


def _fit(path, stop_at=None, plan=PLAN):
    def report(step, _):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    network = functional(Net())
    with open_run(path, DOCUMENT) as run:
        fit(
            network,
            SCENES,
            None,
            plan,
            run,
            loss=dice_cross_entropy,
            course=COURSE,
            report=report,
            log_every=4,
        )
    fresh = fresh_state(network, plan, Devices(1), COURSE)
    with load_run(path).checkpoints(read_only=True) as checkpoints:
        return checkpoints.resume(fresh)[1]


@pytest.mark.slow("a training more; runs of classes are resumed in test_training")
def test_a_run_with_a_curriculum_resumes_to_the_bit(tmp_path):
    whole = _fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "run", stop_at=5)
    resumed = _fit(tmp_path / "run")
    for ours, theirs in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.competence.dice.max() > 0
    history = load_run(tmp_path / "whole").history
    assert [m["step"] for m in history] == [4, 8, 12]
    assert history[-1]["competence"] == pytest.approx(float(whole.competence.dice.mean()))
    assert 2 <= history[-1]["objects"] <= 8


@pytest.mark.slow("a program more")
def test_a_step_in_parts_learns_from_the_batch_that_its_competence_asks_for():
    network, devices = functional(Net()), Devices(1)
    plan = replace(PLAN, batch_size=8, accumulate=2)
    known = Competence(jnp.array([0.0, 0.9]))
    state = fresh_state(network, plan, devices, COURSE)._replace(competence=known)
    update = update_of(network, SCENES, plan, dice_cross_entropy, devices, course=COURSE)

    @jax.jit
    def outcome(state):
        keys = jax.vmap(lambda n: sample_key(plan.seed, n))(step_numbers(plan, 3))
        images, labels = SCENES(keys, COURSE.sampling(known))
        found = network.apply(network.weights, images).argmax(-1)
        return update(state, 3, plan.pace, None)[0].competence.dice, found, labels

    learnt, found, labels = map(np.asarray, outcome(state))
    assert (labels == 1).any()
    for c, (before, after) in enumerate(zip(known.dice, learnt, strict=True), 1):
        voxels = (found == c).sum() + (labels == c).sum()
        dice = 2 * ((found == c) & (labels == c)).sum() / voxels
        expected = 0.95 * before + 0.05 * dice if (labels == c).any() else before
        np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_a_curriculum_needs_scenes_and_classes():
    network, devices = functional(Net()), Devices(1)
    with pytest.raises(FdifError, match="leave out feed"):
        update_of(network, SCENES, PLAN, dice_cross_entropy, devices, fed=True, course=COURSE)
    with pytest.raises(FdifError, match="the recipe has one"):
        SceneCourse(Curriculum(), 1, 5, COURSE.overlap)
