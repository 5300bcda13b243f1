"""What scans are like, and a recipe whose scenes are like them: grid, spacing, intensities, sharpness, object sizes.

Only statistics are kept; no voxel of a scan is. Blur is measured as if surfaces were steps: where a step is blurred by
a Gaussian of deviation σ, the mean squared difference of voxels h apart is in proportion to E|Z + h| - E|Z| with Z
normal of deviation √2·σ (the energy distance of two shifted normals; Székely and Rizzo 2013). Two distances tell σ.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, special

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.folders import is_one_scan, volumes_in
from fdif_jax.datasets.reader import has_list, list_cases, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing.fingerprints import choose_patch
from fdif_jax.preprocessing.scans import Scan, read_image, read_scan
from fdif_jax.scenes.recipe import Recipe
from fdif_jax.sdf.grid import Grid

CASES = 32  # at most, evenly from all
_QUANTILES = 17
_RANGE = (0.5, 99.5)  # percentiles of the intensities that are 0 and 1
_AIR = 0.1  # corners darker than this part of the range are air
_MULTIPLE = (16, 16, 16)  # what edges of the grid are multiples of
_LEAST = 8  # voxels of an object
_MIXED = 0.5  # voxels; the blur that partial volume is as good as
_SQUASHED = 1.25  # a blur or an edge of a voxel this many times another is no chance
_NEIGHBOURHOOD = 5  # voxels; edge of the boxes that noise is measured in
_BLURS = np.linspace(0.05, 3.0, 60)


class Measured(NamedTuple):
    """One scan, or the medians of several.

    Attributes:
        shape: voxels of the box with what is not 0, ``(3,)``.
        spacing: mm, ``(3,)``.
        levels: of each channel, 17 evenly spaced quantiles of its intensities, 0 … 1, without air, ``(C, 17)``.
        air: whether corners are dark, of each channel, ``(C,)``.
        noise: its deviation in the quietest quarter of the voxels, as part of the range, ``(C,)``.
        blur: deviation in voxels of the Gaussian that blurs surfaces along each axis, ``(C, 3)``.
        sizes: geometric means of the edges of every labelled object's box, voxels, ``(N,)``; none without labels.
    """

    shape: np.ndarray
    spacing: np.ndarray
    levels: np.ndarray
    air: np.ndarray
    noise: np.ndarray
    blur: np.ndarray
    sizes: np.ndarray


class Likeness(NamedTuple):
    """What a dataset's scans are like: how many there were, their channels, and their medians (`Measured`).

    Of ``air`` the mean is kept, and of ``sizes`` all.
    """

    cases: int
    channel_names: tuple[str, ...]
    typical: Measured


def likeness_of(path: str | Path) -> Likeness:
    """Measure a labelled dataset's training cases, or a folder of scans without labels.

    Args:
        path: a dataset as `load_dataset` takes it, or a folder of volumes or of DICOM slices.

    Raises:
        FdifError: there is neither, or a scan cannot be read; the message names the file.
    """
    scans, names = _scans(Path(path))
    found = [measure(scan) for scan in scans]
    columns = {name: [getattr(one, name) for one in found] for name in Measured._fields}
    kept: dict[str, Any] = {"air": np.mean(columns["air"], axis=0), "sizes": np.concatenate(columns["sizes"])}
    medians = {name: np.median(values, axis=0) for name, values in columns.items() if name not in kept}
    return Likeness(len(found), names, Measured(**medians, **kept))


def _scans(path: Path) -> tuple[Iterator[Scan], tuple[str, ...]]:
    volumes = volumes_in(path) if is_one_scan(path) or (path.is_dir() and not has_list(path)) else {}
    if volumes:
        plain, files = Conventions(()), list(volumes.values())
        return (read_image(file.name, [file], plain) for file in _spread(files)), plain.channel_names
    conventions = load_conventions(path)
    cases, _ = list_cases(path)
    return (read_scan(case, conventions) for case in _spread(cases)), conventions.channel_names


def _spread(items: Sequence[Any]) -> list[Any]:
    """Up to `CASES` of them, evenly."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, CASES).round().astype(int))]


