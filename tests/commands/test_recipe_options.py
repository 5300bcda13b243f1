"""Options of the commands that draw scenes: how they change a recipe, and what they refuse."""

import pytest
import trimesh

import fdif_jax as fd
from fdif_jax.scripts.options.recipe import RecipeOptions, recipe_of
from tests.helpers.paths import HIPPOCAMPUS


def test_nothing_given_changes_nothing():
    assert recipe_of(RecipeOptions()) == fd.load_recipe("fdif")


def test_looks_placements_and_unions_change_the_recipe():
    recipe = recipe_of(
        RecipeOptions(
            look=("bias_field=0.3", "partial_volume=true", "uniform_noise=[125,200]"),
            placement=("kind=centred", "scale=0.5"),
            num_combined_unions=3,
            seed=7,
        )
    )
    assert recipe.look == fd.Look(bias_field=0.3, partial_volume=True, uniform_noise=(125, 200))
    assert recipe.placement.to_dict() == {"kind": "centred", "scale": 0.5}
    assert recipe.num_combined_unions == 3 and recipe.class_seed == 7


def test_like_scans_comes_before_other_options(capsys):
    recipe = recipe_of(
        RecipeOptions(recipe="fdif", like=HIPPOCAMPUS, grid=(16, 16, 16), placement=("mirror=0",))
    )
    assert recipe.grid == (16, 16, 16) and recipe.placement.mirror == 0 and recipe.placement.size[0] > 8
    assert recipe.look.tissue.levels and "8 scans measured" in capsys.readouterr().out


def test_changes_of_a_placement_keep_the_rest_of_it(tmp_path):
    recipe_of(RecipeOptions(placement=("kind=centred", "scale=0.5"))).save(tmp_path / "r.toml")
    recipe = recipe_of(RecipeOptions(recipe=str(tmp_path / "r.toml"), placement=("scale=0.7",)))
    assert recipe.placement.to_dict() == {"kind": "centred", "scale": 0.7}


def test_vocabularies_replace_and_mesh_folders_add():
    recipe = recipe_of(RecipeOptions(vocabulary=("fdif_jax.shapes:exact",)))
    assert recipe.vocabulary == ("fdif_jax.shapes:exact",)


def test_a_mixture_takes_a_grid_and_a_look():
    recipe = recipe_of(RecipeOptions(recipe="fdif + fdif_exact", grid=(32, 32, 32), look=("blur=1",)))
    assert recipe.grid == (32, 32, 32) and recipe.look.blur == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"look": ("blur",)}, "--look blur: must be name=value"),
        ({"look": ("blur=1", "blur=2")}, "blur is given twice"),
        ({"look": ("blurr=1",)}, "did you mean 'blur'"),
        ({"placement": ("scale=1",)}, "unknown key in placement"),
        ({"placement": ("kind=heaped",)}, "unknown kind of placement"),
        ({"recipe": "fdif + fdif_exact", "max_objects": 3}, "max_objects is no option of a mixture"),
        ({"recipe": "fdif + fdif_exact", "placement": ("kind=centred",)}, "placement is no option of a mixture"),
        ({"recipe": "fdif + fdif_exakt"}, "did you mean 'fdif_exact'"),
        ({"recipe": "3 fdif + fdif"}, "should read NAME or WEIGHT*NAME"),
        ({"recipe": "1..2*fdif + fdif"}, "is no weight"),
        ({"recipe": "fdif + fdif_exact", "like": HIPPOCAMPUS}, "a mixture of recipes cannot be made like scans"),
        ({"vocabulary": ("nowhere:at_all",)}, "cannot be loaded"),
        ({"mapper_as_augmentation": True, "no_mapper_as_augmentation": True}, "exclude each other"),
    ],
)  # fmt: skip
def test_impossible_options_are_one_clear_line(options, says):
    with pytest.raises(fd.FdifError) as error:
        recipe_of(RecipeOptions(**options))
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_meshes_adds_families(tmp_path):
    trimesh.creation.icosphere(2, 5.0).export(tmp_path / "case001_ball.stl")
    recipe = recipe_of(RecipeOptions(mesh_dir=(tmp_path,), primitives=("ball", "torus"), grid=(16, 16, 16)))
    assert recipe.vocabulary == ("fdif_jax.shapes:published", str(tmp_path))
    assert fd.compile(recipe).class_names == ("torus", "ball")
    digest = recipe.digest()
    trimesh.creation.box((2, 3, 4)).export(tmp_path / "case001_ball.stl")
    assert recipe.digest() != digest
    with pytest.raises(fd.FdifError, match="nowhere"):
        recipe_of(RecipeOptions(mesh_dir=(tmp_path / "nowhere",)))
