"""Look at a shape, a scene or a case: a lit picture, three slices, and a page with a mesh to turn.

TARGET is a class (torus, published:torus), a family or a shape of your own file (my_shapes.py:pebble) or all of them
(my_shapes.py), a shape that was saved (.json, .stl), a scene document (.json), a dataset (its folder or list), or a
label map (.nii.gz). Of a shape torus.png, torus_slices.png and torus.html are written; of several members, families or
shapes one picture with all of them.

Example:
    fdif view torus --seed 3 --displacement ridge
    fdif view my_shapes.py --out views --watch
    fdif view scenes.json --case 2
    fdif view DATASET --case hippocampus_001 --mesh hippocampus.stl
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import make_folder, write_atomic
from fdif_jax.io.names import safe_name
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs.view_targets import Choice, Thing, View, views_of
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.viewing import viz
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import check_mesh_name, page_of, write_mesh
from fdif_jax.viewing.tracing import Colour, trace
from fdif_jax.viewing.view_pictures import encode, save_sheet, save_slices

with needing("surfaces"):
    import trimesh

POLL = 0.3  # seconds between looks at a watched file
SHEET_COLUMNS = 4
FEW = 4  # shapes in a page, at most, whose meshes are as fine as their samples
PICTURE, SMALL_PICTURE = 512, 256  # pixels


@dataclass(frozen=True, kw_only=True)
class Config(Choice):
    """Options of `fdif view`."""

    target: Positional[str]
    """What to look at."""
    out: Path = Path("view")
    """Folder to write to; or a .png, beside which the page and the slices are written under its name."""
    size: int | None = None
    """Pixels along each edge of a picture; 512, or 256 for each of several."""
    azimuth: float = 30.0
    """Degrees by which the eye is turned about z; at 0 it sees x to the right and y going away."""
    elevation: float = 25.0
    """Degrees by which the eye is above the x-y plane."""
    field_of_view: float = 20.0
    """Degrees between the edges of a picture; 0 for parallel rays, in which lengths can be compared."""
    mesh: Path | None = None
    """Mesh to write: .stl, .ply or .obj; in millimetres, a voxel of 1 mm where there is no spacing."""
    watch: bool = False
    """Draw again whenever the file is saved, until interrupted."""


def run(config: Config) -> None:
    """Draw once, or again and again."""
    _check(config)
    if not config.watch:
        draw(config)
        return
    file, found, _ = config.target.partition(".py:")
    with contextlib.suppress(KeyboardInterrupt):
        for _ in _saves(Path(f"{file}.py" if found else file)):
            try:
                draw(config)
            except FdifError as error:
                print(f"fdif view: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def _check(config: Config) -> None:
    check_least(config, size=16, members=1, resolution=16, seed=0)
    if min(config.grid) < 2:
        raise FdifError(f"--grid must be three numbers of at least 2, not {' '.join(map(str, config.grid))}")
    if not 0 <= config.field_of_view < 150:
        raise FdifError(f"--field-of-view must be from 0 to below 150 degrees, not {config.field_of_view:g}")
    if not -90 <= config.elevation <= 90:
        raise FdifError(f"--elevation must be from -90 to 90 degrees, not {config.elevation:g}")
    if config.mesh is not None:
        check_mesh_name(config.mesh)


def _saves(path: Path) -> Iterator[None]:
    """Yields now, and whenever the file has been saved."""
    if not path.is_file():
        raise FdifError(f"--watch: {path} is no file; a file of shapes or of scenes can be watched")
    seen = None
    while True:
        with contextlib.suppress(FileNotFoundError):  # some editors replace the file
            stamp = path.stat().st_mtime_ns
            if stamp != seen:
                seen = stamp
                yield
        time.sleep(POLL)


def draw(config: Config) -> None:
    """Write all pictures of the target, the page, and the mesh if one is wanted."""
    began = time.perf_counter()
    views = views_of(config.target, config)
    path = _picture_path(config, views)
    make_folder(path.parent)
    written = _write_one(config, views[0], path) if len(views) == 1 else _write_sheet(config, views, path)
    print(f"{', '.join(map(str, written))} ({time.perf_counter() - began:.1f} s)", flush=True)


def _picture_path(config: Config, views: Sequence[View]) -> Path:
    if config.out.suffix.lower() == ".png":
        return config.out
    single = len({view.name for view in views}) == 1
    name = views[0].name if single else Path(config.target).stem
    return config.out / f"{safe_name('_'.join(name.split())) or 'view'}.png"


def _camera(config: Config, points: np.ndarray) -> Camera:
    return Camera.around(points, config.azimuth, config.elevation, config.field_of_view)


def _picture(config: Config, view: View, size: int) -> np.ndarray:
    camera = _camera(config, np.concatenate([thing.samples.outline for thing in view.things]))
    return trace(view.solids(camera), camera, size).colours


def _meshes(things: Sequence[Thing]) -> list[tuple[str, trimesh.Trimesh]]:
    few = len(things) <= FEW
    return [
        (f"{i} {samples.name}", (samples if few else samples.coarser()).mesh(colour))
        for i, (samples, colour) in enumerate(things)
    ]


def _write_one(config: Config, view: View, path: Path) -> list[Path]:
    write_atomic(path, encode(_picture(config, view, config.size or PICTURE)))
    slices = path.with_name(f"{path.stem}_slices.png")
    if view.volume:
        image, label, names = view.volume
        viz.save_slices(image, label, slices, names, title=view.title, spacing=view.spacing)
    else:
        parts = view.things if view.whole else ()
        save_slices(view.whole or view.things[0].samples, slices, view.mapper, parts)
    return [
        path,
        slices,
        *_write_meshes(config, path, _meshes(view.things), view.title, view.caption, view.legend),
    ]


def _write_sheet(config: Config, views: Sequence[View], path: Path) -> list[Path]:
    pictures = [(view.title, _picture(config, view, config.size or SMALL_PICTURE)) for view in views]
    columns = min(config.members or SHEET_COLUMNS, len(views))
    save_sheet(pictures, columns, path)
    title = f"{config.target}: {len(views)} shapes"
    return [path, *_write_meshes(config, path, _side_by_side(config, views, columns), title, (), {})]


def _side_by_side(config: Config, views: Sequence[View], columns: int) -> list[tuple[str, trimesh.Trimesh]]:
    """The meshes of views of one thing each, laid out as the eye sees them in a sheet."""
    meshes = _meshes([view.things[0] for view in views])
    extent = 1.2 * max(np.linalg.norm(mesh.extents) for _, mesh in meshes)
    right, up, _ = Camera((0.0, 0.0, 0.0), 1.0, config.azimuth, config.elevation).axes
    for number, (_, mesh) in enumerate(meshes):
        row, column = divmod(number, columns)
        mesh.apply_translation(extent * (column * right - row * up) - mesh.bounds.mean(axis=0))
    return meshes


def _write_meshes(
    config: Config,
    path: Path,
    meshes: Sequence[tuple[str, trimesh.Trimesh]],
    title: str,
    caption: Sequence[str],
    legend: Mapping[str, Colour],
) -> list[Path]:
    camera = _camera(config, np.concatenate([mesh.vertices for _, mesh in meshes]))
    page = path.with_suffix(".html")
    write_atomic(page, page_of(meshes, camera, title, caption, legend).encode())
    if config.mesh is None:
        return [page]
    make_folder(config.mesh.parent)
    write_mesh(config.mesh, [mesh for _, mesh in meshes])
    return [page, config.mesh]


if __name__ == "__main__":
    cli.run("view")
