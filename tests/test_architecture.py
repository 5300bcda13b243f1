"""The lines of the house: who may import whom."""

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

ABOVE = {
    "fdif_jax": ("shapes", "models", "scripts"),
    "shapes": ("models", "scripts"),
    "models": ("shapes", "scripts"),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("layer", ABOVE)
def test_each_layer_imports_only_what_is_below_it(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            for above in ABOVE[layer]:
                assert not name.startswith(f"fdif_jax.{above}"), f"{path.name} imports {name}"
