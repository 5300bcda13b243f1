"""Shared by all tests: where the fixtures are, and shape checks of everything the engine annotates."""

import shutil
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

from tests.helpers.paths import COMPILED, FIXTURES

# Compiling dominates the first example of a property; a deadline would only measure the machine.
hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")

# Compiled programs are the same from run to run.
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# From here on, arrays that do not have the shapes their annotations say are errors. Modules that define shapes are
# left out: a shape is a pytree, and transformations put batched and abstract leaves in its fields.
_CHECKED = (
    "sdf.grid",
    "vocabulary.vocabulary",
    "rendering.renderer",
    "training.losses",
    "scenes.classes",
    "scenes.compiler",
    "scenes.replay",
)
_hook = install_import_hook([f"fdif_jax.{name}" for name in _CHECKED], "beartype.beartype")
import fdif_jax  # noqa: E402, F401

_hook.uninstall()

from tests.helpers.studies import calls  # noqa: E402, F401


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder with the published implementation's numbers."""
    return FIXTURES


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs of one module are of no use to the next, and are gigabytes in the end."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium with WebGL in software; tests that need it are skipped where none is installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    drawing = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *drawing])
        yield opened
        opened.close()
