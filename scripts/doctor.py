"""Say what this installation is, what is missing, and whether it works: scenes, a training step, files, locks.

The self-test takes some 10 seconds on two cores. The exit status is 0 if all is well, and 2 if a check has failed;
an extra that is not installed is no failure.

Example:
    fdif doctor
    fdif doctor --json > machine.json
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np

import fdif_jax as fd
from fdif_jax import models, shapes
from fdif_jax.batches.scenes import scene_batch
from fdif_jax.errors import FdifError
from fdif_jax.extras import EXTRAS, lacking
from fdif_jax.io.files import write_atomic
from fdif_jax.io.locks import hold
from fdif_jax.io.memory import memory
from fdif_jax.io.nifti import encode_nifti
from fdif_jax.io.volumes import read_volume
from fdif_jax.models import onednn_conv
from fdif_jax.objectives.supervised import Segmentation
from fdif_jax.scripts import cli
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.training.devices import Devices
from fdif_jax.training.network import functional
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.updates import fresh_state, update_of

PACKAGES = ("fdif-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "nibabel")
_GRID, _RADIUS = 16, 5.0  # voxels


@dataclass(frozen=True)
class Config:
    """Options of ``fdif doctor``."""

    json: Flag = False
    """Print all of it as one JSON object."""


def run(config: Config) -> None:
    """Look, test, tell; FdifError if a check has failed."""
    found = facts()
    if not config.json:
        tell(found)
    found["checks"] = {}
    for name, check in CHECKS.items():
        begun = time.perf_counter()
        try:
            said, is_well = check(), True
        except Exception as error:  # whatever a broken installation makes of it
            said, is_well = f"{type(error).__name__}: {error}", False
        seconds = round(time.perf_counter() - begun, 2)
        found["checks"][name] = {"well": is_well, "said": said, "seconds": seconds}
        if not config.json:
            print(f"{'ok' if is_well else 'FAILED':<11}{name}: {said} ({seconds:.1f} s)", flush=True)
    failed = [name for name, check in found["checks"].items() if not check["well"]]
    if config.json:
        print(json.dumps(found, indent=1))
    if failed:
        raise FdifError(f"{len(failed)} of {len(CHECKS)} checks failed: {', '.join(failed)}")


def facts() -> dict[str, Any]:
    """Versions, devices, memory in bytes, cores, the cache, and the extras, each with what is missing."""
    cache = Path(jax.config.jax_compilation_cache_dir or "")  # type: ignore[attr-defined]
    files = [path for path in cache.rglob("*") if path.is_file()] if cache.is_dir() else []
    return {
        "versions": {"Python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "system": platform.platform(),
        "devices": [
            {"kind": device.device_kind, "bytes": (device.memory_stats() or {}).get("bytes_limit")}
            for device in jax.devices()
        ],
        "convolutions": f"XLA ({why})" if (why := onednn_conv.lacking()) else "oneDNN",
        "memory": memory(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cache": {
            "path": str(cache),
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
        },
        "extras": {name: {"lacks": lacking(name), "serves": extra.serves} for name, extra in EXTRAS.items()},
    }


def tell(found: dict[str, Any]) -> None:
    """Print facts, a line each."""
    kinds = [device["kind"] for device in found["devices"]]
    cache = found["cache"]
    lines = {
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "system": found["system"],
        "devices": ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds)),
        "on a CPU": f"{found['convolutions']} convolves",
        "memory": f"{found['memory'] / 1e9:.1f} GB may be used",
        "cores": str(found["cores"]),
        "cache": f"{cache['path']}: {cache['files']} files, {cache['bytes'] / 1e6:.1f} MB",
    }
    for name, line in lines.items():
        print(f"{name:<11}{line}")
    for name, extra in found["extras"].items():
        print(f"{'extra':<11}{name}, for {extra['serves']}: {extra['lacks'] or 'is installed'}")


def _locks() -> str:
    """Two open files are not held at once, in the folder that the command is called in."""
    with tempfile.NamedTemporaryFile(dir=".", prefix=".fdif_lock_") as file, open(file.name, "rb") as other:
        if not hold(file) or hold(other):
            raise FdifError(
                "the file system of this folder has no locks; let one process write to a dataset or run"
            )
    return "a file of this folder is held by one at a time"


def _ball() -> str:
    """The distance to a ball is what NumPy says it is."""
    grid = fd.Grid(_GRID, _GRID, _GRID)
    axis = np.arange(_GRID) - _GRID // 2
    wanted = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2) - _RADIUS
    apart = float(abs(np.asarray(shapes.sphere(_RADIUS)(grid.points())) - wanted).max())
    if not apart < 1e-4:
        raise FdifError(f"distances to a ball are up to {apart:.3g} voxels off")
    return f"distances are within {apart:.1e} voxels"


def _tiny() -> fd.World:
    recipe = fd.load_recipe("fdif").replace(
        grid=(_GRID,) * 3, primitives=("sphere",), mappers=("inverse_cube",), displacements=("none",),
        min_objects=1, max_objects=1,
    )  # fmt: skip
    return fd.compile(recipe)


def _scene() -> str:
    """A sample is the same twice, and its label has an object."""
    program = _tiny()
    (image, label), (again, _) = (program.sample_at(seed=0, index=1) for _ in range(2))
    if not (np.asarray(image) == np.asarray(again)).all() or not np.asarray(label).any():
        raise FdifError("a scene that is drawn twice differs, or is empty")
    return f"sample 1 of seed 0 has {int((np.asarray(label) > 0).sum())} labelled voxels"


def _step() -> str:
    """A training step changes the weights of a tiny network, and its loss is finite."""
    program, plan, devices = _tiny(), TrainingPlan(steps=2, batch_size=1, warmup=0), Devices(1)
    model = models.create("resenc_unet", in_channels=1, out_channels=2, features=[4, 8], dtype="float32")
    network = functional(model)
    loss = Segmentation(program.tasks, "dice_ce").loss
    update = update_of(network, scene_batch(program), plan, loss, devices)
    state, trace = jax.jit(update)(fresh_state(network, plan, devices), jnp.int32(0), plan.pace, None)
    moved = any(bool((state.weights[name] != network.weights[name]).any()) for name in network.parameters)
    if not np.isfinite(trace).all() or not moved:
        raise FdifError(
            f"loss and norm of the gradient are {np.asarray(trace).tolist()}; weights moved: {moved}"
        )
    return f"loss {float(trace[0]):.3f}"


def _files() -> str:
    """A volume is read as it was written, by our reader and by nibabel."""
    volume = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    with tempfile.TemporaryDirectory(prefix="fdif_doctor_") as folder:
        path = Path(folder, "volume.nii.gz")
        write_atomic(path, encode_nifti(volume))
        ours, theirs = read_volume(path).array, np.asarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
    if not ((ours == volume).all() and (theirs == volume).all()):
        raise FdifError("a NIfTI file is not read as it was written")
    return "a NIfTI file is read as it was written"


CHECKS: dict[str, Callable[[], str]] = {
    "locks": _locks,
    "NIfTI": _files,
    "ball": _ball,
    "scene": _scene,
    "training": _step,
}
"""What is tested: each says what it found, or raises."""


if __name__ == "__main__":
    cli.run("doctor")
