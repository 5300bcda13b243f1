"""Anatomical placement: organs of a bank laid out as a body, seen through a window of it.

After "Fake It Right" (arXiv 2603.00979), of which no code is public; what follows is this project's design.

A scene is a window of a body. Its voxel size is drawn, and a place for it where a randomly chosen organ shows and where
the bank's subjects were imaged. The body as a whole is turned a little, stretched along its axes and bent by a few
smooth waves; all organs share these, which keeps them in order. Each organ is then shifted, turned and grown within
what the bank has measured (or, of one subject, assumes) about its kind.

Organs are put one after another: those that hold others first, then those that the most subjects showed, then the
larger. Each is compared with all before it, voxel by voxel. Where the graph forbids what is found, the organ tries
again with a smaller deviation, at last with none and with the shape of the most complete subject, and else is left out.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from fdif_jax.anatomy.bank import INSIDE, Bank
from fdif_jax.anatomy.overlaps import Check
from fdif_jax.errors import FdifError
from fdif_jax.rendering.renderer import Table
from fdif_jax.scenes.placement import Placement, SceneProgram
from fdif_jax.sdf.affine import invert, turned
from fdif_jax.sdf.shape import Box, Coordinate, Point, Scalar, Shape
from fdif_jax.sdf.structure import Structure
from fdif_jax.settings import at_least

# mm: how far at random an organ may seem from the scene's first one when scenes are chosen.
NEIGHBOURHOOD = 30.0


class Waves(NamedTuple):
    """A smooth deformation of the body: the sum of three waves, added to a point."""

    frequency: Float[Array, "3 3"]  # of each wave along right, anterior, superior, 1/mm, ``(3, 3)``
    phase: Float[Array, "3"]  # of each wave, in turns, ``(3,)``
    amplitude: Float[Array, "3 3"]  # along each axis, of each wave, mm, ``(3, 3)``

    @property
    def reach(self) -> Float[Array, "3"]:
        """The greatest shift along each axis, mm."""
        return jnp.sum(jnp.abs(self.amplitude), axis=1)

    @property
    def phases(self) -> Float[Array, "3 4"]:
        """The affine map from a body point to the phase of each wave there, in turns."""
        return jnp.concatenate([self.frequency, self.phase[:, None]], axis=1)

    def heights(self, phases: Point) -> Point:
        """The three waves, -1 … 1, where their ``phases`` are these; ``amplitude`` times them is the shift."""

        def height(phase: Coordinate) -> Coordinate:
            turn = phase - jnp.round(phase)
            # Two parabolas for a sine: as smooth as is needed, and a few multiplications.
            return 8 * turn * (1 - 2 * jnp.abs(turn))

        return Point(*map(height, phases))


def draw_waves(key: jax.Array, length: Scalar, amplitude: Scalar) -> Waves:
    """Random waves of 1 to 2.5 ``length`` (mm) that together shift by at most ``amplitude`` (mm) along an axis."""
    directions, lengths, phases, amplitudes = jax.random.split(key, 4)
    direction = jax.random.normal(directions, (3, 3))
    direction = direction / jnp.linalg.norm(direction, axis=1, keepdims=True)
    wavelength = length * jax.random.uniform(lengths, (3, 1), minval=1.0, maxval=2.5)
    share = jax.random.uniform(amplitudes, (3, 3), minval=-1.0)
    return Waves(direction / wavelength, jax.random.uniform(phases, (3,)), amplitude / 3 * share)


@dataclasses.dataclass(frozen=True, eq=False)
class Atlas:
    """What anatomical placement needs of a vocabulary of organs."""

    bank: Bank  # where the organs lie, and which may touch
    # ``shape(grid, scale, centre, waves) -> Shape``: a grid of the bank (its number), ``scale`` voxels a mm,
    # with the body point ``centre`` at the local origin; local z, y, x run to the right, to the front, and
    # up. Its field ``member`` gives the number back.
    shape: Callable[[Any, Any, Any, Waves], Shape]

    @cached_property
    def structure(self) -> Structure:
        """The structure of all organs."""
        still = Waves(jnp.zeros((3, 3)), jnp.zeros(3), jnp.zeros((3, 3)))
        return Structure.of(self.shape(jnp.float32(0), jnp.float32(1), jnp.zeros(3), still))

    @cached_property
    def members(self) -> tuple[np.ndarray, np.ndarray]:
        """Members of each organ, ``(N, K)`` with repetitions, and how many there are, ``(N,)``."""
        found = [np.flatnonzero(self.bank.organ == n) for n in range(len(self.bank.organs))]
        counts = np.asarray([len(members) for members in found])
        return np.stack([np.resize(members, counts.max()) for members in found]), counts

    @cached_property
    def volumes(self) -> dict[str, float]:
        """Of each organ, by name, the mean volume of its members, mm³."""
        return {
            o: float(self.bank.volume[self.bank.organ == n].mean()) for n, o in enumerate(self.bank.organs)
        }

    @cached_property
    def fallback(self) -> np.ndarray:
        """Of each organ the member of the subject that has the most members, ``(N,)``."""
        wealth = np.bincount(self.bank.subject)[self.bank.subject]
        return np.asarray([max(set(of), key=lambda m: (wealth[m], -m)) for of in self.members[0]])

    @cached_property
    def by_subject(self) -> np.ndarray:
        """Each organ's member in each subject, or its fallback, ``(N, S)``."""
        table = np.repeat(self.fallback[:, None], len(self.bank.window), axis=1)
        table[self.bank.organ, self.bank.subject] = np.arange(len(self.bank.organ))
        return table

    @cached_property
    def rank(self) -> np.ndarray:
        """In which order organs are put, ``(N,)``: containers, then frequent ones, then large ones."""
        inside, bank = self.bank.relation() == INSIDE, self.bank
        depth = np.zeros(len(bank.organs), int)
        for _ in range(len(bank.organs)):
            depth = np.minimum((inside * (depth + 1)).max(1), len(bank.organs))
        order = np.lexsort((-bank.extent.prod(1), -bank.shown, depth))
        return np.argsort(order)


