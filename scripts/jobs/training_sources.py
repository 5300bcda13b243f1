"""What `fdif pretrain` trains on and is validated on: a recipe's scenes, its centred objects, or a dataset's files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import fdif_jax as fd
from fdif_jax.batches.curriculum import SceneCourse
from fdif_jax.batches.scenes import scene_batch, views_batch, with_augmentation
from fdif_jax.errors import FdifError
from fdif_jax.evaluation.evaluator import DrawHeldOut, reserved_images, reserved_volumes
from fdif_jax.models.nnunet import PlannedNetwork
from fdif_jax.objectives.combined import Combined, parse_objective
from fdif_jax.objectives.supervised import Classification, Objective, Segmentation
from fdif_jax.scenes.compiler import Program
from fdif_jax.scenes.world import World
from fdif_jax.scripts.options.objective import contrast_of, curriculum_of
from fdif_jax.scripts.options.pretraining import PretrainingOptions
from fdif_jax.scripts.options.recipe import recipe_of
from fdif_jax.tasks import Task
from fdif_jax.training.run_document import Files
from fdif_jax.training.updates import MakeBatch


@dataclass(frozen=True)
class TrainingSource:
    """What a network is trained on."""

    name: str  # for a person
    task: str  # what is learnt: segmentation, classification or multilabel
    grid: Sequence[int]  # voxels of an image
    tasks: tuple[Task, ...]  # the label maps, or the labels of a classifier, and their classes
    objective: Objective | Combined  # what is learnt of them
    head: Mapping[str, Any]  # what `models.create` is told of the outputs
    make_batch: MakeBatch  # as `fit` takes it
    held_out: DrawHeldOut  # the volumes to validate on, as `Evaluator` takes them
    channels: int = 1  # of an image
    feed: Callable[[int], Any] | None = None  # as `fit` takes it, where batches come from the host
    recipe: Mapping[str, Any] | None = None  # of scenes or objects, as plain data
    files: Files | None = None  # or the dataset
    program: World | None = None  # what draws the scenes
    weighed: Mapping[str, Any] | None = None  # objectives beside classes, as plain data
    course: SceneCourse | None = None  # a curriculum, as `fit` takes it

    def describe(self) -> str:
        """Its classes, for a person."""
        numbers = [len(task.class_names) for task in self.tasks]
        counts = [f"{number} class{'es' * (number != 1)}" for number in numbers]
        if len(self.tasks) == 1:
            return counts[0]
        return ", ".join(f"{task.name} {count}" for task, count in zip(self.tasks, counts, strict=True))


def scenes(config: PretrainingOptions, like: PlannedNetwork | None) -> TrainingSource:
    """A recipe's scenes, drawn inside the step."""
    recipe = recipe_of(config)
    if config.grid is None and like:
        recipe = recipe.replace(grid=like.patch)
    program = fd.compile(recipe, kernel=config.kernel)
    if len(program.tasks) > 1 and config.network == "vnet":
        raise FdifError(
            "--multi-task: vnet has no layer before its head that every task could share; take another"
        )
    segmentation = Segmentation(program.tasks, config.loss)
    objective, make_batch, weighed = _objective(config, program, segmentation)
    course, curriculum = None, curriculum_of(config)
    if curriculum:
        classes = sum(len(task.class_names) for task in program.tasks)
        most = max(r.max_objects for r in program.recipes)
        course = SceneCourse(curriculum, classes, most, objective.overlap)
    return TrainingSource(
        name=f"recipe {config.recipe}",
        task="segmentation",
        recipe=recipe.to_dict(),
        grid=program.grid,
        tasks=program.tasks,
        objective=objective,
        head={"out_channels": objective.channels},
        make_batch=make_batch,
        held_out=reserved_volumes(program, config.val_seed),
        program=program,
        weighed=weighed,
        course=course,
    )


