"""Remarks on input that is used or left out otherwise than its owner may think; they go to the log, as warnings."""

import contextlib
import logging
import os
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
        remark(f"{folder}: left out, as {why}: {_listed(names)}", f"left out {folder}")


def remark_repeated(path: Path, names: Sequence[str], files: Sequence[Sequence[Path]], training: int) -> None:
    """Say which cases of a list show an image that one before them shows, so that scores may be of what was learnt.

    Of the cases' ``names``, each with the ``files`` of its image, the first so many are for ``training``.
    """
    first: dict[tuple[str, ...], int] = {}
    learnt: list[str] = []
    twice: list[str] = []
    for number, (name, own) in enumerate(zip(names, files, strict=True)):
        before = first.setdefault(tuple(map(_real, own)), number)
        if before < number:
            (learnt if before < training <= number else twice).append(name)
    why = {
        "validation cases that are training cases, too, so that their scores say nothing of new scans": learnt,
        "cases whose image is another case's, so that folds may train and validate on one image": twice,
    }
    for said, found in why.items():
        if found:
            remark(f"{path}: {said}: {_listed(found)}", f"{said} {path}")


def _real(file: Path) -> str:
    """Where a path leads, or its text where no file can be called so."""
    with contextlib.suppress(ValueError):
        return os.path.realpath(file)
    return str(file)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
