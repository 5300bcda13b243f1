"""The GPU kernel, interpreted: the same volumes as the renderer's, through the same interface."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.rendering.renderer import Renderer
from fdif_jax.sdf.sampled import Library, Member
from fdif_jax.sdf.structure import Structure

RECIPE = fd.load_recipe("fdif").replace(grid=(10, 17, 36), min_objects=33, max_objects=35)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            RECIPE.replace(
                categories=["basic"], displacements=["ridge"], mappers=["inverse_cube", "modular_5"]
            ),
            marks=pytest.mark.slow("a program of many shapes, interpreted; several label maps are below"),
        ),
        pytest.param(
            RECIPE, marks=pytest.mark.slow("the whole recipe, interpreted; its basic shapes are above")
        ),
    ],
    ids=["basic", "all"],
)
def test_the_kernel_equals_the_renderer(recipe):
    """A grid that tiles do not divide, more objects than a word has bits, fewer objects than rows."""
    keys = jax.vmap(lambda i: fd.sample_key(5, i))(jnp.arange(2))
    expected = jax.jit(fd.compile(recipe).batch)(keys)
    images, labels = jax.jit(fd.compile(recipe, kernel="interpret").batch)(keys)
    assert images.dtype == jnp.uint8 and labels.dtype == expected[1].dtype
    assert (np.asarray(labels) == expected[1]).mean() >= 0.99999
    assert np.abs(np.asarray(images, int) - np.asarray(expected[0], int)).max() <= 1


@pytest.mark.slow("a kernel that is interpreted; its images and labels are above")
def test_the_kernel_serves_several_label_maps_and_looks():
    recipe = fd.Recipe(
        grid=(8, 8, 32),
        primitives=("sphere", "torus"),
        mappers=("inverse_cube", "modular_5"),
        multi_task=True,
        look={"gamma": 0.5},
    )
    keys = jax.random.split(jax.random.key(0), 2)
    expected = jax.jit(fd.compile(recipe).batch)(keys)
    images, labels = jax.jit(fd.compile(recipe, kernel="interpret").batch)(keys)
    assert labels.shape == (2, 2, 8, 8, 32)
    np.testing.assert_array_equal(labels, expected[1])
    assert np.abs(np.asarray(images, int) - np.asarray(expected[0], int)).max() <= 1


def _a_gpu():
    """The context in which JAX lowers for a GPU that is not there; before 0.11 it needs none."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H200", num_cores=None, platform="cuda")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


@pytest.mark.slow("traced whole, for long; basic shapes are below")
def test_the_kernel_of_the_whole_recipe_lowers_for_cuda():
    program = fd.compile(RECIPE.replace(grid=(96, 96, 96)), kernel="on")
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    with _a_gpu():
        text = jax.jit(program.batch).trace(keys).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text


@pytest.mark.parametrize("name", ["fdif", "anatomy"])
@pytest.mark.slow("lowered for a GPU that is not there")
def test_on_a_gpu_every_recipe_is_rendered_side_by_side(name, monkeypatch):
    """By the kernel, or without branches what the kernel cannot; for a CPU the same program is the scan."""
    few = {"categories": ["basic"], "displacements": ["ridge"]} if name == "fdif" else {"num_classes": 4}
    program = fd.compile(fd.load_recipe(name).replace(grid=(8, 8, 16), **few))
    keys = jax.random.split(jax.random.key(0), 2)
    expected = jax.jit(program.batch)(keys)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = fd.compile(program.recipe)
    with _a_gpu():
        text = jax.jit(program.batch).trace(keys).lower(lowering_platforms=("cuda",)).as_text()
    assert ("triton" in text) == (name == "fdif")
    images, labels = jax.jit(program.batch)(keys)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])


@pytest.mark.slow("a program more")
def test_partial_volume_has_no_kernel():
    recipe = fd.Recipe(grid=(8, 8, 32), primitives=("sphere",), look={"partial_volume": True})
    with pytest.raises(fd.FdifError, match="cannot antialias"):
        fd.compile(recipe, kernel="interpret").batch(jax.random.split(jax.random.key(0), 1))


def test_a_mixture_has_no_kernel():
    with pytest.raises(fd.FdifError, match="parts of a mixture"):
        fd.compile(fd.load_recipe("fdif + fdif_exact"), kernel="on")


def test_sampled_shapes_have_no_kernel():
    library = Library.of(np.ones((1, 4, 4, 4)), np.eye(3, 4)[None], ["cube"])
    renderer = Renderer(
        fd.Grid(8, 8, 32), (Structure.of(Member(0.0, library)),), (), shapes.published.mappers[:1], 1
    )
    with pytest.raises(fd.FdifError, match="formulas only"):
        TileKernel(renderer, interpret=True).intensities(None)
