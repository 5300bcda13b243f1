"""Recipes and scene documents: plain data that round-trips, and errors that name the key."""

import json

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scenes.recipe import from_dict


@pytest.mark.parametrize("name", fd.shipped_recipes())
def test_shipped_recipes_round_trip_through_toml(name, tmp_path):
    recipe = fd.load_recipe(name)
    recipe.save(tmp_path / "copy.toml")
    copy = fd.load_recipe(tmp_path / "copy.toml")
    assert copy == recipe and copy.digest() == recipe.digest()


def test_fdif_is_the_paper_recipe():
    recipe = fd.load_recipe("fdif")
    assert recipe.grid == (96, 96, 96) and (recipe.min_objects, recipe.max_objects) == (20, 20)
    assert len(recipe.mappers) == 10 and len(recipe.displacements) == 9
    assert fd.compile(recipe).num_classes == 109


@given(
    st.tuples(*[st.integers(2, 200)] * 3),
    st.integers(1, 50),
    st.integers(0, 50),
    st.sets(st.sampled_from([m.name for m in shapes.published.mappers]), min_size=1),
    st.booleans(),
)
def test_any_valid_recipe_round_trips(grid, low, more, mappers, transform):
    recipe = fd.Recipe(
        grid=grid, min_objects=low, max_objects=low + more, mappers=tuple(mappers), transform=transform
    )
    assert from_dict(recipe.to_dict()) == recipe
    assert recipe.replace(transform=not transform).digest() != recipe.digest()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grid": [0, 96, 96]}, "grid"),
        ({"grid": [96, -1, 96]}, "grid"),
        ({"grid": [96, 96]}, "grid must be three whole numbers"),
        ({"grid": [96.5, 96, 96]}, "grid"),
        ({"min_objects": 0}, "min_objects"),
        ({"min_objects": 30}, "max_objects (20) must not be below min_objects (30)"),
        ({"max_objects": "many"}, "max_objects must be a whole number"),
        ({"mappers": []}, "mappers"),
        ({"mappers": ["inverse_cub"]}, "did you mean 'inverse_cube'"),
        ({"mappers": "inverse_cube"}, "mappers must be a list"),
        ({"mappers": ["inverse_cube", "inverse_cube"]}, "twice"),
        ({"displacements": ["turbulense"]}, "did you mean 'turbulence'"),
        ({"primitives": ["spere"]}, "did you mean 'sphere'"),
        ({"categories": ["basics"]}, "did you mean 'basic'"),
        ({"num_classes": 110}, "exceeds the 109"),
        ({"num_classes": -1}, "num_classes"),
        ({"transform": 1}, "transform must be true or false"),
        ({"multi_task": True}, "multi_task excludes"),
        ({"objects": 3}, "unknown key"),
        ({"vocabulary": "nowhere:at_all"}, "vocabulary"),
        ({"vocabulary": "json:loads"}, "not a Vocabulary"),
    ],
)
def test_impossible_values_are_errors_that_name_the_key(changes, says):
    with pytest.raises(fd.FdifError) as error:
        fd.load_recipe("fdif").replace(**changes)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_recipe_files(tmp_path):
    with pytest.raises(fd.FdifError, match="did you mean 'fdif'"):
        fd.load_recipe("fdiff")
    with pytest.raises(fd.FdifError, match="does not exist"):
        fd.load_recipe(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("grid = [")
    with pytest.raises(fd.FdifError, match="not valid TOML"):
        fd.load_recipe(tmp_path / "broken.toml")
    (tmp_path / "typo.toml").write_text("grids = [8, 8, 8]")
    with pytest.raises(fd.FdifError, match=r"typo\.toml.*did you mean 'grid'"):
        fd.load_recipe(tmp_path / "typo.toml")


@pytest.mark.slow("a program of the whole recipe")
def test_a_drawn_scene_round_trips_through_its_document(tmp_path):
    program = fd.compile(fd.load_recipe("fdif").replace(grid=[16, 16, 16], max_objects=40, min_objects=40))
    scene = program.scene_at(0, 0)
    fd.save_scenes([scene], tmp_path / "scenes.json")
    assert fd.load_scenes(tmp_path / "scenes.json") == [scene]
    for drawn in scene.objects:
        again = shapes.describe(shapes.build(drawn.class_name, drawn.params))
        assert jax.tree.structure(again) == jax.tree.structure(drawn.params)
        for value, expected in zip(jax.tree.leaves(again), jax.tree.leaves(drawn.params), strict=True):
            assert value == pytest.approx(expected)


def test_multi_task_with_one_value_of_everything_is_refused_by_the_compiler():
    with pytest.raises(fd.FdifError, match="multi_task needs at least two"):
        fd.compile(fd.Recipe(multi_task=True, primitives=("sphere",)))


def _object(**changes):
    identity = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    base = {"class_id": 1, "class": "sphere", "params": {"radius": 5.0}, "inverse_transform": identity}
    return base | {"displacement": "none", "mapper": "inverse_cube"} | changes


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"grid": [8, 8, 8]}, "keys 'grid' and 'objects'"),
        ({"grid": [8, 8], "objects": [_object()]}, "grid"),
        ({"grid": [8, 8, 8], "objects": []}, "at least one object"),
        ({"grid": [8, 8, 8], "objects": [_object(class_id=-1)]}, "class_id"),
        ({"grid": [8, 8, 8], "objects": [_object(inverse_transform=[[1]])]}, "matrix of finite numbers"),
        ({"grid": [8, 8, 8], "objects": [_object(inverse_transform=[[0.0] * 4] * 4)]}, "inverted"),
        ({"grid": [8, 8, 8], "objects": [_object(colour=1)]}, "unknown key"),
        ({"grid": [8, 8, 8], "objects": [_object(), {"class": "sphere"}]}, "object 1: 'class_id' is missing"),
        ({"grid": [8, 8, 8], "objects": [_object(**{"class": "spher"})]}, "did you mean 'sphere'"),
        ({"grid": [8, 8, 8], "objects": [_object(mapper="modular_6")]}, "unknown mapper"),
        ({"grid": [8, 8, 8], "objects": [_object(params={"radius": -1})]}, "'radius' must be above 0"),
        ({"grid": [8, 8, 8], "objects": [_object(params={"radios": 1})]}, "'radius' is missing"),
        ({"grid": [8, 8, 8], "objects": [_object(params={"radius": 3, "size": 1})]}, "unknown parameter"),
    ],
)
def test_bad_scene_documents_are_one_clear_line(document, says, tmp_path):
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps([document]))
    with pytest.raises(fd.FdifError) as error:
        list(fd.render_scenes(fd.load_scenes(path), shapes.published))
    assert says in str(error.value) and "\n" not in str(error.value)
