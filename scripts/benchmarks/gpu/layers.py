"""Part `layers`: forms of the costly layers beside each other and beside PyTorch's, forward and backward."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fdif_jax.models import attention, conv
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.parts import seconds_of

_BATCH = 2
_CALLS = 10


def measure(size: Size, figures: Figures) -> None:
    """Milliseconds of every form of every layer, bfloat16."""
    for edge, channels, features, stride in size.convolutions:
        shape = (_BATCH, edge, edge, edge, channels)
        x, weight = _random(shape), _random((3, 3, 3, channels, features))
        name = f"conv {edge}³ {channels} → {features}, stride {stride}"
        flops = 2 * 27 * channels * features * _BATCH * (edge // stride) ** 3
        row: dict[str, Any] = {"flops": flops}
        for form, function in CONVOLUTIONS.items():
            row[form] = _tried(partial(function, strides=(stride,) * 3), (x, weight), size, figures)
        row["PyTorch"] = _torch_convolution(x, weight, stride, size, figures)
        figures.add(name, row)
    tokens, heads, channels = size.attention
    qkv = tuple(_random((_BATCH, tokens, heads, channels)) for _ in range(3))
    figures.add(
        f"attention of {tokens} tokens, {heads} heads of {channels}",
        {form: _tried(function, qkv, size, figures) for form, function in ATTENTIONS.items()},
    )


def _by_plane(x: jax.Array, weight: jax.Array, strides: conv.Triple) -> jax.Array:
    """A sum of convolutions in 2D, one for each tap along depth."""
    taps = range(weight.shape[0])
    planes = (conv.tap(x, 1, i, weight.shape[0], strides[0]) for i in taps)
    return sum(conv.conv_slices(plane, weight[i], strides[1:]) for i, plane in zip(taps, planes, strict=True))  # type: ignore[return-value]


def _channels_first(x: jax.Array, weight: jax.Array, strides: conv.Triple) -> jax.Array:
    """Channels are the second axis while it is convolved."""
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 1), weight, strides, [(1, 1)] * 3, dimension_numbers=("NCDHW", "DHWIO", "NCDHW")
    )
    return jnp.moveaxis(y, 1, -1)


CONVOLUTIONS: dict[str, Callable[..., jax.Array]] = {
    "direct": conv.conv_direct,
    "folded": conv.conv_folded,
    "spread": conv.conv_spread,
    "gathered": conv.conv_gathered,
    "by plane": _by_plane,
    "channels first": _channels_first,
}
ATTENTIONS: dict[str, Callable[..., jax.Array]] = {
    "whole": attention.attention_whole,
    "by head": attention.attention_by_head,
    "kept": jax.nn.dot_product_attention,
    "cudnn": partial(jax.nn.dot_product_attention, implementation="cudnn"),
}


def _random(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape, jnp.bfloat16)


def _tried(function: Callable, arguments: tuple, size: Size, figures: Figures) -> Any:
    """Milliseconds forward and forward with backward; or why not."""

    def loss(*arguments: jax.Array) -> jax.Array:
        return jnp.square(function(*arguments).astype(jnp.float32)).mean()

    gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
    try:
        made = [jax.jit(f).lower(*arguments).compile() for f in (function, gradient)]
        with figures.alone():
            return [_milliseconds(partial(f, *arguments), jax.block_until_ready, size.runs) for f in made]
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _milliseconds(call: Callable[[], Any], wait: Callable[[Any], Any], runs: int) -> float:
    return 1e3 * statistics.median(seconds_of(call, runs, _CALLS, wait))


def _torch_convolution(x: jax.Array, weight: jax.Array, stride: int, size: Size, figures: Figures) -> Any:
    try:
        import torch

        torch.backends.cudnn.benchmark = True
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}
        b, d, h, w, c = x.shape
        images = torch.randn(b, c, d, h, w, **options).to(memory_format=torch.channels_last_3d)
        kernel = torch.randn(weight.shape[-1], c, 3, 3, 3, **options).to(memory_format=torch.channels_last_3d)
        images.requires_grad_(True)
        kernel.requires_grad_(True)

        def forward() -> Any:
            with torch.no_grad():
                return torch.nn.functional.conv3d(images, kernel, stride=stride, padding=1)

        def backward() -> Any:
            images.grad = kernel.grad = None
            y = torch.nn.functional.conv3d(images, kernel, stride=stride, padding=1)
            y.float().square().mean().backward()
            return y

        def wait(_: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        with figures.alone():
            return [_milliseconds(call, wait, size.runs) for call in (forward, backward)]
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
