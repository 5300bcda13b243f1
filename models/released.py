"""Released weights: pre-trained networks that come with the package, each with a card.

A card is ``weights/NAME.toml``: the network as plain data, how it was pre-trained and on what, what fine-tuning suits
it, and its scores. Beside it is ``weights/NAME.safetensors``: each parameter once, under the first of its names in
PyTorch, in half precision.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError, unknown
from fdif_jax.training.network import count_parameters
from fdif_jax.weights.state_dicts import load_torch_state_dict, to_torch_state_dict, torch_variables

FOLDER = Path(__file__).with_name("weights")
USUAL = "resenc-organs"  # where no network is asked for, and of several of one network


@dataclass(frozen=True)
class Score:
    """What came of released weights on one task.

    Attributes:
        of: cases trained on, budget, seeds, cases judged.
        dice: mean Dice over seeds and cases.
        gain: to training from scratch, in Dice points, and the ends of its 95 % interval.
        also: further results, in words.
    """

    of: str
    dice: float
    gain: tuple[float, float, float]
    also: str = ""

    @property
    def gain_in_words(self) -> str:
        """The gain and its interval, e.g. ``+2.0 [+1.3, +2.6]``."""
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*self.gain)


@dataclass(frozen=True)
class Card:
    """What is known of released weights.

    Attributes:
        name: by which they are asked for.
        title: what they are, in a line.
        sha256: of their file.
        licence: under which they may be used.
        network: as `models.create` takes it.
        pretraining: command, objective, steps, volumes, hours, hardware, versions.
        finetuning: options of `fdif finetune` that suit these weights, by name.
        scores: what came of them on 8 cases, by task.
    """

    name: str
    title: str
    sha256: str
    licence: str
    network: dict[str, Any]
    pretraining: dict[str, Any]
    finetuning: dict[str, Any]
    scores: dict[str, Score]

    @property
    def file(self) -> Path:
        """The file of the weights."""
        return FOLDER / f"{self.name}.safetensors"


def names() -> list[str]:
    """The names of all released weights; the usual ones are first."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda name: (name != USUAL, name))


def card_of(name: str) -> Card:
    """The card of released weights; FdifError, naming the nearest, for an unknown name."""
    if name not in names():
        raise unknown("released weights", name, names())
    written = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    scores = {task: Score(**score) for task, score in written.pop("scores").items()}
    return Card(name=name, scores=scores, **written)


def load(name: str) -> nnx.Module:
    """The network of released weights, pre-trained.

    FdifError for an unknown name, or a file that is not there or is not the one of its card.
    """
    card = card_of(name)
    try:
        data = card.file.read_bytes()
    except OSError as error:
        raise FdifError(f"{card.file}: {error.strerror}; install fdif-jax again") from None
    if (found := hashlib.sha256(data).hexdigest()) != card.sha256:
        raise FdifError(
            f"{card.file}: its SHA-256 is {found[:12]}… where its card says {card.sha256[:12]}…; install fdif-jax again"
        )
    model = models.create(**card.network)
    state = {name: _as(np.float32, array) for name, array in safetensors.numpy.load(data).items()}
    load_torch_state_dict(model, state, source=str(card.file))
    return model


def packed(model: nnx.Module) -> bytes:
    """The file of a network's weights, as it is released."""
    arrays = to_torch_state_dict(model)
    first = {id(array): name for name, array in reversed(arrays.items())}  # of the names that share an array
    state = {name: _as(np.float16, arrays[name]) for name in first.values()}
    return safetensors.numpy.save(state, {"format": "pt"})


def _as(dtype: type[np.floating], array: np.ndarray) -> np.ndarray:
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array


def parameters_of(card: Card) -> int:
    """The number of parameters of a released network."""
    abstract = nnx.eval_shape(lambda: models.create(**card.network))
    return count_parameters(abstract)


def same(network: Mapping[str, Any]) -> Card | None:
    """The card of released weights whose tensors, but for the head's, have a network's shapes, if there are any."""
    shapes = _shapes(network)
    return next((card for card in map(card_of, names()) if _shapes(card.network) == shapes), None)


def smallest(kind: str) -> Card | None:
    """The card of the smallest released network of a kind, as ``primus``; None if there is none."""
    return min(_of_kind(kind), key=parameters_of, default=None)


def _of_kind(kind: str) -> list[Card]:
    return [card for card in map(card_of, names()) if card.network["name"] == kind]


def nearest(network: Mapping[str, Any]) -> str | None:
    """In words, which released weights are nearest to a network and what it would take of them; None without any of
    its kind.
    """
    wanted = _shapes(network)
    cards = _of_kind(network["name"])
    if not cards:
        return None

    def shared(card: Card) -> int:
        theirs = _shapes(card.network)
        return sum(theirs.get(name) == shape for name, shape in wanted.items())

    best = max(cards, key=shared)
    return f"the nearest is {best.name}, of which {shared(best)} of {len(wanted)} tensors would be taken"


def _shapes(network: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors by name, for one channel and two classes, whatever it is for."""
    alike = {**models.segmenting(network, 2), "in_channels": 1}
    if "grid" in alike:
        alike["grid"] = [96, 96, 96]
    abstract = nnx.eval_shape(lambda: models.create(**alike))
    return {known_as[0]: variable.shape for _, known_as, variable in torch_variables(abstract)}
