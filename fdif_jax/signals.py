"""Signals that are noted instead of obeyed, so that what is under way ends well."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def handled(note: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[dict[int, Any]]:
    """Have ``note`` called on these signals within the block; gives the handlers that they had and get back.

    In the main thread only, as Python has it.
    """
    previous = {number: signal.getsignal(number) for number in numbers}
    for number in previous:
        signal.signal(number, note)
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
