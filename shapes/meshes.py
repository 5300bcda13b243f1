"""A mesh is a shape, and a folder of meshes is a vocabulary.

Distances to the triangles and generalised winding numbers come from libigl; files are read by trimesh. A file's faces
may wind any way and its parts may be many: what counts is that every edge has a face on either side.
"""

import contextlib
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from scipy import sparse

from fdif_jax.errors import FdifError, unknown
from fdif_jax.extras import needing
from fdif_jax.io.files import MESHES, check_genuine, not_there, reading, write_atomic
from fdif_jax.io.nifti import LARGEST
from fdif_jax.io.remarks import remark_left_out
from fdif_jax.sdf.algebra import Scaled
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.sampled import Library, Member, Sampled, inside_box
from fdif_jax.sdf.shape import Shape
from fdif_jax.shapes.masks import Outline, outline_of_mask
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.vocabulary import Family, Range, Vocabulary

with needing("surfaces"):
    import igl
    import trimesh

MASKS = (".nii.gz", ".nii")
RESOLUTION = 48
RADIUS = Range(0.15, 0.40)  # of the grid's shortest edge, as the published spheres
SKIN = 1e-4  # of the mesh's size: how far from a face its two sides are looked at
SAME = 1e-6  # of the mesh's size: vertices that are closer are one
_FORMAT = 1  # of a cached library; counts up when the same files would give other samples
_SUBJECT = re.compile(r"^(?:\d+|[A-Za-z]+\d{3,})[_\-. ]+(?=.)")
_LEFTOVER = re.compile(r"\.nii(?:\.gz?)?(?:_\d+)?$")


def from_mesh(
    source: str | os.PathLike | trimesh.Trimesh,
    *,
    resolution: int = RESOLUTION,
    seal: bool = False,
    centred: bool = True,
) -> Sampled:
    """The shape that a closed triangle mesh encloses.

    Inside is what the surface winds around, so that faces may be inverted, parts may be many and may overlap, and a
    part within another is a cavity if its faces look the other way than its surroundings', else solid.

    Args:
        source: an .stl, .obj or .ply file, or anything with ``vertices`` and triangular ``faces``.
        resolution: samples along the longest edge, at least 8; details below one step are lost.
        seal: close holes with a fan of triangles to the middle of their rim instead of refusing them.
        centred: put the middle of the mesh's bounding box at the origin.

    Returns:
        A shape in the mesh's units and axes: at scale 1, one unit is one voxel of a scene. At the samples the
        distance is that to the triangles that are not inside.

    Raises:
        FdifError: naming the file: it is unreadable, holds no triangles or nothing finite, leaks (how many open
            edges), or encloses nothing.
    """
    outline = outline_of_mesh(source, seal=seal)
    if resolution < 8:
        raise FdifError(f"from_mesh: resolution must be at least 8 samples, not {resolution}")
    return Sampled.of(*(outline.centred() if centred else outline).sample(resolution))


def outline_of_mesh(source: Any, *, seal: bool = False) -> Outline:
    """The surface of a mesh; arguments and errors as for `from_mesh`. Its own coordinates are the mesh's."""
    vertices, faces, name = _read(source)
    vertices, faces = _closed(vertices, faces, name, seal)
    faces = _oriented(vertices, faces)
    lower, upper = vertices[faces].min(axis=(0, 1)), vertices[faces].max(axis=(0, 1))
    # A millionth of the cube around the mesh is a rounding error.
    if sum(abs(_volumes(vertices, faces, np.zeros(len(faces), int)))) < 1e-6 * np.max(upper - lower) ** 3:
        raise FdifError(f"{name}: the mesh is flat: its {len(faces)} triangles enclose no volume")

    def inside(points: np.ndarray) -> np.ndarray:
        return np.abs(igl.fast_winding_number(vertices, faces, points)) > 0.5

    # Faces with the inside on both sides, where parts overlap or touch, are no surface.
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    normal = np.cross(b - a, c - a)
    step = SKIN * np.max(upper - lower) * normal / np.maximum(np.linalg.norm(normal, axis=1), 1e-300)[:, None]
    middle = (a + b + c) / 3
    surface = faces[~(inside(middle + step) & inside(middle - step))]

    def distance(points: np.ndarray) -> np.ndarray:
        away = igl.signed_distance(points, vertices, surface, igl.SIGNED_DISTANCE_TYPE_UNSIGNED)[0]
        return np.where(inside(points), -away, away)

    return Outline(lower, upper, np.zeros(3), np.eye(3, 4), distance)


