"""What a network has learnt: its scores on a fixed set of synthetic volumes that no run trains on.

The volumes are redrawn inside the jitted call, from their numbers, and never stored. What of a score is a count over
voxels is counted on the device; surfaces are compared on the host, while the device is at the next volumes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import compare
from fdif_jax.evaluation.scoring import mean_defined, where_labelled
from fdif_jax.keys import RESERVED_SEEDS, sample_key
from fdif_jax.objectives.losses import dice_per_class
from fdif_jax.rendering.look import normalise
from fdif_jax.scenes.compiler import Program
from fdif_jax.scenes.world import World
from fdif_jax.tasks import Task

DrawHeldOut = Callable[[Array], tuple[Array, Array]]
PerSample = Callable[[Any, Array], Any]
_Rows = dict[str, np.ndarray]  # by measure: a value a class, task after task; NaN where undefined


class ManySamples(Protocol):
    """A function of weights and one sample's number, computed for several numbers at once.

    Attributes:
        size: k, how many.
    """

    size: int

    def __call__(self, weights: Any, indices: np.ndarray) -> Any:
        """Results of ``indices`` (uint32, ``(k,)``) along a new first axis; every process can read all of them."""


class OneAtATime:
    """`ManySamples` on the default device, one sample a call.

    XLA runs convolutions inside a loop on one core of a CPU, so several samples are several calls.
    """

    size = 1

    def __init__(self, function: PerSample):
        self._call = jax.jit(lambda w, indices: jax.tree.map(lambda a: a[None], function(w, indices[0])))

    def __call__(self, weights: Any, indices: np.ndarray) -> Any:
        """See `ManySamples`."""
        return self._call(weights, indices)


class Example(NamedTuple):
    """One volume as a network sees it.

    Attributes:
        image: ``(D, H, W)``, the first channel.
        label: label maps ``(T, D, H, W)``, or class ids ``(L,)`` from 0 of a volume that is classified.
        prediction: the network's, in the form of ``label``.
    """

    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """The scores of a network.

    Attributes:
        scalars: ``dice`` and ``nsd`` (means over the classes in a volume, then over volumes), or ``accuracy``; of
            several tasks each one's as ``dice/shape``, …, and their mean under the bare name. ``score`` ranks
            networks: it is the Dice or the accuracy, 0 where that is undefined. Else what is undefined is left out.
        classes: the same for every class, means over volumes, as ``{"dice": {class: value}}``; a class is called
            ``task/class`` where there are several tasks, and is left out where no volume has it.
        example: the first volume.
    """

    scalars: dict[str, float]
    classes: dict[str, dict[str, float]]
    example: Example


def reserved_volumes(program: World, val_seed: int = 0) -> DrawHeldOut:
    """Volumes and label maps of a recipe by number, which no run trains on; errors as of `reserved`."""
    seed = reserved(val_seed)
    return lambda index: program.sample(sample_key(seed, index))


def reserved_images(program: Program, multilabel: bool, val_seed: int = 0) -> DrawHeldOut:
    """Images of one object and its class ids by number, which no run trains on; for `Evaluator`.

    Classes take turns. The program's recipe is `classification.centred`. Errors are as of `reserved` and `classes_of`.
    """
    from fdif_jax.datasets.classification import classes_of, images  # slow to import

    seed, render = reserved(val_seed), images(program)
    ids = np.array(classes_of(program, multilabel)[0], np.int32).reshape(len(program.classes), -1)
    return lambda i: (render(sample_key(seed, i), i)[0][0], jnp.asarray(ids)[i % len(ids)])


def reserved(val_seed: int) -> np.uint32:
    """The seed of a number among those that training never draws from; FdifError if there is none."""
    if not 0 <= val_seed < RESERVED_SEEDS:
        raise FdifError(f"val_seed must be from 0 to {RESERVED_SEEDS - 1}, not {val_seed}")
    return np.uint32(RESERVED_SEEDS + val_seed)


class Evaluator:
    """Weights → `Evaluation` on samples 0 … n - 1, the same whatever the number of devices."""

    def __init__(
        self,
        sample: DrawHeldOut,
        predict: Callable[[Any, Array], Array],
        tasks: Sequence[Task],
        samples: int,
        *,
        spread: Callable[[PerSample], ManySamples] = OneAtATime,
    ):
        """Prepare; XLA compiles at the first call.

        Args:
            sample: number (uint32) → image ``(D, H, W)`` or ``(D, H, W, C)``, and either label maps, ``(D, H, W)`` or
                ``(T, D, H, W)``, or class ids ``(L,)`` from 0; jittable. Voxels of a negative label count in no score.
            predict: ``(weights, images (1, D, H, W, C))`` → class ids in the form of the labels, with a first axis of
                1; jittable. Images are normalised.
            tasks: what each label map, or class id, tells apart.
            samples: n.
            spread: how a function of one sample is computed for several.

        Raises:
            FdifError: there is no sample.
        """
        if samples < 1:
            raise FdifError(f"an evaluation needs at least 1 volume, not {samples}")
        self.tasks, self.samples, self._sample = tuple(tasks), samples, sample

        def judge(weights: Any, index: Array) -> dict[str, Any]:
            # Behind a barrier the volumes are those of every other program, however XLA fuses this one.
            image, label = lax.optimization_barrier(sample(index))
            channels = image if image.ndim == 4 else image[..., None]
            normalised = jax.vmap(normalise, in_axes=-1, out_axes=-1)(channels[None])
            prediction = predict(weights, normalised)[0].astype(label.dtype)
            image = channels[..., 0]
            if not self._maps:
                return {"image": image, "label": label, "prediction": prediction}
            prediction, label = (maps.reshape(-1, *image.shape) for maps in (prediction, label))
            judged = label >= 0  # ignored voxels are background in both
            compared = jnp.where(judged, prediction, 0), jnp.where(judged, label, 0)
            dice = [dice_per_class(*maps) for maps in zip(*compared, self._num_classes, strict=True)]
            return {"image": image, "label": label, "prediction": prediction, "dice": jnp.concatenate(dice)}

        self._judge = spread(judge)

    @cached_property  # at the first evaluation, as a run's first step does not wait for it
    def _maps(self) -> bool:
        return jax.eval_shape(self._sample, np.uint32(0))[1].ndim > 1

    @property
    def _num_classes(self) -> list[int]:
        return [len(task.class_names) + self._maps for task in self.tasks]

    def __call__(self, weights: Any) -> Evaluation:
        """Draw the samples, predict and compare."""
        rows: list[_Rows] = []
        for judged in self._judged(weights):
            if not rows:
                example = Example(*(judged[part] for part in Example._fields))
            rows.append(self._compared(judged))
        table = {measure: np.stack([row[measure] for row in rows]) for measure in rows[0]}
        return Evaluation(self._scalars(table), self._by_class(table), example)

    def _judged(self, weights: Any) -> Iterator[dict[str, np.ndarray]]:
        """What the device says of each volume, on the host."""
        size = self._judge.size
        starts = range(0, self.samples, size)
        # The last call repeats some volumes, so that all are of one shape.
        calls = (
            self._judge(weights, ((start + np.arange(size)) % self.samples).astype(np.uint32))
            for start in starts
        )
        for start, several in zip(starts, ahead(calls), strict=True):
            there = {name: np.asarray(values) for name, values in several.items()}
            for row in range(min(size, self.samples - start)):
                yield {name: values[row] for name, values in there.items()}

    def _compared(self, judged: dict[str, np.ndarray]) -> _Rows:
        """Of one volume: Dice and surface Dice of every class, or whether its own class was recognised."""
        maps = zip(judged["prediction"], judged["label"], self._num_classes, strict=True)
        if self._maps:
            nsd = [compare(*where_labelled(p, label), number, ["nsd"])[:, 0] for p, label, number in maps]
            return {"dice": judged["dice"].astype(np.float64), "nsd": np.concatenate(nsd)}
        hits = [np.where(np.arange(number) == label, p == label, np.nan) for p, label, number in maps]
        return {"accuracy": np.concatenate(hits)}

    def _scalars(self, table: _Rows) -> dict[str, float]:
        cuts = np.cumsum([len(task.class_names) for task in self.tasks])[:-1]
        scalars = {}
        for measure, values in table.items():
            means = [mean_defined(mean_defined(part, axis=1)) for part in np.split(values, cuts, axis=1)]
            scalars[measure] = mean_defined(np.array(means))
            if len(self.tasks) > 1:
                scalars |= {f"{measure}/{t.name}": mean for t, mean in zip(self.tasks, means, strict=True)}
        score = scalars["dice" if self._maps else "accuracy"]
        defined = {name: float(value) for name, value in scalars.items() if not np.isnan(value)}
        return {"score": 0.0 if np.isnan(score) else float(score), **defined}

    def _by_class(self, table: _Rows) -> dict[str, dict[str, float]]:
        several = len(self.tasks) > 1
        names = [f"{t.name}/{name}" if several else name for t in self.tasks for name in t.class_names]
        return {
            measure: {
                name: float(mean)
                for name, mean in zip(names, mean_defined(values, axis=0), strict=True)
                if not np.isnan(mean)
            }
            for measure, values in table.items()
        }


def ahead(results: Iterable[Any]) -> Iterator[Any]:
    """Results, each when the next one has been asked for: the device computes it while the host is at this one."""
    waiting = []
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting
