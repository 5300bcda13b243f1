"""Grouped classes: which families a recipe's label map tells apart, and which it leaves to the background."""

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

from fdif_jax.errors import FdifError
from fdif_jax.settings import Plain, at_least

_SIDES = {"left": "right", "right": "left"}

Patterns = tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Grouping(Plain):
    """How families become classes; each its own by default.

    All families are drawn as before. Grouping decides what they are called in the label map.

    Attributes:
        sides: families whose names differ by ``left`` and ``right`` alone are one class, as ``kidney_left`` and
            ``kidney_right`` are ``kidney``.
        groups: classes of several families: a table of names, each with a list of families, ``*`` for any letters.
        largest: keep only this many classes, those with the largest organs, in falling order; the others are
            background. 0 keeps all.

    Raises:
        FdifError: a value of the wrong type.
    """

    sides: bool = False
    groups: Patterns = ()
    largest: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "largest")
        for name, patterns in self.groups:
            if not name or not patterns:
                raise FdifError(f"groups.{name} must be a list of families, not {list(patterns)!r}")

    def named(self, families: Sequence[str], volumes: Mapping[str, float]) -> dict[str, str]:
        """What each family is called as a class; those that are background are left out. Classes come in order.

        Args:
            families: names.
            volumes: of families, where they are known.

        Raises:
            FdifError: a pattern that no family, or a family that two groups match; or ``largest`` without volumes.
        """
        chosen: dict[str, str] = {}
        for group, patterns in self.groups:
            for pattern in patterns:
                matched = fnmatch.filter(families, pattern)
                if not matched:
                    raise FdifError(
                        f"classes.groups.{group}: {pattern!r} is the name of no family of the recipe"
                    )
                for family in matched:
                    if chosen.setdefault(family, group) != group:
                        raise FdifError(
                            f"classes.groups: {family} belongs to {chosen[family]} and to {group}"
                        )
        names = {family: chosen.get(family, self._sideless(family, families)) for family in families}
        return self._kept(names, volumes) if self.largest else names

    def _sideless(self, family: str, families: Sequence[str]) -> str:
        """The name without its side, where the other side is there, too."""
        words = family.split("_")
        for i, word in enumerate(words):
            other = "_".join([*words[:i], _SIDES.get(word, ""), *words[i + 1 :]])
            if self.sides and word in _SIDES and other in families:
                return "_".join(words[:i] + words[i + 1 :]) or family
        return family

    def _kept(self, names: Mapping[str, str], volumes: Mapping[str, float]) -> dict[str, str]:
        sizes: dict[str, float] = {}
        for family, name in names.items():
            if family not in volumes:
                raise FdifError(f"classes.largest needs the volumes of a bank of organs; {family} is of none")
            sizes[name] = sizes.get(name, 0.0) + volumes[family]
        order = sorted(sizes, key=lambda name: -sizes[name])[: self.largest]
        return {family: kept for kept in order for family, name in names.items() if name == kept}
