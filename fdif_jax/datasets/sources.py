"""Where a dataset's samples come from: a jitted function of a key and an index, called from several threads."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np
from jax import lax

from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_key
from fdif_jax.scenes.world import World

DrawSample = Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]
"""Key and index of a sample → what its files hold; pure and jittable."""


def labelled(program: World, instances: bool = False) -> DrawSample:
    """Samples of a program as files hold them: the image, then every label map, in the smallest type it fits in.

    Args:
        program: what draws them.
        instances: which instance owns a voxel is one map more, the last.
    """
    numbers = [len(class_names) for _, class_names in program.tasks]
    numbers += [program.objects] if instances else []
    dtypes = [np.min_scalar_type(number) for number in numbers]

    def sample(key: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
        if instances:
            views = program.views(key, 1)
            image, label, further = views.images[0], views.label, [views.owner]
        else:
            (image, label), further = program.sample(key), []
        maps = [*([label] if label.ndim == 3 else label), *further]
        return image, *(one.astype(dtype) for one, dtype in zip(maps, dtypes, strict=True))

    return sample


class RenderedSource:
    """Renders samples of one seed; thread t renders on device ``t % len(devices)``.

    Two threads that call a jitted function on the one CPU device run in parallel (JAX releases the
    interpreter's lock), so the CPU needs no further host devices.
    """

    def __init__(
        self,
        sample: DrawSample,
        seed: int,
        batch_size: int = 1,
        devices: Sequence[jax.Device] | None = None,
    ):
        if not 0 <= seed < 2**32:
            raise FdifError(f"seed {seed}: must be 0 to {2**32 - 1}")

        def one(seed: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
            return sample(sample_key(seed, index), index)

        def many(seed: jax.Array, indices: jax.Array) -> tuple[jax.Array, ...]:
            # One after another: under `vmap` every branch of the renderer would run.
            return lax.map(partial(one, seed), indices)

        self._seed, self._batch_size = np.uint32(seed), batch_size
        self._render = jax.jit(one if batch_size == 1 else many)
        self._devices = devices or jax.local_devices()
        self._seats = itertools.cycle(range(len(self._devices)))
        self._seat = threading.local()
        # Until a device's program is compiled only one thread may ask for it, or each would compile its own.
        self._compiling = [threading.Lock() for _ in self._devices]
        self._compiled = [False] * len(self._devices)

    def __call__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, ...]]:
        """The arrays of each index."""
        if not hasattr(self._seat, "number"):
            self._seat.number = next(self._seats)
        seat = self._seat.number
        with contextlib.nullcontext() if self._compiled[seat] else self._compiling[seat]:
            with jax.default_device(self._devices[seat]):
                samples = self._rendered(indices)
            self._compiled[seat] = True
        return samples

    def _rendered(self, indices: Sequence[int]) -> list[tuple[np.ndarray, ...]]:
        if self._batch_size == 1:
            return [tuple(map(np.asarray, self._render(self._seed, np.uint32(i)))) for i in indices]
        # A short last run is filled up, so that there is one program to compile.
        filled = [*indices, *[indices[-1]] * (self._batch_size - len(indices))]
        arrays = map(np.asarray, self._render(self._seed, np.asarray(filled, np.uint32)))
        return list(zip(*arrays, strict=True))[: len(indices)]
