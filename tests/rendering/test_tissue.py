"""Random tissue: instances in intensities of their own, artefacts as often as asked, and no change where it is off."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import fdif_jax as fd
from fdif_jax.rendering import tissue
from fdif_jax.rendering.filters import hashed, partly_mixed
from fdif_jax.rendering.tissue import Tissue
from fdif_jax.scenes.recipe import from_dict
from tests.helpers.slow import quick_of

PLAIN = {name: (0.0, 0.0) for name in tissue._ARTEFACTS} | {
    "paint": True, "texture": 0.0, "deviation": (0.0, 0.0), "air": 0.0,
}  # fmt: skip
OWNER = jnp.zeros((12, 16, 20), jnp.uint8).at[2:8, 2:8, 2:8].set(1).at[2:8, 9:15, 2:8].set(2)
IMAGE = jnp.linspace(0, 1, OWNER.size).reshape(OWNER.shape)


def look(seed=0, **changes):
    return np.asarray(Tissue(**PLAIN | changes).apply(jax.random.key(seed), IMAGE, OWNER, 5))


def test_every_instance_has_an_intensity_of_its_own():
    levels = [look()[owner == OWNER] for owner in range(3)]
    assert max(np.ptp(level) for level in levels) < 1e-4
    assert min(np.abs(np.diff(sorted(level.mean() for level in levels)))) > 0.05
    assert look().min() == 0 and look().max() == 1 and (look() != look(1)).any()


def test_deviation_and_texture_vary_within_an_instance():
    rough = look(deviation=(0.1, 0.1), mean=(0.5, 1.0))
    smooth = look(texture=0.3, mean=(0.5, 1.0))
    for volume in (rough, smooth):
        assert volume[OWNER == 1].std() > 0.02
    neighbours = [np.abs(np.diff(v, axis=2)).mean() / v.std() for v in (smooth, rough)]
    assert neighbours[0] < neighbours[1]


def test_air_is_a_background_of_zero():
    assert np.abs(look(air=1.0, deviation=(0.1, 0.1))[OWNER == 0]).max() < 1e-4


def test_objects_keep_their_mapped_distances_inside():
    volume = look(mapper_fraction=1.0)
    assert np.ptp(volume[OWNER == 0]) < 1e-4
    inside = np.asarray(IMAGE)[OWNER == 1]
    assert abs(np.corrcoef(volume[OWNER == 1], inside)[0, 1]) > 0.999


@partial(jax.jit, static_argnums=1)
def render(key, painted):
    return painted.apply(key, IMAGE, OWNER, 5)


@pytest.mark.parametrize(
    "name",
    quick_of(tissue._ARTEFACTS, [], "a program of many volumes; each knob alone is in test_look"),
)
def test_an_artefact_changes_the_fraction_of_volumes_that_it_is_asked_for(name):
    strengths = {"blur": 1.0, "resolution": 2.0, "gamma": 0.7}
    options = {name: (0.5, strengths.get(name, 0.3)), "mean": (0.2, 0.9)}
    keys = jax.random.split(jax.random.key(3), 24)
    pairs = [
        (render(k, Tissue(**PLAIN | options)), render(k, Tissue(**PLAIN | {"mean": (0.2, 0.9)})))
        for k in keys
    ]
    changed = [np.abs(np.asarray(a) - np.asarray(b)).max() > 1e-3 for a, b in pairs]
    assert 4 <= sum(changed) <= 20
    assert all(np.isfinite(a).all() and a.min() >= 0 and a.max() <= 1 for a, _ in pairs)


def test_a_low_pass_keeps_constants_and_slow_waves_and_cuts_fast_ones():
    x = np.arange(16)
    matrix = np.asarray(tissue._low_pass(16, jnp.float32(0.5)))
    slow, fast = np.cos(2 * np.pi * 2 * x / 16), np.cos(2 * np.pi * 7 * x / 16)
    np.testing.assert_allclose(matrix @ np.ones(16), 1, atol=1e-5)
    np.testing.assert_allclose(matrix @ slow, slow, atol=1e-5)
    np.testing.assert_allclose(matrix @ fast, 0, atol=1e-5)
    np.testing.assert_allclose(tissue._low_pass(15, jnp.float32(0)), np.eye(15), atol=1e-5)


def test_nearly_normal_numbers_have_mean_0_and_deviation_1():
    noise = tissue._nearly_normal(jax.random.key(0), (40, 40, 40))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_hashed_words_are_even_in_every_bit_and_independent_of_neighbours_and_keys():
    keys = jax.random.split(jax.random.key(1), 2)
    one, other = (np.asarray(hashed(key, (48, 48, 48))) for key in keys)
    bits = (one[..., None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean((0, 1, 2)) - 0.5).max() < 0.008  # 5 deviations
    pairs = [(one, other), *((np.delete(one, -1, a), np.delete(one, 0, a)) for a in range(3))]
    for left, right in pairs:
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.015
    assert len(np.unique(one)) > 0.9999 * one.size


RECIPE = fd.Recipe(
    grid=(12, 16, 20),
    primitives=("sphere", "torus"),
    mappers=("inverse_cube",),
    displacements=("ridge",),
    look={"tissue": {"paint": True}},
    max_objects=4,
)


@pytest.mark.slow("two programs; views are in test_distances, too")
def test_views_are_looks_of_one_scene_and_the_first_is_the_sample():
    program = fd.compile(RECIPE)
    key = fd.sample_key(1, 2)
    images, label, owner, *_ = jax.jit(partial(program.views, number=2))(key)
    image, same = program.sample_at(1, 2)
    np.testing.assert_array_equal(images[0], image)
    np.testing.assert_array_equal(label, same)
    assert (images[0] != images[1]).mean() > 0.3 and images.dtype == jnp.uint8
    assert ((owner > 0) == (label > 0)).all()


@pytest.mark.slow("a kernel that is interpreted; owners are in test_owners")
def test_the_kernel_gives_the_same_views():
    keys = jax.vmap(partial(fd.sample_key, 5))(jnp.arange(2))
    expected = jax.jit(lambda k: fd.compile(RECIPE).batch_views(k, 2))(keys)
    got = jax.jit(lambda k: fd.compile(RECIPE, kernel="interpret").batch_views(k, 2))(keys)
    np.testing.assert_array_equal(got.owner, expected.owner)
    assert np.abs(np.asarray(got.images, int) - np.asarray(expected.images, int)).max() <= 1


@pytest.mark.slow("a program of two recipes")
def test_a_mixture_tells_owners_and_looks():
    program = fd.compile(fd.Mixture(({"recipe": RECIPE.to_dict()}, {"recipe": RECIPE.to_dict()})))
    images, label, owner, *_ = jax.jit(partial(program.views, number=2))(fd.sample_key(0, 0))
    assert images.shape == (2, 12, 16, 20) and ((owner > 0) == (label > 0)).all()


def test_recipes_without_tissue_say_nothing_of_it():
    assert "tissue" not in fd.Recipe().look.to_dict()
    assert from_dict(RECIPE.to_dict()) == RECIPE
    assert RECIPE.look.to_dict()["tissue"]["paint"] is True


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"air": 2.0}, "air must be a fraction"),
        ({"texture": -1.0}, "texture must be 0 or more"),
        ({"mean": (0.5, 0.2)}, "mean must be two numbers"),
        ({"noise": (1.5, 0.1)}, "noise must be a fraction"),
        ({"blur": (0.5, -1.0)}, "blur must be a fraction"),
        ({"levels": (0.5, 0.2)}, "levels must be two or more rising numbers"),
        ({"levels": (0.5,)}, "levels must be two or more rising numbers"),
        ({"of_class": {"bone": (0.5, 0.2)}}, "of_class.bone must be two numbers"),
        ({"of_class": {"bone": 3}}, "of_class.bone must be two numbers"),
        ({"of_class": 3}, "of_class must be a table"),
        ({"of_class": [1]}, "of_class must be a table"),
    ],
)
def test_impossible_settings_are_refused(bad, message):
    with pytest.raises(fd.FdifError, match=message):
        Tissue(**bad)


def test_partial_volume_mixes_an_eighth_of_each_neighbour():
    volume = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    expected = volume
    for axis in range(3):
        expected = ndimage.correlate1d(expected, [0.125, 0.75, 0.125], axis, mode="nearest")
    np.testing.assert_allclose(partly_mixed(jnp.asarray(volume)), expected, atol=1e-6)
    mixed, sharp = look(partial_volume=True), look()
    assert len(np.unique(mixed.round(4))) > len(np.unique(sharp.round(4))) == 3
    np.testing.assert_allclose(mixed[OWNER == 0].min(), sharp[OWNER == 0].min(), atol=1e-6)


def test_means_are_drawn_from_the_quantiles_of_a_histogram():
    levels = (0.0, 0.1, 0.2, 0.9, 1.0)
    means = np.asarray(Tissue(levels=levels)._means(jax.random.key(0), (4000,)))
    np.testing.assert_allclose(np.quantile(means, [0, 0.25, 0.5, 0.75, 1]), levels, atol=0.03)


def test_classes_have_the_intensities_that_they_are_given():
    means = {"sphere": [0.8, 0.8], "torus": [0.2, 0.4]}
    plain = Tissue(**PLAIN | {"air": 1.0, "of_class": means})
    recipe = fd.Recipe(
        grid=(16, 16, 16), primitives=("sphere", "torus", "cone"), mapper_as_augmentation=True, min_objects=4,
        max_objects=4, look={"tissue": plain.to_dict()},
    )  # fmt: skip
    assert from_dict(recipe.to_dict()) == recipe
    program = fd.compile(recipe)
    ratios, cones = [], []
    for index in range(8):
        image, label, owner, *_ = jax.jit(partial(program.views, number=1))(fd.sample_key(0, index))
        image, label, owner = np.asarray(image[0], float), np.asarray(label), np.asarray(owner)
        classes = {int(label[owner == o][0]): np.unique(image[owner == o]) for o in np.unique(owner)}
        assert max(map(np.ptp, classes.values())) <= 1 and classes[0].max() == 0
        found = {program.class_names[c - 1]: v[0] for c, v in classes.items() if c}
        ratios += [found["torus"] / found["sphere"]] if {"torus", "sphere"} <= set(found) else []
        cones += [found["cone"] / found["sphere"]] if {"cone", "sphere"} <= set(found) else []
    assert len(ratios) >= 3 and 0.24 < min(ratios) < max(ratios) < 0.51
    assert len(cones) >= 2 and max(cones) > 0.51  # as `mean` has them, 0.1 to 1
    bad = recipe.replace(look={"tissue": {**plain.to_dict(), "of_class": {"bonee": [0, 1]}}})
    with pytest.raises(fd.FdifError, match=r"class in look.tissue.of_class: 'bonee'.*(cone|sphere|torus)"):
        fd.compile(bad)


def test_keys_that_came_later_are_told_where_they_are_used_alone():
    assert not {"partial_volume", "levels"} & Tissue(paint=True).to_dict().keys()
    assert Tissue(levels=(0.0, 1.0)).to_dict()["levels"] == [0.0, 1.0]
    recipe = RECIPE.replace(window={"fraction": 0.5}, classes={"sides": True})
    assert not {"window", "classes"} & RECIPE.to_dict().keys() and from_dict(recipe.to_dict()) == recipe
