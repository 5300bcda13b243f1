"""The options that choose a recipe and change it, shared by the commands that draw scenes."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

import fdif_jax as fd
from fdif_jax.errors import FdifError

_DEFAULT = "(default: the recipe's)"
GridOption = Annotated[
    tuple[int, int, int] | None, tyro.conf.arg(metavar="D H W", help_behavior_hint=_DEFAULT)
]
NumberOption = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint=_DEFAULT)]
NamesOption = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint=_DEFAULT)]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class RecipeOptions:
    """A recipe by name or file, and changes to it; what is not given stays as the recipe has it."""

    recipe: str = "fdif"
    """A shipped recipe's name or a .toml file."""
    seed: int = 0
    """Seed of everything that is drawn (and of the draw of --num-classes)."""
    grid: GridOption = None
    """Voxels along each axis."""
    min_objects: NumberOption = None
    """Least number of objects in a scene."""
    max_objects: NumberOption = None
    """Greatest number of objects in a scene."""
    num_classes: NumberOption = None
    """Draw this many classes at random from those selected; 0 for all."""
    primitives: NamesOption = ()
    """Classes to draw from."""
    categories: NamesOption = ()
    """Draw from all classes of these categories instead of --primitives."""
    sdf_mappers: NamesOption = ()
    """Mappers from distance to intensity."""
    displacement_functions: NamesOption = ()
    """Displacements of surfaces; "none" is always among them."""
    no_transform: Flag = False
    """Only move objects; do not turn or shear them."""
    mapper_as_augmentation: Flag = False
    """Draw mappers at random; they do not make classes."""
    no_mapper_as_augmentation: Flag = False
    """Each mapper makes classes of its own."""
    displacement_as_augmentation: Flag = False
    """Draw displacements at random; they do not make classes."""
    no_displacement_as_augmentation: Flag = False
    """Each displacement makes classes of its own."""
    multi_task: Flag = False
    """Separate label maps for shape, displacement and mapper; excludes the two augmentation flags."""


def recipe_of(config: RecipeOptions) -> fd.Recipe:
    """The recipe with the options' changes."""
    options: dict[str, Any] = {
        "grid": config.grid,
        "min_objects": config.min_objects,
        "max_objects": config.max_objects,
        "num_classes": config.num_classes,
        "class_seed": config.seed if config.num_classes else None,
        "primitives": config.primitives or None,
        # A recipe's categories would override the primitives that the user asks for.
        "categories": config.categories or (() if config.primitives else None),
        "mappers": config.sdf_mappers or None,
        "displacements": config.displacement_functions or None,
        "transform": False if config.no_transform else None,
        "multi_task": True if config.multi_task else None,
    }
    for name in ("mapper_as_augmentation", "displacement_as_augmentation"):
        on, off = getattr(config, name), getattr(config, f"no_{name}")
        if on and off:
            option = name.replace("_", "-")
            raise FdifError(f"--{option} and --no-{option} exclude each other")
        options[name] = on if on or off else None
    recipe = fd.load_recipe(config.recipe)
    return recipe.replace(**{key: value for key, value in options.items() if value is not None})
