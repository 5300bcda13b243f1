"""Measuring in processes of their own, whose end frees all memory and every device."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from fdif_jax.errors import FdifError

Result = TypeVar("Result")


def apart(function: Callable[..., Result], *arguments: Any, died: str) -> Sequence[Result]:
    """What ``function`` gives of every argument, each in a new process beside the others; ``died`` says it if one dies.

    FdifError also as ``function`` raises it.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(arguments), context, max_tasks_per_child=1) as pool:
        started = [pool.submit(function, argument) for argument in arguments]
        try:
            return [process.result() for process in started]
        except BrokenProcessPool:
            raise FdifError(died) from None
