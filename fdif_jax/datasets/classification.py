"""Volumes of one centred object, whose class is to be told: their recipe, their labels, and how samples are drawn."""

import math

import jax
import jax.numpy as jnp

from fdif_jax.datasets.layouts import ClassLabel
from fdif_jax.datasets.sources import DrawSample
from fdif_jax.errors import FdifError
from fdif_jax.keys import LOOK
from fdif_jax.rendering.look import normalise
from fdif_jax.rendering.renderer import Table
from fdif_jax.scenes import classes
from fdif_jax.scenes.compiler import Program
from fdif_jax.scenes.recipe import Recipe
from fdif_jax.vocabulary.vocabulary import NONE


def centred(recipe: Recipe, grid_scale: float) -> Recipe:
    """The recipe with one object a volume, in its middle; the grid covers ``grid_scale`` of its usual extent.

    Nothing hides the object, and it is of its own class: window and groups are left out. FdifError if it has several.
    """
    if not 0 < grid_scale < math.inf:
        raise FdifError(f"grid scale is {grid_scale:g}; it must be greater than 0")
    placement = {"kind": "centred", "scale": grid_scale}
    made = recipe.replace(
        placement=placement, min_objects=1, max_objects=1, multi_task=False, window={}, classes={}
    )
    if parted := [c.family.name for c in classes.classes_of(made) if c.labelled[0].part]:
        raise FdifError(f"{parted[0]} has parts of several classes; an object to classify has one")
    return made


def classes_of(
    program: Program, multilabel: bool
) -> tuple[tuple[ClassLabel, ...], dict[str, tuple[str, ...]]]:
    """The label of every class of a program, and the names that the labels' numbers stand for.

    FdifError if of several labels displacement or mapper is drawn at random, so that no label would know it.
    """
    if not multilabel:
        return tuple(range(len(program.classes))), {"class": program.class_names}
    for name in ("displacement", "mapper"):
        if getattr(program.recipe, f"{name}_as_augmentation"):
            raise FdifError(
                f"multilabel excludes {name}_as_augmentation: it labels the {name}, which must be part of the class"
            )
    names = {
        "shape": tuple(dict.fromkeys(c.family.name for c in program.classes)),
        "displacement": (NONE, *(name for name in program.recipe.displacements if name != NONE)),
        "mapper": program.recipe.mappers,
    }
    shapes, displacements, mappers = names.values()
    labels = tuple(
        (shapes.index(c.family.name), displacements.index(c.displacement), mappers.index(c.mapper))
        for c in program.classes
    )
    return labels, names


def images(program: Program) -> DrawSample:
    """Samples as files hold them: a z-scored image, float32 ``(1, D, H, W)``, of the class that the index says."""

    def sample(key: jax.Array, index: jax.Array) -> tuple[jax.Array]:
        rendered = program.renderer.render(_scene(program, key, index))
        image, look = rendered.image, program.recipe.look
        if look.changes_images:
            own = jax.random.fold_in(key, LOOK)
            image = look.apply(own, *rendered[:3], program.recipe.max_objects, program.class_names)
        return (normalise(image[None]),)

    return sample


def masks(program: Program) -> DrawSample:
    """The label maps of the same scenes, for pictures: the object is its class, counted from 1."""

    def sample(key: jax.Array, index: jax.Array) -> tuple[jax.Array]:
        return (program.renderer.intensities(_scene(program, key, index))[1],)

    return sample


def _scene(program: Program, key: jax.Array, index: jax.Array) -> Table:
    return program.draw(key, jnp.asarray(index % len(program.classes), jnp.int32)[None])