class Body(NamedTuple):
    """How a body lies on the grid."""

    # voxel coordinates (x, y, z) → body millimetres (right, anterior, superior), ``(3, 4)``
    matrix: Float[Array, "3 4"]
    scale: Float[Array, ""]  # voxels a millimetre, on average over directions
    waves: Waves  # the deformation that all organs share


class Deviation(NamedTuple):
    """How each of n organs departs from its place: standard normal numbers, at most 2 (shift, turn: ``(n, 3)``)."""

    shift: Float[Array, "n 3"]
    turn: Float[Array, "n 3"]
    growth: Float[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Anatomical(Placement):
    """Organs of a bank as a body, seen through a window of it (see the module's text).

    A scene has at most the recipe's number of objects: organs outside the window, and those that the graph does not let
    in, are not there.
    """

    kind: ClassVar[str] = "anatomical"

    # least and greatest edge of a voxel, mm; of a grid with a spacing of its own: mm of the body to one of the grid
    spacing: tuple[float, float] = (1.5, 3.0)
    # "scene": all organs of a scene from one subject, where it has them; "organ": each from any
    subjects: str = "scene"
    turn: float = 10.0  # the body is turned by at most this about each axis, degrees
    stretch: float = 0.1  # its axes are scaled by 1 ± this
    deform: float = 4.0  # how far waves shift its points along each axis, mm
    # how far organs depart from their usual place, turn and size; 1 is as measured, 0 not at all
    deviation: float = 0.3
    # how often an organ is tried with ever smaller deviations before it goes without, or is left out
    tries: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "turn", "stretch", "deform", "deviation")
        at_least(self, 1, "tries")
        if not 0 < self.spacing[0] <= self.spacing[1]:
            raise FdifError(
                f"spacing must be two numbers of mm, the smaller one first, not {list(self.spacing)}"
            )
        if self.subjects not in ("scene", "organ"):
            raise FdifError(f"subjects must be 'scene' or 'organ', not {self.subjects!r}")
        if self.stretch >= 0.5:
            raise FdifError(f"stretch must be below 0.5, not {self.stretch:g}")

    def choose(
        self,
        key: jax.Array,
        size: int,
        program: SceneProgram,
        logits: Float[Array, " classes"] | None = None,
    ) -> Int[Array, " size"]:
        """Organs without replacement: a random one first, then mostly those near it. Repeats, if any, are last."""
        atlas, classes = _atlas(program), program.classes
        known = {name: n for n, name in enumerate(atlas.bank.organs)}
        organ = np.asarray([known.get(c.family.name, -1) for c in classes])
        first_key, near_key, class_key = jax.random.split(key, 3)
        present = np.unique(organ[organ >= 0])
        if logits is None:
            first, liking = jax.random.choice(first_key, jnp.asarray(present)), jnp.float32(0)
        else:
            own = jnp.asarray(organ)[None] == jnp.arange(len(atlas.bank.organs))[:, None]
            liking = jax.nn.logsumexp(jnp.where(own, logits, -jnp.inf), axis=1)
            first = jax.random.categorical(first_key, liking)
        mean = jnp.asarray(atlas.bank.mean)
        away = jnp.linalg.norm(mean - mean[first], axis=1) / NEIGHBOURHOOD
        near = away - jax.random.gumbel(near_key, away.shape) - liking
        near = jnp.full_like(near, jnp.inf).at[present].set(near[present]).at[first].set(-jnp.inf)
        order = jnp.argsort(near)[jnp.arange(size) % present.size]
        # One class of each organ: displacements and mappers may make several.
        score = jnp.where(
            jnp.asarray(organ)[None] == order[:, None], jax.random.uniform(class_key, (1, len(classes))), -1.0
        )
        return jnp.argmax(score, axis=1).astype(jnp.int32)

    def place(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> Table:
        """The organs that show, in their places; see `lay_out`. With a ``scale`` they are seen from closer by."""
        return self.lay_out(key, program, table, scale)[0]

    def lay_out(
        self, key: jax.Array, program: SceneProgram, table: Table, scale: Float[Array, ""] | None = None
    ) -> tuple[Table, Body]:
        """The table as `place` returns it, and how the body lies on the grid."""
        atlas = _atlas(program)
        bank, size = atlas.bank, table.branch.size
        branch = program.renderer.structures.index(atlas.structure)
        body_key, subject_key, deviation_key = jax.random.split(key, 3)
        rows = jax.vmap(lambda row: atlas.structure.unpack(row).member)(table.row)  # type: ignore[attr-defined]
        drawn = jnp.clip(jnp.round(rows).astype(jnp.int32), 0, bank.organ.size - 1)
        organ = jnp.asarray(bank.organ)[drawn]
        member = self._members(subject_key, atlas, organ)
        body = self._body(body_key, program, bank, organ[0], scale)
        shown = _in_window(bank, member, body, program) & (table.branch == branch) & ~_repeated(organ)
        shown = shown & (jnp.cumsum(shown) <= table.number)
        order = jnp.argsort(jnp.where(shown, jnp.asarray(atlas.rank)[organ], len(bank.organs)), stable=True)
        number = jnp.sum(shown, dtype=jnp.int32)
        table = _permuted(table, order)._replace(number=number)
        normal = jnp.clip(jax.random.normal(deviation_key, (size, 7)), -2, 2) * self.deviation
        free = 1.0 if program.recipe.transform else 0.0
        deviation = Deviation(normal[:, :3], free * normal[:, 3:6], free * normal[:, 6])
        return _put(self, program, table, body, organ[order], member[order], deviation), body

    def _members(self, key: jax.Array, atlas: Atlas, organ: Array) -> Array:
        """Which member stands for each organ."""
        if self.subjects == "scene":
            subject = jax.random.randint(key, (), 0, atlas.by_subject.shape[1])
            return jnp.asarray(atlas.by_subject)[organ, subject]
        members, counts = map(jnp.asarray, atlas.members)
        position = jax.random.uniform(key, organ.shape) * counts[organ]
        return members[organ, jnp.minimum(position.astype(jnp.int32), counts[organ] - 1)]

    def _body(
        self, key: jax.Array, program: SceneProgram, bank: Bank, organ: Array, scale: Array | None
    ) -> Body:
        """A random body whose window shows the usual place of ``organ``."""
        spacing_key, place_key, turn_key, stretch_key, wave_key = jax.random.split(key, 5)
        low, high = self.spacing
        spacing = jax.random.uniform(spacing_key, (), minval=low, maxval=max(high, low))
        spacing = spacing if scale is None else spacing / scale
        free = 1.0 if program.recipe.transform else 0.0
        angles = jnp.deg2rad(free * self.turn) * jax.random.uniform(turn_key, (3,), minval=-1.0)
        stretch = 1 + free * self.stretch * jax.random.uniform(stretch_key, (3,), minval=-1.0)
        # The volume's axes z, y, x run to the right, to the front, and up, as in a file that reads RAS.
        linear = spacing * turned(angles) @ jnp.diag(stretch)[:, ::-1]
        edges = jnp.asarray(program.grid.edges[::-1], jnp.float32) * spacing
        middle = jnp.asarray(bank.mean)[organ] + 0.25 * edges * jax.random.uniform(
            place_key, (3,), minval=-1.0
        )
        lower, upper = bank.window[:, 0].min(0) + edges / 2, bank.window[:, 1].max(0) - edges / 2
        middle = jnp.clip(middle, jnp.minimum(lower, upper), jnp.maximum(lower, upper))
        matrix = jnp.concatenate([linear, middle[:, None]], axis=1)
        return Body(
            matrix, 1 / (spacing * jnp.mean(stretch)), draw_waves(wave_key, 150.0, free * self.deform)
        )


def _atlas(program: SceneProgram) -> Atlas:
    atlas = program.vocabulary.atlas
    if not isinstance(atlas, Atlas):
        raise FdifError(
            "anatomical placement needs a bank of organs as vocabulary; `fdif bank build` makes one"
        )
    if not {c.family.name for c in program.classes} & set(atlas.bank.organs):
        raise FdifError("anatomical placement needs at least one organ of the bank among the classes")
    return atlas


def _permuted(table: Table, order: Array) -> Table:
    return jax.tree.map(lambda a: a[order] if a.ndim else a, table)


def _repeated(organ: Int[Array, " n"]) -> Array:
    """Whether an organ was there before."""
    same = organ[:, None] == organ[None, :]
    return jnp.any(jnp.tril(same, -1), axis=1)


def _in_window(bank: Bank, member: Array, body: Body, program: SceneProgram) -> Array:
    """Whether the boxes of members reach into the grid by more than a voxel."""
    world = invert(body.matrix)
    boxes = jax.vmap(lambda lower, upper: Box(lower, upper).mapped(world))(
        jnp.asarray(bank.lower)[member], jnp.asarray(bank.upper)[member]
    )
    voxel = jnp.asarray(program.grid.spacing[::-1], jnp.float32)
    highest = jnp.asarray(program.grid.highest, jnp.float32)
    lowest = highest + voxel - jnp.asarray(program.grid.edges, jnp.float32)
    return jnp.all((boxes.upper > lowest + voxel) & (boxes.lower < highest - voxel), axis=1)


def _put(
    placement: Anatomical,
    program: SceneProgram,
    table: Table,
    body: Body,
    organ: Array,
    member: Array,
    deviation: Deviation,
) -> Table:
    """Put the table's organs one after another; those that the graph does not let in leave the table."""
    atlas = _atlas(program)
    check = Check.of(atlas.bank, program.grid, table.branch.size)
    branch = program.renderer.structures.index(atlas.structure)
    factors = jnp.append(jnp.linspace(1.0, 0.0, placement.tries), 0.0)
    last, fallback = placement.tries, jnp.asarray(atlas.fallback)

    def put(i: Array, carry: tuple) -> tuple:
        planes, rows, inverses, accepted = carry

        def attempt(state: tuple) -> tuple:
            n, *_ = state
            chosen = jnp.where(n == last, fallback[organ[i]], member[i])
            here = Deviation(*(factors[n] * d[i] for d in deviation))
            shape, inverse = _candidate(atlas, body, organ[i], chosen, here)
            tiles = check.tiles(shape, inverse)
            promising = check.probe(planes, i, organ, shape, inverse, tiles)
            tiles = tiles[0], jnp.where(promising, tiles[1], 0)
            masks = check.masks(shape, inverse, tiles)
            fits = promising & check.fits(planes, i, organ, masks, tiles)
            return n + 1, fits, masks, tiles, atlas.structure.pack(shape, rows.shape[1]), inverse

        # The last try is another's shape; there is none if the organ's own is that.
        tries = last + (member[i] != fallback[organ[i]])
        nothing = (jnp.zeros(3, jnp.int32), jnp.zeros(3, jnp.int32))
        start = (jnp.int32(0), jnp.bool_(False), check.no_masks(), nothing, rows[i], inverses[i])
        _, fits, masks, (first, steps), row, inverse = lax.while_loop(
            lambda state: ~state[1] & (state[0] < tries), attempt, start
        )
        planes = check.add(planes, i, masks, (first, jnp.where(fits, steps, 0)))
        return planes, rows.at[i].set(row), inverses.at[i].set(inverse), accepted.at[i].set(fits)

    none = jnp.zeros(table.branch.size, bool)
    empty = (check.empty(), table.row, table.inverse, none)
    _, rows, inverses, accepted = lax.fori_loop(0, table.number, put, empty)
    placed = table._replace(row=rows, inverse=inverses, branch=jnp.full_like(table.branch, branch))
    number = jnp.maximum(jnp.sum(accepted, dtype=jnp.int32), 1)
    return _permuted(placed, jnp.argsort(~accepted, stable=True))._replace(number=number)


def _candidate(
    atlas: Atlas, body: Body, organ: Array, member: Array, deviation: Deviation
) -> tuple[Shape, Float[Array, "3 4"]]:
    """An organ's shape, and the way from the grid to its local frame, with this deviation of its own."""
    bank = atlas.bank
    mean, spread = jnp.asarray(bank.mean)[organ], jnp.asarray(bank.spread)[organ]
    centre = jnp.asarray(bank.centroid)[member]
    # Waves may shift the organ further; the two together stay within twice the spread.
    reach = jnp.maximum(2 * spread - body.waves.reach, 0.0)
    goal = jnp.clip(centre + deviation.shift * spread, mean - reach, mean + reach)
    angles = jnp.deg2rad(jnp.asarray(bank.turn)[organ]) / 2 * deviation.turn
    growth = 1 + jnp.asarray(bank.growth)[organ] / 2 * deviation.growth
    to_organ = turned(angles).T @ (body.matrix - jnp.pad(goal[:, None], ((0, 0), (3, 0))))
    shape = atlas.shape(member.astype(jnp.float32), body.scale * growth, centre, body.waves)
    return shape, body.scale * to_organ[::-1]
