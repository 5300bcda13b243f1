"""nnU-Net's results folders of networks that we have, to predict with: ``plans.json``, ``dataset.json``, ``fold_0``, ….

Such a folder is what ``nnUNetv2_train`` leaves, and ``fdif export --to nnunet-results`` writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdif_jax.datasets.conventions import conventions_of
from fdif_jax.errors import FdifError
from fdif_jax.inference.prediction import Ensemble, load_ensemble
from fdif_jax.io.files import json_of, not_there
from fdif_jax.models.nnunet import inherited
from fdif_jax.models.recognise import Recognised, recognise
from fdif_jax.preprocessing.nnunet_plans import read_cases
from fdif_jax.training.run_document import Which
from fdif_jax.weights.files import Checkpoint, read_checkpoint
from fdif_jax.weights.state_dicts import load_torch_state_dict

_PLANS, _DATASET = "plans.json", "dataset.json"
_FILES: dict[Which, str] = {"last": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
_OVERLAP = 0.5  # of nnU-Net's windows


@dataclass(frozen=True)
class Fold:
    """A ``fold_N`` of a results folder, and its network as plain data; an `inference.prediction.Member`."""

    path: Path
    network: dict[str, Any]

    def restore(self, model: Any, which: Which) -> None:
        """Put its weights into the network; FdifError of a step, or if the file is not there or of another network."""
        if which not in _FILES:
            raise FdifError(f"{self.path}: nnU-Net keeps no weights of step {which}; ask for last or best")
        found = _recognised(self.path / _FILES[which])[1]
        load_torch_state_dict(model, found.state, source=str(self.path / _FILES[which]))


def load_networks(paths: Sequence[Path]) -> Ensemble:
    """The networks to predict with: runs of `fdif finetune`, or of a results folder of nnU-Net.

    FdifError as `load_ensemble`; or if the folder is of a network or has steps that there are not here, it lacks a
    file, or more is given beside it.
    """
    results = [path for path in paths if _parts(path) is not None]
    if not results:
        return load_ensemble(paths)
    if len(paths) > 1:
        raise FdifError(f"{results[0]}: is nnU-Net's; predict with it alone, its folds are an ensemble")
    return _load(results[0])


def _parts(path: Path) -> tuple[Path, list[Path]] | None:
    """The results folder of a path and the folds that are meant, or None if it is no such folder."""
    if path.name.startswith("fold_") and (path.parent / _PLANS).is_file():
        return path.parent, [path]
    if not (path / _PLANS).is_file():
        return None
    folds = sorted(fold for fold in path.glob("fold_*") if any((fold / f).is_file() for f in _FILES.values()))
    numbered = [fold for fold in folds if fold.name != "fold_all"]
    return path, numbered or folds


def _load(path: Path) -> Ensemble:
    folder, folds = _parts(path) or (path, [])
    if not folds:
        raise FdifError(f"{folder}: has no fold_0/{_FILES['last']}; train with nnU-Net first")
    which: list[Which] = ["last" if (fold / _FILES["last"]).is_file() else "best" for fold in folds]
    checkpoint, found = _recognised(folds[0] / _FILES[which[0]])
    plans, name = _read_json(folder / _PLANS), _configuration(folder, checkpoint)
    try:
        configuration = inherited(plans["configurations"], name)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FdifError(
            f"{folder / _PLANS}: has no configuration {name!r}, which the weights are of"
        ) from None
    cases = read_cases(plans, configuration, f"{folder / _PLANS}, {name}")
    conventions = conventions_of(folder / _DATASET, _read_json(folder / _DATASET))
    wanted = {
        "in_channels": len(conventions.channel_names),
        "out_channels": len(conventions.class_names) + (not conventions.regions),
    }
    for key, number in wanted.items():
        if found.network[key] != number:
            raise FdifError(
                f"{folder / _DATASET}: tells of {number} {key.replace('_', ' ')}, but the network of {folds[0]} has "
                f"{found.network[key]}"
            )
    for remark in cases.remarks:
        print(remark)
    mirrored = sorted(cases.axes[axis] for axis in checkpoint.mirror_axes or ())
    return Ensemble(
        tuple(Fold(fold, found.network) for fold in folds),
        cases.plan,
        conventions,
        _OVERLAP,
        tuple(mirrored),
        tuple(which),
        cases.axes,
        cases.as_filed,
        windows="nnunet",
    )


def _recognised(file: Path) -> tuple[Checkpoint, Recognised]:
    checkpoint = read_checkpoint(file)
    return checkpoint, recognise(checkpoint, source=str(file))


def _configuration(folder: Path, checkpoint: Checkpoint) -> str:
    """The name of the configuration, which the checkpoint says, or else the folder's name."""
    said = checkpoint.plans.get("init_args", {}).get("configuration")
    return str(said or folder.name.rpartition("__")[2])


def _read_json(path: Path) -> Any:
    try:
        return json_of(path.read_bytes())
    except FileNotFoundError:
        raise not_there(path) from None
    except ValueError as error:
        raise FdifError(f"{path}: is no JSON: {error}") from None
