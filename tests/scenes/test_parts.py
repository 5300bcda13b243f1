"""Objects of several labels, painted again by NumPy from their documents."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.datasets.classification import centred
from fdif_jax.rendering.branch_free import BranchFree
from fdif_jax.rendering.distances import REACH
from fdif_jax.rendering.pallas_kernel import TileKernel
from fdif_jax.scenes.placement import Sampling
from fdif_jax.scripts.jobs.view_targets import Choice, views_of
from fdif_jax.sdf.affine import move
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.vocabulary.vocabulary import Vocabulary

FILE = """\
import jax
import fdif_jax as fd
from fdif_jax import shapes


@fd.family
def kidney(key, grid):
    size = jax.random.uniform(key, minval=0.2, maxval=0.35) * min(grid)
    inner = fd.translate(shapes.sphere(0.45 * size), (0.2 * size, 0.0, 0.0))
    return fd.parts(cortex=shapes.box(size, 0.7 * size, 0.6 * size), medulla=inner)


@fd.family
def pebble(key, grid):
    return shapes.sphere(jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))
"""
MAPPERS = ("linear_slope_10.0", "inverse_cube")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "organs.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def recipe(file):
    return fd.Recipe(
        vocabulary=(str(file),),
        grid=(20, 28, 24),
        mappers=MAPPERS,
        mapper_as_augmentation=True,
        displacements=("perlin_more_fine",),
        displacement_as_augmentation=True,
        min_objects=4,
        max_objects=4,
    )


@pytest.fixture(scope="module")
def program(recipe):
    return fd.compile(recipe)


def painted(scene: fd.Scene, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and owner by the definition, and how near a surface lies to each voxel's centre."""
    p, image, objects, row = scene.grid.points(), np.zeros(scene.grid), [], itertools.count(1)
    highest = fd.Point(*map(float, scene.grid.highest))
    for o in scene.objects:
        shape = vocabulary.build(o.class_name, o.params)
        local = move(jnp.asarray(o.inverse_transform, jnp.float32)[:3], p)
        field = 0.0 if o.displacement == "none" else vocabulary.displacement(o.displacement).field(p, highest)
        d = [np.asarray(s(local) + field) for s in (shape.shapes if isinstance(shape, Parts) else [shape])]
        parts = []
        for number, (own, part) in enumerate(zip(d, o.labelled, strict=True)):
            shown = np.max([own, *(-later for later in d[number + 1 :])], axis=0)
            image += np.asarray(vocabulary.mapper(part.mapper)(jnp.asarray(shown)))
            parts.append((own <= 0, part.class_id[0], next(row)))
        objects.append((np.any([held for held, *_ in parts], axis=0).sum(), parts))
    label, owner = np.zeros(scene.grid, int), np.zeros(scene.grid, int)
    for _, parts in sorted(objects, key=lambda o: -o[0]):
        for held, class_id, number in parts:
            label[held], owner[held] = class_id, number
    return np.clip(image, 0, 128), label, owner


def test_a_sample_is_painted_object_by_object_and_part_by_part(program):
    assert program.class_names == ("kidney.cortex", "kidney.medulla", "pebble") and program.objects == 8
    seen, mappers = set(), set()
    for index in range(2):
        scene, views = program.scene_at(0, index), program.views(fd.sample_key(0, index), 1)
        image, label, owner = painted(scene, program.vocabulary)
        assert (np.asarray(views.label) == label).mean() > 0.999
        assert (np.asarray(views.owner) == owner).mean() > 0.999
        assert (np.abs(np.asarray(views.images[0], float) - image) <= 1).mean() > 0.999
        seen |= set(np.unique(label))
        mappers |= {
            (part.mapper, other.mapper) for o in scene.objects if o.parts for part, other in [o.parts]
        }
        for o in scene.objects:
            assert [part.name for part in o.parts] == (
                ["cortex", "medulla"] if o.class_name == "kidney" else []
            )
    assert seen == {0, 1, 2, 3} and len(mappers) > 2  # parts draw their mappers apart


