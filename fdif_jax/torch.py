"""Generated volumes for a PyTorch trainer, through DLPack: what JAX drew is the tensor, nothing is copied.

Every tensor is the trainer's own: it may be written to in place, for nothing here reads its memory again. On a GPU
leave PyTorch room (``XLA_PYTHON_CLIENT_PREALLOCATE=false``), and clone a batch that is to outlive the next two.
"""

import itertools
import operator
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.rendering.look import normalise
from fdif_jax.scenes.compiler import compile
from fdif_jax.scenes.recipe import Mixture, Recipe, load_recipe
from fdif_jax.scenes.world import World

with needing("torch"):
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

__all__ = ["VolumeDataset"]

Batch = tuple[torch.Tensor, torch.Tensor] | dict[str, torch.Tensor]

_AHEAD = 2  # batches that are drawn while the trainer has one
_INDICES = 2**32  # a seed's samples
_IMPORTED_IN = os.getpid()  # another number in a process forked from this one


class VolumeDataset(IterableDataset):
    """Batches of generated images and labels, drawn while the trainer works on those before.

    Sample ``i`` depends on the recipe, the seed and ``i`` alone. With B samples a batch and R ranks, step t of all
    ranks together draws samples ``start + t·B·R …`` in order, rank r every R-th of them; a rank's batches, and their
    order in a `torch.utils.data.DataLoader`, are the same whatever the number of workers. An epoch is ``length``
    samples in all, each drawn once; the last batches may be short, so where all ranks must take equally many steps
    ``length`` should be a multiple of B·R. Every epoch is the same, unless ``length`` is None, which never ends.

    It makes its own batches, so give a loader none to make::

        dataset = VolumeDataset("fdif", batch_size=2)
        for image, label in dataset: ...
        loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")

    Workers draw on the CPU. They must be spawned: JAX's threads do not live through a fork.

    Attributes:
        recipe: what is drawn.
    """

    def __init__(
        self,
        source: Recipe | Mixture | World | str | Path,
        *,
        seed: int = 0,
        batch_size: int | None = 1,
        length: int | None = None,
        start: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        device: str | torch.device | None = None,
        normalise: bool = True,
        keys: tuple[str, str] | None = None,
    ):
        """Nothing is compiled or drawn until the first batch is asked for.

        Args:
            source: a recipe, a compiled one, or what `load_recipe` takes.
            seed: of all that is drawn.
            batch_size: samples a batch, B. None gives samples, without the axis of the batch.
            length: samples an epoch, over all ranks and workers; None for no end.
            start: index of the first sample; where to go on after ``start`` samples.
            rank: this process's place among ``world_size``; both are `torch.distributed`'s if it is initialised
                when drawing begins, else 0 of 1.
            world_size: number of processes that share an epoch, R.
            device: where to draw, and where tensors are, "cpu" or "cuda[:n]"; PyTorch's current GPU if not given
                and both JAX and PyTorch have one, else the CPU.
            normalise: images of zero mean and unit variance, a volume each; else grey values 0 … 128.
            keys: yield a dict with these names of image and label, for MONAI ``("image", "label")``, for nnU-Net
                ``("data", "target")``; else a tuple.

        Yields:
            Image, float32, and label, int64, both ``(B, 1, D, H, W)``; the label of T tasks ``(B, T, D, H, W)``.

        Raises:
            FdifError: a value is impossible, or the recipe is unknown.
        """
        if isinstance(source, World):
            self.program, self.recipe = source, source.recipe
        else:
            self.recipe = source if isinstance(source, Recipe | Mixture) else load_recipe(source)
        self._seed = _whole("seed", seed, 0, _INDICES - 1)
        self._batch_size = None if batch_size is None else _whole("batch_size", batch_size, 1)
        self._start = _whole("start", start, 0, _INDICES - 1)
        left = _INDICES - self._start
        self._end = self._start + (left if length is None else _whole("length", length, 1, left))
        self._endless = length is None
        if (rank is None) != (world_size is None):
            raise FdifError("rank and world_size go together; give both or neither")
        if rank is not None and world_size is not None:
            world_size = _whole("world_size", world_size, 1)
            rank = _whole("rank", rank, 0, world_size - 1)
        self._rank, self._world_size = rank, world_size
        if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", str(device)):
            raise FdifError(f"device must be cpu, cuda or cuda:<number>, not {device}")
        self._device = None if device is None else torch.device(device)
        if keys is not None and (isinstance(keys, str) or len(set(keys)) != 2):
            raise FdifError(f"keys must be two different names, of image and label, not {keys!r}")
        self._normalise, self._keys = normalise, keys

    @cached_property
    def program(self) -> World:
        """The compiled recipe: classes, grid, samples by number."""
        return compile(self.recipe)

    def __len__(self) -> int:
        """Batches that this rank draws in an epoch (samples, where ``batch_size`` is None); TypeError if there is no
        end.
        """
        if self._endless:
            raise TypeError("this VolumeDataset has no end; give it a length")
        return -(-len(self._indices()) // (self._batch_size or 1))

    def __getstate__(self) -> dict[str, Any]:
        # A worker compiles for itself, and is of the rank of the process that it works for.
        state = {name: value for name, value in self.__dict__.items() if name != "program"}
        rank, world_size = self._shard()
        return state | ({"_rank": rank, "_world_size": world_size} if world_size > 1 else {})

    def __iter__(self) -> Iterator[Batch]:
        device = self._placed()
        drawn: deque[tuple[jax.Array, jax.Array]] = deque()
        used: deque[tuple[Any, torch.cuda.Event]] = deque()
        batches = self._batches()
        for indices in itertools.islice(batches, _AHEAD):
            drawn.append(self._draw(indices, device))
        while drawn:
            drawn.extend(self._draw(indices, device) for indices in itertools.islice(batches, 1))
            arrays = drawn.popleft()
            image, label = map(torch.from_dlpack, arrays)
            yield (image, label) if self._keys is None else {self._keys[0]: image, self._keys[1]: label}
            if image.is_cuda:
                # JAX knows nothing of the work that PyTorch has queued on this memory, so it stays ours until that
                # is done: the batch before the last by now, hardly a wait.
                used.append((arrays, torch.cuda.current_stream(image.device).record_event()))
                if len(used) > 1:
                    used.popleft()[1].synchronize()
        for _, event in used:
            event.synchronize()

    def _shard(self) -> tuple[int, int]:
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _indices(self) -> range:
        """This rank's samples of an epoch."""
        rank, world_size = self._shard()
        return range(self._start + rank, self._end, world_size)

    def _batches(self) -> Iterator[range]:
        """This worker's batches: the rank's are dealt to its workers, as a loader collects them."""
        indices, size, worker = self._indices(), self._batch_size or 1, get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (indices[i : i + size] for i in range(first * size, len(indices), step * size))

    def _draw(self, indices: range, device: jax.Device) -> tuple[jax.Array, jax.Array]:
        """A batch that is on its way: every sample by the same programs, whatever the batch."""
        with jax.default_device(device):
            volumes = [self.program.sample_at(self._seed, i) for i in indices]
            with jax.enable_x64(True):
                samples = [_finish(*volume, normalised=self._normalise) for volume in volumes]
                return samples[0] if self._batch_size is None else _stack(samples)

    def _placed(self) -> jax.Device:
        """Where to draw; FdifError if this process cannot draw, or not there."""
        if os.getpid() != _IMPORTED_IN:
            raise FdifError(
                "JAX cannot draw in a forked process; give the DataLoader num_workers=0 "
                'or multiprocessing_context="spawn"'
            )
        on_gpu = self._device is not None and self._device.type == "cuda"
        if get_worker_info() is not None:
            if on_gpu:
                raise FdifError("workers draw on the CPU; to draw on a GPU give the DataLoader num_workers=0")
            jax.config.update("jax_platforms", "cpu")  # that they take no memory of a GPU
        gpus = _gpus() if on_gpu or self._device is None else {}
        if not gpus:
            if not on_gpu:
                return jax.local_devices(backend="cpu")[0]
            raise FdifError(
                f"device {self._device}: JAX and PyTorch share no GPU; install fdif-jax[cuda], or take cpu"
            )
        number = torch.device("cuda" if self._device is None else self._device).index
        number = torch.cuda.current_device() if number is None else number
        if number not in gpus:
            raise FdifError(f"device cuda:{number}: the GPUs that JAX and PyTorch share are {sorted(gpus)}")
        return gpus[number]


def _gpus() -> Mapping[int, jax.Device]:
    """The GPUs that both JAX and PyTorch see, by PyTorch's number."""
    if get_worker_info() is not None or not torch.cuda.is_available():
        return {}
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:  # a JAX without GPUs
        return {}
    return {device.local_hardware_id: device for device in devices}


def _whole(name: str, value: SupportsIndex, least: int, most: int | None = None) -> int:
    """``value`` as an int within its limits; FdifError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise FdifError(f"{name} must be a whole number, not {value!r}") from None
    if number < least or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise FdifError(f"{name} must be {limits}, not {value}")
    return number


@partial(jax.jit, static_argnames="normalised")
def _finish(image: jax.Array, label: jax.Array, normalised: bool) -> tuple[jax.Array, jax.Array]:
    """One sample as trainers take it, ``(1, D, H, W)`` both; to be called with 64-bit types enabled."""
    image = normalise(image[None]) if normalised else image[None].astype(jnp.float32)
    label = label if label.ndim == 4 else label[None]
    return image, label.astype(jnp.int64)


@jax.jit
def _stack(samples: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
    images, labels = zip(*samples, strict=True)
    return jnp.stack(images), jnp.stack(labels)
