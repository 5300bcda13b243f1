"""Evaluation: its volumes are the reserved ones, its scores MONAI's, whatever the number of volumes a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_surface_dice

import fdif_jax as fd
from fdif_jax.datasets.classification import centred
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import Evaluator, reserved_images, reserved_volumes
from fdif_jax.keys import RESERVED_SEEDS
from fdif_jax.rendering.look import normalise
from fdif_jax.tasks import Task
from tests.helpers.slow import quick_of

GRID = (9, 8, 7)
NAMES = ("dark", "bright", "absent")
MAPS = (Task("class", NAMES),)
KEY = jax.random.key(5)


def boxes(index):
    """A stand-in for a recipe: a box, dark (class 1) or bright (class 2)."""
    corner_key, class_key = jax.random.split(jax.random.fold_in(KEY, index))
    corner, label = jax.random.randint(corner_key, (3,), 0, 4), jax.random.randint(class_key, (), 1, 3)
    axes = jnp.meshgrid(*[jnp.arange(n) for n in GRID], indexing="ij")
    inside = jnp.stack([(a >= c) & (a < c + 4) for a, c in zip(axes, corner, strict=True)]).all(0)
    image, label = jnp.where(inside, 128 * (label - 1), 64), jnp.where(inside, label, 0)
    return image.astype(jnp.uint8), label.astype(jnp.uint8)


def two_maps(index):
    image, label = boxes(index)
    return image, jnp.stack([label, (label > 0).astype(label.dtype)])


def by_threshold(weights, images):
    """A network of one weight: what is darker or brighter than that is an object; its edges are eaten away."""
    image = images[..., 0]
    seen = jnp.where(image < -weights, 1, jnp.where(image > weights, 2, 0))
    return jnp.where(jnp.abs(jnp.roll(image, 2, 1) - image) < 0.01, seen, 0)


def test_an_evaluator_draws_nothing_before_it_is_asked():
    def undrawn(index):
        raise AssertionError("a run's first step waits for this")

    assert Evaluator(undrawn, by_threshold, MAPS, 2).samples == 2


class Several:
    """Three volumes a call, as if on three devices."""

    size = 3

    def __init__(self, function):
        self.function, self.asked = jax.jit(function), []

    def __call__(self, weights, indices):
        assert indices.shape == (3,) and indices.dtype == np.uint32
        self.asked += indices.tolist()
        rows = [self.function(weights, index) for index in indices]
        return jax.tree.map(lambda *values: jnp.stack(values), *rows)


def one_hot(labels, num_classes):
    channels = np.asarray(labels)[None, None] == np.arange(num_classes).reshape(-1, 1, 1, 1)
    return torch.from_numpy(channels.astype(np.float32))


def mean(rows):
    return np.nanmean(rows, axis=0), np.nanmean(np.nanmean(rows, axis=1))


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:Mean of empty")
def test_scores_equal_monai():
    evaluation = Evaluator(boxes, by_threshold, MAPS, 4)(0.5)
    dice, nsd = [], []
    for index in range(4):
        image, label = boxes(index)
        pair = one_hot(by_threshold(0.5, normalise(image[None])[..., None])[0], 4), one_hot(label, 4)
        dice.append(compute_dice(*pair, include_background=False, ignore_empty=False)[0].numpy())
        dice[-1][[not (a[0, c].any() or b[0, c].any()) for a, b in [pair] for c in (1, 2, 3)]] = np.nan
        nsd.append(compute_surface_dice(*pair, [1.0] * 3, use_subvoxels=True)[0].numpy())
    for name, rows in (("dice", dice), ("nsd", nsd)):
        by_class, over_all = mean(np.array(rows, np.float64))
        assert evaluation.scalars[name] == pytest.approx(over_all, rel=1e-6)
        wanted = {n: pytest.approx(v, rel=1e-6) for n, v in zip(NAMES, by_class, strict=True) if v == v}
        assert evaluation.classes[name] == wanted and "absent" not in wanted
    assert evaluation.scalars["score"] == evaluation.scalars["dice"] < evaluation.scalars["nsd"] < 1
    np.testing.assert_array_equal(evaluation.example.image, boxes(0)[0])
    np.testing.assert_array_equal(evaluation.example.label[0], boxes(0)[1])


def test_ignored_voxels_count_in_no_score():
    corner = np.zeros(GRID, bool)
    corner[:5, :5] = True

    def part(index):
        """The boxes, of which a corner is not labelled."""
        image, label = boxes(index)
        return image, jnp.where(corner, -1, label.astype(jnp.int8))

    def known(index):
        """The same corner as background, in which nothing is predicted."""
        image, label = part(index)
        return image, jnp.maximum(label, 0)

    somewhere = np.arange(np.prod(GRID)).reshape(1, *GRID) // 3 % 3
    one = Evaluator(part, lambda w, x: jnp.asarray(somewhere), MAPS, 3)(0.5)
    other = Evaluator(known, lambda w, x: jnp.where(corner, 0, somewhere), MAPS, 3)(0.5)
    assert one.scalars == other.scalars and one.classes == other.classes
    assert one.example.label.min() == -1


@pytest.mark.parametrize("samples", quick_of([2, 3, 7], [3], "a program more"))
def test_the_same_however_many_volumes_a_call(samples):
    spreads = []

    def several(function):
        spreads.append(Several(function))
        return spreads[0]

    tasks = (Task("shape", NAMES), Task("any", ("object",)))
    predict = lambda w, x: jnp.stack([by_threshold(w, x), (by_threshold(w, x) > 0) * 1], axis=1)  # noqa: E731
    one = Evaluator(two_maps, predict, tasks, samples)(0.5)
    other = Evaluator(two_maps, predict, tasks, samples, spread=several)(0.5)
    assert (one.scalars, one.classes) == (other.scalars, other.classes)
    jax.tree.map(np.testing.assert_array_equal, one.example, other.example)
    assert set(spreads[0].asked) == set(range(samples))


def test_each_task_has_scores_of_its_own():
    tasks = (Task("shape", NAMES), Task("any", ("object",)))
    # The first task is told perfectly, the second never.
    predict = lambda w, x: jnp.stack([by_perfect(x), 0 * by_perfect(x)], axis=1)  # noqa: E731
    by_perfect = lambda x: (x[..., 0] < -0.5) * 1 + (x[..., 0] > 0.5) * 2  # noqa: E731
    evaluation = Evaluator(two_maps, predict, tasks, 2)(None)
    shares = {f"{m}{t}": v for m in ("dice", "nsd") for t, v in (("", 0.5), ("/shape", 1.0), ("/any", 0.0))}
    assert evaluation.scalars == {"score": 0.5, **shares}
    assert evaluation.classes["dice"]["any/object"] == 0.0
    assert set(evaluation.classes["nsd"]) <= {"any/object", "shape/dark", "shape/bright"}
    assert evaluation.example.prediction.shape == (2, *GRID)


def test_volumes_without_anything_score_nothing():
    empty = lambda index: tuple(0 * a for a in boxes(index))  # noqa: E731
    evaluation = Evaluator(empty, lambda w, x: jnp.zeros(x.shape[:-1], int), MAPS, 2)(None)
    assert evaluation.scalars == {"score": 0.0} and evaluation.classes == {"dice": {}, "nsd": {}}


def test_classification_is_judged_by_accuracy():
    tasks = (Task("shape", ("a", "b", "c")), Task("mapper", ("x", "y")))
    sample = lambda index: (boxes(index)[0], jnp.stack([index % 3, index % 2]).astype(int))  # noqa: E731
    # Shapes a and b are recognised, c is taken for a; mappers are all taken for x.
    seen = jnp.array([boxes(i)[0] for i in range(6)])

    def predict(weights, images):
        index = jnp.abs(images[..., 0] - normalise(seen)).sum((1, 2, 3)).argmin()
        return jnp.stack([jnp.array([0, 1, 0])[index % 3], 0])[None]

    assert len(np.unique(seen, axis=0)) == 6
    evaluation = Evaluator(sample, predict, tasks, 6)(None)
    wanted = {"accuracy/shape": 2 / 3, "accuracy/mapper": 1 / 2, "accuracy": 7 / 12, "score": 7 / 12}
    assert evaluation.scalars == {name: pytest.approx(value) for name, value in wanted.items()}
    assert evaluation.classes == {
        "accuracy": {"shape/a": 1, "shape/b": 1, "shape/c": 0, "mapper/x": 1, "mapper/y": 0}
    }
    np.testing.assert_array_equal(evaluation.example.label, [0, 0])


RECIPE = fd.load_recipe("fdif").replace(
    grid=(12, 12, 12), primitives=("sphere", "torus"), categories=(), min_objects=1, max_objects=2
)


@pytest.mark.slow("a program more; another is in test_pretrain_command")
def test_reserved_volumes_are_those_of_a_seed_that_no_training_takes():
    program = fd.compile(RECIPE.replace(mappers=("inverse_cube",), displacements=()))
    predict = lambda weights, images: jnp.zeros(images.shape[:-1], int)  # noqa: E731
    example = Evaluator(reserved_volumes(program, 3), predict, program.tasks, 1)(None).example
    image, label = program.sample_at(RESERVED_SEEDS + 3, 0)
    np.testing.assert_array_equal(example.image, image)
    np.testing.assert_array_equal(example.label, label[None])
    with pytest.raises(FdifError, match="val_seed"):
        reserved_volumes(program, RESERVED_SEEDS)


@pytest.mark.slow("a program more")
def test_reserved_images_take_turns_with_the_classes():
    options = {"mapper_as_augmentation": False, "displacement_as_augmentation": False}
    recipe = centred(RECIPE, 1.0).replace(
        mappers=("inverse_cube", "linear_slope_10.0"), displacements=(), **options
    )
    program = fd.compile(recipe)
    drawn = jax.jit(reserved_images(program, multilabel=True))
    labels = np.array([drawn(np.uint32(i))[1] for i in range(5)])
    assert len(np.unique(labels[:4], axis=0)) == 4 == len(program.classes)
    np.testing.assert_array_equal(labels[0], labels[4])
    image = drawn(np.uint32(1))[0]
    assert image.shape == (12, 12, 12) and not np.array_equal(image, drawn(np.uint32(5))[0])
    assert jax.jit(reserved_images(program, multilabel=False))(np.uint32(3))[1].tolist() == [3]


def test_an_evaluation_without_volumes():
    with pytest.raises(FdifError, match="at least 1 volume"):
        Evaluator(boxes, by_threshold, MAPS, 0)
