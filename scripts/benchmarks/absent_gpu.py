"""Compile a step of pre-training for a GPU that this machine does not have: seconds, memory, the batches that fit.

XLA compiles for a description of the device and nothing is run, so a laptop tells what a run on the card will wait for
and whether it will fit. Convolutions are not tuned, which needs the card and takes some seconds more there. What
`fdif pretrain` trains is said by its options. Needs JAX's plugin for CUDA, of JAX's own version, and the compiler of
CUDA:

    pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12

Example:
    fdif bench plan --preset fdif-swinunetr --gpu h200
    fdif bench plan --preset fdif-resencl --batches 2 8 32 --json plan.json
"""

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from rich.console import Console

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_atomic
from fdif_jax.scripts.benchmarks.parts import planned_memory
from fdif_jax.scripts.benchmarks.step_options import (
    Hidden,
    StepOptions,
    check,
    conditions,
    options_of,
    title_of,
)
from fdif_jax.scripts.console.compilation import has_gpu_plugin
from fdif_jax.scripts.console.tables import table_by
from fdif_jax.scripts.jobs.prepared import Training, prepare
from fdif_jax.scripts.options.presets import preset_of
from fdif_jax.training.devices import AXIS, Devices
from fdif_jax.training.loop import STEPS_PER_CALL
from fdif_jax.training.updates import fresh_state, lowered

_PACKAGES = "jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A card as XLA asks for it; from NVIDIA's data sheets and its tables of compute capabilities."""

    title: str
    capability: int  # the major compute capability
    cores: int  # streaming multiprocessors
    memory: int  # bytes
    bandwidth: int  # bytes a second
    cache: int  # bytes of L2
    ghz: float
    shared: int  # bytes of shared memory of a multiprocessor; a block can have 1 KiB less

    @property
    def text(self) -> str:
        """XLA's `GpuTargetConfigProto`, as text."""
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {self.capability} }}
  core_count: {self.cores} device_memory_size: {self.memory} memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.cache} clock_rate_ghz: {self.ghz}
  shared_memory_per_core: {self.shared} shared_memory_per_block_optin: {self.shared - 1024}
  shared_memory_per_block: 49152 fpus_per_core: {128 if self.capability >= 9 else 64}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 7 }} runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{self.title}"
"""


GPUS = {
    "a100": Gpu("NVIDIA A100 80 GB", 8, 108, 80 * 2**30, 2039 * 10**9, 40 * 2**20, 1.41, 164 * 1024),
    "h100": Gpu("NVIDIA H100 80 GB", 9, 132, 80 * 2**30, 3352 * 10**9, 50 * 2**20, 1.98, 228 * 1024),
    "h200": Gpu("NVIDIA H200 141 GB", 9, 132, 141 * 10**9, 4800 * 10**9, 50 * 2**20, 1.98, 228 * 1024),
}
_ROOM = 0.9  # of the card's memory that a step may plan for: the context and other programs have the rest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(StepOptions):
    """What to compile, and for what."""

    gpu: Literal["a100", "h100", "h200"] = "h100"
    """The card."""
    batches: tuple[int, ...] = ()
    """Volumes a step, one program each; --batch-size if none is given."""

    # Nothing is run, and for one card.
    runs: Hidden[int] = 1
    devices: Hidden[int] = 1
    shard_weights: Hidden[bool] = False


def defaults(arguments: Sequence[str]) -> Config | None:
    """The options of the preset that is asked for, for those that are not given."""
    return preset_of(arguments, partial(options_of, Config))


def run(config: Config) -> None:
    """Compile the step at every batch, print what each takes, and write the figures."""
    check(config)
    batches = config.batches or (config.batch_size,)
    if min(batches) < 1:
        raise FdifError(f"--batches must be 1 or more, not {min(batches)}")
    gpu = GPUS[config.gpu]
    devices, console = _Absent(device=_described(gpu)), Console(width=118)
    rows = []
    with console.status("") as status:
        for batch in batches:
            status.update(f"compiling a step of {batch} for {gpu.title}")
            changed: dict[str, Any] = {"batch_size": batch}
            training = prepare(dataclasses.replace(config, **changed))
            rows.append(_planned(dataclasses.replace(training, devices=devices), gpu))
    figures = conditions(config, training) | {"gpu": gpu.title, "programs": rows}
    _print(console, figures)
    if config.json:
        write_atomic(config.json, json.dumps(figures, indent=2).encode())


@dataclasses.dataclass(frozen=True)
class _Absent(Devices):
    """One device that is described and not there: programs are compiled for it, arrays are shapes."""

    device: Any = None

    @cached_property
    def mesh(self) -> Mesh:
        """The device alone."""
        return Mesh(np.array([self.device]), (AXIS,))

    def place(self, tree: Any) -> Any:
        """The shapes of weights, moments or averages where they would lie."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.sharding(a)), tree)


def _described(gpu: Gpu) -> jax.Device:
    """The card as a device to compile for; FdifError where JAX cannot."""
    try:
        tools = Path(next(iter(importlib.import_module("nvidia.cuda_nvcc").__path__)))
    except ImportError:
        tools = None
    if not (has_gpu_plugin() and tools):
        raise FdifError(f"compiling for a GPU that is not here needs pip install {_PACKAGES}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ["PATH"] = os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")])
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_autotune_level=0", f"--xla_gpu_cuda_data_dir={tools}"]
    )
    jax.devices()  # finds the plugin
    topology = topologies.get_topology_desc(platform="cuda", target_config=gpu.text, topology="1x1x1")
    return topology.devices[0]


def _planned(training: Training, gpu: Gpu) -> dict[str, Any]:
    """What compiling the step takes, and what XLA plans for it."""
    plan, devices, source = training.plan, training.devices, training.source
    # The network and the renderer take the form that suits the backend.
    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        start = time.perf_counter()
        state = fresh_state(training.network, plan, devices, source.course)
        program = lowered(training.update(plan), state, plan.pace, None, STEPS_PER_CALL, devices)
        traced = time.perf_counter()
        step = program.compile()
        compiled = time.perf_counter()
    text, memory = step.as_text() or "", planned_memory(step)
    return {
        "batch": plan.batch_size,
        "trace_seconds": traced - start,
        "compile_seconds": compiled - traced,
        "kernels": text.count(" fusion(") + text.count(" custom-call("),
        "memory": {**memory._asdict(), "total": memory.total},
        "fits": memory.total < _ROOM * gpu.memory,
    }


def _print(console: Console, figures: Mapping[str, Any]) -> None:
    cells = {
        "batch": lambda row: str(row["batch"]),
        "tracing, s": lambda row: f"{row['trace_seconds']:.1f}",
        "compiling, s": lambda row: f"{row['compile_seconds']:.1f}",
        "kernels": lambda row: str(row["kernels"]),
        "weights and moments, GB": lambda row: f"{row['memory']['arguments'] / 1e9:.2f}",
        "temporary, GB": lambda row: f"{row['memory']['temporary'] / 1e9:.2f}",
        "fits": lambda row: "yes" if row["fits"] else "no",
    }
    where = f"for {figures['gpu']}, on {figures['cores']} cores under a load of {figures['load']:.1f}"
    table = table_by(cells, figures["programs"], title=title_of("plan", figures), caption=where)
    console.print(table)
