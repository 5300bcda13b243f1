"""Settings of a command by name: files of its options, shipped ones or a user's own."""

import dataclasses
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import parsed

SHIPPED = Path(__file__).parent / "presets"

Config = TypeVar("Config")


def preset_of(arguments: Sequence[str], config: Callable[..., Config]) -> Config | None:
    """The options that ``--preset`` among a command's arguments stands for, or None without it.

    ``config`` makes the command's options of those that a preset sets; the others have their defaults.

    Raises:
        FdifError: no such preset, or it is damaged or sets what is no option or has another type.
    """
    name = _asked(arguments)
    if name is None:
        return None
    path = Path(name)
    if path.suffix != ".toml":
        shipped = sorted(p.stem for p in SHIPPED.glob("*.toml"))
        if name not in shipped:
            raise unknown("preset", name, shipped)
        path = SHIPPED / f"{name}.toml"
    try:
        settings = parsed(tomllib.loads, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FdifError(f"--preset {name}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise FdifError(f"--preset {name}: no TOML: {error}") from None
    plain = config()
    known = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}  # type: ignore[arg-type]
    for key, value in settings.items():
        if key not in known:
            raise unknown(f"option in preset {name}", key, known)
        _check_type(name, key, value, known[key])
    lists = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    return config(**settings | lists)


def _asked(arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument.startswith("--preset="):
            return argument.partition("=")[2]
        if argument == "--preset" and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def _check_type(preset: str, key: str, value: Any, default: Any) -> None:
    """What a default says of the type; where it is None, anything will be checked by the option itself."""
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (list,)}
    expected = kinds.get(type(default))
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
        raise FdifError(f"preset {preset}: {key} must be like {default!r}, not {value!r}")
