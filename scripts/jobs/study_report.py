"""What a study came to: a table in the terminal and in Markdown, every number as CSV and JSON, and two plots."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.statistics import LEARNT, Result, Summary, summarise
from fdif_jax.extras import needing
from fdif_jax.io.files import write_atomic, write_csv, write_json
from fdif_jax.scripts.console.tables import table_of
from fdif_jax.scripts.jobs.study import Study, load_results, load_tuned
from fdif_jax.viewing.viz import plain_axes, save_figure

with needing("pictures"):
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CSV, JSON, MARKDOWN, DICE, CURVES = "results.csv", "results.json", "table.md", "dice.png", "curves.png"

# Colours that colour-blind eyes tell apart (Okabe and Ito 2008, Color Universal Design); grey for the baseline.
_COLOURS = ("#555555", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800")
_MARKERS = "osD^vP*X"
_COURSE = (
    f"Steps to where the baseline ends, of the baseline's; seeds with a class below Dice {LEARNT:g} are stuck"
)
_PANELS = 2  # side by side
_LETTERS = 96  # that a line of the legend holds
_BANDS = 5  # so many curves can have bands and still be told apart


class StudyReport(NamedTuple):
    """What there is to report of a study."""

    folder: Path  # where the study is
    study: Study  # what it asks
    results: Sequence[Result]  # of the cells that are finished
    summaries: Sequence[Summary]  # of those results
    tuned: Mapping[str, Mapping[str, Any]]  # what tuning chose


def read_report(folder: Path, study: Study) -> StudyReport:
    """What is finished of a study; FdifError if nothing is, or the files of a run are damaged."""
    results = load_results(folder, study)
    if not results:
        raise FdifError(f"{folder}: no fine-tuning is finished yet")
    return StudyReport(folder, study, results, summarise(results, study.baseline), load_tuned(folder))


def write_tables(report: StudyReport) -> list[str]:
    """Write what can be read; the names of the files."""
    write_csv(report.folder / CSV, _rows(report.results))
    write_json(report.folder / JSON, _document(report))
    write_atomic(report.folder / MARKDOWN, _markdown(report).encode())
    return [CSV, JSON, MARKDOWN]


def write_plots(report: StudyReport) -> list[str]:
    """Draw the Dice and, where there are validations, the learning curves; the names of the files."""
    save_figure(_dice_figure(report), report.folder / DICE)
    if not any(result.curve for result in report.results):
        return [DICE]
    save_figure(_curves_figure(report), report.folder / CURVES)
    return [DICE, CURVES]


def show(report: StudyReport) -> None:
    """Print the tables."""
    console, tables = Console(), []
    if report.tuned:
        tables.append(_rich("Dice in tuning, by learning rate and warm-up", *_tuning(report.tuned)))
    tables.append(_rich(_title(report.study), *_table(report)))
    if course := _course(report):
        tables.append(_rich(_COURSE, *course))
    # A table that is wider than the terminal is better than one whose numbers are torn.
    unlimited = console.options.update(max_width=10_000)
    console.width = max(console.width, *(Measurement.get(console, unlimited, t).maximum for t in tables))
    for table in tables:
        console.print(table)
    print(_note(report))


def _title(study: Study) -> str:
    return f"Mean Dice after {study.steps:,} steps"


def _note(report: StudyReport) -> str:
    study, results = report.study, report.results
    judged = max(len(result.dice) for result in results)
    unfinished = len(study.cells) - len(results)
    return (
        f"Mean over {judged} validation cases ± standard deviation over seeds"
        + f"; below it the paired difference to {study.baseline} in points with its 95 % bootstrap interval over seeds "
        "and cases"
        * (len(study.inits) > 1)
        + f". Unfinished: {unfinished} of {len(study.cells)} runs" * (unfinished > 0)
        + "."
    )


def _by_cell(report: StudyReport, field: Callable[[Summary], str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: numbers of cases down, initialisations across; several lines in a field."""
    found = {(summary.cases, summary.init): field(summary) for summary in report.summaries}
    inits = report.study.inits
    rows = [[str(n), *(found.get((n, init), "-") for init in inits)] for n in report.study.cases]
    return ["cases", *inits], rows


