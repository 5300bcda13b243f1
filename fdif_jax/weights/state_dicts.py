"""Weights to and from PyTorch: state dicts in PyTorch's names and layout; their files are `weight_files`'s.

A network's attribute paths are, but for what its table says, the names in its PyTorch twin's state dict. The
table of a network is two lists of ``(pattern, replacement)`` rules, applied in turn: ``model.torch_names``
rewrites a path into PyTorch's name, and ``model.torch_aliases`` adds the further names under which PyTorch
keeps the same parameter, each rule to all names that there are by then. A parameter whose axes are ordered
otherwise than PyTorch's carries ``torch_axes``, the permutation to PyTorch's order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdif_jax.errors import FdifError
from fdif_jax.weights.files import as_array, check_finite


class TorchBuffer(nnx.Variable):
    """A constant that PyTorch keeps in its state dict, so that ours does too; a loaded one must equal it."""


# What PyTorch's state dict holds: parameters, the running statistics of batch norms, and constants.
_SAVED = nnx.Any(nnx.Param, nnx.BatchStat, TorchBuffer)


def to_torch_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The state dict of the network's PyTorch twin, complete for ``load_state_dict(strict=True)``: name → array.

    Arrays are in PyTorch's layout; integers are 64 bits as PyTorch's are, other dtypes are kept. All names of one
    parameter share one array.
    """
    state: dict[str, np.ndarray] = {}
    for _, names, variable in torch_variables(model):
        axes = variable.get_metadata().get("torch_axes")
        value = np.asarray(variable[...])
        dtype = np.int64 if np.issubdtype(value.dtype, np.integer) else value.dtype
        value = value if axes is None else value.transpose(axes)
        state |= dict.fromkeys(names, np.array(value, dtype, order="C"))  # a writable copy
    return state


def load_torch_state_dict(
    model: nnx.Module, state: Mapping[str, Any], *, source: str = "the state dict"
) -> None:
    """Put a PyTorch state dict into the network, in place.

    Args:
        model: the network.
        state: name → NumPy array or PyTorch tensor. Of the several names of one parameter any one suffices.
        source: what holds them, for errors.

    Raises:
        FdifError: keys that are missing, not the network's, of another shape, constants of another value, or numbers
            that are not finite (`check_finite`); nothing is loaded then.
    """
    check_finite(source, state)
    loaded, missing, misshapen, differing, known = {}, [], [], [], set()
    for path, names, variable in torch_variables(model):
        known.update(names)
        name = next((name for name in names if name in state), None)
        if name is None:
            missing.append(names[0])
            continue
        axes = variable.get_metadata().get("torch_axes") or tuple(range(variable.ndim))
        value, wanted = as_array(state[name]), tuple(variable.shape[axis] for axis in axes)
        if value.shape != wanted:
            misshapen.append(f"{name} {value.shape} instead of {wanted}")
            continue
        if isinstance(variable, TorchBuffer):
            if not np.array_equal(value, np.asarray(variable[...]).transpose(axes)):
                differing.append(name)
            continue
        # a copy: jnp.asarray may share the tensor's memory, which PyTorch writes to as it trains
        loaded[path] = variable.replace(jnp.array(value.transpose(np.argsort(axes)), variable.dtype))
    unexpected = [name for name in state if name not in known]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults["of another value than this network's constant"] = differing
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {fault}: {some(keys)}" for fault, keys in faults.items() if keys)
        raise FdifError(f"{source} does not fit this {type(model).__name__}: {listed}")
    nnx.update(model, nnx.from_flat_state(loaded))


def torch_variables(model: nnx.Module) -> Iterator[tuple[tuple[Any, ...], list[str], nnx.Variable]]:
    """What PyTorch's state dict holds: each variable's path, its names in PyTorch, and itself."""
    for path, variable in nnx.to_flat_state(nnx.state(model, _SAVED)):
        name = ".".join(map(str, path))
        for pattern, replacement in getattr(model, "torch_names", ()):
            name = re.sub(pattern, replacement, name)
        names = [name]
        for pattern, replacement in getattr(model, "torch_aliases", ()):
            names += [re.sub(pattern, replacement, name) for name in names if re.search(pattern, name)]
        yield path, names, variable


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
