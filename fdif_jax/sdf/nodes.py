"""Nodes: frozen dataclasses that are pytrees, of which shapes are made."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")

# By name: those of the package by their own, others as "module.Name".
NODES: dict[str, type] = {}


def static(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is part of a shape's structure, not one of its parameters."""
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static, dataclasses.field))
def node(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass whose fields are pytree children, except those marked `static`."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    made.__repr__ = _readable
    children = [f.name for f in dataclasses.fields(made) if not f.metadata.get("static")]
    fixed = [f.name for f in dataclasses.fields(made) if f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in children]

    # JAX's own registration of dataclasses takes two classes with as many fields for equal structures; the class
    # must be part of what is compared, or a renderer mixes up their branches.
    def flatten(shape: Any) -> tuple[list, tuple]:
        return [getattr(shape, name) for name in children], (made, *(getattr(shape, name) for name in fixed))

    def flatten_with_keys(shape: Any) -> tuple[list, tuple]:
        values, structure = flatten(shape)
        return list(zip(keys, values, strict=True)), structure

    def unflatten(structure: tuple, values: Any) -> Any:
        named = dict(zip(children, values, strict=True)) | dict(zip(fixed, structure[1:], strict=True))
        return made(**named)

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    NODES[name_of(made)] = made
    return made


def name_of(cls: type) -> str:
    """What a class of nodes is called in a document: ``"Sphere"``, or ``"module.Name"`` of one's own."""
    own = cls.__module__.partition(".")[0] != __name__.partition(".")[0]
    return f"{cls.__module__}.{cls.__qualname__}" if own else cls.__qualname__


def _readable(of: Any) -> str:
    """A node and its fields in a line."""
    fields = (f"{f.name}={_short(getattr(of, f.name))}" for f in dataclasses.fields(of))
    return f"{type(of).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    if isinstance(value, jax.Array | np.ndarray) and not isinstance(value, jax.core.Tracer):
        if value.size > 24:
            return f"{value.dtype} {value.shape}"
        return " ".join(np.array2string(np.asarray(value), precision=5, separator=", ").split())
    return f"{value:g}" if isinstance(value, float) else repr(value)
