"""The networks: flax.nnx modules, channels last, each the exact twin of a PyTorch network the field uses.

A network is named by plain data, which is what a run directory keeps::

    spec = {"name": "resenc_unet", "in_channels": 1, "out_channels": 110, "preset": "tiny"}
    model = models.create(**spec)
    logits = model(images)    # (B, D, H, W, 1) -> (B, D, H, W, 110)

With ``outputs`` in place of ``out_channels`` it is a `Classifier` of that network's encoder, of so many classes::

    spec = {"name": "resenc_unet", "in_channels": 1, "outputs": [109, 6, 16], "preset": "tiny"}
    models.create(**spec)(images)    # (B, D, H, W, 1) -> (B, 131), the scores of three labels side by side
    models.create(**models.segmenting(spec, out_channels=3))    # the network with the same encoder
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models import classifier, primus, resenc_unet, swin_unetr, unetr, vnet
from fdif_jax.models.classifier import Classifier
from fdif_jax.models.resenc_unet import ResEncConfig, ResEncUNet


class Kind(NamedTuple):
    """How a network is made."""

    module: Callable[..., nnx.Module]  # its class
    config: type  # the class of its config, whose fields are its options
    # fields by the name of a size; a field that is given goes before the preset's
    presets: Mapping[str, Mapping[str, Any]] = {}
    usual: str | None = None  # the preset where none is asked for
    unless: str | None = None  # but not where this field is given


NETWORKS: dict[str, Kind] = {
    "primus": Kind(primus.Primus, primus.PrimusConfig, primus.PRESETS, "M"),
    "resenc_unet": Kind(ResEncUNet, ResEncConfig, resenc_unet.PRESETS, "base", unless="features"),
    "swin_unetr": Kind(swin_unetr.SwinUNETR, swin_unetr.SwinUNETRConfig, swin_unetr.PRESETS, "small"),
    "unetr": Kind(unetr.UNETR, unetr.UNETRConfig),
    "vnet": Kind(vnet.VNet, vnet.VNetConfig),
}

__all__ = ["NETWORKS", "Classifier", "ResEncConfig", "ResEncUNet", "create", "segmenting", "takes_grid"]


def takes_grid(name: str) -> bool:
    """Whether a network's weights depend on the grid it is trained on (`create`'s ``grid``); FdifError for an unknown
    one.
    """
    return "grid" in _options(name)


def create(
    name: str,
    *,
    in_channels: int,
    out_channels: int | None = None,
    outputs: Sequence[int] | None = None,
    seed: int = 0,
    **size,
) -> nnx.Module:
    """A freshly initialised network: ``(B, D, H, W, in_channels)`` → logits ``(B, D, H, W, out_channels)``.

    Or a classifier of its encoder: → logits ``(B, sum(outputs))``.

    Args:
        name: one of ``NETWORKS``.
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        outputs: instead, of a classifier: the number of classes of every label.
        seed: of the initial weights.
        size: the network's own options, plain data: the fields of its config, and ``preset`` where it has presets.

    Raises:
        FdifError: unknown network or option, or options that do not fit each other.
    """
    if (out_channels is None) == (outputs is None):
        raise FdifError(
            f"{name}: give out_channels, the classes of every voxel and the background, or outputs, the numbers of "
            f"classes of an image's labels, not {'neither' if outputs is None else 'both'}"
        )
    # The decoder, which a classifier leaves out, is made for the fewest classes.
    logits = 1 if out_channels is None else out_channels
    config = config_of(name, in_channels=in_channels, out_channels=logits, **size)
    # Every shape is drawn by a program of its own, and with this generator one compiles six times as fast.
    rngs = nnx.Rngs(params=jax.random.key(seed, impl="rbg"))
    network = NETWORKS[name].module(config, rngs=rngs)
    return network if outputs is None else classifier.of(network, outputs, rngs=rngs)


def config_of(name: str, *, in_channels: int, out_channels: int, **size: Any) -> Any:
    """The config of a network, checked, as `create` makes it of the same arguments; errors are as of that."""
    options = _options(name)
    for option in size.keys() - options:
        raise unknown(f"option of {name}", option, options)
    kind = NETWORKS[name]
    preset = size.pop("preset", None if kind.unless in size else kind.usual)
    if preset is not None and preset not in kind.presets:
        raise unknown(f"preset of {name}", preset, kind.presets)
    fields = {**kind.presets.get(preset, {}), **size}
    try:
        return kind.config(in_channels=in_channels, out_channels=out_channels, **fields)
    except (TypeError, ValueError, AttributeError) as error:  # a list where a number is wanted, and such
        raise FdifError(f"{name}: {fields} are no sizes of it: {error}") from None


def segmenting(network: Mapping[str, Any], out_channels: int) -> dict[str, Any]:
    """What `create` takes for the segmentation network that shares this one's encoder, with other logits."""
    kept = {option: value for option, value in network.items() if option != "outputs"}
    return kept | {"out_channels": out_channels}


def _options(name: str) -> set[str]:
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    kind = NETWORKS[name]
    options = {field.name for field in dataclasses.fields(kind.config)}
    return options | {"preset"} if kind.presets else options
