"""Draw the pictures of docs/algebra.md: of every line of code in its tables, one.

Example:
    python docs/make_algebra.py docs
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fdif_jax as fd
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Region, Samples
from fdif_jax.viewing.tracing import trace

REACH = 27.0  # voxels from the middle of a picture to its edge
PIXELS = 162
CAMERA = Camera(target=(0.0, 0.0, 0.0), half=REACH)
COLOUR = (0.36, 0.6, 0.86)


def lines(page: str) -> Iterator[tuple[str, str]]:
    """The picture's path and the code of every row."""
    for path, code in re.findall(r"^\| !\[\]\((.+?)\) \| `(.+?)` \|", page, re.MULTILINE):
        yield path, code.replace("\\|", "|")


def names(page: str) -> dict[str, Any]:
    """What the page's code begins with."""
    made: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, made)
    return made


def picture(thing: Any) -> np.ndarray:
    """A shape lit, or a slice of an image, ``(PIXELS, PIXELS, 4)``, 0 … 1; transparent beside the shape."""
    if isinstance(thing, fd.Shape):
        around = np.full(3, REACH, np.float32)
        samples = Samples.of(thing, Region(-around, around), 64, "shape")
        assert samples is not None
        traced = trace([samples.solid(COLOUR)], CAMERA, PIXELS, floor=False)
        return np.dstack([traced.colours / 255, traced.coverage])
    edge = int(2 * REACH)
    grey = np.asarray(thing(fd.Grid(1, edge, edge).points()))[0] / 128
    grey = np.kron(grey, np.ones((PIXELS // edge, PIXELS // edge)))
    return np.dstack([grey, grey, grey, np.ones_like(grey)])


def main(folder: str) -> None:
    """Draw all pictures and write them beside the page."""
    page = Path(folder, "algebra.md").read_text()
    known = names(page)
    for path, code in lines(page):
        out = Path(folder, path)
        out.parent.mkdir(exist_ok=True)
        # In 64 levels a channel: half as many bytes, and nothing that an eye sees.
        drawn = np.rint(np.clip(picture(eval(code, known)), 0, 1) * 63) * (255 / 63)
        Image.fromarray(drawn.astype(np.uint8)).save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
