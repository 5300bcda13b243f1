"""Recipes: everything about a distribution of scenes, as plain data that loads from and saves to TOML."""

import dataclasses
import hashlib
import importlib.resources
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import tomli_w

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import parsed
from fdif_jax.rendering.look import Look
from fdif_jax.rendering.window import Window
from fdif_jax.scenes.grouping import Grouping
from fdif_jax.scenes.placement import Placement, Scattered, placement_of
from fdif_jax.sdf.grid import Grid
from fdif_jax.settings import Choice, Plain, at_least, read_choice
from fdif_jax.vocabulary.vocabulary import NONE, Vocabulary, resolve

_LEAST_EXTENT = 8  # millimetres, of a grid with a spacing of its own
_SHIPPED = importlib.resources.files("fdif_jax.scenes") / "recipes"


class AnyRecipe(Choice):
    """What both kinds of recipe have in common: they change by key, have a digest and save as TOML."""

    grid: tuple[int, int, int]

    def replace(self, **changes: Any) -> Any:
        """A copy with some keys changed; FdifError for an unknown key or an impossible value."""
        return type(self).from_dict(Plain.to_dict(self) | changes, "replace")

    def digest(self) -> str:
        """SHA-256 (hex) of everything the recipe says, the contents of its files included."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    def _identity(self) -> Any:
        return self.to_dict()

    def save(self, path: str | Path, notes: Sequence[str] = ()) -> None:
        """Write the recipe as TOML, after ``notes``, a comment each."""
        comments = "".join(f"# {note}\n" for note in notes)
        Path(path).write_text(comments + tomli_w.dumps(self.to_dict()), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Recipe(AnyRecipe):
    """A distribution of scenes. Immutable; checked when made.

    Attributes:
        vocabulary: where the named things live, in order: ``"package.module:attribute"``, the path of a bank of
            organs (``.npz``) or of a folder of meshes; a single string will do.
        grid: voxels ``(D, H, W)``.
        primitives: classes to draw from, by name; empty for all.
        categories: draw from all classes of these categories instead; overrides ``primitives``.
        num_classes: keep only this many of the selected classes, drawn at random; 0 for all.
        num_combined_unions: further classes, each the smooth union of a random pair of the selected ones.
        class_seed: seed of these two draws.
        min_objects: least number of objects in a scene (≥ 1).
        max_objects: greatest number of objects in a scene.
        mappers: names of mappers, distance → intensity.
        displacements: names of displacements; "none" is always possible and need not be named.
        mapper_as_augmentation: draw the mapper at random instead of making it part of the class.
        displacement_as_augmentation: draw the displacement (or none) at random instead of making it part of the class.
        multi_task: separate label maps for shape, displacement and mapper.
        transform: turn and deform the objects as the placement does; False only moves them.
        placement: how objects get onto the grid; a table with the key ``kind``.
        look: realism of the images; nothing by default.
        window: what of a scene is seen; everything by default.
        classes: which families the label map tells apart; all by default.
        spacing: millimetres between voxel centres along z, y, x. Shapes are in millimetres, so that a ball of radius 10
            is 10 voxels wide where they lie 2 mm apart.

    Raises:
        FdifError: a value is impossible or of the wrong type; the message names the key.
    """

    kind: ClassVar[str] = "scenes"
    later: ClassVar[tuple[str, ...]] = ("window", "classes", "spacing")

    vocabulary: tuple[str, ...] = ("fdif_jax.shapes:published",)
    grid: tuple[int, int, int] = (64, 64, 64)
    primitives: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    num_classes: int = 0
    num_combined_unions: int = 0
    class_seed: int = 0
    min_objects: int = 2
    max_objects: int = 5
    mappers: tuple[str, ...] = ("inverse_cube",)
    displacements: tuple[str, ...] = ()
    mapper_as_augmentation: bool = False
    displacement_as_augmentation: bool = False
    multi_task: bool = False
    transform: bool = True
    placement: Placement = dataclasses.field(default_factory=Scattered)
    look: Look = dataclasses.field(default_factory=Look)
    window: Window = dataclasses.field(default_factory=Window)
    classes: Grouping = dataclasses.field(default_factory=Grouping)
    spacing: tuple[float, float, float] = Grid.spacing

    def __post_init__(self) -> None:
        if isinstance(self.vocabulary, str):
            object.__setattr__(self, "vocabulary", (self.vocabulary,))
        if not isinstance(self.placement, Placement):
            object.__setattr__(self, "placement", placement_of(self.placement))
        super().__post_init__()
        if any(edge < 2 for edge in self.grid):
            raise FdifError(f"grid must have edges of at least 2 voxels, not {list(self.grid)}")
        extent = Grid(*self.grid, spacing=self.spacing).edges[::-1]
        if self.spacing != Grid.spacing and min(extent) < _LEAST_EXTENT:
            raise FdifError(
                f"spacing makes the grid {' × '.join(f'{edge:g}' for edge in extent)} mm; shapes are sized in whole "
                f"millimetres, and need at least {_LEAST_EXTENT} along each axis"
            )
        if not self.vocabulary:
            raise FdifError("vocabulary must name at least one source")
        if self.min_objects < 1:
            raise FdifError(f"min_objects must be at least 1, not {self.min_objects}")
        if self.max_objects < self.min_objects:
            raise FdifError(
                f"max_objects ({self.max_objects}) must not be below min_objects ({self.min_objects})"
            )
        at_least(self, 0, "num_classes", "num_combined_unions")
        if not self.mappers:
            raise FdifError("mappers must name at least one mapper")
        if self.multi_task and (self.mapper_as_augmentation or self.displacement_as_augmentation):
            raise FdifError(
                "multi_task excludes mapper_as_augmentation and displacement_as_augmentation: "
                "it labels what they would draw at random; switch them off"
            )
        if self.multi_task and self.classes != Grouping():
            raise FdifError(
                "multi_task excludes classes: it labels shape, displacement and mapper by themselves"
            )
        self._check_names()

    @cached_property
    def resolved(self) -> Vocabulary:
        """What the recipe's names mean, from the sources of ``vocabulary``, read once."""
        return resolve(self.vocabulary)

    def __getstate__(self) -> dict[str, Any]:
        """The keys alone: a vocabulary holds functions, and is resolved again where the recipe arrives."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _check_names(self) -> None:
        vocabulary = self.resolved
        selected = vocabulary.select(self.primitives, self.categories)
        if self.num_classes > len(selected):
            raise FdifError(f"num_classes ({self.num_classes}) exceeds the {len(selected)} classes selected")
        for name in self.mappers:
            vocabulary.mapper(name)
        for name in self.displacements:
            if name != NONE:
                vocabulary.displacement(name)
        for key in ("vocabulary", "primitives", "categories", "mappers", "displacements"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise FdifError(f"{key} names {next(n for n in names if names.count(n) > 1)!r} twice")

    def _identity(self) -> Any:
        return [self.to_dict(), resolve(self.vocabulary).digest]  # of the files as they are now


@dataclasses.dataclass(frozen=True)
class Part(Plain):
    """One part of a mixture: a recipe and how often it is drawn, relative to the others."""

    recipe: Recipe
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture(AnyRecipe):
    """Every sample is drawn from one of several recipes, at random by their weights.

    Attributes:
        parts: the recipes and their weights; in TOML a list of tables with the keys ``recipe`` (a shipped recipe's
            name, a file, or a recipe's own keys) and ``weight``.
        labels: "joint" for one label space, in which classes of one name are one class; "foreground" for
            background 0 and any object 1.
        grid: voxels ``(D, H, W)`` of all parts; the first part's if not given.
        look: realism of the images, on top of the parts' own.
        spacing: millimetres between the voxels of all parts along z, y, x; the first part's if not given.
    """

    kind: ClassVar[str] = "mixture"
    later: ClassVar[tuple[str, ...]] = ("spacing",)

    parts: tuple[Part, ...]
    labels: Literal["joint", "foreground"] = "joint"
    grid: tuple[int, int, int] = (0, 0, 0)
    look: Look = dataclasses.field(default_factory=Look)
    spacing: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.parts, (list, tuple)) or not self.parts:
            raise FdifError("parts must be a list of at least one table with the keys recipe and weight")
        parts = [p if isinstance(p, Part) else _part(p, f"part {i}") for i, p in enumerate(self.parts)]
        if not any(self.grid):
            object.__setattr__(self, "grid", parts[0].recipe.grid)
        if self.labels not in ("joint", "foreground"):
            raise unknown("labels", str(self.labels), ("joint", "foreground"))
        super().__post_init__()
        for i, part in enumerate(parts):
            if not part.weight > 0:
                raise FdifError(f"part {i}: weight must be above 0, not {part.weight:g}")
            if part.recipe.multi_task:
                raise FdifError(f"part {i}: a multi-task recipe cannot be part of a mixture")
        common = {"grid": self.grid, "spacing": self.spacing or parts[0].recipe.spacing}
        parts = [Part(part.recipe.replace(**common), part.weight) for part in parts]
        object.__setattr__(self, "parts", tuple(parts))

    def _identity(self) -> Any:
        return [self.to_dict(), [part.recipe.digest() for part in self.parts]]


def _part(data: Any, where: str) -> Part:
    if not isinstance(data, Mapping) or "recipe" not in data:
        raise FdifError(f"{where} must be a table with the keys recipe and weight, not {data!r}")
    recipe = data["recipe"]
    recipe = recipe if isinstance(recipe, Mapping | Recipe) else load_recipe(recipe)
    if isinstance(recipe, Mapping):
        recipe = from_dict(recipe, f"{where}, recipe")
    if not isinstance(recipe, Recipe):
        raise FdifError(f"{where}: a mixture cannot be part of a mixture")
    return Part.from_dict({**data, "recipe": recipe}, where)


_KINDS: dict[str, type[Recipe] | type[Mixture]] = {kind.kind: kind for kind in (Recipe, Mixture)}


def from_dict(data: Mapping[str, Any], where: str = "recipe") -> Recipe | Mixture:
    """A recipe from plain data; its key ``kind`` says which kind it is, a `Recipe` without.

    Raises:
        FdifError: naming the key that is unknown or impossible.
    """
    return read_choice(data, _KINDS, where, Recipe.kind)


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _SHIPPED.iterdir() if p.name.endswith(".toml")))


def load_recipe(source: str | Path) -> Any:
    """A recipe by the name of a shipped one, from a TOML file (``.toml``), or a sum of such.

    Args:
        source: ``"fdif"``, ``"mine.toml"``, or a mixture of recipes as in ``"fdif + 2*avs_db"``, with joint labels.

    Returns:
        A `Recipe`, or a `Mixture` where the source is one.

    Raises:
        FdifError: no such recipe or file, a file that is not TOML, an unknown key, an impossible value.
    """
    name = str(source)
    if "+" in name and not Path(name).exists():
        return Mixture(tuple(_summand(text.strip(), name) for text in name.split("+")))
    if not name.endswith(".toml"):
        if name not in shipped_recipes():
            raise unknown("recipe", name, shipped_recipes())
        return from_dict(tomllib.loads((_SHIPPED / f"{name}.toml").read_text(encoding="utf-8")), name)
    try:
        data = parsed(tomllib.loads, Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FdifError(f"recipe file {name} does not exist") from None
    except ValueError as error:
        raise FdifError(f"recipe file {name} is not valid TOML: {error}") from None
    try:
        return from_dict(data, name)
    except FdifError as error:
        raise FdifError(f"recipe file {name}: {error}") from None


def _summand(text: str, whole: str) -> Part:
    match = re.fullmatch(r"(?:([0-9.]+)\s*\*\s*)?(\S+)", text)
    if not match:
        raise FdifError(f"recipe {whole!r}: {text!r} should read NAME or WEIGHT*NAME")
    try:
        weight = float(match[1] or 1)
    except ValueError:
        raise FdifError(f"recipe {whole!r}: {match[1]!r} is no weight") from None
    return Part(load_recipe(match[2]), weight)
