"""Distances and clean images as objectives: losses against PyTorch, gradients, and what is compared with what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from fdif_jax.objectives.combined import Combined, Outputs, Targets
from fdif_jax.objectives.regression import VoxelHead, smooth_l1
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.rendering.distances import painted_over
from fdif_jax.tasks import Task

RNG = np.random.default_rng(0)
SEGMENTATION = Segmentation((Task("shape", ("a", "b")),))


def test_the_loss_is_pytorchs_smooth_l1():
    got, wanted = (RNG.normal(scale=3, size=(2, 5, 4, 3, 2)).astype(np.float32) for _ in range(2))
    x = torch.from_numpy(got).requires_grad_()
    expected = torch.nn.functional.smooth_l1_loss(x, torch.from_numpy(wanted))
    expected.backward()
    value, gradient = jax.value_and_grad(smooth_l1)(got, wanted)
    assert abs(float(value) - expected.item()) < 1e-5
    np.testing.assert_allclose(gradient, x.grad, atol=1e-7)


def test_the_head_sums_linear_maps_of_all_resolutions():
    """Against PyTorch: 1×1×1 convolutions, and trilinear interpolation from each grid to the next finer one."""
    channels, grids, image = (6, 3, 5), ((4, 6, 8), (2, 3, 4), (1, 3, 2)), (8, 6, 8)
    features = [
        RNG.normal(size=(2, *grid, c)).astype(np.float32) for grid, c in zip(grids, channels, strict=True)
    ]
    head = VoxelHead(channels, 2, rngs=nnx.Rngs(0))
    expected = torch.zeros((2, 2, 1, 1, 1))
    for linear, level in zip((head.map, *head.coarser)[::-1], features[::-1], strict=True):
        linear.bias[...] = jnp.asarray(RNG.normal(size=2), jnp.float32)
        kernel, bias = (torch.from_numpy(np.array(p[...])) for p in (linear.kernel, linear.bias))
        x = torch.nn.functional.conv3d(
            torch.from_numpy(np.moveaxis(level, -1, 1)), kernel.T[..., None, None, None], bias
        )
        expected = x + torch.nn.functional.interpolate(expected, x.shape[2:], mode="trilinear")
    expected = np.moveaxis(torch.nn.functional.interpolate(expected, image, mode="trilinear").numpy(), 1, -1)
    got = head(features, image)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)
    finest = VoxelHead(channels[:1], 2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        finest(features, grids[0]), features[0] @ np.asarray(finest.map.kernel[...]), atol=1e-5
    )


def combined(*names, objects=4):
    return Combined(SEGMENTATION, tuple((name, 1.0) for name in names), objects)


def batch(objective, views=1):
    """Two scenes of ``views`` looks: features, heads and targets at random."""
    grid = (3, 4, 5)
    features = RNG.normal(size=(2 * views, *grid, 6)).astype(np.float32)
    heads = type("Heads", (), {})()
    heads.distance, heads.restore = (VoxelHead((6,), c, rngs=nnx.Rngs(c)) for c in (2, 1))
    targets = Targets(
        None, None, None,
        RNG.uniform(-8, 8, (2, 2, *grid)).astype(np.float32),
        RNG.normal(size=(2, views, *grid)).astype(np.float32),
    )  # fmt: skip
    return Outputs(None, [jnp.asarray(features)], heads), targets


def plain_error(head, features, wanted):
    """Predictions in float64 less what they should be."""
    kernel, bias = (np.asarray(p[...], np.float64) for p in (head.map.kernel, head.map.bias))
    return features.astype(np.float64) @ kernel + bias - wanted


def plain_loss(error):
    return np.mean(np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5))


def test_distances_of_a_scene_are_learnt_by_all_its_looks():
    objective = combined("contrast", "distance")
    outputs, targets = batch(objective, views=2)
    # Rows are looks of scene 0, then of scene 1; channels are the two distances.
    wanted = np.stack([np.moveaxis(targets.distances[row // 2], 0, -1) for row in range(4)])
    error = plain_error(outputs.heads.distance, np.asarray(outputs.features[0]), wanted)
    alone = Combined(SEGMENTATION, (("distance", 1.0),), 4)
    assert alone.looks == 1 and objective.looks == 2 and objective.extra == alone.extra == ("distances",)
    got, same = objective._distances(outputs, targets)
    np.testing.assert_array_equal(same, wanted)
    np.testing.assert_allclose(smooth_l1(got, same), plain_loss(error), atol=1e-5)


@pytest.mark.parametrize("name", ["distance", "restore"])
def test_an_objective_is_weighed_and_its_gradient_is_that_of_finite_differences(name):
    objective = Combined(SEGMENTATION, ((name, 0.5),), 4)
    outputs, targets = batch(objective)
    head = getattr(outputs.heads, name)
    features = np.asarray(outputs.features[0])
    wanted = np.moveaxis(targets.distances, 1, -1) if name == "distance" else targets.clean[:, 0, ..., None]
    value, gradient = jax.value_and_grad(lambda f: objective.loss(outputs._replace(features=[f]), targets))(
        outputs.features[0]
    )
    np.testing.assert_allclose(value, 0.5 * plain_loss(plain_error(head, features, wanted)), atol=1e-5)
    for place in [tuple(RNG.integers(0, n) for n in features.shape) for _ in range(12)]:
        step = np.zeros(features.shape)
        step[place] = 1e-4
        high, low = (plain_loss(plain_error(head, features + sign * step, wanted)) for sign in (1, -1))
        np.testing.assert_allclose(gradient[place], 0.5 * (high - low) / 2e-4, atol=1e-5)


def test_errors_of_validation_are_means_of_voxels_and_rank_runs():
    objective = combined("distance", "restore")
    outputs, targets = batch(objective)
    sums = objective.measure(outputs, targets)
    features = np.asarray(outputs.features[0])
    far = np.moveaxis(targets.distances, 1, -1)
    got = np.clip(plain_error(outputs.heads.distance, features, far) + far, -8, 8)
    np.testing.assert_allclose(sums["distance_error"], [np.abs(got - far).sum(), far.size], rtol=1e-5)
    error = plain_error(outputs.heads.restore, features, targets.clean[:, 0, ..., None])
    np.testing.assert_allclose(sums["restore_error"], [np.abs(error).sum(), error.size], rtol=1e-5)
    perfect, bad = ({"distance_error": e, "restore_error": e, "retrieval": 1 - e} for e in (0.0, 0.5))
    for name in ("contrast", "distance", "restore"):
        assert combined(name).score(perfect) == 1 > combined(name).score(bad) > 0


def test_what_is_painted_later_takes_over_where_it_is_and_is_near_elsewhere():
    """Along a line: an object from -5 to 5, then one from 3 to 9; x is where, in voxels."""
    x = jnp.arange(-12.0, 13.0)
    own, boundary = painted_over(*(jnp.full_like(x, 8),) * 2, jnp.abs(x) - 5)
    own, boundary = painted_over(own, boundary, jnp.abs(x - 6) - 3)
    at = {float(where): (float(a), float(b)) for where, a, b in zip(x, own, boundary, strict=True)}
    assert at[0] == (-5, 3) and at[2] == (-3, 1), "of the first object, up to where the second begins"
    assert at[4] == (-1, 1) and at[6] == (-3, 3), "of the second"
    assert at[-7] == (2, 2) and at[12] == (3, 3), "the background's nearest surface"
