"""Pictures of views: a traced one, slices through a distance, sheets of many; and colours by number."""

import colorsys
import dataclasses
import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from fdif_jax.extras import needing
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Samples
from fdif_jax.viewing.tracing import Colour, Region, Solid
from fdif_jax.viewing.viz import save_figure

with needing("pictures"):
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
    from PIL import Image

_GOLDEN = 0.6180339887  # turns of the colour circle between neighbouring numbers
_LINES = 9  # of equal distance in a slice
_POINTS = 320  # along each edge of a slice
_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # of each slice: to the right, upwards, and the one it is at


def colour_of(number: int) -> Colour:
    """The colour of a class; neighbouring numbers differ."""
    return colorsys.hsv_to_rgb((0.08 + _GOLDEN * number) % 1.0, 0.5, 0.92)


def encode(colours: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    """The bytes of a picture uint8 ``(height, width, 3)`` as a file of this kind."""
    data = io.BytesIO()
    Image.fromarray(colours).save(data, kind, **options)
    return data.getvalue()


def cut_open(parts: Sequence[tuple[Samples, Colour]], camera: Camera) -> list[Solid]:
    """Parts of one object, to be traced, cut through the middle of the last: what lies before it is left out."""
    towards = camera.axes[2]
    axis = int(np.argmax(abs(towards)))
    plane, behind = parts[-1][0].middle[axis], np.minimum if towards[axis] > 0 else np.maximum
    solids = []
    for samples, colour in parts:
        solid = samples.solid(colour)
        ends = np.array(solid.box, np.float32)
        ends[:, axis] = behind(ends[:, axis], plane)
        if ends[0, axis] < ends[1, axis]:
            solids.append(dataclasses.replace(solid, box=Region(*ends)))
    return solids


def save_slices(
    samples: Samples,
    path: str | os.PathLike,
    mapper: Callable[[np.ndarray], np.ndarray] | None = None,
    parts: Sequence[tuple[Samples, Colour]] = (),
) -> None:
    """Write a PNG of three slices through the middle of a shape's inside; a mapper makes greys of distance.

    The outlines of ``parts`` are drawn in their colours.
    """
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    middle = parts[-1][0].middle if parts else samples.middle
    planes = samples.slices(_POINTS, middle)
    outlines = [(planes, "tab:orange"), *((part.slices(_POINTS, middle), colour) for part, colour in parts)]
    lower, upper = samples.region
    deep, high = min(float(planes.min()), -1e-3), max(float(planes.max()), 1e-3)
    for number, (panel, plane) in enumerate(zip(figure.subplots(1, 3), planes, strict=True)):
        across, up, fixed = _AXES[number]
        extent = (lower[across], upper[across], lower[up], upper[up])
        if mapper is None:
            norm = TwoSlopeNorm(0.0, deep, high)
            shown = panel.imshow(plane, cmap="RdBu_r", norm=norm, extent=extent, origin="lower")
            levels = np.linspace(deep, high, _LINES + 2)[1:-1]
            lines = {"colors": "k", "linewidths": 0.4, "linestyles": "solid", "alpha": 0.5}
            panel.contour(plane, levels=levels, extent=extent, **lines)
        else:
            grey = np.asarray(mapper(plane))
            shown = panel.imshow(grey, cmap="gray", vmin=0, vmax=128, extent=extent, origin="lower")
        for of, colour in outlines:
            if (of[number] <= 0).any() and (of[number] > 0).any():
                panel.contour(of[number], levels=[0.0], extent=extent, colors=[colour], linewidths=1.2)
        panel.set_title(f"{'xyz'[fixed]} = {middle[fixed]:.1f}", fontsize=10)
        panel.set(xlabel="xyz"[across], ylabel="xyz"[up], aspect="equal")
        panel.tick_params(labelsize=8)
    ticks = [deep, deep / 2, 0, high / 2, high] if mapper is None else [0, 32, 64, 96, 128]
    label = "distance" if mapper is None else "intensity"
    figure.colorbar(shown, ax=figure.axes, shrink=0.75, label=label, ticks=ticks, format="%.3g")
    save_figure(figure, path)


def save_sheet(pictures: Sequence[tuple[str, np.ndarray]], columns: int, path: str | os.PathLike) -> None:
    """Write a PNG of titled pictures uint8 ``(size, size, 3)`` in rows of ``columns``, pixel for pixel."""
    rows, size = -(-len(pictures) // columns), pictures[0][1].shape[0]
    title, dpi = 22, 100
    height = rows * (size + title)
    figure = Figure(figsize=(columns * size / dpi, height / dpi), dpi=dpi, facecolor="white")
    sheet = np.full((height, columns * size, 3), 255, np.uint8)
    for number, (name, colours) in enumerate(pictures):
        row, column = divmod(number, columns)
        top = row * (size + title)
        sheet[top + title : top + title + size, column * size : (column + 1) * size] = colours
        x, y = (column + 0.5) / columns, 1 - (top + title / 2) / height
        figure.text(
            x, y, name, ha="center", va="center", fontsize=min(9.0, 15 * size / 12 / max(len(name), 1))
        )
    figure.figimage(sheet, zorder=-1)
    save_figure(figure, path)
