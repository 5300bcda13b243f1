"""Part `machine`: what the machine is, and the rates it reaches at best."""

import os
import platform
import shutil
import subprocess
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp

from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.parts import measure_peaks, seconds_of
from fdif_jax.training.devices import Devices

_ASKED = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"


def measure(size: Size, figures: Figures) -> None:
    """Versions and devices; rates of memory, matrix products and plain float32 arithmetic."""
    figures.add("versions", {"python": platform.python_version(), **_versions()})
    figures.add("device", {"kind": jax.devices()[0].device_kind, "count": len(jax.devices())})
    figures.add("cores", os.cpu_count())
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv"]
        figures.add("nvidia-smi", subprocess.run(asked, capture_output=True, text=True).stdout.splitlines())
    with figures.alone():
        for dtype in ("bfloat16", "float32"):
            with figures.attempt(f"peaks {dtype}"):
                figures.add(f"peaks {dtype}", measure_peaks(Devices(1), dtype, size.runs)._asdict())
        with figures.attempt("float32 flops"):
            figures.add("float32 flops", _arithmetic(size.runs))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "monai"):
        try:
            found[name] = import_module(name).__version__
        except Exception as error:
            found[name] = f"not importable: {error}"
    return found


def _arithmetic(runs: int) -> float:
    """Operations a second of independent chains of multiply-adds on numbers in registers, as a renderer has them."""
    x: Any = jnp.linspace(0, 1, 2**25 if jax.default_backend() != "cpu" else 2**16)
    rounds = 64

    @jax.jit
    def chains(x: jax.Array) -> jax.Array:
        ends = [x * factor for factor in (0.9, 0.95, 0.97, 0.99)]
        for _ in range(rounds):
            ends = [end * 0.999 + 0.01 for end in ends]
        return sum(ends[1:], ends[0])

    return 4 * rounds * 2 * x.size / min(seconds_of(lambda: chains(x), max(runs, 3), 10))
