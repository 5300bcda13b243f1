"""UNETR, a twin of MONAI's `UNETR`: a vision transformer encodes, convolutions decode.

Source: Hatamizadeh et al. 2021, UNETR: Transformers for 3D Medical Image Segmentation (arXiv 2103.10504).

MONAI's ``img_size`` is ``grid`` here; its ``norm_name`` is no option, it is ``instance``.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.models.conv import Triple
from fdif_jax.models.layers import call
from fdif_jax.models.torch_twins import TorchTwin
from fdif_jax.models.unetr_blocks import (
    TORCH_NAMES,
    UnetOutBlock,
    UnetrBasicBlock,
    UnetrPrUpBlock,
    UnetrUpBlock,
    decoded,
)
from fdif_jax.models.vit import EDGE, UNETRConfig, ViT


class UNETR(nnx.Module):
    """Vision transformer encoder and convolutional decoder for 3D segmentation, channels last."""

    torch_names: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"\bperceptron\.", "patch_embeddings.1."),
        *TORCH_NAMES,
    )
    input_weights: ClassVar[tuple[str, ...]] = (
        "vit.patch_embedding.patch_embeddings.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",  # not there where the image has feature_size channels
    )
    # The perceptron's: its input axis is a token's voxels, and within them their channels.
    flat_input_weights: ClassVar[tuple[str, ...]] = ("vit.patch_embedding.patch_embeddings.1.weight",)
    encoder: ClassVar[tuple[str, ...]] = ("vit.",)
    levels: ClassVar[tuple[str, ...]] = (r"vit\.patch_embedding\.", r"vit\.blocks\.(\d+)\.", r"vit\.norm\.")
    head: ClassVar[tuple[str, ...]] = ("out.",)
    grid_multiple: ClassVar[Triple] = (EDGE,) * 3  # what the edges of a grid must be multiples of
    position_embeddings: ClassVar[tuple[str, ...]] = ("vit.patch_embedding.position_embeddings",)

    def __init__(self, config: UNETRConfig, *, rngs: nnx.Rngs):
        f, c = config.feature_size, config.hidden_size
        options = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.config = config
        self.vit = ViT(self.token_grid(), config, **options)
        block = {"residual": config.res_block, **options}
        up = {"convolve": config.conv_block, **block}
        self.encoder1 = UnetrBasicBlock(config.in_channels, f, **block)
        self.encoder2 = UnetrPrUpBlock(c, 2 * f, 2, **up)
        self.encoder3 = UnetrPrUpBlock(c, 4 * f, 1, **up)
        self.encoder4 = UnetrPrUpBlock(c, 8 * f, 0, **up)
        self.decoder5 = UnetrUpBlock(c, 8 * f, **block)
        self.decoder4 = UnetrUpBlock(8 * f, 4 * f, **block)
        self.decoder3 = UnetrUpBlock(4 * f, 2 * f, **block)
        self.decoder2 = UnetrUpBlock(2 * f, f, **block)
        self.out = UnetOutBlock(f, config.out_channels, **options)

    def __call__(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> Float[Array, "B D H W O"]:
        """Logits (float32) of an image batch; a key drops what ``dropout_rate`` says, as training does.

        FdifError if the input's rank, channels or grid are not the network's.
        """
        return self.scores(self.features(x, key=key))

    def features(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> list[Float[Array, "B d h w F"]]:
        """Features of an image batch, finest first: of every decoder stage, and the transformer's last tokens."""
        self._check(x.shape)
        states = self.vit(x, key)
        # What blocks 4, 7 and 10 leave goes to the decoder's finer grids, the norm's result to the coarsest.
        inputs = (x, states[3], states[6], states[9])
        encoders = (self.encoder1, self.encoder2, self.encoder3, self.encoder4)
        remat = self.config.remat
        skips = [call(encoder, y, remat=remat) for encoder, y in zip(encoders, inputs, strict=True)]
        decoders = (self.decoder5, self.decoder4, self.decoder3, self.decoder2)
        return decoded(decoders, states[-1], skips, remat=remat)

    def scores(self, features: list, *, key: Array | None = None) -> Float[Array, "B D H W O"]:
        """The logits (float32) of what `features` gives; the key is that which it was given."""
        return self.out(features[0])

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of what `features` gives."""
        f = self.config.feature_size
        return f, 2 * f, 4 * f, 8 * f, self.config.hidden_size

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The transformer's last tokens of an image batch, in their grid; the rest as for a call."""
        self._check(x.shape)
        return self.vit(x, key)[-1]

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return self.config.hidden_size

    def token_grid(self) -> Triple:
        """Tokens of an image along every axis; their position embeddings are in row-major order."""
        d, h, w = (n // EDGE for n in self.config.grid)
        return d, h, w

    def torch_twin(self) -> TorchTwin:
        """How the PyTorch twin is made."""
        c = self.config
        arguments = {
            "in_channels": c.in_channels,
            "out_channels": c.out_channels,
            "img_size": c.grid,
            "feature_size": c.feature_size,
            "hidden_size": c.hidden_size,
            "mlp_dim": c.mlp_dim,
            "num_heads": c.num_heads,
            "proj_type": c.proj_type,
            "conv_block": c.conv_block,
            "res_block": c.res_block,
            "dropout_rate": c.dropout_rate,
            "qkv_bias": c.qkv_bias,
        }
        return TorchTwin("monai.networks.nets.UNETR", arguments)

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = (*self.config.grid, self.config.in_channels)
        if len(shape) != 5 or tuple(shape[1:]) != expected:
            raise FdifError(
                f"this unetr takes (B, {', '.join(map(str, expected))}) and no other grid, got {tuple(shape)}; "
                f"build it with grid= multiples of {EDGE}"
            )
