"""Convolution in 3D by oneDNN, as an operation of XLA's programs on a CPU.

All arrays are float32, channels last, and stay where XLA has them; only weights are brought to the order that a kernel
wants. Where oneDNN has no kernel for the gradient of the weights but unrolls the images into a matrix of all taps
("gemm"), that of 2D slices is taken, of each sample and each depth tap: 2 to 3 times as fast with AVX2
(docs/performance.md).
"""

import ctypes
import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.models import onednn
from fdif_jax.models.onednn import (
    RESULT,
    RESULT_GRADIENT,
    SOURCE,
    SOURCE_GRADIENT,
    WEIGHTS,
    WEIGHTS_GRADIENT,
    Primitive,
)
from fdif_jax.models.xla_calls import Operand, register

Triple = tuple[int, int, int]
Kernel = Callable[[int, int, int], None]
"""Computes, given the addresses of two arguments and the result."""

SWITCH = "FDIF_ONEDNN"
"""An environment variable; where it is "off", XLA convolves."""

_FORWARD, _TO_IMAGES, _TO_WEIGHTS = "fdif_conv_forward", "fdif_conv_to_images", "fdif_conv_to_weights"


def available() -> bool:
    """Whether oneDNN is there and XLA can call it."""
    return not lacking()


@functools.cache
def lacking() -> str:
    """Why XLA convolves and not oneDNN; empty where oneDNN does. It is found out once in a process."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0"):
        return f"{SWITCH} is off"
    try:
        onednn.library()
        for name in (_FORWARD, _TO_IMAGES, _TO_WEIGHTS):
            register(name, functools.partial(_convolve, name))
    except ImportError:
        return f"{onednn.PACKAGE} is not installed"
    except Exception as error:  # whatever it is, XLA's own convolution does
        return f"{onednn.PACKAGE}: {error}"
    return ""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "B D H W C"], weight: Float[Array, "kd kh kw C O"], strides: Triple
) -> Float[Array, "B d h w O"]:
    """3D convolution, float32, zero padding ``(k-1)//2`` a side; only where `available`."""
    return _call(_FORWARD, (x.shape[0], *_out(x.shape[1:4], strides), weight.shape[-1]), x, weight, strides)


def _forward(x: Array, weight: Array, strides: Triple) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, weight, strides), (x, weight)


