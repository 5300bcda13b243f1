"""A network as pure functions of its weights by name, and the state of its training."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

Weights = dict[str, jax.Array]
Apply = Callable[[Weights, Float[Array, "B D H W C"]], Float[Array, "B D H W O"]]

# What a network learns, and a checkpoint keeps: parameters, and the running statistics of batch norms.
LEARNT = nnx.Any(nnx.Param, nnx.BatchStat)

HEADS = "objective"
"""The attribute of a network under which objectives keep heads of their own, which its names begin with."""


def weights(model: nnx.Module, kind: nnx.filterlib.Filter = LEARNT) -> Weights:
    """What a network has learnt by name, the attribute path joined by dots; of one kind of variable if given."""
    return {".".join(map(str, path)): p[...] for path, p in nnx.to_flat_state(nnx.state(model, kind))}


def count_parameters(model: nnx.Module) -> int:
    """How many numbers a network learns by its gradient; the network may be abstract."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def set_weights(model: nnx.Module, new: Mapping[str, jax.Array]) -> None:
    """Put named weights into a network, in place; names that are not given stay as they are."""
    flat = nnx.to_flat_state(nnx.state(model, LEARNT))
    named = [(path, p, ".".join(map(str, path))) for path, p in flat]
    nnx.update(model, nnx.from_flat_state([(path, p.replace(new[n])) for path, p, n in named if n in new]))


class Network(NamedTuple):
    """A network as pure functions of its weights by name.

    Attributes:
        weights: what it has learnt: parameters, and the running statistics of batch norms.
        parameters: the names of those that updates change.
        apply: ``(weights, images) -> logits`` in inference; the finest ones if there are several.
        train: ``(weights, images, key) -> logits, statistics`` in training: dropout is drawn from
            ``key``; logits as the network gives them, a list with deep supervision; the new running statistics.
        rates: fractions of the learning rate that parameters have, by name; others have all of it.
    """

    weights: Weights
    parameters: tuple[str, ...]
    apply: Apply
    train: Callable[[Weights, Array, Array], tuple[Any, Weights]]
    rates: Mapping[str, float] = {}


def _called(model: Any, images: Array, key: Array) -> Any:
    return model(images, key=key)


def functional(
    model: nnx.Module,
    *,
    frozen: Collection[str] = (),
    rates: Mapping[str, float] | None = None,
    forward: Callable[[Any, Array, Array], Any] = _called,
) -> Network:
    """The pure functions of a network; the network itself stays as it is.

    Args:
        model: the network.
        frozen: names of weights, running statistics among them, that stay as they are.
        rates: see `Network`.
        forward: what the network gives in training, ``(model, images, key) -> outputs``; what a call of it gives if
            not told.
    """
    graph, learnt, *rest = nnx.split(model, LEARNT, ...)
    flat = [(path, ".".join(map(str, path)), p) for path, p in nnx.to_flat_state(learnt)]

    def merged(named: Weights) -> nnx.Module:
        state = nnx.from_flat_state([(path, p.replace(named[name])) for path, name, p in flat])
        return nnx.merge(graph, state, *rest)

    def apply(named: Weights, images: Array) -> Array:
        logits = merged(named)(images)
        return logits[0] if isinstance(logits, list) else logits

    def train(named: Weights, images: Array, key: Array) -> tuple[Any, Weights]:
        network = merged(named)
        outputs = forward(network, images, key)
        statistics = weights(network, nnx.BatchStat)
        return outputs, {name: value for name, value in statistics.items() if name not in frozen}

    parameters = tuple(name for name in weights(model, nnx.Param) if name not in frozen)
    return Network(weights(model), parameters, apply, train, rates or {})


class State(NamedTuple):
    """What a step of training changes.

    Attributes:
        weights: what the network has learnt, by name.
        moments: the optimiser's state.
        average: the moving average of the weights; empty where none is kept.
        competence: what a curriculum knows of the learner, a pytree of small arrays; empty without one.
    """

    weights: Weights
    moments: Any
    average: Weights
    competence: Any = ()

    @property
    def result(self) -> Weights:
        """The weights to validate and to keep: their average, where there is one."""
        return self.average or self.weights
