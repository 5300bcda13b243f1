"""What networks learn, against PyTorch and MONAI; batches and scores of classification, against plain code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from monai.losses import DiceCELoss

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.batches.classification import classification_batch
from fdif_jax.datasets import classification
from fdif_jax.errors import FdifError
from fdif_jax.objectives import losses
from fdif_jax.objectives.supervised import Classification, Regions, Segmentation
from fdif_jax.tasks import Task

THREE = (Task("shape", ("a", "b", "c")), Task("displacement", ("d",)), Task("mapper", ("e", "f")))
SIZES = (4, 2, 3)
RNG = np.random.default_rng(0)


def scores(*grid, channels=9) -> np.ndarray:
    return 4 * RNG.standard_normal((2, *grid, channels)).astype(np.float32)


def labels(*grid, sizes=SIZES) -> np.ndarray:
    return np.stack([RNG.integers(0, size, (2, *grid)) for size in sizes], axis=1)


def parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[..., :4], array[..., 4:6], array[..., 6:]]


def test_tasks_add_monais_losses_of_their_own_channels():
    logits, wanted = scores(4, 6, 5), labels(4, 6, 5)
    x = torch.from_numpy(logits).requires_grad_()
    compare = DiceCELoss(to_onehot_y=True, softmax=True)
    total = sum(
        compare(part.movedim(-1, 1), torch.from_numpy(wanted[:, t : t + 1]))
        for t, part in enumerate(parts(x))
    )
    total.backward()
    objective = Segmentation(THREE)
    assert objective.channels == 9
    value, gradient = jax.jit(jax.value_and_grad(objective.loss))(jnp.asarray(logits), jnp.asarray(wanted))
    assert abs(float(value) - total.item()) < 1e-5
    np.testing.assert_allclose(gradient, x.grad, atol=1e-7)
    predicted = np.asarray(objective.predict(jnp.asarray(logits)))
    assert predicted.shape == wanted.shape
    for t, part in enumerate(parts(logits)):
        np.testing.assert_array_equal(predicted[:, t], part.argmax(-1))


@pytest.mark.slow("a program more")
def test_deep_supervision_holds_for_every_task():
    logits = [jnp.asarray(scores(n, n, n)) for n in (8, 4, 2)]
    wanted = jnp.asarray(labels(8, 8, 8))
    coarse = wanted[:, :, 1::2, 1::2, 1::2]
    compare = jax.jit(losses.cross_entropy)
    by_hand = sum(
        (2 * compare(fine, wanted[:, t]) + compare(half, coarse[:, t])) / 3
        for t, (fine, half) in enumerate(zip(parts(logits[0]), parts(logits[1]), strict=True))
    )
    objective = Segmentation(THREE, "ce")
    np.testing.assert_allclose(jax.jit(objective.loss)(logits, wanted), by_hand, rtol=1e-6)
    np.testing.assert_array_equal(objective.predict(logits), objective.predict(logits[0]))


@pytest.mark.parametrize("criterion", losses.LOSSES)
def test_one_task_is_its_loss_and_labels_have_no_task_axis(criterion):
    logits, wanted = [jnp.asarray(scores(n, n, n, channels=4)) for n in (4, 2)], jnp.asarray(labels(4, 4, 4))
    objective, plain = Segmentation(THREE[:1], criterion), losses.LOSSES[criterion]
    for outputs in (logits[0], logits):
        value = objective.loss(outputs, wanted[:, 0])
        assert float(value) == float(losses.deeply_supervised(plain)(outputs, wanted[:, 0]))
    assert objective.channels == 4 and objective.predict(logits).shape == (2, 4, 4, 4)


def test_the_loss_of_many_tasks_keeps_no_further_copy_of_the_logits():
    tasks = (Task("shape", ("x",) * 109), Task("mapper", ("y",) * 15))
    objective = Segmentation(tasks)
    logits, wanted = jnp.zeros((1, 24, 24, 24, 126)), jnp.zeros((1, 2, 24, 24, 24), jnp.uint8)
    compiled = jax.jit(jax.grad(objective.loss)).lower(logits, wanted).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.4 * logits.nbytes


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_classification_is_pytorchs_smoothed_cross_entropy_mean_over_labels(smoothing):
    logits, wanted = scores(), labels()
    x = torch.from_numpy(logits).requires_grad_()
    compare = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    mean = sum(compare(part, torch.from_numpy(wanted[:, t])) for t, part in enumerate(parts(x))) / 3
    mean.backward()
    objective = Classification(SIZES, smoothing)
    assert objective.channels == 9
    value, gradient = jax.jit(jax.value_and_grad(objective.loss))(jnp.asarray(logits), jnp.asarray(wanted))
    assert abs(float(value) - mean.item()) < 1e-5
    np.testing.assert_allclose(gradient, x.grad, atol=1e-7)
    np.testing.assert_array_equal(
        objective.predict(jnp.asarray(logits)), np.stack([p.argmax(-1) for p in parts(logits)], axis=1)
    )


def test_one_region_is_one_class_whose_background_scores_0():
    logits, wanted = jnp.asarray(scores(4, 3, 5, channels=1)), jnp.asarray(labels(4, 3, 5, sizes=(3,))[:, 0])
    region, own = Regions(((1, 2),), "ce"), Segmentation((Task("class", ("both",)),), "ce")
    assert region.channels == 1 and Regions(((1, 2), (1,))).channels == 2
    expected = own.loss(jnp.concatenate([jnp.zeros_like(logits), logits], -1), jnp.minimum(wanted, 1))
    assert abs(float(region.loss(logits, wanted)) - float(expected)) < 1e-5
    finer_alone = region.loss([logits, logits[:, ::2]], jnp.asarray(wanted))
    assert abs(float(finer_alone) - float(expected)) < 1e-5


def test_the_published_label_smoothing_is_the_default():
    assert Classification((3,)).label_smoothing == 0.2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Segmentation(()), "at least one task"),
        (lambda: Segmentation(THREE, "dice"), "unknown loss 'dice'"),
        (lambda: Regions(((1, 2),), "dice"), "unknown loss 'dice'"),
        (lambda: Classification(()), r"one or more labels, got \[\]"),
        (lambda: Classification((3, 0)), r"one or more labels, got \[3, 0\]"),
        (lambda: Classification((3,), 1.0), "label smoothing must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(FdifError, match=message):
        make()


# ------------------------------------------------------------------------------------------ classification's pieces


def program(grid=(12, 12, 12), **changed):
    recipe = fd.load_recipe("fdif").replace(
        grid=grid,
        primitives=("sphere", "torus"),
        mappers=("inverse_cube", "linear_slope_10.0"),
        displacements=("ridge",),
        **changed,
    )
    return fd.compile(classification.centred(recipe, 0.4))


@pytest.fixture(scope="module")
def combined():
    """Of 2 shapes × 2 mappers plain and displaced: 8 classes."""
    return program(mapper_as_augmentation=False, displacement_as_augmentation=False)


@pytest.mark.slow("a program more")
def test_a_row_of_a_batch_is_the_image_of_its_class_and_of_its_key_alone(combined):
    make_batch = jax.jit(classification_batch(combined, multilabel=False))
    keys = jax.vmap(lambda i: fd.sample_key(3, i))(jnp.arange(6))
    images, numbers = make_batch(keys, None)
    assert images.shape == (6, 12, 12, 12, 1) and images.dtype == jnp.float32
    assert numbers.shape == (6, 1) and numbers.dtype == jnp.int32
    np.testing.assert_allclose(images.mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std((1, 2, 3, 4)), 1, atol=1e-4)
    render = jax.jit(classification.images(combined))  # what the files of a set hold
    for key, image, number in zip(keys, images, numbers, strict=True):
        np.testing.assert_allclose(image[..., 0], render(key, number[0])[0][0], atol=1e-5)
    turned = make_batch(keys[::-1], None)
    np.testing.assert_array_equal(turned[0][::-1], images)
    np.testing.assert_array_equal(turned[1][::-1], numbers)


def test_all_classes_are_drawn_equally_often(combined):
    # The same draws without the rendering, which JAX leaves out where only labels are asked for.
    make_batch = classification_batch(combined, multilabel=False)
    keys = jax.vmap(lambda i: fd.sample_key(0, i))(jnp.arange(800))
    counts = np.bincount(jax.jit(lambda keys: make_batch(keys, None)[1])(keys)[:, 0])
    assert len(counts) == 8
    assert ((counts - 100) ** 2 / 100).sum() < 24.3  # χ² of 7 degrees of freedom, 1 in 1000 beyond


def test_several_labels_are_those_of_the_class(combined):
    keys = jax.vmap(lambda i: fd.sample_key(1, i))(jnp.arange(40))
    number, several = (
        jax.jit(lambda keys, make=make: make(keys, None)[1])(keys)
        for make in (classification_batch(combined, multilabel) for multilabel in (False, True))
    )
    rows, names = classification.classes_of(combined, multilabel=True)
    assert [len(of) for of in names.values()] == [2, 2, 2] and several.shape == (40, 3)
    np.testing.assert_array_equal(several, np.array(rows)[number[:, 0]])
    with pytest.raises(FdifError, match="multilabel excludes displacement_as_augmentation"):
        classification_batch(program(), multilabel=True)


@pytest.mark.slow("a network is trained until it has learnt")
def test_an_encoder_learns_to_tell_shapes_apart():
    shapes = ("sphere", "torus", "cone", "cylinder")
    recipe = fd.load_recipe("fdif").replace(
        grid=(12, 12, 12), primitives=shapes, mappers=("inverse_cube",), displacements=()
    )
    compiled = fd.compile(classification.centred(recipe, 0.4))
    make_batch = jax.jit(classification_batch(compiled, multilabel=False))
    images, wanted = make_batch(jax.vmap(lambda i: fd.sample_key(0, i))(jnp.arange(16)), None)
    model = models.create("resenc_unet", in_channels=1, outputs=[4], features=[8, 16], blocks=1)
    graph, weights = nnx.split(model)
    objective, optimiser = Classification((4,)), optax.adam(1e-2)
    moments = optimiser.init(weights)

    @jax.jit
    def step(weights, moments):
        def loss_of(weights):
            outputs = nnx.merge(graph, weights)(images)
            return objective.loss(outputs, wanted), objective.predict(outputs)

        (loss, predicted), gradient = jax.value_and_grad(loss_of, has_aux=True)(weights)
        changes, moments = optimiser.update(gradient, moments, weights)
        return optax.apply_updates(weights, changes), moments, loss, predicted

    accuracies = []  # balanced: means over the shapes
    for _ in range(70):
        weights, moments, loss, predicted = step(weights, moments)
        recalls = [np.mean(np.asarray(predicted)[np.asarray(wanted) == n] == n) for n in np.unique(wanted)]
        accuracies.append(np.mean(recalls))
    assert len(np.unique(wanted)) == 4 and accuracies[0] < 0.7
    assert accuracies[-1] == 1
    # Labels smoothed by 0.2 over 4 classes have an entropy, below which no loss goes.
    entropy = -(0.85 * np.log(0.85) + 0.15 * np.log(0.05))
    assert entropy < loss < entropy + 0.1
