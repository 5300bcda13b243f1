"""Run the GPU programme: everything that only an accelerator can tell, in one go and in few minutes.

Parts, each a process of its own, whose failure or end by the clock stops no other:
    machine      versions, clocks, bandwidth; rates of matrix products and of plain arithmetic
    reference    64 scenes of every recipe on the CPU, and the work in a scene
    rates        volumes a second by the kernel, the branch-free form and the scan, by batch
    equality     the accelerator's volumes beside the CPU's and the published ones
    layers       forms of convolution and attention beside each other and PyTorch's
    steps        a training step of SwinUNETR-48, ResEnc-L and Primus-M by part, at batch 2 and the largest that fits
    rivals       the same by PyTorch, from memory and from files, compiled and not
    turns        both in turns in one process, and their ratios
    pretraining  weights pre-trained in the time that is left, exported

Parts run side by side, and take turns where they measure. Figures are in gpu.json after every part, with pictures
beside it. The same command goes on where it was stopped; --half 1 and --half 2 are two calls of half the time.

Example:
    fdif bench gpu --out gpu
    fdif bench gpu --half 1 --minutes 4 --out gpu
    fdif bench gpu --parts rates equality --out gpu
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, NamedTuple

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import make_folder, write_json
from fdif_jax.scripts.benchmarks.gpu import figures
from fdif_jax.scripts.benchmarks.gpu.pictures import draw


class Part(NamedTuple):
    """A part: the half it belongs to, and whether JAX computes on the CPU in it."""

    half: int
    on_cpu: bool = False


PARTS = {
    "machine": Part(1),
    "reference": Part(1, on_cpu=True),
    "rates": Part(1),
    "equality": Part(1),
    "layers": Part(2),
    "steps": Part(2),
    "rivals": Part(2, on_cpu=True),  # so that JAX takes no memory from PyTorch
    "turns": Part(2),
    "pretraining": Part(2),
}
_LAST = "pretraining"  # alone, in the time that is left
_CLOSING = 15.0  # seconds before the end in which nothing is measured, but written


@dataclasses.dataclass(frozen=True)
class Config:
    """What to run."""

    out: Path = Path("gpu")
    """Folder for figures, pictures and weights."""
    half: Literal[0, 1, 2] = 0
    """Run the parts of one half only; 0 for both."""
    parts: tuple[str, ...] = ()
    """Run these parts only."""
    minutes: float = 8.0
    """Stop after so many minutes, whatever is measured by then."""
    jobs: int = 0
    """Parts at the same time; 0 for five, or one on fewer than eight processor cores."""
    size: Literal["full", "toy"] = "full"
    """The sizes of the literature, or a toy that tests the programme on a CPU."""


def run(config: Config) -> None:
    """Run all parts that are not done, until they are or time is up; merge and draw what there is."""
    for name in config.parts:
        if name not in PARTS:
            raise unknown("part", name, PARTS)
    if config.minutes <= 0:
        raise FdifError(f"--minutes must be more than 0, not {config.minutes}")
    make_folder(config.out / "pictures")
    deadline = time.monotonic() + 60 * config.minutes
    chosen = config.parts or [n for n, part in PARTS.items() if config.half in (0, part.half)]
    waiting = [name for name in chosen if not (config.out / f"{name}.done").exists()]
    jobs = config.jobs or (5 if (os.cpu_count() or 1) >= 8 else 1)
    running: dict[str, Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs and not (running and waiting[0] == _LAST):
                name = waiting.pop(0)
                running[name] = Running(name, config, deadline - _CLOSING)
            for name in [name for name, process in running.items() if process.over()]:
                running.pop(name)
                _merge(config)
            if time.monotonic() > deadline - _CLOSING:
                break
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.stop()
        _merge(config)
        draw(config.out)
    print(f"{config.out}/gpu.json and {config.out}/pictures")


class Running:
    """A part at work."""

    def __init__(self, name: str, config: Config, until: float):
        self.name, self._start = name, time.monotonic()
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str((config.out / "cache").absolute()))
        if PARTS[name].on_cpu:
            environment["JAX_PLATFORMS"] = "cpu"
        left = [str(until - self._start)] if name == _LAST else []
        command = [sys.executable, "-m", f"{__package__}.part", name, str(config.out), config.size, *left]
        self._log = (config.out / f"{name}.log").open("a")
        print(f"{name}: started", flush=True)
        self._process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def over(self) -> bool:
        """Whether it has ended, which is said once."""
        if self._process.poll() is None:
            return False
        self._log.close()
        how = "done" if self._process.returncode == 0 else f"failed, see {self._log.name}"
        print(f"{self.name}: {how} after {time.monotonic() - self._start:.0f} s", flush=True)
        return True

    def stop(self) -> None:
        """End it, with all that it has started; a pre-training run keeps its state."""
        print(f"{self.name}: time is up", flush=True)
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_CLOSING / 3)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _merge(config: Config) -> None:
    every = {name: figures.read(config.out, name) for name in PARTS}
    done = [name for name in PARTS if (config.out / f"{name}.done").exists()]
    write_json(config.out / "gpu.json", {"size": config.size, "done": done, **every})
    print(json.dumps({name: len(part) for name, part in every.items()}), flush=True)
