"""What a compiled program sends between its devices, counted in its text, and what it should send."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_LAYOUT = re.compile(r"\{[^{}]*\}|/\*.*?\*/")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
# What each of n devices sends by a ring, in bytes for each byte of the whole array (Patarasuk & Yuan 2009,
# doi:10.1016/j.jpdc.2008.09.002).
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: float(n - 1),  # of the part that a device is given
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
_CALL = re.compile(rf"= (.*?) ({'|'.join(_SENT)})\(")


class Exchange(NamedTuple):
    """The calls of one kind of communication in a program, and bytes of the arrays that they give a device."""

    calls: int
    bytes: int


def exchanges(text: str) -> dict[str, Exchange]:
    """Communication of a compiled program by kind, from its text (``compiled.as_text()``).

    What is in a loop counts once, and calls that are begun and ended apart are not known: this is for a step as XLA
    compiles it for a CPU.
    """
    found: dict[str, Exchange] = {}
    for arrays, kind in _CALL.findall(text):
        calls, total = found.get(kind, (0, 0))
        given = _ARRAY.findall(_LAYOUT.sub("", arrays))
        found[kind] = Exchange(calls + 1, total + sum(_bytes_of(*array) for array in given))
    return found


def _bytes_of(dtype: str, shape: str) -> int:
    return math.prod(map(int, filter(None, shape.split(",")))) * _width(dtype)


def _width(dtype: str) -> int:
    return 1 if dtype == "pred" else int(dtype.lstrip("bfsuc")) // 8


def sent(found: Mapping[str, Exchange], devices: int) -> float:
    """Bytes that each device sends, by a ring."""
    return sum(_SENT[kind](devices) * exchange.bytes for kind, exchange in found.items())


def sent_for_gradient(weights: float, devices: int) -> float:
    """Bytes that each device sends where every one has all ``weights`` (bytes) and their gradient is summed."""
    return _SENT["all-reduce"](devices) * weights
