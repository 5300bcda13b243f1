"""Options that are lists of ``KEY=VALUE``."""

import tomllib
from collections.abc import Sequence
from typing import Any

from fdif_jax.errors import FdifError


def parse_settings(option: str, items: Sequence[str], example: str) -> dict[str, Any]:
    """``name=value`` items as a table; a value is written as in TOML, and quotes of a word may be left out.

    Args:
        option: whose items they are, for messages.
        items: the texts.
        example: what a good one looks like, for messages.

    Raises:
        FdifError: an item is not of that form, or names something a second time.
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
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise FdifError(f"--{option} {item}: {value} is no number, true, false, word or [list]") from None
