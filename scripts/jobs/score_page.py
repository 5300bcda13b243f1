"""The report of an evaluation: one HTML file that loads nothing, with tables, distributions, pictures of the worst."""

import base64
import json
import string
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.evaluation.calibration import MARGIN, calibration_error
from fdif_jax.extras import needing
from fdif_jax.io.files import write_atomic
from fdif_jax.scripts.jobs.score_tables import COLUMNS, Mean, Score, Scores

with needing("pictures"):
    from matplotlib.colors import to_hex
    from matplotlib.ticker import MaxNLocator

_WIDTH, _LEFT, _ROW, _BOTTOM = 420, 118, 26, 22  # of a distribution: all, names, a class, the axis
_EDGE, _ROOM = 300, 34  # of the calibration's square, and what is around it
_LETTERS = 17  # of a class's name beside a distribution
_SHARES = {"dice", "sensitivity", "precision", "nsd"}  # shown from 0 to 1


class Worst(NamedTuple):
    """A case that is shown as one of the worst.

    Attributes:
        number: its place among the cases.
        picture: a PNG of `viz.outlines`.
        place: where it is worst, mm to the right, front and top.
    """

    number: int
    picture: bytes
    place: Sequence[float]


def write_page(path: Path, scores: Scores, worst: Sequence[Worst], title: str) -> None:
    """Write the report; without ``worst`` cases, and without probabilities, these parts are left out."""
    template = string.Template(
        (resources.files("fdif_jax.scripts") / "web" / "report.html").read_text("utf-8")
    )
    calibration, pictures = _calibration(scores), _worst(scores, worst)
    parts = {"summary": "means", "distributions": "distributions"}
    parts |= {"calibration": "calibration"} if calibration else {}
    parts |= {"worst": "worst cases"} if pictures else {}
    count = len(scores.cases)
    page = template.substitute(
        title=escape(title),
        about=f"{count} case{'s' * (count != 1)}, surfaces by {scores.surface}, made by fdif evaluate",
        links="".join(f'<a href="#{i}">{name}</a>' for i, name in (parts | {"every": "every case"}).items()),
        summary=_summary(scores),
        formulas="".join(
            f"<dt>{escape(scores.heading(m))}</dt><dd>{escape(COLUMNS[m].formula)}</dd>"
            for m in scores.measures
        ),
        distributions="".join(_distribution(scores, m) for m in range(len(scores.measures))),
        calibration=calibration,
        worst=pictures,
        data=_data(scores),
    )
    write_atomic(path, page.encode("utf-8", "replace"))


def _colours(scores: Scores) -> list[str]:
    return [to_hex(colour) for colour in scores.colours.values()]


def _summary(scores: Scores) -> str:
    """The table of means."""
    headings = "".join(f'<th scope="col">{escape(scores.heading(m))}</th>' for m in scores.measures)
    lines = []
    for (name, means), colour in zip(scores.means.items(), [*_colours(scores), None], strict=True):
        key = f'<i class="key" style="background:{colour}"></i>' if colour else ""
        cells = "".join(
            f"<td>{_cell(mean, COLUMNS[m].digits)}</td>"
            for mean, m in zip(means, scores.measures, strict=True)
        )
        kind = "" if colour else ' class="mean"'
        lines.append(f"<tr{kind}><td>{key}{escape(name)}</td><td>{means[0].cases}</td>{cells}</tr>")
    start = '<th scope="col">class</th><th scope="col">cases</th>'
    return f"<table><thead><tr>{start}{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(mean: Mean, digits: int) -> str:
    if np.isnan(mean.mean):
        return "–"
    return f"{mean.mean:.{digits}f}<small>{mean.low:.{digits}f} to {mean.high:.{digits}f}</small>"


