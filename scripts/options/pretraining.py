"""The options of `fdif pretrain`, which `fdif bench training` measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fdif_jax.scripts.options.recipe import RecipeOptions, SettingsOption
from fdif_jax.scripts.options.training import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions(TrainingOptions, RecipeOptions):
    """Options of `fdif pretrain`."""

    out: Path
    """Run directory: weights, measurements, pictures."""
    preset: str | None = None
    """Settings by name (fdif-swinunetr, fdif-resencl, fdif-primusm, avs-db, quick, organs, gpu-resenc) or a .toml file
    of options."""
    objective: str = "class"
    """What is learnt of a scene, a sum with weights as in "class + 0.5*contrast": class, the class of every voxel;
    contrast, features that agree within an instance and between two looks of a scene; distance, how far every voxel
    is from its object's surface and from the nearest boundary; restore, the image without blur, bias and noise. All
    but class have heads that only this run has."""
    contrast: SettingsOption = ()
    """Changes of the objective contrast: voxels a resolution, temperature, levels (resolutions, from the finest),
    features of an embedding, balance (how much more often voxels of small instances are drawn)."""
    curriculum: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="[KEY=VALUE ...]", help_behavior_hint="(default: off)"),
    ] = None
    """Scenes follow what was learnt: classes of low Dice are drawn more often, objects are few and large at first. Its
    settings: goal (0.5), the mean Dice in training at which scenes are as the recipe has them; focus (1), a class is
    drawn in proportion to (1 - Dice) to this power; floor (0.2), part of the draws that all classes share; objects
    (0.25), part of the greatest number of objects, and scale (1.5), size of objects, in the first scenes."""
    task: Literal["segmentation", "classification", "multilabel"] = "segmentation"
    """Label voxels; or volumes of one centred object, by its class, or by shape, displacement and mapper."""
    grid_scale: float = 0.4
    """The fraction of its usual extent that a volume that is classified covers."""
    data: Path | None = None
    """Train on this dataset (MONAI or nnU-Net layout) instead of a recipe."""
    kernel: Literal["auto", "on", "off"] = "auto"
    """Render scenes by the GPU kernel; auto does so on a CUDA device, where it serves the recipe."""
    steps: int = 30_000
    """Updates; the learning rate reaches 0 at the last."""
    val_samples: int = 8
    """Volumes to validate on."""
    val_seed: int = 0
    """Which of the seeds that are kept for validation."""
