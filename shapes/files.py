"""Shapes to files and back: meshes, and documents that keep every number of a shape (.json).

A document is data: it names classes of shapes, which must be known where it is read, and holds no code.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import MESHES, json_of, write_atomic
from fdif_jax.sdf.nodes import NODES, name_of
from fdif_jax.sdf.sampled import Member
from fdif_jax.sdf.shape import Point, Profile, Shape, as_shape, method, profile_method
from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.viewing.shape_views import mesh
from fdif_jax.vocabulary.vocabulary import Displacement

KEY = "fdif_shape"  # of a document, whose value is the version of its form
_VERSION = 1
_CLASS, _TUPLE, _DISPLACEMENT = "class", "tuple", "displacement"  # what the keys of an inner object say
_DTYPES = ("float32", "float16", "int32", "uint32", "bool")


@profile_method
@method
def save(shape: Shape | Profile, path: str | os.PathLike, **of_mesh: Any) -> None:
    """Write a shape to a file, by the name's ending: a mesh (.stl, .obj, .ply) in voxels, or a document (.json).

    A document keeps every number, and `load` makes the same shape of it; so it does of a profile.

    Args:
        shape: a shape, or a profile for a document.
        path: the file; whole or not there.
        of_mesh: ``resolution`` and ``box`` of a mesh, as for `mesh`.

    Raises:
        FdifError: another ending, a shape that makes no mesh, or one that holds a function of Python.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        _take_nothing("save", path, of_mesh)
        document = {KEY: _VERSION, "shape": _plain(shape, path)}
        write_atomic(path, f"{json.dumps(document)}\n".encode())
        return
    _check_ending("save", path)
    surface = mesh(as_shape("save", "shape", shape), **of_mesh)
    from fdif_jax.viewing.surfaces import write_mesh  # a second to import, which `mesh` has taken

    write_mesh(path, [surface])


def load(path: str | os.PathLike, **of_mesh: Any) -> Any:
    """The shape, or profile, of a document of `save` (.json), or what a closed mesh (.stl, .obj, .ply) encloses.

    Args:
        path: the file.
        of_mesh: ``resolution``, ``seal`` and ``centred`` of a mesh, as for `from_mesh`; not centred if not said.

    Raises:
        FdifError: another ending, a file that cannot be read, or one that makes no shape.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        _take_nothing("load", path, of_mesh)
        return _made(path)
    _check_ending("load", path)
    from fdif_jax.shapes.meshes import from_mesh  # a second to import, which only meshes need

    return from_mesh(path, **{"centred": False, **of_mesh})


def _check_ending(of: str, path: Path) -> None:
    if path.suffix.lower() not in MESHES:
        raise FdifError(f"{of}: {path}: the name of a shape's file ends in {', '.join(MESHES)} or .json")


def _take_nothing(of: str, path: Path, given: Any) -> None:
    if given:
        raise FdifError(
            f"{of}: {path}: {next(iter(given))} is an option of meshes, not of a document (.json)"
        )


def _plain(value: Any, path: Path) -> Any:
    """A node, or what one holds, as plain data."""
    if isinstance(value, Member):  # of a library, which stays where it is
        value = value.alone()
    if name_of(type(value)) in NODES:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {_CLASS: name_of(type(value))} | {name: _plain(inner, path) for name, inner in fields.items()}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = jnp.asarray(value)
        return {str(array.dtype): array.tolist()}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(inner, path) for inner in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    field: Any = value.func if isinstance(value, jax.tree_util.Partial) else value
    if field in DISPLACEMENTS:
        return {_DISPLACEMENT: field.name}
    name = getattr(field, "__qualname__", type(field).__name__)
    raise FdifError(
        f"save: {path}: the shape holds {name}, which a document cannot keep; "
        "a mesh (.stl) can be saved, and a shape can be pickled"
    )


def _made(path: Path) -> Shape | Profile:
    """The shape of a document."""
    try:
        document = json_of(path.read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise FdifError(f"load: {path}: cannot be read: {why}") from None
    if not isinstance(document, dict) or KEY not in document:
        raise FdifError(f"load: {path}: is no shape that was saved; scenes are read by fd.load_scenes")
    if document[KEY] != _VERSION:
        raise FdifError(f"load: {path}: is of version {document[KEY]}; this fdif reads {_VERSION}")
    try:
        with np.errstate(over="raise"):  # of numbers beyond float32
            shape = _value(document.get("shape"))
            # Nothing is computed: what is no number where one should be is told here, and not when it is called.
            jax.eval_shape(*_trial(shape))
    except FdifError as error:
        raise FdifError(f"load: {path}: {error}") from None
    except Exception as error:  # whatever the parts stumble over
        said = (str(error).splitlines() or [""])[0]
        raise FdifError(f"load: {path}: makes no shape ({type(error).__name__}: {said})") from error
    return shape


def _trial(shape: Any) -> tuple[Callable, Any]:
    if isinstance(shape, Profile):
        return lambda profile: profile(0.0, 0.0), shape
    if not isinstance(shape, Shape):
        raise FdifError(f"holds a {type(shape).__name__}, not a shape")
    return lambda whole: whole(Point(0.0, 0.0, 0.0)), shape


def _value(data: Any) -> Any:
    """What `_plain` was given."""
    if not isinstance(data, dict):
        return data
    if _CLASS in data:
        return _node(data)
    if len(data) != 1:
        raise FdifError(f"holds an object of {', '.join(data)}, which is none of a document's")
    ((kind, inner),) = data.items()
    if kind == _TUPLE:
        return tuple(map(_value, inner))
    if kind == _DISPLACEMENT:
        return jax.tree_util.Partial(_displacement(inner))
    if kind not in _DTYPES:
        raise unknown("kind of number", kind, _DTYPES)
    return jnp.asarray(inner, kind)


def _node(data: dict[str, Any]) -> Any:
    name = data[_CLASS]
    if name not in NODES:
        if "." in str(name):
            raise FdifError(f"holds a {name}; import, or load, the file that defines it first")
        raise unknown("class of shapes", str(name), NODES)
    fields = {f.name for f in dataclasses.fields(NODES[name])}
    given = set(data) - {_CLASS}
    if fields != given:
        wrong = sorted(fields ^ given)[0]
        raise FdifError(f"a {name} {'lacks' if wrong in fields else 'has no'} {wrong!r}")
    return NODES[name](**{field: _value(data[field]) for field in fields})


def _displacement(name: str) -> Displacement:
    known = {one.name: one for one in DISPLACEMENTS}
    if name not in known:
        raise unknown("displacement", str(name), known)
    return known[name]
