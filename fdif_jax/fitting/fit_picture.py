"""A picture of masks and of the shapes fitted to them, in three planes."""

import os
from collections.abc import Sequence

import numpy as np

from fdif_jax.extras import needing
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.sdf.masks import extent
from fdif_jax.viewing.viz import save_figure

with needing("pictures"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

_FINE = 200  # points of the outline's mesh along each side of a panel
_MASK, _SHAPE = "0.72", "tab:red"
_AXES, _ACROSS = ("first", "second", "third"), ((1, 2), (0, 2), (0, 1))


def save_fits(fits: Sequence[Fit], path: str | os.PathLike, titles: Sequence[str] = ()) -> None:
    """Write a PNG with a row a fit: across each axis of the volume the slice with most of the mask, and the outline.

    Panels are in millimetres, so that voxels have their true form; the outline is that of the shape itself, not of its
    voxels. Titles are the family, its Dice and the mask's name if not given.
    """
    titles = titles or [f"{fit.family.name}   Dice {fit.dice:.3f}   {fit.mask.name}" for fit in fits]
    figure = Figure(figsize=(9.6, 3.5 * len(fits) + 0.3), layout="constrained")
    rows = figure.subfigures(len(fits), 1, squeeze=False)[:, 0]
    for row, fit, title in zip(rows, fits, titles, strict=True):
        row.suptitle(title, fontsize=11)
        for axis, panel in enumerate(row.subplots(1, 3)):
            _draw(panel, fit, axis)
    handles = [Patch(color=_MASK, label="mask"), Line2D([], [], color=_SHAPE, label="shape")]
    rows[-1].legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)


def _draw(panel: Axes, fit: Fit, axis: int) -> None:
    """The slice across an axis that holds most of the mask."""
    inside, affine = fit.mask.inside, fit.mask.affine
    rows, columns = across = _ACROSS[axis]
    cut = int(np.count_nonzero(inside, axis=across).argmax())
    height, width = np.linalg.norm(affine[:3, across], axis=0)
    right, top = (inside.shape[columns] - 0.5) * width, (inside.shape[rows] - 0.5) * height
    where = (-0.5 * width, right, -0.5 * height, top)
    plane = np.where(inside.take(cut, axis), 1.0, np.nan)
    panel.imshow(plane, "gray", vmin=0, vmax=1.39, extent=where, origin="lower", interpolation="nearest")
    ends = [_ends(inside, k) for k in across]
    u, v = (np.linspace(first, last, _FINE) for first, last in ends)
    index = np.empty((_FINE, _FINE, 3))
    index[..., axis] = cut
    index[..., rows], index[..., columns] = np.meshgrid(u, v, indexing="ij")
    at = index.reshape(-1, 3) @ affine[:3, :3].T + affine[:3, 3]
    distance = fit.distance(at).reshape(_FINE, _FINE)
    panel.contour(v * width, u * height, distance, levels=[0.0], colors=_SHAPE, linewidths=1.6)
    panel.set(xlim=v[[0, -1]] * width, ylim=u[[0, -1]] * height, aspect="equal")
    panel.set_title(f"{_AXES[axis]} axis, slice {cut}", fontsize=9)
    panel.set_xlabel("mm", fontsize=8)
    panel.tick_params(labelsize=8)


def _ends(inside: np.ndarray, axis: int) -> tuple[float, float]:
    """First and last index along an axis that a panel shows: the mask and a third of it around, in the volume."""
    first, stop = (ends[axis] for ends in extent(inside))
    margin = max(3.0, (stop - first) / 3)
    return max(-0.5, first - margin), min(inside.shape[axis] - 0.5, stop - 1 + margin)
