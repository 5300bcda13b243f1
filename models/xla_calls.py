"""Functions of Python as operations of XLA's programs on a CPU, which read and write arrays where they lie.

XLA calls such an operation with a frame of C structures; those below are the beginnings of what
``xla/ffi/api/c_api.h`` of jaxlib declares in its version 0, which later minor versions only add to.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

_size, _pointer, _int64 = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64
_METADATA, _INTERNAL = 1, 13  # kinds of an extension, and of an error


class Operand(NamedTuple):
    """An array in memory, dense and in row-major order.

    Attributes:
        address: of its first element.
        shape: elements along each axis.
    """

    address: int
    shape: tuple[int, ...]


Operation = Callable[[Sequence[Operand], Sequence[Operand], tuple[int, ...]], None]
"""What a call does, of its arguments, its results, which it fills, and integers that the program gives."""


def register(name: str, operation: Operation) -> None:
    """Make an operation known to XLA under a name, for `jax.ffi.ffi_call` with one attribute, an array of int64.

    What the operation raises ends the program's run with that message.

    Raises:
        Exception: XLA does not take it, most likely since its structures are others than these.
    """

    def called(frame: Any) -> Any:
        frame = frame.contents
        if frame.extension and frame.extension.contents.kind == _METADATA:
            frame.extension.contents.metadata.contents.version = frame.api.contents.version
            return None
        try:
            (integers,) = (frame.attributes.values[i].contents for i in range(frame.attributes.count))
            given, made = (_operands(part) for part in (frame.arguments, frame.results))
            operation(given, made, tuple(integers.data[: integers.size]))
        except Exception as error:
            return _failure(frame.api.contents, f"{name}: {type(error).__name__}: {error}")
        return None

    handler = _Handler(called)
    _kept.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(ctypes.cast(handler, _pointer)), platform="cpu")


def _operands(part: Any) -> list[Operand]:
    arrays = (part.values[i].contents for i in range(part.count))
    return [Operand(array.data or 0, tuple(array.shape[: array.rank])) for array in arrays]


def _failure(api: Any, message: str) -> Any:
    text = message.encode()
    return api.create_error(ctypes.byref(_Error(ctypes.sizeof(_Error), None, text, _INTERNAL)))


class _Struct(ctypes.Structure):
    """What nearly all of the structures begin with; those below add to it."""

    _fields_ = [("size", _size), ("extension", _pointer)]


class _Version(_Struct):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Error(_Struct):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _Api(_Struct):
    _fields_ = [
        ("version", _Version),
        ("internal", _pointer),
        ("create_error", ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Error))),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("size", _size), ("version", _Version)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("size", _size),
        ("kind", ctypes.c_int),
        ("next", _pointer),
        ("metadata", ctypes.POINTER(_Metadata)),  # if it is of that kind
    ]


class _Array(_Struct):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("data", _pointer),
        ("rank", _int64),
        ("shape", ctypes.POINTER(_int64)),
    ]


class _Integers(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("size", _size), ("data", ctypes.POINTER(_int64))]


class _List(_Struct):
    _fields_ = [("count", _int64), ("kinds", _pointer)]


class _Arrays(_List):
    _fields_ = [("values", ctypes.POINTER(ctypes.POINTER(_Array)))]


class _Attributes(_List):
    _fields_ = [("names", _pointer), ("values", ctypes.POINTER(ctypes.POINTER(_Integers)))]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("size", _size),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", _pointer),
        ("stage", ctypes.c_int),
        ("arguments", _Arrays),
        ("results", _Arrays),
        ("attributes", _Attributes),
    ]


_Handler = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Frame))
_kept: list[Any] = []  # handlers, which XLA may call as long as the process lives
