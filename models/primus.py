"""Primus, a plain 3D vision transformer for segmentation: a twin of `Primus` in ``dynamic_network_architectures``.

Source: Wald et al. 2025 (arXiv 2503.01835). Blocks of voxels become tokens, which pass through the transformer of
`eva`; transposed convolutions turn tokens back into voxels.

Attribute paths are PyTorch's module paths, so a weight's place in the tree is its name in the state dict.

Initialisation: linear maps and position embeddings normal with deviation 0.02, the last map of attention and of the
MLP in block i (from 1) divided by √(2 i); convolutions Kaiming normal; biases 0.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.models.conv import ConvTranspose, PatchConv, Triple, repeated
from fdif_jax.models.eva import Eva, EvaConfig, whole
from fdif_jax.models.layers import LayerNorm
from fdif_jax.models.nnunet import architecture_of
from fdif_jax.models.torch_twins import TorchTwin
from fdif_jax.weights.nnunet_files import NnunetNetwork
from fdif_jax.weights.state_dicts import TorchBuffer

# Embedding, depth and heads of the networks that nnU-Net's Primus trainers build, with tokens of 8 voxels an edge.
_NNUNET_SIZES = {(396, 12, 6): "S", (792, 12, 12): "B", (864, 16, 12): "M", (1056, 24, 16): "L"}

# S, B, M and L are the paper's; tiny is ours, for small machines.
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 6, "num_heads": 4},
    "S": {"embed_dim": 396, "depth": 12, "num_heads": 6},
    "B": {"embed_dim": 792, "depth": 12, "num_heads": 12},
    "M": {"embed_dim": 864, "depth": 16, "num_heads": 12},
    "L": {"embed_dim": 1056, "depth": 24, "num_heads": 16},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrimusConfig(EvaConfig):
    """Everything about a Primus but its weights; the transformer's part is `EvaConfig`.

    Attributes:
        in_channels: channels of the image.
        out_channels: channels of the logits; the foreground classes and the background.
        grid: of the images, ``(D, H, W)``, or one number for all three; multiples of the patch's edges.
        patch_embed_size: voxels of a token along every axis, or one number for all; powers of two, one of them at
            least 2.

    Raises:
        FdifError: a value is out of range or two do not agree.
    """

    in_channels: int
    out_channels: int
    grid: Triple = (96, 96, 96)
    patch_embed_size: Triple = (8, 8, 8)

    def __post_init__(self):
        super().__post_init__()
        for name in ("grid", "patch_embed_size"):
            object.__setattr__(self, name, repeated(getattr(self, name)))
        for name in ("in_channels", "out_channels"):
            if not whole(getattr(self, name), 1):
                raise FdifError(f"primus: {name} must be a whole number from 1, got {getattr(self, name)}")
        for name in ("grid", "patch_embed_size"):
            value = getattr(self, name)
            if len(value) != 3 or not all(whole(n, 1) for n in value):
                raise FdifError(f"primus: {name} is three whole numbers from 1, one an axis, got {value}")
        patch = self.patch_embed_size
        if any(n & (n - 1) for n in patch) or max(patch) == 1:
            raise FdifError(f"primus: patch_embed_size must be powers of two, not all 1, got {patch}")
        if any(n % p for n, p in zip(self.grid, patch, strict=True)):
            raise FdifError(f"primus takes a grid whose edges are multiples of {patch}, got {self.grid}")

    @property
    def token_grid(self) -> Triple:
        """Tokens of an image along every axis."""
        d, h, w = (n // p for n, p in zip(self.grid, self.patch_embed_size, strict=True))
        return d, h, w


class PatchDecode(nnx.Module):
    """Tokens to voxels: transposed convolutions of two along every axis, with norm and GELU between them.

    Channels fall geometrically from ``embed_dim`` to twice the logits', in multiples of 8; the last are the logits.
    """

    def __init__(self, config: PrimusConfig, *, dtype, rngs):
        stages = int(math.log2(max(config.patch_embed_size)))
        ratio = (config.embed_dim / (2 * config.out_channels)) ** (1 / stages)
        falling = (config.embed_dim / ratio**stage for stage in range(1, stages))
        middle = [max(8, 8 * round((features + 1e-6) / 8)) for features in falling]
        features = [config.embed_dim, *middle, config.out_channels]
        layers: list[Any] = []
        for stage in range(stages):
            # the axis with the longest patch doubles in every stage, one with a shorter patch in the last ones
            strides = tuple(2 if p >= 2 ** (stages - stage) else 1 for p in config.patch_embed_size)
            c_in, c_out = features[stage : stage + 2]
            layer = ConvTranspose(c_in, c_out, strides, bias=True, dtype=dtype, rngs=rngs)
            final = stage == stages - 1
            layers.append(layer if final else nnx.List([layer, LayerNorm(c_out, eps=1e-6, dtype=dtype)]))
        self.decode: nnx.List[Any] = nnx.List(layers)
        self.channels = tuple(features[-2::-1])

    def features(self, x) -> list:
        """``(B, d, h, w, embed_dim)`` → what every stage but the last gives, finest first, and the tokens."""
        outputs = [x]
        for upsample, norm in self.decode[:-1]:
            outputs.append(jax.nn.gelu(norm(upsample(outputs[-1])), approximate=False))
        return outputs[::-1]

    def __call__(self, features: list):
        """What `features` gives → ``(B, D, H, W, out_channels)``."""
        return self.decode[-1](features[0])


class Primus(nnx.Module):
    """Primus for 3D segmentation, channels last."""

    input_weights: ClassVar[tuple[str, ...]] = ("down_projection.proj.weight",)
    encoder: ClassVar[tuple[str, ...]] = ("down_projection.", "register_tokens", "eva.")
    # All of the decoder: the channels of every stage follow from the number of logits.
    levels: ClassVar[tuple[str, ...]] = (r"down_projection\.", r"eva\.blocks\.(\d+)\.", r"eva\.norm\.")
    head: ClassVar[tuple[str, ...]] = ("up_projection.",)
    # Those of the register tokens come before those of the grid.
    position_embeddings: ClassVar[tuple[str, ...]] = ("eva.pos_embed",)

    def __init__(self, config: PrimusConfig, *, rngs: nnx.Rngs):
        options = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        embed = PatchConv(config.in_channels, config.embed_dim, config.patch_embed_size, bias=True, **options)
        self.down_projection = nnx.Dict(proj=embed)
        self.eva = Eva(config, config.token_grid, **options)
        self.up_projection = PatchDecode(config, **options)
        # What PyTorch's puts in place of tokens that masked pre-training leaves out: part of its state dict.
        self.mask_token = TorchBuffer(jnp.zeros((1, 1, config.embed_dim)))
        number = config.num_register_tokens
        registers = 1e-6 * jax.random.normal(rngs.params(), (1, number, config.embed_dim))
        self.register_tokens = nnx.Param(registers) if number else None
        self.config = config

    def __call__(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> Float[Array, "B D H W O"]:
        """Logits (float32) of an image batch; a ``key`` makes blocks be left out at random, as in training.

        FdifError if the input's rank, channels or grid are not the network's.
        """
        return self.scores(self.features(x, key=key))

    def features(
        self, x: Float[Array, "B D H W C"], *, key: Array | None = None
    ) -> list[Float[Array, "B d h w F"]]:
        """Features of an image batch, finest first: of every decoder stage but the last, which gives logits; tokens."""
        return self.up_projection.features(self.encode(x, key=key))

    def scores(self, features: list, *, key: Array | None = None) -> Float[Array, "B D H W O"]:
        """The logits (float32) of what `features` gives; the key is that which it was given."""
        return self.up_projection(features).astype(jnp.float32)

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of what `features` gives."""
        return self.up_projection.channels

    def encode(self, x: Float[Array, "B D H W C"], *, key: Array | None = None) -> Float[Array, "B d h w F"]:
        """The transformer's tokens of an image batch, in their grid; the rest as for a call."""
        self._check(x.shape)
        config, batch = self.config, x.shape[0]
        # Tokens stay float32 from block to block, whatever the blocks compute in.
        tokens = self.down_projection.proj(x).astype(jnp.float32).reshape(batch, -1, config.embed_dim)
        if self.register_tokens is not None:
            registers = jnp.repeat(self.register_tokens[...], batch, axis=0)
            tokens = jnp.concatenate([registers, tokens], axis=1)
        tokens = self.eva(tokens, key)[:, config.num_register_tokens :]
        return tokens.reshape(batch, *config.token_grid, config.embed_dim)

    @property
    def encoded_features(self) -> int:
        """Channels of what `encode` gives."""
        return self.config.embed_dim

    def token_grid(self) -> Triple:
        """Tokens of an image along every axis; their position embeddings are in row-major order."""
        return self.config.token_grid

    @property
    def grid_multiple(self) -> Triple:
        """What the edges of a grid must be multiples of."""
        return self.config.patch_embed_size

    def torch_twin(self) -> TorchTwin:
        """How the PyTorch twin is made."""
        c = self.config
        arguments = {
            "input_channels": c.in_channels,
            "num_classes": c.out_channels,
            "input_shape": c.grid,
            "embed_dim": c.embed_dim,
            "eva_depth": c.depth,
            "eva_numheads": c.num_heads,
            "patch_embed_size": c.patch_embed_size,
            "num_register_tokens": c.num_register_tokens,
            "use_rot_pos_emb": c.use_rot_pos_emb,
            "use_abs_pos_embed": c.use_abs_pos_embed,
            "mlp_ratio": c.mlp_ratio,
            "drop_path_rate": c.drop_path_rate,
            "init_values": c.init_values,
            "scale_attn_inner": c.scale_attn_inner,
        }
        return TorchTwin("dynamic_network_architectures.architectures.primus.Primus", arguments)

    def nnunet(self) -> NnunetNetwork:
        """How nnU-Net builds this network, and where nnssl finds its parts.

        ``nnUNetv2_train`` has a trainer for each published size. ``PretrainedTrainer_Primusx`` reads the size from the
        plan, and builds no Primus with register tokens, another MLP, or without either of its embeddings of positions.
        """
        c = self.config
        usual = c.init_values is not None and c.scale_attn_inner and c.patch_embed_size == (8, 8, 8)
        name = _NNUNET_SIZES.get((c.embed_dim, c.depth, c.num_heads)) if usual else None
        buildable = (
            not c.num_register_tokens and c.use_rot_pos_emb and c.use_abs_pos_embed and c.mlp_ratio == 8 / 3
        )
        arguments = {
            "embed_dim": c.embed_dim,
            "encoder_eva_depth": c.depth,
            "encoder_eva_numheads": c.num_heads,
            "patch_embed_size": list(c.patch_embed_size),
            "input_shape": list(c.grid),
            "drop_path_rate": c.drop_path_rate,
            "init_values": c.init_values,
            "scale_attn_inner": c.scale_attn_inner,
        }
        return NnunetNetwork(
            architecture=architecture_of(self.torch_twin().path, arguments),
            name=f"Primus{name or 'X'}",
            arguments=arguments,
            imported=(),
            trainer=f"nnUNet_Primus_{name}_Trainer" if name and buildable else None,
            pretrained_trainer="PretrainedTrainer_Primusx" if buildable else None,
            key_to_encoder="eva",
            key_to_stem="down_projection",
            keys_to_in_proj=("down_projection.proj",),
            key_to_lpe="eva.pos_embed",
        )

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = (*self.config.grid, self.config.in_channels)
        if len(shape) != 5 or shape[1:] != expected:
            raise FdifError(
                f"this primus takes (B, {', '.join(map(str, expected))}), got {tuple(shape)}; it is built for one "
                f"grid, whose edges are multiples of {self.grid_multiple}"
            )
