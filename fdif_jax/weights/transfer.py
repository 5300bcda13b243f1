"""Weights of one network for another that differs in classes, image channels or grid: what fits is taken, what can be
is adapted, and the rest stays as initialised.

All is done under PyTorch's names and in its layout (`state_dicts`), so that weights from a run of ours and from a
file are the same thing. A network class says through class variables, in those names, what is what: ``encoder`` and
``head`` (prefixes), ``input_weights`` (whose axis 1 is the image's channels), ``flat_input_weights`` (whose axis 1 is
voxels times channels, the channels running fastest) and ``position_embeddings`` (``(1, tokens, features)``, of tokens
that lie on ``model.token_grid()``).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from fdif_jax.errors import FdifError
from fdif_jax.weights.files import as_array
from fdif_jax.weights.state_dicts import (
    TorchBuffer,
    load_torch_state_dict,
    some,
    to_torch_state_dict,
    torch_variables,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Transfer:
    """What became of every weight, in PyTorch's names, one for each.

    Attributes:
        loaded: taken as they are.
        adapted: with what was done.
        fresh: left as initialised: the head for other classes, what is not there or of another shape.
        unused: there, but not in the network.
    """

    loaded: tuple[str, ...]
    adapted: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def summary(self) -> str:
        """One line for the terminal."""
        total = len(self.loaded) + len(self.adapted) + len(self.fresh)
        parts = [f"loaded {len(self.loaded)} of {total} tensors"]
        if self.adapted:
            done: dict[str, list[str]] = {}
            for name, what in self.adapted:
                done.setdefault(what, []).append(name)
            parts.append("adapted " + ", ".join(f"{some(names, 3)} ({what})" for what, names in done.items()))
        parts += [
            f"{word} {len(names)} ({some(names, 3)})"
            for word, names in (("left fresh", self.fresh), ("did not use", self.unused))
            if names
        ]
        return "; ".join(parts)


def transfer(
    model: nnx.Module,
    state: Mapping[str, Any],
    *,
    source: str,
    head: bool = True,
    token_grid: Triple | None = None,
) -> Transfer:
    """Put pre-trained weights into a network, in place.

    - The output head is taken whole or not at all: not if any of its shapes differs.
    - Input weights of m channels for n: tiled, times m / n, if n > m, so that n copies of an image give what one gave;
      the first n if n < m.
    - Position embeddings are interpolated trilinearly from one grid of tokens to the other.
    - Running statistics travel; a constant is the network's own, and counts as loaded where the two are equal.

    Args:
        model: the freshly initialised network.
        state: name → array or tensor, in PyTorch's names and layout.
        source: the file or run, for errors.
        head: take the head if it fits; else it stays fresh in any case.
        token_grid: of the position embeddings in ``state``; if not known, the network's own where the numbers of
            tokens agree, else a cube.

    Raises:
        FdifError: less than half of the encoder's weights fit, what fits is not finite, or the grid of tokens is not
            known and no cube; nothing is changed then.
    """
    new = to_torch_state_dict(model)
    fits = list(_fits(model, new, state, source, head, token_grid))
    _check_encoder(type(model), fits, source)
    for fit in fits:
        if fit.value is not None:
            new |= dict.fromkeys(fit.names, fit.value)
    load_torch_state_dict(model, new, source=source)
    taken = [fit for fit in fits if fit.value is not None]
    return Transfer(
        loaded=tuple(fit.names[0] for fit in taken if not fit.what),
        adapted=tuple((fit.names[0], fit.what) for fit in taken if fit.what),
        fresh=tuple(fit.names[0] for fit in fits if fit.value is None),
        unused=tuple(name for name in state if name not in new),
    )


class _Fit(NamedTuple):
    """What a file has for one of a network's variables."""

    names: Sequence[str]  # of the variable, as PyTorch has them
    size: int  # numbers in it
    encoder: bool  # whether it is one of the encoder's parameters
    value: np.ndarray | None  # in the variable's shape; None if it stays fresh
    what: str  # what was done to the value, if anything
    lacking: bool  # the file has none
    shapes: str  # the file's shape and the variable's in words, where they differ


def _fits(
    model: nnx.Module,
    fresh: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    source: str,
    head: bool,
    grid: Triple | None,
) -> Iterator[_Fit]:
    """What a file has for every variable of a network, whose ``fresh`` values are under PyTorch's names."""
    kind, variables = type(model), list(torch_variables(model))
    heads, encoder = tuple(getattr(kind, "head", ())), tuple(getattr(kind, "encoder", ("",)))
    found = {names[0]: next((n for n in names if n in state), None) for _, names, _ in variables}
    head_fits = head and all(
        name is None or tuple(state[name].shape) == fresh[first].shape
        for first, name in found.items()
        if first.startswith(heads)
    )
    for _, names, variable in variables:
        first, wanted, name = names[0], fresh[names[0]], found[names[0]]
        of_encoder = first.startswith(encoder) and isinstance(variable, nnx.Param)
        value = None if name is None else as_array(state[name])
        what = shapes = ""
        if value is None:
            pass
        elif first.startswith(heads):
            value = value if head_fits else None
        elif isinstance(variable, TorchBuffer):
            value = value if np.array_equal(value, wanted) else None
        else:
            if value.shape != wanted.shape:
                shapes = f"{first} {value.shape} instead of {wanted.shape}"
            value, what = _fitted(model, first, value, wanted.shape, source, grid)
        yield _Fit(names, wanted.size, of_encoder, value, what, name is None, shapes)


