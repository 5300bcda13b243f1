"""The one error type that a user is meant to read."""

import difflib
from collections.abc import Iterable


class FdifError(Exception):
    """Bad input: one line saying what is wrong, where, and what would be right.

    The command line prints it without a traceback and exits with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> FdifError:
    """The error for a name of some kind (``"mapper"``) that is in no list, with the nearest known name."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(options[:12])
    if not close and len(options) > 12:
        hint += ", …"
    return FdifError(f"unknown {kind} {name!r}; {hint}")
