"""What worlds share: centred objects, several label maps, mixtures of recipes, vocabularies of several sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scenes.classes import tasks_of
from fdif_jax.scenes.recipe import from_dict
from fdif_jax.vocabulary.vocabulary import resolve
from tests.helpers.reference import render_scene_reference
from tests.helpers.slow import quick_of

SMALL = {"grid": (16, 16, 16), "min_objects": 4, "max_objects": 4}
MANY = fd.Recipe(
    **SMALL,
    primitives=("sphere", "torus", "cone"),
    mappers=("inverse_cube", "modular_5"),
    displacements=("ridge",),
    multi_task=True,
)


@pytest.mark.parametrize("grid", quick_of([(24, 24, 24), (15, 20, 25)], [(15, 20, 25)], "a program more"))
def test_centred_objects_see_the_published_coordinates(grid):
    recipe = fd.Recipe(
        grid=grid, primitives=("sphere",), min_objects=1, max_objects=1, placement={"kind": "centred", "scale": 0.6},
        transform=False,
    )  # fmt: skip
    program = fd.compile(recipe)
    (ball,) = program.scene_at(0, 0).objects
    _, label = program.sample_at(0, 0)
    z, y, x = np.meshgrid(*[np.linspace(-n / 2 * 0.6, n / 2 * 0.6, n) for n in grid], indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2) - ball.params["radius"]
    clear = np.abs(distance) > 1e-3
    np.testing.assert_array_equal((np.asarray(label) == 1)[clear], (distance <= 0)[clear])


@pytest.mark.slow("a program of the whole recipe")
def test_centred_objects_are_turned_but_stay_in_the_middle():
    recipe = fd.Recipe(**SMALL, placement={"kind": "centred"})
    for o in fd.compile(recipe).scene_at(0, 0).objects:
        inverse = np.asarray(o.inverse_transform)
        # The grid's middle lies half a voxel below 0 where the edge is even.
        np.testing.assert_allclose(inverse @ [-0.5, -0.5, -0.5, 1], [0, 0, 0, 1], atol=1e-5)
        assert abs(inverse[0, 1]) + abs(inverse[1, 2]) + abs(inverse[0, 2]) > 0.01


@pytest.mark.slow("a program more")
def test_multi_task_maps_are_those_of_the_plain_renderer_and_of_the_objects_factors():
    program = fd.compile(MANY)
    assert [(t.name, len(t.class_names)) for t in program.tasks] == [
        ("shape", 3),
        ("displacement", 2),
        ("mapper", 2),
    ]
    assert program.tasks[1].class_names[0] == "none"
    scene = program.scene_at(2, 0)
    for o in scene.objects:
        assert [t.class_names[i - 1] for t, i in zip(program.tasks, o.class_id, strict=True)] == [
            o.class_name, o.displacement, o.mapper,
        ]  # fmt: skip
    image, label = program.sample_at(2, 0)
    assert label.shape == (3, 16, 16, 16) and label.dtype == np.uint8
    expected_image, expected = render_scene_reference(scene, shapes.published)
    np.testing.assert_array_equal(label, expected)
    assert np.abs(np.asarray(image, int) - np.asarray(expected_image, int)).max() <= 1
    assert ((label[0] > 0) == (label[2] > 0)).all()


def test_a_factor_with_one_value_is_no_task():
    tasks, ids = tasks_of(MANY.replace(displacements=()), fd.compile(MANY.replace(displacements=())).classes)
    assert [t.name for t in tasks] == ["shape", "mapper"] and ids.shape == (6, 2)


@pytest.mark.slow("a program more; documents of one task are in test_compiler")
def test_multi_task_documents_round_trip(tmp_path):
    program = fd.compile(MANY)
    fd.save_scenes([program.scene_at(0, 0)], tmp_path / "s.json")
    image, label = program.render(fd.load_scenes(tmp_path / "s.json")[0])
    np.testing.assert_array_equal(label, program.sample_at(0, 0)[1])
    np.testing.assert_array_equal(image, program.sample_at(0, 0)[0])


def mixture(labels="joint"):
    first = fd.Recipe(**SMALL, primitives=("sphere", "torus"), mapper_as_augmentation=True)
    second = first.replace(grid=(8, 8, 8), primitives=("cone", "sphere"))
    return fd.Mixture((fd.Part(first, 3.0), fd.Part(second, 1.0)), labels)


@pytest.mark.slow("many scenes; batches of a mixture are below")
def test_a_mixture_draws_its_parts_by_weight_with_joint_labels():
    program = fd.compile(mixture())
    assert program.class_names == ("sphere", "torus", "cone") and program.grid == (16, 16, 16)
    parts = np.asarray([int(program._choose(fd.sample_key(0, i))[0]) for i in range(400)])
    assert 0.68 < (parts == 0).mean() < 0.82
    for i in (int(np.flatnonzero(parts == 0)[0]), int(np.flatnonzero(parts == 1)[0])):
        image, label = program.sample_at(0, i)
        scene = program.scene_at(0, i)
        names = {o.class_id[0]: o.class_name for o in scene.objects}
        assert all(program.class_names[k - 1] == name for k, name in names.items())
        replayed = next(fd.render_scenes([scene], shapes.published))
        np.testing.assert_array_equal(label, replayed[1])
        np.testing.assert_array_equal(image, replayed[0])


@pytest.mark.slow("a program more")
def test_a_mixture_with_foreground_labels_only_tells_objects_from_background():
    joint, foreground = fd.compile(mixture()), fd.compile(mixture("foreground"))
    assert foreground.class_names == ("foreground",)
    np.testing.assert_array_equal(foreground.sample_at(1, 3)[1], np.asarray(joint.sample_at(1, 3)[1]) > 0)


@pytest.mark.slow("a program more; one recipe is in test_compiler")
def test_a_mixture_is_the_same_at_any_batch_size():
    program = fd.compile(mixture())
    _, labels = jax.jit(program.batch)(jax.vmap(lambda i: fd.sample_key(9, i))(jnp.arange(5)))
    for i in range(5):
        np.testing.assert_array_equal(labels[i], program.sample_at(9, i)[1])


def test_mixtures_round_trip_and_have_digests(tmp_path):
    recipe = mixture()
    recipe.save(tmp_path / "m.toml")
    again = fd.load_recipe(tmp_path / "m.toml")
    assert again == recipe and again.digest() == recipe.digest() and from_dict(recipe.to_dict()) == recipe
    assert recipe.replace(grid=[8, 8, 8]).digest() != recipe.digest()
    assert recipe.replace(grid=[8, 8, 8]).parts[1].recipe.grid == (8, 8, 8)
    summed = fd.load_recipe("fdif + 0.5*fdif_exact")
    assert [part.weight for part in summed.parts] == [1, 0.5] and summed.grid == (96, 96, 96)
    (tmp_path / "named.toml").write_text(
        'kind = "mixture"\n[[parts]]\nrecipe = "fdif"\n[[parts]]\nrecipe = "fdif_exact"\n'
    )
    assert fd.load_recipe(tmp_path / "named.toml") == summed.replace(
        parts=[*summed.parts[:1], fd.Part(summed.parts[1].recipe)]
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "mixture"', "'parts' is missing"),
        ('kind = "mixtur"', "did you mean 'mixture'"),
        ('kind = "mixture"\nparts = []', "at least one"),
        ('kind = "mixture"\nlabels = "join"\n[[parts]]\nrecipe = "fdif"', "did you mean 'joint'"),
        ('kind = "mixture"\n[[parts]]\nrecipe = "fdif"\nweight = 0', "weight must be above 0"),
        ('kind = "mixture"\n[[parts]]\nrecipe = "fdiff"', "did you mean 'fdif'"),
        ('kind = "mixture"\n[[parts]]\nname = "fdif"', "keys recipe and weight"),
        ('[placement]\nkind = "heaped"', "unknown kind of placement"),
        ('[placement]\nkind = "centred"\nscale = 0', "scale of the placement must be above 0"),
        ('[placement]\nscale = 1', "key kind"),
        ('vocabulary = ["fdif_jax.shapes:published", "fdif_jax.shapes:exact"]', "as one before it has"),
        ('vocabulary = "no_folder/"', "cannot be loaded"),
    ],
)  # fmt: skip
def test_impossible_worlds_are_one_clear_line(text, says, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(fd.FdifError) as error:
        fd.load_recipe(tmp_path / "r.toml")
    assert says in str(error.value) and "\n" not in str(error.value)


def _own(name):
    ball = fd.Family(name, lambda key, ranges, grid: shapes.sphere(4.0))
    return fd.Vocabulary(
        (ball,),
        (),
        shapes.published.mappers[:1],
        lambda n, p: shapes.sphere(4.0),
        lambda n, s: {},
        digest=name,
    )


own = _own("pebble")


@pytest.mark.slow("a program more")
def test_sources_make_one_vocabulary(monkeypatch):
    merged = resolve(["fdif_jax.shapes:published", f"{__name__}:own"])
    assert [f.name for f in merged.families] == [*(f.name for f in shapes.published.families), "pebble"]
    assert (
        merged.describe("pebble", None) == {} and merged.describe("sphere", shapes.sphere(3.0))["radius"] == 3
    )
    assert len(merged.mappers) == len(shapes.published.mappers)
    recipe = fd.Recipe(
        **SMALL, vocabulary=("fdif_jax.shapes:published", f"{__name__}:own"), primitives=("pebble", "torus")
    )
    program = fd.compile(recipe)
    assert program.class_names == ("torus+inverse_cube", "pebble+inverse_cube")
    scene = program.scene_at(0, 0)
    np.testing.assert_array_equal(program.render(scene)[1], program.sample_at(0, 0)[1])
    before = recipe.digest()
    monkeypatch.setattr(f"{__name__}.own", _own("pebble2"))
    with pytest.raises(fd.FdifError, match="pebble"):
        recipe.replace(max_objects=5)
    assert before != recipe.digest()  # what is behind a source counts, not only its name
