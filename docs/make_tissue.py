"""Draw docs/tissue.png: scenes in random tissue beside real MRI and CT.

Example:
    python docs/make_tissue.py tests/data docs/tissue.png
"""

import sys
from pathlib import Path

import numpy as np
from make_worlds import middle, show
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax.datasets.reader import read_volume
from fdif_jax.preprocessing.likeness import like_scans, likeness_of

ROWS = 3


def real(path: Path) -> np.ndarray:
    """A scan, 0 … 128 between its percentiles 1 and 99."""
    volume = np.asarray(read_volume(path).array, np.float32)
    low, high = np.percentile(volume, (1, 99))
    return np.clip((volume - low) / (high - low), 0, 1) * 128


def drawn(recipe: fd.Recipe) -> list[np.ndarray]:
    """A slice of each of the first scenes."""
    program = fd.compile(recipe)
    return [middle(program.sample_at(1, sample)[0]) for sample in range(ROWS)]


def columns(data: Path) -> dict[str, list[np.ndarray]]:
    """Slices by what they are of."""
    brains = sorted((data / "hippocampus/imagesTr").glob("*.nii.gz"))
    mri = real(data / "anatomy/subject03_abdomen_mr_slices.nii.gz")
    ct = real(data / "anatomy/subject01_torso_ct_slices.nii.gz")
    tissue = fd.load_recipe("random_tissue")
    return {
        "MRI, hippocampus": [middle(real(path)) for path in brains[:ROWS]],
        "like it": drawn(like_scans(tissue, likeness_of(data / "hippocampus")).recipe),
        "MRI, abdomen": [mri[:, :, z].T[::-1] for z in range(ROWS)],
        "CT, torso": [ct[:, y].T[::-1] for y in range(ROWS)],
        "anatomy_random": drawn(fd.load_recipe("anatomy_random")),
        "anatomix": drawn(fd.load_recipe("anatomix")),
        "random_tissue": drawn(tissue.replace(grid=(64, 64, 64))),
    }


def main(data: Path, out: Path) -> None:
    """Draw a column for each."""
    pictures = columns(data)
    figure = Figure(figsize=(1.6 * len(pictures), 1.7 * ROWS), layout="constrained")
    axes = figure.subplots(ROWS, len(pictures))
    for column, (name, slices) in enumerate(pictures.items()):
        for row, picture in enumerate(slices):
            show(axes[row, column], picture, name if row == 0 else "")
    FigureCanvasAgg(figure).print_png(str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
