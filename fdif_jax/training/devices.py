"""Many devices: a mesh over which batches are divided and, if asked, weights; over several processes, too.

Every device draws its own rows of a batch, as sample n of a seed is the same wherever it is drawn. What is computed
of them is one program on global arrays, and XLA puts in the communication.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fdif_jax.errors import FdifError

AXIS = "data"  # of the mesh
_LEAST_DIVIDED = 2**14  # numbers; a smaller array is not worth its communication


def divide_cpu(count: int) -> None:
    """Make a CPU count as that many devices, where JAX has not begun to use it; 0 and 1 change nothing.

    Raises:
        FdifError: a negative number.
    """
    if count < 0:
        raise FdifError(f"--devices must be 0 (all) or more, not {count}")
    if count > 1:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def local_devices(count: int = 0) -> Sequence[jax.Device]:
    """This process's first ``count`` devices, 0 for all; see `divide_cpu`.

    Raises:
        FdifError: there are fewer.
    """
    divide_cpu(count)
    devices = jax.local_devices()
    if len(devices) < count:
        raise FdifError(f"--devices {count}: there are {len(devices)}")
    return devices[: count or None]


@dataclass(frozen=True)
class Devices:
    """The devices of a run, those of all its processes.

    Attributes:
        each: how many devices of every process; 0 for all.
        shard_weights: divide large arrays of weights, moments and averages over the devices, instead of a copy on
            each: every device keeps the part it updates, and gathers the others' when it needs them.
    """

    each: int = 0
    shard_weights: bool = False

    @cached_property
    def mesh(self) -> Mesh:
        """All devices, along one axis."""
        local_devices(self.each)
        processes = {device.process_index for device in jax.devices()}
        chosen = [jax.local_devices(process_index=i)[: self.each or None] for i in sorted(processes)]
        return Mesh(np.concatenate(chosen), (AXIS,))

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size

    @property
    def copied(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def by_rows(self) -> NamedSharding:
        """The first axis divided."""
        return NamedSharding(self.mesh, P(AXIS))

    def sharding(self, array: Any) -> NamedSharding:
        """Where an array of weights lives: its longest axis that can be divided is, if it is large."""
        shape = np.shape(array)
        divisible = [n if n % self.count == 0 else 0 for n in shape]
        if not self.shard_weights or math.prod(shape) < _LEAST_DIVIDED or not any(divisible):
            return self.copied
        axis = divisible.index(max(divisible))
        return NamedSharding(self.mesh, P(*[AXIS if i == axis else None for i in range(len(shape))]))

    def place(self, tree: Any) -> Any:
        """A copy of weights, moments or averages where `sharding` says."""
        # Copied by one program: one for each shape takes longer to compile.
        copies = jax.jit(lambda arrays: jax.tree.map(jax.numpy.copy, arrays))(tree)
        return jax.tree.map(lambda a: jax.device_put(a, self.sharding(a)), copies)

    def copy_to_all(self, tree: Any) -> Any:
        """Arrays on every device."""
        return jax.tree.map(lambda a: jax.device_put(a, self.copied), tree)

    def gather(self, tree: Any) -> Any:
        """Whole arrays on the host, in every process, which all must ask for them."""
        return jax.tree.map(np.asarray, jax.jit(lambda arrays: arrays, out_shardings=self.copied)(tree))

    def divide(self, rows: Any) -> Any:
        """This process's rows of a batch (host arrays) as global arrays, divided over the devices."""
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(self.by_rows, a), rows)

    def spread(self, function: Callable[..., Any], *rows: bool) -> Callable[..., Any]:
        """``function`` on every device, each with its own rows.

        Args:
            function: of arrays whose rows do not depend on each other; returns arrays with as many rows.
            rows: for every argument whether its rows are divided; else it is the same for all.
        """
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(P(AXIS) if divided else P() for divided in rows),
            out_specs=P(AXIS),
            check_vma=False,
        )

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Check that every device gets equally many samples of a batch.

        Raises:
            FdifError: it does not; a batch that would do is named.
        """
        parts = self.count * accumulate
        if batch_size % parts:
            of = f"{self.count} device{'s' * (self.count > 1)}"
            of += f" × {accumulate} accumulated parts" if accumulate > 1 else ""
            fitting = -(-batch_size // parts) * parts
            raise FdifError(
                f"a batch of {batch_size} cannot be divided over {of}; give {fitting}, or fewer devices"
            )

    def describe(self) -> str:
        """In words, for a person."""
        kind = self.mesh.devices.flat[0].device_kind
        processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{self.count} × {kind}{processes}" + (", weights divided" if self.shard_weights else "")


class OneEach:
    """A function of weights and one sample's number, computed on every device for a number of its own.

    Attributes:
        size: how many numbers a call takes: one a device.
    """

    def __init__(self, devices: Devices, function: Callable[[Any, jax.Array], Any]):
        def one(index: jax.Array, weights: Any) -> Any:
            return jax.tree.map(lambda a: a[None], function(weights, index[0]))

        self.size, self._devices = devices.count, devices
        self._call = jax.jit(devices.spread(one, True, False), out_shardings=devices.copied)

    def __call__(self, weights: Any, indices: np.ndarray) -> Any:
        """Results of ``indices`` (uint32, ``(size,)``) along a new first axis, on every device and in every process."""
        rows = jax.make_array_from_callback(indices.shape, self._devices.by_rows, lambda part: indices[part])
        return self._call(rows, weights)
