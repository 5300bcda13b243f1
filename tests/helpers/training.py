"""A training in miniature: a two-layer network, painted boxes in place of scenes, and their validation."""

import jax
import jax.numpy as jnp
from flax import nnx

from fdif_jax.batches.curriculum import Curriculum, SceneCourse
from fdif_jax.batches.scenes import scene_batch, with_augmentation
from fdif_jax.keys import RESERVED_SEEDS, sample_key
from fdif_jax.models.layers import BatchNorm, dropout
from fdif_jax.objectives.losses import dice_per_class, mean_dice
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.tasks import Task
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.run_document import RunDocument

GRID = (8, 8, 8)
PLAN = TrainingPlan(steps=12, seed=3, batch_size=2, learning_rate=1e-2, warmup=2)
DOCUMENT = RunDocument(kind="test", network={"name": "tiny", "out_channels": 3}, training={"steps": 12})


class Net(nnx.Module):
    def __init__(self, out_channels=3, features=4, seed=0):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Conv(1, features, (3, 3, 3), rngs=rngs)
        self.head = nnx.Conv(features, out_channels, (1, 1, 1), rngs=rngs)

    def __call__(self, x, *, key=None):
        return self.head(nnx.relu(self.first(x)))


class Boxes:
    """A stand-in for a compiled recipe: one box, darker (class 1) or brighter (class 2) than the rest."""

    grid, class_names, num_classes = GRID, ("dark", "bright"), 2

    def sample(self, key, sampling=None):
        corner_key, class_key = jax.random.split(key)
        corner, label = jax.random.randint(corner_key, (3,), 0, 4), jax.random.randint(class_key, (), 1, 3)
        if sampling is not None:
            label = 1 + jax.random.categorical(class_key, sampling.class_logits)
        axes = jnp.meshgrid(*[jnp.arange(n) for n in GRID], indexing="ij")
        inside = jnp.stack([(a >= c) & (a < c + 4) for a, c in zip(axes, corner, strict=True)]).all(0)
        image, label = jnp.where(inside, 128 * (label - 1), 64), jnp.where(inside, label, 0)
        return image.astype(jnp.uint8), label.astype(jnp.uint8)

    def sample_at(self, seed, index):
        return self.sample(sample_key(jnp.uint32(seed), index))

    def batch(self, keys, sampling=None):
        return jax.lax.map(lambda key: self.sample(key, sampling), keys)


BOXES = with_augmentation(scene_batch(Boxes()))
COURSE = SceneCourse(Curriculum(focus=4.0), 2, 8, Segmentation((Task("class", ("dark", "bright")),)).overlap)


class Validation:
    """Mean Dice on boxes that are never trained on."""

    def __init__(self, apply, samples=4):
        self.apply = jax.jit(apply)
        self.images, self.labels = jax.jit(scene_batch(Boxes()))(
            jax.vmap(lambda n: sample_key(RESERVED_SEEDS, n))(jnp.arange(samples)), None
        )

    def __call__(self, weights, step=0):
        predictions = self.apply(weights, self.images).argmax(-1)
        dice = float(mean_dice(jax.vmap(lambda *pair: dice_per_class(*pair, 3))(predictions, self.labels)))
        return {"dice": dice, "score": dice}


class Noisy(Net):
    """A network that is another in training: a batch norm, and inputs omitted at random."""

    def __init__(self, features=4):
        super().__init__(features=features)
        self.norm = BatchNorm(1, dtype="float32")

    def __call__(self, x, *, key=None):
        return super().__call__(dropout(self.norm(x, training=key is not None), 0.5, key, axes=(0, 1)))
