"""A user's file of shapes: what it may hold, what it gives, and how its mistakes are told."""

import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.vocabulary.user_files import build, describe, load_catalogue

HEAD = """\
import jax
import jax.numpy as jnp
import fdif_jax as fd
from fdif_jax import shapes
from numpy import pi
"""


@pytest.fixture
def write(tmp_path):
    def written(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(text))
        return path

    return written


PEBBLES = """
@fd.node
class Ball(fd.Shape):
    radius: float

    def __call__(self, p):
        return fd.shape.length(*p) - self.radius


@fd.family
def pebble(key, grid):
    return Ball(jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))


@fd.family(name="twin stones", category="stones")
def twins(key):
    a, b = jax.random.uniform(key, (2,), minval=3.0, maxval=6.0)
    return fd.union(Ball(a), fd.translate(Ball(b), (a, 0.0, 0.0)), smooth=1.0)


dull = fd.Mapper("dull", lambda d: jnp.where(d < 0, 64.0, 0.0))


@fd.mapper
def shell(d):
    '''128 within two voxels of the surface'''
    return jnp.where(jnp.abs(d) < 2, 128.0, 0.0)


@fd.mapper(name="flat one")
def flat(d):
    return jnp.where(d < 0, 100.0, 0.0)


@fd.mapper
def fog(d):
    return jnp.full_like(d, 3.0)


@fd.displacement
def ripples(p):
    return 0.5 * jnp.sin(p.x)


@fd.displacement
def slope(p, highest):
    return p.x / highest.x


TILTS = [fd.Displacement(f"tilt_{n}", lambda p, highest: 0.1 * p.x) for n in range(2)]
"""


def test_a_file_is_a_vocabulary(write):
    path = write(PEBBLES)
    known = vocabulary_of(path)
    assert [(f.name, f.category) for f in known.families] == [("pebble", "mine"), ("twin stones", "stones")]
    assert [d.name for d in known.displacements][:4] == ["ripples", "slope", "tilt_0", "tilt_1"]
    assert [m.name for m in known.mappers][:4] == ["dull", "shell", "flat one", "fog"]
    assert "inverse_cube" in [m.name for m in known.mappers]
    assert [m.name for m in load_catalogue(path).mappers] == ["dull", "shell", "flat one", "fog"]
    assert vocabulary_of(path) is known
    shape = known.family("pebble").sample(jax.random.key(0), fd.Grid(20, 30, 40))
    assert 2 <= float(shape.radius) <= 6
    path.write_text(path.read_text().replace("def pebble", "def rock"))
    assert vocabulary_of(path).families[0].name == "rock" and vocabulary_of(path).digest != known.digest


def test_how_far_a_mapper_shows_is_found(write):
    known = vocabulary_of(write(PEBBLES))
    shell, flat, fog = map(known.mapper, ("shell", "flat one", "fog"))
    assert shell.formula == "128 within two voxels of the surface"
    assert 1.8 < shell.reach(0.1) < 2.2 and flat.tail is None and flat.reach(0.1) == 0
    assert fog.reach(0.1) == np.inf and fog.reach(4.0) < 0.2


def test_displacements_take_the_grid_or_not(write):
    known, p = vocabulary_of(write(PEBBLES)), fd.Point(*np.ones((3, 2), np.float32))
    highest = fd.Point(4.0, 4.0, 4.0)
    np.testing.assert_allclose(known.displacement("ripples").field(p, highest), 0.5 * np.sin(1.0), rtol=1e-6)
    np.testing.assert_allclose(known.displacement("slope").field(p, highest), 0.25)


def test_a_file_may_have_mappers_only(write):
    known = vocabulary_of(write("@fd.mapper\ndef half(d):\n    return 64.0 * (d < 0)\n"))
    assert not known.families and known.mappers[0].name == "half"


