"""What an evaluation came to: a line a case and class, means with intervals, tables in the terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import Measure
from fdif_jax.evaluation.scoring import bootstrap_interval, mean_defined
from fdif_jax.scripts.console.tables import table_of

if TYPE_CHECKING:
    from fdif_jax.viewing.viz import Colour

Score = Literal[Measure, "ece", "brier"]
CALIBRATION: tuple[Score, ...] = ("ece", "brier")


class Column(NamedTuple):
    """How a score is shown."""

    group: str  # the table that it is in
    field: str  # its name in files
    heading: str
    digits: int
    formula: str  # with P the predicted voxels of a class, L the labelled ones


COLUMNS: Mapping[Score, Column] = {
    "dice": Column("overlap", "dice", "Dice", 4, "2 |P ∩ L| / (|P| + |L|)"),
    "sensitivity": Column("overlap", "sensitivity", "sensitivity", 4, "|P ∩ L| / |L|"),
    "precision": Column("overlap", "precision", "precision", 4, "|P ∩ L| / |P|"),
    "volume": Column("volume", "volume_difference_ml", "volume difference ml", 2, "|P| − |L|"),
    "relative_volume": Column(
        "volume", "relative_volume_difference", "relative volume difference", 4, "(|P| − |L|) / |L|"
    ),
    "nsd": Column("surfaces", "nsd", "NSD", 4, "part of both surfaces within the tolerance of the other"),
    "hd95": Column(
        "surfaces", "hd95_mm", "HD95 mm", 2, "distance within which 95 % of a surface is of the other"
    ),
    "assd": Column("surfaces", "assd_mm", "ASSD mm", 3, "mean distance to the other surface, over both"),
    "ece": Column(
        "calibration", "ece", "ECE", 4, "mean |probability − frequency| over 15 bins of probability"
    ),
    "brier": Column("calibration", "brier", "Brier", 4, "mean (probability − truth)²"),
}
"""Every score, in the order in which they are shown."""


class Mean(NamedTuple):
    """The mean over cases of what is defined, its 95 % bootstrap interval, and of how many cases it is."""

    mean: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of cases.

    Attributes:
        cases: their names.
        classes: names of classes, and of regions after them.
        regions: how many of these are regions, which count in no mean over classes.
        measures: what was scored.
        values: ``(cases, classes, measures)``, NaN where undefined.
        bins: what `calibration.reliability` counted of each class in all cases, ``(classes, BINS, 4)``; None where no
            prediction has probabilities.
        ids: of the classes, and numbers after them of the regions, by which they are coloured.
        tolerance: of NSD, mm.
        surface: what surfaces are measured by.
    """

    cases: Sequence[str]
    classes: Sequence[str]
    regions: int
    measures: Sequence[Score]
    values: np.ndarray
    bins: np.ndarray | None
    ids: Sequence[int]
    tolerance: float
    surface: str

    @cached_property
    def colours(self) -> "Mapping[int, Colour]":
        """Of the classes, in their order, by their ids."""
        from fdif_jax.viewing.viz import class_colours

        return class_colours(self.ids)

    @property
    def per_case(self) -> np.ndarray:
        """Of every case its mean over classes, ``(cases, measures)``."""
        return mean_defined(self.values[:, : len(self.classes) - self.regions], axis=1)

    def worst(self, count: int) -> list[int]:
        """The cases of the least mean Dice, worst first."""
        dice = self.per_case[:, 0]
        return [int(number) for number in np.argsort(dice) if not np.isnan(dice[number])][:count]

    @cached_property
    def means(self) -> dict[str, list[Mean]]:
        """Of every class, and of ``mean``, each case's mean over its classes: its measures' means over cases."""
        rows = [*zip(self.classes, self.values.swapaxes(0, 1), strict=True), ("mean", self.per_case)]
        return {name: [_mean(column) for column in values.T] for name, values in rows}

    def heading(self, measure: Score) -> str:
        """What stands above a measure's numbers."""
        return f"NSD {self.tolerance:g} mm" if measure == "nsd" else COLUMNS[measure].heading

    def rows(self) -> Iterator[Sequence[str]]:
        """Headings, and a row a case and class."""
        yield "case", "class", *(COLUMNS[measure].field for measure in self.measures)
        for case, table in zip(self.cases, self.values, strict=True):
            for name, values in zip(self.classes, table, strict=True):
                yield case, name, *("" if np.isnan(v) else f"{v:.6g}" for v in values)

    def document(self) -> dict[str, Any]:
        """Means of every class with their intervals, and every case's, as plain data; undefined is None."""
        fields = [COLUMNS[measure].field for measure in self.measures]
        return {
            "cases": len(self.cases),
            "tolerance_mm": self.tolerance,
            "surface": self.surface,
            "classes": {
                name: {f: _plain(mean._asdict()) for f, mean in zip(fields, row, strict=True)}
                for name, row in self.means.items()
            },
            "per_case": {
                case: _plain(dict(zip(fields, row.tolist(), strict=True)))
                for case, row in zip(self.cases, self.per_case, strict=True)
            },
        }

    def tables(self) -> Iterator[Table]:
        """A table of means a group of measures, to be printed."""
        title: str | None = f"{len(self.cases)} cases, mean [95 % interval], surfaces by {self.surface}"
        for group in dict.fromkeys(COLUMNS[measure].group for measure in self.measures):
            places = [i for i, measure in enumerate(self.measures) if COLUMNS[measure].group == group]
            yield self._table(places, group == "surfaces", title)
            title = None

    def _table(self, places: Sequence[int], distances: bool, title: str | None) -> Table:
        """Some measures; with how many cases have a class, and of ``distances`` of how many it has none."""
        headings = ["class", "cases", *(self.heading(self.measures[i]) for i in places)]
        lines = []
        for name, row in self.means.items():
            there = row[0].cases  # that have a Dice
            cells = [shown(row[i], COLUMNS[self.measures[i]].digits) for i in places]
            missing = there - min(row[i].cases for i in places)
            lines.append([name, str(there), *cells, *[str(missing or "")] * distances])
        headings += ["no distance"] * distances
        return table_of(headings, lines, title=title, box=box.SIMPLE_HEAD)


def _mean(values: np.ndarray) -> Mean:
    return Mean(float(mean_defined(values)), *bootstrap_interval(values), int((~np.isnan(values)).sum()))


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def shown(mean: Mean, digits: int) -> str:
    """A mean and its interval in words."""
    if np.isnan(mean.mean):
        return "-"
    return f"{mean.mean:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def names_of(cases: Iterable[Mapping[Path, Mapping[int, str]]], ids: Sequence[int]) -> tuple[str, ...]:
    """What labels are called: as the segments of the files of cases, else by their numbers.

    FdifError, naming a file, if another calls one of its segments differently.
    """
    names: dict[int, str] = {}
    for path, named in (item for case in cases for item in case.items()):
        for number, name in named.items():
            if names.setdefault(number, name) != name:
                raise FdifError(
                    f"{path}: calls label {number} {name!r}, and another file {names[number]!r}; give the dataset's "
                    "JSON list as --dataset, by whose names labels then go"
                )
    called = [names.get(number, "") for number in ids]
    return tuple(
        name if name and called.count(name) == 1 else f"{name} {number}".strip()
        for number, name in zip(ids, called, strict=True)
    )