def _check_encoder(kind: type, fits: Sequence[_Fit], source: str) -> None:
    """Raise FdifError if less than half of the encoder's weights fit, and say why."""
    sizes = [(fit.size, fit.size if fit.value is not None else 0) for fit in fits if fit.encoder]
    size, fitting = np.sum(sizes, axis=0) if sizes else (0, 0)
    if 2 * fitting < size:
        faults = {
            "lacks": [fit.names[0] for fit in fits if fit.lacking],
            "has of another shape": [fit.shapes for fit in fits if fit.shapes],
        }
        listed = "; it ".join(f"{what} {some(names)}" for what, names in faults.items() if names)
        raise FdifError(
            f"{source} fits {fitting / size:.0%} of the encoder of this {kind.__name__}, less than half: it {listed}"
        )


def carry(model: nnx.Module, original: nnx.Module, *, source: str) -> Transfer:
    """`transfer` of the weights of one of our networks into another."""
    tokens = original.token_grid() if hasattr(original, "token_grid") else None
    return transfer(model, to_torch_state_dict(original), source=source, token_grid=tokens)


def _fitted(
    model: Any, name: str, value: np.ndarray, shape: tuple[int, ...], source: str, grid: Triple | None
) -> tuple[np.ndarray | None, str]:
    """The value in the wanted shape and what was done to it; None where no rule says how."""
    kind = type(model)
    if name in getattr(kind, "position_embeddings", ()) and value.shape[::2] == shape[::2]:
        here = tuple(model.token_grid())
        others = shape[1] - math.prod(here)  # of tokens beside the grid's, which come first
        there = grid or (here if value.shape == shape else _cube(value.shape[1] - others, name, source))
        if there != here:
            resized = adapt_positions(value[:, others:], there, here)
            what = f"{_by(there)} -> {_by(here)} tokens: interpolated"
            return np.concatenate([value[:, :others], resized], axis=1), what
    if value.shape == shape:
        return value, ""
    if name in getattr(kind, "input_weights", ()) and _but_axis_1(value.shape) == _but_axis_1(shape):
        return adapt_input(value, shape[1])
    if name in getattr(kind, "flat_input_weights", ()) and value.shape[0] == shape[0]:
        outputs, channels = shape[0], model.config.in_channels
        voxels = shape[1] // channels
        if value.shape[1] % voxels == 0:
            adapted, what = adapt_input(value.reshape(outputs, voxels, -1).swapaxes(1, 2), channels)
            return adapted.swapaxes(1, 2).reshape(shape), what
    return None, ""


def _but_axis_1(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + shape[2:]


def adapt_input(
    weight: Float[np.ndarray, "O m *k"], channels: int
) -> tuple[Float[np.ndarray, "O n *k"], str]:
    """An input weight for ``channels`` image channels instead of its own m, and what was done.

    More channels: the weight is tiled and multiplied by m / n, which keeps the size of what comes out. Fewer: the
    first n.
    """
    m = weight.shape[1]
    if channels <= m:
        return weight[:, :channels], f"{m} -> {channels} input channels: truncated"
    tiled = weight[:, np.arange(channels) % m] * np.float32(m / channels)
    how = f"copied / {channels}" if m == 1 else f"tiled * {m} / {channels}"
    return tiled, f"{m} -> {channels} input channels: {how}"


def adapt_positions(
    embedding: Float[np.ndarray, "1 N C"], there: Sequence[int], here: Sequence[int]
) -> Float[np.ndarray, "1 n C"]:
    """Position embeddings from one grid of tokens to another, trilinearly (half-voxel centres, edges repeated)."""
    features = embedding.shape[-1]
    grid = np.asarray(embedding, np.float32).reshape(*there, features)
    resized = jax.image.resize(grid, (*here, features), "trilinear", antialias=False)
    return np.asarray(resized).reshape(1, -1, features)


def _cube(tokens: int, name: str, source: str) -> Triple:
    edge = round(tokens ** (1 / 3))
    if edge**3 != tokens:
        raise FdifError(f"{source}: {name} has {tokens} tokens, which are no cube; say the grid they are of")
    return edge, edge, edge


def _by(grid: Sequence[int]) -> str:
    return "x".join(map(str, grid))
