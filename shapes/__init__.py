"""The vocabulary: profiles, solids, the 109 classes of FDIF, displacements and mappers.

`published` draws what the published code draws; `exact` what it means to draw (see ``docs/design.md``).
"""

import importlib
from collections.abc import Mapping
from typing import Any

from fdif_jax.sdf.lifts import extrude, linear_taper, neck_taper, no_taper, revolve
from fdif_jax.sdf.shape import Shape
from fdif_jax.shapes import documents
from fdif_jax.shapes.avs_db import avs_db
from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.shapes.documents import describe
from fdif_jax.shapes.families import families
from fdif_jax.shapes.files import load, save
from fdif_jax.shapes.flat import (
    hexagon,
    offset,
    outline,
    place,
    rectangle,
    regular_polygon,
    rounded_rectangle,
    rounded_x,
    vesica,
)
from fdif_jax.shapes.lattices import gyroid, neovius, schwarz_d, schwarz_p
from fdif_jax.shapes.mappers import MAPPERS
from fdif_jax.shapes.polyhedra import convex, dodecahedron, icosahedron, octahedron, pyramid, tetrahedron
from fdif_jax.shapes.profiles import circle, polygon, star
from fdif_jax.shapes.rods import bezier, capped_cone, capsule, cylinder, helix, round_cone, tube
from fdif_jax.shapes.solids import (
    OCTAHEDRON_FACTOR,
    PUBLISHED_OCTAHEDRON_FACTOR,
    box,
    box_frame,
    cone,
    ellipsoid,
    half_space,
    rounded_box,
    slab,
    sphere,
    torus,
)
from fdif_jax.vocabulary.vocabulary import Vocabulary

__all__ = [
    "avs_db",
    "bezier",
    "box",
    "box_frame",
    "build",
    "capped_cone",
    "capsule",
    "circle",
    "cone",
    "convex",
    "cylinder",
    "describe",
    "dodecahedron",
    "ellipsoid",
    "exact",
    "extrude",
    "from_mask",
    "from_mesh",
    "gyroid",
    "half_space",
    "helix",
    "hexagon",
    "icosahedron",
    "linear_taper",
    "load",
    "neck_taper",
    "neovius",
    "no_taper",
    "octahedron",
    "offset",
    "outline",
    "place",
    "polygon",
    "published",
    "pyramid",
    "rectangle",
    "regular_polygon",
    "revolve",
    "round_cone",
    "rounded_box",
    "rounded_rectangle",
    "rounded_x",
    "save",
    "schwarz_d",
    "schwarz_p",
    "slab",
    "sphere",
    "star",
    "tetrahedron",
    "torus",
    "tube",
    "vesica",
]

_HEAVY = {"from_mask": "masks", "from_mesh": "meshes"}


def __getattr__(name: str) -> Any:
    """What stands on libraries that take a second to import: imported when asked for."""
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HEAVY[name]}"), name)


def _vocabulary(*, is_exact: bool) -> Vocabulary:
    factor = OCTAHEDRON_FACTOR if is_exact else PUBLISHED_OCTAHEDRON_FACTOR

    def build_named(name: str, params: Mapping[str, Any]) -> Shape:
        return documents.build(params, name, octahedron_factor=factor)

    own = families(exact=is_exact)
    return Vocabulary(own, DISPLACEMENTS, MAPPERS, build_named, lambda name, shape: describe(shape))


published = _vocabulary(is_exact=False)
exact = _vocabulary(is_exact=True)


def build(class_name: str, params: Mapping[str, Any]) -> Shape:
    """The shape of a class, by its name or its published name, from a scene document's parameters, lengths in voxels.

    Formulas are the published ones. FdifError for an unknown class, or a parameter that is missing, unknown or
    impossible.
    """
    family = published.family(class_name)
    return published.build(family.name, params)
