"""Pictures of the programme's figures."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fdif_jax.scripts.benchmarks.gpu.figures import read
from fdif_jax.viewing.viz import save_figure

_PARTS = ("generate", "forward", "backward", "update")


def draw(folder: Path) -> None:
    """Draw what there is: rates of the renderers, and steps beside PyTorch's."""
    if rates := read(folder, "rates"):
        figure = _rates_figure(rates, read(folder, "machine"), read(folder, "reference"))
        save_figure(figure, folder / "pictures" / "rates.png")
    if steps := read(folder, "steps"):
        save_figure(_steps_figure(steps, read(folder, "rivals")), folder / "pictures" / "steps.png")


def _rates_figure(rates: dict[str, Any], machine: dict[str, Any], reference: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for way in ("kernel", "branch-free", "scan", "draw"):
        found = {
            int(name.removeprefix(f"{way} ")): row["volumes_per_second"]
            for name, row in rates.items()
            if name.startswith(f"{way} ") and "failed" not in row
        }
        if found:
            label = "drawing the objects alone" if way == "draw" else way
            axes.plot(list(found), list(found.values()), "o--" if way == "draw" else "o-", label=label)
    bandwidth = machine.get("peaks float32", {}).get("bytes")
    flops, work = machine.get("float32 flops"), reference.get("work", {}).get("flops")
    if bandwidth and "bytes" in rates:
        axes.axhline(bandwidth / rates["bytes"], color="0.6", ls=":", label="memory's ceiling")
    if flops and work:
        axes.axhline(flops / work, color="0.4", ls="-.", label="arithmetic's ceiling")
    axes.set(xscale="log", yscale="log", xlabel="scenes in a call", ylabel="volumes a second")
    axes.legend()
    return figure


def _steps_figure(steps: dict[str, Any], rivals: dict[str, Any]) -> Figure:
    rows: list[tuple[str, dict[str, float]]] = []
    for name, row in ((n.removesuffix(" parts"), row) for n, row in steps.items() if n.endswith(" parts")):
        if "failed" not in row:
            rows.append((f"{name}, fdif-jax", {part: row["seconds"][part] for part in _PARTS}))
            for rival in (name, f"{name} compiled"):
                for how in ("memory", "files"):
                    measured = rivals.get(rival, {}).get(how)
                    if measured:
                        rows.append((f"{rival}, PyTorch from {how}", {"whole step": measured["seconds"]}))
    figure = Figure(figsize=(8, 0.45 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    colours = dict(zip((*_PARTS, "whole step"), ("C2", "C0", "C1", "C3", "0.6"), strict=True))
    for place, (_, parts) in enumerate(rows):
        left = 0.0
        for part, seconds in parts.items():
            axes.barh(place, 1e3 * seconds, left=left, color=colours[part])
            left += 1e3 * seconds
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlabel("ms a step")
    axes.legend([Patch(color=c) for c in colours.values()], list(colours))
    return figure
