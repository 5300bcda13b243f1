"""Shapes as meshes, pictures and pages in a line of Python: what `fdif view` makes of files, of objects at hand.

What this stands on takes a second to import, and is imported when asked for.
"""

import html
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.files import write_atomic
from fdif_jax.sdf import arguments
from fdif_jax.sdf.lifts import extrude
from fdif_jax.sdf.shape import Profile, Shape, as_shape, method, profile_method
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.tracing import Region, trace

if TYPE_CHECKING:
    import trimesh

    from fdif_jax.viewing.surfaces import Samples

REACH, HALF = 144.0, 48.0  # where a shape without bounds is looked for, and one without end is cut, ± voxels
_SEARCH = 64  # samples along each edge of what is only traced
_FIELD_OF_VIEW = 20.0
_FRAME = "width:100%;height:28em;border:0"


@method
def mesh(shape: Shape, resolution: int = 128, box: Any = None) -> "trimesh.Trimesh":
    """The surface of a shape by marching cubes, faces looking outwards, vertices in voxels; watertight.

    Args:
        shape: a shape.
        resolution: samples along each edge of the shape's box, at least 8.
        box: a `Box`, or two points (lower, upper), to which the shape is cut; None for all of it.

    Raises:
        FdifError: nothing of the shape is in the box, all of the box is in the shape, or without a box it has no end.
    """
    samples = _sampled("mesh", as_shape("mesh", "shape", shape), resolution, box)
    if box is None and _is_cut(samples):
        raise FdifError(
            f"mesh: the {samples.name} goes on beyond the box {_words(samples.region)}; "
            "say where to cut it, as box=((-48, -48, -48), (48, 48, 48))"
        )
    return samples.mesh(_colour(0))


@profile_method
@method
def picture(
    shape: Shape | Profile, size: int = 320, azimuth: float = 30.0, elevation: float = 25.0
) -> np.ndarray:
    """A picture of a shape, lit, uint8 ``(size, size, 3)``; of a profile, one of its prism.

    What goes on without end is cut at ± 48 voxels. The program is compiled once for each structure of shapes.

    Args:
        shape: a shape or a profile.
        size: pixels along each edge, at least 16.
        azimuth: degrees by which the eye is turned about z; at 0 it sees x to the right and y going away.
        elevation: degrees by which the eye is above the x-y plane.

    Raises:
        FdifError: nothing of the shape is to be seen.
    """
    samples = _seen("picture", shape, _SEARCH)
    size = arguments.count("picture", "size", size, least=16)
    camera = Camera.around(samples.outline, azimuth, elevation, _FIELD_OF_VIEW)
    return trace([samples.solid(_colour(0))], camera, size).colours


@profile_method
@method
def _repr_png_(shape: Shape | Profile) -> bytes | None:
    """The picture by which notebooks show an object; None, for its text, where none can be made (of a batch)."""
    from fdif_jax.viewing.view_pictures import encode

    try:
        return encode(picture(shape))
    except Exception:  # a user's code may raise anything, and a notebook would print all of it
        return None


@profile_method
@method
def show(*shapes: Shape | Profile, resolution: int = 96) -> None:
    """Show shapes, or the prisms of profiles, to be turned with the mouse: in a notebook, else in the web browser.

    Meshes have ``resolution`` samples along each edge. Where there is no browser, the page's path is printed.

    Raises:
        FdifError: no shape, or nothing of one is to be seen.
    """
    from fdif_jax.viewing.surfaces import page_of

    given = arguments.flat(shapes)
    if not given:
        raise FdifError("show: there is no shape; give some, one by one or in a list")
    seen = [_seen("show", shape, resolution) for shape in given]
    meshes = [(f"{i} {one.name}", one.mesh(_colour(i))) for i, one in enumerate(seen)]
    camera = Camera.around(np.concatenate([one.outline for one in seen]), field_of_view=_FIELD_OF_VIEW)
    page = page_of(meshes, camera, ", ".join(one.name for one in seen))
    ipython: Any = sys.modules.get("IPython")
    if ipython and hasattr(ipython.get_ipython(), "kernel"):
        from IPython.display import HTML, display

        display(HTML(f'<div><iframe srcdoc="{html.escape(page)}" style="{_FRAME}"></iframe></div>'))
        return
    path = Path(tempfile.mkdtemp(prefix="fdif-"), "shapes.html")
    write_atomic(path, page.encode())
    if not webbrowser.open(path.as_uri()):
        print(path)


def _seen(of: str, thing: Any, resolution: int) -> "Samples":
    """Samples of a shape, or of the prism of a profile, cut where it has no end."""
    if isinstance(thing, Profile):
        radius = float(thing.radius())
        thing = extrude(thing, (radius if np.isfinite(radius) else HALF) / 4)
    samples = _sampled(of, as_shape(of, "shape", thing), resolution, None)
    if _is_cut(samples):
        samples = _sampled(of, thing, resolution, ((-HALF,) * 3, (HALF,) * 3))
    return samples


def _sampled(of: str, shape: Shape, resolution: int, box: Any) -> "Samples":
    """Samples of what of a shape lies in a box; None for its bounds, and ± `REACH` where it has none."""
    from fdif_jax.viewing.surfaces import ROOM, Samples, bounds_of

    name, resolution = type(shape).__name__, arguments.count(of, "resolution", resolution, least=8)
    if box is None:
        lower, upper = bounds_of(shape, name)
        room = np.nan_to_num(ROOM * (upper - lower), posinf=0.0)
        lower, upper = np.nan_to_num(lower - room, neginf=-REACH), np.nan_to_num(upper + room, posinf=REACH)
        within = Region(lower, upper)
    else:
        within = Region(*(np.asarray(end) for end in arguments.box(of, "box", box)))
    samples = Samples.of(shape, within, resolution, name)
    if samples is None:
        raise FdifError(
            f"{of}: nothing of the {name} is seen in the box {_words(within)} at {resolution} samples an edge"
        )
    if (samples.values < 0).all():
        raise FdifError(f"{of}: the {name} fills the box {_words(within)}; its surface is beyond")
    return samples


def _is_cut(samples: "Samples") -> bool:
    """Whether a shape goes on beyond the region of its samples."""
    inside = samples.values <= 0
    return any(side.any() for axis in range(3) for side in (inside.take(0, axis), inside.take(-1, axis)))


def _words(box: Region) -> str:
    return " … ".join(f"({', '.join(f'{c:g}' for c in end)})" for end in box)


def _colour(number: int) -> tuple[float, float, float]:
    from fdif_jax.viewing.view_pictures import colour_of

    return colour_of(number + 1)
