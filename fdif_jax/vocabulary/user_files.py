"""A vocabulary in a file: a user's Python file of families, displacements and mappers (`vocabulary.authoring`).

`load_catalogue` runs the file and tries what it defines without computing anything: everything is traced, twice, and
what would go wrong later in a compiled program (no shape comes back, the result hangs on something other than the
key, a callback to the host) is an error now, in one line that begins with ``file:line``.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.io.remarks import remark
from fdif_jax.sdf.shape import Shape
from fdif_jax.vocabulary.authoring import place_of
from fdif_jax.vocabulary.parameters import Reader
from fdif_jax.vocabulary.purity import explained, try_displacement, try_family, try_mapper
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper, Vocabulary

_KINDS = {Family: "family", Displacement: "displacement", Mapper: "mapper"}


def load_catalogue(
    path: str | Path, displacements: Sequence[Displacement] = (), mappers: Sequence[Mapper] = ()
) -> Vocabulary:
    """The vocabulary of a user's file: its families, displacements and mappers in the order of their lines.

    What counts is what the file has at its top level, by itself or in a list or tuple, imported things included. A
    file that has not changed is loaded once. Files beside it can be imported by it.

    Args:
        path: a Python file.
        displacements: displacements that are known besides the file's own.
        mappers: the same of mappers.

    Raises:
        FdifError: ``file:line: what is wrong``: the file is missing, cannot be compiled or run, has nothing for a
            vocabulary or two things of one kind and name, or one of its functions is not pure.
    """
    path = Path(path)
    if not path.is_file():
        raise FdifError(f"{path}: no such file")
    return _loaded(path.resolve(), str(path), path.stat().st_mtime_ns, tuple(displacements), tuple(mappers))


@functools.lru_cache(maxsize=32)
def _loaded(
    path: Path,
    shown: str,
    stamp: int,
    displacements: tuple[Displacement, ...],
    mappers: tuple[Mapper, ...],
) -> Vocabulary:
    module, source, digest = _executed(path, shown, stamp)
    things = list(_things(module))
    families = [t for t in things if isinstance(t, Family)]
    own_fields = [t for t in things if isinstance(t, Displacement)]
    own_mappers = [t for t in things if isinstance(t, Mapper)]
    if not things:
        raise FdifError(f"{shown}: has no family; put @fd.family before a function that draws a shape")
    known_fields = [d for d in displacements if d not in own_fields]
    known_mappers = [m for m in mappers if m not in own_mappers]
    _check_statements(shown, source, module)
    for thing, taken in _repeated(things, [*known_fields, *known_mappers]):
        raise FdifError(
            f"{place_of(thing)}: a second {_KINDS[type(thing)]} {thing.name!r}; "
            + (f"the first is at {place_of(taken)}" if taken in things else "the first is built in")
        )
    structures = {f.name: try_family(f, shown) for f in families}
    for field in own_fields:
        try_displacement(field, shown)
    for mapper in own_mappers:
        try_mapper(mapper, shown)
    return Vocabulary(
        tuple(families),
        (*own_fields, *known_fields),
        (*own_mappers, *known_mappers),
        lambda name, params: build(structures[name], params, name),
        lambda name, shape: describe(shape),
        digest,
    )


def defined_in(path: str | Path, *kinds: type) -> dict[str, Any]:
    """What of these kinds, such as `Shape` or `Family`, stands at the top level of a file, by its names there.

    FdifError if the file is missing, or cannot be compiled or run.
    """
    path = Path(path)
    if not path.is_file():
        raise FdifError(f"{path}: no such file")
    module, *_ = _executed(path.resolve(), str(path), path.stat().st_mtime_ns)
    return {name: value for name, value in vars(module).items() if isinstance(value, kinds)}


@functools.lru_cache(maxsize=32)
def _executed(path: Path, shown: str, stamp: int) -> tuple[ModuleType, bytes, str]:
    """The file as a module that `import` does not know by its own name, so that it shadows nothing.

    Its text and the digest of that are with it.
    """
    if path.suffix != ".py":
        raise FdifError(f"{shown}: is no Python file; the name of one ends in .py")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    name = f"fdif_user_{path.stem}_{digest[:12]}"
    try:
        code = compile(source, shown, "exec")
    except SyntaxError as error:
        raise FdifError(f"{shown}:{error.lineno}: {type(error).__name__}: {error.msg}") from None
    except ValueError as error:
        raise FdifError(f"{shown}: is no Python file: {error}") from None
    remark(f"{shown}: this Python file is run, with all that it asks for", f"run {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    with _importable(path.parent), explained(shown, f"{shown}:1"):
        exec(code, module.__dict__)
    return module, source, digest


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _things(module: ModuleType) -> Iterator[Any]:
    """Families, displacements and mappers at the top level of a module, each once, in order."""
    seen: set[int] = set()
    for value in vars(module).values():
        for thing in value if isinstance(value, list | tuple) else (value,):
            if isinstance(thing, tuple(_KINDS)) and id(thing) not in seen:
                seen.add(id(thing))
                yield thing


def _repeated(things: Sequence[Any], others: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Things that have the kind and name of one before them, or of one of the others, and that one."""
    known = {(type(thing), thing.name): thing for thing in others}
    for thing in things:
        before = known.setdefault((type(thing), thing.name), thing)
        if before is not thing:
            yield thing, before


def _check_statements(shown: str, source: bytes, module: ModuleType) -> None:
    """No two functions of one name: the second replaces the first before anything can see both but the text."""
    lines: dict[str, int] = {}
    for statement in ast.parse(source).body:
        made = vars(module).get(getattr(statement, "name", ""))
        if isinstance(statement, ast.FunctionDef) and isinstance(made, tuple(_KINDS)):
            if statement.name in lines:
                raise FdifError(
                    f"{shown}:{statement.lineno}: a second {_KINDS[type(made)]} {statement.name!r}; "
                    f"the first is in line {lines[statement.name]}"
                )
            lines[statement.name] = statement.lineno


def leaf_names(shape: Any) -> list[str]:
    """The names of a shape's parameters, ``"first.shape.radius"``, in the order of its leaves."""
    paths, _ = jax.tree_util.tree_flatten_with_path(shape)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def describe(shape: Shape) -> dict[str, Any]:
    """The parameters of any shape by the names of its leaves, as plain numbers and lists."""
    leaves = (np.asarray(leaf, np.float32).tolist() for leaf in jax.tree.leaves(shape))
    return dict(zip(leaf_names(shape), leaves, strict=True))


def build(structure: Any, params: Any, name: str) -> Shape:
    """The inverse of `describe` for shapes of this structure; ``name`` is what errors call the object.

    FdifError for a parameter that is missing, unknown, not finite or of another shape.
    """
    reader = Reader(params, name)
    leaves = [
        jnp.asarray(reader.numbers(key, jnp.shape(leaf)), jnp.float32)
        for key, leaf in zip(leaf_names(structure), jax.tree.leaves(structure), strict=True)
    ]
    reader.finish()
    return jax.tree.unflatten(jax.tree.structure(structure), leaves)
