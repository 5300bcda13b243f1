"""Draw docs/tutorial.png: two members of each family of docs/tutorial.md, those of several labels cut open.

Example:
    python docs/make_tutorial.py docs/tutorial.md docs/tutorial.png
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fdif_jax.scripts.jobs.view_targets import Choice, View, views_of
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.tracing import trace
from fdif_jax.viewing.viz import save_figure

MEMBERS, SEED, PIXELS = 2, 0, 260


def picture(view: View) -> np.ndarray:
    """A member, lit."""
    camera = Camera.around(np.concatenate([samples.outline for samples, _ in view.things]))
    return trace(view.solids(camera), camera, PIXELS, floor=False).colours


def main(page: str, path: str) -> None:
    """Write the page's files to a folder, draw their members, and write the picture to ``path``."""
    files = re.findall(r'```python title="(.+?)"\n(.*?)```', Path(page).read_text(), re.DOTALL)
    figure = Figure(figsize=(2.6 * len(files), 2.7 * MEMBERS), layout="constrained", facecolor="white")
    axes = figure.subplots(MEMBERS, len(files))
    with tempfile.TemporaryDirectory() as folder:
        for column, (name, code) in zip(axes.T, files, strict=True):
            file = Path(folder, name)
            file.write_text(code)
            views = views_of(f"{file}:{file.stem}", Choice(members=MEMBERS, seed=SEED))
            column[0].set_title(file.stem, fontsize=11)
            for axis, view in zip(column, views, strict=True):
                axis.axis("off")
                axis.imshow(picture(view))
    save_figure(figure, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
