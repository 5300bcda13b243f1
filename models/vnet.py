"""V-Net, a twin of MONAI's `VNet`.

Source: Milletari et al. 2016, V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
Segmentation (arXiv 1606.04797). Residual stages of 5x5x5 convolutions with batch norm; the grid is halved four
times by strided convolutions, and features are dropped by whole channels (Tompson et al. 2015, arXiv 1411.4280).

Attribute paths are PyTorch's module paths; MONAI keeps a convolution's norm under ``adn.N``. Initialisation is
PyTorch's own.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.conv import Conv, ConvTranspose, PatchConv, Triple
from fdif_jax.models.initialisers import TORCH
from fdif_jax.models.layers import BatchNorm, call, dropout, split
from fdif_jax.models.torch_twins import TorchTwin

ACTIVATIONS = ("elu", "relu", "prelu")
FEATURES = 16  # of the finest stage; every coarser one has twice as many
HALVINGS = 4
_HALVE = (2, 2, 2)


@dataclasses.dataclass(frozen=True)
class VNetConfig:
    """Everything about a V-Net but its weights.

    Attributes:
        in_channels: channels of the image; a divisor of 16, for the image is repeated to 16 channels.
        out_channels: channels of the logits; the foreground classes and the background.
        act: elu, relu or prelu (a learnt slope for every channel).
        dropout_prob_down: probability that a channel is dropped in the two coarsest encoder stages; None is 0.
        dropout_prob_up: the same in the two coarsest decoder stages, for what comes from below and from the
            encoder. The two finest ones drop half of the encoder's channels whatever is said here, as MONAI's do.
        bias: biases in the encoder's and the last stage's convolutions; the decoder's have none.
        remat: recompute every stage in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, norm statistics and logits are float32.

    Raises:
        FdifError: a value is out of range.
    """

    in_channels: int
    out_channels: int
    act: str = "elu"
    dropout_prob_down: float | None = 0.5
    dropout_prob_up: tuple[float | None, float] = (0.5, 0.5)
    bias: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "dropout_prob_up", tuple(self.dropout_prob_up))
        if not isinstance(self.in_channels, int) or self.in_channels < 1 or FEATURES % self.in_channels:
            raise FdifError(f"vnet: in_channels must divide {FEATURES}, got {self.in_channels}")
        if not isinstance(self.out_channels, int) or self.out_channels < 1:
            raise FdifError(f"vnet: out_channels must be a whole number from 1, got {self.out_channels}")
        if self.act not in ACTIVATIONS:
            raise unknown("activation of vnet", self.act, ACTIVATIONS)
        if len(self.dropout_prob_up) != 2 or self.dropout_prob_up[1] is None:
            raise FdifError(f"vnet: dropout_prob_up is two probabilities, got {self.dropout_prob_up}")
        if not all(0 <= (p or 0) < 1 for p in (self.dropout_prob_down, *self.dropout_prob_up)):
            raise FdifError(
                "vnet: a dropout probability is at least 0 and below 1, "
                f"got {self.dropout_prob_down} down and {self.dropout_prob_up} up"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of vnet", self.dtype, ("float32", "bfloat16"))


class Activation(nnx.Module):
    """ELU with α = 1, ReLU, or a ReLU that learns a slope for negative values, a channel each, from 0.25."""

    def __init__(self, name: str, features: int):
        self.name = name
        self.weight = nnx.Param(jnp.full(features, 0.25)) if name == "prelu" else None

    def __call__(self, x):
        """Any shape, channels last."""
        if self.weight is not None:
            return jnp.where(x > 0, x, self.weight[...].astype(x.dtype) * x)
        return jax.nn.elu(x) if self.name == "elu" else jax.nn.relu(x)


class ConvNorm(nnx.Module):
    """A 5x5x5 convolution and batch norm."""

    def __init__(self, c_in, c_out, *, bias, dtype, rngs):
        self.conv = Conv(c_in, c_out, (5, 5, 5), bias=bias, init=TORCH, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(c_out, dtype=dtype)

    def __call__(self, x, training):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        return self.norm(self.conv(x), training)


class LUConv(nnx.Module):
    """Convolution, norm, activation."""

    def __init__(self, c_in, c_out, *, act, bias, dtype, rngs):
        self.conv_block = ConvNorm(c_in, c_out, bias=bias, dtype=dtype, rngs=rngs)
        self.act_function = Activation(act, c_out)

    def __call__(self, x, training):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        return self.act_function(self.conv_block(x, training))


class InputTransition(LUConv):
    """The image to 16 features: a convolution and the image itself, repeated."""

    def __call__(self, x, key):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, 16)``."""
        y = self.conv_block(x, key is not None)
        return self.act_function(y + jnp.tile(x.astype(y.dtype), FEATURES // x.shape[-1]))


class DownTransition(nnx.Module):
    """An encoder stage: halve the grid, double the features, then convolutions added to what they are given."""

    def __init__(self, c_in, nconvs, rate, *, act, bias, dtype, rngs):
        c = 2 * c_in
        self.down_conv = PatchConv(c_in, c, _HALVE, bias=bias, init=TORCH, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(c, dtype=dtype)
        self.act_function1 = Activation(act, c)
        self.act_function2 = Activation(act, c)
        options = {"act": act, "bias": bias, "dtype": dtype, "rngs": rngs}
        self.ops = nnx.List([LUConv(c, c, **options) for _ in range(nconvs)])
        self.rate = rate or 0.0

    def __call__(self, x, key):
        """``(B, D, H, W, c_in)`` → ``(B, D/2, H/2, W/2, 2 c_in)``."""
        down = self.act_function1(self.bn1(self.down_conv(x), key is not None))
        y = drop_channels(down, self.rate, key)
        for conv in self.ops:
            y = conv(y, key is not None)
        return self.act_function2(y + down)


class UpTransition(nnx.Module):
    """A decoder stage: double the grid, the encoder's features beside it, then convolutions added to both."""

    def __init__(self, c_in, c_out, nconvs, rates, *, act, dtype, rngs):
        half = c_out // 2
        self.up_conv = ConvTranspose(c_in, half, _HALVE, bias=True, init=TORCH, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(half, dtype=dtype)
        self.act_function1 = Activation(act, half)
        self.act_function2 = Activation(act, c_out)
        options = {"act": act, "bias": False, "dtype": dtype, "rngs": rngs}
        self.ops = nnx.List([LUConv(c_out, c_out, **options) for _ in range(nconvs)])
        self.rates = (rates[0] or 0.0, rates[1])

    def __call__(self, x, skip, key):
        """``(B, d, h, w, c_in)`` and the skip's ``(B, 2d, 2h, 2w, c_out/2)`` → ``(B, 2d, 2h, 2w, c_out)``."""
        keys = split(key, 2)
        x = drop_channels(x, self.rates[0], keys[0])
        x = self.act_function1(self.bn1(self.up_conv(x), key is not None))
        both = jnp.concatenate([x, drop_channels(skip, self.rates[1], keys[1])], axis=-1)
        y = both
        for conv in self.ops:
            y = conv(y, key is not None)
        return self.act_function2(y + both)


class OutputTransition(nnx.Module):
    """Features to logits: a convolution of 5x5x5 and one of 1x1x1."""

    def __init__(self, c_in, c_out, *, act, bias, dtype, rngs):
        self.conv_block = ConvNorm(c_in, c_out, bias=bias, dtype=dtype, rngs=rngs)
        self.act_function1 = Activation(act, c_out)
        self.conv2 = Conv(c_out, c_out, (1, 1, 1), bias=True, init=TORCH, dtype=dtype, rngs=rngs)

    def __call__(self, x, key):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        return self.conv2(self.act_function1(self.conv_block(x, key is not None)))


class VNet(nnx.Module):
    """V-Net for 3D segmentation, channels last."""

    torch_names: ClassVar[tuple[tuple[str, str], ...]] = ((r"\.norm\.", ".adn.N."),)
    input_weights: ClassVar[tuple[str, ...]] = ("in_tr.conv_block.conv.weight",)
    encoder: ClassVar[tuple[str, ...]] = ("in_tr.", "down_tr")
    levels: ClassVar[tuple[str, ...]] = (r"in_tr\.", r"down_tr(\d+)\.")
    head: ClassVar[tuple[str, ...]] = ("out_tr.",)
    grid_multiple: ClassVar[Triple] = (2**HALVINGS,) * 3  # what the edges of a grid must be multiples of

    def __init__(self, config: VNetConfig, *, rngs: nnx.Rngs):
        options = {"act": config.act, "dtype": jnp.dtype(config.dtype), "rngs": rngs}
        biased = options | {"bias": config.bias}
        down, up, finest = config.dropout_prob_down, config.dropout_prob_up, (0.0, 0.5)
        self.in_tr = InputTransition(config.in_channels, FEATURES, **biased)
        self.down_tr32 = DownTransition(16, 1, 0.0, **biased)
        self.down_tr64 = DownTransition(32, 2, 0.0, **biased)
        self.down_tr128 = DownTransition(64, 3, down, **biased)
        self.down_tr256 = DownTransition(128, 2, down, **biased)
        self.up_tr256 = UpTransition(256, 256, 2, up, **options)
        self.up_tr128 = UpTransition(256, 128, 2, up, **options)
        self.up_tr64 = UpTransition(128, 64, 1, finest, **options)
        self.up_tr32 = UpTransition(64, 32, 1, finest, **options)
        self.out_tr = OutputTransition(32, config.out_channels, **biased)
        self.config = config

    def __call__(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> Float[Array, "B D H W O"]:
        """Logits (float32) of an image batch.

        A ``key``, given in training, draws the dropped channels; batch norms then use the batch's statistics and update
        the running ones. FdifError if the input's rank, channels or edges do not fit the network, or it is too small
        for training.
        """
        return self.scores(self.features(x, key=key), key=key)

    def features(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> list[Float[Array, "B d h w F"]]:
        """Features of an image batch, finest first: of every decoder stage, and the encoder's coarsest."""
        *skips, coarsest = self._encode(x, key)
        outputs = [coarsest]
        ups = (self.up_tr256, self.up_tr128, self.up_tr64, self.up_tr32)
        for up, stage_key in zip(ups, split(key, 10)[5:9], strict=True):
            outputs.append(self._stage(up, outputs[-1], skips.pop(), key=stage_key))
        return outputs[::-1]

    def scores(self, features: list, *, key: Array | None = None) -> Float[Array, "B D H W O"]:
        """The logits (float32) of what `features` gives; the key is that which it was given."""
        return self._stage(self.out_tr, features[0], key=split(key, 10)[9]).astype(jnp.float32)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of what `features` gives."""
        return 32, 64, 128, 256, 256

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The encoder's coarsest features of an image batch; the rest as for a call."""
        return self._encode(x, key)[-1]

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return FEATURES * 2**HALVINGS

    def _encode(self, x, key):
        """What every encoder stage leaves, finest first."""
        self._check(x.shape, training=key is not None)
        stages = (self.in_tr, self.down_tr32, self.down_tr64, self.down_tr128, self.down_tr256)
        outputs = [x]
        for stage, stage_key in zip(stages, split(key, 10)[:5], strict=True):
            outputs.append(self._stage(stage, outputs[-1], key=stage_key))
        return outputs[1:]

    def torch_twin(self) -> TorchTwin:
        """How the PyTorch twin is made."""
        same = ("in_channels", "out_channels", "act", "dropout_prob_down", "dropout_prob_up", "bias")
        arguments = {"spatial_dims": 3} | {name: getattr(self.config, name) for name in same}
        return TorchTwin("monai.networks.nets.VNet", arguments)

    def _stage(self, stage, *inputs, key):
        return call(stage, *inputs, key, remat=self.config.remat)

    def _check(self, shape: tuple[int, ...], training: bool) -> None:
        if len(shape) != 5 or shape[-1] != self.config.in_channels:
            raise FdifError(f"vnet takes (B, D, H, W, {self.config.in_channels}), got {tuple(shape)}")
        factor = 2**HALVINGS
        if any(n % factor for n in shape[1:4]):
            raise FdifError(f"vnet takes a grid whose edges are multiples of {factor}, got {shape[1:4]}")
        if training and shape[:4] == (1, factor, factor, factor):
            raise FdifError(
                f"vnet cannot train on one image of {shape[1:4]}: its coarsest grid has one voxel, "
                "which batch norm cannot normalise; take a larger grid or batch"
            )


def drop_channels(x: Float[Array, "B D H W C"], rate: float, key: Array | None) -> Float[Array, "B D H W C"]:
    """`dropout` of whole channels of a sample; nothing without a key."""
    return dropout(x, rate, key, axes=(0, 4))
