"""The compiler: draws follow the specification, fast equals plain rendering, nothing depends on batching."""

import dataclasses
import os
import pickle
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scenes import classes
from fdif_jax.scenes.classes import classes_of
from fdif_jax.scenes.placement import draw_pose
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary.vocabulary import resolve
from tests.helpers.reference import render_scene_reference
from tests.helpers.slow import quick_of

SMALL = {"grid": [20, 24, 28], "min_objects": 6, "max_objects": 12}


# More objects than a word has bits; no voxel of this grid lies just on a tooth of the sawtooth displacement, where
# rounding would decide.
CROWDED = {"grid": [36, 40, 52], "min_objects": 34, "max_objects": 40}


@pytest.fixture(scope="module")
def program():
    return fd.compile(fd.load_recipe("fdif").replace(**CROWDED, categories=["basic", "star_torus"]))


def test_classes_of_shapes_with_the_same_fields_are_different_structures():
    @fd.node
    class Twin(fd.Shape):
        radius: float

    sphere = shapes.sphere(1.0)
    assert Structure.of(sphere) != Structure.of(Twin(1.0))
    assert Structure.of(sphere) == Structure.of(shapes.sphere(2.0))


def _check_renderers_agree(program, samples=3):
    for i in range(samples):
        image, label = map(np.asarray, program.sample_at(5, i))
        expected_image, expected_label = render_scene_reference(program.scene_at(5, i), program.vocabulary)
        assert (label == np.asarray(expected_label)).mean() >= 0.99999
        off = np.abs(image.astype(int) - np.asarray(expected_image))
        assert (off <= 1).mean() >= 0.9999 and off.mean() < 1e-2


def test_the_fast_renderer_equals_the_plain_one(program):
    _check_renderers_agree(program, samples=1)


@pytest.mark.slow("109 classes; some of them are above")
@pytest.mark.parametrize("name", ["fdif", "fdif_exact"])
def test_the_fast_renderer_equals_the_plain_one_in_whole_recipes(name):
    _check_renderers_agree(fd.compile(fd.load_recipe(name).replace(**CROWDED)))


def test_the_default_mapper_reaches_beyond_the_surface():
    """inverse_cube is not zero outside; its tail may be cut only where it is worth less than a grey level."""
    program = fd.compile(fd.Recipe(grid=(40, 40, 40), primitives=("sphere",), min_objects=1, max_objects=1))
    image, _ = program.sample_at(0, 1)
    expected, _ = render_scene_reference(program.scene_at(0, 1), program.vocabulary)
    np.testing.assert_array_equal(image, expected)
    assert (np.asarray(image) > 0).sum() > (np.asarray(program.sample_at(0, 1)[1]) > 0).sum()


def test_a_document_renders_to_the_volumes_it_was_drawn_with(program):
    image, label = program.sample_at(1, 2)
    again_image, again_label = program.render(program.scene_at(1, 2))
    assert (np.asarray(label) == again_label).mean() >= 0.9999
    assert (np.abs(np.asarray(image, int) - again_image) <= 1).mean() >= 0.9999


def test_a_recipe_is_resolved_once_on_its_way_to_samples_and_documents(monkeypatch):
    recipe = fd.load_recipe("fdif").replace(**SMALL, categories=["basic"])
    counts = Counter()

    def counted(name, function):
        def call(*arguments):
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr("fdif_jax.scenes.recipe.resolve", counted("vocabulary", resolve))
    for name in ("classes_of", "tasks_of"):
        monkeypatch.setattr(f"fdif_jax.scenes.compiler.{name}", counted(name, getattr(classes, name)))
    program = fd.compile(dataclasses.replace(recipe, grid=(12, 12, 12)))
    assert len(program.tasks) == 1 and len(program.classes) == program.num_classes
    jax.eval_shape(program.sample, jax.random.key(0))
    program.scene_at(0, 0)
    assert counts == {"vocabulary": 1, "classes_of": 1, "tasks_of": 1}

    copy = pickle.loads(pickle.dumps(program.recipe))
    assert copy == program.recipe and len(copy.resolved.families) == len(program.vocabulary.families)
    assert counts["vocabulary"] == 2  # functions do not travel
    assert copy.digest() == program.recipe.digest()


