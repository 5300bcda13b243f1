"""The wheel: built from the tree, installed where there is no checkout, it holds all that the commands need."""

import email
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import COMPILED, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RELEASE = PROJECT["tool"]["setuptools_scm"]["fallback_version"]
PARTS = ("fdif_jax", "shapes", "models", "scripts")
IMPORTS = """
import importlib, pathlib, pkgutil
import fdif_jax
home = pathlib.Path(fdif_jax.__file__).parent
assert {root!r} not in str(home), home
names = [m.name for m in pkgutil.walk_packages(fdif_jax.__path__, "fdif_jax.")]
rooms = [name for name in names if name not in ("fdif_jax.torch",)]
for name in rooms:
    importlib.import_module(name)
print(len(rooms))
"""

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
OFFLINE = ["--no-deps", "--no-index"]


def ran(command, **options):
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the archive of the sources, and the wheel that is built from it."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("setuptools_scm")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in PARTS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    ran([sys.executable, "-c", SDIST, folder], cwd=tree)
    (archive,) = folder.glob("*.tar.gz")
    ran([*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, archive])
    return folder


@pytest.fixture(scope="module")
def installed(built):
    """The folder of commands of an environment with the wheel, which has the libraries of this one."""
    folder = built
    (wheel,) = folder.glob("*.whl")
    home = folder / "venv"
    venv.create(home, symlinks=True)
    ran([*PIP, "--python", home / "bin" / "python", "install", *OFFLINE, wheel])
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    # Behind the wheel on the path, and without what .pth files in these folders add, such as an editable checkout.
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(libraries))
    return home / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the environment in an empty folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = kept | {"JAX_COMPILATION_CACHE_DIR": str(COMPILED)}
    return lambda command, *arguments: ran([installed / command, *arguments], cwd=tmp_path, env=env)


@pytest.mark.slow("an archive and a wheel are built")
def test_archive_and_wheel_are_fit_to_be_published(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        said = email.message_from_bytes(opened.read(metadata))
    sources = {path.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*.py")}
    packed = {name.removeprefix("fdif_jax/") for name in names}
    assert {str(path).removeprefix("fdif_jax/") for path in sources} <= packed
    for data in (
        "evaluation/cubes.npy",
        "scripts/options/presets/quick.toml",
        "shapes/head.npz",
        "shapes/torso.npz",
    ):
        assert data in packed
    assert said["Version"] == RELEASE
    assert said["Author"] == "fdif-jax contributors" and said["License-Expression"] == "MIT"
    assert {"3.11", "3.12", "3.13"} <= {line.rpartition(" ")[2] for line in said.get_all("Classifier")}
    assert {"all", "pictures", "surfaces", "tensorboard", "torch"} <= set(said.get_all("Provides-Extra"))
    pytest.importorskip("twine")
    ran([sys.executable, "-m", "twine", "check", "--strict", *built.glob("*.whl"), *built.glob("*.tar.gz")])


METADATA = """
import sys
from setuptools import build_meta
print(build_meta.prepare_metadata_for_build_wheel(sys.argv[1]))
"""


def version_of(tree):
    """The version that a wheel of a tree would have."""
    with tempfile.TemporaryDirectory() as folder:
        said = ran([sys.executable, "-c", METADATA, folder], cwd=tree).splitlines()[-1]
        return email.message_from_string((Path(folder) / said / "METADATA").read_text())["Version"]


@pytest.mark.slow("an archive is built, and metadata five times")
def test_the_version_is_that_of_the_tag(built, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    left = shutil.ignore_patterns("*.safetensors", "*.egg-info")
    tree = shutil.copytree(built / "tree", tmp_path / "tree", ignore=left)
    git = ["git", "-C", tree, "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in ("init -q", "add .", "commit -q -m first"):
        ran([*git, *words.split()])
    assert re.fullmatch(rf"{re.escape(RELEASE)}\.post1\.dev1\+g[0-9a-f]+", version_of(tree))
    ran([*git, "tag", "v98.7.6"])
    assert version_of(tree) == "98.7.6"
    ran([sys.executable, "-c", SDIST, tmp_path], cwd=tree)
    shutil.unpack_archive(tmp_path / "fdif_jax-98.7.6.tar.gz", tmp_path)
    assert version_of(tmp_path / "fdif_jax-98.7.6") == "98.7.6"
    ran([*git, "commit", "-q", "--allow-empty", "-m", "second"])
    assert re.fullmatch(r"98\.7\.6\.post1\.dev1\+g[0-9a-f]+", version_of(tree))
    ran([*git, "tag", "not-a-version"])
    assert version_of(tree).startswith("98.7.6.post1")


@pytest.mark.slow("a wheel is built and installed")
def test_every_room_is_there(run):
    assert int(run("python", "-c", IMPORTS.format(root=str(ROOT)))) > 150


@pytest.mark.slow("a wheel is built and installed, and six commands start")
def test_its_commands_draw_and_show(run, tmp_path):
    small = "--grid 16 16 16 --primitives sphere --sdf-mappers inverse_cube --min-objects 1 --max-objects 1"
    run("fdif", "generate", *small.split(), "--num-samples", "1", "--out", "data")
    assert list(tmp_path.rglob("data.json")) and list(tmp_path.rglob("*.nii.gz"))
    run("fdif", "view", "sphere", "--size", "32", "--resolution", "16", "--members", "1", "--out", "seen")
    assert list((tmp_path).rglob("*.png"))
    assert run("fdif", "gallery", "--help") and run("fdif", "pretrain", "--preset", "quick", "--help")
