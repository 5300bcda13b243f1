"""Meshes, pictures and pages of shapes at hand: against known volumes and silhouettes; what cannot be seen is said."""

import io
import sys
import types
import webbrowser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError

BALL = shapes.sphere(15.0)
VOLUME = 4 / 3 * np.pi * 15**3


def test_a_mesh_is_closed_and_has_the_volume_of_its_shape():
    mesh = BALL.mesh()
    assert mesh.is_watertight and mesh.volume == pytest.approx(VOLUME, rel=1e-3)
    moved = BALL.translate((200.0, 0.0, 0.0)).mesh(32)  # bounds are known, however far
    assert moved.is_watertight and moved.volume == pytest.approx(VOLUME, rel=0.02)
    np.testing.assert_allclose(moved.bounds, [[185, -15, -15], [215, 15, 15]], atol=0.2)
    unknown = fd.displace(BALL, lambda p: 0 * p.x).mesh(32)
    assert unknown.is_watertight and unknown.volume == pytest.approx(VOLUME, rel=0.02)


def test_a_mesh_is_cut_to_a_box():
    half = BALL.mesh(48, box=((-20, -20, -20), (20, 20, 0)))
    assert half.is_watertight and half.volume == pytest.approx(VOLUME / 2, rel=0.01)
    plate = shapes.slab(4.0, "z").mesh(32, box=fd.Box.around(10.0, 10.0, 10.0))
    assert plate.is_watertight and plate.volume == pytest.approx(8 * 20 * 20, rel=0.02)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: BALL.mesh(32, box=((-2, -2, -2), (2, 2, 2))),
            "mesh: the Sphere fills the box (-2, -2, -2) …",
        ),
        (
            lambda: BALL.mesh(32, box=((20, 20, 20), (22, 22, 22))),
            "mesh: nothing of the Sphere is seen in the box",
        ),
        (lambda: shapes.half_space((0, 0, 1)).mesh(32), "goes on beyond the box"),
        (lambda: BALL.mesh(3), "mesh: resolution is 3; it should be a whole number of at least 8"),
        (lambda: BALL.mesh(32, box=((1, 1, 1), (0, 2, 2))), "mesh: box's extent is"),
        (lambda: BALL.mesh(32, box=4), "mesh: box is 4; it should be a Box, or two points"),
        (lambda: fd.mesh(shapes.circle(3.0)), "mesh: shape is a Circle; it should be a shape"),
        (lambda: BALL.picture(3), "picture: size is 3; it should be a whole number of at least 16"),
        (lambda: fd.show(), "show: there is no shape"),
        (lambda: fd.show(3), "show: shape is 3; it should be a shape"),
    ],
)
def test_what_cannot_be_seen_is_one_line(call, says):
    with pytest.raises(FdifError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_notebooks_show_a_shape_lit():
    picture = np.asarray(Image.open(io.BytesIO(BALL._repr_png_())))
    assert picture.shape == (320, 320, 3)
    coloured = np.ptp(picture.astype(int), axis=2) > 30  # neither the paper nor a shadow
    assert coloured.sum() == pytest.approx(np.pi * (160 / 1.12) ** 2, rel=0.1)  # a disc in Camera's air


def test_a_batch_of_shapes_is_shown_by_its_text():
    batch = jax.vmap(shapes.sphere)(jnp.arange(1.0, 4.0))
    assert batch._repr_png_() is None and "Sphere" in repr(batch)


def test_show_opens_a_page_or_says_where_it_is(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or len(opened) < 2)
    fd.show(BALL, [shapes.sphere(7.0)], resolution=16)
    page = Path(opened[0].removeprefix("file://")).read_text()
    assert "<title>Sphere, Sphere</title>" in page and len(page) > 500_000
    assert capsys.readouterr().out == ""
    BALL.show(resolution=16)
    assert capsys.readouterr().out.strip() == opened[1].removeprefix("file://")


def test_show_embeds_a_page_in_a_notebook(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail("a notebook opens no page"))
    shapes.circle(9.0).show(resolution=16)
    assert shown[0].data.startswith('<div><iframe srcdoc="') and "&lt;title&gt;Extruded" in shown[0].data
