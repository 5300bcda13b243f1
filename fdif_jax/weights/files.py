"""Files of weights: PyTorch's ``.pth`` and ``.safetensors``, written whole, and read without running code from them.

A ``.pth`` is a pickle, which may name any function to be called. It is read by PyTorch's restricted reader, which knows
tensors and plain containers, and for what training programs keep beside the weights NumPy's numbers and arrays.
"""

import argparse
import io
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import check_genuine, not_there, reading, write_atomic

# Where the training programs put a state dict, the most particular first.
SUFFIXES = (".pth", ".pt", ".safetensors")
_STATES = ("network_weights", "state_dict", "model_state_dict", "model", "net")
# What else of a file says how its network is built: nnU-Net's plan, nnssl's.
_PLANS = ("init_args", "nnssl_adaptation_plan")


class Checkpoint(NamedTuple):
    """What a file of weights holds.

    Attributes:
        state: name → array; names as of the bare network, without what data-parallel or compiled wrappers prepend.
        plans: ``init_args`` of an nnU-Net checkpoint and ``nnssl_adaptation_plan`` of an nnssl one, if there.
        mirror_axes: of an nnU-Net checkpoint, what it allows to be mirrored along when it predicts.
    """

    state: dict[str, np.ndarray]
    plans: dict[str, Any]
    mirror_axes: Any = None


def as_array(value: Any) -> np.ndarray:
    """A NumPy array or PyTorch tensor as a NumPy array; floating-point tensors become float32."""
    if hasattr(value, "detach"):  # a PyTorch tensor, perhaps bfloat16, which NumPy does not know
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    return np.asarray(value)


def check_finite(source: str, state: Mapping[str, Any]) -> None:
    """Check that weights by name, arrays or tensors, are finite in float32; ``source`` is what holds them.

    FdifError, naming the first array and its first number, if one is NaN, infinite, or too large.
    """
    for name, value in state.items():
        array = as_array(value)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False))
        if not finite.all():
            place = np.unravel_index(np.argmin(finite), array.shape)
            raise FdifError(
                f"{source}: {name} holds {float(array[place]):g} at {list(map(int, place))}; weights must be finite in "
                "float32: take a checkpoint from before its training diverged"
            )


def check_suffix(path: str | os.PathLike) -> str:
    """The suffix of a weights file, if it is one that can be written and read; FdifError for another."""
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise FdifError(f"{path}: a weights file ends in .pth, .pt or .safetensors")
    return suffix


