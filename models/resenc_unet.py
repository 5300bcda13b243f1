"""nnU-Net's residual encoder U-Net, a twin of `ResidualEncoderUNet` in ``dynamic_network_architectures``.

Source: Isensee et al. 2024, nnU-Net Revisited (arXiv 2404.09556); the residual block is ResNet-D's (He et al.
2019, arXiv 1812.01187): where a block strides, its skip averages before the 1x1x1 convolution.

Attribute paths are PyTorch's module paths, so a weight's place in the tree is its name in the state dict.

Initialisation is what nnU-Net applies before training: convolutions Kaiming normal for leaky ReLU with slope
0.01, their biases 0; norms scale 1, shift 0; the last norm of every residual block scale 0, so that a block
starts as its skip.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.conv import AvgPool, Conv, ConvTranspose, Triple, repeated
from fdif_jax.models.initialisers import LEAKY_SLOPE
from fdif_jax.models.layers import InstanceNorm, call
from fdif_jax.models.nnunet import resenc_network
from fdif_jax.models.torch_twins import TorchTwin
from fdif_jax.weights.nnunet_files import NnunetNetwork

# nnU-Net's planner (ResEncUNetPlanner) starts at 32 features, doubles to at most 320, and adds stages until a patch
# is less than eight voxels wide: 4 stages for a patch of 40³, 5 for 64³ and 96³, 6 for 128³ to 256³. Its presets M, L
# and XL aim at 8, 24 and 40 GB of memory and differ in patch size alone (for isotropic images 128³, 192³ and about
# 240³), so here they are one network, the one that nnssl fixes as ResEncL too. It knows no S: ours is what it plans
# for patches of 64³ or 96³, and base what it plans for the smallest. tiny and small are ours, for small machines.
_NNUNET_FEATURES = (32, 64, 128, 256, 320, 320)
_NNUNET_BLOCKS = (1, 3, 4, 6, 6, 6)
PRESETS: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"features": (8, 16, 32, 64), "blocks": (1, 1, 2, 2)},
    "small": {"features": (16, 32, 64, 128), "blocks": (1, 2, 3, 4)},
    "base": {"features": _NNUNET_FEATURES[:4], "blocks": _NNUNET_BLOCKS[:4]},
    "S": {"features": _NNUNET_FEATURES[:5], "blocks": _NNUNET_BLOCKS[:5]},
    **{name: {"features": _NNUNET_FEATURES, "blocks": _NNUNET_BLOCKS} for name in ("M", "L", "XL")},
}


@dataclasses.dataclass(frozen=True)
class ResEncConfig:
    """Everything about a ResEnc U-Net but its weights; one number stands for that number in every stage or axis.

    Attributes:
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        features: of every resolution stage, finest first.
        strides: into every stage, an axis each; the first is (1, 1, 1). If not given, 2 in the others.
        blocks: residual blocks in every encoder stage.
        decoder_convs: convolutions in every decoder stage, coarsest first.
        kernels: of every stage, an axis each; odd.
        conv_bias: biases in the convolutions before norms and in the transposed ones.
        deep_supervision: logits of every decoder resolution, not of the finest alone.
        remat: recompute every block in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, norm statistics and logits are float32.

    Raises:
        FdifError: a value is out of range or the stages do not agree.
    """

    in_channels: int
    out_channels: int
    features: tuple[int, ...]
    strides: tuple[Triple, ...] = ()
    blocks: tuple[int, ...] = 1  # type: ignore[assignment]  # a tuple once the config is made, as are the next two
    decoder_convs: tuple[int, ...] = 1  # type: ignore[assignment]
    kernels: tuple[Triple, ...] = 3  # type: ignore[assignment]
    conv_bias: bool = True
    deep_supervision: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        stages = len(self.features)
        for name, value in {
            "features": tuple(self.features),
            "strides": _triples(self.strides or (1, *(2,) * (stages - 1)), stages),
            "blocks": repeated(self.blocks, stages),
            "decoder_convs": repeated(self.decoder_convs, stages - 1),
            "kernels": _triples(self.kernels, stages),
        }.items():
            object.__setattr__(self, name, value)
        if stages < 2:
            raise FdifError(f"resenc_unet: features must name at least two stages, got {self.features}")
        for name, wanted in {
            "strides": stages,
            "blocks": stages,
            "kernels": stages,
            "decoder_convs": stages - 1,
        }.items():
            value = getattr(self, name)
            if len(value) != wanted:
                raise FdifError(f"resenc_unet: {name} needs {wanted} entries, one a stage, got {value}")
        if any(len(entry) != 3 for entry in (*self.strides, *self.kernels)):
            raise FdifError("resenc_unet: a stride or kernel is one number or three, one an axis")
        sizes = (self.in_channels, self.out_channels, self.features, self.blocks, self.decoder_convs)
        if not all(
            isinstance(n, int) and n >= 1 for n in jax.tree.leaves((sizes, self.strides, self.kernels))
        ):
            raise FdifError(f"resenc_unet: channels and sizes must be whole numbers from 1, got {self}")
        if self.strides[0] != (1, 1, 1):
            raise FdifError(f"resenc_unet: the first stride must be 1, got {self.strides[0]}")
        if any(k % 2 == 0 for kernel in self.kernels for k in kernel):
            raise FdifError(f"resenc_unet: kernels must be odd, got {self.kernels}")
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of resenc_unet", self.dtype, ("float32", "bfloat16"))


def _triples(values: Any, stages: int) -> tuple[Triple, ...]:
    return tuple(repeated(value) for value in repeated(values, stages))


class ConvNorm(nnx.Module):
    """Convolution, instance norm and, with ``activate``, leaky ReLU."""

    def __init__(
        self, c_in, c_out, kernel, strides=(1, 1, 1), *, bias, activate=True, zero=False, dtype, rngs
    ):
        self.conv = Conv(c_in, c_out, kernel, strides, bias=bias, dtype=dtype, rngs=rngs)
        self.norm = InstanceNorm(c_out, dtype=dtype, zero=zero)
        self.activate = activate

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, d, h, w, c_out)``."""
        y = self.norm(self.conv(x))
        return jax.nn.leaky_relu(y, LEAKY_SLOPE) if self.activate else y


