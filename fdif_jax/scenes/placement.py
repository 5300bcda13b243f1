"""Placements: how the objects of a scene get onto the grid.

A placement is part of a recipe: settings, and two functions that a program calls while it draws a scene. What is
here scatters objects, heaps them up or centres them; `packing` limits their overlap, `fdif_jax.anatomy.placement` lays
out a body.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fdif_jax.errors import FdifError
from fdif_jax.rendering.renderer import Renderer, Table
from fdif_jax.sdf.affine import invert, turned
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Box
from fdif_jax.sdf.structure import Structure
from fdif_jax.settings import Choice, at_least, read_choice
from fdif_jax.vocabulary.vocabulary import Vocabulary

MAX_SHIFT = 0.35
MAX_SHEAR = 0.1


class Sampling(NamedTuple):
    """How scenes are drawn otherwise than the recipe says; its arrays may be traced.

    Attributes:
        class_logits: logarithms of how often each foreground class is drawn, up to a constant; the classes of several
            label maps one after another, whose sums count then.
        objects: greatest number of objects in a scene, from 1 to the recipe's; where it lies below the recipe's least,
            the number itself.
        scale: how many times larger objects are than the recipe has them.
    """

    class_logits: Float[Array, " classes"]
    objects: Int[Array, ""]
    scale: Float[Array, ""]

    def between(self, least: int, most: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Least and greatest number of objects where the recipe has these."""
        most_now = jnp.clip(self.objects, 1, most)
        return jnp.minimum(least, most_now), most_now


class SceneProgram(Protocol):
    """What a placement asks of the program whose scene it is."""

    @property
    def recipe(self) -> Any:
        """The recipe; without its ``transform`` objects are moved only."""

    @property
    def grid(self) -> Grid:
        """Voxels ``(D, H, W)``, and their spacing."""

    @property
    def classes(self) -> Sequence[Any]:
        """What an object can be, each with a ``family``."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What the recipe's names mean."""

    @property
    def renderer(self) -> Renderer:
        """Renders the tables that are placed; ``Table.branch`` counts into its structures."""


