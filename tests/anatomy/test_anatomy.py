"""Anatomical scenes: what the bank's graph and anchors say holds, measured on the rendered organs themselves."""

import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.anatomy.bank import DISJOINT, build_bank
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti
from fdif_jax.sdf.affine import invert, move
from fdif_jax.sdf.shape import Point
from tests.helpers.phantom import NAMES, phantom, plain


@pytest.fixture(scope="module")
def one_subject(tmp_path_factory):
    """The path of a bank of one subject, a core within a shell among its organs."""
    folder = tmp_path_factory.mktemp("bank")
    write_nifti(folder / "a.nii.gz", phantom(plain()), plain())
    build_bank([folder / "a.nii.gz"], [NAMES]).save(folder / "bank.npz")
    return folder / "bank.npz"


def recipe(*sources: str, edge: int = 32, low: float = 6.0, high: float = 9.0, **placement) -> fd.Recipe:
    return fd.Recipe(
        vocabulary=sources or ("fdif_jax.shapes.organs:torso",),
        grid=(edge, edge, edge),
        min_objects=15,
        max_objects=40,
        mappers=("contour",),
        mapper_as_augmentation=True,
        placement={"kind": "anatomical", "spacing": [low, high], **placement},
    )


@functools.lru_cache(maxsize=2)
def laid_out(program):
    """Jitted: table, body and every object's distance on the grid (D, H, W) of a key."""

    def run(key):
        kept = {}

        class Kept(type(program.recipe.placement)):
            def place(self, key, program, table, scale=None):
                table, kept["body"] = self.lay_out(key, program, table, scale)
                return table

        placement = Kept(**{k: v for k, v in program.recipe.placement.to_dict().items() if k != "kind"})
        original = program.recipe.placement
        object.__setattr__(program.recipe, "placement", placement)
        try:
            table = program.draw(key)
        finally:
            object.__setattr__(program.recipe, "placement", original)
        return table, kept["body"]

    def distance(row, inverse):
        shape = program.vocabulary.atlas.structure.unpack(row)
        return shape(move(inverse, program.grid.points()))

    return jax.jit(run), jax.jit(distance)


