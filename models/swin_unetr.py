"""SwinUNETR, a twin of MONAI's `SwinUNETR`: a Swin transformer encodes, convolutions decode.

Source: Hatamizadeh et al. 2022, Swin UNETR (arXiv 2201.01266); v2 with a residual convolution block before every
stage: He et al. 2023, SwinUNETR-V2 (MICCAI 2023).

MONAI's ``patch_size`` is not an option here, for with its decoder, which doubles the grid five times, only 2 works;
nor is ``norm_name``, which is ``instance``.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.models.conv import Triple
from fdif_jax.models.layers import call
from fdif_jax.models.swin import STAGES, SwinTransformer, SwinUNETRConfig
from fdif_jax.models.torch_twins import TorchTwin
from fdif_jax.models.unetr_blocks import TORCH_NAMES, UnetOutBlock, UnetrBasicBlock, UnetrUpBlock, decoded

# Feature sizes that MONAI's authors published weights for, under their names.
PRESETS = {"tiny": {"feature_size": 12}, "small": {"feature_size": 24}, "base": {"feature_size": 48}}
MULTIPLE = 32


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
    grid_multiple: ClassVar[Triple] = (MULTIPLE,) * 3  # what the edges of a grid must be multiples of

    def __init__(self, config: SwinUNETRConfig, *, rngs: nnx.Rngs):
        f, options = config.feature_size, {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.swinViT = SwinTransformer(config, **options)
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

        FdifError if the input's rank, channels or edges do not fit the network.
        """
        return self.scores(self.features(x, key=key))

    def features(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> list[Float[Array, "B d h w F"]]:
        """Features of an image batch, finest first: of every decoder stage, and the encoder's coarsest."""
        self._check(x.shape)
        tokens = self.swinViT(x, key)
        # The fourth tokens go to the decoder as they are, as in MONAI.
        encoders = (self.encoder1, self.encoder2, self.encoder3, self.encoder4, None, self.encoder10)
        *skips, coarsest = [
            state if encoder is None else call(encoder, state, remat=self.config.remat)
            for encoder, state in zip(encoders, (x, *tokens), strict=True)
        ]
        decoders = (self.decoder5, self.decoder4, self.decoder3, self.decoder2, self.decoder1)
        return decoded(decoders, coarsest, skips, remat=self.config.remat)

    def scores(self, features: list, *, key: Array | None = None) -> Float[Array, "B D H W O"]:
        """The logits (float32) of what `features` gives; the key is that which it was given."""
        return self.out(features[0])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of what `features` gives."""
        f = self.config.feature_size
        return f, f, 2 * f, 4 * f, 8 * f, 16 * f

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The transformer's last tokens of an image batch; the rest as for a call."""
        self._check(x.shape)
        return self.swinViT(x, key)[-1]

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return self.config.feature_size * 2**STAGES

    def torch_twin(self) -> TorchTwin:
        """How the PyTorch twin is made."""
        same = (
            "in_channels", "out_channels", "feature_size", "depths", "num_heads", "window_size", "qkv_bias",
            "mlp_ratio", "drop_rate", "attn_drop_rate", "dropout_path_rate", "normalize", "patch_norm", "downsample",
            "use_v2",
        )  # fmt: skip
        arguments = {name: getattr(self.config, name) for name in same}
        return TorchTwin("monai.networks.nets.SwinUNETR", arguments)

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 5 or shape[-1] != self.config.in_channels:
            raise FdifError(f"swin_unetr takes (B, D, H, W, {self.config.in_channels}), got {tuple(shape)}")
        grid = tuple(shape[1:4])
        if any(n % MULTIPLE for n in grid) or grid == (MULTIPLE,) * 3:
            raise FdifError(
                f"swin_unetr takes a grid whose edges are multiples of {MULTIPLE}, "
                f"and longer than that along one axis at least; got {grid}"
            )
