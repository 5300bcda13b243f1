"""Make the bank of heads by formula, and draw docs/head.png: slices of scenes of the recipe `head`, and what they hold.

Example:
    python docs/make_head.py shapes/head.npz docs/head.png
"""

import sys

import numpy as np
from make_anatomy import palette
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax.shapes.heads import heads

SCENES = 5
HEADS = 8


def draw(path: str) -> None:
    """Axial slices through a gland, and coronal ones: images above, label maps below."""
    recipe = fd.load_recipe("head").replace(grid=(64, 64, 64), spacing=(1.5, 1.5, 1.5))
    program = fd.compile(recipe)
    names = ("background", *program.class_names)
    glands = [names.index("parotid_right"), names.index("parotid_left")]
    colours = palette(len(program.class_names))
    figure = Figure(figsize=(2 * SCENES, 8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, SCENES)
    found = 0
    for index in range(4 * SCENES):
        image, label = (np.asarray(a) for a in program.sample_at(1, index))
        places = np.argwhere(np.isin(label, glands))
        if len(places) < 400 or found == SCENES:  # the window shows another part of the head
            continue
        axial = (slice(None), slice(None), int(np.median(places[:, 2])))
        coronal = (slice(None), int(np.median(places[:, 1])))
        for row, plane in ((0, axial), (2, coronal)):
            axes[row, found].imshow(image[plane].T, cmap="gray", origin="lower")
            axes[row + 1, found].imshow(colours[label[plane]].swapaxes(0, 1), origin="lower")
        found += 1
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    heads(HEADS).save(sys.argv[1])
    draw(sys.argv[2])
