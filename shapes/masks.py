"""A mask is a shape: from voxels to a signed distance, finer than the voxels.

A mask says of each voxel's centre whether it is inside; the surface lies somewhere between. The plain difference of
two Euclidean distance transforms jumps from -1 to 1 there and follows every stair. Instead:

1. Boundary voxels get a signed distance from the mask blurred by a Gaussian: a plane at distance t blurs to Φ(t/σ),
   which is inverted. It is kept between a quarter and nine tenths of the way to the nearest voxel of the other kind,
   so that no voxel changes sides and a sheet one voxel thick survives.
2. Where two neighbours lie on different sides, the line between them crosses the surface: a point and its normal, that
   is, a small disc.
3. The distance of any point is that to the nearest disc.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage, spatial, special

from fdif_jax.errors import FdifError
from fdif_jax.io.files import reading
from fdif_jax.io.labels import whole_numbers
from fdif_jax.io.nifti import in_millimetres, read_nifti
from fdif_jax.sdf.masks import extent
from fdif_jax.sdf.sampled import Sampled

SMOOTH = 0.7  # voxels; more loses corners, less leaves stairs
MARGIN = 2  # samples around the inside
SHALLOWEST, DEEPEST = 0.25, 0.9  # of the way to the nearest voxel of the other kind
DISC = 0.6  # radius of a disc, in units of the finest spacing
NEIGHBOURS = 6  # discs looked at close to the surface
CLOSE = 3  # voxels


class Outline(NamedTuple):
    """A closed surface that distances can be asked of."""

    lower: np.ndarray  # least coordinates of a box around the inside, ``(3,)``, in the outline's own x, y, z
    upper: np.ndarray  # greatest coordinates
    finest: np.ndarray  # the least step that samples may have along each axis, ``(3,)``
    frame: np.ndarray  # own coordinates → local coordinates, ``(3, 4)``
    # signed distances, local units, ``(n,)`` float64, of points ``(n, 3)`` in own coordinates
    distance: Callable[[np.ndarray], np.ndarray]

    def centred(self) -> "Outline":
        """The same with its box about the local origin."""
        frame = self.frame.copy()
        frame[:, 3] = -frame[:, :3] @ (self.lower + self.upper) / 2
        return self._replace(frame=frame)

    def sample(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Signed distances ``(D, H, W)`` float32 on a grid of about ``size`` samples along the longest edge.

        And the matrix ``(3, 4)`` from local point (x, y, z) to index (x, y, z).
        """
        scale = np.linalg.norm(self.frame[:, :3], axis=0)
        edges = self.upper - self.lower
        step = np.maximum(np.max(edges * scale) / (size - 1) / scale, self.finest)
        counts = np.ceil(edges / step - 1e-6).astype(int) + 1 + 2 * MARGIN
        return self._sample(self.lower - MARGIN * step, step, counts)

    def sample_cube(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """As `sample`, on ``size`` samples along every edge, which may lie closer along the shorter ones."""
        scale = np.linalg.norm(self.frame[:, :3], axis=0)
        edges = (self.upper - self.lower) * scale
        step = np.maximum(edges, edges.max() / 4) / scale / (size - 1 - 2 * MARGIN)
        start = (self.lower + self.upper) / 2 - step * (size - 1) / 2
        return self._sample(start, step, np.full(3, size))

    def _sample(
        self, start: np.ndarray, step: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = (np.arange(n) * s + a for n, s, a in zip(counts, step, start, strict=True))
        points = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], axis=-1)
        values = self.distance(points.reshape(-1, 3)).reshape(points.shape[:3])
        linear = np.linalg.inv(self.frame[:, :3] * step)
        offset = -linear @ (self.frame[:, :3] @ start + self.frame[:, 3])
        return values.astype(np.float32), np.column_stack([linear, offset]).astype(np.float32)