def measure(scan: Scan) -> Measured:
    """Measure one scan, labelled or not; FdifError if a channel has one intensity alone."""
    box = scan.content
    for number in range(scan.image.shape[3]):
        if np.ptp(scan.image[..., number]) == 0:
            raise FdifError(
                f"{scan.id}: all voxels of channel {number} are {scan.image[0, 0, 0, number]:g}, so that there are no "
                "intensities to measure; take the scan out"
            )
    channels = [_intensities(scan.image[(*box, c)]) for c in range(scan.image.shape[3])]
    levels, air, noise, blur = map(np.asarray, zip(*channels, strict=True))
    shape = np.asarray([along.stop - along.start for along in box])
    return Measured(
        shape, np.asarray(scan.space.canonical.spacing), levels, air, noise, blur, _sizes(scan.label)
    )


def _intensities(volume: np.ndarray) -> tuple[np.ndarray, float, float, list[float]]:
    """Quantiles, whether there is air, noise and blur of one channel."""
    low, high = np.percentile(volume, _RANGE)
    scaled = np.clip((volume - low) / max(high - low, 1e-9), 0, 1)
    corners = scaled[np.ix_(*([0, 1, -2, -1] for _ in range(3)))]
    air = float(np.median(corners)) < _AIR
    tissue = scaled > _AIR if air and (scaled > _AIR).any() else np.ones(scaled.shape, bool)
    levels = np.quantile(scaled[tissue], np.linspace(0, 1, _QUANTILES))
    noise = min(_noise(scaled, axis, tissue) for axis in range(3))
    return levels, float(air), noise, [_blur(scaled, axis, noise) for axis in range(3)]


def _noise(volume: np.ndarray, axis: int, tissue: np.ndarray) -> float:
    """Deviation of second differences along an axis in the quietest quarter, where there is the least anatomy."""
    apart = ndimage.convolve1d(volume, [1.0, -2.0, 1.0], axis) / math.sqrt(6)
    local = ndimage.uniform_filter(np.square(apart), _NEIGHBOURHOOD)[tissue]
    return math.sqrt(float(np.percentile(local, 25)))


def _blur(volume: np.ndarray, axis: int, noise: float) -> float:
    """Deviation (voxels) of the Gaussian that blurs steps along an axis."""
    along = np.moveaxis(volume, axis, 0)
    apart = (np.square(along[h:] - along[:-h]) - 2 * noise**2 for h in (1, 2))
    near, far = (float(np.sum(squares)) for squares in apart)  # sums, as both see the same steps
    if near <= 0:
        return 0.0
    ratios = _apart(2.0) / _apart(1.0)
    return float(np.interp(far / near, ratios, _BLURS))


def _apart(h: float) -> np.ndarray:
    """E|Z + h| - E|Z| for every one of `_BLURS`."""
    deviation = math.sqrt(2) * _BLURS
    folded = deviation * math.sqrt(2 / math.pi) * (np.exp(-0.5 * (h / deviation) ** 2) - 1)
    return folded + h * special.erf(h / (deviation * math.sqrt(2)))


def _sizes(label: np.ndarray | None) -> np.ndarray:
    if label is None:
        return np.empty(0)
    sizes = []
    for class_id in np.unique(label[label > 0]):
        parts, _ = ndimage.label(label == class_id)
        voxels = np.bincount(parts.ravel())
        for number, found in enumerate(ndimage.find_objects(parts), 1):
            if voxels[number] >= _LEAST:
                edges = [along.stop - along.start for along in found]
                sizes.append(float(np.prod(edges)) ** (1 / 3))
    return np.asarray(sizes)


class LikeScans(NamedTuple):
    """A recipe that is like scans, and why it says what it says, a line each."""

    recipe: Recipe
    reasons: tuple[str, ...]


def like_scans(recipe: Recipe, likeness: Likeness) -> LikeScans:
    """The recipe with the scans' grid, look and sizes; shapes, classes and number of objects stay.

    Raises:
        FdifError: the scans are too large or too small for a grid.
    """
    typical = likeness.typical
    spacing = typical.spacing.tolist()
    grid, why = choose_patch(typical.shape.tolist(), tuple(spacing), _MULTIPLE)
    reasons = [f"{likeness.cases} scans measured", f"grid {_by(grid)}: {why}"]
    placement, why = _placement(recipe, typical)
    reasons.append(f"placement {placement['kind']}: {why}")
    tissue, why_so = _tissue(recipe, likeness)
    look = recipe.look.to_dict() | {"tissue": tissue}
    # Sizes are measured in voxels, and the placement flattens objects: a recipe's own spacing would do it twice.
    made = recipe.replace(grid=grid, placement=placement, look=look, spacing=Grid.spacing)
    return LikeScans(made, (*reasons, *why_so))


