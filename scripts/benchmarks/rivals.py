"""The other ways to train the same network on the same scenes: from files, and as its PyTorch original."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fdif_jax.datasets.sources import RenderedSource
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_keys
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.scripts.benchmarks import networks
from fdif_jax.scripts.benchmarks.parts import Steps
from fdif_jax.scripts.jobs.prepared import Training
from fdif_jax.scripts.jobs.training_sources import files
from fdif_jax.scripts.options.format import format_of, job_of
from fdif_jax.scripts.options.pretraining import PretrainingOptions

_CASES = 8  # of the dataset; the machine remembers files that it has read, so more would change nothing


@contextlib.contextmanager
def from_files(training: Training, config: PretrainingOptions) -> Iterator[Steps]:
    """The same training from a dataset that `fdif generate` would write, in a folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="fdif-bench-", ignore_cleanup_errors=True) as folder:
        grid = tuple(training.source.grid)
        job = job_of(format_of(config, grid=grid, num_samples=_CASES, num_val_samples=1))
        drawn = RenderedSource(job.sample, config.seed, devices=training.devices.mesh.local_devices)
        write_dataset(folder, drawn, job.plan, workers=os.cpu_count() or 1)
        source = files(dataclasses.replace(config, data=Path(folder), val_samples=1), None)
        yield Steps(dataclasses.replace(training, source=source))


class TorchSteps:
    """The PyTorch original in training, from the same weights, on the first batch of scenes, which it keeps in memory.

    On a GPU its weights and images are in channels-last layout, which PyTorch advises for convolutions there.
    ``device`` is "cpu" or "cuda"; where JAX computes if not given. ``compiled`` is by `torch.compile`. FdifError if
    PyTorch or what the original needs is not there, or sees no GPU where JAX does.
    """

    def __init__(self, training: Training, device: str | None = None, compiled: bool = False):
        self._torch = torch = networks.torch_or_error()
        self._training, self._loss = training, torch_loss(training.source.objective)
        self._device = device or ("cpu" if jax.default_backend() == "cpu" else "cuda")
        if self._device == "cuda" and not torch.cuda.is_available():
            raise FdifError(
                "--from torch: JAX computes on an accelerator, and PyTorch sees none; install its CUDA build"
            )
        plan = training.plan
        self._net = networks.torch_net(training.model)
        self._layout = torch.channels_last_3d if self._device == "cuda" else torch.contiguous_format
        self._net.to(self._device, memory_format=self._layout).train()
        self._call = torch.compile(self._net) if compiled else self._net
        learnt = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay}
        self._optimiser = torch.optim.AdamW(self._net.parameters(), **learnt)
        self._average, averaged = None, torch.optim.swa_utils
        if plan.ema:
            averaging = averaged.get_ema_multi_avg_fn(plan.ema)
            self._average = averaged.AveragedModel(self._net, multi_avg_fn=averaging)
        keys = sample_keys(plan.seed, 0, plan.batch_size)
        images, labels = map(np.asarray, jax.jit(training.source.make_batch)(keys, None))
        labels = labels[:, None] if labels.ndim == 4 else labels
        images, labels = np.moveaxis(images, -1, 1).copy(), labels.astype(np.int64)
        # Images ``(B, C, D, H, W)`` and labels ``(B, T, D, H, W)`` on the device.
        self.batch = self._on_device(*map(torch.from_numpy, (images, labels)))
        self.feed: Iterator[tuple[Any, Any]] | None = None  # batches on the host instead of that one
        self.first_loss: float | None = None  # of the very first step, once there was a turn

    def __call__(self, turn: int) -> float:
        """A turn."""
        count = self._training.several
        start = time.perf_counter()
        losses = [self._step() for _ in range(count)]
        value = losses[0].item()  # waits
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        self.first_loss = value if self.first_loss is None else self.first_loss
        return (time.perf_counter() - start) / count

    def peak_bytes(self) -> int | None:
        """The most memory that PyTorch has held on the GPU; None on a CPU."""
        return self._torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def _on_device(self, images: Any, labels: Any) -> tuple[Any, Any]:
        images = images.to(self._device, memory_format=self._layout, non_blocking=True)
        return images, labels.to(self._device, non_blocking=True)

    def _step(self) -> Any:
        torch, plan = self._torch, self._training.plan
        bfloat16 = self._training.model.config.dtype == "bfloat16"
        self._optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self._device)
        batch = self._on_device(*next(self.feed)) if self.feed else self.batch
        for images, labels in zip(*(array.chunk(plan.accumulate) for array in batch), strict=True):
            with torch.autocast(self._device, torch.bfloat16, enabled=bfloat16):
                outputs = self._call(images)
            value = self._loss(outputs, labels) / plan.accumulate
            value.backward()
            total += value.detach()
        if plan.clip:
            torch.nn.utils.clip_grad_norm_(self._net.parameters(), plan.clip)
        self._optimiser.step()
        if self._average:
            self._average.update_parameters(self._net)
        return total


def torch_loss(objective: Any) -> Callable[[Any, Any], Any]:
    """The loss of `Segmentation` in PyTorch: MONAI's Dice with cross-entropy, or PyTorch's cross-entropy.

    It takes scores ``(B, C, D, H, W)``, or those of several resolutions, and labels ``(B, T, D, H, W)``. FdifError if
    MONAI is not installed, or whole images are classified.
    """
    if not isinstance(objective, Segmentation):
        raise FdifError("--from torch trains segmentation; leave out --task")
    functional = networks.torch_or_error().nn.functional
    if objective.criterion == "ce":

        def compare(scores: Any, labels: Any) -> Any:
            return functional.cross_entropy(scores, labels[:, 0])
    else:
        try:
            from monai.losses import DiceCELoss
        except ImportError:
            raise FdifError(
                "--from torch takes its loss from MONAI, which is not installed; install monai"
            ) from None
        compare = DiceCELoss(to_onehot_y=True, softmax=True)
    sizes = [len(task.class_names) + 1 for task in objective.tasks]

    def loss(outputs: Any, labels: Any) -> Any:
        levels = outputs if isinstance(outputs, list | tuple) else [outputs]
        # As `deeply_supervised`: each half as much as the next finer one, the coarsest not at all.
        weights = [2.0**-level for level in range(max(len(levels) - 1, 1))]
        total = 0
        for weight, scores in zip(weights, levels, strict=False):
            nearest = functional.interpolate(labels.float(), scores.shape[2:], mode="nearest-exact").long()
            for task, own in enumerate(scores.float().split(sizes, dim=1)):
                total += weight / sum(weights) * compare(own, nearest[:, task : task + 1])
        return total

    return loss
