"""docs/viewing.md: its commands run and say what the page shows."""

import shutil
from pathlib import Path

import pytest

import fdif_jax as fd
from tests.helpers import nnunet_client
from tests.helpers.pages import run_page
from tests.helpers.paths import DOCS, HIPPOCAMPUS
from tests.helpers.user_shapes import SHAPES


@pytest.fixture
def folder(tmp_path, fixtures):
    """A folder with the scenes and cases of which the page speaks."""
    scene = fd.load_scenes(fixtures / "scenes.json")[0]
    fd.save_scenes([fd.Scene(scene.grid, (o,)) for o in scene.objects[:2]], tmp_path / "scenes.json")
    (tmp_path / "hippocampus").symlink_to(HIPPOCAMPUS)
    (tmp_path / "examples").mkdir()
    return tmp_path


def ran(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.is_file()}


PAGE = ("view/torus.html", "views.png", "rough/torus_slices.png", "view/scenes_1.png", "hippocampus.ply")


@pytest.mark.slow("a dozen commands, each with programs of its own")
def test_the_page_on_viewing(folder):
    (folder / "examples" / "organs.py").write_text(SHAPES.replace("def ring", "def vertebra"))
    tiny = "--resolution 24 --size 24"
    small = {
        "view torus\n": f"view torus {tiny}\n",
        "--size 220": f"{tiny} --members 1",
        "--members 8 --seed 4": f"--members 2 {tiny}",
        "--out rough": f"--out rough {tiny}",
        "scenes.json --case 1": f"scenes.json --case 1 {tiny}",
        "--mesh hippocampus.ply": f"--mesh hippocampus.ply {tiny}",
        "gallery --out gallery": "gallery --out gallery --size 16 --vocabulary --catalogue examples/organs.py",
        "gallery/index.html: 141 classes": "gallery/index.html: 2 classes",
        "12 mappers": "13 mappers",
    }
    run_page("viewing.md", folder, nnunet_client.environment(folder), small)
    assert {*PAGE, "gallery/index.html"} <= ran(folder)


@pytest.mark.slow("the page's own sizes, in a shell")
def test_the_page_on_viewing_as_it_is(folder):
    shutil.copy(DOCS / "examples" / "organs.py", folder / "examples")
    run_page("viewing.md", folder, nnunet_client.environment(folder), {})
    assert {*PAGE, "gallery/index.html"} <= ran(folder)
