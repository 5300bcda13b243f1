"""Several objectives in one run: what they need of a network, of a scene, and the weighted sum of their losses.

Each has heads of its own beside the network's, under names that begin with ``objective.``; they are trained and kept in
checkpoints, and stay behind wherever the network goes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Integer

from fdif_jax.errors import FdifError, unknown
from fdif_jax.keys import stream
from fdif_jax.objectives.contrast import (
    Contrast,
    Projections,
    choose,
    nearest,
    retrieved,
    supervised_contrast,
)
from fdif_jax.objectives.regression import VoxelHead, smooth_l1
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.rendering.distances import REACH
from fdif_jax.training.network import HEADS

OBJECTIVES = ("class", "contrast", "distance", "restore")

MEASURES = {"contrast": "retrieval", "distance": "distance_error", "restore": "restore_error"}
"""What is measured of an objective in validation; see `Combined.measure`."""

_EXTRA = {"distance": "distances", "restore": "clean"}


def parse_objective(text: str) -> dict[str, float]:
    """Weights by name, of a sum as in ``class + 0.5*contrast``.

    Raises:
        FdifError: an unknown objective, one named twice, or a weight that is no positive number.
    """
    weights: dict[str, float] = {}
    for term in text.split("+"):
        match = re.fullmatch(r"(?:(.+)\*)?([^*]+)", term.strip())
        if not match:
            raise FdifError(f"objective {text!r}: {term.strip()!r} should read NAME or WEIGHT*NAME")
        name = match[2].strip()
        if name not in OBJECTIVES:
            raise unknown("objective", name, OBJECTIVES)
        if name in weights:
            raise FdifError(f"objective {text!r} names {name} twice")
        try:
            weights[name] = float(match[1] or 1)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise FdifError(f"objective {text!r}: {match[1].strip()!r} is no weight; give a positive number")
    return weights


class Outputs(NamedTuple):
    """What a network gives in training.

    Attributes:
        logits: of the classes, as the network gives them.
        features: ``(B·V, d, h, w, C)``, finest first.
        heads: the further heads, with their weights.
    """

    logits: Any
    features: Sequence[Float[Array, "BV d h w C"]]
    heads: Any


class Targets(NamedTuple):
    """What a batch of scenes is learnt from.

    Attributes:
        label: class ids.
        owner: which instance owns a voxel; 0 is background.
        key: a random key a scene, for the voxels that are compared.
        distances: in voxels, to the owner's surface and to the nearest boundary; where distances are learnt.
        clean: normalised images without what degrades them; where images are restored.
    """

    label: Integer[Array, "B *tasks D H W"]
    owner: Integer[Array, "B D H W"]
    key: Any
    distances: Float[Array, "B 2 D H W"] | None = None
    clean: Float[Array, "B V D H W"] | None = None


@dataclass(frozen=True)
class Combined:
    """A weighted sum of objectives.

    Attributes:
        segmentation: the objective ``class``, which also says what the network's own head is.
        weights: of the objectives, by name.
        objects: greatest number of instances in a scene.
        contrast: how voxels are contrasted.
    """

    segmentation: Segmentation
    weights: tuple[tuple[str, float], ...]
    objects: int
    contrast: Contrast = field(default_factory=Contrast)

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives."""
        return tuple(name for name, _ in self.weights)

    @property
    def channels(self) -> int:
        """Channels of the network's own head."""
        return self.segmentation.channels

    @property
    def looks(self) -> int:
        """How many looks of a scene a step takes."""
        return 2 if "contrast" in self.names else 1

    @property
    def extra(self) -> tuple[str, ...]:
        """What is learnt of a scene beside its label and owners, by its name in `Targets`."""
        return tuple(_EXTRA[name] for name in self.names if name in _EXTRA)

    def add_heads(self, model: Any, seed: int) -> None:
        """Give a network the further heads, of what its ``features`` gives."""
        rngs = nnx.Rngs(params=stream(seed, "heads"))
        setattr(model, HEADS, Heads(self, model.feature_channels, rngs=rngs))

    def forward(self, model: Any, images: Float[Array, "B V D H W C"], key: jax.Array) -> Outputs:
        """What the network gives of a batch of scenes; all looks of all scenes pass side by side."""
        features = model.features(images.reshape(-1, *images.shape[2:]), key=key)
        return Outputs(model.scores(features, key=key), features, getattr(model, HEADS))

    def loss(self, outputs: Outputs, targets: Targets) -> Float[Array, ""]:
        """The weighted sum."""
        losses = {
            "class": self._class_loss,
            "contrast": self._contrast_loss,
            "distance": lambda *batch: smooth_l1(*self._distances(*batch)),
            "restore": lambda *batch: smooth_l1(*self._restored(*batch)),
        }
        return sum((weight * losses[name](outputs, targets) for name, weight in self.weights), jnp.float32(0))

    def predict(self, outputs: Any) -> Int[Array, "B *tasks D H W"]:
        """The most probable class of every voxel; see `Segmentation.predict`."""
        return self.segmentation.predict(outputs)

    def overlap(self, outputs: Outputs, targets: Targets) -> Int[Array, "3 classes"]:
        """How far classes are recognised in all looks; see `Segmentation.overlap`."""
        return self.segmentation.overlap(outputs.logits, jnp.repeat(targets.label, self.looks, axis=0))

    def _class_loss(self, outputs: Outputs, targets: Targets) -> Float[Array, ""]:
        return self.segmentation.loss(outputs.logits, jnp.repeat(targets.label, self.looks, axis=0))

    def _contrast_loss(self, outputs: Outputs, targets: Targets) -> Float[Array, ""]:
        """Mean over resolutions and scenes of `supervised_contrast`."""
        features = self._by_look(outputs.features)
        voxels, instances = self._drawn(features, targets, 0)
        compare = partial(supervised_contrast, temperature=self.contrast.temperature)
        terms = [
            jax.vmap(compare)(level.reshape(len(level), -1, level.shape[-1]), jnp.tile(own, (1, self.looks)))
            for level, own in zip(outputs.heads.contrast.embed(features, voxels), instances, strict=True)
        ]
        return jnp.stack(terms).mean()

    def _by_look(self, features: Sequence[Array]) -> list[Float[Array, "B V d h w C"]]:
        return [f.reshape(-1, self.looks, *f.shape[1:]) for f in features]

    def _drawn(self, features: Sequence[Array], targets: Targets, stream: int) -> tuple[list, list]:
        """Voxels of every resolution that is contrasted, and their instances."""
        draws = []
        for level, f in enumerate(features[: self.contrast.levels]):
            keys = jax.vmap(lambda key, k=level: jax.random.fold_in(jax.random.fold_in(key, k), stream))(
                targets.key
            )
            owners = nearest(targets.owner, f.shape[2:5])
            draw = partial(choose, settings=self.contrast, objects=self.objects)
            draws.append(jax.vmap(draw)(keys, owners))
        voxels, instances = zip(*draws, strict=True)
        return list(voxels), list(instances)

    def _distances(
        self, outputs: Outputs, targets: Targets
    ) -> tuple[Float[Array, "BV D H W 2"], Float[Array, "BV D H W 2"]]:
        """Distances as the network and as the scenes have them."""
        assert targets.distances is not None
        wanted = jnp.repeat(jnp.moveaxis(targets.distances, 1, -1), self.looks, axis=0)
        return outputs.heads.distance(outputs.features, wanted.shape[1:4]), wanted

    def _restored(
        self, outputs: Outputs, targets: Targets
    ) -> tuple[Float[Array, "BV D H W"], Float[Array, "BV D H W"]]:
        """Clean images as the network and as the scenes have them."""
        assert targets.clean is not None
        wanted = targets.clean.reshape(-1, *targets.clean.shape[2:])
        return outputs.heads.restore(outputs.features, wanted.shape[1:])[..., 0], wanted

    def measure(self, outputs: Outputs, targets: Targets) -> dict[str, Float[Array, "2"]]:
        """What validation tells of the objectives beside ``class``, by `MEASURES`: sums, and of how many.

        ``retrieval`` is how often a voxel's nearest one in the other look is of the same object, ``distance_error`` the
        mean error in voxels of distances up to `REACH`, ``restore_error`` that of images in their deviations.
        """

        def error(got: Array, wanted: Array) -> Array:
            return jnp.stack([jnp.abs(got - wanted).sum(), jnp.float32(wanted.size)])

        def distance(*batch: Any) -> Array:
            got, wanted = self._distances(*batch)
            return error(jnp.clip(got, -REACH, REACH), wanted)

        measures = {
            "contrast": self._retrieval,
            "distance": distance,
            "restore": lambda *batch: error(*self._restored(*batch)),
        }
        return {MEASURES[name]: measures[name](outputs, targets) for name in self.names if name in measures}

    def score(self, measured: Mapping[str, float]) -> float:
        """From 0 to 1, what ranks checkpoints where classes are not learnt, of the means of what `measure` gives."""
        if "contrast" in self.names:
            return measured["retrieval"]
        if "distance" in self.names:
            return 1 - measured["distance_error"] / (2 * REACH)
        return 1 / (1 + measured["restore_error"])

    def _retrieval(self, outputs: Outputs, targets: Targets) -> Float[Array, "2"]:
        """How often a voxel's nearest one in the other look is of the same object: found and asked.

        Of both looks voxels are drawn for themselves, at the finest resolution; nearest by their embeddings.
        """
        features = self._by_look(outputs.features)
        sides = []
        for look in range(2):
            voxels, instances = self._drawn(features, targets, 1 + look)
            sides.append((outputs.heads.contrast.embed(features, voxels)[0][:, look], instances[0]))
        found, asked = jax.vmap(retrieved)(*sides[0], *sides[1])
        return jnp.stack([found.sum(), asked.sum()])


class Heads(nnx.Module):
    """What objectives need beside the network's own head."""

    def __init__(self, objective: Combined, channels: Sequence[int], *, rngs: nnx.Rngs):
        if "contrast" in objective.names:
            self.contrast = Projections(channels, objective.contrast, rngs=rngs)
        if "distance" in objective.names:
            self.distance = VoxelHead(channels, 2, rngs=rngs)
        if "restore" in objective.names:
            self.restore = VoxelHead(channels[:1], 1, rngs=rngs)
