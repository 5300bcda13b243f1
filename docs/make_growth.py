"""Draw docs/growth.png: a member of every class of the recipe `tissue`, lit, and a slice of each.

Example:
    python docs/make_growth.py docs/growth.png
"""

import sys

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax.shapes.tissue import tissue
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Region, Samples
from fdif_jax.viewing.tracing import trace
from fdif_jax.viewing.view_pictures import colour_of

SIZE, COLUMNS, PIXELS, RESOLUTION = 30.0, 5, 220, 96
REACH = 1.1 * SIZE
ELEVATION = {"trabecular_bone": 45.0}  # from further above, into what is open there
SEED = 4


def lit(shape: fd.Shape, number: int, name: str) -> np.ndarray:
    """A traced picture of a shape."""
    around = np.full(3, REACH, np.float32)
    samples = Samples.of(shape, Region(-around, around), RESOLUTION, name)
    assert samples is not None
    camera = Camera.around(samples.outline, elevation=ELEVATION.get(name, 15.0))
    return trace([samples.solid(colour_of(number))], camera, PIXELS, floor=False).colours


def sliced(shape: fd.Shape) -> np.ndarray:
    """The intensities of a mapper in the slice across y through the middle, upright."""
    edge = np.linspace(-REACH, REACH, PIXELS, dtype=np.float32)
    d = jax.jit(lambda shape: shape(edge[None, :], np.float32(0.5), edge[::-1, None]))(shape)
    return np.asarray(tissue.mapper("linear_slope_10.0")(d))


def main(path: str) -> None:
    """Draw the picture and write it to ``path``."""
    rows = 2 * (len(tissue.families) // COLUMNS)
    figure = Figure(figsize=(2.4 * COLUMNS, 2.5 * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, COLUMNS)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, family in enumerate(tissue.families):
        # All of one size: a grid whose members are of the size shown.
        ranges = {**family.ranges, "size": fd.Range(SIZE / 96, SIZE / 96)}
        shape = jax.jit(family.draw, static_argnums=2)(jax.random.key(SEED), ranges, fd.Grid(96, 96, 96))
        row, column = 2 * (number // COLUMNS), number % COLUMNS
        axes[row, column].imshow(lit(shape, number, family.name))
        axes[row, column].set_title(family.name.replace("_", " "), fontsize=10)
        axes[row + 1, column].imshow(sliced(shape), cmap="gray", vmin=0, vmax=128)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(sys.argv[1])
