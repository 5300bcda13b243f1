"""Looks: every change against what another library, a formula or a property says; off means off."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.rendering import filters, look
from fdif_jax.rendering.renderer import Renderer, Table
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary.vocabulary import Mapper
from tests.helpers.slow import quick_of

KEY = jax.random.key(1)
VOLUME = np.asarray(jax.random.uniform(jax.random.key(0), (12, 15, 18)))
RECIPE = fd.Recipe(grid=(16, 16, 16), primitives=("sphere", "torus"), mappers=("linear_slope_10.0",))


def test_blur_is_a_gaussian_filter():
    blurred = look._blur(KEY, jnp.float32(1.3), VOLUME)
    expected = ndimage.gaussian_filter(VOLUME, 1.3, truncate=12, mode="constant")
    # At the borders weights are scaled up to make up for what is missing there.
    weight = ndimage.gaussian_filter(np.ones_like(VOLUME), 1.3, truncate=12, mode="constant")
    np.testing.assert_allclose(blurred, expected / weight, atol=1e-4)


@pytest.mark.slow("a program an axis")
def test_thick_slices_average_and_interpolate_along_one_axis():
    edge, thickness = 12, 3
    matrix = np.asarray(filters.slices(edge, jnp.float32(thickness)))
    signal = VOLUME[:, 0, 0]
    averages = signal.reshape(-1, thickness).mean(1)
    centres = np.arange(edge // thickness) * thickness + (thickness - 1) / 2
    np.testing.assert_allclose(matrix @ signal, np.interp(np.arange(edge), centres, averages), atol=1e-5)
    changed = np.asarray(look._thick_slices(KEY, jnp.float32(thickness), VOLUME))
    along = [
        np.allclose(
            changed, np.moveaxis(np.tensordot(filters.slices(n, 3.0), VOLUME, (1, a)), 0, a), atol=1e-5
        )
        for a, n in enumerate(VOLUME.shape)
    ]
    assert sum(along) == 1


@settings(max_examples=10)  # every edge is a program to compile
@given(st.floats(1, 30), st.integers(2, 40))
@pytest.mark.slow("a program an edge")
def test_thick_slices_keep_a_constant(thickness, edge):
    matrix = np.asarray(filters.slices(edge, jnp.float32(thickness)))
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-4)
    assert matrix.min() >= 0


def test_noises_have_their_distributions():
    empty = np.zeros((40, 40, 40), np.float32)
    rayleigh = np.asarray(look._rician(KEY, jnp.float32(0.1), empty))
    assert rayleigh.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    assert rayleigh.std() == pytest.approx(0.1 * np.sqrt(2 - np.pi / 2), rel=0.01)
    bright = np.asarray(look._rician(KEY, jnp.float32(0.02), empty + 1))
    assert bright.std() == pytest.approx(0.02, rel=0.02)
    noisy = np.asarray(look._uniform_noise(KEY, empty + 1, 150.0, 150.0))
    levels = noisy * (128 + 150) - 128
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert levels.min() == pytest.approx(0, abs=1e-3) and levels.max() == pytest.approx(150, abs=1e-3)
    assert levels.mean() == pytest.approx(75, rel=0.01)


def test_uniform_noise_draws_its_top_between_the_two_ends():
    tops = [
        float(look._uniform_noise(jax.random.key(i), np.zeros((16, 16, 16)), 125.0, 200.0).max())
        for i in range(20)
    ]
    tops = np.asarray([128 * top / (1 - top) for top in tops])  # top / (128 + top) was the greatest value
    assert 120 < tops.min() < 145 and 180 < tops.max() < 201


@given(st.integers(0, 2**31), st.floats(0.01, 3))
def test_a_random_curve_keeps_the_order_and_both_ends(seed, strength):
    values = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, -1)
    curved = np.asarray(look._curve(jax.random.key(seed), jnp.float32(strength), values)).ravel()
    assert curved[0] == pytest.approx(0, abs=1e-6) and curved[-1] == pytest.approx(1, abs=1e-5)
    assert (np.diff(curved) > 0).all()


def test_a_bias_field_is_a_smooth_bounded_factor():
    factor = np.asarray(look._bias_field(KEY, jnp.float32(0.4), np.ones((32, 32, 32), np.float32)))
    assert np.abs(np.log(factor)).max() == pytest.approx(0.4, abs=1e-5)
    steps = [np.abs(np.diff(np.log(factor), axis=a)).max() for a in range(3)]
    assert max(steps) < 0.4 * 2 / 8  # no faster than the coarse grid's cells of 8 voxels


@pytest.mark.slow("a program more")
def test_texture_is_only_in_the_background():
    label = np.zeros((24, 24, 24), np.uint8)
    label[6:12] = 3
    changed = np.asarray(fd.Look(texture=0.5).apply(KEY, jnp.full(label.shape, 10.0), label))
    assert (changed[6:12] == 10).all()
    assert changed[label == 0].std() > 1 and changed.min() >= 10 - 1e-4 and changed.max() <= 10 + 64


SOLID = Mapper("solid", lambda d: jnp.where(d <= 0, 128.0, 0.0))


@fd.node
class Faint(fd.Shape):
    """A ball of radius 7 whose distance is a fraction of the true one."""

    centre: float
    fraction: float

    def __call__(self, p):
        away = jnp.sqrt((p.x - self.centre) ** 2 + (p.y - self.centre / 3) ** 2 + p.z**2)
        return (away - 7.0) * self.fraction


@partial(jax.jit, static_argnums=(1, 2))
def _image(shape, partial_volume, grid=fd.Grid(24, 24, 24)):  # noqa: B008
    structure = Structure.of(shape)
    renderer = Renderer(grid, (structure,), (), (SOLID,), 1, partial_volume=partial_volume)
    zero, row = jnp.zeros(1, jnp.int32), structure.pack(shape, structure.width)[None]
    table = Table(jnp.int32(1), zero, row, jnp.eye(3, 4)[None], zero, zero, jnp.ones((1, 1), jnp.int32))
    return renderer.intensities(table)[0] / 128


@pytest.mark.parametrize("fraction", [1.0, 0.2])
def test_partial_volume_measures_volumes_better_than_voxels_do(fraction):
    """Whether distances are true or not."""
    errors = [
        max(
            abs(_image(Faint(shift, fraction), soft).sum() / (4 / 3 * np.pi * 7**3) - 1)
            for shift in np.linspace(0, 1, 5)
        )
        for soft in (False, True)
    ]
    assert errors[1] < 0.01 and errors[1] < 0.7 * errors[0], errors


def test_partial_volume_is_the_covered_part_of_a_voxel():
    soft = _image(Faint(0.0, 0.3), True)[12, 12, 12:]
    np.testing.assert_allclose(soft, [1] * 7 + [0.5] + [0] * 4, atol=0.02)


def test_partial_volume_covers_voxels_of_any_spacing():
    soft = _image(Faint(0.3, 1.0), True, fd.Grid(12, 36, 20, spacing=(1.6, 0.5, 1.0)))
    assert float(soft.sum()) * 0.8 == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.01)
    # Voxels reach 2 mm to both sides of their centres: faces at ±5 mm leave a quarter of those at ±4 mm free.
    slab = _image(shapes.box(60.0, 60.0, 5.0), True, fd.Grid(8, 9, 10, spacing=(4.0, 0.8, 1.5)))[:, 4, 5]
    np.testing.assert_allclose(slab, [0, 0, 0, 0.75, 1, 0.75, 0, 0], atol=1e-5)


def test_partial_volume_changes_images_and_no_labels():
    plain = fd.compile(RECIPE)
    smooth = fd.compile(RECIPE.replace(look={"partial_volume": True}))
    (image, label), (soft, same) = plain.sample_at(0, 0), smooth.sample_at(0, 0)
    np.testing.assert_array_equal(label, same)
    assert (np.asarray(image) != np.asarray(soft)).any()
    assert (np.asarray(soft)[np.asarray(label) == 0] > 0).any()


ALL = {
    field.name: (125.0, 200.0) if field.name == "uniform_noise" else True if field.type is bool else 0.4
    for field in dataclasses.fields(fd.Look)
} | {"slice_thickness": 3.0, "blur": 1.0, "tissue": {"paint": True}}


@pytest.mark.parametrize(
    "knob", quick_of(ALL, [n for n in ALL if n not in ("tissue", "texture")], "a program more")
)
def test_every_knob_alone_changes_images_deterministically_and_never_labels(knob):
    label = jnp.zeros((16, 16, 16), jnp.uint8).at[4:9].set(1)
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 128, label.shape), jnp.float32)
    knobs = fd.Look(**{knob: ALL[knob]})
    if knob == "partial_volume":
        assert not knobs.changes_images
        return
    changed = knobs.apply(KEY, image, label, label, 1)
    assert knobs.changes_images and changed.dtype == jnp.float32 and not np.allclose(changed, image)
    assert float(changed.min()) >= 0 and float(changed.max()) <= 128
    np.testing.assert_array_equal(changed, knobs.apply(KEY, image, label, label, 1))
    assert not np.allclose(changed, knobs.apply(jax.random.key(99), image, label, label, 1))


@pytest.mark.slow("one program of all looks; each look is above")
def test_looks_are_the_same_at_any_batch_size_and_off_by_default():
    program = fd.compile(RECIPE.replace(look=ALL))
    image, label = program.sample_at(4, 2)
    images, labels = jax.jit(program.batch)(jax.vmap(lambda i: fd.sample_key(4, i))(jnp.arange(3)))
    np.testing.assert_array_equal(images[2], image)
    np.testing.assert_array_equal(labels[2], label)
    plain_image, plain_label = fd.compile(RECIPE).sample_at(4, 2)
    np.testing.assert_array_equal(plain_label, label)
    assert (np.asarray(plain_image) != np.asarray(image)).any()
    assert not fd.Look().changes_images


@pytest.mark.parametrize(
    ("look_", "says"),
    [
        ({"blur": -1}, "blur must be 0 or more"),
        ({"blurr": 1}, "did you mean 'blur'"),
        ({"uniform_noise": [5, 1]}, "low <= high"),
        ({"uniform_noise": 5}, "uniform_noise must be two numbers"),
        ({"gamma": "much"}, "gamma must be a number"),
        (3, "look must be a table"),
    ],
)
def test_impossible_looks_are_one_clear_line(look_, says):
    with pytest.raises(fd.FdifError) as error:
        RECIPE.replace(look=look_)
    assert says in str(error.value) and "\n" not in str(error.value)
