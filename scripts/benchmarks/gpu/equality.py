"""Part `equality`: the accelerator's volumes beside the CPU's, and beside the published numbers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.reference import recipe_of, volumes_of
from fdif_jax.scripts.benchmarks.gpu.sizes import Size

FIXTURES = Path("tests/fixtures")
_AT_ONCE = 8
_PATIENCE = 240.0  # seconds to wait for the CPU's volumes of a recipe
_SCAN_SECONDS = 15.0  # for the scan with switches, which an accelerator may run slowly


def measure(size: Size, figures: Figures) -> None:
    """Compare every recipe by the kernel, as by default, and by the scan; then the published scenes."""
    for name in size.recipes:
        for how, kernel in (("kernel", size.kernel), ("auto", "auto"), ("scan", "off")):
            with figures.attempt(f"{name} {how}"):
                figures.add(f"{name} {how}", _compared(name, how, kernel, size, figures))
    with figures.attempt("published scenes"):
        figures.add("published scenes", _published())


def _compared(name: str, how: str, kernel: Any, size: Size, figures: Figures) -> dict[str, Any]:
    program = fd.compile(recipe_of(name, size), kernel=kernel)
    batch = jax.jit(lambda start: program.batch(_keys(start, min(_AT_ONCE, size.scenes))))
    start = time.perf_counter()
    made = batch.lower(np.uint32(0)).compile()
    compiled = time.perf_counter() - start
    expected = _reference(figures.folder, name)
    images, labels, seconds = [], [], 0.0
    for first in range(0, size.scenes, _AT_ONCE):
        with figures.alone():
            start = time.perf_counter()
            image, label = jax.device_get(made(np.uint32(first)))
            seconds += time.perf_counter() - start
        images.append(image)
        labels.append(label)
        if how == "scan" and seconds > _SCAN_SECONDS:
            break
    image, label = np.concatenate(images), np.concatenate(labels)
    wanted, ids = (expected[kind][: len(image)] for kind in ("images", "labels"))
    off = np.abs(image.astype(np.int16) - wanted)
    _picture(figures.folder / "pictures" / f"equality_{name}_{how}.png", wanted, image, ids, label)
    return {
        "scenes": len(image),
        "compile_seconds": compiled,
        "seconds": seconds,
        "labels_equal": float((label == ids).mean()),
        "scenes_with_other_labels": int((label != ids).reshape(len(label), -1).any(1).sum()),
        "images_equal": float((off == 0).mean()),
        "within_one_grey_level": float((off <= 1).mean()),
        "largest_difference": int(off.max()),
    }


def _keys(start: jax.Array, count: int) -> jax.Array:
    return jax.vmap(lambda i: fd.sample_key(0, i))(start + jnp.arange(count, dtype=jnp.uint32))


def _reference(folder: Path, name: str) -> Any:
    until = time.perf_counter() + _PATIENCE
    while not volumes_of(folder, name).exists():
        if time.perf_counter() > until:
            raise TimeoutError(f"the CPU has not rendered {name} within {_PATIENCE:.0f} s")
        time.sleep(0.5)
    return np.load(volumes_of(folder, name))


def _published() -> list[dict[str, float]]:
    expected = np.load(FIXTURES / "scenes.npz")
    scenes = fd.load_scenes(FIXTURES / "scenes.json")

    def compared() -> Iterator[dict[str, float]]:
        for i, (image, label) in enumerate(fd.render_scenes(scenes, shapes.published)):
            off = np.abs(image.astype(int) - expected[f"image_{i}"])
            yield {
                "labels_equal": float((label == expected[f"label_{i}"]).mean()),
                "within_one_grey_level": float((off <= 1).mean()),
            }

    return list(compared())


def _picture(path: Path, wanted: Any, image: Any, ids: Any, label: Any) -> None:
    """The middle slice of the scene that differs most: both images, both labels."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    worst = int((label != ids).reshape(len(label), -1).sum(1).argmax())
    middle = image.shape[1] // 2
    flat = [np.asarray(volume)[worst, ..., middle, :, :] for volume in (wanted, image, ids, label)]
    figure, axes = pyplot.subplots(1, 4, figsize=(14, 3.8))
    for axis, plane, title in zip(axes, flat, ("CPU", "here", "CPU label", "label here"), strict=True):
        labelled = "label" in title
        axis.imshow(plane, cmap="nipy_spectral" if labelled else "gray", interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.savefig(path, dpi=80, bbox_inches="tight")
    pyplot.close(figure)
