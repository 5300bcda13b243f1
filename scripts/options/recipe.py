"""The options that choose a recipe and change it, shared by the commands that draw scenes."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.options.settings import parse_settings, shown
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.training.processes import is_first_process
from fdif_jax.vocabulary.shape_checks import check_numbers

if TYPE_CHECKING:
    from fdif_jax.preprocessing.likeness import LikeScans

Recipe = fd.Recipe | fd.Mixture

GridOption = Annotated[tuple[int, int, int] | None, shown("D H W")]
NumberOption = Annotated[int | None, shown("INT")]
SettingsOption = Annotated[tuple[str, ...], shown("KEY=VALUE ...")]
NamesOption = Annotated[tuple[str, ...], shown("NAME ...")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class RecipeOptions:
    """A recipe by name or file, and changes to it; what is not given stays as the recipe has it."""

    recipe: str = "fdif"
    """A shipped recipe's name, a .toml file, or a mixture of them as in "fdif + 2*avs_db"."""
    seed: int = 0
    """Seed of everything that is drawn (and of the draw of --num-classes)."""
    grid: GridOption = None
    """Voxels along each axis."""
    spacing: Annotated[tuple[float, float, float] | None, shown("Z Y X")] = None
    """Millimetres between voxel centres along each axis; shapes are in millimetres."""
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
    num_combined_unions: NumberOption = None
    """Further classes, each the smooth union of a random pair of classes."""
    vocabulary: NamesOption = ()
    """Where shapes come from: package.module:attribute, Python files of shapes, banks of organs (.npz), folders of
    meshes and masks."""
    catalogue: tuple[Path, ...] = ()
    """Python files of shapes, displacements and mappers, added to the recipe's vocabulary; --categories mine draws
    from their families alone."""
    mesh_dir: tuple[Path, ...] = ()
    """Folders of meshes (stl, obj, ply) and masks (nii.gz), added to the recipe's vocabulary."""
    placement: SettingsOption = ()
    """Changes of the recipe's placement; kind=NAME begins a new one, as in kind=packed max_overlap=0.5."""
    look: SettingsOption = ()
    """Realism of images: strengths of partial_volume, texture, bias_field, blur, slice_thickness, rician, gaussian,
    uniform_noise, gamma, histogram, as in bias_field=0.3 rician=0.05 partial_volume=true."""
    like: Path | None = None
    """Take grid, spacing, intensities, noise, blur and sizes of objects from the scans of this dataset, or folder of
    volumes without labels; other options change what comes of it. `fdif like` saves it instead."""


def recipe_of(config: RecipeOptions) -> Recipe:
    """The recipe with the options' changes; FdifError for one that contradicts another, the recipe, or a mixture."""
    recipe = fd.load_recipe(config.recipe)
    if config.like is not None:
        recipe = like_dataset(recipe, config.like).recipe
    options: dict[str, Any] = {
        "grid": config.grid,
        "spacing": config.spacing,
        "min_objects": config.min_objects,
        "max_objects": config.max_objects,
        "num_classes": config.num_classes,
        "num_combined_unions": config.num_combined_unions,
        "class_seed": config.seed if config.num_classes or config.num_combined_unions else None,
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
    given = {key: value for key, value in options.items() if value is not None}
    if config.look:
        given["look"] = recipe.look.to_dict() | parse_settings("look", config.look, "bias_field=0.3")
    if isinstance(recipe, fd.Mixture):
        also = {key for key in ("placement", "vocabulary", "catalogue", "mesh_dir") if getattr(config, key)}
        for key in sorted((given.keys() | also) - {"grid", "spacing", "look"}):
            raise FdifError(f"{key} is no option of a mixture of recipes; change its parts, in a recipe file")
        return recipe.replace(**given)
    if config.placement:  # changed, or one of another kind with that kind's defaults
        changes, kept = (
            parse_settings("placement", config.placement, "max_overlap=0.5"),
            recipe.placement.to_dict(),
        )
        given["placement"] = changes if changes.get("kind", kept["kind"]) != kept["kind"] else kept | changes
    for folder in config.mesh_dir:
        _sample_meshes(folder)
    given |= _vocabulary(config, recipe)
    return recipe.replace(**given)


def like_dataset(recipe: Recipe, path: Path) -> "LikeScans":
    """The recipe made like a dataset's scans, its reasons printed.

    Raises:
        FdifError: the recipe is a mixture; or see `likeness_of` and `like_scans`.
    """
    from fdif_jax.preprocessing.likeness import like_scans, likeness_of  # slow to import

    if isinstance(recipe, fd.Mixture):
        raise FdifError(
            "a mixture of recipes cannot be made like scans; make its parts so, and mix the files"
        )
    made = like_scans(recipe, likeness_of(path))
    if is_first_process():
        print(f"like {path}:", *made.reasons, sep="\n  ")
    return made


def _vocabulary(config: RecipeOptions, recipe: fd.Recipe) -> dict[str, Any]:
    """The recipe's vocabulary if an option changes it; FdifError if a family of a user's file gives NaN."""
    added = [*map(str, config.catalogue), *map(str, config.mesh_dir)]
    sources = [*(config.vocabulary or recipe.vocabulary), *added]
    for file in (source for source in sources if source.endswith(".py")):
        grid = fd.Grid(*(config.grid or recipe.grid), spacing=config.spacing or recipe.spacing)
        check_numbers(vocabulary_of(file), grid)
    return {"vocabulary": sources} if config.vocabulary or added else {}


def _sample_meshes(folder: Path) -> None:
    """Compute what a folder's meshes are sampled to, where that was not done before, with a bar to look at."""
    from fdif_jax.shapes import meshes  # its libraries take a second to load, and most recipes need none

    with progress_bar() as bar:
        task = bar.add_task(f"sampling {folder}", total=None, measured="")
        meshes.vocabulary_of(
            folder, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
