"""oneDNN, the library whose kernels PyTorch uses on CPUs, through its C interface, version 3.

The library is that of the package onednn-cpu-gomp (Linux, x86-64); the constants are of its headers
(https://uxlfoundation.github.io/oneDNN). All arrays are float32. One call computes at a time.
"""

import ctypes
import functools
import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "onednn-cpu-gomp"

# What an array is to a kernel.
SOURCE, RESULT, WEIGHTS = 1, 17, 33
SOURCE_GRADIENT, RESULT_GRADIENT, WEIGHTS_GRADIENT = 129, 145, 161

_SCRATCHPAD = 80
_DESCRIPTIONS = {WEIGHTS: 131, WEIGHTS_GRADIENT: 132, _SCRATCHPAD: 136}
_NAME_OF_KERNEL = 8
_CPU, _IN_ORDER, _SCRATCHPAD_IS_GIVEN, _FLOAT32 = 1, 1, 1, 3
_ANY_ORDER = 1  # a tag of a memory format
_TRAINING, _DIRECT = 64, 1  # kinds of propagation, and of an algorithm

_pointer = ctypes.c_void_p


@functools.cache
def library() -> Any:
    """oneDNN, loaded. Its functions are called with Python's lock held, but for that which computes.

    Raises:
        ImportError: the package is not installed.
        OSError: it cannot be loaded, or has another interface.
    """
    files = importlib.metadata.files(PACKAGE) or ()  # PackageNotFoundError is an ImportError
    found = [Path(str(file.locate())) for file in files if file.name.startswith("libdnnl.so")]
    if not found:
        raise ImportError(f"{PACKAGE} holds no libdnnl.so")
    path = str(max(found, key=lambda path: len(path.name)))
    loaded: Any = ctypes.PyDLL(path)
    loaded.dnnl_primitive_execute = ctypes.CDLL(path).dnnl_primitive_execute
    loaded.dnnl_version.restype = ctypes.POINTER(ctypes.c_int)
    if (version := loaded.dnnl_version()[0]) != 3:
        raise OSError(f"oneDNN {version} has another interface than 3")
    number = ctypes.c_int
    for name, result, arguments in (
        ("dnnl_primitive_create", number, [_pointer] * 2),
        ("dnnl_primitive_execute", number, [_pointer, _pointer, number, _pointer]),
        ("dnnl_stream_wait", number, [_pointer]),
        ("dnnl_reorder_primitive_desc_create", number, [_pointer] * 6),
        ("dnnl_memory_create", number, [_pointer] * 4),
        ("dnnl_memory_destroy", number, [_pointer]),
        ("dnnl_memory_desc_equal", number, [_pointer] * 2),
        ("dnnl_memory_desc_get_size", ctypes.c_size_t, [_pointer]),
        ("dnnl_primitive_desc_query", number, [_pointer, number, number, _pointer]),
        ("dnnl_primitive_desc_query_md", _pointer, [_pointer, number, number]),
    ):
        function: Any = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def _made(function: str, *arguments: Any) -> Any:
    """The object that a function of oneDNN makes; RuntimeError if it fails."""
    made = _pointer()
    _checked(function, ctypes.byref(made), *arguments)
    return made


def _checked(function: str, *arguments: Any) -> None:
    if status := getattr(library(), function)(*arguments):
        raise RuntimeError(f"{function} ended with status {status}")


@functools.cache
def _engine() -> Any:
    return _made("dnnl_engine_create", _CPU, ctypes.c_size_t(0))


@functools.cache
def _stream() -> Any:
    return _made("dnnl_stream_create", _engine(), _IN_ORDER)


@functools.cache
def _attributes() -> Any:
    attributes = _made("dnnl_primitive_attr_create")
    _checked("dnnl_primitive_attr_set_scratchpad_mode", attributes, _SCRATCHPAD_IS_GIVEN)
    return attributes


def _numbers(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * 12)(*values)


