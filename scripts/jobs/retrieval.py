"""How well features find an object again in another look of its scene, on scenes that no run trains on."""

from collections.abc import Callable

import jax
import numpy as np

from fdif_jax.batches.scenes import views_batch
from fdif_jax.evaluation.evaluator import reserved
from fdif_jax.keys import sample_key
from fdif_jax.scripts.jobs.prepared import Training
from fdif_jax.training.devices import OneEach
from fdif_jax.training.network import Weights


def retrieval_of(training: Training, samples: int, val_seed: int) -> Callable[[Weights], float]:
    """Weights → the fraction of objects' voxels whose nearest voxel of the other look is of the same object.

    Args:
        training: of an objective with contrast.
        samples: scenes that are measured.
        val_seed: which of the seeds that are kept for validation.
    """
    source, seed = training.source, reserved(val_seed)
    draw = views_batch(source.program, 2, augment=False)

    def measure(weights: Weights, index: jax.Array) -> jax.Array:
        images, targets = draw(sample_key(seed, index)[None], None)
        outputs, _ = training.network.train(weights, images, jax.random.key(0))
        return (index < samples) * source.objective.retrieval(outputs, targets)

    spread = OneEach(training.devices, measure)

    def retrieval(weights: Weights) -> float:
        numbers = np.arange(-(-samples // spread.size) * spread.size, dtype=np.uint32).reshape(
            -1, spread.size
        )
        found, asked = sum(np.asarray(spread(weights, row)).sum(0) for row in numbers)
        return float(found / max(asked, 1))

    return retrieval
