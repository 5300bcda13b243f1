"""How large the GPU programme measures: at the sizes of the literature, or so small that a CPU runs it in a test."""

from dataclasses import dataclass

from fdif_jax.scenes.compiler import Kernel


@dataclass(frozen=True)
class Size:
    """What the parts of the programme measure."""

    edge: int  # of the cubic grid, in voxels
    objects: int  # in a scene
    scenes: int  # compared with the CPU's, of every recipe
    recipes: tuple[str, ...]  # that are compared
    batches: tuple[int, ...]  # scenes rendered at once
    # voxels of a program of the tile kernel, and its warps, that are compared
    tiles: tuple[tuple[tuple[int, int, int], int], ...]
    runs: int  # of each measurement; medians are reported
    kernel: Kernel  # how the tile kernel runs, as `fdif_jax.compile` takes it
    # for each network the options of `fdif bench training` that ask for it
    networks: dict[str, tuple[str, ...]]
    # edge, channels, features and stride of the convolutions that are measured alone
    convolutions: tuple[tuple[int, int, int, int], ...]
    attention: tuple[int, int, int]  # tokens, heads, channels of a head, likewise
    batch: int  # volumes of a training step
    largest: int  # the largest batch that is tried
    compile_torch: bool  # also measure `torch.compile`
    pretrain_seconds: float  # of the training of those weights, at most
    pretrain: tuple[str, ...]  # options of `fdif pretrain` for the weights that are brought back


FULL = Size(
    edge=96,
    objects=20,
    scenes=64,
    recipes=("fdif", "fdif_exact", "avs_db", "anatomy", "anatomy_fdif"),
    batches=(1, 4, 16, 64),
    tiles=(
        ((4, 8, 32), 4),
        ((4, 8, 32), 8),
        ((4, 4, 32), 4),
        ((4, 4, 16), 2),
        ((4, 4, 16), 4),
        ((2, 4, 32), 4),
        ((8, 8, 16), 8),
        ((4, 4, 8), 2),
    ),
    runs=5,
    kernel="on",
    networks={
        "swin_unetr": ("--preset", "fdif-swinunetr"),
        "resenc_unet": ("--preset", "fdif-resencl"),
        "primus": ("--preset", "fdif-primusm"),
    },
    convolutions=(
        (96, 32, 32, 1),
        (96, 48, 48, 1),
        (96, 96, 48, 1),
        (48, 64, 64, 1),
        (24, 128, 128, 1),
        (12, 256, 256, 1),
        (6, 320, 320, 1),
        (96, 32, 64, 2),
    ),
    attention=(1728, 12, 72),
    batch=2,
    largest=32,
    compile_torch=True,
    pretrain_seconds=300.0,
    pretrain=("--preset", "gpu-resenc"),
)

_TINY = ("--grid", "32", "32", "32", "--max-objects", "3", "--min-objects", "1", "--primitives", "sphere")

TOY = Size(
    edge=16,
    objects=3,
    scenes=2,
    recipes=("fdif", "anatomy"),
    batches=(1, 2),
    tiles=(((4, 4, 8), 1),),
    runs=1,
    kernel="interpret",
    networks={"resenc_unet": ("--network", "resenc_unet", "--size", "features=[4,8]", *_TINY)},
    convolutions=((8, 4, 8, 1),),
    attention=(8, 2, 4),
    batch=2,
    largest=4,
    compile_torch=False,
    pretrain_seconds=2.0,
    pretrain=("--network", "resenc_unet", "--size", "features=[4,8]", *_TINY),
)

SIZES = {"full": FULL, "toy": TOY}