def _objective(
    config: PretrainingOptions, program: World, segmentation: Segmentation
) -> tuple[Segmentation | Combined, MakeBatch, dict[str, Any] | None]:
    """What ``--objective`` asks for, its batches, and what ``run.json`` tells of it."""
    weights, contrast = parse_objective(config.objective), contrast_of(config)
    if weights == {"class": 1.0}:
        return segmentation, _augmented(config, scene_batch(program)), None
    combined = Combined(segmentation, tuple(sorted(weights.items())), program.objects, contrast)
    looks = [program.recipe.look, *(r.look for r in program.recipes)]
    if "restore" in weights and not config.augment and all(look == look.clean for look in looks):
        raise FdifError(
            f"--objective {config.objective}: recipe {config.recipe} has no look that degrades images, so there is "
            "nothing to restore; take random_tissue, or leave out --no-augment"
        )
    document = {"weights": weights} | ({"contrast": contrast.to_dict()} if "contrast" in weights else {})
    return combined, views_batch(program, combined, augment=config.augment), document


def centred_objects(config: PretrainingOptions, like: PlannedNetwork | None) -> TrainingSource:
    """Volumes of one object, whose class is to be told."""
    # Slow to import.
    from fdif_jax.batches.classification import classification_batch
    from fdif_jax.datasets.classification import centred, classes_of

    recipe = recipe_of(config)
    if isinstance(recipe, fd.Mixture):
        raise FdifError(f"--task {config.task}: a mixture of recipes cannot be classified; take one recipe")
    if config.grid is None and like:
        recipe = recipe.replace(grid=like.patch)
    multilabel = config.task == "multilabel"
    program = Program(centred(recipe, config.grid_scale))
    tasks = tuple(Task(*pair) for pair in classes_of(program, multilabel)[1].items())
    objective = Classification(tuple(len(task.class_names) for task in tasks))
    return TrainingSource(
        name=f"recipe {config.recipe}, one object a volume",
        task=config.task,
        recipe=program.recipe.to_dict(),
        grid=program.grid,
        tasks=tasks,
        objective=objective,
        head={"outputs": list(objective.outputs)},
        make_batch=_augmented(config, classification_batch(program, multilabel)),
        held_out=reserved_images(program, multilabel, config.val_seed),
    )


def _augmented(config: PretrainingOptions, make_batch: MakeBatch) -> MakeBatch:
    return with_augmentation(make_batch) if config.augment else make_batch


def files(config: PretrainingOptions, like: PlannedNetwork | None) -> TrainingSource:
    """A dataset's volumes, read while the network trains on those before; validated on its own validation cases."""
    from fdif_jax.batches.files import FileSource, file_batch  # slow to import

    if config.task != "segmentation":
        raise FdifError(
            f"--data and --task {config.task}: files of a dataset are segmented; leave one of them out"
        )
    if config.like is not None:
        raise FdifError("--data and --like: a dataset's own volumes are trained on; leave one of them out")
    patch = config.grid or (like.patch if like else None)
    shared = (jax.process_index(), jax.process_count())
    training = FileSource(config.data, config.batch_size, config.seed, patch, *shared)
    objective = Segmentation(training.tasks, config.loss)
    # Without validation nothing is asked of them, and the dataset need have none.
    split = "validation" if config.val_every else "training"
    cases = FileSource(config.data, 1, 0, training.grid, split=split)
    number = min(config.val_samples, len(cases))
    images, labels = map(jnp.asarray, cases.read(range(number)))

    def held_out(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        return images[index % number], labels[index % number]

    return TrainingSource(
        name=f"dataset {config.data} of {len(training)} cases",
        task="segmentation",
        files=Files(str(config.data), training.digest),
        grid=training.grid,
        tasks=training.tasks,
        objective=objective,
        head={"out_channels": objective.channels},
        make_batch=_augmented(config, file_batch),
        held_out=held_out,
        channels=training.channels,
        feed=training.feed,
    )


def source_of(config: PretrainingOptions, like: PlannedNetwork | None) -> TrainingSource:
    """What the options ask to train on; ``like`` is a planned network, whose patch is the grid if none is given.

    FdifError if options exclude each other; see `recipe_of` and `FileSource`.
    """
    if config.data is not None or config.task != "segmentation":
        what = "--data" if config.data is not None else f"--task {config.task}"
        if parse_objective(config.objective) != {"class": 1.0}:
            raise FdifError(
                f"--objective {config.objective}: {what} gives classes alone; leave one of them out"
            )
        if config.curriculum is not None:
            raise FdifError(f"--curriculum: {what} has no scenes that could follow it; leave one of them out")
    if config.data is not None:
        return files(config, like)
    return scenes(config, like) if config.task == "segmentation" else centred_objects(config, like)
