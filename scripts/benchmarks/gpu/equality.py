"""Part `equality`: the accelerator's volumes beside the CPU's, and beside the published numbers."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.reference import compiled_batch, recipe_of, volumes_of
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.viewing.viz import save_figure

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
    made, compiled = compiled_batch(program.batch, min(_AT_ONCE, size.scenes))
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


def _reference(folder: Path, name: str) -> Any:
    until = time.perf_counter() + _PATIENCE
    while not volumes_of(folder, name).exists():
        if time.perf_counter() > until:
            raise TimeoutError(f"the CPU has not rendered {name} within {_PATIENCE:.0f} s")
        time.sleep(0.5)
    return np.load(volumes_of(folder, name))


def _published() -> list[dict[str, float]]:
    expected, compared = np.load(FIXTURES / "scenes.npz"), []
    scenes = fd.load_scenes(FIXTURES / "scenes.json")
    for i, (image, label) in enumerate(fd.render_scenes(scenes, shapes.published)):
        off = np.abs(image.astype(int) - expected[f"image_{i}"])
        equal = float((label == expected[f"label_{i}"]).mean())
        compared.append({"labels_equal": equal, "within_one_grey_level": float((off <= 1).mean())})
    return compared


def _picture(path: Path, wanted: Any, image: Any, ids: Any, label: Any) -> None:
    """The middle slice of the scene that differs most: both images, both labels."""
    worst = int((label != ids).reshape(len(label), -1).sum(1).argmax())
    middle = image.shape[1] // 2
    flat = [np.asarray(volume)[worst, ..., middle, :, :] for volume in (wanted, image, ids, label)]
    figure = Figure(figsize=(14, 3.8), dpi=80, layout="constrained")
    for axis, plane, title in zip(
        figure.subplots(1, 4), flat, ("CPU", "here", "CPU label", "label here"), strict=True
    ):
        labelled = "label" in title
        axis.imshow(plane, cmap="nipy_spectral" if labelled else "gray", interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    save_figure(figure, path)
