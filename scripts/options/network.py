"""The options that say which network, of which size, shared by the commands that make one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models.nnunet import PlannedNetwork, from_plans
from fdif_jax.scripts.options.settings import parse_settings

UNKNOWN_GRID = (96, 96, 96)
"""What a network of position embeddings is made for until its patch is known."""

SizeOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|KEY=VALUE ...", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network and its size."""

    network: str = "resenc_unet"
    """One of resenc_unet, swin_unetr, unetr, vnet, primus."""
    size: SizeOption = ()
    """A named size (tiny, small, base, S, M, L or XL of resenc_unet, small if none is given; tiny, small or base of
    swin_unetr; tiny, S, B, M or L of primus), and sizes as the network names them: feature_size=24,
    features=[8,16,32], deep_supervision=true, remat=true."""
    plans: Path | None = None
    """A plans file of nnU-Net's: the ResEnc U-Net that nnU-Net would build, and its patch, instead of the above."""
    configuration: str = "3d_fullres"
    """Which configuration of --plans."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision to compute in; parameters stay float32."""


def parse_size(items: Sequence[str]) -> dict[str, Any]:
    """``--size`` as a table, a bare word as its ``preset``; FdifError for another item, or a size that comes twice."""
    words = [item for item in items if item.isalnum()]
    if len(words) > 1:
        raise FdifError(f"--size {' '.join(words)}: a network has one named size")
    settings = [item for item in items if item not in words] + [f"preset={word}" for word in words]
    return parse_settings("size", settings, "feature_size=24 or features=[8,16]")


def planned(options: NetworkOptions) -> PlannedNetwork | None:
    """What ``--plans`` asks for, if given; FdifError if it is no plans file, or other options say the network too."""
    if options.plans is None:
        return None
    if "preset" in parse_size(options.size) or options.network != NetworkOptions.network:
        raise FdifError("--plans says the network; leave out --network and a named --size")
    return from_plans(options.plans, options.configuration)


def network_of(
    options: NetworkOptions, *, in_channels: int, grid: Sequence[int], **head: Any
) -> dict[str, Any]:
    """The network as plain data, for `models.create` and ``run.json``.

    ``grid``, what it is trained on, is kept only where its weights depend on it; ``head`` is ``out_channels=`` of the
    logits, or ``outputs=`` of a classifier.

    Raises:
        FdifError: ``--size`` is not as it should be, or sets what other options say.
    """
    size = parse_size(options.size)
    for name in ("in_channels", "out_channels", "outputs", "dtype"):
        if name in size:
            raise FdifError(f"--size {name}=…: {name} is not a size; the data or its own option says it")
    plan = planned(options)
    planned_size = plan.network if plan else {}
    for name in size.keys() & planned_size.keys():
        raise FdifError(f"--size {name}=…: --plans says {name}; leave one of them out")
    if plan is None and options.network == "resenc_unet" and not size.keys() & {"preset", "features"}:
        size = {"preset": "small"} | size
    spec = {"name": options.network, "in_channels": in_channels, **head}
    spec |= {"grid": list(grid)} if models.takes_grid(options.network) else {}
    return spec | planned_size | size | {"dtype": options.dtype}
