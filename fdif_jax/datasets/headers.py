"""What a dataset's manifest and journals begin with: its plan and what it is made with; whether two of them agree."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from fdif_jax.errors import FdifError
from fdif_jax.settings import differences, first_few

_OURS = "fdif-jax"
_PACKAGES = (_OURS, "jax", "jaxlib", "numpy", "isal", "blosc2")


def made_with() -> dict[str, str]:
    """What, besides the plan, a file's bytes may depend on."""
    return {name: version(name) for name in _PACKAGES} | {"backend": jax.default_backend()}


def check_same(out: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise an FdifError that names every difference between two headers.

    Of our own version the release counts: 1.2.3 and 1.2.3.post1.dev4+gCOMMIT finish each other's datasets.
    """
    found = differences(_released(there), _released(here))
    if len(found) > 1:
        found = [difference for difference in found if difference.key != "digest"]
    if found:
        raise FdifError(f"{out}: holds a dataset made otherwise: {first_few(found)}; give another directory")


def _released(header: dict[str, Any]) -> dict[str, Any]:
    """A header whose version of ours ends with the release's numbers; a damaged one as it is."""
    made = header.get("made_with")
    if not isinstance(made, dict) or not isinstance(ours := made.get(_OURS), str):
        return header
    return header | {"made_with": {**made, _OURS: re.sub(r"^(\d+(\.\d+)*).*", r"\1", ours)}}