def _read(source: Any) -> tuple[np.ndarray, np.ndarray, str]:
    """Vertices ``(n, 3)`` float64, each once, faces ``(m, 3)`` int64, each once, and what to call them."""
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if not os.path.isfile(name):
            raise not_there(name)
        if not name.lower().endswith(MESHES):
            raise FdifError(f"{name}: not a mesh by its name; {', '.join(MESHES)} are read")
        with reading(name, "cannot be read as a mesh"), _quietly():
            # Files of materials and pictures that a mesh names are not read: they may lie anywhere.
            source = trimesh.load_mesh(name, process=False, skip_materials=True)
        if not len(getattr(source, "faces", ())):
            check_genuine(name)
    else:
        name = "the mesh"
    if not (hasattr(source, "vertices") and hasattr(source, "faces")):
        raise FdifError(
            f"{name}: a mesh file or vertices and faces are needed, not a {type(source).__name__}"
        )
    vertices, faces = np.asarray(source.vertices, np.float64), np.asarray(source.faces)
    if vertices.ndim != 2 or len(vertices) == 0 or faces.ndim != 2 or len(faces) == 0:
        raise FdifError(f"{name}: holds no triangles; it is empty, truncated or not a mesh")
    if vertices.shape[1] != 3 or faces.shape[1] != 3 or not 0 <= faces.min() <= faces.max() < len(vertices):
        raise FdifError(f"{name}: its faces are no triangles of its {len(vertices)} vertices")
    if not (np.abs(vertices[faces]) <= LARGEST).all():
        raise FdifError(f"{name}: has vertices that are NaN, infinite or beyond {LARGEST:g}")
    vertices, faces = _merged(vertices, faces)
    if len(faces) == 0:
        raise FdifError(f"{name}: all its triangles are degenerate: they have two corners in one place")
    return vertices, faces, name


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep trimesh from logging tracebacks, and NumPy from warning, of what is refused or repaired afterwards."""
    log = logging.getLogger("trimesh")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        log.setLevel(level)


def _merged(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh with vertices in one place made one, without degenerate faces and repeated ones."""
    used = vertices[faces]
    size = np.max(used.max(axis=(0, 1)) - used.min(axis=(0, 1)))
    cells = np.round((vertices - used.min(axis=(0, 1))) / max(SAME * size, 1e-300))
    _, first, same = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    vertices, faces = vertices[first], same.reshape(-1)[faces].astype(np.int64)
    corners = np.sort(faces, axis=1)
    proper = (corners[:, 0] < corners[:, 1]) & (corners[:, 1] < corners[:, 2])
    _, first, count = np.unique(corners[proper], axis=0, return_index=True, return_counts=True)
    once, odd = faces[proper][first], faces[proper][first[count % 2 == 1]]
    # A repeated face is a slip, unless it is the wall between two bodies that touch: then both go.
    return vertices, odd if len(_open_edges(odd)) < len(_open_edges(once)) else once


