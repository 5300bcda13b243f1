"""Settings as plain data: frozen dataclasses that check their values when made and travel as TOML or JSON tables."""

import dataclasses
import json
import pkgutil
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from fdif_jax.errors import FdifError, unknown


@dataclasses.dataclass(frozen=True)
class Plain:
    """Base of settings. Fields are numbers, truth values, strings, lists of names or numbers, triples, or `Plain`; or
    tables of such under names of one's own, ``tuple[tuple[str, …], ...]``.

    Whole numbers are accepted where numbers are wanted, lists become tuples, and tables become what the field holds.
    FdifError, naming the key, for a value of the wrong type.

    Attributes:
        later: fields that documents without them are older than: told where they are not the default.
    """

    later: typing.ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, kind in _fields(type(self)).items():
            object.__setattr__(self, name, _checked(name, kind, getattr(self, name)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Self:
        """Settings from plain data; FdifError naming the key that is unknown or impossible."""
        if not isinstance(data, Mapping):
            raise FdifError(f"{where} must be a table, not {data!r}")
        known = _fields(cls)
        for key in data:
            if key not in known:
                raise unknown(f"key in {where}:", key, known)
        for field in dataclasses.fields(cls):
            needed = field.default is field.default_factory is dataclasses.MISSING
            if needed and field.name not in data:
                raise FdifError(f"{where}: the key {field.name!r} is missing")
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """All keys as plain lists, numbers, strings, booleans and tables, but those of ``later`` at their defaults."""
        kinds = _fields(type(self))
        return {
            field.name: _plain(getattr(self, field.name), kinds[field.name])
            for field in dataclasses.fields(self)
            if field.name not in self.later or getattr(self, field.name) != _default(field)
        }


class Choice(Plain):
    """Base of settings of several kinds; a table says which by its key ``kind``."""

    kind: typing.ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """All keys, ``kind`` first."""
        return {"kind": self.kind, **super().to_dict()}


def read_choice(data: Any, kinds: Mapping[str, Any], what: str, default: str | None = None) -> Any:
    """Settings of the kind that a table names by its key ``kind``, or of the ``default`` where it names none.

    ``kinds`` has classes of settings by kind, or where one is: ``"package.module:Class"``; ``what`` is what errors call
    the settings.

    Raises:
        FdifError: it is no table, names no kind or an unknown one, or has a key that is unknown or impossible.
    """
    if not isinstance(data, Mapping) or ("kind" not in data and default is None):
        raise FdifError(f"{what} must be a table with the key kind, not {data!r}")
    rest = dict(data)
    kind = rest.pop("kind", default)
    if not isinstance(kind, str) or kind not in kinds:
        raise unknown(f"kind of {what}", str(kind), kinds)
    found = kinds[kind]
    return (pkgutil.resolve_name(found) if isinstance(found, str) else found).from_dict(rest, what)


def at_least(settings: Plain, low: float, *names: str) -> None:
    """Raise an FdifError if one of these fields is below ``low`` (or is not a number)."""
    for name in names:
        value = getattr(settings, name)
        if not value >= low:
            raise FdifError(f"{name} must be {low:g} or more, not {value:g}")


def fractions(settings: Plain, *names: str, of: str = "") -> None:
    """Raise an FdifError if one of these fields is not a fraction from 0 to 1; ``of`` says whose it is."""
    at_least(settings, 0, *names)
    for name in names:
        if (value := getattr(settings, name)) > 1:
            raise FdifError(f"{name}{of} must be a fraction from 0 to 1, not {value:g}")


def ascending(settings: Plain, *names: str, of: str = "") -> None:
    """Raise an FdifError if one of these fields is not two numbers, 0 <= low <= high; ``of`` says whose it is."""
    for name in names:
        check_ascending(f"{name}{of}", getattr(settings, name))


def check_ascending(what: str, ends: tuple[float, float]) -> None:
    """Raise an FdifError that calls two numbers ``what`` unless 0 <= low <= high."""
    low, high = ends
    if not 0 <= low <= high:
        raise FdifError(f"{what} must be two numbers with 0 <= low <= high, not {[low, high]}")


class Difference(NamedTuple):
    """What two tables do not have in common: a key, the keys above it joined by dots, and its values as JSON."""

    key: str
    there: str
    here: str

    def __str__(self) -> str:
        return f"{self.key} is {self.there} there and {self.here} here"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[Difference]:
    """The keys of which two tables of plain data hold different values; None is as good as no value."""
    old, new = flattened(there), flattened(here)
    return [
        Difference(key, _short(old, key), _short(new, key))
        for key in old | new
        if old.get(key) != new.get(key)
    ]


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def first_few(items: Sequence[Any]) -> str:
    """The first four items in words, and how many more there are."""
    more = [f"and {len(items) - 4} more"] if len(items) > 4 else []
    return ", ".join([*map(str, items[:4]), *more])


def _short(flat: Mapping[str, Any], key: str) -> str:
    text = json.dumps(flat[key]) if key in flat else "not set"
    return text if len(text) <= 60 else text[:57] + "..."


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _fields(cls: type[Plain]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _plain(value: Any, kind: Any = None) -> Any:
    if isinstance(value, Plain):
        return value.to_dict()
    if _entry_of(kind):
        return {name: _plain(entry) for name, entry in value}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _entry_of(kind: Any) -> Any:
    """What the entries of a table are; None for a kind that is no table."""
    pair = typing.get_args(kind)[:1]
    parts = typing.get_args(pair[0]) if pair else ()
    return parts[1] if len(parts) == 2 and parts[0] is str else None


def _checked(key: str, kind: Any, value: Any) -> Any:
    if entry_kind := _entry_of(kind):
        pairs = list(value.items()) if isinstance(value, Mapping) else value
        if not (isinstance(pairs, (list, tuple)) and all(map(_is_pair, pairs))):
            raise FdifError(f"{key} must be a table, not {value!r}")
        return tuple((name, _checked(f"{key}.{name}", entry_kind, entry)) for name, entry in pairs)
    if isinstance(kind, type) and issubclass(kind, Plain):
        return value if isinstance(value, kind) else kind.from_dict(value, key)
    if kind in _SEQUENCES:
        words, length, is_entry, entry = _SEQUENCES[kind]
        fits = isinstance(value, (list, tuple)) and length in (None, len(value)) and all(map(is_entry, value))
        if not fits:
            raise FdifError(f"{key} must be {words}, not {value!r}")
        return tuple(map(entry, value))
    if kind is int and _is_integer(value):
        return int(value)
    if kind is float and _is_number(value):
        return float(value)
    if kind in (bool, str) and type(value) is kind:
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    if kind in wanted:
        raise FdifError(f"{key} must be {wanted[kind]}, not {value!r}")
    return value  # a field that its class checks itself


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float can be."""
    return isinstance(value, float) or (_is_integer(value) and abs(int(value)) < _BEYOND)


_BEYOND = 2**1024  # all floats are less
_SEQUENCES: dict[Any, tuple[str, int | None, Callable[[Any], bool], Callable[[Any], Any]]] = {
    tuple[int, int, int]: ("three whole numbers (D, H, W)", 3, _is_integer, int),
    tuple[float, float]: ("two numbers", 2, _is_number, float),
    tuple[float, float, float]: ("three numbers", 3, _is_number, float),
    tuple[float, ...]: ("a list of numbers", None, _is_number, float),
    tuple[int, ...]: ("a list of whole numbers", None, _is_integer, int),
    tuple[tuple[int, ...], ...]: (
        "a list of lists of whole numbers",
        None,
        lambda value: isinstance(value, (list, tuple)) and all(map(_is_integer, value)),
        lambda value: tuple(map(int, value)),
    ),
    tuple[str, ...]: ("a list of names", None, lambda value: isinstance(value, str), str),
}
