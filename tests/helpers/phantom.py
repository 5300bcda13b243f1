"""A phantom of organs whose geometry is known."""

import numpy as np

NAMES = {2: "shell", 5: "core", 6: "left", 9: "right", 11: "far"}


def phantom(
    affine: np.ndarray, shape=(40, 36, 30), stretch: float = 1.0, shift=(0.0, 0.0, 0.0)
) -> np.ndarray:
    """Organs as formulas in millimetres: a core within a shell, two boxes that touch, a ball far off. Ids have gaps."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y, z = np.moveaxis((index @ affine[:3, :3].T + affine[:3, 3] - shift) / stretch, -1, 0)
    ball = np.sqrt((x + 15) ** 2 + (y + 10) ** 2 + z**2)
    label = np.zeros(shape, np.uint8)
    label[ball < 13] = 2
    label[ball < 7] = 5
    label[(abs(x - 12) < 5) & (abs(y - 5) < 9) & (abs(z) < 8)] = 6
    label[(abs(x - 22) < 5) & (abs(y - 5) < 9) & (abs(z) < 8)] = 9
    label[np.sqrt((x - 15) ** 2 + (y + 18) ** 2 + (z - 4) ** 2) < 5] = 11
    return label


def plain(spacing=(2.0, 2.0, 2.0), shape=(40, 36, 30)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.asarray(spacing) * np.asarray(shape) / 2
    return affine
