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
    Twisted,
)
from fdif_jax.sdf.lifts import Extruded, Revolved, Taper
from fdif_jax.sdf.sampled import Member, Sampled
from fdif_jax.sdf.shape import Difference, Intersection, Union

__all__ = [
    "Affine",
    "Bent",
    "Difference",
    "Displaced",
    "Elongated",
    "Extruded",
    "Intersection",
    "Mapped",
    "Member",
    "Onion",
    "Repeated",
    "Revolved",
    "Rounded",
    "Sampled",
    "Scaled",
    "Taper",
    "Twisted",
    "Union",
]
