"""Fit the example's organs to real masks: print the table of docs/fitting.md, draw fits.png and learned.png.

ANATOMY is a folder of label maps with the label numbers of TotalSegmentator, HIPPOCAMPI one of masks; pictures go to
the last folder.

Example:
    python docs/make_fits.py ANATOMY HIPPOCAMPI docs
"""

import sys
import time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.fitting.fit_picture import save_fits
from fdif_jax.fitting.fitted_family import write_family
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.fitting.fitter import Fitter
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.io.files import write_atomic
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.tracing import Solid, trace

ORGANS = Path(__file__).parent / "examples" / "organs.py"
LABELS = {
    "kidney": {2: "right", 3: "left"},
    "liver": {5: ""},
    "spleen": {1: ""},
    "vertebra": {29: "L3", 30: "L2", 31: "L1"},
}
MEMBERS = 7
POSE = 7  # numbers of a pose: place, turn and scale


def masks_of(family: str, anatomy: Path, hippocampi: Path) -> dict[str, Mask]:
    """Every mask of an organ, by what to call it; those that an edge of the volume cuts are called so."""
    if family == "hippocampus":
        return {path.name.split(".")[0]: Mask.load(path) for path in sorted(hippocampi.glob("*.nii.gz"))}
    found = {}
    # Only the whole torso has whole vertebrae.
    for path in sorted(anatomy.glob("*torso*_label.nii.gz" if family == "vertebra" else "*_label.nii.gz")):
        for label, which in LABELS[family].items():
            try:
                mask = Mask.load(path, label)
            except FdifError:
                continue
            cut = any(mask.inside.take((0, -1), axis).any() for axis in range(3))
            found[f"{path.name.split('_')[0]} {which}".strip() + ", cut" * cut] = mask
    return found


def table(anatomy: Path, hippocampi: Path, folder: Path) -> None:
    """Fit all, print a row each, draw the first of each organ."""
    first, titles = [], []
    print("| family | mask | voxels | Dice | parameters and pose | seconds |\n|---|---|---|---|---|---|")
    for family in vocabulary_of(ORGANS).families:
        fitter = Fitter(family)
        for number, (name, mask) in enumerate(masks_of(family.name, anatomy, hippocampi).items()):
            start = time.perf_counter()
            fit = fitter.fit(mask)
            seconds = time.perf_counter() - start
            free, count = len(fit.values), np.count_nonzero(mask.inside)
            print(
                f"| {family.name} | {name} | {count:,} | {fit.dice:.3f} | {free} + {POSE} | {seconds:.0f} |"
            )
            if number == 0:
                first.append(fit)
                titles.append(f"{family.name}, {name}: Dice {fit.dice:.3f}")
    save_fits(first, folder / "fits.png", titles)


def learned(anatomy: Path, hippocampi: Path, folder: Path) -> None:
    """Learn kidneys and hippocampi, draw members of both."""
    figure = Figure(figsize=(1.5 * MEMBERS, 3.3), layout="constrained")
    for name, row in zip(("kidney", "hippocampus"), figure.subplots(2, MEMBERS), strict=True):
        fitter = Fitter(vocabulary_of(ORGANS).family(name), mirror=name == "kidney")
        masks = list(masks_of(name, anatomy, hippocampi).values())[: 4 if name == "kidney" else 6]
        fits: list[Fit] = []
        for mask in masks:
            fits.append(fitter.fit(mask, like=fits[0] if fits else None))
        with TemporaryDirectory() as scratch:
            path = Path(scratch, "learned.py")
            write_family(fits, name, path)
            family = vocabulary_of(path).family(name)
            for seed, axes in enumerate(row):
                axes.imshow(member(family.sample(jax.random.key(seed), fd.Grid(48, 48, 48)), name))
                axes.set_axis_off()
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    write_atomic(folder / "learned.png", picture.getvalue())


def member(shape: fd.Shape, name: str) -> np.ndarray:
    """A picture of a shape in a grid of 48³ voxels."""
    camera = Camera((0.0, 0.0, 0.0), half=22.0, azimuth=75.0)
    colour = (0.78, 0.36, 0.33) if name == "kidney" else (0.93, 0.7, 0.55)
    return trace(
        [Solid(name, shape, fd.Box.around(32.0, 32.0, 32.0), colour, slope=2.0)], camera, 200, floor=False
    ).colours


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    table(*map(Path, sys.argv[1:]))
    learned(*map(Path, sys.argv[1:]))