class ConvStack(nnx.Module):
    """Convolutions one after another: the stem, and every decoder stage."""

    def __init__(self, number, c_in, c_out, kernel, **options):
        inputs = [c_in] + [c_out] * (number - 1)
        self.convs = nnx.List([ConvNorm(c, c_out, kernel, **options) for c in inputs])

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, D, H, W, c_out)``."""
        for conv in self.convs:
            x = conv(x)
        return x


class ResidualBlock(nnx.Module):
    """Two convolutions added to a skip, which pools if the block strides and projects if features change."""

    def __init__(self, c_in, c_out, kernel, strides, *, bias, dtype, rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.conv1 = ConvNorm(c_in, c_out, kernel, strides, bias=bias, **options)
        self.conv2 = ConvNorm(c_out, c_out, kernel, bias=bias, activate=False, zero=True, **options)
        skip = [] if strides == (1, 1, 1) else [AvgPool(strides)]
        if c_in != c_out:
            skip.append(ConvNorm(c_in, c_out, (1, 1, 1), bias=False, activate=False, **options))
        self.skip = nnx.List(skip)

    def __call__(self, x):
        """``(B, D, H, W, c_in)`` → ``(B, d, h, w, c_out)``."""
        y = self.conv2(self.conv1(x))
        for layer in self.skip:
            x = layer(x)
        return jax.nn.leaky_relu(x + y, LEAKY_SLOPE)


class ResidualStage(nnx.Module):
    """Residual blocks at one resolution; the first one strides."""

    def __init__(self, number, c_in, c_out, kernel, strides, **options):
        first = ResidualBlock(c_in, c_out, kernel, strides, **options)
        rest = [ResidualBlock(c_out, c_out, kernel, (1, 1, 1), **options) for _ in range(number - 1)]
        self.blocks = nnx.List([first, *rest])


class Encoder(nnx.Module):
    """Stem and residual stages; gives the features of every stage, finest first."""

    def __init__(self, config: ResEncConfig, **options):
        features = config.features
        self.stem = ConvStack(1, config.in_channels, features[0], config.kernels[0], **options)
        inputs = (features[0], *features[:-1])
        sizes = zip(config.blocks, inputs, features, config.kernels, config.strides, strict=True)
        self.stages = nnx.List([ResidualStage(*size, **options) for size in sizes])
        self.remat = config.remat

    def __call__(self, x) -> list:
        """``(B, D, H, W, in_channels)`` → one array a stage."""
        x = self.stem(x)
        skips = []
        for stage in self.stages:
            for block in stage.blocks:
                x = call(block, x, remat=self.remat)
            skips.append(x)
        return skips


class Decoder(nnx.Module):
    """From the coarsest stage up: transposed convolution, the encoder's features beside it, convolutions.

    The heads of all resolutions exist without deep supervision too, as in PyTorch, so weights fit both ways.
    """

    def __init__(self, config: ResEncConfig, *, bias, dtype, rngs):
        options = {"bias": bias, "dtype": dtype, "rngs": rngs}
        stages, transpconvs, seg_layers = [], [], []
        for number, level in zip(
            config.decoder_convs, reversed(range(len(config.features) - 1)), strict=True
        ):
            c, kernel, below = config.features[level], config.kernels[level], level + 1
            transpconvs.append(ConvTranspose(config.features[below], c, config.strides[below], **options))
            stages.append(ConvStack(number, 2 * c, c, kernel, **options))
            seg_layers.append(Conv(c, config.out_channels, (1, 1, 1), bias=True, dtype=dtype, rngs=rngs))
        self.stages = nnx.List(stages)
        self.transpconvs = nnx.List(transpconvs)
        self.seg_layers = nnx.List(seg_layers)
        self.deep_supervision, self.remat = config.deep_supervision, config.remat

    def __call__(self, skips: list) -> list:
        """The encoder's features → the decoder's, of every stage, coarsest first."""
        x, outputs = skips[-1], []
        for upsample, stage, skip in zip(self.transpconvs, self.stages, skips[-2::-1], strict=True):
            x = call(stage, jnp.concatenate([upsample(x), skip], axis=-1), remat=self.remat)
            outputs.append(x)
        return outputs

    def scores(self, outputs: list):
        """The decoder's features → float32 logits, or a list of them, finest first."""
        if not self.deep_supervision:
            return self.seg_layers[-1](outputs[-1]).astype(jnp.float32)
        logits = [head(y).astype(jnp.float32) for head, y in zip(self.seg_layers, outputs, strict=True)]
        return logits[::-1]


