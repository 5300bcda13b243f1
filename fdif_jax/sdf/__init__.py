"""Signed distance functions: shapes as pytrees, the algebra that combines them, and grids to evaluate them on.

The classes that shapes are made of stand here, too: a family that was learned from fits names them so.
"""

from fdif_jax.sdf.algebra import (
    Affine,
    Bent,
    Displaced,
    Elongated,
    Mapped,
    Onion,
    Repeated,
    Rounded,
    Scaled,
    Stretched,
    Twisted,
)
from fdif_jax.sdf.captured import Captured
from fdif_jax.sdf.lifts import Extruded, Revolved, Taper
from fdif_jax.sdf.operations.blends import Chamfer, Fillet, Grooved, Morphed, Stairs
from fdif_jax.sdf.operations.copies import Around, Symmetric
from fdif_jax.sdf.operations.deformations import Attracted, BentBetween, Lofted, Transition, Wrapped
from fdif_jax.sdf.operations.measures import Bounded, Normalised, Sliced
from fdif_jax.sdf.operations.noise import Noise
from fdif_jax.sdf.sampled import Member, Sampled
from fdif_jax.sdf.shape import (
    Complement,
    Difference,
    Exclusive,
    Intersection,
    Joined,
    Many,
    ManyFlat,
    Union,
)

__all__ = [
    "Affine",
    "Around",
    "Attracted",
    "Bent",
    "BentBetween",
    "Bounded",
    "Captured",
    "Chamfer",
    "Complement",
    "Difference",
    "Displaced",
    "Elongated",
    "Exclusive",
    "Extruded",
    "Fillet",
    "Grooved",
    "Intersection",
    "Joined",
    "Lofted",
    "Many",
    "ManyFlat",
    "Mapped",
    "Member",
    "Morphed",
    "Noise",
    "Normalised",
    "Onion",
    "Repeated",
    "Revolved",
    "Rounded",
    "Sampled",
    "Scaled",
    "Sliced",
    "Stairs",
    "Stretched",
    "Symmetric",
    "Taper",
    "Transition",
    "Twisted",
    "Union",
    "Wrapped",
]
