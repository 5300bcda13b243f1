"""What a network learns: how many scores it gives, the loss of them, and what they say.

Labels are ``(B, D, H, W)``, ``(B, T, D, H, W)`` with several tasks, or ``(B, L)`` of whole images. The scores of all
tasks, or of all labels, lie side by side in the channels of one head: a 1×1×1 convolution, or a linear map, to all of
them is one to each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from fdif_jax.errors import FdifError, unknown
from fdif_jax.objectives.losses import (
    LOSSES,
    REGION_LOSSES,
    cross_entropy,
    deeply_supervised,
    overlap_per_class,
)
from fdif_jax.tasks import Task

Scores = Float[Array, "B D H W C"] | Sequence[Float[Array, "B d h w C"]]


@dataclass(frozen=True)
class Segmentation:
    """The class of every voxel, in each of one or more tasks.

    Attributes:
        tasks: label maps and their foreground classes, as a compiled recipe has them.
        criterion: ``dice_ce`` or ``ce``.

    Raises:
        FdifError: no tasks, or an unknown loss.
    """

    tasks: tuple[Task, ...]
    criterion: str = "dice_ce"

    def __post_init__(self):
        if not self.tasks:
            raise FdifError("segmentation has at least one task")
        if self.criterion not in LOSSES:
            raise unknown("loss", self.criterion, LOSSES)

    @property
    def channels(self) -> int:
        """Channels of the head: of every task its classes and the background."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [len(task.class_names) + 1 for task in self.tasks]

    def loss(self, outputs: Scores, labels: Integer[Array, "B *tasks D H W"]) -> Float[Array, ""]:
        """Sum over the tasks of the loss of each, which for several resolutions is `deeply_supervised`.

        Args:
            outputs: the network's scores; with deep supervision of several resolutions, finest first.
            labels: with a task axis where there are several.
        """
        resolutions = outputs if isinstance(outputs, Sequence) else [outputs]
        parts = [_parted(scores, self._sizes) for scores in resolutions]
        if len(self.tasks) == 1:
            labels = labels[:, None]
        compare = deeply_supervised(LOSSES[self.criterion])
        return _sum(compare, [list(task) for task in zip(*parts, strict=True)], labels)

    def predict(self, outputs: Scores) -> Int[Array, "B *tasks D H W"]:
        """The most probable class of every voxel at the finest resolution, with a task axis if there are several."""
        finest = outputs[0] if isinstance(outputs, Sequence) else outputs
        classes = [scores.argmax(-1) for scores in _parted(finest, self._sizes)]
        return classes[0] if len(classes) == 1 else jnp.stack(classes, axis=1)

    def overlap(self, outputs: Scores, labels: Integer[Array, "B *tasks D H W"]) -> Int[Array, "3 classes"]:
        """Voxels of every foreground class in the whole batch, task after task: rows as of `overlap_per_class`."""
        found = self.predict(outputs)
        if len(self.tasks) == 1:
            found, labels = found[:, None], labels[:, None]
        counts = [
            jnp.stack(overlap_per_class(found[:, task], labels[:, task], size))
            for task, size in enumerate(self._sizes)
        ]
        return jnp.concatenate(counts, axis=1)


@dataclass(frozen=True)
class Regions:
    """Of every voxel, in which regions it is; regions unite labels of one map, and may overlap.

    Attributes:
        labels: of each region the labels that it unites.
        criterion: ``dice_ce`` or ``ce``, of each region by itself (`losses.REGION_LOSSES`).

    Raises:
        FdifError: an unknown loss.
    """

    labels: tuple[tuple[int, ...], ...]
    criterion: str = "dice_ce"

    def __post_init__(self):
        if self.criterion not in REGION_LOSSES:
            raise unknown("loss", self.criterion, REGION_LOSSES)

    @property
    def channels(self) -> int:
        """Channels of the head: one a region, and none for the background."""
        return len(self.labels)

    def loss(self, outputs: Scores, labels: Integer[Array, "B D H W"]) -> Float[Array, ""]:
        """The loss of scores of label ids, for several resolutions `deeply_supervised`, finest first."""
        return deeply_supervised(partial(REGION_LOSSES[self.criterion], regions=self.labels))(outputs, labels)


@dataclass(frozen=True)
class Classification:
    """The class of a whole image, in each of one or more labels.

    Attributes:
        outputs: the number of classes of every label.
        label_smoothing: part of a label that is spread evenly over all classes; from 0 to below 1.

    Raises:
        FdifError: no labels, or a value is out of range.
    """

    outputs: tuple[int, ...]
    label_smoothing: float = 0.2

    def __post_init__(self):
        if not self.outputs or min(self.outputs) < 1:
            raise FdifError(
                f"outputs are the numbers of classes of one or more labels, got {list(self.outputs)}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise FdifError(f"label smoothing must be at least 0 and below 1, got {self.label_smoothing}")

    @property
    def channels(self) -> int:
        """Channels of the head."""
        return sum(self.outputs)

    def loss(self, outputs: Float[Array, "B C"], labels: Integer[Array, "B L"]) -> Float[Array, ""]:
        """Mean over the labels of the smoothed `cross_entropy` of each."""
        compare = partial(cross_entropy, smoothing=self.label_smoothing)
        return _sum(compare, _parted(outputs, self.outputs), labels) / len(self.outputs)

    def predict(self, outputs: Float[Array, "B C"]) -> Int[Array, "B L"]:
        """The most probable class of every label."""
        return jnp.stack([scores.argmax(-1) for scores in _parted(outputs, self.outputs)], axis=1)


Objective = Segmentation | Classification


def _parted(scores: Float[Array, "B ... C"], sizes: Sequence[int]) -> list[Float[Array, "B ... c"]]:
    """The channels of every task; a split, whose gradient is one concatenation instead of a sum of padded arrays."""
    return jnp.split(scores, np.cumsum(sizes)[:-1], axis=-1)


def _sum(compare: Callable[..., Array], parts: Sequence, labels: Integer[Array, "B T ..."]) -> jax.Array:
    """The sum over tasks of their losses."""
    terms = [compare(scores, labels[:, task]) for task, scores in enumerate(parts)]
    return jnp.stack(terms).sum()
