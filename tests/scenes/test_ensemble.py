"""Label ensembles: poses within their ranges, and objects as large and as flat as the placement says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.scenes.placement import Ensemble
from fdif_jax.sdf.grid import Grid

STILL = {"kind": "ensemble", "scale": (1.0, 1.0), "shear": 0.0, "shift": 0.0}


def poses(turn=True, **keys):
    pose = partial(Ensemble(**keys)._pose, factor=jnp.float32(1), grid=Grid(32, 48, 64), turn=turn)
    return np.asarray(jax.vmap(pose)(jax.random.split(jax.random.key(0), 400)))


def test_poses_scale_mirror_and_move_within_their_ranges():
    found = poses(shear=0.0, shift=0.1)
    widths = np.linalg.norm(found[:, :, :3], axis=1)
    assert 0.5 <= widths.min() < 0.55 and 1.45 < widths.max() <= 1.5001
    mirrored = np.linalg.det(found[:, :, :3]) < 0
    assert 0.4 < mirrored.mean() < 0.6
    assert (np.abs(found[:, :, 3]) <= np.array([6.4, 4.8, 3.2])).all() and np.abs(found[:, 0, 3]).max() > 5


def test_without_transform_objects_are_only_moved():
    np.testing.assert_allclose(
        poses(turn=False)[:, :, :3], np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-6
    )


def test_objects_are_as_large_as_size_says_and_flat_along_coarse_axes():
    recipe = fd.Recipe(
        grid=(24, 24, 24), primitives=("sphere",), min_objects=1, max_objects=1,
        placement=STILL | {"size": (12.0, 12.0), "voxel": (4.0, 1.0, 1.0)},
    )  # fmt: skip
    _, label = fd.compile(recipe).sample_at(0, 0)
    held = [np.asarray(label).any(axis=tuple({0, 1, 2} - {axis})).sum() for axis in range(3)]
    narrow = 12 * 4 ** (1 / 3)
    np.testing.assert_allclose(held, (narrow / 4, narrow, narrow), atol=1.1)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"scale": (0.0, 1.0)}, "scale of the placement must be two numbers"),
        ({"size": (9.0, 3.0)}, "size of the placement must be two numbers"),
        ({"mirror": 2.0}, "mirror of the placement must be a probability"),
        ({"voxel": (1.0, 0.0, 1.0)}, "voxel of the placement must be three numbers above 0"),
        ({"shear": -1.0}, "shear must be 0 or more"),
    ],
)
def test_impossible_ensembles_are_refused(bad, says):
    with pytest.raises(fd.FdifError, match=says):
        Ensemble(**bad)
