"""Combined unions: the published formula from numbers in the document, ranges, class scheme, bad documents."""

import json

import jax
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scenes.classes import classes_of
from fdif_jax.vocabulary import unions

RECIPE = fd.Recipe(
    grid=(24, 24, 24), primitives=("sphere", "torus"), num_combined_unions=2, min_objects=6, max_objects=6
)


def test_unions_are_the_last_classes_and_depend_on_the_class_seed():
    both = RECIPE.replace(mappers=("inverse_cube", "modular_5"), displacements=("ridge",))
    names = [c.name for c in classes_of(both)]
    assert len(names) == 2 * 2 * 2 + 2 * 2  # (shapes × displacements × mappers) + (unions × mappers)
    assert all("|" in name and "ridge" not in name for name in names[8:])
    assert not any("|" in name for name in names[:8])
    seeds = {tuple(c.name for c in classes_of(RECIPE.replace(class_seed=s))) for s in range(10)}
    assert len(seeds) > 3
    with pytest.raises(fd.FdifError, match="exceeds the 4 ordered pairs"):
        fd.compile(RECIPE.replace(num_combined_unions=5))


@pytest.fixture(scope="module")
def members():
    family = unions.combined(*map(shapes.published.family, ("sphere", "cone")))
    draw = jax.jit(lambda key: family.sample(key, fd.Grid(96, 96, 96)))
    return [draw(jax.random.key(i)) for i in range(40)]


def test_the_distance_is_the_published_formula(members):
    points = np.random.default_rng(0).uniform(-40, 40, (200, 3)).astype(np.float32)
    for member in members[:5]:
        document = json.loads(json.dumps(unions.describe(shapes.published, "sphere|cone", member)))
        distances = []
        for key, name in (("first", "sphere"), ("second", "cone")):
            inverse = np.asarray(document[key]["inverse"])
            local = points @ inverse[:, :3].T + inverse[:, 3]
            turn = inverse[:, :3] * 0.7  # coordinates are divided by 0.7 and otherwise only turned
            np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
            part = shapes.build(name, document[key]["params"])
            distances.append(np.asarray(part(fd.Point(*local.T.astype(np.float32)))))
        a, b = distances
        k = document["smooth"]
        expected = np.minimum(a, b) - np.maximum(k - np.abs(a - b), 0) ** 2 / (4 * k)
        np.testing.assert_allclose(member(fd.Point(*points.T)), expected, atol=2e-3)
        again = unions.build(shapes.published, "sphere|cone", document)
        np.testing.assert_allclose(again(fd.Point(*points.T)), expected, atol=2e-3)


def test_shift_and_smoothness_are_in_their_ranges(members):
    smooth = [float(member.smooth) / 96 for member in members]
    assert 0.01 <= min(smooth) < 0.04 and 0.12 < max(smooth) <= 0.15
    factors, axes = [], set()
    for member in members:
        first, second = (
            -np.linalg.solve(m.inverse[:, :3], m.inverse[:, 3]) for m in (member.first, member.second)
        )
        np.testing.assert_allclose(first, 0, atol=1e-4)
        axis = int(np.abs(second).argmax())
        axes.add(axis)
        np.testing.assert_allclose(np.delete(second, axis), 0, atol=1e-3)
        # A sphere is as deep as its radius; a cone as the ball that its meridian's triangle holds.
        radius, cone = float(member.first.shape.radius), member.second.shape
        r, h = float(cone.radius), float(cone.height)
        slant = np.hypot(r, h)
        inscribed = r * h / (r + slant)
        factors.append(second[axis] / (0.7 * (radius + inscribed)))
    assert axes == {0, 1, 2}
    assert 0.08 <= min(factors) < 0.25 and 0.55 < max(factors) <= 0.72


@pytest.mark.slow("a program of documents")
def test_unions_render_from_their_documents(tmp_path):
    program = fd.compile(RECIPE)
    scene = program.scene_at(0, 1)
    assert any("|" in o.class_name for o in scene.objects)
    fd.save_scenes([scene], tmp_path / "scenes.json")
    (image, label), drawn = (
        program.render(fd.load_scenes(tmp_path / "scenes.json")[0]),
        program.sample_at(0, 1),
    )
    np.testing.assert_array_equal(image, drawn[0])
    np.testing.assert_array_equal(label, drawn[1])


IDENTITY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
PART = {"params": {"radius": 5.0}, "inverse": IDENTITY}


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("sphere|spher", {"smooth": 1, "first": PART, "second": PART}, "did you mean 'sphere'"),
        ("sphere|sphere|sphere", {"smooth": 1, "first": PART, "second": PART}, "FIRST|SECOND"),
        ("sphere|sphere", {"smooth": 1, "first": PART}, "parameter 'second' is missing"),
        ("sphere|sphere", {"smooth": 0, "first": PART, "second": PART}, "parameter 'smooth' must be above 0"),
        (
            "sphere|sphere",
            {"smooth": 1, "first": PART, "second": {}},
            "second: parameter 'params' is missing",
        ),
        (
            "sphere|sphere",
            {"smooth": 1, "first": PART, "second": PART | {"inverse": [1]}},
            "second: parameter 'inverse' must be finite numbers of shape [3, 4]",
        ),
    ],
)
def test_bad_unions_are_one_clear_line(name, params, says):
    with pytest.raises(fd.FdifError) as error:
        unions.build(shapes.published, name, params)
    assert says in str(error.value) and "\n" not in str(error.value)
