"""Draw the README's picture with our own renderer: classes as lit solids, and slices of scenes.

Example:
    python docs/make_gallery.py docs/gallery.png
"""

import sys

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.scripts.jobs.view_targets import displaced, drawn, sampled
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.tracing import trace
from fdif_jax.viewing.view_pictures import colour_of

PIXELS, RESOLUTION, EDGE = 200, 64, 96
GRID = fd.Grid(EDGE, EDGE, EDGE)
CLASSES = (
    "sphere", "octahedron", "cone", "torus", "convex_cylinder", "concave_cylinder",
    "five_star_revolution", "square_torus", "eight_star_torus", "triangle_prism", "heptagon_prism", "five_star_prism",
    "hexagon_convex_prism", "six_star_convex_prism", "pentagon_concave_prism", "seven_star_cone_prism",
    "onioned_nonagon_prism", "onioned_eight_star_concave_prism",
)  # fmt: skip
ROUGH = (("sphere", "ridge_coarse"), ("torus", "perlin_more_fine"), ("square_prism", "turbulence"),
         ("cone", "sawtooth"), ("octahedron", "sharpmax"), ("pentagon_torus", "twisted_x"))  # fmt: skip


def lit(
    name: str, seed: int, colour: tuple[float, float, float], displacement: str | None = None
) -> np.ndarray:
    """A traced picture of a random member of a class, perhaps roughened."""
    shape = drawn(shapes.exact.family(name), seed, GRID)
    if displacement:
        shape = displaced(shape, shapes.exact.displacement(displacement), GRID)
    samples = sampled(shape, GRID, RESOLUTION, name)
    return trace([samples.solid(colour)], Camera.around(samples.outline), PIXELS).colours


def main(path: str) -> None:
    """Draw the picture and write it to ``path``."""
    solids = [(name, 3, None) for name in CLASSES] + [(name, 5, rough) for name, rough in ROUGH]
    program = fd.compile(fd.load_recipe("fdif"))
    figure = Figure(figsize=(13.2, 11.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(5, 6)
    for number, (axis, (name, seed, rough)) in enumerate(zip(axes.flat, solids, strict=False)):
        axis.imshow(lit(name, seed, colour_of(number), rough))
        axis.set_title(" + ".join(filter(None, (name, rough))).replace("_", " "), fontsize=8.5)
    for i in range(3):
        image, label = (np.asarray(v) for v in program.sample_at(1, i))
        left, right = axes[4, 2 * i : 2 * i + 2]
        left.imshow(image[EDGE // 2], cmap="gray", vmin=0, vmax=128)
        left.set_title(f"recipe fdif, sample {i}: image", fontsize=8.5)
        shown = np.ma.masked_equal(label[EDGE // 2], 0)
        right.imshow(shown, cmap="turbo", vmin=0, vmax=program.num_classes, interpolation="nearest")
        right.set_title("label", fontsize=8.5)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main(sys.argv[1])
