"""What is around a command made fit for it: standard streams, a home; and what it says where there is no device."""

import atexit
import codecs
import io
import os
import sys
import tempfile
from typing import Any

import platformdirs

_PLAIN = {"×": "x", "…": "...", "→": "->", "−": "-", "–": "-", "±": "+-", "Σ": "sum"}


class _Outlet(io.FileIO):
    """A standard stream. When its reader has gone (`fdif … | head`) the work goes on, and words go nowhere."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def prepare_streams() -> None:
    """Make standard output and errors take any text, whatever their encoding, and outlive who reads them.

    What cannot be encoded is written in plain letters, bytes of names as they are on disk as ``?``. A stream that was
    closed before the command began is a null device, so that no file gets its number.
    """
    codecs.register_error("plain", _plain)
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 (for as long as the process)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", errors="plain"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and stream.fileno() == number:
            stream.flush()
            outlet = io.BufferedWriter(_Outlet(number, "w", closefd=False))
            options = {
                "encoding": stream.encoding,
                "errors": "plain",
                "line_buffering": stream.line_buffering,
            }
            setattr(sys, name, io.TextIOWrapper(outlet, **options))


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in text), error.end


def find_home() -> None:
    """Where the user has no home that can be written to, lend one, for libraries that keep files there.

    It ends with the process. OSError if there is no folder for temporary files either.
    """
    try:
        kept = platformdirs.user_cache_path("fdif-jax", ensure_exists=True)
        if kept.is_absolute() and os.access(kept, os.W_OK):
            return
    except (RuntimeError, OSError):
        pass
    lent = tempfile.TemporaryDirectory(prefix="fdif_home_", ignore_cleanup_errors=True)
    atexit.register(lent.cleanup)
    os.environ |= {"HOME": lent.name, "XDG_CACHE_HOME": lent.name, "XDG_CONFIG_HOME": lent.name}


def no_device(error: BaseException) -> str | None:
    """What is wrong with the device where an error comes of that: there is none, or its memory is full; else None."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"the device has too little memory: {str(error).splitlines()[0]}"
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={asked}: JAX has no such device here; JAX_PLATFORMS=cpu computes on the CPU"
    return None