def test_documents_are_rendered_as_they_were_drawn(program, tmp_path):
    scenes = [program.scene_at(0, index) for index in range(3)]
    fd.save_scenes(scenes, tmp_path / "scenes.json")
    assert fd.load_scenes(tmp_path / "scenes.json") == scenes
    for index, (image, label) in enumerate(fd.render_scenes(scenes, program.vocabulary)):
        drawn_image, drawn_label = program.sample_at(0, index)
        assert (label == drawn_label).mean() > 0.999 and (image == drawn_image).mean() > 0.99
    (document,) = [
        o for o in json.loads((tmp_path / "scenes.json").read_text())[0]["objects"] if o["class"] == "kidney"
    ][:1]
    assert document["class_id"] == {"cortex": 1, "medulla": 2} and list(document["mapper"]) == [
        "cortex",
        "medulla",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"class_id": 1, "mapper": "inverse_cube"},
            "a kidney must name its parts cortex, medulla, in this order",
        ),
        (
            {"class_id": 1},
            "class_id and mapper must be tables of the same parts, in order, or neither of them",
        ),
        ({"class_id": {"medulla": 2, "cortex": 1}}, "must be tables of the same parts, in order"),
        ({"class_id": {"cortex": 1, "medulla": -2}}, "class_id must be a whole number from 0 to 65535"),
        ({"class": "pebble", "params": {"radius": 3.0}}, "a pebble must be of one label"),
    ],
)
def test_a_bad_document_is_one_line(change, says, program, tmp_path):
    scene = next(s for i in range(9) if (s := program.scene_at(0, i)).objects[0].parts)
    fd.save_scenes([scene], tmp_path / "scene.json")
    (document,) = json.loads((tmp_path / "scene.json").read_text())
    document["objects"][0] |= change
    (tmp_path / "scene.json").write_text(json.dumps(document))
    with pytest.raises(fd.FdifError) as error:
        list(fd.render_scenes(fd.load_scenes(tmp_path / "scene.json"), program.vocabulary))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow("two programs more; branch-free scenes are in test_branch_free")
def test_without_branches_it_is_the_same_and_distances_are_to_what_shows(program):
    table = program.draw(fd.sample_key(0, 1))._replace(displacement=jnp.zeros(8, jnp.int32))
    one = jax.jit(lambda t: (r := program.renderer.render(t), program.renderer.distances(t, r.volumes)))(
        table
    )
    several = jax.tree.map(lambda column: column[None], table)
    free = BranchFree(program.renderer)
    other = jax.jit(lambda t: (r := free.render(t), free.distances(t, r.volumes)))(several)
    (image, label, owner, volumes), distances = jax.tree.map(np.asarray, one)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.mean(np.abs(np.asarray(a, float) - np.asarray(b[0], float)) < 1e-3) > 0.999
    inner = (slice(4, -4),) * 3
    for row in map(int, np.unique(owner[inner])):
        deep = ndimage.distance_transform_edt(np.pad(owner == row, 1, mode="edge"))[1:-1, 1:-1, 1:-1]
        here = (owner == row) & (deep < 4)
        here = here[inner]
        assert (
            np.abs(distances[1][inner] - deep[inner] + 0.5)[here & (distances[1][inner] < REACH / 2)].max()
            < 1.5
        )
    assert len(np.unique(owner)) > 4 and volumes.sum() >= (label > 0).sum() and image.max() > 0
    assert "one label" in TileKernel.refusal(program.renderer)


def test_classes_with_mappers_are_those_of_the_parts(recipe):
    made = recipe.replace(mapper_as_augmentation=False, displacements=(), min_objects=30, max_objects=30)
    program = fd.compile(made)
    assert program.class_names == tuple(
        f"{shape}+{mapper}"
        for family in (["kidney.cortex", "kidney.medulla"], ["pebble"])
        for mapper in MAPPERS
        for shape in family
    )
    scene = program.scene_at(0, 0)
    for o in scene.objects:
        for part in o.labelled:
            name = f"{o.class_name}.{part.name}" if part.name else o.class_name
            assert program.class_names[part.class_id[0] - 1] == f"{name}+{part.mapper}"
    pairs = [tuple(part.mapper for part in o.parts) for o in scene.objects if o.parts]
    assert len(set(pairs)) == 4


def test_tasks_groups_mixtures_and_curricula_know_parts(recipe, program):
    tasks = fd.compile(
        recipe.replace(multi_task=True, mapper_as_augmentation=False, displacement_as_augmentation=False)
    ).tasks
    assert dict(tasks)["shape"] == ("kidney.cortex", "kidney.medulla", "pebble")
    grouped = recipe.replace(classes={"groups": {"soft": ["kidney.medulla", "pebble"]}})
    assert fd.compile(grouped).class_names == ("kidney.cortex", "soft")
    plain = fd.Recipe(grid=recipe.grid, primitives=("sphere",), mappers=("linear_slope_10.0",))
    mixed = fd.compile(fd.Mixture((fd.Part(plain), fd.Part(recipe, 99.0))))
    assert mixed.class_names == ("sphere+linear_slope_10.0", *program.class_names) and mixed.objects == 8
    ids = {part.class_id[0] for i in range(3) for o in mixed.scene_at(0, i).objects for part in o.labelled}
    assert ids == {2, 3, 4}
    sampling = Sampling(jnp.asarray([9.0, 9.0, -9.0]), jnp.int32(4), jnp.float32(1))
    table = program.draw(fd.sample_key(0, 0), sampling=sampling)
    assert table.label[:, 0].tolist() == [1, 2] * 4 and table.whole.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(fd.FdifError, match="kidney has parts of several classes"):
        centred(recipe, 0.4)


