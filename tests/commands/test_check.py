"""`fdif check` against shapes whose nature is known, and a user's file on its way into commands."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.scenes.recipe import from_dict
from fdif_jax.scripts import cli
from fdif_jax.scripts.options.recipe import RecipeOptions, recipe_of
from fdif_jax.shapes import sphere
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.training.runs import load_run
from fdif_jax.vocabulary.shape_checks import examine

GRID = fd.Grid(24, 32, 40)
SHAPES = '''\
import jax
import jax.numpy as jnp
import fdif_jax as fd
from fdif_jax import shapes


def radius(key):
    return jax.random.uniform(key, minval=4.0, maxval=8.0)


@fd.node
class Wrong(fd.Shape):
    """A ball whose bounds are half as large as it."""

    radius: float

    def __call__(self, p):
        return fd.shape.length(*p) - self.radius

    def bounds(self, margin=0.0):
        return fd.Box.around(*[self.radius / 2 + margin] * 3)


@fd.family
def ball(key):
    return shapes.sphere(radius(key))


@fd.family
def lazy(key):
    return Scaled(shapes.sphere(radius(key)), 0.5)


@fd.family
def eager(key):
    return Scaled(shapes.sphere(radius(key)), 3.0)


@fd.family(name="odd/one")
def odd(key):
    """Too small for a voxel, or too large for the grid."""
    return fd.translate(shapes.sphere(jnp.where(radius(key) < 6, 0.2, 19.0)), (0.5, 0.5, 0.5))


@fd.node
class Scaled(fd.Shape):
    """Distances times a number."""

    shape: fd.Shape
    factor: float

    def __call__(self, p):
        return self.shape(p) * self.factor
'''
BROKEN = {
    "empty": "shapes.sphere(-radius(key))",
    "inverted": "Scaled(shapes.sphere(radius(key) + 90.0), 1.0)",
    "undefined": "shapes.sphere(jnp.log(radius(key) - 7.0))",
    "clipped": "Wrong(radius(key))",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    (folder / "mine.py").write_text(SHAPES)
    text = "".join(f"\n\n@fd.family\ndef {name}(key):\n    return {body}\n" for name, body in BROKEN.items())
    text += "\n\n@fd.mapper\ndef bright(d):\n    return 200.0 * (d < 0)\n"
    text += "\n\n@fd.displacement\ndef rough(p):\n    return jnp.log(p.x)\n"
    (folder / "broken.py").write_text(re.sub(r"\n@fd.family\n(.*\n)+?\n\n", "\n", SHAPES) + text)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    families = vocabulary_of(folder / "mine.py").families
    return {f.name: examine(f, GRID, sphere(6.0), members=12) for f in families}


@pytest.mark.slow("programs of several files")
def test_what_distances_are(found):
    assert {name: f.kind for name, f in found.items()} == {
        "ball": "distance",
        "lazy": "bound",
        "eager": "worse",
        "odd/one": "distance",
    }
    assert found["eager"].slope == pytest.approx(3, rel=1e-3)
    assert found["lazy"].slope == pytest.approx(0.5, rel=1e-3)


def test_sizes_and_how_members_lie_in_the_grid(found, folder):
    family = vocabulary_of(folder / "mine.py").family("ball")
    keys = jax.random.split(jax.random.key(0), 12)
    drawn = [2 * float(family.sample(jax.random.split(key)[0], GRID).radius) for key in keys]
    sizes = np.sort(drawn)[[0, 6, 11]]
    np.testing.assert_allclose(found["ball"].diameters, sizes, rtol=0.03)
    assert found["ball"].empty == found["ball"].cut == found["ball"].unbounded == 0
    assert found["lazy"].unbounded == 12 and 0 < found["odd/one"].empty == 12 - found["odd/one"].cut < 12
    assert (
        "have no voxel inside" in found["odd/one"].remarks[0] and "are cut by" in found["odd/one"].remarks[1]
    )
    assert all(not f.mistakes and f.nanoseconds > 0 for f in found.values())


@pytest.mark.slow("programs and pictures of four families; mistakes are below")
def test_the_command_tells_and_draws(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    cli.run("check", ["mine.py", "--grid", "24", "32", "40", "--members", "4", "--out", "pictures"])
    said = capsys.readouterr().out
    assert "4 families, 3 branches; pictures in pictures" in said
    line = SHAPES.splitlines().index("def eager(key):")
    assert f"mine.py:{line}: family 'eager': distances grow up to 3 times as fast as they may" in said
    assert sorted(p.name for p in Path("pictures").iterdir()) == sorted(
        f"{name}.png" for name in ("ball", "lazy", "eager", "odd_one")
    )


@pytest.mark.slow("programs of six families; what is found of them is above")
def test_mistakes_have_their_line(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as done:
        cli.run("check", ["broken.py", "--grid", "16", "16", "16", "--members", "6", "--out", "out"])
    said = capsys.readouterr().err
    text = Path("broken.py").read_text().splitlines()
    for name, says in {
        "empty": "none of 6 members has a voxel inside",
        "inverted": "are negative everywhere",
        "undefined": "are NaN or infinite somewhere",
        "clipped": "reach beyond the box of their bounds()",
        "bright": "goes from 0 to 200; intensities are from 0 to 128",
        "rough": "displacement 'rough' is NaN or infinite",
    }.items():
        line = text.index(f"def {name}({'d' if name == 'bright' else 'p' if name == 'rough' else 'key'}):")
        assert re.search(rf"broken\.py:{line}: .*{re.escape(says)}", said), (name, said)
    assert done.value.code == 2 and "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--members", "0"], "--members must be at least 1"), (["--grid", "4", "9", "9"], "at least 8 voxels")],
)
def test_bad_options(folder, options, says, capsys):
    with pytest.raises(SystemExit):
        cli.run("check", [str(folder / "mine.py"), *options])
    assert says in capsys.readouterr().err


def test_a_file_joins_a_recipe(folder):
    mine = folder / "mine.py"
    options = RecipeOptions(catalogue=(mine,), categories=("mine",), grid=(16, 16, 16))
    program = fd.compile(recipe_of(options))
    assert program.class_names == ("ball", "lazy", "eager", "odd/one")
    assert recipe_of(RecipeOptions(catalogue=(mine,))).vocabulary == ("fdif_jax.shapes:published", str(mine))
    with pytest.raises(fd.FdifError, match="catalogue is no option of a mixture"):
        recipe_of(RecipeOptions("fdif + avs_db", catalogue=(mine,)))
    with pytest.raises(fd.FdifError, match=r"broken\.py:\d+: the distance of 'undefined' is NaN"):
        recipe_of(RecipeOptions(catalogue=(folder / "broken.py",)))
    with pytest.raises(fd.FdifError, match=r"none\.py: no such file"):
        recipe_of(RecipeOptions(catalogue=(folder / "none.py",)))


@pytest.mark.slow("a training whose program is used once")
def test_pretraining_draws_the_family_as_it_is_written(folder, tmp_path):
    """What a run's recipe draws of class `ball` are the spheres of the file's own sampler."""
    scenes = [
        "--catalogue",
        str(folder / "mine.py"),
        "--primitives",
        "ball",
        "--min-objects",
        "1",
        "--max-objects",
        "1",
    ]
    sizes = ["--grid", "32", "32", "32", "--size", "tiny", "--batch-size", "1", "--val-every", "0"]
    cli.run("pretrain", [*scenes, *sizes, "--steps", "1", "--no-transform", "--out", str(tmp_path / "run")])
    recipe = from_dict(load_run(tmp_path / "run").document.recipe, "run.json")
    program = fd.compile(recipe)
    assert program.class_names[0].startswith("ball")
    table = program.draw(fd.sample_key(0, 0))
    assert 4.0 <= float(table.row[0, 0]) <= 8.0 and recipe.vocabulary[-1] == str(folder / "mine.py")
