"""A window onto a scene: a random blob outside of which there is background, with a body around what it shows.

How far a voxel is beyond the blob's surface follows from how far it lies beyond in fractions of the grid's edges, over
the slope of these fractions a millimetre: that of the blob there, or that of the smooth ball where it is greater, as
noise whose slope cancels the ball's is not the surface's.

Source: anatomix (arXiv 2411.02372), whose label ensembles are cut by a warped ball and wrapped in an envelope.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fdif_jax.rendering.distances import REACH, Edges, slopes
from fdif_jax.rendering.filters import layered_noise
from fdif_jax.rendering.renderer import Rendering, whole_numbers
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import length
from fdif_jax.settings import Plain, ascending, at_least, fractions

_OCTAVES = (4, 8, 16)  # edges of the coarse grids that the blob's surface is the sum of


@dataclasses.dataclass(frozen=True)
class Window(Plain):
    """What of a scene is seen, in images and labels alike; everything by default.

    The window is a ball (of a grid with unequal edges an ellipsoid) whose radius varies by smooth noise of three
    scales. Lengths are fractions of the grid's edges. Body and envelope are instances without a class: background in
    label maps, painted by a recipe's ``[look.tissue]`` as objects are.

    Attributes:
        fraction: of scenes that have a window.
        radius: of the ball, drawn between these two.
        shift: of its centre from the grid's, at most, along each axis.
        roughness: deviation of the noise at each scale, drawn between these two.
        body: fraction of windows in which what no object holds is a body of its own, apart from the background outside.
        envelope: fraction of windows with an envelope around them.
        thickness: how far the envelope reaches inwards, and as far outwards, drawn between these two.

    Raises:
        FdifError: a fraction outside 0 … 1, a length below 0, or ends in the wrong order.
    """

    fraction: float = 0.0
    radius: tuple[float, float] = (0.375, 0.555)
    shift: float = 0.25
    roughness: tuple[float, float] = (0.008, 0.04)
    body: float = 0.0
    envelope: float = 0.5
    thickness: tuple[float, float] = (0.016, 0.031)

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions(self, "fraction", "body", "envelope", of=" of the window")
        at_least(self, 0, "shift")
        ascending(self, "radius", "roughness", "thickness", of=" of the window")

    @property
    def instances(self) -> int:
        """How many instances it may add to a scene's objects."""
        return 2 if self.fraction else 0

    def opening(self, key: jax.Array, grid: Grid) -> "Opening | None":
        """A random window, which may show everything; None where no scene has one."""
        if not self.fraction:
            return None
        toss, place, noise = jax.random.split(key, 3)
        there, body, envelope = jax.random.uniform(toss, (3,)) < jnp.asarray(
            [self.fraction, self.body, self.envelope]
        )
        outward, steepness, thickness = self._outward(place, noise, grid)
        wrap = there & envelope & (jnp.abs(outward) <= thickness)
        slope = slopes(outward, grid.spacing)
        unit = jnp.maximum(length(*slope), jnp.maximum(steepness, 1e-6))
        cut = jnp.where(there, outward + jnp.where(envelope, thickness, 0), -REACH) / unit
        edges = Edges(
            jnp.where(there & body, cut, REACH),
            jnp.stack([cut, *slope / jnp.maximum(length(*slope), 1e-6)]),
            jnp.where(there & envelope, (jnp.abs(outward) - thickness) / unit, REACH),
        )
        return Opening(there & (outward > 0) & ~wrap, wrap, there & body, edges)

    def _outward(
        self, place: jax.Array, noise: jax.Array, grid: Grid
    ) -> tuple[Float[Array, "D H W"], Float[Array, "D H W"], Float[Array, ""]]:
        """How far voxels lie beyond the window's surface, negative inside, and how steeply that rises a millimetre.

        The slope is the smooth ball's; then half the envelope's thickness.
        """
        shift = self.shift * jax.random.uniform(place, (3,), minval=-1.0)
        ends = jnp.asarray([self.radius, self.roughness, self.thickness])
        radius, roughness, thickness = jax.random.uniform(
            jax.random.fold_in(place, 1), (3,), minval=ends[:, 0], maxval=ends[:, 1]
        )
        z, y, x = (jnp.linspace(-0.5, 0.5, n) - s for n, s in zip(grid, shift, strict=True))
        squares = jnp.square(z)[:, None, None], jnp.square(y)[:, None], jnp.square(x)
        away = jnp.sqrt(squares[0] + squares[1] + squares[2])
        edges = [(n - 1) * width for n, width in zip(grid, grid.spacing, strict=True)]
        rises = sum(square / edge**2 for square, edge in zip(squares, edges, strict=True))
        steepness = jnp.sqrt(rises) / jnp.maximum(away, 1e-6)  # 0 in the middle
        return away - radius + roughness * layered_noise(noise, grid, _OCTAVES), steepness, thickness


class Opening(NamedTuple):
    """A drawn window.

    Attributes:
        outside: of it, ``(D, H, W)``.
        wrap: what its envelope holds, ``(D, H, W)``.
        body: whether what no object holds is a body, ``()``.
        edges: its part in the painting of distances.
    """

    outside: Bool[Array, "D H W"]
    wrap: Bool[Array, "D H W"]
    body: Bool[Array, ""]
    edges: Edges

    def apply(self, rendering: Rendering, objects: int) -> Rendering:
        """The scene as it is seen.

        Args:
            rendering: the whole scene.
            objects: greatest number of its objects; the body is instance ``objects + 1``, the envelope the next.
        """
        hidden = self.outside | self.wrap
        filled = self.body & (rendering.owner == 0) & ~hidden
        owner = rendering.owner.astype(whole_numbers(objects + 2))
        for where, instance in ((self.outside, 0), (filled, objects + 1), (self.wrap, objects + 2)):
            owner = jnp.where(where, jnp.asarray(instance, owner.dtype), owner)
        return rendering._replace(
            image=jnp.where(hidden, 0, rendering.image),
            label=jnp.where(hidden, jnp.zeros((), rendering.label.dtype), rendering.label),
            owner=owner,
        )
