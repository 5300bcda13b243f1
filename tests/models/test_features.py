"""Features of every network at several resolutions: what its logits, and other objectives, are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fdif_jax import models
from fdif_jax.objectives.combined import Combined, Targets
from fdif_jax.objectives.contrast import Contrast
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.tasks import Task
from fdif_jax.training.network import functional
from tests.helpers.slow import quick_of

SIZES = {
    "resenc_unet": ({"features": [4, 6, 8], "blocks": 1}, (8, 12, 8)),
    "swin_unetr": ({"feature_size": 12, "window_size": 2, "depths": [1, 1, 1, 1]}, (64, 32, 32)),
    "unetr": (
        {"grid": [32, 16, 32], "feature_size": 6, "hidden_size": 24, "mlp_dim": 24, "num_heads": 2},
        (32, 16, 32),
    ),
    "vnet": ({}, (16, 32, 16)),
    "primus": (
        {"grid": [8, 8, 16], "embed_dim": 24, "depth": 1, "num_heads": 2, "patch_embed_size": 4},
        (8, 8, 16),
    ),
}
NETWORKS = quick_of(SIZES, ["resenc_unet"], "a large program; another network is beside it")


def network(name):
    size, grid = SIZES[name]
    return models.create(name, in_channels=1, out_channels=3, **size), grid


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_scores_of_features_which_get_coarser(name):
    model, grid = network(name)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, *grid, 1), np.float32))
    features = model.features(images)
    assert tuple(f.shape[-1] for f in features) == model.feature_channels
    edges = [f.shape[1] for f in features]
    assert edges == sorted(edges, reverse=True) and edges[-1] < grid[0]
    np.testing.assert_allclose(model.scores(features), model(images), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow("a training program of all objectives each")
def test_every_objective_reaches_the_weights_of_every_network(name):
    model, grid = network(name)
    names = ("class", "contrast", "distance", "restore")
    objective = Combined(
        Segmentation((Task("class", ("a", "b")),)), tuple((n, 1.0) for n in names), 2, Contrast(voxels=16)
    )
    objective.add_heads(model, 0)
    trained = functional(model, forward=objective.forward)
    rng = np.random.default_rng(1)
    owner = np.zeros((1, *grid), np.int32)
    owner[:, : grid[0] // 2, : grid[1] // 2], owner[:, grid[0] // 2 :, grid[1] // 2 :] = 1, 2
    targets = Targets(
        label=jnp.asarray(owner),
        owner=jnp.asarray(owner),
        key=jax.random.split(jax.random.key(0), 1),
        distances=jnp.asarray(rng.uniform(-8, 8, (1, 2, *grid)), jnp.float32),
        clean=jnp.asarray(rng.standard_normal((1, 2, *grid)), jnp.float32),
    )
    images = jnp.asarray(rng.standard_normal((1, 2, *grid, 1)), jnp.float32)

    def loss(parameters):
        weights = trained.weights | parameters
        return objective.loss(trained.train(weights, images, jax.random.key(1))[0], targets)

    gradient = jax.jit(jax.grad(loss))({n: trained.weights[n] for n in trained.parameters})
    norms = {n: float(jnp.abs(g).max()) for n, g in gradient.items()}
    assert all(np.isfinite(norm) for norm in norms.values())
    heads = {n for n in norms if n.startswith("objective.")}
    assert {n.split(".")[1] for n in heads} == {"contrast", "distance", "restore"}
    assert all(norms[n] > 0 for n in heads)
    # Of every part some weight learns; a zero before it, or a norm behind it, keeps others still in the first step.
    reached = {n.split(".")[0] for n, norm in norms.items() if norm > 0}
    assert reached == {n.split(".")[0] for n in norms}
