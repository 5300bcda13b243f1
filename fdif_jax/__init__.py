"""fdif-jax: formula-driven pre-training for 3D medical image segmentation.

Shapes are pure JAX functions; a small algebra combines them; `compile` turns a recipe, a random distribution of
scenes, into one XLA program that draws and renders labelled volumes.

Example:
    >>> import fdif_jax as fd
    >>> program = fd.compile(fd.load_recipe("fdif"))
    >>> image, label = program.sample_at(seed=0, index=0)
"""

import importlib
import importlib.metadata
from typing import Any

# What shapes are made of, and what the package knows by name.
from fdif_jax import shapes as shapes
from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_key
from fdif_jax.rendering.look import Look
from fdif_jax.scenes.compiler import MixedProgram, Program, compile
from fdif_jax.scenes.documents import Scene, SceneObject, ScenePart, load_scenes, save_scenes
from fdif_jax.scenes.recipe import Mixture, Part, Recipe, load_recipe, shipped_recipes
from fdif_jax.scenes.replay import render_scenes
from fdif_jax.scenes.world import World

# `fd.shape` has the words of type hints, and functions that are differentiable everywhere.
from fdif_jax.sdf import shape as shape
from fdif_jax.sdf.algebra import (
    bend,
    displace,
    elongate,
    map,
    onion,
    orient,
    repeat,
    rotate,
    rotate_to,
    round,
    scale,
    shear,
    transform,
    translate,
    twist,
)
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.lifts import extrude, revolve
from fdif_jax.sdf.operations import noise as noise
from fdif_jax.sdf.operations.blends import chamfer, fillet, groove, morph, stairs, tongue
from fdif_jax.sdf.operations.copies import mirror, repeat_around, symmetric
from fdif_jax.sdf.operations.deformations import attract, bend_between, loft, transition, wrap_around
from fdif_jax.sdf.operations.measures import bounded, normalise, slice, voxels
from fdif_jax.sdf.operations.parts import parts
from fdif_jax.sdf.shape import (
    Blend,
    Box,
    Point,
    Profile,
    Shape,
    complement,
    difference,
    intersection,
    node,
    static,
    union,
    xor,
)
from fdif_jax.shapes.files import load, save
from fdif_jax.viewing.shape_views import mesh, picture, show
from fdif_jax.vocabulary.authoring import displacement, family, mapper
from fdif_jax.vocabulary.spread import Spread
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper, Range, Vocabulary

# What training, fitting and weights need, by its module: it stands on libraries that are imported when asked for.
_LATER = {
    "Fitter": "fitting.fitter",
    "Mask": "fitting.mask_targets",
    "RunDocument": "training.run_document",
    "Segmentation": "objectives.supervised",
    "TrainingPlan": "training.plan",
    "fit": "training.loop",
    "functional": "training.network",
    "open_run": "training.runs",
    "save_fits": "fitting.fit_picture",
    "save_weights": "weights.files",
    "scene_batch": "batches.scenes",
    "set_weights": "training.network",
    "to_torch_state_dict": "weights.state_dicts",
    "with_augmentation": "batches.scenes",
    "write_family": "fitting.fitted_family",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("fdif-jax")
    if name == "models":
        return importlib.import_module("fdif_jax.models")
    if name not in _LATER:
        raise AttributeError(f"module 'fdif_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fdif_jax.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, "__version__", "models"})


__all__ = [
    "Blend",
    "Box",
    "Displacement",
    "Family",
    "FdifError",
    "Grid",
    "Look",
    "Mapper",
    "MixedProgram",
    "Mixture",
    "Part",
    "Point",
    "Profile",
    "Program",
    "Range",
    "Recipe",
    "Scene",
    "SceneObject",
    "ScenePart",
    "Shape",
    "Spread",
    "Vocabulary",
    "World",
    "attract",
    "bend",
    "bend_between",
    "bounded",
    "chamfer",
    "compile",
    "complement",
    "difference",
    "displace",
    "displacement",
    "elongate",
    "extrude",
    "family",
    "fillet",
    "groove",
    "intersection",
    "load",
    "load_recipe",
    "load_scenes",
    "loft",
    "map",
    "mapper",
    "mesh",
    "mirror",
    "morph",
    "node",
    "normalise",
    "onion",
    "orient",
    "parts",
    "picture",
    "render_scenes",
    "repeat",
    "repeat_around",
    "revolve",
    "rotate",
    "rotate_to",
    "round",
    "sample_key",
    "save",
    "save_scenes",
    "scale",
    "shear",
    "shipped_recipes",
    "show",
    "slice",
    "stairs",
    "static",
    "symmetric",
    "tongue",
    "transform",
    "transition",
    "translate",
    "twist",
    "union",
    "voxels",
    "wrap_around",
    "xor",
]