def _distribution(scores: Scores, measure: int) -> str:
    """A drawing of one measure: a row a class, a dot a case."""
    name = scores.measures[measure]
    values = scores.values[:, :, measure]
    ticks = _ticks(values[~np.isnan(values)], name)
    if ticks is None:
        return ""
    scale = (_WIDTH - _LEFT - 14) / (ticks[-1] - ticks[0])
    height = _ROW * len(scores.classes) + _BOTTOM

    def x(value: float) -> str:
        return f"{_LEFT + (value - ticks[0]) * scale:.1f}"

    drawn = []
    for tick in ticks:
        drawn.append(f'<path d="M{x(tick)} 0V{height - _BOTTOM}" stroke="#e4e8ec"/>')
        drawn.append(
            f'<text class="soft" x="{x(tick)}" y="{height - 6}" text-anchor="middle">{tick:g}</text>'
        )
    for row, (label, colour) in enumerate(zip(scores.classes, _colours(scores), strict=True)):
        middle = _ROW * (row + 0.5)
        short = label if len(label) <= _LETTERS else f"{label[: _LETTERS - 1]}…"
        drawn.append(
            f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(short)}'
            f"<title>{escape(label)}</title></text>"
        )
        drawn += _row(scores, values[:, row], COLUMNS[name].digits, middle, colour, x)
    heading = escape(scores.heading(name))
    picture = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{heading} by class">{"".join(drawn)}</svg>'
    return f"<div><h3>{heading}</h3>{picture}</div>"


def _row(
    scores: Scores, values: np.ndarray, digits: int, middle: float, colour: str, x: Any
) -> Iterator[str]:
    """Box, median and dots of one class; dots of neighbouring cases lie at other heights."""
    there = np.flatnonzero(~np.isnan(values))
    if not there.size:
        return
    low, median, high = np.quantile(values[there], [0.25, 0.5, 0.75])
    width = max(float(x(high)) - float(x(low)), 1)
    yield (
        f'<rect x="{x(low)}" y="{middle - 8}" width="{width:.1f}" height="16" rx="2" fill="{colour}" '
        f'fill-opacity=".18" stroke="{colour}"/>'
    )
    for case in there:
        height = middle + 5 * ((case * 0.618034) % 1 * 2 - 1)
        told = f"{escape(scores.cases[case])}: {values[case]:.{digits}f}"
        yield (
            f'<circle cx="{x(values[case])}" cy="{height:.1f}" r="2.4" fill="{colour}" fill-opacity=".75">'
            f"<title>{told}</title></circle>"
        )
    yield f'<path d="M{x(median)} {middle - 9}v18" stroke="#1d2430" stroke-width="2"/>'


def _ticks(values: np.ndarray, name: Score) -> np.ndarray | None:
    """Round numbers that hold the values between them; None of no value."""
    if not values.size:
        return None
    low, high = (0.0, 1.0) if name in _SHARES else (min(values.min(), 0.0), max(values.max(), 0.0))
    return np.asarray(MaxNLocator(5).tick_values(low, high if high > low else low + 1))


