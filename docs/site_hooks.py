"""Hooks of MkDocs: the API's generator sees the package as it is when installed, and notebooks' links lead to pages."""

import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parent.parent
_folder: tempfile.TemporaryDirectory | None = None


@event_priority(100)  # before the generator reads its configuration
def on_config(config: Any) -> None:
    """Put the package together as it is when installed, by links, for the API's generator to read.

    In a checkout ``fdif_jax.shapes``, ``models`` and ``scripts`` lie beside ``fdif_jax`` (see ``pyproject.toml``).
    """
    global _folder
    _folder = tempfile.TemporaryDirectory(prefix="fdif-api-")
    package = Path(_folder.name, "fdif_jax")
    package.mkdir()
    for part in (ROOT / "fdif_jax").iterdir():
        (package / part.name).symlink_to(part)
    for part in ("shapes", "models", "scripts"):
        (package / part).symlink_to(ROOT / part)
    config["plugins"]["mkdocstrings"].config.handlers["python"]["paths"] = [_folder.name]


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """A notebook's links name files of pages, as all links do; MkDocs itself leads on only those of pages."""
    if not page.file.src_path.endswith(".ipynb"):
        return html
    return re.sub(r'href="(?!\w+:)([^"#]+)\.(?:md|ipynb)([#"])', r'href="\1.html\2', html)


def on_shutdown() -> None:
    """Take the links away."""
    if _folder is not None:
        _folder.cleanup()
