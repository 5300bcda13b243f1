"""Fitting: the member of a family, and its pose, that a mask shows.

1. **Starts.** Random members are laid on the mask, centroid on centroid, in the 24 ways that their principal axes can
   be matched, and as they were authored (so that a family drawn in the scanner's axes keeps them), every time turned
   a little, and if asked for as mirror images, too; those that overlap best are the starts.
2. **Descent.** Adam on the unbounded parameters (`free_parameters`) and on shift, turn and growth of all
   starts at once, in one jitted loop. The loss compares two soft occupancies, sigmoid(-d/τ) of the shape and of the
   mask's true distance, by the soft Dice, and adds the shape's distance at the mask's surface; τ falls from a quarter
   of the mask's radius to two voxels. The best few go on, on more points and against the mask as it is, while τ falls
   to a thirtieth of a voxel and the distance at the surface, which is known to half a voxel only, fades out.
3. **Choice.** The least loss at the last τ.

Everything is in millimetres, so that voxels may have any form; what lies beyond the volume's edges counts for nothing.
A fit *like* another starts from that one's member and is drawn to it, so that a parameter means the same in both.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.fitting.fit_starts import QUARTER_TURNS, Forms
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.fitting.free_parameters import FreeParameters
from fdif_jax.fitting.mask_targets import Mask, Points, Target
from fdif_jax.sdf.affine import quaternion_rotation
from fdif_jax.sdf.algebra import Affine, Scaled
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.purity import TRIAL
from fdif_jax.vocabulary.vocabulary import Family

CHUNK = 20  # steps in one call of the jitted loop
SURFACE = 1024  # points of the mask's surface
_SOFTEST = 0.25  # first τ, radii of the mask
_MIDDLE = 2.0  # τ where the first descent ends and the second begins, voxels
_SHARPEST = 0.03  # last τ, voxels; three times as soft biases thin tips by 2 %
_PULL = 1e-5  # weight of the pull towards the family's middle, which decides only what the mask leaves open
_LIKENESS = 3e-3  # weight of the pull towards another fit's parameters
_MIRROR = np.diag([-1.0, 1.0, 1.0])
_RATE = 0.05

# progress(steps done, all steps, what is known so far)
Progress = Callable[[int, int, str], None]


class Variables(NamedTuple):
    """What the optimiser changes."""

    u: Float[Array, " F"]  # unbounded parameters of the shape, ``(F,)``
    shift: Float[Array, "3"]  # of the centre, in radii of the mask, ``(3,)``
    # twice the vector part of a quaternion with real part 1, ``(3,)``: radians where small
    turn: Float[Array, "3"]
    growth: Float[Array, ""]  # logarithm of a factor to the start's scale


class Sharpness(NamedTuple):
    """The soft edge's width τ, mm, and the weight of distances at the mask's surface; ``()``, or an entry a step."""

    softness: Float[Array | np.ndarray, "*steps"]
    surface: Float[Array | np.ndarray, "*steps"]


class Start(NamedTuple):
    """What stays as a start has it."""

    drawn: Float[Array, " W"]  # all numbers of its member, ``(W,)``; the whole ones among them are kept
    rotation: Float[Array, "3 3"]  # shape → scanner, orthogonal ``(3, 3)``
    centre: Float[Array, "3"]  # of the shape, ``(3,)``, mm from the mask's centroid
    scale: Float[Array, ""]  # millimetres a unit of the shape


class Aim(NamedTuple):
    """What a descent is measured against."""

    points: Points  # of the mask and around it
    surface: Point  # points of the mask's surface, mm from its centroid
    radius: Float[Array, ""] | float  # of the ball of the mask's volume, mm
    # unbounded parameters ``(F,)`` that those of a start are drawn to
    middle: Float[Array | np.ndarray, " F"]
    pull: float  # how strongly


@dataclasses.dataclass(frozen=True, eq=False)
class Fitter:
    """Fits members of one family; compiles once, however many masks it is given."""

    family: Family  # which family
    # voxels ``(D, H, W)`` that its random members are sized for; matters where the scale is fixed
    grid: Grid = TRIAL
    scale: float | None = None  # millimetres a unit of the shape; None to fit it
    starts: int = 24  # how many starts descend side by side
    finalists: int = 6  # how many of them go on
    steps: tuple[int, int] = (160, 400)  # steps of each of the two descents
    points: tuple[int, int] = (2048, 8192)  # numbers of points of each
    mirror: bool = False  # whether the pose may be a mirror image
    seed: int = 0  # of members, starts and points
    free: FreeParameters = dataclasses.field(init=False)
    forms: Forms = dataclasses.field(init=False)
    optimisers: tuple[optax.GradientTransformation, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.finalists <= self.starts:
            raise FdifError(
                f"finalists ({self.finalists}) must be from 1 to the number of starts ({self.starts})"
            )
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise FdifError(f"scale must be a finite number of millimetres above 0, not {self.scale:g}")
        free = FreeParameters.of(self.family, self.grid, self.seed)
        object.__setattr__(self, "free", free)
        rates = (optax.cosine_decay_schedule(_RATE, steps, 0.05) for steps in self.steps)
        object.__setattr__(self, "optimisers", tuple(map(optax.adam, rates)))
        object.__setattr__(self, "forms", Forms.of(self.family, free, self.grid))

    def fit(self, mask: Mask, progress: Progress | None = None, like: Fit | None = None) -> Fit:
        """The member and pose that fit ``mask`` best; ``progress`` is told about every 20 steps.

        Of another fit that this is to be ``like`` the member is the start, and is kept as far as the mask lets it.
        FdifError if the gradient of all starts is not finite.
        """
        target, rng = Target.of(mask), np.random.default_rng(self.seed)
        variables, start = self._lay(target, self.forms if like is None else _forms_of(like), rng)
        middle, pull = (np.zeros(self.free.free.size), _PULL) if like is None else (like.u, _LIKENESS)
        for stage, (steps, count) in enumerate(zip(self.steps, self.points, strict=True)):
            points = target.sample(count, rng)
            if stage == 1:
                points = points._replace(depth=np.copysign(np.float32(1e9), points.depth))
            surface = target.sample_surface(SURFACE, rng)
            aim = Aim(points, surface, target.radius, middle.astype(np.float32), pull)
            schedule = self._schedule(stage, target)
            state = self.optimisers[stage].init(variables)
            for first in range(0, steps, CHUNK):
                now = Sharpness(*(values[first : first + CHUNK] for values in schedule))
                variables, state, losses = self._descend(stage, variables, state, start, aim, now)
                losses = np.asarray(losses)
                if progress:
                    done = sum(self.steps[:stage]) + min(first + CHUNK, steps)
                    least = np.min(losses, where=np.isfinite(losses), initial=9)
                    progress(done, sum(self.steps), f"loss {least:.4f}")
            if not np.isfinite(losses).any():
                raise FdifError(
                    f"{place_of(self.family)}: the gradient of {self.family.name!r} is NaN from all starts; where a "
                    "length can be zero, fd.shape.length has a gradient and jnp.sqrt has none"
                )
            best = np.argsort(losses)[: self.finalists if stage == 0 else 1]
            variables, start = jax.tree.map(lambda leaf, best=best: leaf[best], (variables, start))
        return self._finished(mask, target, *jax.tree.map(lambda leaf: leaf[0], (variables, start)))

    def _schedule(self, stage: int, target: Target) -> Sharpness:
        """How sharp each step of a descent looks."""
        middle = _MIDDLE * target.voxel
        first = max(_SOFTEST * target.radius, middle) if stage == 0 else middle
        last = middle if stage == 0 else _SHARPEST * target.voxel
        softness = np.geomspace(first, last, self.steps[stage]).astype(np.float32)
        return Sharpness(softness, np.minimum(softness / np.float32(middle), 1))

    def _lay(self, target: Target, forms: Forms, rng: np.random.Generator) -> tuple[Variables, Start]:
        """The starts: members that overlap the mask best as they are laid on it."""
        scale = np.full(len(forms.rows), self.scale) if self.scale else np.cbrt(target.volume / forms.volume)
        matched = target.axes @ QUARTER_TURNS
        authored = np.stack([np.eye(3)] * 8)
        if self.mirror:
            matched, authored = (np.concatenate([turns, turns @ _MIRROR]) for turns in (matched, authored))
        poses = len(matched) + len(authored)
        rotation = np.empty((len(forms.rows), poses, 3, 3), np.float32)
        for member, axes in enumerate(forms.axes):
            wobble = jax.vmap(quaternion_rotation)(
                jnp.asarray(0.2 * rng.standard_normal((poses, 3)), jnp.float32)
            )
            rotation[member] = np.asarray(wobble) @ np.concatenate([matched @ axes.T, authored])
        centre = -scale[:, None, None] * np.einsum("mtij,mj->mti", rotation, forms.centroid)
        candidates = Start(*(jnp.asarray(a, jnp.float32) for a in (forms.rows, rotation, centre, scale)))
        u = self.free.unbounded(forms.rows).astype(np.float32)
        points = target.sample(1024, rng)
        score = np.asarray(self._scores(u, candidates, points, 0.15 * target.radius))
        m, t = _least(np.where(np.isfinite(score), score, np.inf), self.starts)
        found = forms.rows[m], rotation[m, t], centre[m, t], scale[m]
        start = Start(*(jnp.asarray(a, jnp.float32) for a in found))
        zero = np.zeros((len(m), 3), np.float32)
        still = Variables(*map(jnp.asarray, (u[m], zero, zero, zero[:, 0])))
        return still, start

    @partial(jax.jit, static_argnums=0)
    def _scores(self, u: Array, candidates: Start, points: Points, softness: Array) -> Array:
        """Soft Dice loss of every member in every pose, ``(members, poses)``."""

        def of_member(given: tuple[Array, Start]) -> Array:
            u, start = given
            zero = Variables(u, jnp.zeros(3), jnp.zeros(3), jnp.zeros(()))

            def of_pose(rotation: Array, centre: Array) -> Array:
                posed = start._replace(rotation=rotation, centre=centre)
                return _overlap_loss(self._distance(zero, posed, 1.0, points.at), points, softness)

            return jax.vmap(of_pose)(start.rotation, start.centre)

        return lax.map(of_member, (u, candidates))

    def _posed(self, v: Variables, start: Start, radius: Array | float) -> Affine:
        """The shape in millimetres from the mask's centroid."""
        factor = start.scale * jnp.exp(v.growth if self.scale is None else 0 * v.growth)
        linear = (quaternion_rotation(v.turn) @ start.rotation).T
        centre = start.centre + radius * v.shift
        shape = Scaled(self.free.shape(v.u, start.drawn), factor)
        return Affine(shape, jnp.concatenate([linear, -(linear @ centre)[:, None]], axis=1))

    def _distance(self, v: Variables, start: Start, radius: Array | float, p: Point) -> Array:
        return jnp.broadcast_to(self._posed(v, start, radius)(p), jnp.shape(p.x))

    def _loss(self, v: Variables, start: Start, aim: Aim, sharpness: Sharpness) -> Array:
        # One evaluation for both: half as much to compile.
        every = Point(*(jnp.concatenate(pair) for pair in zip(aim.points.at, aim.surface, strict=True)))
        d = self._distance(v, start, aim.radius, every)
        count = aim.points.depth.size
        overlap = _overlap_loss(d[:count], aim.points, sharpness.softness)
        away = jnp.abs(d[count:]) / aim.radius
        pull = jnp.mean(jnp.square(v.u - aim.middle)) + jnp.square(v.growth)
        return overlap + sharpness.surface * jnp.mean(jnp.minimum(away, 1.0)) + aim.pull * pull

    @partial(jax.jit, static_argnums=(0, 1))
    def _descend(
        self, stage: int, variables: Variables, state: Any, start: Start, aim: Aim, schedule: Sharpness
    ) -> tuple[Variables, Any, Array]:
        slope = jax.vmap(jax.value_and_grad(self._loss), in_axes=(0, 0, None, None))

        def step(carry: tuple[Variables, Any], sharpness: Sharpness) -> tuple[tuple[Variables, Any], Array]:
            variables, state = carry
            losses, gradient = slope(variables, start, aim, sharpness)
            updates, state = self.optimisers[stage].update(gradient, state)
            return (optax.apply_updates(variables, updates), state), losses

        (variables, state), losses = lax.scan(step, (variables, state), schedule)
        return variables, state, losses[-1]

    def _finished(self, mask: Mask, target: Target, v: Variables, start: Start) -> Fit:
        rotation = np.asarray(quaternion_rotation(v.turn) @ start.rotation, np.float64)
        centre = np.asarray(start.centre + target.radius * v.shift, np.float64) + target.centroid
        scale = float(start.scale * jnp.exp(v.growth)) if self.scale is None else self.scale
        row = np.asarray(self.free.row(v.u, start.drawn), np.float64)
        u = np.asarray(v.u, np.float64)
        return Fit(self.family, self.free, u, row, rotation, centre, scale, self.scale is None, mask)


