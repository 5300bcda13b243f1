"""Time every network beside its PyTorch original, with the same weights, on this machine.

Forward is inference; forward+backward is training: random omissions, the batch's own statistics, and the gradient of
every parameter. Ours and theirs are measured in turn, each network in a process of its own; the table has medians,
the largest difference of the logits against the largest logit, and the memory that our step takes (on a GPU, and
PyTorch's). In bfloat16 PyTorch runs under autocast. A busy machine gives no ratios.

Example:
    fdif bench networks
    fdif bench networks --networks resenc_unet swin_unetr --grid 64 64 64 --small --json networks.json
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from fdif_jax import models
from fdif_jax.errors import FdifError, unknown
from fdif_jax.extras import needing
from fdif_jax.models.torch_twins import loaded_twin
from fdif_jax.scripts.benchmarks.parts import seconds_of_call
from fdif_jax.scripts.benchmarks.processes import apart
from fdif_jax.scripts.benchmarks.quiet import Comparison, Neighbours, shown_ratio
from fdif_jax.scripts.console.memory import keep_memory
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.options.settings import check_least, shown
from fdif_jax.training.network import count_parameters, functional

# The sizes of the literature, and little ones. What is not named is the network's default, which is the original's.
STANDARD: dict[str, dict[str, Any]] = {
    "primus": {"preset": "M"},
    "resenc_unet": {"preset": "L"},
    "swin_unetr": {"feature_size": 48},
}
SMALL: dict[str, dict[str, Any]] = {
    "primus": {"preset": "tiny"},
    "resenc_unet": {"preset": "tiny"},
    "swin_unetr": {"feature_size": 12},
    "unetr": {"feature_size": 8, "hidden_size": 192, "mlp_dim": 768, "num_heads": 6},
}


TIMED = ("forward", "backward")
_DIED = "the process measuring {} died, most likely for want of memory; take a smaller --grid, --batch-size or --small"


@dataclasses.dataclass(frozen=True)
class Config(Comparison):
    """What to measure."""

    networks: Annotated[tuple[str, ...], shown("NAME ...", "all")] = ()
    """Networks to measure."""
    grid: tuple[int, int, int] = (96, 96, 96)
    """Voxels of an image along each axis."""
    batch_size: int = 1
    """Images at once."""
    out_channels: int = 14
    """Channels of the logits."""
    small: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Little networks that a laptop runs quickly, instead of the sizes of the literature."""
    runs: int = 5
    """Runs of each measurement; the median is reported."""
    device: Literal["all", "cpu", "gpu"] = "all"
    """Where to measure; all is the CPU, and the GPU if both JAX and PyTorch see one."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        tyro.conf.arg(help_behavior_hint="(default: float32 on a CPU, bfloat16 on a GPU)"),
    ] = None
    """Precision to compute in."""
    json: Path | None = None
    """Also write the figures to this file."""


class Case(NamedTuple):
    """One network in one place."""

    spec: dict[str, Any]
    device: str
    grid: tuple[int, int, int]
    batch_size: int
    runs: int


class Timed(NamedTuple):
    """What to time: inference, which gives the logits, and one step's gradient; each waits for its own end."""

    forward: Callable[[], Any]
    backward: Callable[[], Any]


def run(config: Config) -> None:
    """Measure every network in every place; print a table, also of those before one that failed."""
    console, rows = Console(width=118), []
    cases = cases_of(config)
    neighbours = Neighbours(config.anyway)
    try:
        for case in cases:
            with console.status(f"{case.spec['name']} on the {case.device}"):
                row = measure(case)
                neighbours.mark([row[what] for what in TIMED], "ratio")
                rows.append(row)
    finally:
        if rows:
            console.print(_table(config, rows))
        if config.json:
            config.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    neighbours.tell(console)


def cases_of(config: Config) -> list[Case]:
    """Every network in every place; FdifError, before any is measured, for what no network or machine has."""
    check_least(config, batch_size=1, out_channels=1, runs=1)
    for name in config.networks:
        if name not in models.NETWORKS:
            raise unknown("network", name, models.NETWORKS)
    (devices,) = apart(_devices, config, died=_DIED.format("JAX"))
    return list(_cases(config, devices))


def measure(case: Case) -> dict[str, Any]:
    """Figures of a network and its original, in a process of their own."""
    (figures,) = apart(_measure, case, died=_DIED.format(case.spec["name"]))
    return figures


def _cases(config: Config, devices: list[str]) -> Iterator[Case]:
    sizes = SMALL if config.small else STANDARD
    for device in devices:
        dtype = config.dtype or ("float32" if device == "cpu" else "bfloat16")
        for name in config.networks or models.NETWORKS:
            spec = {"name": name, "in_channels": 1, "out_channels": config.out_channels, "dtype": dtype}
            spec |= sizes.get(name, {}) | ({"grid": config.grid} if models.takes_grid(name) else {})
            yield Case(spec, device, config.grid, config.batch_size, config.runs)


