"""Doing something with every case of a list: a progress bar, and on without bad ones where that is asked for."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fdif_jax.errors import FdifError
from fdif_jax.scripts.console.progress import progress_bar, say

Item = TypeVar("Item", bound=Any)  # what has an id
Result = TypeVar("Result")


def each_good(
    cases: Sequence[Item], work: Callable[[Item], Result], what: str, *, skip_bad: bool
) -> Iterator[tuple[Item, Result]]:
    """Cases, each with an ``id``, and what comes of them, one after another, under a progress bar called ``what``.

    An FdifError of ``work`` says that a case is bad: it is raised, or with ``skip_bad`` told on stderr. None may be
    good: that is an FdifError, too.
    """
    skipped = 0
    with progress_bar() as bar:
        task = bar.add_task(what, total=len(cases), measured="")
        for case in cases:
            bar.update(task, measured=case.id)
            try:
                result = work(case)
            except FdifError as error:
                if not skip_bad:
                    raise
                skipped += 1
                say(bar, f"skipped: {error}")
            else:
                yield case, result
            bar.advance(task)
    if skipped:
        print(f"{what}: skipped {skipped} of {len(cases)} cases", file=sys.stderr)
    if skipped == len(cases):
        raise FdifError(f"{what}: none of {len(cases)} cases is good")
