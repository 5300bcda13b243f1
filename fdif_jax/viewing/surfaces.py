"""From a shape to where it is and to its surface: samples on a grid, meshes by marching cubes, files and pages of them.

The meshes are scikit-image's (Lewiner's marching cubes); files and the page's viewer (three.js) are trimesh's.
"""

import dataclasses
import functools
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import MESHES, write_atomic
from fdif_jax.sdf.masks import extent
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.sampled import Sampled
from fdif_jax.sdf.shape import Distance, Point, Shape
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.tracing import Colour, Region, Solid, as_arrays

with needing("surfaces"):
    import trimesh
    from skimage.measure import marching_cubes
    from trimesh.viewer.notebook import scene_to_html
    from trimesh.visual.material import PBRMaterial

ROOM = 0.06  # around a shape, over the edges of its box
STEEPEST = 4.0
# Of a colour: what the viewer's lamp, which is over-bright, shows, and what is always seen.
_LAMP, _GLOW = 0.48, 0.15
_WORDS = (
    "position:absolute;margin:.6em;padding:.4em;max-width:60em;font:13px/1.5 sans-serif;"
    "color:#333;background:rgba(255,255,255,.75);pointer-events:none"
)
_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # as glTF and three.js have it


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A shape's distances on a grid around it."""

    name: str  # what the shape is called
    shape: Shape  # the shape
    values: np.ndarray  # signed distances ``(n, n, n)``, indexed [z, y, x], float32
    region: Region  # the box whose corners the outermost samples lie on, float32

    @classmethod
    def of(cls, shape: Shape, within: Region, resolution: int, name: str) -> "Samples | None":
        """Samples of the part of a shape that lies in a finite box; None where none of it does.

        The shape is looked for on a coarse mesh of the box, or of the shape's own bounds where these are smaller: what
        is thinner than a cell of it is found if its distances do not overestimate. ``resolution`` is samples along each
        edge, ``name`` what errors call the shape.

        Raises:
            FdifError: a distance or the shape's bounds are NaN, or the bounds cannot be computed.
        """
        start = _common(within, bounds_of(shape, name))
        if not (start.lower < start.upper).all():
            return None
        shape = as_arrays(shape)
        coarse = cls(name, shape, _evaluated(shape, start, resolution, name), start)
        cell = coarse.step
        near = coarse.values <= np.linalg.norm(cell) / 2
        if not near.any():
            return None
        around = coarse._around(near)
        room = cell + ROOM * (around.upper - around.lower)
        region = _common(within, Region(around.lower - room, around.upper + room))
        fine = cls(name, shape, _evaluated(shape, region, resolution, name), region)
        return fine if (fine.values < 0).any() else None

    @property
    def step(self) -> np.ndarray:
        """Distance of neighbouring samples along x, y, z."""
        return (self.region.upper - self.region.lower) / (len(self.values) - 1)

    @functools.cached_property
    def box(self) -> Region:
        """A box around the inside, float32, at most a step too large."""
        around = self._around(self.values <= 0)
        return _common(self.region, Region(around.lower - self.step, around.upper + self.step))

    @property
    def outline(self) -> np.ndarray:
        """Points ``(n, 3)`` whose convex hull is that of the inside, within a step."""
        inside = self.values <= 0
        rows = inside.any(axis=2)
        first, last = inside.argmax(axis=2), inside.shape[2] - 1 - inside[:, :, ::-1].argmax(axis=2)
        z, y = np.nonzero(rows)
        x = np.concatenate([first[rows] - 1, last[rows] + 1])
        return self.region.lower + self.step * np.stack([x, np.tile(y, 2), np.tile(z, 2)], axis=1)

    @functools.cached_property
    def slope(self) -> float:
        """How steep the distance is near the surface, within 1 … 4; 1 for a true distance."""
        close = abs(self.values) < 3 * self.step.max()
        gradient = np.gradient(self.values, *self.step[::-1].tolist())
        steepness = np.sqrt(sum(np.square(component[close]) for component in gradient))
        return float(np.clip(np.quantile(steepness, 0.99), 1.0, STEEPEST)) if close.any() else 1.0

    @property
    def middle(self) -> np.ndarray:
        """The middle of the inside, x, y, z ``(3,)``."""
        index = np.argwhere(self.values <= 0).mean(axis=0)[::-1]
        return self.region.lower + self.step * index.astype(np.float32)

    def slices(self, count: int, middle: np.ndarray) -> np.ndarray:
        """The distance in three planes through a point, ``(3, count, count)``.

        In order they are at its z, indexed [y, x], at its y, [z, x], and at its x, [z, y], from corner to corner of the
        region.
        """
        return np.asarray(_slices(self.shape, self.region, middle, count))

    def solid(self, colour: Colour) -> Solid:
        """The shape, to be traced."""
        slope = self.slope if self.slope > 1.02 else 1.0
        return Solid(self.name, self.shape, self.box, colour, slope)

    def interpolated(self) -> "Samples":
        """The same of the shape that is linear between the samples; all such shapes share one structure."""
        linear = np.diag(1 / self.step)
        inverse = np.column_stack([linear, -linear @ self.region.lower])
        return dataclasses.replace(self, shape=Sampled.of(self.values, inverse))

    def parts(self) -> dict[str, "Samples"]:
        """What each part of a shape of `parts` shows, linear between its samples, by name; under "" one of one label.

        Parts that others hide from every sample are left out.
        """
        if not isinstance(self.shape, Parts):
            return {"": self.interpolated()}
        every = [_evaluated(part, self.region, len(self.values), self.name) for part in self.shape.shapes]
        found, later = {}, np.full_like(self.values, np.inf)
        for name, own in reversed(list(zip(self.shape.names, every, strict=True))):
            found[name] = dataclasses.replace(
                self, name=f"{self.name}.{name}", values=np.maximum(own, -later)
            ).interpolated()
            later = np.minimum(later, own)
        return {name: found[name] for name in self.shape.names if (found[name].values < 0).any()}

    def coarser(self) -> "Samples":
        """The same with every second sample along each axis, or as it is where these would miss the inside."""
        values = self.values[::2, ::2, ::2]
        if not (values < 0).any():
            return self
        upper = self.region.lower + 2 * self.step * (len(values) - 1)
        region = Region(self.region.lower, upper.astype(np.float32))
        return dataclasses.replace(self, values=values, region=region)

    def mesh(self, colour: Colour) -> trimesh.Trimesh:
        """The surface, closed where the region cuts it, vertices in the shape's units, faces looking outwards."""
        outside = np.pad(self.values, 1, constant_values=float(self.step.max()))
        # In index order [z, y, x] the faces of an ascending field look outwards; reversing the axes turns them round.
        vertices, faces, normals, _ = marching_cubes(outside, 0.0, gradient_direction="ascent")
        at = self.region.lower + (vertices[:, ::-1] - 1) * self.step
        at = np.clip(at, self.region.lower, self.region.upper)
        return trimesh.Trimesh(
            at,
            faces,
            vertex_normals=-normals[:, ::-1],
            vertex_colors=np.tile([*_bytes(colour), 255], (len(at), 1)).astype(np.uint8),
            process=False,
        )

    def _around(self, chosen: np.ndarray) -> Region:
        """The box of the chosen samples' positions."""
        first, stop = (ends[::-1].astype(np.float32) for ends in extent(chosen))  # of x, y, z
        return Region(self.region.lower + first * self.step, self.region.lower + (stop - 1) * self.step)


