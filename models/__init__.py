"""The networks: flax.nnx modules, channels last, each the exact twin of a PyTorch network the field uses.

A network is named by plain data, which is what a run directory keeps::

    spec = {"name": "resenc_unet", "in_channels": 1, "out_channels": 110, "preset": "tiny"}
    model = models.create(**spec)
    logits = model(images)    # (B, D, H, W, 1) -> (B, D, H, W, 110)
"""

import inspect
from collections.abc import Callable

import jax
from flax import nnx

from fdif_jax.errors import unknown
from fdif_jax.models import primus, resenc_unet, swin_unetr, unetr, vnet
from fdif_jax.models.resenc_unet import ResEncConfig, ResEncUNet

NETWORKS: dict[str, Callable[..., nnx.Module]] = {
    "primus": primus.build,
    "resenc_unet": resenc_unet.build,
    "swin_unetr": swin_unetr.build,
    "unetr": unetr.build,
    "vnet": vnet.build,
}

__all__ = ["NETWORKS", "ResEncConfig", "ResEncUNet", "create", "takes_grid"]


def takes_grid(name: str) -> bool:
    """Whether a network's weights depend on the grid it is trained on, which `create` then takes as ``grid``.

    Raises:
        FdifError: unknown network.
    """
    return "grid" in _options(name)


def create(name: str, *, in_channels: int, out_channels: int, seed: int = 0, **size) -> nnx.Module:
    """A freshly initialised network: ``(B, D, H, W, in_channels)`` → logits ``(B, D, H, W, out_channels)``.

    Args:
        name: one of ``NETWORKS``.
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        seed: of the initial weights.
        size: the network's own options, plain data; see its ``build``.

    Raises:
        FdifError: unknown network or option, or options that do not fit each other.
    """
    options = _options(name)
    for option in size.keys() - options:
        raise unknown(f"option of {name}", option, options)
    # Every shape is drawn by a program of its own, and with this generator one compiles six times as fast.
    rngs = nnx.Rngs(params=jax.random.key(seed, impl="rbg"))
    return NETWORKS[name](in_channels=in_channels, out_channels=out_channels, rngs=rngs, **size)


def _options(name: str) -> set[str]:
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    return inspect.signature(NETWORKS[name]).parameters.keys() - {"rngs"}
