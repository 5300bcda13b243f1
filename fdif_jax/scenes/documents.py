"""Scenes as data: the documents in which drawn objects are saved and from which they are rendered again."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import parsed
from fdif_jax.sdf.grid import Grid
from fdif_jax.vocabulary.parameters import finite_numbers

_KEYS = ("class_id", "class", "params", "inverse_transform", "displacement", "mapper")


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        class_id: its label in each label map, 0 for background; a document has a number where there is one map.
        class_name: its class in the vocabulary, or ``first|second`` for a smooth union of two.
        params: the class's parameters, lengths in voxels.
        inverse_transform: 4×4, world (x, y, z, 1) → local, voxels.
        displacement: name of its displacement, or "none".
        mapper: name of its mapper.
    """

    class_id: tuple[int, ...]
    class_name: str
    params: dict[str, Any]
    inverse_transform: list[list[float]]
    displacement: str
    mapper: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """A grid ``(D, H, W)`` and the objects on it, in drawing order."""

    grid: Grid
    objects: tuple[SceneObject, ...]


def save_scenes(scenes: Sequence[Scene], path: str | Path) -> None:
    """Write scenes as a JSON list of documents."""
    documents = [{"grid": list(s.grid), "objects": [_to_document(o) for o in s.objects]} for s in scenes]
    Path(path).write_text(json.dumps(documents), encoding="utf-8")


def load_scenes(path: str | Path) -> list[Scene]:
    """Read a JSON list of scene documents, or a single one.

    Raises:
        FdifError: no such file, not JSON, or a document with a missing, unknown or impossible entry;
            the message says which scene, which object and which key.
    """
    try:
        documents = parsed(json.loads, Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FdifError(f"scene file {path} does not exist") from None
    except ValueError as error:
        raise FdifError(f"scene file {path} is not valid JSON: {error}") from None
    documents = documents if isinstance(documents, list) else [documents]
    return [_scene(document, f"{path}, scene {i}") for i, document in enumerate(documents)]


def _scene(document: Any, where: str) -> Scene:
    if not isinstance(document, dict) or set(document) != {"grid", "objects"}:
        raise FdifError(f"{where}: a scene is a table with the keys 'grid' and 'objects'")
    grid, objects = document["grid"], document["objects"]
    if not (isinstance(grid, list) and len(grid) == 3 and all(type(n) is int and n >= 2 for n in grid)):
        raise FdifError(f"{where}: grid must be three whole numbers of at least 2, not {grid!r}")
    if not isinstance(objects, list) or not objects:
        raise FdifError(f"{where}: objects must be a list of at least one object")
    made = tuple(_object(o, f"{where}, object {i}") for i, o in enumerate(objects))
    if len({len(o.class_id) for o in made}) > 1:
        raise FdifError(f"{where}: all objects must have equally many class ids")
    return Scene(Grid(*grid), made)


def _object(document: Any, where: str) -> SceneObject:
    if not isinstance(document, dict):
        raise FdifError(f"{where}: an object is a table with the keys {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            raise unknown(f"key of {where}:", key, _KEYS)
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise FdifError(f"{where}: {missing[0]!r} is missing")
    for key in ("class", "displacement", "mapper"):
        if not isinstance(document[key], str):
            raise FdifError(f"{where}: {key} must be a name, not {document[key]!r}")
    given = document["class_id"]
    labels = tuple(given) if isinstance(given, list) else (given,)
    if not labels or not all(type(label) is int and 0 <= label <= 65535 for label in labels):
        raise FdifError(
            f"{where}: class_id must be a whole number from 0 to 65535, or a list of such, not {given!r}"
        )
    matrix = finite_numbers(document["inverse_transform"], (4, 4))
    if matrix is None:
        raise FdifError(f"{where}: inverse_transform must be a 4×4 matrix of finite numbers")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise FdifError(f"{where}: inverse_transform cannot be inverted")
    return SceneObject(
        labels,
        document["class"],
        document["params"],
        matrix.tolist(),
        document["displacement"],
        document["mapper"],
    )


def _to_document(o: SceneObject) -> dict[str, Any]:
    labels = o.class_id[0] if len(o.class_id) == 1 else list(o.class_id)
    values = (labels, o.class_name, o.params, o.inverse_transform, o.displacement, o.mapper)
    return dict(zip(_KEYS, values, strict=True))
