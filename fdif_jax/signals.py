"""Signals that are noted instead of obeyed, so that what is under way ends well."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def handled(note: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[dict[int, Any]]:
    """Have ``note`` called on these signals within the block; gives the handlers that they had and get back.

    A signal that is ignored stays so: a ``nohup`` keeps its meaning. In the main thread only, as Python has it.
    """
    handlers = {number: signal.getsignal(number) for number in numbers}
    previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, note)
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
