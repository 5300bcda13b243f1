"""A curriculum: scenes that follow what a network has learnt of their classes.

In every step the network's predictions are compared with the labels of its batch. The Dice of each class, averaged over
the last steps that had it, says how the next batch is drawn: classes of low Dice more often, and few, large objects
until the mean Dice reaches a goal. All of it is a pure function of the state: sample i of (recipe, seed, competence) is
one scene.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fdif_jax.errors import FdifError
from fdif_jax.scenes.placement import Sampling
from fdif_jax.sdf.masks import dice_of
from fdif_jax.settings import Plain, at_least

_NEW = 0.05  # part that a step has in the average of a class
_LACK = 1e-3  # least lack of Dice that a weight follows, so that weights are defined where nothing is lacking


class Competence(NamedTuple):
    """What is known of the learner.

    Attributes:
        dice: Dice of every foreground class in training, those of several label maps one after another: a moving
            average over the steps that had the class, from 0 on.
    """

    dice: Float[Array, " classes"]

    def update(self, dice: Float[Array, " classes"], labelled: Int[Array, " classes"]) -> "Competence":
        """The competence after a step.

        Args:
            dice: of every class in the step's batch.
            labelled: voxels of the class there; where there are none, what was known of it stays.
        """
        return Competence(jnp.where(labelled > 0, self.dice + _NEW * (dice - self.dice), self.dice))


@dataclass(frozen=True)
class Curriculum(Plain):
    """How scenes follow the competence.

    Attributes:
        goal: mean Dice over the classes from which on scenes are as large as the recipe has them; above 0, up to 1.
        focus: a class is drawn in proportion to (1 - its Dice) to this power; 0 for all classes alike.
        floor: part of the draws that is shared by all classes alike, so that none dies out; above 0, up to 1.
        objects: part of the recipe's greatest number of objects that the first scenes have; above 0, up to 1.
        scale: how many times larger the first scenes' objects are; 1 … 4.

    Raises:
        FdifError: a value is out of its range.
    """

    goal: float = 0.5
    focus: float = 1.0
    floor: float = 0.2
    objects: float = 0.25
    scale: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("goal", "floor", "objects"):
            if not 0 < getattr(self, name) <= 1:
                raise FdifError(
                    f"{name} of the curriculum must be above 0 and at most 1, not {getattr(self, name):g}"
                )
        at_least(self, 0, "focus")
        if not 1 <= self.scale <= 4:
            raise FdifError(f"scale of the curriculum must be from 1 to 4, not {self.scale:g}")

    def weights(self, competence: Competence) -> Float[Array, " classes"]:
        """How often each class is drawn; they sum to 1."""
        lack = jnp.maximum(1 - competence.dice, _LACK) ** self.focus
        return self.floor / lack.size + (1 - self.floor) * lack / lack.sum()

    def growth(self, competence: Competence) -> Float[Array, ""]:
        """How far scenes have grown to what the recipe has, 0 … 1."""
        return jnp.clip(competence.dice.mean() / self.goal, 0, 1)

    def sampling(self, competence: Competence, objects: int) -> Sampling:
        """How scenes are drawn.

        Args:
            competence: of the learner.
            objects: the recipe's greatest number of objects.
        """
        growth = self.growth(competence)
        first = max(1.0, self.objects * objects)
        number = jnp.round(first + growth * (objects - first)).astype(jnp.int32)
        return Sampling(jnp.log(self.weights(competence)), number, 1 + (1 - growth) * (self.scale - 1))


@dataclass(frozen=True)
class SceneCourse:
    """A curriculum of scenes, for `fit`: a `Course`.

    Attributes:
        curriculum: its settings.
        classes: number of foreground classes, of all label maps together.
        objects: the recipe's greatest number of objects.
        overlap: outputs and labels → voxels of every class found, predicted and labelled (`Segmentation.overlap`).

    Raises:
        FdifError: fewer than two classes.
    """

    curriculum: Curriculum
    classes: int
    objects: int
    overlap: Callable[[Any, Any], Int[Array, "3 classes"]]

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise FdifError("a curriculum weighs classes, and the recipe has one; give two or more")

    def begin(self) -> Competence:
        """Nothing is known."""
        return Competence(jnp.zeros(self.classes))

    def sampling(self, competence: Competence) -> Sampling:
        """How the next batch is drawn."""
        return self.curriculum.sampling(competence, self.objects)

    def count(self, outputs: Any, labels: Any) -> Int[Array, "3 classes"]:
        """Voxels of every class found, predicted and labelled; equal on any number of devices, as they are whole."""
        return self.overlap(outputs, labels)

    def learn(self, competence: Competence, counts: Int[Array, "3 classes"]) -> Competence:
        """The competence after a step."""
        return competence.update(dice_of(*counts.astype(jnp.float32)), counts[2])

    def measured(self, competence: Competence) -> dict[str, float]:
        """The mean Dice in training over all classes, and the greatest number of objects in the next scenes."""
        return {
            "competence": float(competence.dice.mean()),
            "objects": int(self.sampling(competence).objects),
        }
