"""Options that are numbers with a least value, and lists of ``KEY=VALUE``."""

import tomllib
from collections.abc import Sequence
from typing import Any

import tyro

from fdif_jax.errors import FdifError
from fdif_jax.io.files import parsed


def shown(metavar: str, default: str = "the recipe's") -> Any:
    """How the help shows an option, and its default in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


def check_least(options: object, words: str = "at least {}", **least: int) -> None:
    """Raise FdifError, in these words, if an option that is given is below its least value."""
    for name, value in least.items():
        given = getattr(options, name)
        if given is not None and given < value:
            raise FdifError(f"--{name.replace('_', '-')} must be {words.format(value)}, not {given}")


def parse_settings(option: str, items: Sequence[str], example: str) -> dict[str, Any]:
    """``name=value`` items as a table; a value is written as in TOML, and quotes of a word may be left out.

    FdifError, which names the ``option`` and shows an ``example``, if an item is not of that form or comes twice.
    """
    settings: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (equals and name.isidentifier() and value):
            raise FdifError(f"--{option} {item}: must be name=value, as {example}")
        if name in settings:
            raise FdifError(f"--{option} {item}: {name} is given twice")
        settings[name] = _value(option, item, value)
    return settings


def _value(option: str, item: str, value: str) -> Any:
    if value.replace("_", "").isalnum() and value[0].isalpha() and value not in ("true", "false"):
        return value
    try:
        return parsed(tomllib.loads, f"value = {value}")["value"]
    except ValueError:
        raise FdifError(f"--{option} {item}: {value} is no number, true, false, word or [list]") from None