class ResEncUNet(nnx.Module):
    """Residual encoder U-Net for 3D segmentation, channels last."""

    # PyTorch names a parameter once for every module that holds it: each rule adds the names it rewrites.
    torch_aliases: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"\.conv\.(weight|bias)$", r".all_modules.0.\1"),
        (r"\.norm\.(weight|bias)$", r".all_modules.1.\1"),
        (r"^encoder\.", "decoder.encoder."),
    )
    input_weights: ClassVar[tuple[str, ...]] = ("encoder.stem.convs.0.conv.weight",)
    encoder: Any = ("encoder.",)  # the class's; an instance has its encoder under this name
    levels: ClassVar[tuple[str, ...]] = (r"encoder\.stem\.", r"encoder\.stages\.(\d+)\.")
    head: ClassVar[tuple[str, ...]] = ("decoder.seg_layers.",)

    def __init__(self, config: ResEncConfig, *, rngs: nnx.Rngs):
        options = {"bias": config.conv_bias, "dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.encoder = Encoder(config, **options)
        self.decoder = Decoder(config, **options)
        self.config = config

    def __call__(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> Float[Array, "B D H W O"] | list[Float[Array, "B d h w O"]]:
        """Logits (float32) of an image batch; with deep supervision a list of them, finest first.

        Training and inference are the same here, so ``key`` changes nothing. FdifError if the input's rank, channels or
        edges do not fit the network.
        """
        return self.scores(self.features(x, key=key))

    def features(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> list[Float[Array, "B d h w F"]]:
        """Features of an image batch, finest first: of every decoder stage, and the encoder's coarsest."""
        self._check(x.shape)
        skips = self.encoder(x)
        return [*self.decoder(skips)[::-1], skips[-1]]

    def scores(
        self, features: list, *, key: Array | None = None
    ) -> Float[Array, "B D H W O"] | list[Float[Array, "B d h w O"]]:
        """The logits of what `features` gives."""
        return self.decoder.scores(features[-2::-1])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of what `features` gives."""
        return self.config.features

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The encoder's coarsest features of an image batch; the rest as for a call."""
        self._check(x.shape)
        return self.encoder(x)[-1]

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return self.config.features[-1]

    def torch_twin(self) -> TorchTwin:
        """How the PyTorch twin is made."""
        c = self.config
        arguments = {
            "input_channels": c.in_channels,
            "n_stages": len(c.features),
            "features_per_stage": c.features,
            "conv_op": "torch.nn.Conv3d",
            "kernel_sizes": c.kernels,
            "strides": c.strides,
            "n_blocks_per_stage": c.blocks,
            "num_classes": c.out_channels,
            "n_conv_per_stage_decoder": c.decoder_convs,
            "conv_bias": c.conv_bias,
            "norm_op": "torch.nn.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
            "deep_supervision": c.deep_supervision,
        }
        path = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
        return TorchTwin(path, arguments, ("conv_op", "norm_op", "nonlin"))

    def nnunet(self) -> NnunetNetwork:
        """How nnU-Net builds this network, and where nnssl finds its parts."""
        return resenc_network(dataclasses.asdict(self.config))

    @property
    def grid_multiple(self) -> Triple:
        """What the edges of a grid must be multiples of."""
        d, h, w = (math.prod(axis) for axis in zip(*self.config.strides, strict=True))
        return d, h, w

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.config.in_channels:
            raise FdifError(f"resenc_unet takes (B, D, H, W, {self.config.in_channels}), got {tuple(shape)}")
        grid, total = tuple(shape[1:4]), self.grid_multiple
        if any(n % t for n, t in zip(grid, total, strict=True)) or grid == total:
            raise FdifError(
                f"resenc_unet takes a grid whose edges are multiples of {total}, "
                f"and longer than that along one axis at least; got {grid}"
            )
