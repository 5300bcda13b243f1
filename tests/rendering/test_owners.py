"""Which object owns a voxel: beside the classes, by the same rule, from the renderer and the kernel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.rendering.pallas_kernel import TileKernel

RECIPE = fd.load_recipe("fdif").replace(
    grid=(10, 17, 36),
    min_objects=33,
    max_objects=35,
    primitives=["sphere", "torus", "cone"],
    displacements=["ridge"],
    mappers=["inverse_cube"],
)


@pytest.mark.slow("three programs")
def test_owners_are_the_rows_whose_classes_the_label_holds():
    program = fd.compile(RECIPE)
    table = jax.jit(program.draw)(fd.sample_key(5, 0))
    image, label, owner, volumes = jax.jit(program.renderer.render)(table)
    classes = np.concatenate([[0], table.label[:, 0]])
    np.testing.assert_array_equal(classes[owner], label)
    assert owner.dtype == jnp.uint8 and len(np.unique(owner)) > 10
    assert (np.bincount(np.ravel(owner), minlength=len(classes))[1:] <= volumes).all()
    np.testing.assert_array_equal(image, jax.jit(program.renderer.intensities)(table)[0])


def test_of_two_objects_of_one_class_the_smaller_owns_what_both_hold():
    program = fd.compile(RECIPE.replace(min_objects=2, max_objects=2))
    renderer, first = program.renderer, jnp.zeros((1, 2, 2, 2), jnp.uint32).at[0, 0, 0, 0].set(3)
    planes = first.at[0, 0, 0, 1].set(1).at[0, 0, 1, 0].set(2)
    label, owner = renderer.paint(planes, jnp.array([9, 4]), jnp.array([[7], [7]]))
    np.testing.assert_array_equal(owner[0], [[2, 1], [2, 0]])
    np.testing.assert_array_equal(label[0], [[7, 7], [7, 0]])


@pytest.mark.slow("a kernel that is interpreted; its images and labels are in test_kernel")
def test_the_kernel_gives_the_same_owners():
    program = fd.compile(RECIPE)
    tables = jax.jit(jax.vmap(program.draw))(jax.vmap(partial(fd.sample_key, 5))(jnp.arange(2)))
    expected = jax.jit(partial(jax.lax.map, program.renderer.render))(tables)
    got = jax.jit(TileKernel(program.renderer, interpret=True).render)(tables)
    assert got.owner.dtype == expected.owner.dtype
    assert (np.asarray(got.owner) == expected.owner).mean() >= 0.99999
