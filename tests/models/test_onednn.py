"""Convolutions by oneDNN, beside PyTorch's and XLA's own; how XLA calls a function; and where it is left."""

import importlib.metadata
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdif_jax.models import conv, onednn, onednn_conv, xla_calls

needed = pytest.mark.skipif(bool(onednn_conv.lacking()), reason=onednn_conv.lacking() or "there")


def test_it_is_there_where_its_package_is_installed():
    try:
        importlib.metadata.version(onednn.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        assert "is not installed" in onednn_conv.lacking()
    else:
        assert onednn_conv.available()


@needed
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    edges=st.tuples(*[st.integers(1, 7)] * 3),
    channels=st.sampled_from((1, 3, 8, 16)),
    features=st.sampled_from((1, 5, 8)),
    kernel=st.tuples(*[st.sampled_from((1, 3, 5))] * 3),
    strides=st.tuples(*[st.integers(1, 3)] * 3),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_pytorch(batch, edges, channels, features, kernel, strides, seed):
    draw = np.random.default_rng(seed).standard_normal
    x, weight = draw((batch, *edges, channels), np.float32), draw((*kernel, channels, features), np.float32)
    y, pull = jax.vjp(lambda x, w: onednn_conv.convolve(x, w, strides), x, weight)
    cotangent = draw(y.shape, np.float32)

    # As dense arrays: of turned ones PyTorch 2.13 gives wrong sums where an edge is 1 and strided.
    their_x = torch.tensor(np.moveaxis(x, -1, 1).copy(), requires_grad=True)
    their_weight = torch.tensor(weight.transpose(4, 3, 0, 1, 2).copy(), requires_grad=True)
    pads = [(k - 1) // 2 for k in kernel]
    their_y = torch.nn.functional.conv3d(their_x, their_weight, stride=strides, padding=pads)
    their_y.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))

    of_x, of_weight = pull(cotangent)
    for ours, theirs, back in (
        (y, their_y, (0, 2, 3, 4, 1)),
        (of_x, their_x.grad, (0, 2, 3, 4, 1)),
        (of_weight, their_weight.grad, (2, 3, 4, 1, 0)),
    ):
        theirs = theirs.detach().numpy().transpose(back)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * max(np.abs(theirs).max(), 1))


@needed
def test_the_gradient_by_slices_is_that_of_the_whole():
    """Which of the two a machine takes depends on its kernels."""
    x, weight, strides = (2, 4, 6, 5, 16), (5, 3, 3, 16, 8), (1, 1, 1)
    draw = np.random.default_rng(0).standard_normal
    images, cotangent = draw(x).astype(np.float32), draw((*x[:-1], 8)).astype(np.float32)
    whole, _ = onednn_conv._to_weights(
        onednn_conv._dense(x), onednn_conv._dense(cotangent.shape), weight, strides
    )
    sliced = onednn_conv._to_weights_by_slices(x, weight, strides)
    one, other = np.full(weight, np.nan, np.float32), np.full(weight, np.nan, np.float32)
    for kernel, result in ((whole, one), (sliced, other)):
        kernel(images.ctypes.data, cotangent.ctypes.data, result.ctypes.data)
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.isfinite(one).all()
    assert (one[0] != 0).any()


@needed
def test_threads_vmap_and_jit_give_the_same():
    draw = np.random.default_rng(1).standard_normal
    x, weight = draw((4, 1, 6, 6, 6, 8)).astype(np.float32), draw((3, 3, 3, 8, 8)).astype(np.float32)
    convolve = jax.jit(lambda x: onednn_conv.convolve(x, weight, (1, 1, 1)))
    one_by_one = np.stack([np.asarray(convolve(part)) for part in x])
    np.testing.assert_array_equal(jax.vmap(convolve)(x), one_by_one)
    found: list = [None] * 4

    def work(number: int) -> None:
        for _ in range(20):
            found[number] = np.asarray(convolve(x[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.stack(found), one_by_one)


def lowered(dtype: str = "float32") -> str:
    x, weight = jnp.ones((1, 4, 4, 4, 2), dtype), jnp.ones((3, 3, 3, 2, 2), dtype)
    return jax.jit(lambda x, w: conv.conv3d(x, w)).lower(x, weight).as_text()


@needed
def test_layers_take_it_for_float32_alone_and_leave_it_out_of_programs_for_others():
    assert "fdif_conv" in lowered()
    assert "fdif_conv" not in lowered("bfloat16")
    with conv.portable():
        assert "fdif_conv" not in lowered()
    assert "fdif_conv" in lowered()


@needed
def test_it_is_left_where_there_are_several_devices_or_where_it_is_turned_off(monkeypatch):
    with monkeypatch.context() as several:
        several.setattr(jax, "device_count", lambda: 2)
        assert "fdif_conv" not in lowered()
    monkeypatch.setenv("FDIF_ONEDNN", "off")
    assert onednn_conv.lacking.__wrapped__() == "FDIF_ONEDNN is off"


def test_what_is_missing_is_told(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", nothing)
    monkeypatch.setattr(onednn, "library", onednn.library.__wrapped__)
    assert onednn_conv.lacking.__wrapped__() == "onednn-cpu-gomp is not installed"


def test_xla_calls_a_function_and_tells_what_it_raises():
    def scale(given, made, integers):
        (array,), (result,) = given, made
        if integers != (2, 3):
            raise ValueError(f"not {integers}")
        source, target = (onednn_conv._array(operand.address, operand.shape) for operand in (array, result))
        target[...] = source * 6

    xla_calls.register("fdif_test_scale", scale)

    def call(x, integers):
        operation = jax.ffi.ffi_call("fdif_test_scale", jax.ShapeDtypeStruct(x.shape, x.dtype))
        return operation(x, integers=np.asarray(integers, np.int64))

    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.jit(lambda x: call(x, (2, 3)) + 1)(x), x * 6 + 1)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"fdif_test_scale: ValueError: not \(5,\)"):
        jax.block_until_ready(jax.jit(lambda x: call(x, (5,)))(x))
