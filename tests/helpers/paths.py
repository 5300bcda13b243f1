"""Where things of the checkout lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TESTS = ROOT / "tests"
FIXTURES = TESTS / "fixtures"
HIPPOCAMPUS = TESTS / "data" / "hippocampus"
ANATOMY = TESTS / "data" / "anatomy"
COMPILED = ROOT / ".pytest_cache" / "xla"
"""Compiled programs, which are the same from run to run."""