def _calibration(scores: Scores) -> str:
    """The section of the calibration diagram; empty without probabilities."""
    if scores.bins is None or not scores.bins.any():
        return ""
    drawn, lines = (
        [f'<path d="M0 {_EDGE}L{_EDGE} 0" stroke="#667080" stroke-dasharray="5 4" fill="none"/>'],
        [],
    )
    for tick in np.linspace(0, 1, 6):
        at = tick * _EDGE
        drawn.append(f'<path d="M{at:.1f} 0v{_EDGE}M0 {at:.1f}h{_EDGE}" stroke="#e4e8ec"/>')
        drawn.append(f'<text class="soft" x="{at:.1f}" y="{_EDGE + 14}" text-anchor="middle">{tick:g}</text>')
        drawn.append(f'<text class="soft" x="-6" y="{_EDGE - at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for name, bins, colour in zip(scores.classes, scores.bins, _colours(scores), strict=True):
        voxels, confidence, frequency, _ = bins[bins[:, 0] > 0].T
        if not voxels.size:
            continue
        points = [
            (p * _EDGE, _EDGE - y * _EDGE)
            for p, y in zip(confidence / voxels, frequency / voxels, strict=True)
        ]
        path = "L".join(f"{across:.1f} {up:.1f}" for across, up in points)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (across, up), count in zip(points, voxels, strict=True):
            told = f"{escape(name)}: {count:,.0f} voxels, {across / _EDGE:.3f} said, {1 - up / _EDGE:.3f} are"
            drawn.append(
                f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3.5" fill="{colour}"><title>{told}</title></circle>'
            )
        key = f'<i class="key" style="background:{colour}"></i>{escape(name)}'
        lines.append(
            f"<tr><td>{key}</td><td>{calibration_error(bins):.4f}</td><td>{voxels.sum():,.0f}</td></tr>"
        )
    box = f"{-_ROOM - 12} -8 {_EDGE + _ROOM + 24} {_EDGE + _ROOM + 10}"
    axes = (
        f'<text x="{_EDGE / 2}" y="{_EDGE + 29}" text-anchor="middle">probability</text>'
        f'<text transform="translate(-34 {_EDGE / 2}) rotate(-90)" text-anchor="middle">frequency</text>'
    )
    picture = f'<svg viewBox="{box}" role="img" aria-label="calibration diagram">{"".join(drawn)}{axes}</svg>'
    table = (
        '<table><thead><tr><th scope="col">class</th><th scope="col">ECE, all cases as one</th>'
        f'<th scope="col">voxels</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
    told = (
        "Of the voxels that are given a probability, how many are of the class: on the dashed line a prediction is as "
        f"sure as it is right, below it too sure. Counted in a box around each class, {MARGIN:g} mm wider."
    )
    return (
        f'<section id="calibration"><h2>Calibration</h2><div class="calibration">{picture}<div>{table}</div></div>'
        f'<p class="soft">{told}</p></section>'
    )


def _worst(scores: Scores, worst: Sequence[Worst]) -> str:
    """The section of the worst cases; empty without any."""
    figures, count = [], len(scores.classes)
    for number, picture, place in worst:
        case, means = escape(scores.cases[number]), scores.per_case[number]
        told = ", ".join(
            f"{escape(scores.heading(m))} {v:.{COLUMNS[m].digits}f}"
            for m, v in zip(scores.measures, means, strict=True)
            if not np.isnan(v)
        )
        where = ", ".join(f"{mm:.1f}" for mm in place)
        data = base64.b64encode(picture).decode()
        figures.append(
            f'<figure><figcaption><h3>{case}</h3><span class="soft">{told}. The cross is deepest in what is wrong, at '
            f'({where}) mm to the right, front and top.</span></figcaption><img alt="{case}: outlines in three planes" '
            f'src="data:image/png;base64,{data}"></figure>'
        )
    if not figures:
        return ""
    keys = "".join(
        f'<i class="key" style="background:{colour}"></i>{escape(name)}&ensp;'
        for name, colour in [*zip(scores.classes, _colours(scores), strict=True)][: count - scores.regions]
    )
    return (
        '<section id="worst"><h2>Worst cases</h2><p class="soft">By mean Dice. Solid: the reference; pale and dashed: '
        f"the prediction. {keys}</p>{''.join(figures)}</section>"
    )


def _data(scores: Scores) -> str:
    """The table of cases as JSON that is safe inside a script element."""

    def plain(table: np.ndarray) -> list[list[float | None]]:
        return [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in table]

    document = {
        "measures": [{"heading": scores.heading(m), "digits": COLUMNS[m].digits} for m in scores.measures],
        "classes": ["mean over classes", *scores.classes],
        "cases": list(scores.cases),
        "values": [plain(scores.per_case), *map(plain, scores.values.swapaxes(0, 1))],
    }
    return json.dumps(document).replace("<", "\\u003c")
