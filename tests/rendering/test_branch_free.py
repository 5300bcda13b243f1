"""Rendering without branches: the renderer's volumes, through the same interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.rendering.branch_free import BranchFree

FORMULAS = fd.load_recipe("fdif").replace(
    grid=(10, 17, 36),
    min_objects=33,
    max_objects=35,
    categories=["basic"],
    displacements=["ridge"],
    mappers=["inverse_cube", "modular_5"],
)
ORGANS = fd.load_recipe("anatomy").replace(grid=(16, 16, 16))


@pytest.mark.parametrize(
    "recipe",
    [FORMULAS, ORGANS],
    ids=["formulas", "organs"],
)
@pytest.mark.slow("a program of each recipe; on a GPU only")
def test_it_equals_the_renderer(recipe):
    """More objects than a word has bits, fewer objects than rows; shapes that look up grids."""
    program = fd.compile(recipe, kernel="off")
    tables = jax.jit(jax.vmap(program.draw))(jax.random.split(jax.random.key(3), 2))
    images, labels = jax.jit(BranchFree(program.renderer).intensities)(tables)
    for i in range(2):
        image, label = jax.jit(program.renderer.intensities)(
            jax.tree.map(lambda column, i=i: column[i], tables)
        )
        assert labels.dtype == label.dtype
        assert (np.asarray(labels[i]) == label).mean() >= 0.9999
        # The renderer cuts tails below half a grey level of all objects together.
        assert (np.abs(images[i] - image) <= 0.51).mean() >= 0.9999


@pytest.mark.slow("two programs more")
def test_several_label_maps():
    recipe = fd.Recipe(
        grid=(8, 8, 8), primitives=("sphere", "torus"), mappers=("inverse_cube", "modular_5"), multi_task=True
    )
    program = fd.compile(recipe, kernel="off")
    tables = jax.vmap(program.draw)(jax.random.split(jax.random.key(0), 2))
    labels = jax.jit(BranchFree(program.renderer).intensities)(tables)[1]
    assert labels.shape == (2, 2, 8, 8, 8)
    np.testing.assert_array_equal(
        labels[1], program.renderer.intensities(jax.tree.map(lambda c: c[1], tables))[1]
    )
    assert jnp.any(labels > 0)
