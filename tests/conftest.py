"""Shared by all tests: quick compilation, where the fixtures are, and a browser."""

import gc
import os
import shutil
import signal
from pathlib import Path

import hypothesis
import jax
import pytest
from jax._src.interpreters.partial_eval import DynamicJaxprTracer

from tests.helpers.paths import COMPILED, FIXTURES
from tests.helpers.studies import calls  # noqa: F401

# Compiled programs are the same from run to run, and in the processes that tests start.
for setting, value in (
    ("compilation_cache_dir", str(COMPILED)),
    ("persistent_cache_min_compile_time_secs", 0.1),
):
    jax.config.update(f"jax_{setting}", value)
    os.environ[f"JAX_{setting.upper()}"] = str(value)

# Compiling dominates the first example of a property; a deadline would only measure the machine.
hypothesis.settings.register_profile("default", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("default")

# Flax asks whatever it counts random draws with for its sharding. A tracer has none, and looks through all that has
# been traced to say where it comes from: four fifths of the time that it takes to build a network without values.
DynamicJaxprTracer._origin_msg = lambda tracer: ""


def pytest_configure(config: pytest.Config) -> None:
    """Compile in little time, where XLA_FLAGS says nothing.

    Tests compile far longer than they compute: none of XLA's fusions, which take most of the time, and of LLVM's passes
    few, or, where the slow tests are left out, none. Where XLA_FLAGS is set, if to nothing, it stays: `make test-all`
    tries formulas and scenes so, as users do.
    """
    level = 0 if config.option.markexpr == "not slow" else 1
    os.environ.setdefault(
        "XLA_FLAGS", f"--xla_backend_optimization_level={level} --xla_cpu_use_fusion_emitters=false"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is left to `make test-all` says why, and may take longer."""
    for item in items:
        if slow := item.get_closest_marker("slow"):
            assert slow.args, f"{item.nodeid}: slow, but why?"
            item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish() -> None:
    """What is loaded by now stays, and need not be gone through again by each collection of garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder with the published implementation's numbers."""
    return FIXTURES


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Compiled programs of one room or slow test are of little use to the next, and are gigabytes in the end."""
    if nextitem is None or nextitem.path.parent != item.path.parent or item.get_closest_marker("slow"):
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def _heed_ctrl_c():
    """Tests interrupt themselves and what they start: SIGINT, ignored under nohup, is not ignored here."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


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