def test_smaller_objects_and_later_equals_win():
    identity = np.eye(4).tolist()

    def ball(label, radius):
        return fd.SceneObject((label,), "sphere", {"radius": radius}, identity, "none", "linear_slope_10.0")

    scene = fd.Scene(fd.Grid(24, 24, 24), (ball(1, 4.0), ball(2, 9.0), ball(3, 4.0), ball(4, 7.0)))
    ((_, label),) = fd.render_scenes([scene], shapes.published)
    centre = label[12, 12]
    assert centre[12] == 3 and centre[12 + 6] == 4 and centre[12 + 8] == 2 and centre[12 + 10] == 0


@pytest.mark.slow("a program of 300 classes; types of label maps are in tests/datasets")
def test_labels_beyond_255_are_uint16():
    # As many classes by names of few structures.
    recipe = fd.load_recipe("fdif").replace(
        **SMALL, mapper_as_augmentation=False, displacement_as_augmentation=False
    )
    program = fd.compile(recipe.replace(categories=["basic"], primitives=[]))
    assert program.num_classes > 255
    _, label = program.sample_at(0, 0)
    assert label.dtype == jnp.uint16 and int(label.max()) > 255


def test_class_schemes_count_and_order_as_specified():
    base = fd.Recipe(
        primitives=("sphere", "torus", "cone"),
        mappers=("inverse_cube", "modular_5"),
        displacements=("ridge", "turbulence"),
    )
    names = [c.name for c in classes_of(base)]
    assert len(names) == 18 and len(set(names)) == 18
    assert names[:2] == ["sphere+inverse_cube", "sphere+modular_5"]
    assert names[6] == "sphere+ridge+inverse_cube"
    assert len(classes_of(base.replace(mapper_as_augmentation=True))) == 9
    assert len(classes_of(base.replace(displacement_as_augmentation=True))) == 6
    both = base.replace(mapper_as_augmentation=True, displacement_as_augmentation=True)
    assert [c.name for c in classes_of(both)] == ["sphere", "torus", "cone"]
    assert len(classes_of(both.replace(primitives=(), categories=("revolution", "star_torus")))) == 7


def test_num_classes_draws_a_reproducible_subset():
    def names(**changes):
        return [c.name for c in classes_of(fd.load_recipe("fdif").replace(num_classes=10, **changes))]

    assert len(names()) == 10 and names() == names()
    assert names() != names(class_seed=1)


def test_objects_follow_their_class():
    recipe = fd.Recipe(
        grid=(16, 16, 16),
        primitives=("sphere", "torus"),
        mappers=("inverse_cube", "modular_5"),
        displacements=("ridge",),
        min_objects=30,
        max_objects=30,
    )
    program = fd.compile(recipe)
    seen = set()
    for o in program.scene_at(0, 0).objects:
        parts = [o.class_name, o.displacement, o.mapper]
        assert "+".join(part for part in parts if part != "none") == program.class_names[o.class_id[0] - 1]
        seen.add(o.class_id)
    assert len(seen) == 8


@pytest.mark.slow("200 scenes of 109 classes")
def test_draws_cover_counts_classes_and_factors_uniformly():
    recipe = fd.load_recipe("fdif").replace(grid=[16, 16, 16], min_objects=3, max_objects=50)
    program = fd.compile(recipe)
    tables = jax.jit(lambda keys: jax.lax.map(program.draw, keys))(jax.random.split(jax.random.key(0), 200))
    counts = np.asarray(tables.number)
    assert counts.min() == 3 and counts.max() == 50
    drawn = counts.sum()
    used = np.arange(50)[None] < counts[:, None]
    for column, sides in ((tables.label[..., 0], 109), (tables.displacement, 10), (tables.mapper, 10)):
        frequencies = np.bincount(np.asarray(column)[used] - (sides == 109), minlength=sides)
        expected = drawn / sides
        assert len(frequencies) == sides
        # Chi-squared, five standard deviations above its mean.
        assert ((frequencies - expected) ** 2 / expected).sum() < sides + 5 * np.sqrt(2 * sides)


