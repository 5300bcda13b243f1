"""Scenes as data: the documents in which drawn objects are saved and from which they are rendered again."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import json_of
from fdif_jax.sdf.grid import Grid
from fdif_jax.vocabulary.parameters import finite_numbers

_KEYS = ("class_id", "class", "params", "inverse_transform", "displacement", "mapper")


class ScenePart(NamedTuple):
    """One part of an object of several labels (`fdif_jax.parts`)."""

    name: str
    class_id: tuple[int, ...]  # its label in each label map
    mapper: str  # its name


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object of a scene.

    Attributes:
        class_id: its label in each label map, 0 for background; a document has a number where there is one map.
        class_name: its class in the vocabulary, or ``first|second`` for a smooth union of two.
        params: the class's parameters, lengths in millimetres (voxels of 1 mm).
        inverse_transform: 4×4, world (x, y, z, 1) → local, millimetres.
        displacement: name of its displacement, or "none".
        mapper: name of its mapper.
        parts: its parts in order, if its class has some; ``class_id`` and ``mapper`` are the first one's. A document
            has tables of them by the parts' names there.
    """

    class_id: tuple[int, ...]
    class_name: str
    params: dict[str, Any]
    inverse_transform: list[list[float]]
    displacement: str
    mapper: str
    parts: tuple[ScenePart, ...] = ()

    @property
    def labelled(self) -> tuple[ScenePart, ...]:
        """Its parts; itself, as a part without a name, if it has none."""
        return self.parts or (ScenePart("", self.class_id, self.mapper),)

    def relabelled(self, label: Callable[[int], int]) -> "SceneObject":
        """The object with other class ids."""
        parts = [part._replace(class_id=tuple(map(label, part.class_id))) for part in self.labelled]
        kept = tuple(parts) if self.parts else ()
        return dataclasses.replace(self, class_id=parts[0].class_id, parts=kept)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A grid ``(D, H, W)`` with its spacing, and the objects on it, in drawing order."""

    grid: Grid
    objects: tuple[SceneObject, ...]


def save_scenes(scenes: Sequence[Scene], path: str | Path) -> None:
    """Write scenes as a JSON list of documents."""
    documents = [
        {
            "grid": list(s.grid),
            **({} if s.grid.spacing == Grid.spacing else {"spacing": list(s.grid.spacing)}),
            "objects": [_to_document(o) for o in s.objects],
        }
        for s in scenes
    ]
    Path(path).write_text(json.dumps(documents), encoding="utf-8")


def load_scenes(path: str | Path) -> list[Scene]:
    """Read a JSON list of scene documents, or a single one.

    Raises:
        FdifError: no such file, not JSON, or a document with a missing, unknown or impossible entry;
            the message says which scene, which object and which key.
    """
    try:
        documents = json_of(Path(path).read_bytes())
    except FileNotFoundError:
        raise FdifError(f"scene file {path} does not exist") from None
    except ValueError as error:
        raise FdifError(f"scene file {path} is not valid JSON: {error}") from None
    documents = documents if isinstance(documents, list) else [documents]
    return [_scene(document, f"{path}, scene {i}") for i, document in enumerate(documents)]


def _scene(document: Any, where: str) -> Scene:
    if not isinstance(document, dict) or set(document) - {"spacing"} != {"grid", "objects"}:
        raise FdifError(
            f"{where}: a scene is a table with the keys 'grid' and 'objects', and perhaps 'spacing'"
        )
    grid, objects = document["grid"], document["objects"]
    if not (isinstance(grid, list) and len(grid) == 3 and all(type(n) is int and n >= 2 for n in grid)):
        raise FdifError(f"{where}: grid must be three whole numbers of at least 2, not {grid!r}")
    if not isinstance(objects, list) or not objects:
        raise FdifError(f"{where}: objects must be a list of at least one object")
    made = tuple(_object(o, f"{where}, object {i}") for i, o in enumerate(objects))
    if len({len(part.class_id) for o in made for part in o.labelled}) > 1:
        raise FdifError(f"{where}: all objects must have equally many class ids")
    try:
        return Scene(Grid(*grid, spacing=document.get("spacing", Grid.spacing)), made)
    except FdifError as error:
        raise FdifError(f"{where}: {error}") from None


def _object(document: Any, where: str) -> SceneObject:
    if not isinstance(document, dict):
        raise FdifError(f"{where}: an object is a table with the keys {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            raise unknown(f"key of {where}:", key, _KEYS)
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise FdifError(f"{where}: {missing[0]!r} is missing")
    for key in ("class", "displacement"):
        if not isinstance(document[key], str):
            raise FdifError(f"{where}: {key} must be a name, not {document[key]!r}")
    parts = _parts(document["class_id"], document["mapper"], where)
    matrix = finite_numbers(document["inverse_transform"], (4, 4))
    if matrix is None:
        raise FdifError(f"{where}: inverse_transform must be a 4×4 matrix of finite numbers")
    if abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise FdifError(f"{where}: inverse_transform cannot be inverted")
    return SceneObject(
        parts[0].class_id,
        document["class"],
        document["params"],
        matrix.tolist(),
        document["displacement"],
        parts[0].mapper,
        tuple(parts) if parts[0].name else (),
    )


def _parts(given: Any, mapper: Any, where: str) -> list[ScenePart]:
    """The parts of an object by its class ids and mappers; itself, without a name, if it has none."""
    if not isinstance(given, dict) and not isinstance(mapper, dict):
        given, mapper = {"": given}, {"": mapper}
    if not (isinstance(given, dict) and isinstance(mapper, dict) and given and list(given) == list(mapper)):
        raise FdifError(
            f"{where}: class_id and mapper must be tables of the same parts, in order, or neither of them"
        )
    parts = []
    for name, ids in given.items():
        labels = tuple(ids) if isinstance(ids, list) else (ids,)
        if not labels or not all(type(label) is int and 0 <= label <= 65535 for label in labels):
            raise FdifError(
                f"{where}: class_id must be a whole number from 0 to 65535, or a list of such, not {ids!r}"
            )
        if not isinstance(mapper[name], str):
            raise FdifError(f"{where}: mapper must be a name, not {mapper[name]!r}")
        parts.append(ScenePart(name, labels, mapper[name]))
    return parts


def _to_document(o: SceneObject) -> dict[str, Any]:
    labels: Any = {p.name: p.class_id[0] if len(p.class_id) == 1 else list(p.class_id) for p in o.labelled}
    mappers: Any = {p.name: p.mapper for p in o.labelled}
    if not o.parts:
        (labels,), (mappers,) = labels.values(), mappers.values()
    values = (labels, o.class_name, o.params, o.inverse_transform, o.displacement, mappers)
    return dict(zip(_KEYS, values, strict=True))
