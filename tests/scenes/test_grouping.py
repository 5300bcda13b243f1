"""Grouped classes: what label maps call families, and that scenes and documents agree with it."""

import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.scenes.documents import load_scenes, save_scenes
from fdif_jax.scenes.grouping import Grouping

ORGANS = ("kidney_left", "kidney_right", "rib_left_1", "rib_right_1", "lung_left", "liver", "left_over")


def named(families=ORGANS, volumes=None, **keys):
    return Grouping(**keys).named(families, volumes or {})


def test_sides_are_one_class_where_both_are_there():
    found = named(sides=True)
    assert found["kidney_left"] == found["kidney_right"] == "kidney"
    assert found["rib_left_1"] == found["rib_right_1"] == "rib_1"
    assert found["lung_left"] == "lung_left" and found["left_over"] == "left_over"


def test_groups_come_first_and_match_by_pattern():
    found = named(sides=True, groups={"bone": ["rib_*"], "soft": ["liver", "lung_*"]})
    assert found["rib_left_1"] == found["rib_right_1"] == "bone" and found["lung_left"] == "soft"
    assert found["kidney_left"] == "kidney"


def test_the_largest_classes_are_kept_largest_first():
    volumes = dict(zip(ORGANS, (100, 120, 3, 4, 500, 300, 1), strict=True))
    found = named(sides=True, largest=3, volumes=volumes)
    assert list(dict.fromkeys(found.values())) == ["lung_left", "liver", "kidney"]
    assert "rib_left_1" not in found


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"groups": {"bone": ["femur*"]}}, "classes.groups.bone: 'femur*' is the name of no family"),
        ({"groups": {"a": ["liver"], "b": ["l*"]}}, "liver belongs to a and to b"),
        ({"groups": {"a": "liver"}}, "groups.a must be a list"),
        ({"groups": {"a": [1]}}, "groups.a must be a list of names"),
        ({"groups": [1]}, "groups must be a table"),
        ({"largest": 2}, "needs the volumes of a bank of organs"),
        ({"largest": -1}, "largest must be 0 or more"),
    ],
)
def test_impossible_groups_are_refused(keys, says):
    with pytest.raises(fd.FdifError) as error:
        named(**keys)
    assert says in str(error.value)


def test_anatomy_random_learns_twelve_classes_of_all_organs():
    program = fd.compile(fd.load_recipe("anatomy_random"))
    assert program.num_classes == 12 and {"liver", "spine", "autochthon", "kidney"} <= set(
        program.class_names
    )
    assert len(program.classes) == 67
    anatomix = fd.compile(fd.load_recipe("anatomix"))
    assert "kidney" in anatomix.class_names and "kidney_left" not in anatomix.class_names


@pytest.mark.slow("a program more")
def test_scenes_and_documents_use_the_grouped_ids(tmp_path):
    recipe = fd.Recipe(
        grid=(12, 12, 12), primitives=("sphere", "torus", "cone"), min_objects=5, max_objects=5,
        mapper_as_augmentation=True, classes={"groups": {"round": ["sphere", "torus"]}},
    )  # fmt: skip
    program = fd.compile(recipe)
    assert program.class_names == ("round", "cone")
    scene = program.scene_at(0, 0)
    found = {(o.class_name, *o.class_id) for o in scene.objects}
    assert found <= {("sphere", 1), ("torus", 1), ("cone", 2)} and len(found) > 1
    save_scenes([scene], tmp_path / "scene.json")
    _, label = program.render(load_scenes(tmp_path / "scene.json")[0])
    np.testing.assert_array_equal(label, program.sample_at(0, 0)[1])


def test_several_label_maps_and_groups_exclude_each_other():
    with pytest.raises(fd.FdifError, match="multi_task excludes classes"):
        fd.Recipe(multi_task=True, classes={"sides": True})
