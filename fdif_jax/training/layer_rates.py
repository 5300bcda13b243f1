"""Which of a network's weights a fine-tuning changes, and how fast.

A network class says in PyTorch's names what its encoder is (``encoder``, prefixes) and which levels that has from the
image on (``levels``, patterns; what a pattern's group finds numbers several levels).
"""

import re
from collections.abc import Iterator

from flax import nnx

from fdif_jax.errors import FdifError
from fdif_jax.weights.state_dicts import torch_variables


def encoder_weights(model: nnx.Module) -> frozenset[str]:
    """Names (`fdif_jax.training.network.weights`) of the encoder's parameters and running statistics."""
    return frozenset(name for name, _ in _encoder(model))


def layer_rates(model: nnx.Module, decay: float) -> dict[str, float]:
    """Fractions of the learning rate for the encoder's weights: ``decay`` at its deepest level, a power more at each
    level nearer to the image (Clark et al. 2020, arXiv 2003.10555; Bao et al. 2022, arXiv 2106.08254).

    What belongs to no level, as embeddings of positions, is of the first.

    Raises:
        FdifError: the decay is not above 0 and at most 1.
    """
    if not 0 < decay <= 1:
        raise FdifError(
            f"a layer's part of the next one's learning rate is above 0 and at most 1, not {decay:g}"
        )
    levels = {name: _level(model, torch_name) for name, torch_name in _encoder(model)}
    order = sorted(set(levels.values()))
    return {name: decay ** (len(order) - order.index(level)) for name, level in levels.items()}


def _encoder(model: nnx.Module) -> Iterator[tuple[str, str]]:
    """Name and PyTorch's name of every weight of the encoder."""
    for path, names, _ in torch_variables(model):
        if names[0].startswith(tuple(type(model).encoder)):  # type: ignore[attr-defined]
            yield ".".join(map(str, path)), names[0]


def _level(model: nnx.Module, name: str) -> tuple[int, int]:
    for place, pattern in enumerate(type(model).levels):  # type: ignore[attr-defined]
        if found := re.match(pattern, name):
            return place, int(found[1]) if found.groups() else 0
    return 0, 0
