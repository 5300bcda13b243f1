"""Pictures of volumes and of training, written as PNG without any global plotting state."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import write_atomic
from fdif_jax.sdf.masks import extent

with needing("pictures"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

_LEGEND_ENTRIES = 14
_LEGEND_COLUMNS = 4
_OPACITY = 0.55
_ROOM = 8.0  # mm around what is labelled, in pictures of outlines
_PLANES = ("sagittal", "coronal", "axial")  # across each canonical axis
_STRIPE = 2  # voxels, of the hatching where voxels are ignored
# Strong tones first, then light ones; grey (14, 15) would not show on a grey image.
_TONES = (*range(0, 14, 2), 16, 18, *range(1, 14, 2), 17, 19)
_COLOURS = [matplotlib.colormaps["tab20"](i)[:3] for i in _TONES]
Colour = tuple[float, float, float]


def save_slices(
    image: np.ndarray,
    label: np.ndarray | None,
    path: str | os.PathLike,
    class_names: Sequence[str] | Mapping[int, str] = (),
    prediction: np.ndarray | None = None,
    title: str | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Write a PNG of three orthogonal slices: the image, and the label (and prediction) laid over it.

    Across each axis the slice with the most labelled voxels is shown; the central one if nothing is labelled.

    Args:
        image: ``(D, H, W)``; grey from its least to its greatest value.
        label: integers ``(D, H, W)``, 0 for background, below 0 (ignored, hatched); None for the
            image alone.
        path: the PNG file.
        class_names: name of label 1, 2, …, or names by label, for the legend; "class 1", … without them.
        prediction: labels in the form of ``label``.
        title: words above all.
        spacing: how far voxels lie apart along z, y, x; slices are as wide and high as they are in space.

    Raises:
        FdifError: the volumes are not 3D and of one shape.
    """
    image, label = np.asarray(image), None if label is None else np.asarray(label)
    given = {"label": label, "prediction": prediction}
    overlays = {name: np.asarray(volume) for name, volume in given.items() if volume is not None}
    for name, volume in overlays.items():
        if image.ndim != 3 or volume.shape != image.shape:
            raise FdifError(
                f"{path}: image {image.shape} and {name} {volume.shape} must be 3D and of one shape"
            )
    cuts = [n // 2 if label is None else _most_labelled(label, axis) for axis, n in enumerate(image.shape)]
    figure = Figure(figsize=(9.0, 3.1 * (1 + len(overlays)) + 0.3), layout="constrained")
    rows = figure.subplots(1 + len(overlays), 3, squeeze=False)
    if title:
        figure.suptitle(title, fontsize=11)
    low, high = float(image.min()), max(float(image.max()), float(image.min()) + 1e-6)
    planes = [
        [volume.take(cut, axis).astype(int) for axis, cut in enumerate(cuts)] for volume in overlays.values()
    ]
    present = sorted(set().union(*(np.unique(plane).tolist() for row in planes for plane in row)))
    colours = class_colours([label for label in present if label > 0])
    for axis, cut in enumerate(cuts):
        grey = (image.take(cut, axis).astype(np.float32) - low) / (high - low)
        up, across = (spacing[other] for other in range(3) if other != axis)
        _show(rows[0, axis], np.repeat(grey[..., None], 3, axis=2), up / across)
        rows[0, axis].set_title(f"{'zyx'[axis]} = {cut}", fontsize=10)
        for row, panels in zip(planes, rows[1:], strict=True):
            _show(panels[axis], _tinted(grey, row[axis], colours), up / across)
    for name, row in zip(("image", *overlays), rows, strict=True):
        row[0].set_ylabel(name, fontsize=10)
    _add_legend(figure, colours, class_names, hatched=bool(present) and present[0] < 0)
    save_figure(figure, path)


def outlines(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    place: Sequence[int],
    colours: Mapping[int, Colour],
    spacing: Sequence[float],
) -> bytes:
    """A PNG of the three planes through a place, cut to what is labelled and around it: the image, and over it the
    outlines of the label (solid) and of the prediction (dashed), a colour a class. A cross is at the place.

    Args:
        image: ``(D, H, W)`` with canonical axes: to the right, the front, and up.
        label, prediction: integers ``(D, H, W)``; what has no colour is not drawn.
        place: indices of a voxel.
        colours: of class ids.
        spacing: millimetres between voxels along each axis.
    """
    first, stop = extent((label > 0) | (prediction > 0))
    room = np.ceil(np.maximum(0.2 * (stop - first), _ROOM / np.asarray(spacing))).astype(int)
    first = np.maximum(np.minimum(first, place) - room, 0)
    box = tuple(map(slice, first, np.maximum(stop, np.add(place, 1)) + room))
    image, label, prediction = image[box].astype(np.float32), label[box], prediction[box]
    at = np.subtract(place, first)
    low, high = np.percentile(image, [0.5, 99.5])
    figure = Figure(figsize=(9.6, 3.5), dpi=110, layout="constrained", facecolor="black")
    for axis, panel in enumerate(figure.subplots(1, 3)):
        across, up = (other for other in range(3) if other != axis)
        grey = np.clip((image.take(at[axis], axis).T - low) / max(high - low, 1e-6), 0, 1)
        _show(panel, np.repeat(grey[..., None], 3, axis=2), spacing[up] / spacing[across])
        for volume, style in ((label, "solid"), (prediction, (0, (2, 1.5)))):
            plane = volume.take(at[axis], axis).T
            for number, colour in colours.items():
                # Amid zeros, so that an outline closes at the edge of the picture, too.
                mask = np.pad(plane == number, 1).astype(np.float32)
                if mask.any():
                    ends = np.arange(mask.shape[1]) - 1, np.arange(mask.shape[0]) - 1
                    width = 2.2 if style == "solid" else 1.4
                    colour = colour if style == "solid" else _pale(colour)
                    panel.contour(*ends, mask, [0.5], colors=[colour], linewidths=width, linestyles=[style])
        panel.plot(at[across], at[up], "+", color="white", markersize=11, markeredgewidth=1)
        panel.set_title(_PLANES[axis], fontsize=9, color="white")
        panel.set(anchor="N", xlim=(-0.5, grey.shape[1] - 0.5), ylim=(-0.5, grey.shape[0] - 0.5))
        panel.spines[:].set_visible(False)
    return png_of(figure)


def _pale(colour: Colour) -> Colour:
    red, green, blue = (0.35 * part + 0.65 for part in colour)
    return red, green, blue


def _most_labelled(label: np.ndarray, axis: int) -> int:
    counts = np.count_nonzero(label > 0, axis=tuple({0, 1, 2} - {axis}))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2


def class_colours(labels: Sequence[int]) -> dict[int, Colour]:
    """A colour for each label: by its id where the palette suffices, else by its rank among those shown."""
    by_id = not labels or max(labels) <= len(_COLOURS)
    return {
        label: _COLOURS[(label - 1 if by_id else rank) % len(_COLOURS)] for rank, label in enumerate(labels)
    }


def _tinted(grey: np.ndarray, plane: np.ndarray, colours: dict[int, Colour]) -> np.ndarray:
    """RGB ``(rows, columns, 3)``: the grey picture with each label's colour over it, hatched below 0."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    for label, colour in colours.items():
        picture[plane == label] = (1 - _OPACITY) * picture[plane == label] + _OPACITY * np.asarray(colour)
    stripes = np.indices(plane.shape).sum(0) // _STRIPE % 2 == 0
    picture[(plane < 0) & stripes] += (1 - _OPACITY) * (1 - picture[(plane < 0) & stripes])
    return picture


def _show(panel: Axes, picture: np.ndarray, aspect: float) -> None:
    panel.imshow(picture, vmin=0, vmax=1, interpolation="nearest", origin="lower", aspect=aspect)
    panel.set(xticks=[], yticks=[])


def _add_legend(
    figure: Figure, colours: dict[int, Colour], class_names: Sequence[str] | Mapping[int, str], hatched: bool
) -> None:
    names = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names, start=1))
    handles = [Patch(color=colour, label=names.get(i, f"class {i}")) for i, colour in colours.items()]
    if len(handles) > _LEGEND_ENTRIES:
        more = Patch(color="none", label=f"and {len(handles) - _LEGEND_ENTRIES} more")
        handles = [*handles[:_LEGEND_ENTRIES], more]
    if hatched:
        handles.append(Patch(fill=False, hatch="///", label="ignored"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


Curve = Sequence[tuple[float, float]]


def save_curves(series: Mapping[str, Curve], path: str | os.PathLike) -> None:
    """Write a PNG of training curves by name, points (step, value), in panels side by side.

    Names that say loss, rate or error go to those panels, others to the scores'.
    """
    panels: dict[str, dict[str, Curve]] = {"loss": {}, "score": {}, "error": {}, "learning rate": {}}
    told = {"loss": "loss", "rate": "learning rate", "error": "error"}
    for name, points in series.items():
        kind = next((panel for word, panel in told.items() if word in name), "score")
        panels[kind][name] = points
    save_panels({title: group for title, group in panels.items() if group}, path)


def save_panels(panels: Mapping[str, Mapping[str, Curve]], path: str | os.PathLike) -> None:
    """Write a PNG of curves over steps, in panels side by side; a name has one colour in all, and one legend.

    ``panels`` are title → name → points (step, value). One called "score" goes from 0 to 1.
    """
    names = list(dict.fromkeys(name for group in panels.values() for name in group))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    rows = -(-len(names) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(6.0 * max(len(panels), 1), 3.8 + 0.22 * rows), layout="constrained")
    for axes, (title, group) in zip(
        np.ravel(figure.subplots(1, max(len(panels), 1))), panels.items(), strict=False
    ):
        for name, points in group.items():
            steps, values = np.asarray(points, np.float64).reshape(-1, 2).T
            marker = "o" if len(steps) < 30 else None
            axes.plot(
                steps, values, label=name, color=colours[name], linewidth=1.4, marker=marker, markersize=3
            )
        axes.set(xlabel="step", ylabel=title)
        if title == "score":
            axes.set_ylim(0, 1)
        plain_axes(axes)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=9, frameon=False
        )
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as a PNG that is the same every time; ``path`` is complete or not there."""
    write_atomic(path, png_of(figure))


def png_of(figure: Figure) -> bytes:
    """The bytes of a figure as a PNG, the same every time. Its names are shown as they are, and never as formulas."""
    for text in figure.findobj(Text):
        shown = text.get_text()
        if "$" in shown or not shown.isprintable():
            text.set(parse_math=False, text=shown.encode("utf-8", "replace").decode())
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    return picture.getvalue()


def plain_axes(axes: Axes) -> None:
    """A faint grid, and no frame above and on the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
