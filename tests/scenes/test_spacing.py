"""Scenes on grids with a spacing: shapes stay in millimetres, files and documents say it."""

import json

import nibabel as nib
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.scenes.recipe import from_dict
from fdif_jax.scripts import cli
from fdif_jax.shapes import published
from tests.helpers.reference import render_scene_reference

SPACING = (3.0, 0.75, 1.25)
RECIPE = fd.Recipe(
    grid=(14, 48, 32),
    spacing=SPACING,
    primitives=("sphere", "torus"),
    displacements=("ridge",),
    displacement_as_augmentation=True,
    mappers=("linear_slope_10.0",),
    min_objects=3,
    max_objects=3,
)


@pytest.fixture(scope="module")
def program():
    return fd.compile(RECIPE)


def test_a_sample_is_its_scene_on_the_spaced_voxels(program):
    for index in range(3):
        (image, label), scene = program.sample_at(0, index), program.scene_at(0, index)
        assert scene.grid == fd.Grid(14, 48, 32, spacing=SPACING) == program.grid
        expected, labels = render_scene_reference(scene, published)
        assert (np.asarray(label) == labels).mean() > 0.999 and label.any()
        assert (np.abs(np.asarray(image, int) - np.asarray(expected, int)) <= 1).mean() > 0.999


def test_a_ball_of_a_document_has_its_volume_in_cubic_millimetres():
    place = [[1.0, 0, 0, -4], [0, 1.0, 0, 5], [0, 0, 1.0, 2.5], [0, 0, 0, 1.0]]
    ball = fd.SceneObject((1,), "sphere", {"radius": 11.0}, place, "none", "inverse_cube")
    ((_, label),) = fd.render_scenes([fd.Scene(fd.Grid(14, 48, 32, spacing=SPACING), (ball,))], published)
    assert label.sum() * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * 11**3, rel=0.02)
    middle = np.argwhere(label).mean(0) - [7, 24, 16]
    np.testing.assert_allclose(middle * SPACING, [-2.5, -5, 4], atol=0.3)


def test_documents_keep_the_spacing_and_are_as_before_without(program, tmp_path):
    scene = program.scene_at(0, 0)
    plain = fd.Scene(fd.Grid(*scene.grid), scene.objects)
    fd.save_scenes([scene, plain], tmp_path / "scenes.json")
    assert fd.load_scenes(tmp_path / "scenes.json") == [scene, plain] and scene != plain
    spaced, unspaced = json.loads((tmp_path / "scenes.json").read_text())
    assert spaced["spacing"] == list(SPACING) and list(unspaced) == ["grid", "objects"]
    cli.run("render", [str(tmp_path / "scenes.json"), "--out", str(tmp_path / "out")])
    for name in ("image_0", "label_0"):
        np.testing.assert_allclose(nib.load(tmp_path / f"out/{name}.nii.gz").affine, np.diag([*SPACING, 1]))
    np.testing.assert_array_equal(nib.load(tmp_path / "out/image_1.nii.gz").affine, np.eye(4))


def test_a_recipe_with_a_spacing_is_another_one():
    assert from_dict(RECIPE.to_dict()) == RECIPE and RECIPE.to_dict()["spacing"] == list(SPACING)
    plain = RECIPE.replace(spacing=[1, 1, 1])
    assert "spacing" not in plain.to_dict() and plain.digest() != RECIPE.digest()
    mixed = fd.Mixture((fd.Part(RECIPE), fd.Part(plain, 2.0)))
    assert [part.recipe.spacing for part in mixed.parts] == [SPACING] * 2 and "spacing" not in mixed.to_dict()
    finer = mixed.replace(spacing=[2, 2, 1])
    assert {part.recipe.spacing for part in finer.parts} == {(2.0, 2.0, 1.0)}
    assert (
        fd.compile(finer).grid == fd.Grid(14, 48, 32, spacing=(2, 2, 1))
        and from_dict(finer.to_dict()) == finer
    )


@pytest.mark.parametrize(
    ("spacing", "says"),
    [
        ([1, 1], "spacing must be three numbers"),
        ([1, 0, 1], "spacing must be three finite numbers of mm above 0"),
        ([1, 1, float("nan")], "spacing must be three finite numbers of mm above 0"),
        ([0.1, 0.1, 0.1], "spacing makes the grid 1.4 × 4.8 × 3.2 mm; shapes are sized in whole millimetres"),
    ],
)
def test_a_bad_spacing_of_a_recipe_is_one_line(spacing, says):
    for make in (RECIPE.replace, fd.Mixture((fd.Part(RECIPE),)).replace):
        with pytest.raises(fd.FdifError) as error:
            make(spacing=spacing)
        assert says in str(error.value) and "\n" not in str(error.value)


def test_a_bad_spacing_of_a_document_is_one_line(tmp_path):
    ball = fd.SceneObject((1,), "sphere", {"radius": 2.0}, np.eye(4).tolist(), "none", "inverse_cube")
    fd.save_scenes([fd.Scene(fd.Grid(8, 8, 8), (ball,))], tmp_path / "scene.json")
    (document,) = json.loads((tmp_path / "scene.json").read_text())
    (tmp_path / "scene.json").write_text(json.dumps(document | {"spacing": [1, 2, -3]}))
    with pytest.raises(
        fd.FdifError, match=r"scene\.json, scene 0: spacing must be three finite numbers of mm"
    ):
        fd.load_scenes(tmp_path / "scene.json")


@pytest.mark.slow("a program of its own")
def test_packed_objects_overlap_as_little_as_asked_on_spaced_voxels():
    packed = {"kind": "packed", "max_overlap": 0.1, "tries": 20}
    recipe = RECIPE.replace(
        placement=packed, displacements=(), primitives=["sphere", "torus"], min_objects=8, max_objects=8
    )
    scene = fd.compile(recipe).scene_at(1, 0)
    alone = [fd.Scene(scene.grid, (o,)) for o in scene.objects]
    filled, volumes = np.zeros(scene.grid, bool), []
    for _, label in fd.render_scenes(alone, published):
        volumes.append(int((label > 0).sum()))
        assert ((label > 0) & filled).sum() <= 0.1 * volumes[-1] + 1  # a rounded voxel
        filled |= label > 0
        moved = np.linalg.inv(scene.objects[len(volumes) - 1].inverse_transform)[:3, 3] / SPACING[::-1]
        np.testing.assert_allclose(moved, np.round(moved), atol=1e-4)
    assert len(volumes) >= 2 and volumes == sorted(volumes, reverse=True)