def test_a_file_joins_a_vocabulary_or_replaces_it(write):
    path = str(write(PEBBLES))
    both = fd.load_recipe("fdif").replace(
        vocabulary=["fdif_jax.shapes:exact", path], primitives=["torus", "pebble"]
    )
    assert fd.compile(both.replace(grid=[24] * 3)).class_names == ("torus", "pebble")
    alone = fd.load_recipe("fdif").replace(vocabulary=[path])
    assert fd.compile(alone.replace(grid=[24] * 3)).class_names == ("pebble", "twin stones")
    sphere = write("@fd.family\ndef torus(key):\n    return shapes.sphere(3.0)\n", "two.py")
    with pytest.raises(FdifError, match=r"two\.py' has a class 'torus', as one before it has"):
        fd.compile(both.replace(vocabulary=["fdif_jax.shapes:exact", str(sphere)], primitives=[]))


def test_documents_hold_a_members_numbers(write):
    family = vocabulary_of(write(PEBBLES)).family("twin stones")
    shape = family.sample(jax.random.key(3), fd.Grid(16, 16, 16))
    params = describe(shape)
    assert set(params) == {"first.radius", "second.shape.radius", "second.inverse", "smooth"}
    again = build(shape, params, "twins")
    points = fd.Grid(16, 16, 16).points()
    np.testing.assert_array_equal(again(points), shape(points))
    for change, says in [
        ({"smooth": "x"}, "'smooth' must be a finite number"),
        ({"smooth": float("nan")}, "'smooth' must be a finite number"),
        ({"second.inverse": [1.0]}, "finite numbers of shape [3, 4]"),
        ({"smoth": 1.0}, "did you mean 'smooth'"),
    ]:
        with pytest.raises(FdifError, match=says.replace("[", r"\[")):
            build(shape, params | change, "twins")
    del params["smooth"]
    with pytest.raises(FdifError, match="'smooth' is missing"):
        build(shape, params, "twins")


def test_files_beside_it_can_be_imported(write):
    write("def size():\n    return 4.0\n", "beside_it.py")
    path = write(
        "import beside_it\n\n@fd.family\ndef ball(key):\n    return shapes.sphere(beside_it.size())\n"
    )
    assert vocabulary_of(path).families[0].name == "ball"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("def f(:\n    pass\n", 6, "SyntaxError"),
        ("\nimport no_such_thing\n", 7, "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("\nx = 1 / 0\n", 7, "ZeroDivisionError"),
        ("raise SystemExit\n", 6, "SystemExit"),
        ("x = 1\n", None, "has no family"),
        ("@fd.family\ndef f(key):\n    return 3.0\n", 6, "returns a float, not a Shape"),
        ("@fd.family\ndef f():\n    return 3.0\n", 6, "takes 0 arguments"),
        ("@fd.family\ndef f(key):\n    return shapes.sphere(jnp.ones(2) @ jnp.ones(3))\n", 8, "TypeError"),
        (
            "@fd.family\ndef f(key):\n    r = jax.random.uniform(key)\n    return shapes.sphere(2 if r < 1 else 3)\n",
            9,
            "used on the host",
        ),
        (
            "@fd.family\ndef f(key):\n    return shapes.sphere(float(jax.random.uniform(key)))\n",
            8,
            "on the host",
        ),
        (
            "import random\n\n@fd.family\ndef f(key):\n    return shapes.sphere(random.random())\n",
            8,
            "something else the second time",
        ),
        (
            "@fd.family\ndef f(key):\n    jax.debug.print('{}', key)\n    return shapes.sphere(3.0)\n",
            8,
            "calls back to the host",
        ),
        (
            "@fd.family\ndef f(key):\n    thing = type('Thing', (), {'__call__': lambda self, p: p.x})()\n"
            "    return fd.displace(shapes.sphere(3.0), thing)\n",
            6,
            "a function anew in every draw",
        ),
        (
            "@fd.family\ndef f(key):\n    return shapes.sphere(-3.0)\n",
            8,
            "sphere: radius is -3.0; it should be greater than 0",
        ),
        ("ball = shapes.sphere('a')\n", 6, "sphere: radius is 'a'; it should be one number greater than 0"),
        (
            "@fd.family\ndef f(key):\n    r = jax.random.uniform(key)\n    return shapes.sphere(r) | None\n",
            9,
            "|: shape 2 is None; it should be a shape, as shapes.sphere(5.0)",
        ),
        (
            "@fd.family\ndef f(key):\n    return shapes.sphere(3.0)\n\n"
            "@fd.family\ndef f(key):\n    return shapes.sphere(2.0)\n",
            11,
            "a second family 'f'; the first is in line 7",
        ),
        (
            "@fd.family\ndef f(key):\n    return shapes.sphere(3.0)\n\n"
            "@fd.family(name='f')\ndef g(key):\n    return shapes.sphere(2.0)\n",
            10,
            "a second family 'f'; the first is at",
        ),
        (
            "@fd.mapper\ndef inverse_cube(d):\n    return 3.0 * d\n",
            6,
            "a second mapper 'inverse_cube'; the first is built in",
        ),
        ("@fd.mapper\ndef f(d):\n    return jnp.sum(d)\n", 6, "it should be elementwise"),
        (
            "@fd.mapper\ndef f(d, e):\n    return d\n",
            6,
            "mapper 'f' takes 2 arguments; it should be a function of (d)",
        ),
        ("@fd.displacement\ndef f(p):\n    return p\n", 6, "not one array of floating-point numbers"),
        ("@fd.displacement\ndef f(p):\n    return p.w\n", 8, "AttributeError"),
    ],
)
def test_mistakes_are_told_with_their_line(write, text, line, says):
    path = write(text)
    with pytest.raises(FdifError) as error:
        vocabulary_of(path)
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: "), message
    assert says in message and "\n" not in message


def test_a_file_of_another_ending_is_not_run(tmp_path):
    (tmp_path / "names.json").write_text("raise SystemExit")
    with pytest.raises(FdifError, match=r"names\.json: is no Python file; the name of one ends in \.py"):
        load_catalogue(tmp_path / "names.json")


def test_a_missing_file(tmp_path):
    with pytest.raises(FdifError, match="no such file"):
        load_catalogue(tmp_path / "none.py")


def test_a_function_made_in_every_draw_captures_parameters(write):
    vocabulary = vocabulary_of(
        write(
            "@fd.family\ndef wavy(key):\n    height = jax.random.uniform(key) + 1.0\n"
            "    wave = lambda x: jnp.sin(x + 1)\n"
            "    return fd.displace(shapes.sphere(9.0), lambda p, n=1: height * sum(wave(k * p.x) for k in range(n)))\n"
        )
    )
    (family,) = vocabulary.families
    p = fd.Point(1.0, 2.0, 3.0)
    one, other = (family.draw(jax.random.key(seed), {}, fd.Grid(8, 8, 8)) for seed in (0, 1))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for shape in (one, other):
        (height,) = jax.tree.leaves(shape.field)
        expected = float(height) * np.sin(1.0) + np.sqrt(14.0) - 9.0
        np.testing.assert_allclose(jax.jit(lambda s: s(p))(shape), expected, rtol=1e-5)
    again = vocabulary.build("wavy", vocabulary.describe("wavy", one))
    np.testing.assert_allclose(again(p), one(p), rtol=1e-6)


def test_a_decorated_family_is_still_called_as_a_function():
    @fd.family
    def stone(key, grid):
        return fd.shapes.sphere(jax.random.uniform(key) * min(grid))

    key = jax.random.key(1)
    drawn = float(jax.random.uniform(key))
    assert float(stone(key, fd.Grid(20, 30, 40)).radius) == pytest.approx(20 * drawn)
    assert float(stone(key).radius) == pytest.approx(96 * drawn)
    ball = fd.shapes.published.family("sphere")
    assert float(ball(key).radius) == float(ball.sample(key, fd.Grid(96, 96, 96)).radius)
