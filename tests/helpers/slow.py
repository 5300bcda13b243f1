"""Which parameters of a test are left to `make test-all`."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_of(values: Iterable[Any], quick: Iterable[Any], why: str) -> list[Any]:
    """Parameters of a test, of which `make test` runs ``quick`` alone; the reason ``why`` is told of the others."""
    every, chosen = list(values), list(quick)
    assert all(value in every for value in chosen), f"{chosen} are not among {every}"
    return [value if value in chosen else pytest.param(value, marks=pytest.mark.slow(why)) for value in every]
