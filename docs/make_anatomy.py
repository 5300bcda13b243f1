"""Draw docs/anatomy.png: a real subject's label map beside generated scenes, slices through the middle.

Example:
    python docs/make_anatomy.py LABEL.nii.gz NAMES.json[:SECTION] docs/anatomy.png
"""

import sys
from collections.abc import Mapping

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax.anatomy.organ_masks import load_names

SCENES = 5


def palette(organs: int) -> np.ndarray:
    """A colour for every organ, similar organs far apart; 0 is white."""
    colours = matplotlib.colormaps["turbo"](
        np.random.default_rng(3).permutation(np.linspace(0.05, 0.95, organs))
    )
    return np.concatenate([[[1, 1, 1]], 0.2 + 0.8 * colours[:, :3]])


def real(path: str, names: Mapping[int, str], organs: tuple[str, ...]) -> np.ndarray:
    """A label map with axes right, anterior, superior and the recipe's class ids."""
    image = nib.as_closest_canonical(nib.load(path))
    labels = np.asarray(image.dataobj)
    ids = np.zeros(labels.max() + 1, int)
    for label in np.unique(labels[labels > 0]):
        ids[label] = organs.index(names[int(label)]) + 1 if names[int(label)] in organs else 0
    return ids[labels]


def views(volume: np.ndarray) -> list[np.ndarray]:
    """The middle coronal and axial slices of a volume of axes right, anterior, superior, as they are read."""
    _, y, z = (n // 2 for n in volume.shape)
    return [volume[:, y][::-1, ::-1].T, volume[:, :, z][::-1, ::-1].T]


def main(label: str, names: str, path: str) -> None:
    """Draw the picture and write it to ``path``."""
    programs = [fd.compile(fd.load_recipe(name)) for name in ("anatomy", "anatomy_fdif")]
    organs = programs[0].class_names
    colours = palette(len(organs))
    file, _, section = names.partition(":")
    columns = [("a subject's label map", real(label, load_names(file, section or None), organs), None, None)]
    for i in range(SCENES):
        image, drawn = (np.asarray(v) for v in programs[0].sample_at(5, i))
        rough, _ = (np.asarray(v) for v in programs[1].sample_at(5, i))
        columns.append((f"scene {i}", drawn.astype(int), image, rough))
    figure = Figure(figsize=(2.25 * len(columns), 9.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4, len(columns))
    for column, (title, drawn, image, rough) in zip(axes.T, columns, strict=True):
        for axis, view in zip(column, views(drawn), strict=False):
            axis.imshow(colours[view], interpolation="nearest")
        for axis, volume in zip(column[2:], (image, rough), strict=True):
            if volume is not None:
                axis.imshow(views(volume)[0], cmap="gray", vmin=0, vmax=128)
        column[0].set_title(title, fontsize=9)
    for axis, text in zip(
        axes[:, 1], ("coronal", "axial", "recipe anatomy", "recipe anatomy_fdif"), strict=True
    ):
        axis.text(
            -0.04, 0.5, text, rotation=90, va="center", ha="right", transform=axis.transAxes, fontsize=9
        )
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
