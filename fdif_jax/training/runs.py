"""Run directories: what a training run was asked to do, what it measured, and checkpoints to go on from.

::

    run.json        what was asked for (network, recipe or dataset, training settings), and with what it began
    metrics.jsonl   one line a measurement, each with its step
    checkpoints/    the newest two and the best; a checkpoint appears complete or not at all (Orbax)

The command that made a directory continues it; a command that asks for anything else is refused.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import append_json_line, json_of, read_json_lines, write_json, write_json_lines
from fdif_jax.io.locks import hold
from fdif_jax.settings import differences, first_few
from fdif_jax.training.checkpoints import UNSCORED, Checkpoints, check_same_network
from fdif_jax.training.network import HEADS, State, set_weights, weights
from fdif_jax.training.processes import is_first_process, wait_for_all
from fdif_jax.training.run_document import ORIGIN, RUN, Origin, RunDocument, Which
from fdif_jax.weights.files import check_finite

METRICS, CHECKPOINTS, LOCK = "metrics.jsonl", "checkpoints", ".lock"
SCORES = "metrics.json"  # of a fine-tuning, when it is over


class Run:
    """An opened run directory.

    Attributes:
        path: the directory.
        document: ``run.json``.
        history: the measurements so far, oldest first.
    """

    def __init__(self, path: Path, document: RunDocument):
        """Use `open_run` or `load_run`."""
        self.path, self.document = path, document
        self.history: list[dict[str, float]] = read_json_lines(path / METRICS)

    @property
    def network(self) -> dict[str, Any]:
        """The network as plain data: ``name``, ``in_channels``, ``out_channels`` and its size."""
        return dict(self.document.network)

    # ---------------------------------------------------------------------------------------- measurements

    def record(self, **measurement: float) -> None:
        """Append a measurement to the history and to ``metrics.jsonl``."""
        self.history.append(measurement)
        if is_first_process():
            append_json_line(self.path / METRICS, measurement)

    def best(self, name: str = "score") -> float:
        """The highest measurement of that name so far; -1 if there is none."""
        return max((m[name] for m in self.history if not math.isnan(m.get(name, math.nan))), default=UNSCORED)

    def _forget_after(self, step: int) -> None:
        """Drop measurements of steps that will be done again."""
        self.history = [m for m in self.history if m["step"] <= step]
        if is_first_process():
            write_json_lines(self.path / METRICS, self.history)

    # ----------------------------------------------------------------------------------------- checkpoints

    @contextmanager
    def checkpoints(self, *, read_only: bool = False, keep_every: int = 0) -> Iterator[Checkpoints]:
        """The run's checkpoints; what is being written is complete on leaving."""
        opened = Checkpoints(self.path / CHECKPOINTS, read_only, keep_every)
        try:
            yield opened
        finally:
            opened.close()

    def resume(self, checkpoints: Checkpoints, fresh: State) -> tuple[int, State]:
        """The newest step and its state, or 0 and ``fresh``; the history ends there. See `Checkpoints.resume`."""
        step, state = checkpoints.resume(fresh)
        self._forget_after(step)
        return step, state

    def weights(self, which: Which = "last") -> dict[str, np.ndarray]:
        """The weights of the newest checkpoint (``last``), the best one (``best``) or a step's, by name, on the host.

        Their moving average, where the run keeps one; without the heads that objectives keep beside the network. The
        best is the one of highest score in validation (mean foreground Dice, accuracy, or what another objective is
        ranked by); before any validation it is the newest.

        Raises:
            FdifError: the run has no checkpoint yet or none of that step, or it holds what is not finite.
        """
        with self.checkpoints(read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise FdifError(f"{self.path}: the run has no checkpoint yet; let it reach one first")
            known: dict[Which, int | None] = {"last": checkpoints.latest(), "best": checkpoints.best()}
            known |= {step: step for step in steps}
            if (step := known.get(which)) is None:
                raise unknown(f"checkpoint of {self.path}", str(which), map(str, known))
            kept = checkpoints.result(step)
            check_finite(f"{self.path}: the checkpoint of step {step}", kept)
            return {name: value for name, value in kept.items() if not name.startswith(f"{HEADS}.")}

    def restore(self, model: nnx.Module, which: Which = "last") -> None:
        """Put the weights of a checkpoint into a network, in place.

        Args:
            model: the network, e.g. ``models.create(**run.network)``.
            which: ``last``, ``best`` or a step, as in `weights`.

        Raises:
            FdifError: the run has no such checkpoint, or it is of another network; nothing is changed then.
        """
        saved = self.weights(which)
        check_same_network(f"{self.path}: the checkpoint", saved, weights(model))
        set_weights(model, {name: jax.numpy.asarray(value) for name, value in saved.items()})


@contextmanager
def open_run(path: str | os.PathLike, document: RunDocument) -> Iterator[Run]:
    """Begin a run, or open it to go on; no other process may train in it meanwhile.

    Args:
        path: the directory; made if it is not there.
        document: all that decides the result; its origin is that of this process where the run begins.

    Raises:
        FdifError: the directory holds something else, or a run that was asked for differently; what differs
            is named.
    """
    path = Path(path)
    if not is_first_process():
        wait_for_all("the run is open")
        _check_same_document(path, document)
        yield load_run(path)
        return
    begun = check_begins(path, document)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "w") as lock:
        if not hold(lock):
            raise FdifError(f"{path}: another process is training here; wait for it")
        if not begun:
            write_json(path / RUN, dataclasses.replace(document, origin=Origin.here()).to_dict())
        wait_for_all("the run is open")
        yield load_run(path)


def check_begins(path: Path, document: RunDocument) -> bool:
    """Whether a run that was asked for like this is there, to go on; FdifError as of `open_run`. Writes nothing."""
    if path.exists() and not path.is_dir():
        raise FdifError(f"{path} is a file; give a directory for the run")
    if (path / RUN).is_file():
        _check_same_document(path, document)
        return True
    if path.is_dir() and any(p.name != LOCK and not p.name.endswith(".part") for p in path.iterdir()):
        raise FdifError(f"{path} is not empty and holds no run ({RUN}); give a new or empty directory")
    return False


def load_run(path: str | os.PathLike) -> Run:
    """Open a run directory to read its network and its weights.

    Raises:
        FdifError: no run is there, or ``run.json`` is damaged.
    """
    path = Path(path)
    try:
        document = RunDocument.from_dict(_plain(path))
    except (FileNotFoundError, NotADirectoryError):
        raise FdifError(f"{path} is not a run directory: there is no {RUN} in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FdifError(f"{path / RUN} is damaged: {error!r}") from None
    return Run(path, document)


def _plain(path: Path) -> dict[str, Any]:
    return json_of((path / RUN).read_bytes())


def _check_same_document(path: Path, wanted: RunDocument) -> None:
    load_run(path)  # what is damaged is told so
    there = {key: value for key, value in _plain(path).items() if key not in ORIGIN}
    if found := differences(there, wanted.to_dict()):
        raise FdifError(
            f"{path} holds another run: {first_few(found)}; give the options it was begun with, or another directory"
        )