class Placement(Choice):
    """Base of placements."""

    def choose(
        self,
        key: jax.Array,
        size: int,
        program: SceneProgram,
        logits: Float[Array, " classes"] | None = None,
    ) -> Int[Array, " size"]:
        """Classes (counted from 0) of ``size`` objects: each drawn from all classes, with replacement.

        Args:
            key: random key.
            size: number of objects.
            program: whose scene it is.
            logits: of the classes, as of `Sampling`; all alike if not given.
        """
        if logits is not None:
            return jax.random.categorical(key, logits, shape=(size,)).astype(jnp.int32)
        return jax.random.randint(key, (size,), 0, len(program.classes))

    def place(
        self,
        key: jax.Array,
        program: SceneProgram,
        table: Table,
        scale: Float[Array, ""] | None = None,
    ) -> Table:
        """The table with all objects in place; pure and jittable.

        Args:
            key: random key.
            program: whose scene it is.
            table: drawn objects, their ``inverse`` the identity.
            scale: how many times larger objects are than usual.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Scattered(Placement):
    """Objects anywhere, turned and sheared at random, that overlap as they will. Source: FDIF."""

    kind: ClassVar[str] = "scattered"

    def place(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> Table:
        """Every object gets a pose of its own (`draw_pose`)."""
        keys = jax.random.split(key, table.branch.size)
        pose = jax.vmap(partial(draw_pose, grid=program.grid, turn=program.recipe.transform))
        return _enlarged(table._replace(inverse=jax.vmap(invert)(pose(keys))), scale)


@dataclasses.dataclass(frozen=True)
class Centred(Placement):
    """Objects in the middle of the grid, seen from close by. Source: the classification sets of FDIF.

    Attributes:
        scale: the fraction of its usual extent that the grid covers; coordinates run evenly from -n/2·scale to
            n/2·scale.
    """

    kind: ClassVar[str] = "centred"

    scale: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale > 0:
            raise FdifError(f"scale of the placement must be above 0, not {self.scale:g}")

    def place(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> Table:
        """Every object is turned and sheared about the centre."""
        keys = jax.random.split(key, table.branch.size)
        edges = jnp.asarray(program.grid[::-1], jnp.float32)
        stretch = self.scale * edges / (edges - 1)
        # Voxel i has the coordinate i - n // 2 on the grid, and -n/2·scale + i·stretch here, times the spacing.
        middle = ((edges - 1) / 2 - jnp.floor(edges / 2)) * jnp.asarray(
            program.grid.spacing[::-1], jnp.float32
        )
        turn = jax.vmap(partial(draw_pose, grid=program.grid, turn=program.recipe.transform))
        linear = jnp.linalg.inv(turn(keys)[:, :, :3]) * stretch
        placed = table._replace(inverse=jnp.concatenate([linear, -(linear @ middle)[:, :, None]], axis=2))
        return _enlarged(placed, scale)


def _enlarged(table: Table, scale: Float[Array, ""] | None) -> Table:
    """Every object so many times larger about its own origin."""
    return table if scale is None else table._replace(inverse=table.inverse / scale)


@dataclasses.dataclass(frozen=True)
class Ensemble(Placement):
    """Objects near the middle, each scaled, mirrored, turned and sheared by itself. Source: anatomix's label ensembles.

    With the recipe's ``transform`` off objects are only moved, and sized.

    Attributes:
        scale: an object's factor along each of its axes is drawn between these two.
        mirror: probability that an axis is mirrored.
        shear: greatest slope of each pair of axes (an upper triangle).
        shift: how far objects are moved at most, as a fraction of the grid's edges.
        size: objects are first made this large, drawn between these two: the geometric mean of the edges of an object's
            own box, in voxels, small ones as often as large ones. Two zeros keep the size they are drawn with.
        voxel: edges of a voxel along z, y, x relative to each other; objects look flat along the longer ones.

    Raises:
        FdifError: a factor or size that is not above 0, ends in the wrong order, or a probability outside 0 … 1.
    """

    kind: ClassVar[str] = "ensemble"

    scale: tuple[float, float] = (0.5, 1.5)
    mirror: float = 0.5
    shear: float = 0.5
    shift: float = 0.04
    size: tuple[float, float] = (0.0, 0.0)
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "mirror", "shear", "shift")
        if not min(self.voxel) > 0:
            raise FdifError(f"voxel of the placement must be three numbers above 0, not {list(self.voxel)}")
        if self.mirror > 1:
            raise FdifError(f"mirror of the placement must be a probability from 0 to 1, not {self.mirror:g}")
        for name in ("scale", "size"):
            low, high = getattr(self, name)
            if not (0 < low <= high or (name == "size" and low == high == 0)):
                raise FdifError(
                    f"{name} of the placement must be two numbers with 0 < low <= high, not {[low, high]}"
                )

    def place(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> Table:
        """Every object gets a pose of its own."""
        pose_key, size_key = jax.random.split(key)
        keys = jax.random.split(pose_key, table.branch.size)
        factors = self._factors(size_key, program, table) if any(self.size) else jnp.ones(table.branch.size)
        pose = jax.vmap(partial(self._pose, grid=program.grid, turn=program.recipe.transform))
        return _enlarged(table._replace(inverse=jax.vmap(invert)(pose(keys, factors))), scale)

    def _factors(self, key: jax.Array, program: SceneProgram, table: Table) -> Float[Array, " n"]:
        """What makes objects as large as ``size`` says."""
        frames = [partial(frame_of, structure) for structure in program.renderer.structures]
        edges = jnp.asarray(program.grid.edges, jnp.float32)

        def own(o: tuple[Array, Array]) -> Array:
            lower, upper = lax.switch(o[0], frames, o[1])
            return jnp.exp(jnp.mean(jnp.log(jnp.clip(upper - lower, 1.0, edges))))

        low, high = jnp.log(jnp.asarray(self.size))
        wanted = jnp.exp(jax.random.uniform(key, table.branch.shape, minval=low, maxval=high))
        return wanted / lax.map(own, (table.branch, table.row))

    def _pose(self, key: jax.Array, factor: Array, grid: Grid, turn: bool) -> Float[Array, "3 4"]:
        scale_key, flip_key, angle_key, shear_key, shift_key = jax.random.split(key, 5)
        away = jax.random.uniform(shift_key, (3,), minval=-self.shift, maxval=self.shift)
        linear = factor * jnp.eye(3)
        if turn:
            scale = jax.random.uniform(scale_key, (3,), minval=self.scale[0], maxval=self.scale[1])
            flipped = jnp.where(jax.random.bernoulli(flip_key, self.mirror, (3,)), -scale, scale)
            angles = jnp.pi * jax.random.uniform(angle_key, (3,), minval=-1.0)
            slopes = jax.random.uniform(shear_key, (3, 3), minval=-self.shear, maxval=self.shear)
            linear = linear @ turned(angles) @ (jnp.eye(3) + jnp.triu(slopes, 1)) @ jnp.diag(flipped)
        edges = np.asarray(self.voxel[::-1], np.float32)
        linear = jnp.diag(np.exp(np.log(edges).mean()) / edges) @ linear  # as wide as before on average
        return jnp.concatenate([linear, (away * jnp.asarray(grid.edges))[:, None]], axis=1)


def frame_of(structure: Structure, row: Array) -> Box:
    """The ``frame()`` of a shape of this structure with these parameters, float32."""
    lower, upper = structure.unpack(row).frame()
    return Box(jnp.asarray(lower, jnp.float32), jnp.asarray(upper, jnp.float32))


def draw_pose(key: jax.Array, grid: Grid, turn: bool) -> Float[Array, "3 4"]:
    """A random local → world affine T·R·S.

    T moves by up to ±.35 of each edge, R = Rz·Ry·Rx turns by any angles, S shears symmetrically by up to ±.1.
    Without ``turn`` only T is left. Source: FDIF.
    """
    shift, angle, slope = jax.random.uniform(key, (3, 3), minval=-1.0)
    offset = MAX_SHIFT * shift * jnp.asarray(grid.edges, jnp.float32)
    linear = jnp.eye(3)
    if turn:
        a, b, c = MAX_SHEAR * slope
        linear = turned(jnp.pi * angle) @ jnp.asarray([[1.0, a, b], [a, 1.0, c], [b, c, 1.0]])
    return jnp.concatenate([linear, offset[:, None]], axis=1)


_KINDS = {
    "scattered": "fdif_jax.scenes.placement:Scattered",
    "centred": "fdif_jax.scenes.placement:Centred",
    "ensemble": "fdif_jax.scenes.placement:Ensemble",
    "packed": "fdif_jax.scenes.packing:Packed",
    "anatomical": "fdif_jax.anatomy.placement:Anatomical",
}


def placement_of(data: Any) -> Placement:
    """A placement from a table with the key ``kind``; FdifError for anything else."""
    return read_choice(data, _KINDS, "placement")