def from_mask(
    source: str | os.PathLike | nib.spatialimages.SpatialImage | np.ndarray,
    *,
    label: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    smooth: float = SMOOTH,
    resolution: int = 128,
    centred: bool = True,
) -> Sampled:
    """The shape of a mask, or of one label of a label map.

    The surface lies between the voxel centres, within half a voxel of where it was before it was cut into voxels.
    What touches the volume's edge ends half a voxel beyond it.

    Args:
        source: a NIfTI file, a nibabel image, or an array ``(D, H, W)`` of bools or whole numbers.
        label: the number that is inside; None for all that are not zero.
        spacing: for an array, the distance of neighbouring voxels along its axes z, y, x; 1 by default. Files and
            images bring their affine, turned and sheared ones too.
        smooth: standard deviation, in voxels, of the blur that finds the surface between the voxels; 0 puts it
            midway between them and keeps every stair.
        resolution: greatest number of samples along the longest edge; a larger mask is sampled more coarsely.
        centred: put the middle of the mask's bounding box at the origin. Otherwise the origin is an array's middle
            voxel ``n // 2``, as in a `Grid`, or that of the image's scanner.

    Returns:
        A shape whose unit is that of ``spacing`` (an array) or the millimetre (a file or an image): at scale 1,
        one voxel of a scene. x, y, z are an array's last, middle and first axis, and an image's scanner axes.

    Raises:
        FdifError: naming the file: it is unreadable, not 3D, holds NaN or fractions, lacks the label, or is all or
            nowhere inside; or an argument is out of its range.
    """
    if resolution < 8:
        raise FdifError(f"from_mask: resolution must be at least 8 samples, not {resolution}")
    outline = outline_of_mask(source, label=label, spacing=spacing, smooth=smooth)
    return Sampled.of(*(outline.centred() if centred else outline).sample(resolution))


def outline_of_mask(
    source: Any,
    *,
    label: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    smooth: float = SMOOTH,
) -> Outline:
    """The surface of a mask; arguments and errors as for `from_mask`. Its own coordinates are voxel indices."""
    if not 0 <= smooth <= 5:
        raise FdifError(f"from_mask: smooth must be 0 … 5 voxels, not {smooth:g}")
    array, affine, name = _read(source, spacing)
    mask = _choose(array, label, name)
    border = 2 + int(np.ceil(4 * max(smooth, 1.0)))  # what the blur reaches
    ends = extent(mask)
    depth = _depth(np.pad(mask[tuple(map(slice, *ends))], border), affine[:, :3], smooth)
    first, stop = (along[::-1] for along in ends)  # of x, y, z
    discs = _discs(*depth, affine[:, :3])
    start = first - border

    def distance(points: np.ndarray) -> np.ndarray:
        local = points - start
        inside = ndimage.map_coordinates(depth[0], local.T[::-1], order=1, mode="nearest") < 0
        away = discs.distance(local @ affine[:, :3].T)
        return np.where(inside, -away, away)

    return Outline(first - 1.0, stop.astype(float), np.ones(3), affine, distance)


