"""The published implementation's numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.vocabulary.vocabulary import growths


@pytest.fixture(scope="module")
def cases(fixtures):
    points = np.load(fixtures / "catalogue.npz")
    documents = json.loads((fixtures / "catalogue.json").read_text())["cases"]
    return documents, points["points"], points["sdf"]


def test_the_catalogue_has_the_published_classes_names_and_categories(fixtures):
    published = json.loads((fixtures / "classes.json").read_text())
    assert len(published) == len(shapes.published.families) == 109
    assert len(shapes.published.categories) == 20
    for expected, family in zip(published, shapes.published.families, strict=True):
        assert (expected["name"], expected["category"]) == (family.name, family.category)
        assert shapes.published.class_id(expected["fdif_name"]) == expected["id"]


def test_every_catalogue_case_agrees_within_2e_3(cases):
    evaluate = jax.jit(lambda shape, p: shape(p))
    for document, points, expected in zip(*cases, strict=True):
        shape = shapes.build(document["class"], document["params"])
        shape = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), shape)
        got = evaluate(shape, fd.Point(*map(jnp.asarray, points.T)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3, err_msg=document["class"])


# The mapper of AVS-DB is not one of that implementation.
PUBLISHED_MAPPERS = [mapper for mapper in shapes.published.mappers if mapper.name != "contour"]


@pytest.mark.parametrize("mapper", PUBLISHED_MAPPERS, ids=lambda m: m.name)
def test_mappers_agree_within_1e_3(mapper, fixtures):
    numbers = np.load(fixtures / "mappers.npz")
    np.testing.assert_allclose(mapper(jnp.asarray(numbers["sdf"])), numbers[mapper.name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("displacement", shapes.published.displacements, ids=lambda d: d.name)
def test_displacements_agree_within_1e_3(displacement, fixtures):
    numbers = np.load(fixtures / "displacements.npz")
    grid = fd.Grid(*map(int, numbers["grid_shape"]))
    field = displacement.field(grid.points(), fd.Point(*map(float, grid.highest)))
    np.testing.assert_allclose(np.broadcast_to(field, grid), numbers[displacement.name], rtol=0, atol=1e-3)
    assert growths([displacement], grid)[0] == pytest.approx(
        max(0.0, -numbers[displacement.name].min()), abs=1e-4
    )


@pytest.mark.parametrize("count", [2, pytest.param(None, marks=pytest.mark.slow("all of them"))])
def test_scenes_agree(fixtures, count):
    expected = np.load(fixtures / "scenes.npz")
    scenes = fd.load_scenes(fixtures / "scenes.json")[:count]
    for i, (image, label) in enumerate(fd.render_scenes(scenes, shapes.published)):
        assert image.dtype == label.dtype == np.uint8
        assert (label == expected[f"label_{i}"]).mean() >= 0.9999
        off = np.abs(image.astype(int) - expected[f"image_{i}"])
        assert (off <= 1).mean() >= 0.9999


@pytest.mark.slow("132 published onions")
def test_onion_thickness_is_drawn_as_published(cases):
    """The thickness the published code used is ratio × deepest |d|, which we search on a coarser mesh."""
    from fdif_jax.shapes.families import _deepest

    ratios = []
    for document, _, _ in zip(*cases, strict=True):
        params = dict(document["params"])
        if "onion_ratio" in params:
            ratio, used = params.pop("onion_ratio"), params.pop("onion_thickness")
            solid = shapes.build(document["class"], params)
            ratios.append(float(_deepest(solid, fd.Grid(96, 96, 96), within_slab=False)) * ratio / used)
    assert len(ratios) == 3 * 44
    assert np.min(ratios) > 0.93 and np.max(ratios) < 1.05
    assert np.median(ratios) == pytest.approx(1, abs=0.01)