@pytest.mark.slow("a program of its own")
def test_packed_objects_are_placed_whole(recipe):
    packed = recipe.replace(placement={"kind": "packed", "max_overlap": 0.05}, displacements=())
    program = fd.compile(packed)
    scene = program.scene_at(0, 0)
    filled = np.zeros(scene.grid, bool)
    for o in scene.objects:
        ((_, label),) = fd.render_scenes([fd.Scene(scene.grid, (o,))], program.vocabulary)
        assert ((label > 0) & filled).sum() <= 0.05 * (label > 0).sum()
        filled |= label > 0
    assert any(o.parts for o in scene.objects)


def test_parts_are_seen_in_colours_of_their_own(file, program, tmp_path):
    (view,) = views_of(f"{file}:kidney", Choice(resolution=32))
    assert list(view.legend) == ["kidney.cortex", "kidney.medulla"] and len(view.things) == 2
    assert view.things[0].colour != view.things[1].colour and view.whole is not None
    fd.save_scenes([program.scene_at(0, 1)], tmp_path / "scenes.json")
    (scene,) = views_of(str(tmp_path / "scenes.json"), Choice(resolution=24, vocabulary=(str(file),)))
    assert {"kidney.cortex", "kidney.medulla"} <= set(scene.legend)
    assert {"kidney.cortex", "kidney.medulla"} <= set(scene.volume[2].values())


def test_regions_share_out_the_whole(tmp_path):
    whole = fd.parts(a=shapes.sphere(8.0), b=shapes.box(5.0), c=fd.translate(shapes.sphere(4.0), (7.0, 0, 0)))
    grid = fd.Grid(24, 24, 24)
    a, b, c = (np.asarray(shape(grid)) for shape in whole.shapes)
    np.testing.assert_array_equal(whole(grid), np.minimum(np.minimum(a, b), c))
    shown = np.stack([np.asarray(region(grid)) for region in whole.regions])
    np.testing.assert_allclose(shown, [np.maximum(a, -np.minimum(b, c)), np.maximum(b, -c), c], atol=1e-6)
    np.testing.assert_array_equal((shown < 0).sum(0)[np.abs(whole(grid)) > 1e-3] > 1, False)
    whole.save(tmp_path / "whole.json")
    again = fd.load(tmp_path / "whole.json")
    assert again.names == ("a", "b", "c") and (again(grid) == whole(grid)).all()
    box = whole.bounds(1.0)
    np.testing.assert_allclose([box.lower, box.upper], [[-9, -9, -9], [12, 9, 9]], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda ball: fd.parts(), "parts: there is no part"),
        (lambda ball: fd.parts(core=3.0), "parts: core is 3.0; it should be a shape"),
        (lambda ball: fd.parts(core=fd.parts(rim=ball)), "parts: core has parts itself"),
    ],
)
def test_impossible_parts_are_one_line(make, says):
    with pytest.raises(fd.FdifError, match=says):
        make(shapes.sphere(3.0))


def test_parts_that_would_lose_their_labels_are_one_line(tmp_path):
    turned = FILE.replace("return fd.parts(", "return fd.rotate(angle=0.3, shape=fd.parts(").replace(
        "=inner)", "=inner))"
    )
    (tmp_path / "lost.py").write_text(turned)
    with pytest.raises(
        fd.FdifError,
        match=r"lost\.py:6: .* inside another shape, Affine",
    ):
        fd.Recipe(vocabulary=(str(tmp_path / "lost.py"),))
    bare = fd.Family("bare", lambda key, ranges, grid: fd.parts(core=shapes.sphere(3.0)))
    vocabulary = Vocabulary((bare,), (), shapes.published.mappers, lambda *_: None, lambda *_: {})
    recipe = fd.Recipe(grid=(8, 8, 8), mappers=("inverse_cube",))
    object.__setattr__(recipe, "resolved", vocabulary)
    with pytest.raises(fd.FdifError, match="family 'bare' has the parts"):
        _ = fd.compile(recipe).families
