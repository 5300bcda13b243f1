"""Recipes: everything about a distribution of scenes, as plain data that loads from and saves to TOML."""

import dataclasses
import hashlib
import importlib.resources
import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from fdif_jax.errors import FdifError, unknown
from fdif_jax.grid import Grid
from fdif_jax.vocabulary import NONE, Vocabulary, resolve

_SHIPPED = importlib.resources.files("fdif_jax") / "recipes"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A distribution of scenes. Immutable; checked when made.

    Attributes:
        vocabulary: where the named things live, ``"package.module:attribute"``.
        grid: voxels ``(D, H, W)``.
        primitives: classes to draw from, by name; empty for all.
        categories: draw from all classes of these categories instead; overrides ``primitives``.
        num_classes: keep only this many of the selected classes, drawn at random; 0 for all.
        class_seed: seed of that draw.
        min_objects: least number of objects in a scene (≥ 1).
        max_objects: greatest number of objects in a scene.
        mappers: names of mappers, distance → intensity.
        displacements: names of displacements; "none" is always possible and need not be named.
        mapper_as_augmentation: draw the mapper at random instead of making it part of the class.
        displacement_as_augmentation: draw the displacement (or none) at random instead of making it part of the class.
        multi_task: separate label maps for shape, displacement and mapper.
        transform: turn and shear the objects; False only moves them.

    Raises:
        FdifError: a value is impossible or of the wrong type; the message names the key.
    """

    vocabulary: str = "fdif_jax.shapes:published"
    grid: tuple[int, int, int] = (64, 64, 64)
    primitives: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    num_classes: int = 0
    class_seed: int = 0
    min_objects: int = 2
    max_objects: int = 5
    mappers: tuple[str, ...] = ("inverse_cube",)
    displacements: tuple[str, ...] = ()
    mapper_as_augmentation: bool = False
    displacement_as_augmentation: bool = False
    multi_task: bool = False
    transform: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _checked(field.name, _type_name(field.type), getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if any(edge < 2 for edge in self.grid):
            raise FdifError(f"grid must have edges of at least 2 voxels, not {list(self.grid)}")
        if self.min_objects < 1:
            raise FdifError(f"min_objects must be at least 1, not {self.min_objects}")
        if self.max_objects < self.min_objects:
            raise FdifError(
                f"max_objects ({self.max_objects}) must not be below min_objects ({self.min_objects})"
            )
        if self.num_classes < 0:
            raise FdifError(f"num_classes must be 0 (all) or more, not {self.num_classes}")
        if not self.mappers:
            raise FdifError("mappers must name at least one mapper")
        if self.multi_task and (self.mapper_as_augmentation or self.displacement_as_augmentation):
            raise FdifError(
                "multi_task excludes mapper_as_augmentation and displacement_as_augmentation: "
                "it labels what they would draw at random; switch them off"
            )
        self._check_names(resolve(self.vocabulary))

    def _check_names(self, vocabulary: Vocabulary) -> None:
        selected = vocabulary.select(self.primitives, self.categories)
        if self.num_classes > len(selected):
            raise FdifError(f"num_classes ({self.num_classes}) exceeds the {len(selected)} classes selected")
        for name in self.mappers:
            vocabulary.mapper(name)
        for name in self.displacements:
            if name != NONE:
                vocabulary.displacement(name)
        for key in ("primitives", "categories", "mappers", "displacements"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise FdifError(f"{key} names {next(n for n in names if names.count(n) > 1)!r} twice")

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some keys changed; FdifError for an unknown key or an impossible value."""
        return from_dict(self.to_dict() | changes, "replace")

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain lists, numbers, strings and booleans."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def digest(self) -> str:
        """SHA-256 (hex) of everything the recipe says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the recipe as TOML."""
        Path(path).write_text(tomli_w.dumps(self.to_dict()), encoding="utf-8")


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def _checked(key: str, kind: str, value: Any) -> Any:
    """``value`` as the field's type (lists become tuples); FdifError if it is something else."""
    if kind == "tuple[int, int, int]":
        if isinstance(value, (list, tuple)) and len(value) == 3 and all(_is_integer(v) for v in value):
            return Grid(*map(int, value))
        raise FdifError(f"{key} must be three whole numbers (D, H, W), not {value!r}")
    if kind == "tuple[str, ...]":
        if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise FdifError(f"{key} must be a list of names, not {value!r}")
    if kind == "int" and _is_integer(value):
        return int(value)
    if (kind, type(value)) in (("bool", bool), ("str", str)):
        return value
    wanted = {"int": "a whole number", "bool": "true or false", "str": "a string"}[kind]
    raise FdifError(f"{key} must be {wanted}, not {value!r}")


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def from_dict(data: dict[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data; FdifError naming the key that is unknown or impossible."""
    known = [field.name for field in dataclasses.fields(Recipe)]
    for key in data:
        if key not in known:
            raise unknown(f"key in {where}:", key, known)
    return Recipe(**data)


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(p.name.removesuffix(".toml") for p in _SHIPPED.iterdir() if p.name.endswith(".toml")))


def load_recipe(source: str | Path) -> Recipe:
    """A recipe by the name of a shipped one, or from a TOML file (``.toml``).

    Raises:
        FdifError: no such recipe or file, a file that is not TOML, an unknown key, an impossible value.
    """
    name = str(source)
    if not name.endswith(".toml"):
        if name not in shipped_recipes():
            raise unknown("recipe", name, shipped_recipes())
        return from_dict(tomllib.loads((_SHIPPED / f"{name}.toml").read_text(encoding="utf-8")), name)
    try:
        data = tomllib.loads(Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FdifError(f"recipe file {name} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FdifError(f"recipe file {name} is not valid TOML: {error}") from None
    try:
        return from_dict(data, name)
    except FdifError as error:
        raise FdifError(f"recipe file {name}: {error}") from None