@pytest.mark.parametrize("vocabulary", [shapes.published, shapes.exact], ids=["published", "exact"])
@pytest.mark.parametrize("number", quick_of(range(1, 110, 6), (25, 73), "a program more"))
def test_drawn_parameters_lie_in_and_fill_their_ranges(vocabulary, number):
    family, grid = vocabulary.families[number - 1], fd.Grid(96, 96, 96)
    keys = jax.random.split(jax.random.key(number), 200)
    drawn = jax.device_get(jax.vmap(lambda key: family.sample(key, grid))(keys))
    shapes_ = [jax.tree.map(lambda leaf, i=i: leaf[i], drawn) for i in range(len(keys))]
    params = [shapes.describe(shape) for shape in shapes_]
    ranges = family.ranges

    def check(values, low, high):
        values = np.asarray(values)
        tolerance = 1e-4 * max(1.0, abs(high))
        assert values.min() >= low - tolerance and values.max() <= high + tolerance
        if high > low:
            span = (values - low) / (high - low)
            assert abs(span.mean() - 0.5) < 0.12 and span.min() < 0.05 and span.max() > 0.95

    if "height" in ranges and "half_height" in params[0]:
        check([p["half_height"] for p in params], 0.05 * 96, 0.25 * 96)
    if "neck" in ranges and ranges["second_scale"].low >= 0.2 and ranges["second_scale"].high > 1.6:
        check([p["taper"]["second_scale"] for p in params], *ranges["second_scale"])
    if params[0].get("taper", {}).get("kind") == "neck":
        relative = [p["taper"]["neck"] / (2 * p["half_height"]) for p in params]
        check(relative, *ranges["neck"])
    profile = params[0].get("profile", {})
    if profile.get("kind") == "star":
        check([p["profile"]["ratio"] for p in params], *ranges["ratio"])
        assert {p["profile"]["points"] for p in params} == {int(ranges["points"].low)}
        if "radius" in ranges:
            check([p["profile"]["radius"] / 96 for p in params], *ranges["radius"])
    if profile.get("kind") == "circle":
        check([p["profile"]["radius"] / 96 for p in params], *ranges["radius"])
    if profile.get("kind") == "polygon":
        vertices = np.array([p["profile"]["vertices"] for p in params])
        sector = (
            np.mod(np.arctan2(vertices[..., 1], vertices[..., 0]), 2 * np.pi)
            / (2 * np.pi)
            * vertices.shape[1]
        )
        check((sector - np.arange(vertices.shape[1])).ravel(), 0.0, 1.0)
        if "radius" in ranges:
            radius = np.hypot(*np.moveaxis(vertices, -1, 0)) / 96
            assert (
                radius.min() >= ranges["radius"].low - 1e-5 and radius.max() <= ranges["radius"].high + 1e-5
            )
    if "major_radius" in ranges:
        check([p["major_radius"] / 96 for p in params], *ranges["major_radius"])


def test_poses_move_turn_and_shear_within_their_ranges():
    grid = fd.Grid(40, 60, 80)
    keys = jax.random.split(jax.random.key(0), 2000)
    poses = np.asarray(jax.jit(jax.vmap(lambda key: draw_pose(key, grid, True)))(keys))
    for axis, edge in enumerate((80, 60, 40)):
        offset = poses[:, axis, 3] / edge
        assert np.abs(offset).max() <= 0.35 + 1e-5 and offset.std() == pytest.approx(
            0.35 / np.sqrt(3), rel=0.05
        )
    # R S with S symmetric and positive: the polar decomposition gives both back.
    squared = np.einsum("nki,nkj->nij", poses[:, :, :3], poses[:, :, :3])
    values, vectors = np.linalg.eigh(squared)
    stretch = np.einsum("nij,nj,nkj->nik", vectors, np.sqrt(values), vectors)
    np.testing.assert_allclose(np.diagonal(stretch, axis1=1, axis2=2), 1, atol=1e-4)
    shears = stretch[:, [0, 0, 1], [1, 2, 2]]
    assert np.abs(shears).max() <= 0.1 + 1e-4 and shears.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    still = np.asarray(jax.vmap(lambda key: draw_pose(key, grid, False))(keys[:5]))
    np.testing.assert_array_equal(still[:, :, :3], np.broadcast_to(np.eye(3), (5, 3, 3)))
    np.testing.assert_allclose(still[:, :, 3], poses[:5, :, 3], rtol=1e-6)


