"""Pictures of shapes by sphere tracing.

A ray walks from where it enters a shape's box by steps as long as the distance there, which cannot pass the surface.
Distances here need not be true ones. Where they are not, they are divided by how steep the shape was found to be, no
step is longer than a 64th of the box, and a step that ends inside is bisected. So shapes whose distances overestimate
show no holes.

Several shapes are traced one after another and the nearest hit counts, so that shapes of one structure share programs.

Sources: J. C. Hart, "Sphere tracing: a geometric method for the antialiased ray tracing of implicit surfaces", The
Visual Computer 12 (1996); the soft shadow follows Inigo Quilez, "Soft shadows in raymarched SDFs".
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fdif_jax.sdf.shape import Box, Distance, Point, Shape, length
from fdif_jax.viewing.camera import Camera

TILE = 64  # rays along each edge of what one call of a program traces: fits a core's cache
RAYS = 2  # along each edge of a pixel
LONGEST = 1 / 64  # step, over the box's diagonal; where distances are true,
LONGEST_TRUE = 1 / 16  # this is enough
SHORTEST = 0.5  # step, in widths of a ray
TOUCH = 0.1  # distance that counts as a hit, in widths of a ray
STEPS = 4096
SHADOW_STEPS = 128
SHARPNESS = 5.0  # way from what throws a shadow over the width of its blurred edge
LIGHT = (-0.5, 0.5, 0.7)  # to the right, up, and towards the eye
AMBIENT, DIFFUSE, SPECULAR, FLOOR_SHADOW = 0.42, 0.56, 0.14, 0.3
FADE = 0.2  # of half the picture's edge

Colour = tuple[float, float, float]  # red, green, blue, 0 … 1


class Region(NamedTuple):
    """A finite box on the host: least and greatest x, y, z, float32 ``(3,)``."""

    lower: np.ndarray
    upper: np.ndarray


@dataclasses.dataclass(frozen=True)
class Solid:
    """A shape to look at."""

    name: str  # what it is called
    shape: Shape  # the shape, in the picture's coordinates
    box: Region  # what of it is shown. What goes on beyond is cut off there.
    colour: Colour  # its colour in white light
    slope: float = 1.0  # how steep its distance is, ≥ 1; 1 for a true distance


class Picture(NamedTuple):
    """A traced picture."""

    colours: np.ndarray  # uint8 ``(size, size, 3)``, the first row on top
    coverage: np.ndarray  # how much of each pixel is covered by solids, float32 ``(size, size)``, 0 … 1


def trace(solids: Sequence[Solid], camera: Camera, size: int, *, floor: bool = True) -> Picture:
    """Draw solids lit from the upper left, on a white floor (if there is to be one) that takes their shadows.

    ``size`` is pixels along each edge. The programs are compiled once for each structure of shapes; parameters, boxes
    and the camera are arguments. The tiles of a picture are traced by as many threads as there are cores.
    """
    scene = _Scene.of(solids, camera, size, floor)
    edge = -(-size * RAYS // TILE)
    first, *others = [(i, j) for i in range(edge) for j in range(edge)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Alone, as it compiles what the others use.
        parts = {first: scene.tile(*first)} | dict(
            zip(others, pool.map(lambda at: scene.tile(*at), others), strict=True)
        )
    rows = [np.concatenate([parts[i, j] for j in range(edge)], axis=1) for i in range(edge)]
    fine = np.concatenate(rows)[: size * RAYS, : size * RAYS]
    pixels = fine.reshape(size, RAYS, size, RAYS, 4).mean(axis=(1, 3), dtype=np.float32)
    return Picture(np.round(255 * pixels[..., :3]).astype(np.uint8), pixels[..., 3])


@dataclasses.dataclass(frozen=True)
class _Scene:
    """What all tiles of a picture share."""

    solids: Sequence[Solid]
    camera: Camera
    rays: int  # along an edge of the picture
    reach: float  # a radius about the target that holds all boxes
    floor: float | None  # its z
    light: np.ndarray

    @classmethod
    def of(cls, solids: Sequence[Solid], camera: Camera, size: int, floor: bool) -> "_Scene":
        solids = [dataclasses.replace(solid, shape=as_arrays(solid.shape)) for solid in solids]
        lower = np.min([solid.box.lower for solid in solids], axis=0)
        upper = np.max([solid.box.upper for solid in solids], axis=0)
        # The nearest first: what they hide need not be looked for.
        solids.sort(key=lambda solid: -float((solid.box.lower + solid.box.upper) @ camera.axes[2]))
        target = np.asarray(camera.target)
        reach = float(np.linalg.norm(np.maximum(abs(lower - target), abs(upper - target))))
        # Light comes from where it does for the eye, but from above the floor.
        light = np.asarray(LIGHT) @ camera.axes
        light[2] = max(light[2], 0.6)
        ground = float(lower[2] - 0.01 * np.linalg.norm(upper - lower)) if floor else None
        return cls(solids, camera, size * RAYS, reach, ground, light / np.linalg.norm(light))

    def tile(self, row: int, column: int) -> np.ndarray:
        """Red, green, blue and coverage, 0 … 1, float32 ``(TILE, TILE, 4)``, of one tile."""
        across, down = (
            ((n + np.arange(TILE) / TILE) * TILE + 0.5) * 2 / self.rays - 1 for n in (column, row)
        )
        right, up = (axis.ravel() for axis in np.meshgrid(across, -down))
        origin, direction = self.camera.rays(right, up, self.reach)
        width = np.float32(2 * self.camera.half / self.rays)
        depth = np.full(right.size, np.inf, np.float32)
        normal, colour = np.zeros((2, 3, right.size), np.float32)
        for solid in self.solids:
            t, facing = _hits(
                solid.shape, solid.box, np.float32(solid.slope), width, origin, direction, depth
            )
            nearer = np.asarray(t) < depth
            depth = np.where(nearer, t, depth)
            normal = np.where(nearer, facing, normal)
            colour = np.where(nearer, np.asarray(solid.colour, np.float32)[:, None], colour)
        covered = np.isfinite(depth)
        point, normal, seen = self._with_floor(origin, direction, depth, normal)
        lit = np.ones(right.size, np.float32)
        start = point + (2 * width) * normal
        for solid in self.solids:
            shadow = _lit(
                solid.shape, solid.box, np.float32(solid.slope), start, self.light.astype(np.float32)
            )
            lit = np.minimum(lit, np.asarray(shadow))
        shaded = _shaded(colour, normal, lit, self.light, -direction)
        # Shadows fade out before the picture ends.
        fade = np.clip((1 - np.maximum(abs(right), abs(up))) / FADE, 0, 1)
        paper = 1 - FLOOR_SHADOW * (1 - lit) * fade * seen
        mixed = np.where(covered, shaded, paper)
        return np.concatenate([mixed, covered[None]]).T.reshape(TILE, TILE, 4).astype(np.float32)

    def _with_floor(
        self, origin: np.ndarray, direction: np.ndarray, depth: np.ndarray, normal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points and normals where rays end, on a solid or the floor, and which of them see the floor."""
        missed = ~np.isfinite(depth)
        to_floor = np.full_like(depth, np.inf)
        if self.floor is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                to_floor = (self.floor - origin[2]) / direction[2]
        seen = missed & np.isfinite(to_floor) & (to_floor > 0)
        end = np.where(missed, np.where(seen, to_floor, 0), depth)
        point = (origin + end * direction).astype(np.float32)
        # Rays that see nothing end high above everything, where no shadow falls.
        point = np.where(missed & ~seen, 1e6 * self.light[:, None], point).astype(np.float32)
        upwards = np.array([[0], [0], [1]], np.float32)
        return point, np.where(missed, upwards, normal), seen