def _table(report: StudyReport) -> tuple[list[str], list[list[str]]]:
    """Mean Dice and differences, as `_by_cell`."""

    def field(summary: Summary) -> str:
        spread = "" if math.isnan(summary.deviation) else f" ± {summary.deviation:.3f}"
        lines = [f"{summary.mean:.3f}{spread}"]
        if summary.difference:
            low, high = summary.difference.interval
            lines.append(f"{100 * summary.difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        if len(summary.dice) < report.study.seeds:
            lines.append(f"{len(summary.dice)} of {report.study.seeds} seeds")
        return "\n".join(lines)

    return _by_cell(report, field)


def _course(report: StudyReport) -> tuple[list[str], list[list[str]]] | None:
    """How soon and how surely it was learnt, as `_by_cell`; None without curves and stuck seeds."""
    if not any(summary.reached or summary.stuck for summary in report.summaries):
        return None

    def field(summary: Summary) -> str:
        parts = [part for part in summary.reached.values() if math.isfinite(part)]
        never = len(summary.reached) - len(parts)
        lines = [f"{100 * float(np.mean(parts)):.0f} %"] if parts else []
        lines += [f"never: {never} of {len(summary.reached)}"] if never else []
        lines += [f"stuck: {summary.stuck} of {len(summary.dice)}"] if summary.stuck else []
        return "\n".join(lines) or "-"

    return _by_cell(report, field)


def _tuning(tuned: Mapping[str, Mapping]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: initialisations down, pairs across; the chosen one of each with a star."""
    pairs = list(dict.fromkeys((t["lr"], t["warmup"]) for choice in tuned.values() for t in choice["trials"]))
    rows = []
    for init, choice in tuned.items():
        scores = {(trial["lr"], trial["warmup"]): trial["dice"] for trial in choice["trials"]}
        best = (choice["lr"], choice["warmup"])
        texts = (
            "failed" if None in scores[p] else f"{np.mean(scores[p]):.3f}" + " *" * (p == best) for p in pairs
        )
        rows.append([init, *texts])
    return ["", *(f"{lr:g}, {warmup:g}" for lr, warmup in pairs)], rows


def _rich(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    escaped = [list(map(escape, row)) for row in rows]
    table = table_of(map(escape, header), escaped, title=title, box=box.SIMPLE_HEAD, leading=1)
    for column in table.columns:
        column.no_wrap = True
    return table


def _markdown(report: StudyReport) -> str:
    def lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        ruler = [":--", *["--:"] * (len(header) - 1)]
        fields = [[text.replace("\n", "<br>").replace("|", "\\|") for text in row] for row in rows]
        return [f"| {' | '.join(row)} |" for row in (header, ruler, *fields)]

    text = [_title(report.study) + ".", "", *lines(*_table(report)), "", _note(report), ""]
    if course := _course(report):
        text += [_COURSE + ":", "", *lines(*course), ""]
    if report.tuned:
        said = "Learning rate and warm-up (a part of the steps), and the Dice that they reached in tuning:"
        text += [said, "", *lines(*_tuning(report.tuned)), ""]
    return "\n".join(text)


def _rows(results: Sequence[Result]) -> Iterator[Sequence[Any]]:
    yield "init", "cases", "seed", "case", "dice"
    for result in results:
        for name, dice in result.dice.items():
            yield result.init, result.cases, result.seed, name, "" if math.isnan(dice) else f"{dice:.6g}"


def _document(report: StudyReport) -> dict[str, Any]:
    """All numbers of the table as plain data; Dice and differences from 0 to 1, None for what is not defined."""
    choices = report.tuned.items()
    return {
        "study": dataclasses.asdict(report.study),
        "baseline": report.study.baseline,
        "tuned": {init: {key: choice[key] for key in ("lr", "warmup")} for init, choice in choices},
        "results": _defined([dataclasses.asdict(summary) for summary in report.summaries]),
    }


def _defined(value: Any) -> Any:
    """Plain data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _style(study: Study, init: str) -> dict[str, Any]:
    """One look of an initialisation in all plots, by its place in the study."""
    place = list(study.inits).index(init)
    line = ("-", "--", ":")[place // len(_COLOURS) % 3]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": line, "linewidth": 1.8}


def _dice_figure(report: StudyReport) -> Figure:
    """Mean Dice against the number of cases: a point a seed, and the mean with its standard deviation."""
    study = report.study
    figure = Figure(figsize=(8.0, 5.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    for place, init in enumerate(study.inits):
        # Beside one another, so that bars do not hide bars.
        shift = 1.03 ** (place - (len(study.inits) - 1) / 2)
        own = [summary for summary in report.summaries if summary.init == init]
        if not own:
            continue
        places, style = [summary.cases * shift for summary in own], _style(study, init)
        bars = [0.0 if math.isnan(summary.deviation) else summary.deviation for summary in own]
        marker = _MARKERS[place % len(_MARKERS)]
        means = [summary.mean for summary in own]
        axes.errorbar(places, means, bars, label=init, marker=marker, markersize=6, capsize=4, **style)
        for x, summary in zip(places, own, strict=True):
            seeds = list(summary.dice.values())
            axes.plot([x] * len(seeds), seeds, ".", color=style["color"], alpha=0.45, markersize=5)
    axes.set_xscale("log")
    axes.set_xticks(study.cases, [str(n) for n in study.cases])
    axes.set_xlim(study.cases[0] / 1.25, study.cases[-1] * 1.25)
    axes.minorticks_off()
    axes.set(xlabel="labelled training cases", ylabel="mean Dice", title=_title(study))
    plain_axes(axes)
    axes.legend(frameon=False, loc="best")
    return figure


def _curves_figure(report: StudyReport) -> Figure:
    """Validation Dice against steps, a panel a number of cases: the mean over seeds and, of few curves, its deviation.

    In the middle of training nothing is mirrored in prediction, so the end of a curve is not quite the table's Dice.
    """
    measured = [result for result in report.results if result.curve]
    numbers = sorted({result.cases for result in measured})
    columns = min(len(numbers), _PANELS)
    rows = -(-len(numbers) // columns)
    figure = Figure(figsize=(8.0, (2.9 if columns > 1 else 4.5) * rows + 0.5), dpi=130, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown: dict[str, Artist] = {}
    for axes, number in zip(panels.flat, numbers, strict=False):
        for init in report.study.inits:
            curves = [r.curve for r in measured if (r.init, r.cases) == (init, number)]
            if curves:
                band = len(report.study.inits) <= _BANDS
                shown[init] = _draw_curve(axes, curves, _style(report.study, init), band)
        axes.set_title("1 case" if number == 1 else f"{number} cases", fontsize=11)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step")
        plain_axes(axes)
    for axes in panels.flat[len(numbers) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("mean validation Dice")
    names = [init for init in report.study.inits if init in shown]
    columns = max(1, min(len(names), _LETTERS // (max(map(len, names)) + 7)))
    figure.legend([shown[n] for n in names], names, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _draw_curve(
    axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], style: Mapping[str, Any], band: bool
) -> Artist:
    """Mean, and a ``band`` of one deviation, over the steps that all these curves have; the line."""
    tables = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    values = np.array([[table[step] for step in steps] for table in tables])
    mean, deviation = values.mean(0), values.std(0, ddof=1) if len(tables) > 1 else np.zeros(len(steps))
    if band and len(tables) > 1:
        axes.fill_between(
            steps, mean - deviation, mean + deviation, color=style["color"], alpha=0.18, linewidth=0
        )
    marker = "o" if len(steps) < 12 else None
    return axes.plot(steps, mean, marker=marker, markersize=3.5, **style)[0]
