"""A dataset of compressed volumes as PyTorch trainers read it, in processes that read ahead."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fdif_jax.io.nifti import read_nifti


class Cases(torch.utils.data.Dataset):
    """Images, z-scored ``(1, D, H, W)`` float32, and labels ``(1, D, H, W)`` int64 of files, again and again."""

    def __init__(self, files: list[tuple[Path, Path]], length: int):
        self._files, self._length = files, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = (read_nifti(path).array for path in self._files[index % len(self._files)])
        grey = image.astype(np.float32)
        grey = (grey - grey.mean()) / max(float(grey.std()), 1e-6)
        return torch.from_numpy(grey[None]), torch.from_numpy(label[None].astype(np.int64))
