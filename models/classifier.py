"""Classification of whole images by the encoder of a segmentation network, for pre-training it.

The encoder's last features, averaged over the grid, go through one linear map; the scores of several labels lie side
by side in what it gives.
"""

import functools
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.models.initialisers import TORCH
from fdif_jax.models.layers import Linear


class Classifier(nnx.Module):
    """A segmentation network without its decoder: the class of such an object is a class of networks, too.

    So its weights are the network's encoder's, by the very names and with the same rules about them, and so are the
    grids it takes.

    Attributes:
        config: of the segmentation network; its ``out_channels`` mean nothing here.
        outputs: the number of classes of every label.
    """

    head: ClassVar[tuple[str, ...]] = ("classification_head.",)
    encode: Any  # the network's
    encoded_features: Any

    def __init__(self, network: Any, outputs: tuple[int, ...], *, rngs: nnx.Rngs):
        """Use `of`."""
        self.config, self.outputs = network.config, outputs
        for name, part in vars(network).items():
            if f"{name}.".startswith(type(network).encoder):
                setattr(self, name, part)
        self.classification_head = Linear(
            self.encoded_features, sum(outputs), init=TORCH, dtype=jnp.float32, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B O"]:
        """Scores (float32) of an image batch, label after label; a key makes it training, as for the network.

        FdifError if the input's rank, channels or edges do not fit the network.
        """
        features = self.encode(x, key=key).astype(jnp.float32)
        return self.classification_head(features.mean((1, 2, 3)))


def of(network: nnx.Module, outputs: Sequence[int], *, rngs: nnx.Rngs) -> Classifier:
    """A classifier with a segmentation network's encoder, whose weights the two share, and a fresh head.

    ``outputs`` has the number of classes of every label; ``rngs`` draws the head's weights, as PyTorch starts a linear
    layer. FdifError for no labels, or one of no classes.
    """
    if not outputs or not all(isinstance(number, int) and number >= 1 for number in outputs):
        raise FdifError(f"outputs are the numbers of classes of one or more labels, got {list(outputs)}")
    return _class_of(type(network))(network, tuple(outputs), rngs=rngs)


@functools.cache
def _class_of(network: type[nnx.Module]) -> type[Classifier]:
    return types.new_class(f"{network.__name__}Classifier", (Classifier, network))
