"""Dense contrast: the loss by its definition, the draw of voxels, and the text that combines objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdif_jax.errors import FdifError
from fdif_jax.objectives.combined import parse_objective
from fdif_jax.objectives.contrast import Contrast, choose, nearest, retrieved, supervised_contrast
from tests.helpers.slow import quick_of


def plain(embeddings, instances, temperature):
    """The loss anchor by anchor and positive by positive, in float64."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    losses = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        total = sum(np.exp(unit[i] @ unit[j] / temperature) for j in others)
        positives = [j for j in others if instances[j] == instances[i]]
        if positives:
            logs = [np.log(np.exp(unit[i] @ unit[j] / temperature) / total) for j in positives]
            losses.append(-np.mean(logs))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.33, 1.0])
def test_the_loss_is_supervised_infonce(temperature):
    rng = np.random.default_rng(0)
    embeddings, instances = rng.normal(size=(40, 6)), rng.integers(0, 12, 40)
    instances[0] = 99  # an anchor without positives does not count
    value = supervised_contrast(jnp.asarray(embeddings, jnp.float32), jnp.asarray(instances), temperature)
    np.testing.assert_allclose(value, plain(embeddings, instances, temperature), atol=1e-5)


def test_its_gradient_is_the_one_of_finite_differences():
    rng = np.random.default_rng(1)
    embeddings, instances = rng.normal(size=(12, 4)), rng.integers(0, 3, 12)
    gradient = jax.grad(supervised_contrast)(
        jnp.asarray(embeddings, jnp.float32), jnp.asarray(instances), 0.33
    )
    for place in np.ndindex(embeddings.shape):
        step = np.zeros_like(embeddings)
        step[place] = 1e-5
        high, low = (plain(embeddings + sign * step, instances, 0.33) for sign in (1, -1))
        np.testing.assert_allclose(gradient[place], (high - low) / 2e-5, atol=1e-5)


@pytest.mark.slow("two programs more")
def test_an_embedding_of_zero_and_a_scene_of_one_voxel_give_finite_gradients():
    for embeddings in (jnp.zeros((4, 3)), jnp.ones((1, 3))):
        value, gradient = jax.value_and_grad(supervised_contrast)(
            embeddings, jnp.zeros(len(embeddings), int), 0.33
        )
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "size", quick_of([(4, 4, 4), (5, 6, 7), (16, 16, 16)], [(5, 6, 7)], "a program more")
)
def test_voxels_are_drawn_once_each_and_know_their_instance(size):
    owner = jax.random.randint(jax.random.key(0), size, 0, 5).astype(jnp.uint8)
    settings = Contrast(voxels=100)
    for seed in range(3):
        voxels, instances = choose(jax.random.key(seed), owner, settings, 4)
        assert len(voxels) == min(100, owner.size) == len(np.unique(voxels))
        np.testing.assert_array_equal(owner.reshape(-1)[voxels], instances)


def test_balance_draws_small_instances_more_often():
    owner = jnp.zeros((16, 16, 16), jnp.uint8).at[:4, :4, :4].set(1)
    share = {}
    for balance in (0.0, 1.0):
        draw = jax.vmap(lambda key, b=balance: choose(key, owner, Contrast(voxels=64, balance=b), 1)[1])
        share[balance] = float(draw(jax.random.split(jax.random.key(0), 50)).mean())
    assert share[0.0] == pytest.approx(64 / 4096, rel=0.3)
    assert share[1.0] > 5 * share[0.0]


def test_a_coarser_grid_takes_the_middle_of_every_block():
    owner = jnp.arange(4 * 8 * 8).reshape(1, 4, 8, 8)
    np.testing.assert_array_equal(nearest(owner, (2, 2, 8)), owner[:, 1::2, 2::4])


def test_retrieval_counts_objects_whose_nearest_voxel_is_theirs():
    queries = jnp.array([[1.0, 0], [0, 1], [1, 1], [1, 0]])
    others = jnp.array([[2.0, 0.1], [0.1, 3]])
    found, asked = retrieved(queries, jnp.array([1, 1, 7, 0]), others, jnp.array([1, 2]))
    assert (float(found), float(asked)) == (1, 2)  # instance 7 has no voxel to find, 0 is background


def test_objectives_are_a_sum_with_weights():
    assert parse_objective("class") == {"class": 1}
    assert parse_objective("0.5*class+ 2 * contrast") == {"class": 0.5, "contrast": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contrst", "did you mean 'contrast'|contrast"),
        ("class + class", "names class twice"),
        ("-1*class", "'-1' is no weight"),
        ("x*class", "'x' is no weight"),
        ("nan*class", "'nan' is no weight"),
        ("class +", "should read NAME or WEIGHT"),
        ("", "should read NAME or WEIGHT"),
    ],
)
def test_what_is_no_objective_is_named(text, message):
    with pytest.raises(FdifError, match=message):
        parse_objective(text)


@pytest.mark.parametrize(
    "bad", [{"voxels": 0}, {"temperature": 0.0}, {"levels": 0}, {"features": 0}, {"balance": -1.0}]
)
def test_impossible_contrast_settings_are_refused(bad):
    with pytest.raises(FdifError, match=f"contrast: {next(iter(bad))} must be"):
        Contrast(**bad)
