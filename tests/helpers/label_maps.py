"""Label maps to compare, and how MONAI takes them."""

import numpy as np
import torch


def one_hot(labels, num_classes):
    channels = labels[None] == np.arange(num_classes).reshape(-1, *[1] * labels.ndim)
    return torch.from_numpy(channels[None].astype(np.float32))


def label_maps(seed, shape, num_classes):
    """Two maps of blobs, which share some classes; one is noisy."""
    rng = np.random.default_rng(seed)
    axes = np.indices(shape)
    maps = np.zeros((2, *shape), np.uint16)
    for number in rng.integers(1, num_classes, 6):
        centre, radius = rng.integers(0, shape), rng.uniform(1.5, 5)
        for volume in maps[: rng.integers(1, 3)]:
            moved = centre + rng.integers(-1, 2, 3)
            volume[((axes - moved.reshape(3, 1, 1, 1)) ** 2).sum(0) < radius**2] = number
    noise = rng.random(shape) < 0.02
    maps[1][noise] = rng.integers(0, num_classes, noise.sum())
    return maps