def bounds_of(shape: Shape, name: str) -> Region:
    """A shape's own bounds, on the host; FdifError, which calls it ``name``, if they are NaN or cannot be computed."""
    try:
        bounds = shape.bounds()
    except Exception as error:  # a user's code may raise anything
        raise FdifError(f"{name}: its bounds() fails: {type(error).__name__}: {error}") from error
    if np.isnan([*bounds.lower, *bounds.upper]).any():
        raise FdifError(f"{name}: its bounds are NaN, as a parameter of it will be")
    return Region(np.asarray(bounds.lower, np.float32), np.asarray(bounds.upper, np.float32))


def _bytes(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (round(255 * c) for c in colour)
    return red, green, blue


def _common(a: Region, b: Region) -> Region:
    return Region(
        np.maximum(a.lower, b.lower).astype(np.float32), np.minimum(a.upper, b.upper).astype(np.float32)
    )


def _evaluated(shape: Shape, box: Region, resolution: int, name: str) -> np.ndarray:
    values = np.asarray(_values(shape, box, resolution))
    if np.isnan(values).any():
        index = np.argwhere(np.isnan(values))[0][::-1]
        at = box.lower + index * (box.upper - box.lower) / (resolution - 1)
        raise FdifError(f"{name}: its distance is NaN at x, y, z = {', '.join(f'{c:.4g}' for c in at)}")
    return values


@functools.partial(jax.jit, static_argnums=2)
def _values(shape: Shape, box: Region, resolution: int) -> Distance:
    x, y, z = (jnp.linspace(a, b, resolution) for a, b in zip(*box, strict=True))
    values = shape(Point(x[None, None, :], y[None, :, None], z[:, None, None]))
    return jnp.broadcast_to(values, (resolution,) * 3)


@functools.partial(jax.jit, static_argnums=3)
def _slices(shape: Shape, box: Region, middle: jax.Array, count: int) -> Distance:
    x, y, z = (jnp.linspace(a, b, count) for a, b in zip(*box, strict=True))
    same = jnp.zeros((count, count))
    across = [x[None, :] + same, x[None, :] + same, middle[0] + same]
    along = [y[:, None] + same, middle[1] + same, y[None, :] + same]
    upwards = [middle[2] + same, z[:, None] + same, z[:, None] + same]
    return shape(Point(*(jnp.stack(planes) for planes in (across, along, upwards))))


def write_mesh(path: str | os.PathLike, meshes: Sequence[trimesh.Trimesh]) -> None:
    """Write meshes as one, in the format (.stl, .ply, .obj) that the name ends in; whole or not at all."""
    kind = check_mesh_name(path)
    whole: Any = trimesh.util.concatenate(list(meshes))
    data = whole.export(file_type=kind)
    write_atomic(path, data.encode() if isinstance(data, str) else data)


def check_mesh_name(path: str | os.PathLike) -> str:
    """``"stl"``, ``"ply"`` or ``"obj"``, by the name's ending; FdifError for another."""
    ending = Path(path).suffix.lower()
    if ending not in MESHES:
        raise FdifError(f"{path}: a mesh's name ends in {', '.join(MESHES)}")
    return ending[1:]


def page_of(
    meshes: Sequence[tuple[str, trimesh.Trimesh]],
    camera: Camera,
    title: str,
    caption: Sequence[str] = (),
    legend: Mapping[str, Colour] = MappingProxyType({}),
) -> str:
    """An HTML page that shows named meshes to be turned with the mouse; it needs nothing but itself.

    The ``camera`` gives the first view; lines of a ``caption`` stand below the title, and below them a ``legend`` of
    names and colours.
    """
    scene = trimesh.Scene()
    for name, mesh in meshes:
        shown = mesh.copy().apply_transform(_Y_UP)
        # Without a material glTF takes bare vertices for polished metal.
        visual: Any = mesh.visual
        colour = visual.vertex_colors[0, :3] / 255
        material = PBRMaterial(
            baseColorFactor=[*(_LAMP * colour), 1.0],
            emissiveFactor=_GLOW * colour,
            metallicFactor=0.0,
            roughnessFactor=0.8,
        )
        shown.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(shown, geom_name=name)
    field = camera.field_of_view or 20.0
    distance = camera.half / np.tan(np.deg2rad(field) / 2)
    pose = np.eye(4)
    pose[:3, :3] = camera.axes.T
    pose[:3, 3] = np.asarray(camera.target) + distance * camera.axes[2]
    scene.camera = trimesh.scene.Camera(
        fov=(field, field), resolution=(800, 800), z_near=distance / 100, z_far=distance * 10
    )
    scene.camera_transform = _Y_UP @ pose
    words = "".join(f"<div>{html.escape(line)}</div>" for line in caption)
    marks = (
        f'<span style="color:rgb{_bytes(c)}">■</span>&nbsp;{html.escape(name)} ' for name, c in legend.items()
    )
    words += f"<div>{''.join(marks)}</div>"
    heading = html.escape(title)
    words = (
        f'<div id="words" style="{_WORDS}"><b>{heading}</b>{words}<div>drag: turn · wheel: zoom</div></div>'
    )
    page = scene_to_html(scene)
    for old, new in (
        ("<title>trimesh: threejs viewer</title>", f"<title>{heading}</title>"),
        ('<div id="container"></div>', f'{words}<div id="container"></div>'),
    ):
        page = page.replace(old, new, 1)
    return page
