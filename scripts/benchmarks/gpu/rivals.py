"""Part `rivals`: the PyTorch original's training step, from memory and from files, compiled and not."""

import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.rival_files import Cases
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.gpu.steps import config_of
from fdif_jax.scripts.benchmarks.parts import spread
from fdif_jax.scripts.benchmarks.rivals import TorchSteps
from fdif_jax.scripts.jobs.prepared import Training, prepare

_CASES = 16  # of the dataset that is read
_EPOCH = 100_000  # volumes before the loader would begin anew


def measure(size: Size, figures: Figures) -> None:
    """Every network by PyTorch: automatic mixed precision, channels last; then with `torch.compile`."""
    for compiled in (False, True)[: 1 + size.compile_torch]:
        for name, options in size.networks.items():
            what = f"{name} compiled" if compiled else name
            with figures.attempt(what):
                figures.add(what, _measured(options, size, figures, compiled))
            _forget()


def _measured(options: tuple[str, ...], size: Size, figures: Figures, compiled: bool) -> dict[str, Any]:
    training = prepare(config_of(options, size.batch))
    steps = TorchSteps(training, device="cuda" if torch.cuda.is_available() else "cpu", compiled=compiled)
    if compiled:
        steps(0)  # compiles, on the CPU for the most part
    with figures.alone():
        figure = {"batch": size.batch, "memory": _seconds(steps, size)}
        if not compiled:
            figure["files"] = _from_files(training, steps, size, figures.folder)
    return figure | {"peak_bytes": steps.peak_bytes(), "first_loss": steps.first_loss}


def _seconds(steps: TorchSteps, size: Size) -> dict[str, float]:
    steps(0)
    measured = spread([steps(turn) for turn in range(1, size.runs + 1)])
    return measured | {"volumes_per_second": size.batch / measured["seconds"]}


def _from_files(training: Training, steps: TorchSteps, size: Size, folder: Path) -> dict[str, float]:
    """The same from compressed files that workers of a loader read ahead, as trainers do."""
    files = _dataset(steps, folder / "rival_files")
    feed = _loaded(files, size.batch)
    steps.feed = feed
    try:
        return _seconds(steps, size)
    finally:
        steps.feed = None


def _dataset(steps: TorchSteps, folder: Path) -> list[tuple[Path, Path]]:
    """The batch that stays in memory, volume by volume, as often as needed, as NIfTI files."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = (array.cpu().numpy()[:, 0] for array in steps.batch)
    files = []
    for i in range(_CASES):
        image, label = folder / f"image_{i}.nii.gz", folder / f"label_{i}.nii.gz"
        grey = np.clip(images[i % len(images)] * 40 + 64, 0, 128).astype(np.uint8)
        write_nifti(image, grey)
        write_nifti(label, labels[i % len(labels)].astype(np.uint8))
        files.append((image, label))
    return files


def _loaded(files: list[tuple[Path, Path]], batch: int) -> Iterator[tuple[Any, Any]]:
    # Spawned: JAX's threads do not live through a fork.
    loader = torch.utils.data.DataLoader(
        Cases(files, _EPOCH),
        batch,
        num_workers=min(8, os.cpu_count() or 1),
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4,
        multiprocessing_context="spawn",
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _forget() -> None:
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
