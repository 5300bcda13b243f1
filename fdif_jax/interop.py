"""Weights to and from PyTorch: state dicts in PyTorch's names and layout, as ``.pth`` or ``.safetensors``.

A network's attribute paths are, but for what its table says, the names in its PyTorch twin's state dict. The
table of a network is two lists of ``(pattern, replacement)`` rules, applied in turn: ``model.torch_names``
rewrites a path into PyTorch's name, and ``model.torch_aliases`` adds the further names under which PyTorch
keeps the same parameter, each rule to all names that there are by then. A parameter whose axes are ordered
otherwise than PyTorch's carries ``torch_axes``, the permutation to PyTorch's order.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from fdif_jax.errors import FdifError
from fdif_jax.volumes import write_atomic


class TorchBuffer(nnx.Variable):
    """A constant that PyTorch keeps in its state dict, so that ours does too; a loaded one must equal it."""


# What PyTorch's state dict holds: parameters, the running statistics of batch norms, and constants.
_SAVED = nnx.Any(nnx.Param, nnx.BatchStat, TorchBuffer)


def to_torch_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The state dict of the network's PyTorch twin, complete for ``load_state_dict(strict=True)``.

    Returns:
        Name → array in PyTorch's layout; integers are 64 bits as PyTorch's are, other dtypes are kept. All names
        of one parameter share one array.
    """
    state: dict[str, np.ndarray] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, _SAVED)):
        axes = variable.get_metadata().get("torch_axes")
        value = np.asarray(variable[...])
        dtype = np.int64 if np.issubdtype(value.dtype, np.integer) else value.dtype
        value = np.array(
            value if axes is None else value.transpose(axes), dtype, order="C"
        )  # a writable copy
        state |= dict.fromkeys(_names(model, path), value)
    return state


def load_torch_state_dict(model: nnx.Module, state: Mapping[str, Any]) -> None:
    """Put a PyTorch state dict into the network, in place.

    Args:
        model: the network.
        state: name → NumPy array or PyTorch tensor. Of the several names of one parameter any one suffices.

    Raises:
        FdifError: keys that are missing, not the network's, of another shape, or constants of another value;
            nothing is loaded then.
    """
    loaded, missing, misshapen, differing, known = {}, [], [], [], set()
    for path, variable in nnx.to_flat_state(nnx.state(model, _SAVED)):
        names = _names(model, path)
        known.update(names)
        name = next((name for name in names if name in state), None)
        if name is None:
            missing.append(names[0])
            continue
        axes = variable.get_metadata().get("torch_axes") or tuple(range(variable.ndim))
        value, wanted = _array(state[name]), tuple(variable.shape[axis] for axis in axes)
        if value.shape != wanted:
            misshapen.append(f"{name} {value.shape} instead of {wanted}")
            continue
        if isinstance(variable, TorchBuffer):
            if not np.array_equal(value, np.asarray(variable[...]).transpose(axes)):
                differing.append(name)
            continue
        loaded[path] = variable.replace(jnp.asarray(value.transpose(np.argsort(axes)), variable.dtype))
    unexpected = [name for name in state if name not in known]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    faults["of another value than this network's constant"] = differing
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {fault}: {_some(keys)}" for fault, keys in faults.items() if keys)
        raise FdifError(f"the state dict does not fit this {type(model).__name__}: {listed}")
    nnx.update(model, nnx.from_flat_state(loaded))


def _names(model: nnx.Module, path: Iterable[Any]) -> list[str]:
    name = ".".join(map(str, path))
    for pattern, replacement in getattr(model, "torch_names", ()):
        name = re.sub(pattern, replacement, name)
    names = [name]
    for pattern, replacement in getattr(model, "torch_aliases", ()):
        names += [re.sub(pattern, replacement, name) for name in names if re.search(pattern, name)]
    return names


def _array(value) -> np.ndarray:
    if hasattr(value, "detach"):  # a PyTorch tensor, perhaps bfloat16, which NumPy does not know
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def _some(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (", …" if len(keys) > limit else "")


def check_suffix(path: str | os.PathLike) -> str:
    """The suffix of a weights file, if it is one that can be written and read.

    Raises:
        FdifError: another suffix.
    """
    suffix = Path(path).suffix
    if suffix not in (".pth", ".pt", ".safetensors"):
        raise FdifError(f"{path}: a weights file ends in .pth, .pt or .safetensors")
    return suffix


def save_weights(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a state dict; ``.pth`` or ``.pt`` by PyTorch, ``.safetensors`` without it.

    Raises:
        FdifError: another suffix, or PyTorch is needed and not installed.
    """
    save = save_safetensors if check_suffix(path) == ".safetensors" else save_torch
    save(state, path)


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read a state dict that `save_weights` or PyTorch wrote.

    Raises:
        FdifError: another suffix, no such file, no state dict in it, or PyTorch is needed and not installed.
    """
    read = _read_safetensors if check_suffix(path) == ".safetensors" else _read_torch
    if not Path(path).is_file():
        raise FdifError(f"no such file: {path}")
    return read(path)


def save_torch(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a ``.pth`` that ``torch.load(path, weights_only=True)`` reads as a dict of tensors.

    Names that share one array share one tensor, so the file holds it once.

    Raises:
        FdifError: PyTorch is not installed.
    """
    torch = _torch()
    tensors: dict[int, Any] = {}
    for array in state.values():
        if id(array) not in tensors:
            tensors[id(array)] = torch.from_numpy(np.array(array))
    contents = {name: tensors[id(array)] for name, array in state.items()}
    stream = io.BytesIO()
    torch.save(contents, stream)
    write_atomic(path, stream.getvalue())


def save_safetensors(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a ``.safetensors`` for ``net.load_state_dict(safetensors.torch.load_file(path), strict=True)``.

    The format has no aliases: an array of several names is stored under each of them.
    """
    write_atomic(path, safetensors.numpy.save(dict(state), {"format": "pt"}))


def _read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    torch = _torch()
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and end-of-file errors alike
        reason = str(error).split("\n")[0]
        raise FdifError(f"{path} cannot be read as PyTorch weights: {reason}") from error
    if not (
        isinstance(contents, dict) and all(isinstance(value, torch.Tensor) for value in contents.values())
    ):
        raise FdifError(
            f"{path} holds no plain state dict (name → tensor); save one with torch.save(net.state_dict())"
        )
    return {name: _array(value) for name, value in contents.items()}


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise FdifError(f"{path} cannot be read as safetensors: {error}") from error


def _torch():
    try:
        import torch
    except ImportError as error:
        raise FdifError(
            "PyTorch is needed for .pth files and not installed; install fdif-jax[torch]"
        ) from error
    return torch
