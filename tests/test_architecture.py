"""What keeps the tree findable; who may import whom is told by `lint-imports` (pyproject.toml)."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT, TESTS

PARTS = {"fdif_jax": ROOT / "fdif_jax"} | {
    f"fdif_jax.{name}": ROOT / name for name in ("shapes", "models", "scripts")
}


def modules(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert len(found) > 10, f"{folder} holds few modules; is it looked for in the right place?"
    return found


def test_no_folder_of_the_engine_holds_more_than_a_reader_takes_in():
    folders = {path.parent for path in modules(ROOT / "fdif_jax")}
    assert len(folders) > 10
    for folder in folders:
        held = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(held) <= 12, f"{folder.relative_to(ROOT)} holds {len(held)} modules"


@pytest.mark.parametrize("part", PARTS)
def test_no_module_is_longer_than_400_lines(part):
    for path in modules(PARTS[part]):
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_test_module_imports_from_another():
    for path in modules(TESTS):
        for name in imported(path):
            assert not name.rpartition(".")[2].startswith("test_"), f"{path.relative_to(ROOT)} imports {name}"


def test_every_folder_of_modules_is_a_package_that_is_installed():
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in PARTS.items()
        for path in modules(folder)
    }
    assert there == declared
    for name, folder in PARTS.items():
        for path in modules(folder):
            assert (path.parent / "__init__.py").is_file(), f"{name}: {path.parent} has no __init__.py"