def _closed(vertices: np.ndarray, faces: np.ndarray, name: str, seal: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mesh without open edges, its patches' faces turned alike; FdifError where that is not to be had."""
    faces, _ = igl.bfs_orient(faces)
    edges = _open_edges(faces)
    if len(edges) and not seal:
        raise FdifError(
            f"{name}: the mesh leaks: {len(edges)} open edges; repair it, or seal its holes (seal=True)"
        )
    if len(edges):
        _, hole = sparse.csgraph.connected_components(
            sparse.coo_matrix((np.ones(len(edges)), edges.T), (len(vertices), len(vertices)))
        )
        rims, of = np.unique(hole[edges[:, 0]], return_inverse=True)
        middles = np.stack([vertices[edges[of == rim, 0]].mean(axis=0) for rim in range(len(rims))])
        fans = np.column_stack([edges[:, ::-1], len(vertices) + of])
        vertices, faces = np.concatenate([vertices, middles]), np.concatenate([faces, fans])
        faces, _ = igl.bfs_orient(faces)
        left = _open_edges(faces)
        if len(left):
            raise FdifError(
                f"{name}: the mesh leaks: of {len(edges)} open edges, {len(left)} cannot be sealed"
            )
    return vertices, faces


def _open_edges(faces: np.ndarray) -> np.ndarray:
    """The edges ``(k, 2)``, as their face runs along them, that have an odd number of faces."""
    runs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, count = np.unique(np.sort(runs, axis=1), axis=0, return_index=True, return_counts=True)
    return runs[first[count % 2 == 1]]


def _volumes(vertices: np.ndarray, faces: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Signed volume that each part encloses: positive where its faces look outwards."""
    a, b, c = np.moveaxis(vertices[faces] - vertices[faces].mean(axis=(0, 1)), 1, 0)
    return np.bincount(part, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6)


def _oriented(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces turned so that the outermost parts look outwards and what lies within keeps its relation to them."""
    _, part = igl.facet_components(faces)
    volumes = _volumes(vertices, faces, part)
    corner = vertices[faces[np.unique(part, return_index=True)[1], 0]]
    flip = volumes < 0
    # From small to large, so that what counts in the end is the outermost part that holds a part.
    for outer in np.argsort(np.abs(volumes)):
        around = np.abs(igl.winding_number(vertices, faces[part == outer], corner)) > 0.5
        around &= np.abs(volumes) < np.abs(volumes[outer])
        flip[around] = volumes[outer] < 0
    return np.where(flip[part][:, None], faces[:, ::-1], faces)


def vocabulary_of(
    folder: str | os.PathLike,
    *,
    resolution: int = RESOLUTION,
    seal: bool = False,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """The meshes (.stl, .obj, .ply) and masks (.nii, .nii.gz) of a folder as families, in alphabetical order.

    A file in a subfolder belongs to the family with the first subfolder's name. A file in the folder itself belongs to
    the family that its name says: without the ending, without ``.nii`` or ``.nii.g_1`` before it (as MedShapeNet has
    them) and without a leading case (digits, or letters and at least three digits): ``s0001_liver.stl`` and
    ``000123_liver.nii.g_1.stl`` are two livers, ``rib_left_1.ply`` a ``rib_left_1``.

    A random member is a file of the family, drawn evenly, and half of its longest edge is `RADIUS` of the grid's
    shortest edge. All families share one structure, and their samples one `Library`.

    Args:
        folder: where the files are, at any depth; hidden ones are left out; a remark names others that are no shapes.
        resolution: samples along each edge of a member.
        seal: see `from_mesh`.
        cache: keep the samples in the user's cache folder under the files' digest.
        progress: called with (members done, members) as the samples are computed.

    Raises:
        FdifError: the folder is missing or holds none of these files, or one of them makes no shape; naming it.
    """
    folder = Path(folder)
    if resolution < 8:
        raise FdifError(f"{folder}: resolution must be at least 8 samples, not {resolution}")
    files = _files(folder)
    digest = hashlib.sha256(f"{_FORMAT} {resolution} {seal}".encode())
    for _, name, path in files:
        digest.update(f"\0{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    library = _library(files, resolution, seal, digest.hexdigest() if cache else None, progress)
    return _vocabulary(library, [family for family, *_ in files], digest.hexdigest())


def _files(folder: Path) -> list[tuple[str, str, Path]]:
    """Family, member name (the path within the folder) and path, in alphabetical order of the first two."""
    if not folder.is_dir():
        raise FdifError(f"{folder}: no such folder")
    found, others = [], []
    for path in folder.rglob("*"):
        inner = path.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.name.lower().endswith(MESHES + MASKS) or path.is_dir():
            others.append(inner.as_posix())
        elif path.is_file():
            found.append((_family_name(inner), inner.as_posix(), path))
        else:
            raise not_there(path)
    if not found:
        raise FdifError(f"{folder}: holds no shapes; {', '.join(MESHES + MASKS)} files are looked for")
    remark_left_out(folder, sorted(others), f"no meshes or masks ({', '.join(MESHES + MASKS)})")
    return sorted(found)


def _family_name(path: Path) -> str:
    if len(path.parts) > 1:
        name = path.parts[0]
    else:
        ending = next(e for e in MESHES + MASKS if path.name.lower().endswith(e))
        name = _LEFTOVER.sub("", path.name[: -len(ending)])
        name = _SUBJECT.sub("", name)
    return "_".join(name.split())


def _library(
    files: Sequence[tuple[str, str, Path]],
    resolution: int,
    seal: bool,
    digest: str | None,
    progress: Callable[[int, int], None] | None,
) -> Library:
    names = [name for _, name, _ in files]
    stored = None
    with contextlib.suppress(RuntimeError):  # a user who has no home
        stored = Path(platformdirs.user_cache_dir("fdif-jax"), "meshes", f"{digest}.npy") if digest else None
    record = np.dtype([("values", np.float16, (resolution,) * 3), ("inverse", np.float32, (3, 4))])
    if stored and stored.is_file():
        members = np.load(stored)
    else:
        members = np.empty(len(files), record)
        for done, (_, _, path) in enumerate(files):
            if progress:
                progress(done, len(files))
            members[done] = _member(path, resolution, seal)
        if progress:
            progress(len(files), len(files))
        if stored:
            _store(stored, members)
    return Library.of(members["values"], members["inverse"], names)


def _store(path: Path, members: np.ndarray) -> None:
    data = io.BytesIO()
    np.save(data, members)
    with contextlib.suppress(OSError):  # without a cache the next time is slower, no more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data.getvalue())


def _member(path: Path, resolution: int, seal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Samples and local → index matrix of a file's shape, centred, with 1 for half of its longest edge."""
    is_mask = path.name.lower().endswith(MASKS)
    outline = outline_of_mask(path) if is_mask else outline_of_mesh(path, seal=seal)
    values, inverse = outline.sample_cube(resolution)
    with jax.ensure_compile_time_eval():
        lower, upper = (np.asarray(end) for end in inside_box(values, inverse))
    radius, centre = np.max(upper - lower) / 2, (lower + upper) / 2
    if radius <= 0:
        raise FdifError(f"{path}: is too thin to be seen at {resolution} samples an edge")
    return values / radius, np.column_stack([inverse[:, :3] * radius, inverse @ [*centre, 1]])


def _vocabulary(library: Library, families: Sequence[str], digest: str) -> Vocabulary:
    def draw(key: jax.Array, ranges: Mapping[str, Range], grid: Grid) -> Shape:
        which, size = jax.random.uniform(key, (2,))
        first, count = ranges["first"].low, ranges["count"].low
        index = first + jnp.minimum(jnp.floor(which * count), count - 1)
        return Scaled(Member(index, library), ranges["radius"].draw(size) * min(grid))

    def build(name: str, params: Mapping[str, Any]) -> Shape:
        reader = Reader(params, name)
        kind, member, scale = reader.get("kind"), reader.get("name"), reader.positive("scale")
        reader.finish()
        if kind != "member":
            raise unknown(f"kind of {name}", str(kind), ["member"])
        if member not in library.names:
            raise unknown(f"member of {name}", str(member), library.names)
        return Scaled(library.member(member), scale)

    def describe(name: str, shape: Shape) -> dict[str, Any]:
        if not (isinstance(shape, Scaled) and isinstance(shape.shape, Member)):
            raise FdifError(f"{name}: a {type(shape).__name__} is no scaled member of a library")
        member = library.names[int(shape.shape.index)]
        return {"kind": "member", "name": member, "scale": float(shape.factor)}

    def family(name: str) -> Family:
        first, count = families.index(name), families.count(name)
        ranges = {"first": Range(first, first), "count": Range(count, count), "radius": RADIUS}
        return Family(name, draw, ranges, category="sampled")

    return Vocabulary(tuple(map(family, dict.fromkeys(families))), (), (), build, describe, digest)