def _read(source: Any, spacing: tuple[float, float, float] | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Voxels ``[z, y, x]``, index (x, y, z) → local ``(3, 4)``, and what to call the source."""
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        array, name = np.asarray(source), "the mask"
        steps = np.asarray((1.0, 1.0, 1.0) if spacing is None else spacing, np.float64)
        if steps.shape != (3,) or not np.isfinite(steps).all() or steps.min() <= 0:
            raise FdifError(f"from_mask: spacing must be three numbers above 0 (z, y, x), not {spacing}")
        if array.ndim != 3:
            raise FdifError(f"{name}: shape {array.shape}; a volume of 3 axes is needed")
        centre = np.array(array.shape) // 2
        return array, np.column_stack([np.diag(steps[::-1]), -(steps * centre)[::-1]]), name
    if spacing is not None:
        raise FdifError("from_mask: spacing is for arrays; a file or an image brings its own")
    if isinstance(source, nib.spatialimages.SpatialImage):
        name = source.get_filename() or "the image"
        with reading(name, "damaged image"):
            array, affine = np.asarray(source.dataobj), source.affine
        if array.ndim != 3:
            raise FdifError(f"{name}: shape {array.shape}; a volume of 3 axes is needed")
        if affine is None:
            raise FdifError(f"{name}: it has no affine, by which its voxels would be of a size")
        return array.T, in_millimetres(name, source.header, affine)[:3], name
    if not isinstance(source, str | os.PathLike):
        raise FdifError(
            f"from_mask: a NIfTI file, a nibabel image or an array is needed, not a {type(source).__name__}"
        )
    volume = read_nifti(source)
    return volume.array.T, volume.affine[:3], os.fspath(source)


def _choose(array: np.ndarray, label: int | None, name: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise FdifError(f"{name}: voxels of type {array.dtype}; bools or whole numbers are needed")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FdifError(f"{name}: holds NaN or infinity; a mask holds whole numbers")
    array = whole_numbers(name, array)
    mask = array != 0 if label is None else array == label
    inside = int(np.count_nonzero(mask))
    if inside in (0, mask.size):
        which = "not zero" if label is None else f"labelled {label}"
        there = ", ".join(f"{value:g}" for value in np.unique(array)[:12])
        many = "no voxel is" if inside == 0 else "every voxel is"
        raise FdifError(f"{name}: {many} {which}, so there is no surface; it holds {there}")
    return mask


def _depth(mask: np.ndarray, linear: np.ndarray, smooth: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances that are right next to the surface, negative inside, and the direction outwards ``(…, 3)``."""
    spacing = np.linalg.norm(linear, axis=0)[::-1]
    other = ndimage.distance_transform_edt(mask, spacing) + ndimage.distance_transform_edt(~mask, spacing)
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), max(smooth, 1.0), mode="constant")
    outwards = -np.stack(np.gradient(blurred)[::-1], axis=-1) @ np.linalg.inv(linear)
    outwards /= np.maximum(np.linalg.norm(outwards, axis=-1, keepdims=True), 1e-9)
    away = other / 2
    if smooth > 0:
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), smooth, mode="constant")
        width = smooth * np.linalg.norm(outwards @ linear, axis=-1)
        steps = width * special.ndtri(np.clip(blurred, 1e-4, 1 - 1e-4))
        away = np.clip(np.where(mask, steps, -steps), SHALLOWEST * other, DEEPEST * other)
    return np.where(mask, -away, away).astype(np.float32), outwards


class _Discs:
    """Small discs on a surface, in local units."""

    def __init__(self, points: np.ndarray, normals: np.ndarray, radius: float, close: float) -> None:
        self.points, self.normals, self.radius, self.close = points, normals, radius, close
        self.tree = spatial.cKDTree(points)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Distance ``(n,)`` to the nearest disc, which far from all is the one with the nearest centre."""
        away, nearest = self.tree.query(points, workers=-1)
        distance = self._to(points, nearest)
        close = away < self.close
        count = min(NEIGHBOURS, len(self.points))
        _, several = self.tree.query(points[close], np.arange(1, count + 1), workers=-1)
        distance[close] = self._to(points[close, None], several).min(axis=1)
        return distance

    def _to(self, points: np.ndarray, discs: np.ndarray) -> np.ndarray:
        offset = points - self.points[discs]
        across = np.sum(offset * self.normals[discs], axis=-1)
        along = np.sqrt(np.maximum(np.sum(offset**2, axis=-1) - across**2, 0))
        return np.hypot(across, np.maximum(along - self.radius, 0))


def _discs(depth: np.ndarray, outwards: np.ndarray, linear: np.ndarray) -> _Discs:
    """Where the lines between neighbouring voxels cross the surface."""
    points, normals = [], []
    for axis in range(3):
        one, next_ = (tuple(slice(a, b) if k == axis else slice(None) for k in range(3)) for a, b in _PAIR)
        index = np.argwhere((depth[one] < 0) != (depth[next_] < 0))
        at, beyond = depth[one][tuple(index.T)], depth[next_][tuple(index.T)]
        part = at / (at - beyond)
        crossing = index.astype(np.float64)
        crossing[:, axis] += part
        normal = (1 - part)[:, None] * outwards[one][tuple(index.T)]
        normal += part[:, None] * outwards[next_][tuple(index.T)]
        # In the middle of a thin sheet the blur has no direction; the line's own is as good.
        normal[np.linalg.norm(normal, axis=1) < 1e-3] = linear[:, 2 - axis]
        points.append(crossing[:, ::-1] @ linear.T)
        normals.append(normal / np.linalg.norm(normal, axis=1, keepdims=True))
    spacing = np.linalg.norm(linear, axis=0)
    return _Discs(
        np.concatenate(points), np.concatenate(normals), DISC * spacing.min(), CLOSE * spacing.max()
    )


_PAIR = ((0, -1), (1, None))  # a voxel and the next one along an axis
