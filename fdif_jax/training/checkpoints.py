"""The checkpoints of a run, through Orbax: written in the background, atomically; old ones are removed."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fdif_jax.errors import FdifError
from fdif_jax.training.network import HEADS, State
from fdif_jax.training.processes import is_first_process, lost_process, wait_for_all

UNSCORED = -1.0  # ranks below every score, so "best" is the newest checkpoint until there is a validation
_SUMS = "sums"  # beside the parts of a state: what tells whether they are read as they were written


class Checkpoints:
    """The checkpoints in a directory: the newest two, the best, and one every so often.

    Args:
        path: the directory.
        read_only: write nothing and remove nothing; another process may be writing there.
        keep_every: checkpoints of multiples of so many steps are never removed; 0 for none.
    """

    def __init__(self, path: Path, read_only: bool = False, keep_every: int = 0):
        import orbax.checkpoint as ocp  # only where it is needed: commands that never train start faster
        from orbax.checkpoint import checkpoint_managers as managers

        self._ocp, self._path = ocp, path.resolve()
        self._damage: str | None = None  # of the last checkpoint that was set aside

        def score(metrics: dict[str, float]) -> float:
            return metrics["score"]

        keep = [managers.LatestN(2), managers.BestN(get_metric_fn=score, n=1)]
        keep += [managers.EveryNSteps(keep_every)] if keep_every else []
        options = ocp.CheckpointManagerOptions(
            best_fn=score,
            preservation_policy=managers.AnyPreservationPolicy(keep),
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in (*State._fields, _SUMS)}

        def opened() -> Any:
            with _without_warnings():  # it warns that read_only means read only
                return ocp.CheckpointManager(self._path, item_handlers=handlers, options=options)

        self._manager = self._first_that_opens(opened, read_only)

    def _first_that_opens(self, opened: Callable[[], Any], read_only: bool) -> Any:
        """What Orbax opens, where even the description of a checkpoint may be damaged."""
        while True:
            try:
                return opened()
            except Exception as error:  # whatever a damaged file makes of the readers below us
                steps = [int(path.name) for path in self._path.glob("*") if path.name.isdigit()]
                if read_only or not steps:
                    raise FdifError(f"{self._path} cannot be read: {_first_line(error)}") from None
                self._set_aside(max(steps), _first_line(error))

    def steps(self) -> list[int]:
        """Steps of all checkpoints, increasing."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Step of the checkpoint of highest score."""
        return self._manager.best_step()

    def save(self, step: int, state: State, score: float | None) -> None:
        """Begin to write a checkpoint in the background.

        Args:
            step: steps done.
            state: arrays, perhaps divided over devices.
            score: of the validation at this very step, if there was one.

        Raises:
            FdifError: this checkpoint, or the one before, cannot be written.
        """
        if step == self.latest():
            return
        parts = _parts(state)
        if jax.default_backend() == "cpu":
            # The training step is about to donate these very buffers, of which Orbax keeps a view on a CPU.
            parts = jax.tree.map(jnp.copy, parts)
        parts[_SUMS] = _checksums(parts)
        saved = {name: self._ocp.args.StandardSave(part) for name, part in parts.items()}
        metrics = {"score": UNSCORED if score is None else score}
        with self._writing():
            self._manager.save(step, args=self._ocp.args.Composite(**saved), metrics=metrics)

    def result(self, step: int) -> dict[str, np.ndarray]:
        """The weights of a checkpoint by name, as `State.result` has them, on the host.

        Raises:
            FdifError: they are not what was written.
        """
        # Onto this process's own device: a checkpoint written on a GPU is read where there is none.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        metadata = self._manager.item_metadata(step)
        part = "weights" if metadata.get("average") is None else "average"
        wanted = {
            n: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here) for n, a in dict(metadata[part]).items()
        }
        try:
            restored = self._restore(step, {part: wanted})[part]
        except Exception as error:  # whatever a damaged file makes of the readers below us
            raise FdifError(
                f"{self._path}: the checkpoint of step {step} cannot be read: {_first_line(error)}; "
                "take another one, or let the run go on, which sets it aside"
            ) from None
        return {name: np.asarray(value) for name, value in restored.items()}

    def resume(self, fresh: State) -> tuple[int, State]:
        """The newest step that can be read and its state; 0 and ``fresh`` if there is none.

        A checkpoint that cannot be read is set aside, which is said on stderr.

        Args:
            fresh: a state of the same form, whose arrays lie where the restored ones are to lie.

        Raises:
            FdifError: the checkpoint is of another network, or none of them can be read.
        """
        for step in reversed(self.steps()):
            try:
                state = self._state(step, fresh)
            except FdifError:
                raise
            except Exception as error:  # whatever a damaged file makes of the readers below us
                self._set_aside(step, _first_line(error))
                self._manager.reload()
            else:
                return step, state
        if self._damage is not None:
            raise FdifError(
                f"{self._path}: no checkpoint can be read ({self._damage}); what there was is in {self._aside}. "
                "Begin a new run in another directory"
            )
        return 0, fresh

    def _state(self, step: int, fresh: State) -> State:
        there = self._manager.item_metadata(step)
        check_same_network(f"the checkpoint of step {step}", dict(there["weights"]), fresh.weights)
        wanted = {
            name: {k: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for k, a in part.items()}
            for name, part in _parts(fresh).items()
        }
        saved = self._restore(step, wanted)
        return State(
            dict(saved["weights"]),
            _like(fresh.moments, saved["moments"]),
            dict(saved["average"]) if fresh.average else {},
            _like(fresh.competence, saved["competence"]) if fresh.competence else fresh.competence,
        )

    def _restore(self, step: int, wanted: Mapping[str, Any]) -> Any:
        """Parts of a checkpoint; raises if they are not what was written."""
        written = dict(self._manager.item_metadata(step)[_SUMS])
        some = next(iter(next(iter(wanted.values())).values()))
        sums = {
            n: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=_everywhere(some)) for n, a in written.items()
        }
        parts = {n: self._ocp.args.StandardRestore(part) for n, part in {**wanted, _SUMS: sums}.items()}
        restored = self._manager.restore(step, args=self._ocp.args.Composite(**parts))
        for name, found in _checksums({name: restored[name] for name in wanted}).items():
            if not np.array_equal(found, restored[_SUMS][name]):
                raise ValueError(f"its {name} are not those that were written")
        return restored

    @property
    def _aside(self) -> Path:
        return self._path.with_name("damaged")

    def _set_aside(self, step: int, reason: str) -> None:
        self._damage = reason
        if is_first_process():
            self._aside.mkdir(exist_ok=True)
            os.replace(self._path / str(step), self._aside / f"{step}.{len(os.listdir(self._aside))}")
            print(
                f"{self._path}: the checkpoint of step {step} cannot be read ({reason}); it is in {self._aside} now, "
                "and the one before is taken",
                file=sys.stderr,
            )
        wait_for_all("a damaged checkpoint is set aside")

    def close(self) -> None:
        """Wait for what is being written; FdifError if it cannot be."""
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A write in the background that failed is told by the next call, as whatever the writers made of it."""
        try:
            yield
        except Exception as error:
            raise FdifError(
                lost_process(error)
                or f"{self._path}: a checkpoint cannot be written: {_first_line(error)}; those before it are kept, "
                "and the same command goes on from there"
            ) from None


@contextmanager
def _without_warnings() -> Iterator[None]:
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _everywhere(like: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
    """Where an array is the same on all devices that another one lies on."""
    there = like.sharding
    if isinstance(there, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(there.mesh, jax.sharding.PartitionSpec())
    return there


def _checksums(parts: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Of every part a number for each of its arrays, in the order of their names, uint32 ``(arrays,)``.

    Compiled for each shape, of which a network has few: a program of all arrays compiles for seconds.
    """
    return {name: jnp.stack([_checksum(part[key]) for key in sorted(part)]) for name, part in parts.items()}


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """The bits of an array as numbers, each times an odd number of its place, summed modulo 2³².

    One bit that flips always changes it, and the order of summing never does, however the array is divided.
    """
    bits = lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}").astype(jnp.uint32)
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis, length in enumerate(array.shape):
        place = place * jnp.uint32(length % 2**32) + lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _parts(state: State) -> dict[str, dict[str, jax.Array]]:
    """The parts of a state that are not empty, each as arrays by name."""
    parts = {
        "weights": state.weights,
        "moments": _numbered(state.moments),
        "average": state.average,
        "competence": _numbered(state.competence),
    }
    return {name: part for name, part in parts.items() if part}


def _numbered(tree: Any) -> dict[str, jax.Array]:
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def _like(tree: Any, numbered: Mapping[str, jax.Array]) -> Any:
    """The tree of such a form that was `_numbered`."""
    return jax.tree.unflatten(jax.tree.structure(tree), [numbered[str(i)] for i in range(len(numbered))])


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
        if name in saved and tuple(saved[name].shape) != tuple(wanted[name].shape)
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        heads = all(f"{HEADS}." in fault for fault in faults)
        hint = "; its objectives' heads are an earlier version's: begin a new run in another directory"
        raise FdifError(f"{what} is of another network: {'; '.join(faults[:3])}{more}{hint if heads else ''}")