def _backward(strides: Triple, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, weight = kept
    return (
        _call(_TO_IMAGES, x.shape, gradient, weight, strides),
        _call(_TO_WEIGHTS, weight.shape, x, gradient, strides),
    )


convolve.defvjp(_forward, _backward)


def _call(name: str, shape: Sequence[int], first: Array, second: Array, strides: Triple) -> Array:
    result = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    operation = jax.ffi.ffi_call(name, result, vmap_method="sequential")
    return operation(first, second, strides=np.asarray(strides, np.int64))


def _convolve(name: str, given: Sequence[Operand], made: Sequence[Operand], strides: Sequence[int]) -> None:
    """What XLA calls; see `_call`."""
    (first, second), (result,) = given, made
    x = result if name == _TO_IMAGES else first
    weight = result if name == _TO_WEIGHTS else second
    with _turn:  # a kernel takes all cores
        kernel = _kernel(name, x.shape, weight.shape, tuple(strides))
        kernel(first.address, second.address, result.address)


_turn = threading.Lock()
_ordered, _of_a_tap = onednn.Buffer(), onednn.Buffer()  # weights


@functools.cache
def _kernel(name: str, x: tuple[int, ...], weight: tuple[int, ...], strides: Triple) -> Kernel:
    """For arrays of these shapes."""
    images, results = _dense(x), _dense((x[0], *_out(x[1:4], strides), weight[-1]))
    if name != _TO_WEIGHTS:
        return _by_weights(name, images, results, weight, strides)
    kernel, its_name = _to_weights(images, results, weight, strides)
    unrolled = "gemm" in its_name and strides[0] == 1  # slices that lie apart have no fast kernel
    return _to_weights_by_slices(x, weight, strides) if unrolled else kernel


def _out(edges: Sequence[int], strides: Sequence[int]) -> list[int]:
    return [(n - 1) // s + 1 for n, s in zip(edges, strides, strict=True)]


def _dense(shape: Sequence[int]) -> Any:
    """The description of images, channels last."""
    return onednn.dense(shape, (0, len(shape) - 1, *range(1, len(shape) - 1)))


def _first_to_last(weight: Sequence[int]) -> Any:
    """The description of weights as XLA has them, ``(*kernel, C, O)``."""
    return onednn.dense(weight, (len(weight) - 1, len(weight) - 2, *range(len(weight) - 2)))


def _primitive(
    role: int, images: Any, results: Any, weight: Sequence[int], strides: Sequence[int]
) -> Primitive:
    pads = [(k - 1) // 2 for k in weight[:-2]]
    return onednn.convolution(role, images, results, (weight[-1], weight[-2], *weight[:-2]), strides, pads)


def _by_weights(name: str, images: Any, results: Any, weight: Sequence[int], strides: Triple) -> Kernel:
    """The convolution, or its gradient of the images."""
    forward = name == _FORWARD
    role = RESULT if forward else SOURCE_GRADIENT
    primitive = _primitive(role, images, results, weight, strides)
    given, own = _first_to_last(weight), primitive.wants(WEIGHTS)
    reordering = onednn.reordering(given, own)

    def run(first: int, second: int, result: int) -> None:
        there = second
        if reordering:
            there = _ordered.address(onednn.size(own))
            reordering.run((SOURCE, given, second), (RESULT, own, there))
        of_images = (SOURCE, images, first) if forward else (SOURCE_GRADIENT, images, result)
        of_results = (RESULT, results, result) if forward else (RESULT_GRADIENT, results, first)
        primitive.run(of_images, (WEIGHTS, own, there), of_results)

    return run


def _to_weights(
    images: Any, results: Any, weight: Sequence[int], strides: Sequence[int]
) -> tuple[Kernel, str]:
    """The gradient of the weights, in 2D or 3D, and the name of its kernel."""
    primitive = _primitive(WEIGHTS_GRADIENT, images, results, weight, strides)
    given, own = _first_to_last(weight), primitive.wants(WEIGHTS_GRADIENT)
    reordering = onednn.reordering(own, given)

    def run(first: int, gradient: int, result: int) -> None:
        there = _ordered.address(onednn.size(own)) if reordering else result
        sources = (SOURCE, images, first), (RESULT_GRADIENT, results, gradient)
        primitive.run(*sources, (WEIGHTS_GRADIENT, own, there))
        if reordering:
            reordering.run((SOURCE, own, there), (RESULT, given, result))

    return run, primitive.name


class _Slices(NamedTuple):
    """Slices of a sample that a depth tap pairs: the first of the images, the first of the results, how many."""

    image: int
    result: int
    number: int


def _pairs(tap: int, kernel: int, depth: int) -> _Slices:
    shift = tap - (kernel - 1) // 2
    return _Slices(max(shift, 0), max(-shift, 0), max(depth - abs(shift), 0))


def _to_weights_by_slices(x: Sequence[int], weight: Sequence[int], strides: Triple) -> Kernel:
    """The gradient of the weights in 2D, of depth stride 1: of a tap, the sum of what the samples' slices give."""
    batch, depth, *plane = x
    plane_out = [*_out(x[2:4], strides[1:]), weight[-1]]
    taps = [_pairs(tap, weight[0], depth) for tap in range(weight[0])]
    kernels = {}
    for number in {slices.number for slices in taps} - {0}:
        images, results = _dense((number, *plane)), _dense((number, *plane_out))
        kernels[number], _ = _to_weights(images, results, weight[1:], strides[1:])
    image, result_image = (4 * math.prod(one) for one in (plane, plane_out))  # bytes of a slice

    def run(first: int, gradient: int, result: int) -> None:
        there = _of_a_tap.address(4 * math.prod(weight[1:]))
        sums, one = _array(result, weight), _array(there, weight[1:])
        sums[...] = 0
        for sample in range(batch):
            for tap, slices in enumerate(taps):
                if slices.number:
                    of_image = first + image * (sample * depth + slices.image)
                    of_result = gradient + result_image * (sample * depth + slices.result)
                    kernels[slices.number](of_image, of_result, there)
                    sums[tap] += one

    return run


def _array(address: int, shape: Sequence[int]) -> np.ndarray:
    """An array that lies at an address."""
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), tuple(shape))