@pytest.mark.slow("twenty shapes, each traced by itself")
def test_exact_recipe_has_shells_that_are_shells():
    grid = fd.Grid(96, 96, 96)
    family = shapes.exact.family("onioned_square_cone_prism")
    drawn = [family.sample(jax.random.key(i), grid) for i in range(20)]
    x = jnp.linspace(-45, 45, 91)
    for shape in drawn:
        z = jnp.linspace(-shape.half_height, shape.half_height, 20)
        deepest = -float(jnp.min(shape.section(x[:, None], x, z[:, None, None])))
        assert 0.15 * deepest < float(shape.thickness) < 0.55 * deepest


@pytest.mark.slow("a program of all classes a batch size; a mixture's and packing's are quick")
def test_sample_i_is_the_same_at_any_batch_size(program):
    keys = jax.vmap(lambda i: fd.sample_key(7, i))(jnp.arange(4))
    images, labels = jax.jit(program.batch)(keys)
    for i in range(4):
        image, label = program.sample_at(7, i)
        np.testing.assert_array_equal(images[i], image)
        np.testing.assert_array_equal(labels[i], label)


_ON_DEVICES = """
import hashlib, jax, numpy as np, fdif_jax as fd
program = fd.compile(fd.load_recipe("fdif").replace(
    grid=[12, 16, 20], min_objects=6, max_objects=12, primitives=["sphere", "torus", "octahedron"]
))
digest = hashlib.sha256()
for i in range(4):
    with jax.default_device(jax.devices()[i % len(jax.devices())]):
        for volume in program.sample_at(7, i):
            digest.update(np.asarray(volume).tobytes())
print(len(jax.devices()), digest.hexdigest())
"""


@pytest.mark.slow("two processes that compile")
def test_sample_i_is_the_same_on_one_and_four_devices():
    outputs = []
    for count in (1, 4):
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", _ON_DEVICES], env=environment, capture_output=True, text=True, check=True
        )
        outputs.append(done.stdout.split())
    (one, first), (four, second) = outputs
    assert (one, four) == ("1", "4") and first == second


def test_a_user_family_compiles_beside_the_catalogue():
    """Authoring: a family of one's own, made with the algebra, in a vocabulary of one's own."""

    def draw(key, ranges, grid):
        radius = ranges["radius"].draw(jax.random.uniform(key)) * min(grid)
        return fd.union(
            shapes.sphere(radius), fd.translate(shapes.box(radius / 2), (radius, 0.0, 0.0)), smooth=2.0
        )

    mine = fd.Family("blob", draw, {"radius": fd.Range(0.1, 0.3)})
    families = (shapes.published.family("sphere"), mine)
    base = shapes.published
    own = fd.Vocabulary(families, base.displacements, base.mappers, base.build, base.describe)
    sys.modules["own_vocabulary"] = type(sys)("own_vocabulary")
    sys.modules["own_vocabulary"].own = own
    recipe = fd.Recipe(vocabulary="own_vocabulary:own", grid=(24, 24, 24), min_objects=8, max_objects=8)
    program = fd.compile(recipe)
    image, label = program.sample_at(0, 0)
    assert program.class_names == ("sphere+inverse_cube", "blob+inverse_cube")
    assert set(np.unique(label)) == {0, 1, 2} and int(image.max()) > 0