def save_weights(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a state dict; ``.pth`` or ``.pt`` by PyTorch, ``.safetensors`` without it.

    FdifError for another suffix, or if PyTorch is needed and not installed.
    """
    save = save_safetensors if check_suffix(path) == ".safetensors" else save_torch
    save(state, path)


def save_torch(contents: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a ``.pth`` that ``torch.load(path, weights_only=True)`` reads as tensors and plain data; whole or not at
    all.

    Contents are dicts, lists, tuples, numbers, strings, None, and arrays, which become tensors. Names that share one
    array share one tensor, so the file holds it once. FdifError if PyTorch is not installed.
    """
    torch = _torch()
    tensors: dict[int, Any] = {}

    def converted(value):
        if isinstance(value, np.ndarray):
            if id(value) not in tensors:
                tensors[id(value)] = torch.from_numpy(np.array(value))
            return tensors[id(value)]
        if isinstance(value, Mapping):
            return {key: converted(entry) for key, entry in value.items()}
        return type(value)(map(converted, value)) if isinstance(value, list | tuple) else value

    stream = io.BytesIO()
    torch.save(converted(contents), stream)
    write_atomic(path, stream.getvalue())


def save_safetensors(state: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a ``.safetensors`` for ``net.load_state_dict(safetensors.torch.load_file(path), strict=True)``.

    The format has no aliases: an array of several names is stored under each of them.
    """
    write_atomic(path, safetensors.numpy.save(dict(state), {"format": "pt"}))


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The state dict in a file of weights; the rest is as for `read_checkpoint`."""
    return read_checkpoint(path).state


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read the weights in a file, and the plan of the network if the file has one.

    Understood are bare state dicts, files that keep one beside other things (as ``state_dict``, ``model``,
    ``model_state_dict``), and the checkpoints of nnU-Net and nnssl, as safetensors or PyTorch's, which the first bytes
    tell whatever the name. No code from the file is run.

    Raises:
        FdifError: no such file, a damaged one, something else in its place, no state dict in it, a pickle that
            names what it has no need of, or PyTorch is needed and not installed.
    """
    if not Path(path).is_file():
        raise not_there(path)
    contents = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state = _state_in(contents)
    if not state:
        raise FdifError(
            f"{path} holds no state dict (name → tensor), neither bare nor under one of the names "
            f"{', '.join(_STATES)}; save one with torch.save(net.state_dict(), path)"
        )
    plans = {name: contents[name] for name in _PLANS if isinstance(contents.get(name), Mapping)}
    _check_held(path, state)
    arrays = _unwrapped({name: as_array(value) for name, value in state.items()})
    return Checkpoint(arrays, plans, contents.get("inference_allowed_mirroring_axes"))


def _check_held(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """Raise an FdifError if an array says that it has more numbers than the file holds, by repeating some."""
    size = os.path.getsize(path)
    for name, value in state.items():
        if value.nbytes > size:
            raise FdifError(
                f"{path}: {name} of shape {tuple(value.shape)} is more than its {size:,} bytes hold"
            )


def _is_safetensors(path: str | os.PathLike) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON object in 8 bytes, then that; or is called so."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{" or Path(path).suffix == ".safetensors"


def _state_in(contents: Any) -> Mapping[str, Any] | None:
    if not isinstance(contents, Mapping):
        return None
    if all(isinstance(k, str) and hasattr(v, "dtype") and hasattr(v, "shape") for k, v in contents.items()):
        return contents
    return next((found for key in _STATES if (found := _state_in(contents.get(key)))), None)


def _unwrapped(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without ``_orig_mod`` (torch.compile) anywhere and ``module`` (data parallel) before every name."""
    state = {name.replace("_orig_mod.", ""): array for name, array in state.items()}
    while all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    return state


def _read_torch(path: str | os.PathLike) -> Any:
    torch = _torch()
    try:
        with (
            torch.serialization.safe_globals(_harmless()),
            warnings.catch_warnings(),
            _Bounded(path) as file,
        ):
            warnings.simplefilter("ignore")  # about unusual pickles; they are read or an error
            # Archives, which PyTorch reads faster by their name, are told by their first bytes.
            source = path if file.peek(4)[:4] == b"PK\x03\x04" else file
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, runtime and end-of-file errors alike
        check_genuine(path)
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise FdifError(
                f"{path} is not read: it asks for {refused[1].rstrip('.,')}, which could run code. If you trust it, "
                "torch.load(file, weights_only=False) it and torch.save the state dict in it alone"
            ) from error
        reason = str(error).split("\n")[0] or "it ends too early"
        # Of a text a pickle's reader says a letter's number; or it advises to run what is in the file.
        if "weights_only" in reason or isinstance(error, LookupError):
            reason = "torch.save did not write it, or it is damaged"
        raise FdifError(f"{path} cannot be read as PyTorch weights: {reason}") from error


class _Bounded(io.BufferedReader):
    """A file that is never asked for more bytes than it has, whatever a length in it says."""

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.path.getsize(path)

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def _harmless() -> list:
    """What may stand beside the weights: NumPy's numbers and arrays of them, and the options of a command line.

    NumPy 2 moved what rebuilds them; files of either version name them by their own path.
    """
    rebuilding: list[Any] = [np.array(0.0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    moved = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in rebuilding
        for core in ("core", "_core")
    ]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSU"}
    return [*moved, np.ndarray, np.dtype, *dtypes, argparse.Namespace]


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    with reading(path, "cannot be read as safetensors"):
        return safetensors.numpy.load_file(path)


def _torch():
    with needing("torch"):
        import torch
    return torch
