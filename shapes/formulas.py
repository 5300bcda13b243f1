"""Formulas of shapes, for people: what a shape of the algebra, or of the vocabulary, computes at a point (x, y, z)."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fdif_jax.sdf import algebra, lifts, sampled
from fdif_jax.sdf.seams import depth
from fdif_jax.sdf.shape import Difference, Intersection, Many, ManyFlat, Union
from fdif_jax.shapes import profiles, solids
from fdif_jax.shapes.avs_db import Ellipse, PaddedPolygon, Stack

_POLYGON = "least distance to the {n} edges, negative inside by the parity of crossings"


def _extruded(shape: Any) -> str:
    onion = np.any(np.asarray(shape.thickness) > 0)
    section = "|c·s(x/c, y/c)| − thickness" if onion else "c·s(x/c, y/c)"
    straight = np.all(np.asarray(shape.taper.second_scale) == 1)
    scale = "c = 1" if straight else "c(z) linear from 1 to second_scale at the neck"
    scale += "" if straight or np.all(np.asarray(shape.taper.above) == 0) else ", and back to 1"
    return (
        f"max(q, |z| − h) inside, √(max(q, 0)² + max(|z| − h, 0)²) outside; q = {section}; {scale}; "
        f"s(u, v) = {formula_of(shape.profile)}"
    )


def _smooth(shape: Any) -> str:
    return "" if shape.smooth is None else ", blended over `smooth`"


def _many(shape: Any) -> str:
    parts = [formula_of(part) for part in shape.singles]
    firsts = [(depth(stack), jax.tree.map(lambda leaf: leaf[0], stack)) for stack in shape.stacks]
    parts += [f"{number} of {formula_of(first)}" for number, first in firsts]
    return f"min{_smooth(shape)}, of " + "; ".join(parts)


_FORMULAS: dict[type, Callable[[Any], str]] = {
    solids.Sphere: lambda s: "√(x² + y² + z²) − radius",
    solids.Cuboid: lambda s: "√Σ max(|c| − half, 0)² outside, max(|c| − half) inside, over c = x, y, z",
    solids.Octahedron: lambda s: f"(|x| + |y| + |z| − size) · {s.factor:.4g}",
    solids.Cone: lambda s: "distance of (√(x² + z²), y) to the triangle (±radius, −height/2), (0, height/2)",
    profiles.Circle: lambda s: "√(u² + v²) − radius",
    profiles.Polygon: lambda s: _POLYGON.format(n=s.vertices.shape[0]),
    profiles.Star: lambda s: "distance to an edge of the star after folding the plane into half a sector",
    lifts.Revolved: lambda s: f"s(√(x² + z²) − distance, y); s(u, v) = {formula_of(s.profile)}",
    lifts.Extruded: _extruded,
    Ellipse: lambda s: "f / |∇f|, f = √((u/a)² + (v/b)²) − 1, (u, v) turned",
    PaddedPolygon: lambda s: _POLYGON.format(n="3 to 9"),
    Stack: lambda s: (
        "c·s(x/c, y/c) − 1 for 0 ≤ z < height, c(z) linear from bottom to middle to top; "
        f"s(u, v) = {formula_of(s.profile)}"
    ),
    Union: lambda s: f"min(a, b){_smooth(s)}; a = {formula_of(s.first)}; b = {formula_of(s.second)}",
    Many: _many,
    ManyFlat: _many,
    Intersection: lambda s: f"max(a, b){_smooth(s)}; a = {formula_of(s.first)}; b = {formula_of(s.second)}",
    Difference: lambda s: f"max(a, −b){_smooth(s)}; a = {formula_of(s.first)}; b = {formula_of(s.second)}",
    algebra.Affine: lambda s: f"{formula_of(s.shape)}, at the point moved by `inverse`",
    algebra.Scaled: lambda s: f"factor · ({formula_of(s.shape)}), at p / factor",
    algebra.Onion: lambda s: f"|{formula_of(s.shape)}| − thickness",
    algebra.Rounded: lambda s: f"{formula_of(s.shape)} − radius",
    algebra.Displaced: lambda s: f"{formula_of(s.shape)} + field(x, y, z)",
    algebra.Elongated: lambda s: f"{formula_of(s.shape)}, at p − clip(p, −half, half)",
    algebra.Repeated: lambda s: f"{formula_of(s.shape)}, at p − spacing · clip(round(p / spacing), ±counts)",
    algebra.Twisted: lambda s: f"{formula_of(s.shape)}, turned about z by rate · z",
    algebra.Bent: lambda s: f"{formula_of(s.shape)}, turned about z by rate · x",
    sampled.Sampled: lambda s: "linear between samples on a grid",
    sampled.Member: lambda s: "linear between samples of one grid of a library",
}


def formula_of(shape: Any) -> str:
    """The formula of a shape or a profile (of u, v); of a class of one's own the first line of its docstring."""
    if type(shape) in _FORMULAS:
        return _FORMULAS[type(shape)](shape)
    # Dataclasses without a docstring get their signature for one.
    text = inspect.getdoc(type(shape)) or ""
    name = type(shape).__name__
    return name if not text or text.startswith(f"{name}(") else text.splitlines()[0].rstrip(".")
