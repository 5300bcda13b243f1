"""Remarks on input that is used or left out otherwise than its owner may think; they go to the log, as warnings."""

import logging
from collections.abc import Sequence
from pathlib import Path

_LISTED = 8  # names in a remark
_log = logging.getLogger("fdif_jax")
_made: set[str] = set()


def remark(text: str, about: str) -> None:
    """Say something about a thing once a process: further remarks about the same are not made."""
    if about not in _made:
        _made.add(about)
        _log.warning("%s", text)


def remark_left_out(folder: Path, names: Sequence[str], why: str) -> None:
    """Say which files of a folder are not used, the first few by name, and why: they are …"""
    if names:
        listed = ", ".join(names[:_LISTED]) + (
            f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        )
        remark(f"{folder}: left out, as {why}: {listed}", f"left out {folder}")
