"""Which objects visit which tiles: no more than their turned boxes meet, and all that shows."""

import jax
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.rendering.tiling import Tiling
from fdif_jax.sdf.grid import Grid

TILE = (12, 24, 48)
RECIPE = fd.load_recipe("fdif").replace(
    grid=(24, 72, 96),
    min_objects=30,
    max_objects=40,
    primitives=["cylinder", "torus"],
    displacements=["ridge"],
    mappers=["inverse_cube", "modular_5"],
)


@pytest.fixture(scope="module")
def drawn():
    """A renderer, a table of turned objects, and where each object holds a voxel of each strip, (t, n)."""
    program = fd.compile(RECIPE, kernel="off")
    renderer = program.renderer

    def holds(key):
        table = program.draw(key)
        objects = jax.numpy.arange(RECIPE.max_objects)
        inside = jax.lax.map(lambda i: renderer.distance(table, i, renderer.grid.points()) <= 0, objects)
        return table, inside, renderer.visitors(table), renderer.visible_tiles(table, TILE)

    table, inside, visitors, visible = jax.tree.map(np.asarray, jax.jit(holds)(jax.random.key(2)))
    strips = inside.reshape(-1, 2, 12, 9, 8, 2, 48).any((2, 4, 6))
    return renderer, table, strips.reshape(len(inside), -1).T, visitors, visible


def test_visitors_come_in_order_and_hold_all_that_shows(drawn):
    _, table, holds, (rows, visits), _ = drawn
    assert len(rows) == len(visits) == 2 * 9 * 2
    for row, many, held in zip(rows, visits, holds, strict=True):
        seen = row[:many]
        assert (np.diff(seen) > 0).all() and (seen < table.number).all()
        assert set(np.flatnonzero(held[: table.number])) <= set(seen)


def test_turned_boxes_leave_out_tiles_and_tails_do_not(drawn):
    renderer, table, _, (rows, visits), (first, steps) = drawn
    at = np.asarray(renderer.plan.corners // np.asarray(TILE))[:, None]
    straight = ((at >= first) & (at < first + steps)).all(-1) & (np.arange(len(first)) < table.number)
    seen = np.zeros_like(straight)
    for t, (row, many) in enumerate(zip(rows, visits, strict=True)):
        seen[t, row[:many]] = True
    tails = table.mapper == 0
    np.testing.assert_array_equal(seen[:, tails], straight[:, tails])
    assert not (seen & ~straight).any()
    assert seen[:, ~tails].sum() < 0.8 * straight[:, ~tails].sum()


@pytest.mark.parametrize(("edge", "strip"), [(48, 8), (44, 11), (17, 17), (40, 10)])
def test_strips_are_even(edge, strip):
    whole = Tiling.of(Grid(12, edge, 48), TILE)
    assert whole.strips.tile == (12, strip, 48) and whole.strips.padded == whole.padded


def test_boxes_are_around_voxel_centres():
    grid = Grid(24, 48, 48, spacing=(2.0, 1.0, 0.5))
    plan = Tiling.of(grid, TILE).strips
    boxes = plan.boxes(grid)
    for corner, lower, upper in list(zip(plan.corners, boxes.lower, boxes.upper, strict=True))[::7]:
        p = grid.tile(tuple(corner), plan.tile)
        np.testing.assert_allclose(lower, [c.min() for c in p], atol=0.021)
        np.testing.assert_allclose(upper, [c.max() for c in p], atol=0.021)