def _devices(config: Config) -> list[str]:
    """Where to measure. Also sees to it that every network takes the grid, before any is measured."""
    torch = torch_or_error()
    for case in _cases(config, ["cpu"]):
        model = nnx.eval_shape(lambda case=case: models.create(**case.spec))
        nnx.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((1, *case.grid, 1), np.float32))
    shared = torch.cuda.is_available() and jax.default_backend() == "gpu"
    if config.device == "gpu" and not shared:
        raise FdifError("--device gpu: JAX and PyTorch see no GPU together; install fdif-jax[cuda]")
    return [config.device] if config.device != "all" else ["cpu", "gpu"] if shared else ["cpu"]


def _measure(case: Case) -> dict[str, Any]:
    """Build both networks, compare them, and time them in turn, with the memory of a training command."""
    keep_memory()
    if case.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    model = models.create(**case.spec)
    images = np.random.default_rng(0).standard_normal((case.batch_size, *case.grid, 1), np.float32)
    (ours, compiling), theirs = _ours(model, images), _theirs(model, images, case)
    wanted = np.moveaxis(theirs.forward().float().cpu().numpy(), 1, -1)
    row = {
        "network": case.spec["name"],
        "device": case.device,
        "spec": case.spec,
        "grid": case.grid,
        "batch_size": case.batch_size,
        "parameters": count_parameters(model),
        "difference": float(np.abs(ours.forward() - wanted).max() / np.abs(wanted).max()),
        **compiling,
    }
    for what in TIMED:
        pair = getattr(ours, what), getattr(theirs, what)
        seconds = [[seconds_of_call(call) for call in pair] for _ in range(case.runs + 1)][1:]
        mine, original = map(statistics.median, zip(*seconds, strict=True))
        row[what] = {"ours": mine, "theirs": original, "ratio": mine / original, "seconds": seconds}
    used = torch_or_error().cuda.max_memory_allocated() / 1e9 if case.device == "gpu" else None
    return row | {"torch_peak_gb": used}


def _ours(model: nnx.Module, images: np.ndarray) -> tuple[Timed, dict[str, float]]:
    network = functional(model)
    learnt = {name: network.weights[name] for name in network.parameters}
    fixed = {name: array for name, array in network.weights.items() if name not in learnt}
    x, key = jnp.asarray(images), jax.random.key(0)

    def loss(learnt, fixed, x, key):
        logits, _ = network.train(learnt | fixed, x, key)
        return sum(jnp.square(y).mean() for y in jax.tree.leaves(logits))

    start = time.perf_counter()
    apply = jax.jit(network.apply).lower(network.weights, x).compile()
    gradient = jax.jit(jax.grad(loss)).lower(learnt, fixed, x, key).compile()
    seconds = time.perf_counter() - start
    plan: Any = gradient.memory_analysis()
    used = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    timed = Timed(
        lambda: jax.block_until_ready(apply(network.weights, x)),
        lambda: jax.block_until_ready(gradient(learnt, fixed, x, key)),
    )
    return timed, {"compile_seconds": seconds, "peak_gb": used / 1e9}


def _theirs(model: nnx.Module, images: np.ndarray, case: Case) -> Timed:
    torch, device = torch_or_error(), "cuda" if case.device == "gpu" else "cpu"
    net = torch_net(model).to(device)
    x = torch.from_numpy(np.moveaxis(images, -1, 1).copy()).to(device)
    half = torch.autocast(device, torch.bfloat16, enabled=case.spec["dtype"] == "bfloat16")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def forward():
        net.eval()
        with torch.no_grad(), half:
            logits = net(x)
        wait()
        return logits[0] if isinstance(logits, list | tuple) else logits

    def backward():
        net.train()
        net.zero_grad(set_to_none=True)
        with half:
            logits = net(x)
        several = logits if isinstance(logits, list | tuple) else [logits]
        sum(y.float().square().mean() for y in several).backward()
        wait()

    return Timed(forward, backward)


def torch_or_error() -> ModuleType:
    """PyTorch; FdifError where it is not installed."""
    with needing("torch"):
        import torch
    return torch


def torch_net(model: Any):
    """The PyTorch original with the weights of a network of ours, on the CPU; PyTorch set to be fast."""
    torch = torch_or_error()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True  # as XLA multiplies float32 on a GPU
    return loaded_twin(model)


def _table(config: Config, rows: list[dict[str, Any]]) -> Table:
    grid = "×".join(map(str, config.grid))
    title = f"fdif bench networks: grid {grid}, batch {config.batch_size}, {os.cpu_count()} cores; seconds"
    timed = ("forward", "PyTorch", "ratio", "f+b", "PyTorch", "ratio")
    headings = ("network", "device", "M weights", *timed, "diff.", "compile", "GB")
    table = table_of(headings, (), words=2, title=title)
    for row in rows:
        table.add_row(
            row["network"],
            f"{row['device']} {row['spec']['dtype'].replace('loat', '')}",
            f"{row['parameters'] / 1e6:.1f}",
            *(
                text
                for what in TIMED
                for text in (
                    f"{row[what]['ours']:.3f}",
                    f"{row[what]['theirs']:.3f}",
                    f"[bold]{shown_ratio(row[what]['ratio'])}[/]",
                )
            ),
            f"{row['difference']:.0e}",
            f"{row['compile_seconds']:.0f}",
            f"{row['peak_gb']:.1f}" + (f"/{row['torch_peak_gb']:.1f}" if row["torch_peak_gb"] else ""),
        )
    return table
