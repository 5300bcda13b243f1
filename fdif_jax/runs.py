"""Run directories: what a training run was asked to do, what it measured, and checkpoints to go on from.

::

    run.json        what was asked for (network, recipe or dataset, training settings), the versions that began it
    metrics.jsonl   one line a measurement, each with its step
    checkpoints/    the newest two and the one of best Dice; a checkpoint appears complete or not at all (Orbax)

The command that made a directory continues it; a command that asks for anything else is refused.
"""

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from fdif_jax.errors import FdifError, unknown
from fdif_jax.volumes import write_atomic

RUN, METRICS, CHECKPOINTS, LOCK = "run.json", "metrics.jsonl", "checkpoints", ".lock"
_PACKAGES = ("fdif-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_UNVALIDATED = -1.0  # ranks below every Dice, so "best" is the newest checkpoint until there is a validation

Weights = dict[str, jax.Array]


# What a network learns, and a checkpoint keeps: parameters, and the running statistics of batch norms.
LEARNT = nnx.Any(nnx.Param, nnx.BatchStat)


def weights(model: nnx.Module, kind: nnx.filterlib.Filter = LEARNT) -> Weights:
    """What a network has learnt by name, the attribute path joined by dots; of one kind of variable if given."""
    return {".".join(map(str, path)): p[...] for path, p in nnx.to_flat_state(nnx.state(model, kind))}


def set_weights(model: nnx.Module, new: Mapping[str, jax.Array]) -> None:
    """Put named weights into a network, in place; names that are not given stay as they are."""
    flat = nnx.to_flat_state(nnx.state(model, LEARNT))
    named = [(path, p, ".".join(map(str, path))) for path, p in flat]
    nnx.update(model, nnx.from_flat_state([(path, p.replace(new[n])) for path, p, n in named if n in new]))


class Run:
    """An opened run directory.

    Attributes:
        path: the directory.
        document: ``run.json``.
        history: the measurements so far, oldest first.
    """

    def __init__(self, path: Path, document: dict[str, Any]):
        """Use `open_run` or `load_run`."""
        self.path, self.document = path, document
        self.history: list[dict[str, float]] = _read_metrics(path / METRICS)

    @property
    def network(self) -> dict[str, Any]:
        """The network as plain data: ``name``, ``in_channels``, ``out_channels`` and its size."""
        return self.document["network"]

    # ---------------------------------------------------------------------------------------- measurements

    def record(self, **measurement: float) -> None:
        """Append a measurement to the history and to ``metrics.jsonl``."""
        self.history.append(measurement)
        with open(self.path / METRICS, "a") as file:
            file.write(json.dumps(measurement) + "\n")

    def best_dice(self) -> float:
        """The highest validation Dice so far; -1 if there is none."""
        return max((m["dice"] for m in self.history if _is_dice(m)), default=_UNVALIDATED)

    def _forget_after(self, step: int) -> None:
        """Drop measurements of steps that will be done again."""
        self.history = [m for m in self.history if m["step"] <= step]
        lines = "".join(json.dumps(m) + "\n" for m in self.history)
        write_atomic(self.path / METRICS, lines.encode())

    # ----------------------------------------------------------------------------------------- checkpoints

    @contextmanager
    def checkpoints(self, *, read_only: bool = False) -> Iterator["Checkpoints"]:
        """The run's checkpoints; what is being written is complete on leaving."""
        opened = Checkpoints(self.path / CHECKPOINTS, read_only)
        try:
            yield opened
        finally:
            opened.close()

    def resume(self, checkpoints: "Checkpoints", state: Any) -> tuple[int, Any]:
        """The newest step and its state, or 0 and ``state`` itself; the history ends there.

        Args:
            checkpoints: this run's.
            state: a fresh training state, ``(weights, optimiser state)``.

        Raises:
            FdifError: the checkpoint is of another network.
        """
        step = checkpoints.latest()
        self._forget_after(step or 0)
        return (0, state) if step is None else (step, checkpoints.restore(step, state))

    def weights(self, which: str = "last") -> dict[str, np.ndarray]:
        """The parameters of the newest (``last``) or the best (``best``) checkpoint, by name, on the host.

        The best is the one of highest validation Dice; before any validation it is the newest.

        Raises:
            FdifError: the run has no checkpoint yet, or ``which`` is neither.
        """
        if which not in ("last", "best"):
            raise unknown("checkpoint", which, ("last", "best"))
        with self.checkpoints(read_only=True) as checkpoints:
            step = checkpoints.best() if which == "best" else checkpoints.latest()
            if step is None:
                raise FdifError(f"{self.path}: the run has no checkpoint yet; let it reach one first")
            return checkpoints.weights(step)

    def restore(self, model: nnx.Module, which: str = "last") -> None:
        """Put the weights of a checkpoint into a network, in place.

        Args:
            model: the network, e.g. ``models.create(**run.network)``.
            which: ``last`` or ``best``, as in `weights`.

        Raises:
            FdifError: the run has no checkpoint, or it is of another network; nothing is changed then.
        """
        saved = self.weights(which)
        check_same_network(f"{self.path}: the checkpoint", saved, weights(model))
        set_weights(model, {name: jax.numpy.asarray(value) for name, value in saved.items()})


class Checkpoints:
    """The checkpoints of a run, through Orbax: written in the background, atomically; old ones are
    removed."""

    def __init__(self, path: Path, read_only: bool = False):
        import orbax.checkpoint as ocp  # only where it is needed: commands that never train start faster
        from orbax.checkpoint import checkpoint_managers as managers

        self._ocp = ocp

        def dice(metrics: dict[str, float]) -> float:
            return metrics["dice"]

        keep = managers.AnyPreservationPolicy([managers.LatestN(2), managers.BestN(get_metric_fn=dice, n=1)])
        options = ocp.CheckpointManagerOptions(
            best_fn=dice,
            preservation_policy=keep,
            create=not read_only,
            read_only=read_only,  # another process may be writing there
            cleanup_tmp_directories=not read_only,
        )
        with _without_warnings():  # it warns that read_only means read only
            self._manager = ocp.CheckpointManager(
                path.resolve(),
                item_handlers={name: ocp.StandardCheckpointHandler() for name in ("weights", "optimiser")},
                options=options,
            )

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the checkpoint of highest Dice."""
        return self._manager.best_step()

    def save(self, step: int, state: Any, dice: float | None) -> None:
        """Begin to write a checkpoint in the background.

        Args:
            step: steps done.
            state: ``(weights, optimiser state)``.
            dice: validation Dice at this very step, if it was measured.
        """
        if step == self.latest():
            return
        # Copies: the training step is about to donate these very buffers, and on CPU a NumPy view would not
        # keep them.
        kept = jax.tree.map(np.array, {"weights": state[0], "optimiser": _numbered(state[1])})
        parts = self._ocp.args.Composite(**{k: self._ocp.args.StandardSave(v) for k, v in kept.items()})
        self._manager.save(step, args=parts, metrics={"dice": _UNVALIDATED if dice is None else dice})

    def weights(self, step: int) -> dict[str, np.ndarray]:
        """The weights of a checkpoint by name."""
        return {name: np.asarray(value) for name, value in self._restore(step, "weights").items()}

    def restore(self, step: int, state: Any) -> Any:
        """The whole state of a checkpoint, in the form of ``state``.

        Raises:
            FdifError: it is of another network.
        """
        saved = self._restore(step, "weights")
        check_same_network(f"the checkpoint of step {step}", saved, state[0])
        optimiser = self._restore(step, "optimiser")
        number = iter(range(len(optimiser)))
        return saved, jax.tree.map(lambda _: optimiser[str(next(number))], state[1])

    def _restore(self, step: int, part: str) -> dict[str, jax.Array]:
        # Onto this process's own device: a checkpoint written on a GPU is read where there is none.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        saved = dict(self._manager.item_metadata(step)[part])
        wanted = {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here) for name, a in saved.items()}
        restore = self._ocp.args.StandardRestore(wanted)
        return self._manager.restore(step, args=self._ocp.args.Composite(**{part: restore}))[part]

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


@contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _numbered(tree: Any) -> dict[str, jax.Array]:
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def check_same_network(what: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare two sets of named weights.

    Raises:
        FdifError: names that are missing or too many, or other shapes; the first few are named.
    """
    faults = [f"lacks {name}" for name in wanted if name not in saved]
    faults += [f"has {name}, which the network lacks" for name in saved if name not in wanted]
    faults += [
        f"{name} is {tuple(saved[name].shape)} there and {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in saved and saved[name].shape != wanted[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise FdifError(f"{what} is of another network: {'; '.join(faults[:3])}{more}")


@contextmanager
def open_run(path: str | os.PathLike, document: Mapping[str, Any]) -> Iterator[Run]:
    """Begin a run, or open it to go on; no other process may train in it meanwhile.

    Args:
        path: the directory; made if it is not there.
        document: all that decides the result, as plain data; what ``run.json`` holds beside the versions.

    Raises:
        FdifError: the directory holds something else, or a run that was asked for differently; what differs
        is named.
    """
    path = Path(path)
    wanted: dict[str, Any] = json.loads(json.dumps(document))
    if path.exists() and not path.is_dir():
        raise FdifError(f"{path} is a file; give a directory for the run")
    begun = (path / RUN).is_file()
    if begun:
        _check_same_document(path, wanted)
    elif path.is_dir() and any(p.name != LOCK and not p.name.endswith(".part") for p in path.iterdir()):
        raise FdifError(f"{path} is not empty and holds no run ({RUN}); give a new or empty directory")
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK, "w") as lock:
        _hold(lock, path)
        if not begun:
            wanted["versions"] = {name: version(name) for name in _PACKAGES}
            write_atomic(path / RUN, (json.dumps(wanted, indent=1) + "\n").encode())
        yield load_run(path)


def load_run(path: str | os.PathLike) -> Run:
    """Open a run directory to read its network and its weights.

    Raises:
        FdifError: no run is there, or ``run.json`` is damaged.
    """
    path = Path(path)
    try:
        document = json.loads((path / RUN).read_bytes())
        if not isinstance(document["network"], dict):
            raise ValueError("its network is no table")
    except (FileNotFoundError, NotADirectoryError):
        raise FdifError(f"{path} is not a run directory: there is no {RUN} in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FdifError(f"{path / RUN} is damaged: {error!r}") from None
    return Run(path, document)


def _hold(lock, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FdifError(f"{path}: another process is training here; wait for it") from None
    except OSError:
        pass  # a file system without locks


def _check_same_document(path: Path, wanted: dict) -> None:
    there = {k: v for k, v in load_run(path).document.items() if k != "versions"}
    old, new = _flattened(there), _flattened(wanted)
    differing = [key for key in (old | new) if old.get(key) != new.get(key)]
    if differing:
        told = [f"{key} is {_short(old, key)} there and {_short(new, key)} here" for key in differing[:4]]
        more = f", and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise FdifError(
            f"{path} holds another run: {', '.join(told)}{more}; "
            "give the options it was begun with, or another directory"
        )


def _flattened(document: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(flat: dict, key: str) -> str:
    text = json.dumps(flat[key]) if key in flat else "not set"
    return text if len(text) <= 60 else text[:57] + "..."


def _read_metrics(path: Path) -> list[dict[str, float]]:
    """The whole lines of ``metrics.jsonl``; a killed process may have left half of one at the end."""
    history = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            history.append(json.loads(line))
        except ValueError:
            break
    return history


def _is_dice(measurement: dict[str, float]) -> bool:
    return not math.isnan(measurement.get("dice", math.nan))
