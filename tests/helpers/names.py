"""What lists and folders may call things."""

import os
import unicodedata
from pathlib import PureWindowsPath

from hypothesis import strategies as st

_PARTS = ("..", ".", "/", "\\", "\0", "\n", "\x1b", "\u202e", "\ud800", "~", " ", "a", "A", "é", "e\u0301")
_WORDS = ("con", "NUL.txt", "C:", "sub-1/ses-1", "/etc/passwd", "../../x", "image", "x" * 300, "ü" * 90)
HOSTILE = st.lists(st.sampled_from(_PARTS + _WORDS) | st.characters(), max_size=5).map("".join)


def names_no_other_file(name):
    """Whether a name, with endings as we give them, is a plain file's in a folder, on Linux, macOS and Windows."""
    file = f".{name}.nii.gz.0123abcd.part"  # the longest
    return (
        os.path.normpath(f"/out/{name}.nii.gz") == f"/out/{name}.nii.gz"
        and "/" not in name
        and len(file.encode()) <= 255
        and not any(unicodedata.category(c) == "Cc" for c in name)
        and PureWindowsPath("x:/out", f"{name}.png").parent == PureWindowsPath("x:/out")
        and not PureWindowsPath(f"{name}.png").is_reserved()
        and not set(name) & set('<>:"|?*')
        and not name.startswith(".")
        and not name.endswith((".", " "))
    )
