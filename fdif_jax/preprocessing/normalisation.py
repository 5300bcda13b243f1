"""How a channel of real images becomes numbers of the size that networks are trained on; on the host."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.settings import Choice, read_choice

_LEAST_DEVIATION = 1e-6


class Normalisation(Choice):
    """A channel ``(D, H, W)`` of any intensities → float32 of the same shape."""

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """Normalise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Window(Normalisation):
    """Clip to a window, then subtract and divide by constants of the dataset, for intensities that have a unit (CT)."""

    kind: ClassVar[str] = "window"
    window: tuple[float, float]
    mean: float
    deviation: float

    def __post_init__(self):
        super().__post_init__()
        if not self.window[0] < self.window[1] or not self.deviation > 0:
            raise FdifError(
                f"a window goes from a lower to a higher intensity, and its deviation is positive, not {self}"
            )

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """See `Normalisation`."""
        result = np.clip(channel, *self.window, dtype=np.float32)
        result -= np.float32(self.mean)
        result /= np.float32(self.deviation)
        return result


@dataclass(frozen=True)
class ZScore(Normalisation):
    """Zero mean and unit variance in every image."""

    kind: ClassVar[str] = "zscore"
    nonzero: bool = False  # over voxels that are not 0; those that are stay 0

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """See `Normalisation`."""
        outside = channel == 0 if self.nonzero else None
        measured = channel if outside is None or outside.all() else channel[~outside]
        mean, deviation = measured.mean(dtype=np.float64), measured.std(dtype=np.float64)
        result = channel.astype(np.float32)
        result -= np.float32(mean)
        result /= np.float32(max(deviation, _LEAST_DEVIATION))
        if outside is not None:
            result[outside] = 0
        return result


@dataclass(frozen=True)
class UnitRange(Normalisation):
    """From the least to the greatest intensity of every image: 0 to 1."""

    kind: ClassVar[str] = "unit_range"

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """See `Normalisation`."""
        low = channel.min()
        return (channel - low).astype(np.float32) / np.float32(max(channel.max() - low, _LEAST_DEVIATION))


@dataclass(frozen=True)
class AsItIs(Normalisation):
    """Intensities as the file has them."""

    kind: ClassVar[str] = "none"

    def __call__(self, channel: np.ndarray) -> np.ndarray:
        """See `Normalisation`."""
        return channel.astype(np.float32)


_KINDS = {kind.kind: kind for kind in (Window, ZScore, UnitRange, AsItIs)}


def read_normalisation(data: Any) -> Normalisation:
    """A normalisation from plain data; FdifError for an unknown ``kind``, or keys that it has not."""
    return data if isinstance(data, Normalisation) else read_choice(data, _KINDS, "normalisation")
