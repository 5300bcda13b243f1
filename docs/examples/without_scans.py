"""Segment scans with a network that has seen scenes alone: its classes are the recipe's, and no scan was trained on.

A scan is clipped to a window of intensities, resampled, and seen through windows that are normalised as scenes are.
Label maps get the numbers 1, 2, … of the classes that are named. With labels beside the scans Dice is printed.

    python without_scans.py resenc-bodies scans/*.nii.gz --recipe bodies.toml --labels labels \
        --classes parotid_right parotid_left mandible --intensities -200 1000 --spacing 4 4 3 --out predictions
    python without_scans.py runs/head scans/*.nii.gz ...
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to, resample_to_output

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.models import released
from fdif_jax.preprocessing.spaces import middle, pad_to
from fdif_jax.rendering.look import normalise
from fdif_jax.scenes.recipe import from_dict
from fdif_jax.training.network import functional
from fdif_jax.training.runs import load_run


def network_of(source: str, recipe_file: str | None) -> tuple[TiledNetwork, tuple[str, ...]]:
    """The network of a pre-training, or released weights, and the names of its classes, background first."""
    if recipe_file:
        recipe, model = fd.load_recipe(recipe_file), released.load(source)
    else:
        run = load_run(source)
        recipe, model = from_dict(run.document.recipe), models.create(**run.network)
        run.restore(model, "last")
    network = functional(model)

    def apply(weights, tiles):
        """Logits of windows, each normalised by itself."""
        return network.apply(weights, normalise(tiles[..., 0])[..., None])

    names = ("background", *fd.compile(recipe).class_names)
    return TiledNetwork(apply, [network.weights], recipe.grid), names


def segment(network: TiledNetwork, scan: nib.Nifti1Image, spacing, intensities) -> nib.Nifti1Image:
    """The network's classes on the scan's own grid, uint8."""
    low, high = intensities
    straight = nib.as_closest_canonical(scan)
    small = resample_to_output(straight, spacing, order=1, cval=float(low))
    image = np.clip((small.get_fdata(dtype=np.float32) - low) / (high - low), 0, 1)
    padded = pad_to(image, network.patch)
    labels = network.labels(padded[..., None])
    kept = labels[middle(padded.shape, image.shape)].astype(np.uint8)
    return resample_from_to(nib.Nifti1Image(kept, small.affine), (scan.shape, scan.affine), order=0)


def main() -> None:
    """Segment all scans."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="run directory of `fdif pretrain`, or released weights by name")
    parser.add_argument("--recipe", help="what released weights were pre-trained on")
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--classes", nargs="+", required=True, help="those to keep, in the order of labels")
    parser.add_argument("--spacing", nargs=3, type=float, required=True, help="mm, of the scenes")
    parser.add_argument("--intensities", nargs=2, type=float, required=True, help="what is black and white")
    parser.add_argument(
        "--labels", type=Path, help="folder of labels of the scans' names, 1, 2, … as --classes"
    )
    parser.add_argument("--out", type=Path, help="folder for label maps")
    options = parser.parse_args()
    network, names = network_of(options.network, options.recipe)
    numbers = np.zeros(len(names), np.uint8)
    for number, name in enumerate(options.classes, 1):
        numbers[names.index(name)] = number
    every = []
    for path in options.scans:
        found = segment(network, nib.load(path), options.spacing, options.intensities)
        labels = numbers[np.asarray(found.dataobj)]
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(labels, found.affine), options.out / path.name)
        if options.labels:
            truth = np.asarray(nib.load(options.labels / path.name).dataobj)
            masks = [(labels == n, truth == n) for n in range(1, len(options.classes) + 1)]
            every.append([2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in masks])
            print(path.name, *(f"{dice:.3f}" for dice in every[-1]), flush=True)
    if every:
        means = np.mean(every, axis=0)
        print(
            f"Dice of {len(every)}:",
            *(f"{c} {d:.3f}" for c, d in zip(options.classes, means, strict=True)),
            f"mean {means.mean():.3f}",
        )


if __name__ == "__main__":
    main()
