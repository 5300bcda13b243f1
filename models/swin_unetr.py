"""SwinUNETR, a twin of MONAI's `SwinUNETR`: a Swin transformer encodes, convolutions decode.

Source: Hatamizadeh et al. 2022, Swin UNETR (arXiv 2201.01266); v2 with a residual convolution block before every
stage: He et al. 2023, SwinUNETR-V2 (MICCAI 2023).

MONAI's ``patch_size`` is not an option here, for with its decoder, which doubles the grid five times, only 2 works;
nor is ``norm_name``, which is ``instance``.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError, unknown
from fdif_jax.models.conv import Triple, repeated
from fdif_jax.models.layers import call
from fdif_jax.models.swin import MERGINGS, STAGES, SwinSize, SwinTransformer
from fdif_jax.models.unetr_blocks import TORCH_NAMES, UnetOutBlock, UnetrBasicBlock, UnetrUpBlock

# Feature sizes that MONAI's authors published weights for, under their names.
PRESETS: dict[str, int] = {"tiny": 12, "small": 24, "base": 48}
MULTIPLE = 32


@dataclasses.dataclass(frozen=True)
class SwinUNETRConfig:
    """Everything about a SwinUNETR but its weights; the names are MONAI's.

    Attributes:
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        feature_size: features of the finest resolution, a multiple of 12; they double with every halving of the grid.
        depths: transformer blocks in every stage, finest first.
        num_heads: attention heads in every stage; divisors of its features.
        window_size: tokens along every axis of an attention window, or one number for all.
        qkv_bias: biases for queries, keys and values.
        mlp_ratio: features within an MLP over those outside.
        drop_rate: probability of dropout of activations in the transformer.
        attn_drop_rate: probability of dropout of attention weights.
        dropout_path_rate: probability of stochastic depth in the last block; it grows from 0 in the first.
        normalize: whether what the encoder hands the decoder is normalised over its channels.
        patch_norm: a layer norm after the patch embedding.
        downsample: order of the voxels merged between stages, ``merging`` (MONAI's default) or ``mergingv2``.
        use_v2: a residual convolution block before every stage.
        remat: recompute every block in the backward pass instead of keeping what it computed.
        dtype: to compute in, float32 or bfloat16; parameters, norm statistics, softmax and logits are float32.

    Raises:
        FdifError: a value is out of range or the values do not agree.
    """

    in_channels: int
    out_channels: int
    feature_size: int
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: Triple = (7, 7, 7)
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    dropout_path_rate: float = 0.0
    normalize: bool = True
    patch_norm: bool = False
    downsample: str = "merging"
    use_v2: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "window_size", repeated(self.window_size))
        for name, wanted, what in (
            ("depths", STAGES, "one a stage"),
            ("num_heads", STAGES, "one a stage"),
            ("window_size", 3, "one an axis"),
        ):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != wanted:
                raise FdifError(f"swin_unetr: {name} needs {wanted} entries, {what}, got {value}")
        sizes = (self.in_channels, self.out_channels, self.feature_size)
        if not all(
            isinstance(n, int) and n >= 1 for n in (*sizes, *self.depths, *self.num_heads, *self.window_size)
        ):
            raise FdifError(f"swin_unetr: channels and sizes must be whole numbers from 1, got {self}")
        if self.feature_size % 12:
            raise FdifError(f"swin_unetr: feature_size must be a multiple of 12, got {self.feature_size}")
        for stage, heads in enumerate(self.num_heads):
            if (features := self.feature_size * 2**stage) % heads:
                raise FdifError(
                    f"swin_unetr: num_heads must divide the stage's features, {features} in stage {stage + 1}, "
                    f"got {heads}"
                )
        for name in ("drop_rate", "attn_drop_rate", "dropout_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise FdifError(f"swin_unetr: {name} must be from 0 to below 1, got {getattr(self, name)}")
        if int(self.feature_size * self.mlp_ratio) < 1:
            raise FdifError(f"swin_unetr: mlp_ratio must leave an MLP one feature, got {self.mlp_ratio}")
        if self.downsample not in MERGINGS:
            raise unknown("downsample of swin_unetr", self.downsample, MERGINGS)
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype of swin_unetr", self.dtype, ("float32", "bfloat16"))


class SwinUNETR(nnx.Module):
    """Swin transformer encoder and convolutional decoder for 3D segmentation, channels last."""

    torch_names: ClassVar[tuple[tuple[str, str], ...]] = (
        *(
            rule
            for i in range(STAGES)
            for rule in (
                (rf"\bstages\.{i}\.conv\.", f"layers{i + 1}c.0."),
                (rf"\bstages\.{i}\.", f"layers{i + 1}.0."),
            )
        ),
        *TORCH_NAMES,
    )
    input_weights: ClassVar[tuple[str, ...]] = (
        "swinViT.patch_embed.proj.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",  # not there where the image has feature_size channels
    )
    encoder: ClassVar[tuple[str, ...]] = ("swinViT.",)
    levels: ClassVar[tuple[str, ...]] = (r"swinViT\.patch_embed\.", r"swinViT\.layers(\d+)")
    head: ClassVar[tuple[str, ...]] = ("out.",)

    def __init__(self, config: SwinUNETRConfig, *, rngs: nnx.Rngs):
        f, options = config.feature_size, {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        fields = dataclasses.fields(SwinSize)
        self.swinViT = SwinTransformer(
            config.in_channels,
            f,
            config.depths,
            config.num_heads,
            config.dropout_path_rate,
            SwinSize(**{field.name: getattr(config, field.name) for field in fields}),
            normalize=config.normalize,
            patch_norm=config.patch_norm,
            **options,
        )
        self.encoder1 = UnetrBasicBlock(config.in_channels, f, **options)
        self.encoder2 = UnetrBasicBlock(f, f, **options)
        self.encoder3 = UnetrBasicBlock(2 * f, 2 * f, **options)
        self.encoder4 = UnetrBasicBlock(4 * f, 4 * f, **options)
        self.encoder10 = UnetrBasicBlock(16 * f, 16 * f, **options)
        self.decoder5 = UnetrUpBlock(16 * f, 8 * f, **options)
        self.decoder4 = UnetrUpBlock(8 * f, 4 * f, **options)
        self.decoder3 = UnetrUpBlock(4 * f, 2 * f, **options)
        self.decoder2 = UnetrUpBlock(2 * f, f, **options)
        self.decoder1 = UnetrUpBlock(f, f, **options)
        self.out = UnetOutBlock(f, config.out_channels, **options)
        self.config = config

    def __call__(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> Float[Array, "B D H W O"]:
        """Logits (float32) of an image batch; a key drops what the config's rates say, as training does.

        Raises:
            FdifError: the input's rank, channels or edges do not fit the network.
        """
        self._check(x.shape)
        tokens = self.swinViT(x, key)
        # The fourth tokens go to the decoder as they are, as in MONAI.
        encoders = (self.encoder1, self.encoder2, self.encoder3, self.encoder4, None, self.encoder10)
        *skips, y = [
            features if encoder is None else call(encoder, features, remat=self.config.remat)
            for encoder, features in zip(encoders, (x, *tokens), strict=True)
        ]
        decoders = (self.decoder5, self.decoder4, self.decoder3, self.decoder2, self.decoder1)
        for decoder, skip in zip(decoders, reversed(skips), strict=True):
            y = call(decoder, y, skip, remat=self.config.remat)
        return self.out(y)

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The transformer's last tokens of an image batch; the rest as for a call."""
        self._check(x.shape)
        return self.swinViT(x, key)[-1]

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return self.config.feature_size * 2**STAGES

    def torch_code(self) -> str:
        """Python code that builds the PyTorch twin, untrained, as ``net``."""
        c = self.config
        return f"""\
from monai.networks.nets import SwinUNETR
net = SwinUNETR(
    in_channels={c.in_channels}, out_channels={c.out_channels}, feature_size={c.feature_size},
    depths={c.depths}, num_heads={c.num_heads}, window_size={c.window_size},
    qkv_bias={c.qkv_bias}, mlp_ratio={c.mlp_ratio}, drop_rate={c.drop_rate},
    attn_drop_rate={c.attn_drop_rate}, dropout_path_rate={c.dropout_path_rate},
    normalize={c.normalize}, patch_norm={c.patch_norm}, downsample="{c.downsample}", use_v2={c.use_v2},
)"""

    @property
    def grid_multiple(self) -> Triple:
        """What the edges of a grid must be multiples of."""
        return (MULTIPLE,) * 3

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.config.in_channels:
            raise FdifError(f"swin_unetr takes (B, D, H, W, {self.config.in_channels}), got {tuple(shape)}")
        grid = tuple(shape[1:4])
        if any(n % MULTIPLE for n in grid) or grid == (MULTIPLE,) * 3:
            raise FdifError(
                f"swin_unetr takes a grid whose edges are multiples of {MULTIPLE}, "
                f"and longer than that along one axis at least; got {grid}"
            )


def build(*, rngs: nnx.Rngs, preset: str = "small", **fields: Any) -> SwinUNETR:
    """A SwinUNETR of a preset's feature size, or of one's own.

    Args:
        rngs: draws the initial weights (stream ``params``).
        preset: tiny, small or base, feature sizes 12, 24 and 48.
        fields: the other fields of `SwinUNETRConfig`, and ``feature_size`` if it is not to be the preset's.

    Raises:
        FdifError: unknown preset, or sizes that do not agree.
    """
    if preset not in PRESETS:
        raise unknown("preset of swin_unetr", preset, PRESETS)
    return SwinUNETR(SwinUNETRConfig(**{"feature_size": PRESETS[preset]} | fields), rngs=rngs)