def _shaded(
    colour: np.ndarray, normal: np.ndarray, lit: np.ndarray, light: np.ndarray, to_eye: np.ndarray
) -> np.ndarray:
    """Colours ``(3, n)``: light from everywhere, most of it from above, light from the lamp, and its reflection."""
    half = light[:, None] + to_eye
    half = half / np.maximum(np.linalg.norm(half, axis=0), 1e-6)
    facing = np.clip(light @ normal, 0, 1) * lit
    shine = np.clip(np.sum(normal * half, axis=0), 0, 1) ** 40 * lit
    return np.clip(colour * (AMBIENT + 0.1 * normal[2] + DIFFUSE * facing) + SPECULAR * shine, 0, 1)


def as_arrays(shape: Shape) -> Shape:
    """The shape with float32 arrays for parameters, so that numbers and arrays share one program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), shape)


def _cut(shape: Shape, box: Box, p: Point) -> Distance:
    """Distance to what of a shape lies in a box."""
    beyond = [jnp.maximum(a - c, c - b) for c, a, b in zip(p, *box, strict=True)]
    return jnp.maximum(shape(p), jnp.maximum(jnp.maximum(beyond[0], beyond[1]), beyond[2]))


def _crossing(box: Box, origin: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where rays enter a box, not behind their origins, and where they leave it; the latter is less if they miss."""
    slow = jnp.where(jnp.abs(direction) < 1e-9, 1e-9, direction)
    first, second = ((end[:, None] - origin) / slow for end in box)
    near = jnp.max(jnp.minimum(first, second), axis=0)
    return jnp.maximum(near, 0.0), jnp.min(jnp.maximum(first, second), axis=0)