def _least(score: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the ``count`` least scores; half of them of different rows, as far as there are so many."""
    columns = np.argmin(score, axis=1)
    rows = np.argsort(score[np.arange(len(score)), columns])[: (count + 1) // 2]
    flat = np.concatenate([rows * score.shape[1] + columns[rows], np.argsort(score, axis=None)])
    _, first = np.unique(flat, return_index=True)
    row, column = np.unravel_index(flat[np.sort(first)][:count], score.shape)
    return row, column


def _forms_of(fit: Fit) -> Forms:
    """A fit's member, as its mask measures it."""
    target = Target.of(fit.mask)
    centroid = fit.to_local[:, :3] @ target.centroid + fit.to_local[:, 3]
    axes = fit.rotation.T @ target.axes
    return Forms(fit.row[None], np.array([target.volume / fit.scale**3]), centroid[None], axes[None])


def _overlap_loss(d: Array, points: Points, softness: Array | np.ndarray) -> Array:
    """1 - soft Dice of the occupancies of shape and mask; 0 where they are equal."""
    ours, theirs = jax.nn.sigmoid(-d / softness), jax.nn.sigmoid(-points.depth / softness)
    both, sum_ = jnp.sum(points.weight * ours * theirs), jnp.sum(points.weight * (ours**2 + theirs**2))
    return 1 - 2 * both / jnp.maximum(sum_, 1e-9)