def examine(program, key) -> int:
    """Assert everything that must hold of one scene; the number of its organs."""
    bank = program.vocabulary.atlas.bank
    run, distance = laid_out(program)
    table, body = jax.tree.map(np.asarray, run(key))
    count, relation = int(table.number), bank.relation()
    depths, organs = [], []
    for i in range(count):
        shape = program.vocabulary.atlas.structure.unpack(table.row[i])
        organ = int(bank.organ[round(float(shape.member))])
        assert program.class_names[table.label[i, 0] - 1] == bank.organs[organ]
        d = np.asarray(distance(table.row[i], table.inverse[i]))
        organs.append(organ)
        depths.append(-d)
        mask = d <= 0
        assert mask.any()
        box = shape.bounds().mapped(invert(jnp.asarray(table.inverse[i])))
        edge = np.asarray(program.grid.edges)
        whole = (box.lower >= -(edge // 2)).all() and (box.upper <= np.asarray(program.grid.highest)).all()
        if whole and mask.sum() > 30:
            z, y, x = (np.argwhere(mask).mean(0) - np.asarray(mask.shape) // 2).tolist()
            there = np.asarray(move(jnp.asarray(body.matrix), Point(x, y, z)))
            # Voxels of a thin organ sample its centroid only so well.
            slack = 0.3 / float(body.scale)
            assert (np.abs(there - bank.mean[organ]) <= 2 * bank.spread[organ] + slack).all(), bank.organs[
                organ
            ]
    assert len(set(organs)) == count
    for i in range(count):
        for j in range(i):
            if relation[organs[i], organs[j]] == DISJOINT:
                assert np.minimum(depths[i], depths[j]).max() <= 1.0, (
                    bank.organs[organs[i]],
                    bank.organs[organs[j]],
                )
    return count


@pytest.mark.parametrize("subjects", ["scene", "organ"])
@pytest.mark.slow("scenes of all organs, by their graph; their order and sides are tested on smaller ones")
def test_the_graph_and_the_anchors_hold(subjects):
    program = fd.compile(recipe(subjects=subjects))
    counts = [examine(program, fd.sample_key(3, i)) for i in range(10)]
    assert statistics.mean(counts) > 10 and max(counts) <= 40


@pytest.mark.slow("200 scenes at their own size; fewer and smaller ones are above")
def test_the_graph_and_the_anchors_hold_in_200_scenes():
    program = fd.compile(recipe(edge=96, low=1.5, high=3.0))
    counts = [examine(program, fd.sample_key(4, i)) for i in range(200)]
    assert statistics.mean(counts) > 15


@pytest.mark.slow("a program more")
def test_one_subject_is_enough_and_what_lies_inside_stays_inside(one_subject):
    program = fd.compile(
        recipe(str(one_subject), low=2.0, high=3.0, deviation=3.0).replace(min_objects=5, max_objects=5)
    )
    bank = program.vocabulary.atlas.bank
    run, distance = laid_out(program)
    core, shell = bank.organs.index("core"), bank.organs.index("shell")
    both = 0  # deviations this large drive organs into each other, if nothing stops them
    for i in range(12):
        key = fd.sample_key(1, i)
        assert 1 <= examine(program, key) <= 5
        table, _ = jax.tree.map(np.asarray, run(key))
        found = {int(bank.organ[round(float(table.row[n][0]))]): n for n in range(int(table.number))}
        if core in found and shell in found:
            both += 1
            inner = np.asarray(distance(table.row[found[core]], table.inverse[found[core]])) <= 0
            row = table.row[found[shell]].copy()
            row[0] = bank.hull[round(float(row[0]))]  # the shell's closed outline
            outline = np.asarray(distance(row, table.inverse[found[shell]]))
            assert outline[inner].max() <= 1.0
    assert both >= 4


@pytest.mark.slow("three programs; formulas are in test_compiler")
def test_a_sample_is_the_same_alone_in_a_batch_and_from_its_document(tmp_path):
    program = fd.compile(recipe())
    images, labels = jax.jit(program.batch)(jax.vmap(fd.sample_key, (None, 0))(7, jnp.arange(3)))
    fd.save_scenes([program.scene_at(7, i) for i in range(3)], tmp_path / "scenes.json")
    again = fd.render_scenes(fd.load_scenes(tmp_path / "scenes.json"), program.vocabulary)
    for i, (image, label) in enumerate(again):
        alone = program.sample_at(7, i)
        for ours in (alone, (images[i], labels[i])):
            assert (np.asarray(ours[0]) == image).all() and (np.asarray(ours[1]) == label).all()
        assert len(np.unique(label)) > 5


def test_organs_follow_weights_and_are_seen_from_closer_by():
    program = fd.compile(recipe())
    placement, wanted = program.recipe.placement, len(program.classes) // 2
    logits = jnp.zeros(len(program.classes)).at[wanted].set(20.0)
    chosen = jax.jit(lambda key: placement.choose(key, 12, program, logits))
    for seed in range(5):
        classes = np.asarray(chosen(jax.random.key(seed)))
        assert classes[0] == wanted and len(set(classes.tolist())) == 12
    even = jax.jit(lambda key: placement.choose(key, 12, program, 0 * logits)[0])
    assert len({int(even(jax.random.key(seed))) for seed in range(20)}) > 5

    bank = program.vocabulary.atlas.bank
    body = jax.jit(lambda scale: placement._body(jax.random.key(0), program, bank, jnp.int32(3), scale).scale)
    np.testing.assert_allclose(body(jnp.float32(2)), 2 * body(jnp.float32(1)), rtol=1e-5)


@pytest.mark.slow("a program more")
def test_organs_mix_with_formulas_in_scattered_scenes():
    mixed = fd.Recipe(
        vocabulary=("fdif_jax.shapes.organs:torso", "fdif_jax.shapes:published"),
        primitives=("liver", "kidney_left", "torus"),
        grid=(32, 32, 32),
        min_objects=4,
        max_objects=6,
    )
    program = fd.compile(mixed)
    assert len(program.families.structures) == 2
    label = np.stack([program.sample_at(0, i)[1] for i in range(6)])
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert 0.01 < (label > 0).mean() < 0.9
    scene = program.scene_at(0, 1)
    image, again = program.render(scene)
    assert (again == label[1]).all() and image.any()


@pytest.mark.slow("a program of organs more")
def test_all_organs_are_one_branch_and_an_unmoved_body_is_the_bank():
    still = recipe(turn=0, stretch=0, deform=0, deviation=0, low=5.0, high=5.0)
    program = fd.compile(still)
    assert len(program.families.structures) == 1
    bank = program.vocabulary.atlas.bank
    run, _ = laid_out(program)
    table, body = jax.tree.map(np.asarray, run(fd.sample_key(0, 0)))
    for i in range(int(table.number)):
        shape = program.vocabulary.atlas.structure.unpack(table.row[i])
        member = round(float(shape.member))
        # The organ's centroid is the local origin, and lies where the bank has it (as far as its anchor lets it).
        origin = np.asarray(invert(jnp.asarray(table.inverse[i])))[:, 3]
        there = body.matrix[:, :3] @ origin + body.matrix[:, 3]
        organ = bank.organ[member]
        goal = np.clip(
            bank.centroid[member],
            bank.mean[organ] - 2 * bank.spread[organ],
            bank.mean[organ] + 2 * bank.spread[organ],
        )
        assert np.abs(there - goal).max() < 0.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spacing": [3.0, 1.5]}, "the smaller one first"),
        ({"subjects": "all"}, "subjects must be"),
        ({"tries": 0}, "tries must be"),
        ({"stretch": 0.7}, "stretch must be below"),
        ({"deform": -1.0}, "deform must be"),
    ],
)
def test_impossible_settings_are_errors(changes, says):
    with pytest.raises(FdifError, match=says):
        recipe().replace(placement={"kind": "anatomical", **changes})


def test_a_vocabulary_without_organs_is_an_error():
    formulas = fd.Recipe(grid=(16, 16, 16), placement={"kind": "anatomical"})
    with pytest.raises(FdifError, match="needs a bank of organs"):
        fd.compile(formulas).sample_at(0, 0)


def test_a_document_with_wrong_parameters_is_an_error():
    vocabulary = fd.compile(recipe()).vocabulary
    draw = jax.jit(lambda key: vocabulary.family("liver").sample(key, fd.Grid(32, 32, 32)))
    params = vocabulary.describe("liver", draw(jax.random.key(0)))
    assert vocabulary.build("liver", params) is not None
    for change, says in (
        ({"subject": 9}, "no such organ of subject 9"),
        ({"scale": 0.0}, "'scale' must be above 0"),
        ({"phase": [1.0]}, "'phase' must be finite"),
        ({"radius": 3.0}, "unknown parameter"),
    ):
        with pytest.raises(FdifError, match=says):
            vocabulary.build("liver", params | change)
    with pytest.raises(FdifError, match="'centre' is missing"):
        vocabulary.build("liver", {k: v for k, v in params.items() if k != "centre"})


@pytest.mark.parametrize("name", ["anatomy", "anatomy_fdif"])
@pytest.mark.slow("whole recipes; the tests above draw from the same bank")
def test_the_shipped_recipes_draw_organs(name):
    program = fd.compile(fd.load_recipe(name).replace(grid=(24, 24, 24)))
    assert {"liver", "spleen", "colon"} <= set(program.class_names)
    image, label = program.sample_at(0, 0)
    assert np.asarray(image).any() and np.asarray(label).any()
