"""The gallery page: everything is on it, its lines of code run, and it works in a browser."""

import base64
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scripts import cli
from fdif_jax.scripts.gallery import entries
from fdif_jax.shapes.formulas import formula_of
from tests.helpers.tabs import open_page

SHAPES = """\
import jax
import jax.numpy as jnp
import fdif_jax as fd
from fdif_jax import shapes


@fd.family(category="stones")
def pebble(key, grid):
    '''A round <stone> & no more.'''
    return fd.scale(shapes.sphere(1.0), jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))


@fd.displacement
def ripples(p, highest):
    return 0.5 * jnp.sin(p.x)


@fd.mapper
def shell(d):
    return jnp.where(jnp.abs(d) < 2, 128.0, 0.0)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "mine.py"
    path.write_text(SHAPES)
    return path


@pytest.fixture(scope="module")
def page(mine) -> Path:
    out = mine.parent / "out"
    cli.run("gallery", ["--catalogue", str(mine), "--vocabulary", "--size", "48", "--out", str(out)])
    assert [path.name for path in out.iterdir()] == ["index.html"]
    return out / "index.html"


def opened(browser, page: Path, width: int = 1000):
    """The page in a browser, and what it said or asked for."""
    tab, said = open_page(browser, page, width, 800)
    tab.wait_for_function("[...document.images].every(image => image.complete)")
    return tab, said


def shown(tab) -> list[str]:
    names = "[...document.querySelectorAll('article')].filter(a => a.offsetParent).map(a => a.dataset.name)"
    return tab.evaluate(names)


@pytest.mark.slow("a gallery, and a browser on it")
def test_the_page_shows_everything_and_finds_it(page, browser):
    tab, said = opened(browser, page)
    everything = shown(tab)
    expected = ["pebble", "ripples", *(d.name for d in shapes.exact.displacements)]
    expected += ["shell", *(m.name for m in shapes.exact.mappers)]
    assert everything == expected
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth >= 48)")
    assert tab.inner_text("#count") == f"{len(expected)} of {len(expected)}"
    tab.fill("#search", "PEBB")
    assert shown(tab) == ["pebble"] and tab.inner_text("#count").startswith("1 of")
    tab.fill("#search", "round stone")  # all words, anywhere in the card
    assert shown(tab) == ["pebble"]
    tab.fill("#search", "no such thing")
    assert shown(tab) == []
    tab.fill("#search", "")
    tab.select_option("#category", "mappers")
    assert shown(tab) == ["shell", *(m.name for m in shapes.exact.mappers)]
    tab.fill("#search", "clip linear")
    assert shown(tab) == ["linear_slope_10.0", "linear_slope_20.0"]
    tab.select_option("#category", "")
    tab.fill("#search", "")
    card = tab.inner_text("article[data-name=pebble]")
    assert "A round <stone> & no more." in card and "√(x² + y² + z²) − radius" in card and "factor" in card
    assert not said
    tab.close()


@pytest.mark.slow("a page of all classes in a browser")
def test_the_page_fits_a_telephone(page, browser):
    tab, _ = opened(browser, page, width=380)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
    tab.close()


@pytest.mark.slow("a page of all classes")
def test_pictures_are_of_what_they_stand_for(page):
    """A sphere, rough or smooth, fills the middle of its picture and not the corner; a contour is black and white."""
    text = page.read_text()
    pictures = {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
        for data, name in re.findall(r'src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', text)
    }
    for name in ("pebble", "ripples", "turbulence"):
        picture = pictures[name]
        assert picture.shape == (48, 48, 3)
        assert picture[20:28, 20:28].mean() < 215 and picture[:4, :4].mean() > 250
    assert pictures["shell"].shape == (48, 96, 3)
    assert np.abs(pictures["ridge"] - pictures["perlin_fine"]).mean() > 3


def test_the_lines_of_code_make_what_they_say(mine):
    cards = {(card.category, card.name): card for card in entries([str(mine), "avs_db"], seed=3, size=48)}
    names = {"fd": fd, "jax": jax, "shapes": shapes}
    for key in (("mine.py: stones", "pebble"), ("avs_db: ellipse", "ellipse_cone")):
        made = eval(cards[key].code, names)
        assert isinstance(made, fd.Shape) and float(made(fd.Point(0.0, 0.0, 2.0))) < 0
    for name in ("ripples", "ridge"):
        shape = eval(cards["displacements", name].code, names)
        assert abs(float(shape(fd.Point(0.0, 28.0, 0.0)))) < 8
    for name in ("shell", "contour"):
        image = eval(cards["mappers", name].code, names)
        assert image.shape == (96, 96, 96) and set(np.unique(image)) == {0, 128}
    stack = cards["avs_db: ellipse", "ellipse_cone"]
    assert dict(stack.parameters)["middle"] == "0" and "0 ≤ z < height" in stack.formula
    assert "0.8 … 1" in dict(cards["avs_db: triangle", "triangle_convex"].parameters).values()


@fd.node
class Odd(fd.Shape):
    """Nobody knows what this is. More of it."""

    radius: float


def test_formulas_follow_the_structure():
    ball, ring = shapes.sphere(3.0), shapes.torus(9.0, 2.0)
    text = formula_of(fd.translate(fd.union(ball, fd.onion(ring, 1.0), smooth=2.0), (1.0, 0.0, 0.0)))
    assert text.startswith(
        "min(a, b), blended over `smooth`; a = √(x² + y² + z²) − radius; b = |s(√(x² + z²)"
    )
    assert formula_of(Odd(1.0)) == "Nobody knows what this is. More of it"
    assert "− thickness" in formula_of(fd.extrude(shapes.circle(3.0), 2.0, thickness=0.5))
    assert "to 9 edges" in formula_of(
        shapes.avs_db.family("square_cone").sample(jax.random.key(0), fd.Grid(48, 48, 48))
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "3"], "--size must be at least 16"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--vocabulary"], "nothing to show"),
        (["--vocabulary", "exactt"], "cannot be loaded"),
        (["--catalogue", "none.py"], "none.py: no such file"),
    ],
)
def test_bad_input_is_one_line(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        cli.run("gallery", arguments)
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2 and says in error and "\n" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.slow("163 pictures; fewer are above")
def test_the_whole_gallery(tmp_path, browser):
    cli.run("gallery", ["--out", str(tmp_path)])
    tab, said = opened(browser, tmp_path / "index.html")
    assert len(shown(tab)) == 109 + 32 + 10 + 12
    tab.select_option("#category", "exact: star_torus")
    assert shown(tab) == [f"{n}_star_torus" for n in ("five", "six", "seven", "eight")]
    aliases = json.loads(tab.evaluate("JSON.stringify(document.body.innerText.match(/also: \\S+/g))"))
    assert "also: fivestartorus" in aliases
    assert (tmp_path / "index.html").stat().st_size < 1_500_000 and not said
    tab.close()
