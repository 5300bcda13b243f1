"""Names of cases, label maps and shapes as names of files: safe on every system, and each of them once.

Base names repeat (``patient_1/image.nii.gz``, ``patient_2/image.nii.gz``), and what a list says may be anything.
"""

import hashlib
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

# Bytes in UTF-8; of a file system's 255 the rest is for endings and the marks of unfinished files.
LONGEST = 120
_FORBIDDEN = '<>:"/\\|?*'  # by Windows; the separators of paths are among them
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of Unicode: control characters, surrogates, …
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)")  # on Windows


def safe_name(text: str) -> str:
    """Make the name of a file, without an ending, of a text; it is empty where no character is left.

    Separators of paths, control characters and what Windows forbids become ``_``: ``sub-1/ses-1`` is ``sub-1_ses-1``.
    Dots, separators and spaces at the ends are left out, a device's name (``con``) gets a ``_`` before it, and of more
    than `LONGEST` bytes the rest is replaced by a digest of the text. A safe name stays as it is.
    """
    name = "".join(
        "_" if c in _FORBIDDEN or unicodedata.category(c) in _INVISIBLE else c for c in text.strip(" ./\\")
    )
    if _DEVICE.match(name):
        name = f"_{name}"
    if len(name.encode()) > LONGEST:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}_{digest}"
    return name


def unique_names(texts: Sequence[str], folders: Sequence[str | os.PathLike] = ()) -> list[str]:
    """A safe name for each text (`safe_name`), no two the same, not even where a file system ignores case.

    Args:
        texts: what things are called.
        folders: where each of them is, if that is known. Names that would be the same begin with the folders in which
            they differ: ``patient_1_image``, ``patient_2_image``.

    Returns:
        Names in the order of ``texts``; those that are the same in spite of all end in ``_2``, ``_3``, …
    """
    names = [safe_name(text) for text in texts]
    if folders:
        for group in _alike(names):
            for i, apart in zip(group, _differing([folders[i] for i in group]), strict=True):
                names[i] = safe_name("_".join((*apart, names[i])))
    taken = set(map(_key, names))
    for group in _alike(names):
        numbers = itertools.count(2)
        for i in group[1:]:
            name = next(n for n in (safe_name(f"{names[i]}_{k}") for k in numbers) if _key(n) not in taken)
            names[i] = name
            taken.add(_key(name))
    return names


def _alike(names: Sequence[str]) -> list[list[int]]:
    """The places of names that a file system may take for the same, a list each, of those that are not alone."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(_key(name), []).append(i)
    return [group for group in places.values() if len(group) > 1]


def _key(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _differing(folders: Sequence[str | os.PathLike]) -> list[tuple[str, ...]]:
    """The parts of paths without those that all of them begin with, and end with."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    first = _common(parts)
    parts = [own[first:] for own in parts]
    last = _common([own[::-1] for own in parts])
    return [own[: len(own) - last] for own in parts]


def _common(sequences: Sequence[Sequence[str]]) -> int:
    """How many items all of them begin with."""
    steps = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda items: len(set(items)) == 1, steps))