class _Walk(NamedTuple):
    """Rays under way: where they are, the last place outside, the first inside (infinite until there is one)."""

    now: jax.Array
    outside: jax.Array
    inside: jax.Array
    going: jax.Array
    steps: jax.Array


@jax.jit
def _hits(
    shape: Shape,
    box: Box,
    slope: jax.Array,
    width: jax.Array,
    origin: jax.Array,
    direction: jax.Array,
    until: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """How far along rays the shape is first hit, ``(n,)``, and the normals, ``(3, n)``.

    Infinite where it is not hit, or not before ``until``.
    """
    near, far = _crossing(box, origin, direction)
    far = jnp.minimum(far, until)
    touch, shortest = TOUCH * width, SHORTEST * width
    longest = jnp.where(slope > 1, LONGEST, LONGEST_TRUE) * length(*(box.upper - box.lower))

    def go(walk: _Walk) -> _Walk:
        now, outside, inside, going, steps = walk
        d = _cut(shape, box, Point(*(origin + now * direction)))
        outside = jnp.where(going & (d > touch), now, outside)
        inside = jnp.where(going & (d <= touch), now, inside)
        found = jnp.isfinite(inside)
        ahead = now + jnp.clip(d / slope, shortest, longest)
        going = going & jnp.where(found, inside - outside > touch, ahead <= far)
        return _Walk(jnp.where(found, (outside + inside) / 2, ahead), outside, inside, going, steps + 1)

    start = _Walk(near, near, jnp.full_like(near, jnp.inf), near < far, jnp.int32(0))
    depth = lax.while_loop(lambda walk: (walk.steps < STEPS) & jnp.any(walk.going), go, start).inside
    hit = jnp.isfinite(depth)
    normals = lax.cond(
        jnp.any(hit),
        lambda t: _normals(shape, box, origin + t * direction, direction),
        lambda t: jnp.zeros_like(direction),
        jnp.where(hit, depth, 0.0),
    )
    return depth, normals


def _normals(shape: Shape, box: Box, at: jax.Array, direction: jax.Array) -> jax.Array:
    """Unit gradients of the distance ``(3, n)``; against the ray where there is none.

    Forward mode: a user's shape may contain loops that cannot be differentiated backwards.
    """

    def distance(at: jax.Array) -> Distance:
        return _cut(shape, box, Point(*at))

    along = jnp.broadcast_to(jnp.eye(3)[:, :, None], (3, *at.shape))
    gradient = jax.vmap(lambda tangent: jax.jvp(distance, (at,), (tangent,))[1])(along)
    size = length(*gradient)
    return jnp.where(jnp.isfinite(size) & (size > 1e-6), gradient / size, -direction)


@jax.jit
def _lit(shape: Shape, box: Box, slope: jax.Array, start: jax.Array, light: jax.Array) -> jax.Array:
    """How much of the lamp is seen from points ``(3, n)``, 0 … 1: the closest that the way to it comes to the shape."""
    diagonal = length(*(box.upper - box.lower))
    room = 2 / SHARPNESS * diagonal  # half shadows reach so far, on a floor twice the diagonal away
    direction = jnp.broadcast_to(light[:, None], start.shape)
    near, far = _crossing(Box(box.lower - room, box.upper + room), start, direction)

    def go(state: tuple) -> tuple:
        t, lit, steps = state
        d = _cut(shape, box, Point(*(start + t * direction))) / slope
        lit = jnp.where(t <= far, jnp.minimum(lit, SHARPNESS * d / jnp.maximum(t, 1e-3)), lit)
        return t + jnp.clip(d, diagonal / 256, diagonal / 8), lit, steps + 1

    def going(state: tuple) -> jax.Array:
        t, lit, steps = state
        return (steps < SHADOW_STEPS) & jnp.any((t <= far) & (lit > 0))

    _, lit, _ = lax.while_loop(going, go, (near, jnp.ones_like(near), jnp.int32(0)))
    lit = jnp.clip(lit, 0.0, 1.0)
    return lit * lit * (3 - 2 * lit)
