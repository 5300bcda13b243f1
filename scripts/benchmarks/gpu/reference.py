"""Part `reference`, on the CPU: the volumes that the others are compared with, and the work of a sample."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fdif_jax as fd
from fdif_jax.keys import sample_keys
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.stages import counted_work


def recipe_of(name: str, size: Size) -> fd.Recipe:
    """A shipped recipe at the size that is measured; of a toy the first few classes only."""
    recipe = fd.load_recipe(name).replace(grid=(size.edge,) * 3)
    if name.startswith("fdif"):
        recipe = recipe.replace(min_objects=size.objects, max_objects=size.objects)
    if size.edge < 32:
        small = {"fdif": {"categories": ["basic"], "displacements": ["ridge"]}}
        recipe = recipe.replace(**small.get(name, {}))
    return recipe


def compiled_batch(batch: Callable[[jax.Array], Any], count: int) -> tuple[Any, float]:
    """A batch as a program of its first sample's number, and the seconds of its compilation."""
    made = jax.jit(lambda start: batch(sample_keys(0, start, count)))
    start = time.perf_counter()
    return made.lower(np.uint32(0)).compile(), time.perf_counter() - start


def volumes_of(folder: Path, recipe: str) -> Path:
    """Where the reference volumes of a recipe are; the file is there once it is complete."""
    return folder / f"reference_{recipe}.npz"


def measure(size: Size, figures: Figures) -> None:
    """Render all scenes on the CPU, in threads; write one file a recipe."""
    for name in size.recipes:
        with figures.attempt(name):
            program = fd.compile(recipe_of(name, size))
            indices = range(size.scenes)
            with ThreadPoolExecutor() as pool:
                drawn = list(pool.map(lambda i, p=program: jax.device_get(p.sample_at(0, i)), indices))
            path = volumes_of(figures.folder, name)
            images, labels = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
            part = path.with_name(f"part_{path.name}")
            np.savez(part, images=images, labels=labels)
            part.rename(path)
            figures.add(name, {"scenes": len(images), "labelled": float((labels > 0).mean())})
    with figures.attempt("work"):
        program = fd.Program(recipe_of("fdif", size))
        work = counted_work(program, min(size.scenes, 16))
        flops, roots = (sum(each) for each in zip(*work.values(), strict=True))
        figures.add("work", {"flops": flops, "transcendentals": roots, "parts": work})
