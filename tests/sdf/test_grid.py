"""Grids with a spacing: coordinates, volumes and distances against NumPy, SciPy and arithmetic."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.sdf.affine import turned

SPACING = (2.5, 0.7, 1.3)
GRID = fd.Grid(17, 60, 33, spacing=SPACING)
SPACINGS = st.tuples(*[st.floats(0.1, 9.0)] * 3)


def test_points_lie_the_spacing_apart_about_the_middle_voxel():
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(GRID, SPACING, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    p = GRID.points()
    for found, expected in ((p.x, x), (p.y, y), (p.z, z)):
        np.testing.assert_allclose(np.broadcast_to(found, GRID), expected, rtol=1e-6)
    np.testing.assert_allclose(GRID.highest, [x.max(), y.max(), z.max()])
    np.testing.assert_allclose(GRID.edges, [33 * 1.3, 60 * 0.7, 17 * 2.5])
    np.testing.assert_allclose(GRID.box.lower, [x.min() - 0.65, y.min() - 0.35, z.min() - 1.25], rtol=1e-6)
    np.testing.assert_allclose(GRID.box.upper, [x.max() + 0.65, y.max() + 0.35, z.max() + 1.25], rtol=1e-6)


def test_a_ball_has_its_volume_in_cubic_millimetres():
    held = fd.voxels(shapes.sphere(15.0), GRID)
    assert float(held.sum()) * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.01)
    extent = [np.ptp(np.flatnonzero(np.asarray(held).any(axis))) for axis in ((1, 2), (0, 2), (0, 1))]
    np.testing.assert_allclose(np.multiply(extent, SPACING), 30, atol=max(SPACING))


def test_distances_are_those_of_the_voxels_in_millimetres():
    box = fd.rotate(shapes.box(12.0, 9.0, 10.0), 0.4, "x")
    d = np.asarray(box(GRID))
    outside = ndimage.distance_transform_edt(d > 0, sampling=SPACING)
    assert np.abs(outside - d)[d > 0].max() < np.linalg.norm(SPACING)


def test_a_grid_is_a_tuple_and_its_spacing_a_part_of_what_it_is():
    plain, wide = fd.Grid(4, 5, 6), fd.Grid(4, 5, 6, spacing=[1, 1, 2])
    assert plain == (4, 5, 6) == fd.Grid(4, 5, 6, spacing=(1, 1, 1)) and hash(plain) == hash((4, 5, 6))
    assert wide != plain and wide != (4, 5, 6) and plain != "a grid" and plain != [4, 5, 6]
    assert len({plain, (4, 5, 6), wide, fd.Grid(4, 5, 6, spacing=(1.0, 1.0, 2.0))}) == 2
    for again in (pickle.loads(pickle.dumps(wide)), copy.deepcopy(wide)):
        assert again == wide and again.spacing == (1.0, 1.0, 2.0)
    assert repr(plain) == "Grid(depth=4, height=5, width=6)" and "spacing=(1.0, 1.0, 2.0)" in repr(wide)


def test_members_are_sized_for_whole_millimetres():
    assert fd.Grid(10, 20, 30, spacing=(3.0, 0.5, 1.26)).of_millimetres == (30, 10, 38)
    seen = []
    family = fd.Family("seen", lambda key, ranges, grid: seen.append(grid) or shapes.sphere(min(grid) / 4))
    family.sample(jax.random.key(0), GRID)
    assert seen == [(42, 42, 43)]


BOXES = given(SPACINGS, st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.tuples(*[st.floats(-20, 20)] * 3))


@settings(deadline=None, max_examples=3)
@BOXES
def test_the_voxels_of_a_box_are_all_within_its_index_range(spacing, angles, shift):
    check_box(spacing, angles, shift)


@pytest.mark.slow("more of the examples above")
@settings(deadline=None, max_examples=30)
@BOXES
def test_the_voxels_of_many_boxes_are_all_within_their_index_ranges(spacing, angles, shift):
    check_box(spacing, angles, shift)


def check_box(spacing, angles, shift):
    grid, half = fd.Grid(9, 12, 15, spacing=spacing), jnp.asarray([9.0, 4.0, 2.0])
    matrix = jnp.concatenate([turned(jnp.asarray(angles)), jnp.asarray(shift)[:, None]], axis=1)
    first, last = grid.index_range(*fd.Box.around(*half).mapped(matrix))
    held = np.argwhere(fd.transform(shapes.box(*half), matrix)(grid) <= 0)
    assert (held >= np.asarray(first)).all() and (held < np.asarray(last)).all()


@pytest.mark.parametrize(
    "spacing",
    [(0, 1, 1), (1, -1, 1), (1, 1, np.nan), (np.inf, 1, 1), (1, 1), (1, 1, 1, 1), 2.0, "a b c", None],
)
def test_a_bad_spacing_is_one_line(spacing):
    with pytest.raises(
        fd.FdifError, match=r"^spacing must be three finite numbers of mm above 0 \(z, y, x\), not"
    ):
        fd.Grid(4, 5, 6, spacing=spacing)
