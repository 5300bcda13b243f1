"""Classification sets: one centred object a volume, in the files that the SSL3D_classification trainer reads.

Case i is of class i modulo the number of classes, so that a set with fewer samples a class is the beginning of one
with more. The folds are those of a cross-validation, class by class: a class's cases are dealt to the folds in turn;
every case validates in one fold and trains in all others. A fold then validates 1/n_splits of a class's samples,
rounded up or down, which is ceil(train / (n_splits - 1)) where the division leaves nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from jaxtyping import Array, Float, Int

from fdif_jax.datasets.layouts import DatasetPlan, check_name
from fdif_jax.datasets.sources import DrawSample
from fdif_jax.errors import FdifError
from fdif_jax.io.b2nd import encode_b2nd
from fdif_jax.keys import CLASS, LOOK
from fdif_jax.rendering.look import normalise
from fdif_jax.rendering.renderer import Table
from fdif_jax.scenes.compiler import Program
from fdif_jax.scenes.recipe import Recipe
from fdif_jax.vocabulary.vocabulary import NONE

FOLDER = "nnUNetResEncUNetLPlans_3d_fullres"
CODEC, LEVEL = "ZSTD", 8

ClassLabel = int | tuple[int, int, int]
"""What ``labelsTr.json`` says of a class, from 0: its number, or those of its shape, displacement and mapper."""


@dataclass(frozen=True)
class ClassificationLayout:
    """Volumes as Blosc2 arrays, their classes, folds, and the trainer's configuration.

    Attributes:
        labels: of every class, what its cases are labelled.
        samples_per_class: cases of each class, over all folds.
        n_splits: folds.
        dataset_name: what the trainer calls the set.
    """

    name: ClassVar[str] = "classification"
    labels: tuple[ClassLabel, ...]
    samples_per_class: int = 25
    n_splits: int = 5
    dataset_name: str = "sdf_classification"

    def __post_init__(self):
        if self.samples_per_class < 1:
            raise FdifError(f"samples per class is {self.samples_per_class}; it must be at least 1")
        if self.n_splits < 2:
            raise FdifError(f"n_splits is {self.n_splits}; folds that train and validate are at least 2")
        if self.n_splits > self.samples_per_class:
            raise FdifError(
                f"n_splits ({self.n_splits}) exceeds the samples per class ({self.samples_per_class}); "
                "every fold validates at least one case of each class"
            )
        check_name(self.dataset_name)

    @property
    def num_samples(self) -> int:
        """Cases in all."""
        return len(self.labels) * self.samples_per_class

    @property
    def multilabel(self) -> bool:
        """Whether a case has three labels."""
        return not isinstance(self.labels[0], int)

    def encode(self, array: np.ndarray) -> bytes:
        """See `Layout`."""
        return encode_b2nd(array, CODEC, LEVEL)

    def case_id(self, index: int, plan: DatasetPlan | None = None) -> str:
        """See `Layout`."""
        return f"case_{index:05d}"

    def files(self, index: int, plan: DatasetPlan) -> tuple[Path, ...]:
        """The image alone."""
        return (Path(FOLDER, f"{self.case_id(index)}.b2nd"),)

    def documents(self, plan: DatasetPlan) -> dict[str, Any]:
        """Labels, folds and the configuration."""
        classes = len(self.labels)
        return {
            "labelsTr.json": {self.case_id(i): self.labels[i % classes] for i in range(self.num_samples)},
            "splits_final.json": [self._fold(fold) for fold in range(self.n_splits)],
            f"{self.dataset_name}.yaml": self._config(plan),
        }

    def _fold(self, fold: int) -> dict[str, list[str]]:
        split: dict[str, list[str]] = {"train": [], "val": []}
        for i in range(self.num_samples):
            turn, number = divmod(i, len(self.labels))
            # Class after class, dealt on where the last one ended: folds differ by one case, in a class and in all.
            validates = (number * self.samples_per_class + turn) % self.n_splits == fold
            split["val" if validates else "train"].append(self.case_id(i))
        return split

    def _config(self, plan: DatasetPlan) -> str:
        """The trainer's settings as published; Hydra fills in what stands in ``${…}``."""
        patch = "${data.patch_size}"
        settings = {
            "data": {
                "module": {
                    "_target_": "datasets.sdf_classification.SDFClassificationDataModule",
                    "name": self.dataset_name,
                    "data_root_dir": "${data_dir}",
                    "batch_size": 1,
                    "train_transforms": {
                        "_target_": "augmentation.policies.batchgenerators.get_training_transforms",
                        "patch_size": patch,
                        "rotation_for_DA": 0.523599,
                        "mirror_axes": [0, 1, 2],
                        "do_dummy_2d_data_aug": False,
                    },
                    "test_transforms": None,
                },
                "cv": {"k": self.n_splits},
                "num_classes": 3 if self.multilabel else len(self.labels),
                "patch_size": list(plan.grid),
            },
            "model": {
                "task": "Classification",
                "subtask": "multilabel" if self.multilabel else "multiclass",
                "input_channels": 1,
                "input_dim": 3,
                "input_shape": patch,
                "optimizer": "AdamW",
                "lr": 1e-4,
                "warmstart": 20,
                "weight_decay": 1e-2,
                "label_smoothing": 0.2,
            },
            "trainer": {
                "logger": {"project": self.dataset_name},
                "accumulate_grad_batches": 48,
                "max_epochs": 400,
                "sync_batchnorm": True,
            },
            "metrics": ["f1", "balanced_acc", "ap", "auroc"],
        }
        return "# @package _global_\n" + yaml.safe_dump(settings, sort_keys=False)


