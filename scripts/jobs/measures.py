"""What objectives beside classes have learnt, on scenes that no run trains on."""

from collections.abc import Callable

import jax
import numpy as np

from fdif_jax.batches.scenes import views_batch
from fdif_jax.evaluation.evaluator import reserved
from fdif_jax.keys import sample_key
from fdif_jax.scripts.jobs.prepared import Training
from fdif_jax.training.devices import OneEach
from fdif_jax.training.network import Weights


def measures_of(training: Training, samples: int, val_seed: int) -> Callable[[Weights], dict[str, float]]:
    """Weights → means of what `Combined.measure` gives, and ``score``, by which they are ranked.

    Args:
        training: of a sum of objectives with another one than classes.
        samples: scenes that are measured.
        val_seed: which of the seeds that are kept for validation.
    """
    source, seed = training.source, reserved(val_seed)
    draw = views_batch(source.program, source.objective, augment=False)

    def measure(weights: Weights, index: jax.Array) -> dict[str, jax.Array]:
        images, targets = draw(sample_key(seed, index)[None], None)
        outputs, _ = training.network.train(weights, images, jax.random.key(0))
        sums = source.objective.measure(outputs, targets)
        return {name: (index < samples) * pair for name, pair in sums.items()}

    spread = OneEach(training.devices, measure)

    def measures(weights: Weights) -> dict[str, float]:
        numbers = np.arange(-(-samples // spread.size) * spread.size, dtype=np.uint32)
        every = [spread(weights, row) for row in numbers.reshape(-1, spread.size)]
        means = {}
        for name in every[0]:
            total, count = sum(np.asarray(sums[name]).sum(0) for sums in every)
            means[name] = float(total / max(count, 1))
        return {"score": source.objective.score(means)} | means

    return measures
