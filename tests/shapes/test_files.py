"""Shapes in files: a document makes the same shape, to the bit; a mesh one of the same volume; mistakes are a line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError
from fdif_jax.sdf.sampled import Library, Sampled

BALL = shapes.sphere(15.0)


@fd.node
class Own(fd.Shape):
    radius: jax.Array

    def __call__(self, p):
        return fd.shape.length(*p) - self.radius


def grown() -> fd.Shape:
    """A shape of most kinds of fields: numbers, arrays, structure, None, noise, a profile, a seam, a displacement."""
    rod = shapes.rectangle(6.0, 2.0).extrude(3.0, shapes.linear_taper(3.0, 0.5))
    whole = fd.union(rod, Own(jnp.float32(2.5)), smooth=fd.stairs(2.0, 3))
    whole = (whole - fd.repeat(BALL.scale(0.1), (4, 4, 4))).displace(fd.noise.worley(jax.random.key(0), 4.0))
    return whole.displace(shapes.published.displacement("ridge")).bend_between(
        (0, 0, 0), (1, 1, 1), (0, 1, 0)
    )


def test_a_document_makes_the_same_shape(tmp_path):
    shape = grown()
    shape.save(tmp_path / "grown.json")
    again = fd.load(tmp_path / "grown.json")
    assert jax.tree.structure(again) == jax.tree.structure(shape)
    distances = jax.jit(lambda shape: shape(fd.Grid(7, 8, 9)))
    np.testing.assert_array_equal(distances(again), distances(shape))
    leaves = zip(jax.tree.leaves(again), jax.tree.leaves(shape), strict=True)
    assert all(type(new) is type(old) for new, old in leaves)


def test_a_document_makes_the_same_profile(tmp_path):
    profile = shapes.rectangle(5.0, 2.0).place((1.0, 2.0), 0.3)
    profile.save(tmp_path / "profile.json")
    u = np.linspace(-9, 9, 8, dtype=np.float32)
    np.testing.assert_array_equal(fd.load(tmp_path / "profile.json")(u, u[:, None]), profile(u, u[:, None]))


def test_a_member_of_a_library_is_saved_with_its_samples(tmp_path):
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5)) + 1
    library = Library.of(values, np.stack([np.eye(3, 4), 2 * np.eye(3, 4)]), ["one", "two"])
    library.member("two").save(tmp_path / "member.json")
    again = fd.load(tmp_path / "member.json")
    assert type(again) is Sampled
    np.testing.assert_array_equal(again.values, values[1].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(again.inverse, 2 * np.eye(3, 4))
    np.testing.assert_array_equal(again.bounds(), library.member("two").bounds())


@pytest.mark.parametrize("ending", ["stl", "obj", "ply"])
def test_a_mesh_comes_back_where_it_was(tmp_path, ending):
    path = tmp_path / f"ball.{ending}"
    BALL.translate((10.0, 0.0, -3.0)).save(path, resolution=32)
    again = fd.load(path, resolution=24)
    at = fd.Point(*np.array([[10, 0, 4], [10, 0, 12], [10, 0, 17], [30, 0, -3]], np.float32).T)
    np.testing.assert_allclose(jax.jit(lambda shape, at: shape(at))(again, at), [-8, 0, 5, 5], atol=0.35)
    np.testing.assert_allclose(again.bounds(), [[-5, -15, -18], [25, 15, 12]], atol=0.3)


def changed(document: dict, *keys: str, to) -> dict:
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return document


BAD = {
    "a list": (lambda d: [], "is no shape that was saved"),
    "scenes": (lambda d: {"scenes": []}, "is no shape that was saved; scenes are read by fd.load_scenes"),
    "another version": (lambda d: changed(d, "fdif_shape", to=7), "is of version 7; this fdif reads 1"),
    "no shape": (lambda d: changed(d, "shape", to=3), "holds a int, not a shape"),
    "unknown class": (lambda d: changed(d, "shape", "class", to="Spere"), "did you mean 'Sphere'"),
    "own class": (
        lambda d: changed(d, "shape", "class", to="mine.Ball"),
        "holds a mine.Ball; import, or load",
    ),
    "missing field": (lambda d: changed(d, "shape", to={"class": "Sphere"}), "a Sphere lacks 'radius'"),
    "more fields": (lambda d: changed(d, "shape", "width", to=1), "a Sphere has no 'width'"),
    "no number": (lambda d: changed(d, "shape", "radius", to="wide"), "makes no shape (TypeError"),
    "unknown number": (lambda d: changed(d, "shape", "radius", to={"float33": 1}), "did you mean 'float32'"),
    "unknown field": (
        lambda d: changed(d, "shape", "radius", to={"displacement": "ridg"}),
        "did you mean 'ridge'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_document_is_one_line(tmp_path, case):
    change, says = BAD[case]
    path = tmp_path / "ball.json"
    BALL.save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(FdifError) as error:
        fd.load(path)
    assert str(error.value).startswith(f"load: {path}: ") and says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda p: BALL.save(p / "ball.vtk"),
            "ball.vtk: the name of a shape's file ends in .stl, .ply, .obj or .json",
        ),
        (lambda p: BALL.save(p / "ball"), "ball: the name of a shape's file ends in"),
        (lambda p: fd.load(p / "ball.vtk"), "ball.vtk: the name of a shape's file ends in"),
        (lambda p: fd.load(p / "none.json"), "none.json: cannot be read: No such file"),
        (lambda p: fd.load(p / "none.stl"), "none.stl: no such file"),
        (lambda p: BALL.save(p / "ball.json", resolution=9), "resolution is an option of meshes"),
        (lambda p: shapes.circle(3.0).save(p / "disc.stl"), "save: shape is a Circle; it should be a shape"),
        (lambda p: shapes.half_space("z").save(p / "half.stl", resolution=16), "goes on beyond the box"),
        (
            lambda p: fd.displace(BALL, lambda q: q.x).save(p / "ball.json"),
            "<lambda>, which a document cannot keep",
        ),
    ],
)
def test_what_is_no_file_of_a_shape_is_one_line(tmp_path, call, says):
    with pytest.raises(FdifError) as error:
        call(tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
