"""The options that choose a dataset's format, and what follows from them: the plan and how its samples are drawn."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple

import fdif_jax as fd
from fdif_jax.datasets import classification
from fdif_jax.datasets.layouts import ClassificationLayout, DatasetPlan, Layout, MonaiLayout, NnunetLayout
from fdif_jax.datasets.sources import DrawSample, labelled
from fdif_jax.errors import FdifError
from fdif_jax.scripts.options.recipe import Flag, RecipeOptions, recipe_of
from fdif_jax.scripts.options.settings import shown

_SEGMENTATION = ("monai", "nnunet")
_FORMATS = {
    "num_samples": _SEGMENTATION,
    "num_val_samples": _SEGMENTATION,
    "multi_task": _SEGMENTATION,
    "placement": _SEGMENTATION,
    "instances": _SEGMENTATION,
    "dataset_id": ("nnunet",),
    "dataset_name": ("nnunet", "classification"),
    "samples_per_class": ("classification",),
    "grid_scale": ("classification",),
    "n_splits": ("classification",),
    "multilabel": ("classification",),
}
"""Options that mean something in some formats only."""


@dataclass(frozen=True)
class FormatOptions(RecipeOptions):
    """A dataset's format and size."""

    format: Annotated[
        Literal["monai", "nnunet", "classification"] | None, shown("{monai,nnunet,classification}", "monai")
    ] = None
    """MONAI's and the Decathlon's layout, nnU-Net v2's, or a classification set: one centred object a volume."""
    compress: Annotated[Literal["gzip", "none", "blosc2"] | None, shown("{gzip,none,blosc2}", "gzip")] = None
    """Volumes as .nii.gz, .nii (large) or .b2nd (Blosc2; monai only); a classification set is always Blosc2."""
    num_samples: int = 200
    """Training samples (monai, nnunet)."""
    num_val_samples: int = 0
    """Validation samples (monai, nnunet); they come after the training samples and share none with them."""
    instances: Flag = False
    """Also write which instance owns each voxel, 0 for background, beside the class labels (monai, nnunet)."""
    nnunet_format: Flag = False
    """The same as --format nnunet; validation samples become the dataset with the next id."""
    dataset_id: int = 999
    """nnU-Net's dataset id."""
    dataset_name: Annotated[str | None, shown("STR", "SDFSynthetic (nnunet), sdf_classification")] = None
    """Name of an nnU-Net dataset or a classification set."""
    samples_per_class: int = 25
    """Cases of each class of a classification set."""
    grid_scale: float = 0.4
    """The fraction of its usual extent that a classification set's grid covers; less shows larger objects."""
    n_splits: int = 5
    """Folds of a classification set; every case validates in one of them."""
    multilabel: Flag = False
    """Label a classification set's cases with shape, displacement and mapper instead of one class."""


class DatasetJob(NamedTuple):
    """What to write, how its samples are drawn, and of a classification set the program that draws them."""

    plan: DatasetPlan
    sample: DrawSample
    program: fd.Program | None = None


def format_of(options: RecipeOptions, **others: Any) -> FormatOptions:
    """A dataset of the same recipe; ``others`` are options of it."""
    recipe = {field.name: getattr(options, field.name) for field in fields(RecipeOptions)}
    return FormatOptions(**recipe | others)


def job_of(options: FormatOptions) -> DatasetJob:
    """The dataset that is asked for; FdifError for options that contradict each other or are impossible."""
    format_ = _checked_format(options)
    return _classification(options) if format_ == "classification" else _segmentation(options, format_)


def _checked_format(options: FormatOptions) -> str:
    if options.nnunet_format and options.format not in (None, "nnunet"):
        raise FdifError(f"--nnunet-format is --format nnunet, and --format {options.format} is given too")
    format_ = options.format or ("nnunet" if options.nnunet_format else "monai")
    for field in fields(options):
        formats = _FORMATS.get(field.name, (format_,))
        if format_ not in formats and getattr(options, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise FdifError(f"--{option} goes with --format {' or '.join(formats)}, not with {format_}")
    if format_ == "nnunet" and options.compress == "blosc2":
        raise FdifError("--compress blosc2 goes with --format monai; nnU-Net's raw volumes are gzip or none")
    if format_ == "classification":
        if options.compress not in (None, "blosc2"):
            raise FdifError(f"--compress {options.compress}: a classification set's volumes are Blosc2")
        for name in ("min_objects", "max_objects"):
            if getattr(options, name) not in (None, 1):
                option = f"--{name.replace('_', '-')} {getattr(options, name)}"
                raise FdifError(f"{option}: a classification set has one object a volume")
    return format_


def _segmentation(options: FormatOptions, format_: str) -> DatasetJob:
    compress = options.compress or "gzip"
    layout: Layout = MonaiLayout(compress)
    if format_ == "nnunet":
        layout = NnunetLayout(options.dataset_id, options.dataset_name or "SDFSynthetic", compress)
    recipe = recipe_of(options)
    program = fd.compile(recipe)
    plan = DatasetPlan(
        recipe=recipe.to_dict(),
        digest=recipe.digest(),
        seed=options.seed,
        num_samples=options.num_samples,
        num_val_samples=options.num_val_samples,
        grid=program.grid,
        spacing=program.grid.spacing,
        tasks=dict(program.tasks),
        layout=layout,
        instances=options.instances,
    )
    return DatasetJob(plan, labelled(program, options.instances))


def _classification(options: FormatOptions) -> DatasetJob:
    recipe = recipe_of(options)
    if isinstance(recipe, fd.Mixture):
        raise FdifError(f"--recipe {options.recipe} is a mixture; a classification set is made of one recipe")
    program = fd.Program(classification.centred(recipe, options.grid_scale))
    labels, names = classification.classes_of(program, options.multilabel)
    layout = ClassificationLayout(
        labels, options.samples_per_class, options.n_splits, options.dataset_name or "sdf_classification"
    )
    plan = DatasetPlan(
        recipe=program.recipe.to_dict(),
        digest=program.recipe.digest(),
        seed=options.seed,
        num_samples=layout.num_samples,
        num_val_samples=0,
        grid=program.grid,
        spacing=program.grid.spacing,
        tasks=names,
        layout=layout,
    )
    return DatasetJob(plan, classification.images(program), program)
