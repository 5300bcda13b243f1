"""Shapes to and from the parameters that scene documents carry (layout of the published fixtures)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.sdf.lifts import Extruded, Revolved, Taper, linear_taper, neck_taper, no_taper
from fdif_jax.sdf.shape import Profile, Shape
from fdif_jax.shapes.profiles import Circle, Polygon, Star, circle, polygon, star
from fdif_jax.shapes.solids import Cone, Octahedron, Sphere
from fdif_jax.vocabulary.parameters import Reader

Params = Mapping[str, Any]


def _profile(reader: Reader) -> Profile:
    kind = reader.get("kind")
    made: Profile
    if kind == "circle":
        made = circle(reader.positive("radius"))
    elif kind == "star":
        made = star(int(reader.number("points")), reader.positive("radius"), reader.number("ratio"))
    elif kind == "polygon":
        made = polygon(reader.vertices("at least three"))
    else:
        raise unknown(f"profile kind of {reader.where}", str(kind), ("circle", "star", "polygon"))
    reader.finish()
    return made


def _taper(reader: Reader, half_height: float) -> Taper:
    kind = reader.get("kind")
    if kind == "none":
        taper = no_taper(half_height)
    elif kind == "linear":
        taper = linear_taper(half_height, reader.number("second_scale"))
    elif kind == "neck":
        taper = neck_taper(half_height, reader.number("second_scale"), reader.number("neck"))
    else:
        raise unknown(f"taper kind of {reader.where}", str(kind), ("none", "linear", "neck"))
    reader.finish()
    return taper


def build(params: Params, where: str, octahedron_factor: float) -> Shape:
    """The shape that ``params`` describe (``{"radius": 20.0}``); which one is plain from the parameters' names.

    ``where`` is what errors call the object. FdifError for a parameter that is missing, unknown or impossible.
    """
    reader = Reader(params, where)
    shape: Shape
    if "half_height" in params:
        thickness = reader.positive("onion_thickness") if "onion_thickness" in params else 0.0
        half = reader.positive("half_height")
        taper = _taper(reader.inner("taper"), half) if "taper" in params else no_taper(half)
        shape = Extruded(_profile(reader.inner("profile")), half, taper, thickness)
        reader.finish("onion_ratio")
        if "onion_ratio" in params and "onion_thickness" not in params:
            raise FdifError(f"{where}: an onion needs its 'onion_thickness' in voxels, not the ratio alone")
        return shape
    if "profile" in params:
        distance = "major_radius" if "major_radius" in params else "distance"
        shape = Revolved(_profile(reader.inner("profile")), reader.number(distance))
    elif "major_radius" in params:
        shape = Revolved(circle(reader.positive("minor_radius")), reader.positive("major_radius"))
    elif "height" in params:
        shape = Cone(reader.positive("radius"), reader.positive("height"))
    elif "size" in params:
        shape = Octahedron(reader.positive("size"), octahedron_factor)
    else:
        shape = Sphere(reader.positive("radius"))
    reader.finish()
    return shape


def _describe_profile(profile: Profile) -> dict[str, Any]:
    if isinstance(profile, Circle):
        return {"kind": "circle", "radius": float(profile.radius_)}
    if isinstance(profile, Star):
        radius, ratio = float(profile.radius_), float(profile.ratio)
        return {"kind": "star", "points": int(profile.points), "radius": radius, "ratio": ratio}
    if isinstance(profile, Polygon):
        return {"kind": "polygon", "vertices": np.asarray(profile.vertices).tolist()}
    raise FdifError(
        f"a {type(profile).__name__} has no scene-document form; circles, polygons and stars have"
    )


def _describe_taper(taper: Taper) -> dict[str, Any]:
    second, below, above = float(taper.second_scale), float(taper.below), float(taper.above)
    if above != 0:
        return {"kind": "neck", "second_scale": second, "neck": (below - above) / 2}
    return {"kind": "none"} if second == 1.0 else {"kind": "linear", "second_scale": second}


def _describe_extruded(shape: Extruded) -> dict[str, Any]:
    half, thickness = float(shape.half_height), float(shape.thickness)
    profile, taper = _describe_profile(shape.profile), _describe_taper(shape.taper)
    params = {"profile": profile, "half_height": half, "taper": taper}
    return params | ({"onion_thickness": thickness} if thickness > 0 else {})


def _describe_revolved(shape: Revolved) -> dict[str, Any]:
    if isinstance(shape.profile, Circle):
        return {"major_radius": float(shape.distance), "minor_radius": float(shape.profile.radius_)}
    name = "distance" if float(shape.distance) <= 0.5 * float(shape.profile.radius()) else "major_radius"
    return {"profile": _describe_profile(shape.profile), name: float(shape.distance)}


_DESCRIPTIONS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Extruded: _describe_extruded,
    Revolved: _describe_revolved,
    Sphere: lambda s: {"radius": float(s.radius)},
    Cone: lambda s: {"radius": float(s.radius), "height": float(s.height)},
    Octahedron: lambda s: {"size": float(s.size)},
}


def describe(shape: Shape) -> dict[str, Any]:
    """The parameters of a shape of FDIF's classes, plain numbers; the inverse of `build`."""
    if type(shape) not in _DESCRIPTIONS:
        raise FdifError(f"a {type(shape).__name__} has no scene-document form; those of FDIF's classes have")
    return _DESCRIPTIONS[type(shape)](shape)
