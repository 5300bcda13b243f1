"""Draw docs/worlds.png (a sample of every world, with labels) and docs/looks.png (every knob of realism).

Example:
    python docs/make_worlds.py docs
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd

GRID = (64, 64, 64)
WORLDS = {
    "fdif": fd.load_recipe("fdif"),
    "fdif, packed": fd.load_recipe("fdif").replace(placement={"kind": "packed", "max_overlap": 0.1}),
    "unions": fd.load_recipe("fdif").replace(primitives=["sphere", "torus", "cone"], num_combined_unions=9),
    "avs_db": fd.load_recipe("avs_db"),
    "anatomy": fd.load_recipe("anatomy"),
    "anatomy_fdif": fd.load_recipe("anatomy_fdif"),
}
LOOKS = {
    "none": {},
    "partial_volume": {"partial_volume": True},
    "texture 0.6": {"texture": 0.6},
    "bias_field 1": {"bias_field": 1.0},
    "blur 2": {"blur": 2.0},
    "slice_thickness 8": {"slice_thickness": 8.0},
    "rician 0.2": {"rician": 0.2},
    "gaussian 0.2": {"gaussian": 0.2},
    "uniform_noise": {"uniform_noise": (125.0, 200.0)},
    "gamma 1.5": {"gamma": 1.5},
    "histogram 3": {"histogram": 3.0},
    "all, weaker": {
        "partial_volume": True, "texture": 0.4, "bias_field": 0.5, "blur": 1.0, "slice_thickness": 3.0,
        "rician": 0.05, "gamma": 0.5,
    },
}  # fmt: skip


def palette() -> np.ndarray:
    """Colours of labels; neighbours differ, 0 is white."""
    colours = matplotlib.colormaps["turbo"](
        np.random.default_rng(3).permutation(np.linspace(0.05, 0.95, 256))
    )
    return np.concatenate([[[1, 1, 1]], 0.2 + 0.8 * colours[:, :3]])


def middle(volume: np.ndarray) -> np.ndarray:
    """The slice across y through the middle, upright."""
    return np.asarray(volume)[:, volume.shape[1] // 2, ::-1].T[::-1]


def show(axes, picture: np.ndarray, title: str = "") -> None:
    """One slice without ticks."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=128, interpolation="nearest")
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()


def worlds(path: Path) -> None:
    """A column a world: image and label of two samples."""
    figure = Figure(figsize=(1.6 * len(WORLDS), 6.8), layout="constrained")
    rows = figure.subplots(4, len(WORLDS))
    colours = palette()
    for column, (name, recipe) in enumerate(WORLDS.items()):
        program = fd.compile(recipe.replace(grid=GRID))
        for sample in range(2):
            image, label = program.sample_at(1, sample)
            show(rows[2 * sample, column], middle(image), name if sample == 0 else "")
            show(rows[2 * sample + 1, column], colours[middle(label)])
    FigureCanvasAgg(figure).print_png(str(path))


def looks(path: Path) -> None:
    """One sample under every knob."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    every = figure.subplots(2, len(LOOKS) // 2)
    recipe = fd.load_recipe("fdif").replace(grid=GRID, mappers=["linear_slope_10.0"], categories=["basic"])
    recipe = recipe.replace(mapper_as_augmentation=True, max_objects=8, min_objects=8, displacements=[])
    for axes, (name, look) in zip(every.ravel(), LOOKS.items(), strict=True):
        image, _ = fd.compile(recipe.replace(look=look)).sample_at(0, 3)
        show(axes, middle(image), name)
    FigureCanvasAgg(figure).print_png(str(path))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    worlds(folder / "worlds.png")
    looks(folder / "looks.png")