def dense(shape: Sequence[int], axes: Sequence[int]) -> Any:
    """The description of an array of that shape, in row-major order, by its axes in the order that oneDNN has them."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    lengths, apart = (_numbers([values[axis] for axis in axes]) for values in (shape, steps))
    return _made("dnnl_memory_desc_create_with_strides", len(shape), lengths, _FLOAT32, apart)


def _of_any_order(shape: Sequence[int]) -> Any:
    """The description of an array whose order the kernel chooses."""
    return _made("dnnl_memory_desc_create_with_tag", len(shape), _numbers(shape), _FLOAT32, _ANY_ORDER)


def size(description: Any) -> int:
    """Bytes of an array."""
    return library().dnnl_memory_desc_get_size(description)


class Buffer:
    """Memory that grows."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def address(self, size: int) -> int:
        """Of so many bytes from the start of a line of the cache, which stay until more are asked for."""
        if self._bytes.size < size + 64:
            self._bytes = np.empty(size + 64, np.uint8)
        return -(-self._bytes.ctypes.data // 64) * 64


_scratchpad = Buffer()


class _Argument(ctypes.Structure):
    _fields_ = [("role", ctypes.c_int), ("memory", _pointer)]


class Primitive:
    """What oneDNN runs; made of its description."""

    def __init__(self, description: Any):
        self._primitive = _made("dnnl_primitive_create", description)
        self._description = description
        self._scratchpad = self.wants(_SCRATCHPAD)
        self._size = size(self._scratchpad)

    def wants(self, role: int) -> Any:
        """The description of an array whose order the kernel has chosen."""
        return library().dnnl_primitive_desc_query_md(self._description, _DESCRIPTIONS[role], 0)

    @property
    def name(self) -> str:
        """Of the kernel."""
        name = ctypes.c_char_p()
        which = self._description, _NAME_OF_KERNEL, 0
        _checked("dnnl_primitive_desc_query", *which, ctypes.byref(name))
        return (name.value or b"").decode()

    def run(self, *arrays: tuple[int, Any, int]) -> None:
        """Run on arrays, each with its role, description and address."""
        arrays += ((_SCRATCHPAD, self._scratchpad, _scratchpad.address(self._size)),)
        memories = [_made("dnnl_memory_create", kind, _engine(), address) for _, kind, address in arrays]
        roles = (role for role, _, _ in arrays)
        arguments = (_Argument * len(arrays))(*map(_Argument, roles, memories))
        try:
            _checked("dnnl_primitive_execute", self._primitive, _stream(), len(arrays), arguments)
            _checked("dnnl_stream_wait", _stream())
        finally:
            for memory in memories:
                library().dnnl_memory_destroy(memory)


def convolution(
    role: int, x: Any, y: Any, weight: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> Primitive:
    """A convolution, by the role of what it computes: RESULT, or a gradient of SOURCE or WEIGHTS.

    Args:
        role: RESULT, SOURCE_GRADIENT or WEIGHTS_GRADIENT.
        x: description of the images, or of their gradient.
        y: of the result, or of its gradient.
        weight: its shape, outputs and channels first; the kernel chooses its order.
        strides: along each axis.
        pads: zeros on either side of each axis.
    """
    wanted, none = _of_any_order(weight), [0] * len(pads)
    sizes = [_numbers(values) for values in (strides, none, pads, pads)]
    make = "dnnl_convolution_{}_primitive_desc_create".format
    arrays = _DIRECT, x, wanted, None, y
    forward = _made(make("forward"), _engine(), _TRAINING, *arrays, *sizes, _attributes())
    hint = *sizes, forward, _attributes()
    if role == SOURCE_GRADIENT:
        return Primitive(_made(make("backward_data"), _engine(), _DIRECT, x, wanted, y, *hint))
    if role == WEIGHTS_GRADIENT:
        return Primitive(_made(make("backward_weights"), _engine(), *arrays, *hint))
    return Primitive(forward)


def reordering(start: Any, end: Any) -> Primitive | None:
    """From SOURCE to RESULT in another order; None where both are the same."""
    if library().dnnl_memory_desc_equal(start, end):
        return None
    arguments = start, _engine(), end, _engine(), _attributes()
    return Primitive(_made("dnnl_reorder_primitive_desc_create", *arguments))