def centred(recipe: Recipe, grid_scale: float) -> Recipe:
    """The recipe with one object a volume, in its middle; the grid covers ``grid_scale`` of its usual extent.

    Nothing hides the object, and it is of its own class: window and groups are left out.
    """
    if not 0 < grid_scale < math.inf:
        raise FdifError(f"grid scale is {grid_scale:g}; it must be greater than 0")
    placement = {"kind": "centred", "scale": grid_scale}
    return recipe.replace(
        placement=placement, min_objects=1, max_objects=1, multi_task=False, window={}, classes={}
    )


def classes_of(
    program: Program, multilabel: bool
) -> tuple[tuple[ClassLabel, ...], dict[str, tuple[str, ...]]]:
    """The label of every class of a program, and the names that the labels' numbers stand for.

    Raises:
        FdifError: multilabel, and displacement or mapper is drawn at random, so that no label would know it.
    """
    if not multilabel:
        return tuple(range(len(program.classes))), {"class": program.class_names}
    for name in ("displacement", "mapper"):
        if getattr(program.recipe, f"{name}_as_augmentation"):
            raise FdifError(
                f"multilabel excludes {name}_as_augmentation: it labels the {name}, which must be part of the class"
            )
    names = {
        "shape": tuple(dict.fromkeys(c.family.name for c in program.classes)),
        "displacement": (NONE, *(name for name in program.recipe.displacements if name != NONE)),
        "mapper": program.recipe.mappers,
    }
    shapes, displacements, mappers = names.values()
    labels = tuple(
        (shapes.index(c.family.name), displacements.index(c.displacement), mappers.index(c.mapper))
        for c in program.classes
    )
    return labels, names


def images(program: Program) -> DrawSample:
    """Samples as files hold them: a z-scored image, float32 ``(1, D, H, W)``, of the class that the index says."""

    def sample(key: jax.Array, index: jax.Array) -> tuple[jax.Array]:
        rendered = program.renderer.render(_scene(program, key, index))
        image, look = rendered.image, program.recipe.look
        if look.changes_images:
            image = look.apply(jax.random.fold_in(key, LOOK), *rendered, program.recipe.max_objects)
        return (normalise(image[None]),)

    return sample


def masks(program: Program) -> DrawSample:
    """The label maps of the same scenes, for pictures: the object is its class, counted from 1."""

    def sample(key: jax.Array, index: jax.Array) -> tuple[jax.Array]:
        return (program.renderer.intensities(_scene(program, key, index))[1],)

    return sample


def classification_batch(
    program: Program, multilabel: bool
) -> Callable[[jax.Array, Any], tuple[Float[Array, "B D H W 1"], Int[Array, "B L"]]]:
    """``make_batch(keys, data)`` for training: an image of a class at random for every key, and its labels from 0.

    Images are normalised; what changes them further takes what this gives, and the same keys.

    Args:
        program: compiled from a recipe that is `centred`.
        multilabel: as in `classes_of`, which also has the names that the labels' numbers stand for.

    Raises:
        FdifError: see `classes_of`.
    """
    rows = np.array(classes_of(program, multilabel)[0], np.int32).reshape(len(program.classes), -1)
    render = images(program)

    def sample(key: jax.Array) -> tuple[Array, Array]:
        drawn = jax.random.randint(jax.random.fold_in(key, CLASS), (), 0, len(rows))
        (image,) = render(key, drawn)
        return image[0, ..., None], jnp.asarray(rows)[drawn]

    def make_batch(keys: jax.Array, data: Any = None) -> tuple[Array, Array]:
        return jax.lax.map(sample, keys)  # never vmap, which would run every branch of the renderer

    return make_batch


def _scene(program: Program, key: jax.Array, index: jax.Array) -> Table:
    return program.draw(key, jnp.asarray(index % len(program.classes), jnp.int32)[None])