def _by(numbers: Sequence[float] | np.ndarray, between: str = " × ") -> str:
    return between.join(f"{n:.3g}" for n in numbers)


def _placement(recipe: Recipe, typical: Measured) -> tuple[dict[str, Any], str]:
    """The placement, by spacing and sizes, and why."""
    spacing, kept = typical.spacing, recipe.placement.to_dict()
    mean = float(np.exp(np.log(spacing).mean()))
    said = f"voxels are {_by(spacing)} mm"
    if kept["kind"] == "anatomical":
        return kept | {
            "spacing": [0.9 * mean, 1.1 * mean]
        }, f"{said}, {mean:.3g} mm on average, give or take a tenth"
    edges = [round(float(s / mean), 3) for s in spacing]
    flat = spacing.max() > _SQUASHED * spacing.min()
    if not len(typical.sizes) and not flat:
        return kept, f"as the recipe has it: there are no labels to tell sizes, and {said}"
    if kept["kind"] != "ensemble":
        kept = {"kind": "ensemble", "shift": 0.35, "scale": [0.8, 1.25], "shear": 0.1}
    kept |= {"voxel": edges}
    if not len(typical.sizes):
        return kept, f"{said}, so objects are flat along coarse axes; there are no labels to tell sizes"
    low, high = (round(float(np.percentile(typical.sizes, p)), 1) for p in (5, 95))
    why = f"{len(typical.sizes)} labelled objects have boxes {low:g} to {high:g} voxels wide (5th to 95th percentile)"
    return kept | {"size": [max(low, 1.0), max(high, 1.0)]}, f"{why}; {said}"


def _tissue(recipe: Recipe, likeness: Likeness) -> tuple[dict[str, Any], list[str]]:
    """The table ``[look.tissue]``, and why."""
    typical, names = likeness.typical, likeness.channel_names
    reasons = [
        f"channel {name}: quartiles {_by(levels[[4, 8, 12]], ', ')} of its range, noise {noise:.3g}, "
        f"blur {_by(blur)} voxels, {air:.0%} with air around"
        for name, levels, noise, blur, air in zip(
            names, typical.levels, typical.noise, typical.blur, typical.air, strict=True
        )
    ]
    if len(names) > 1:
        reasons.append(
            "an image of a recipe has one channel: levels, noise and blur are means over the channels"
        )
    noise, blur = float(typical.noise.mean()), typical.blur.mean(0)
    rest = math.sqrt(max(float(np.median(blur)) ** 2 - _MIXED**2, 0.0))
    thick = float(blur.max() / max(blur.min(), _MIXED)) - 1
    thick = thick if thick > _SQUASHED - 1 else 0.0
    levels = np.clip(np.maximum.accumulate(typical.levels.mean(0)), 0, 1)
    tissue = recipe.look.tissue.to_dict() | {
        "paint": True,
        "partial_volume": True,
        "levels": [round(float(level), 3) for level in levels],
        "of_class": {},
        "air": round(float(typical.air.mean()), 3),
        "noise": [1.0, round(2 * noise, 4)],
        "deviation": [0.0, 0.0],
        "blur": [1.0, round(2 * rest, 3)],
        "resolution": [1.0, round(2 * thick, 3)],
    }
    reasons += [
        "levels: the quantiles of intensities; objects' means are drawn from them",
        f"noise {2 * noise:.3g}, blur {2 * rest:.3g}, resolution {2 * thick:.3g}: twice what was measured, as "
        "strengths are drawn from 0; blur less what partial volume does already",
    ]
    if any(name.lower() == "ct" for name in names):
        tissue |= {name: [0.0, 0.0] for name in ("bias_field", "spikes", "gamma", "ringing")}
        reasons.append(
            "no bias field, spikes, gamma or ringing: intensities of CT have a fixed scale, and no k-space"
        )
    return tissue, reasons
