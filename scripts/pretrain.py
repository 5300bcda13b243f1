"""Pre-train a network on scenes that are drawn and rendered inside the training step.

No data set is stored, unless --data names one to train on instead. The same command on the same --out goes on where
it stopped, and ends with the same weights, to the bit, as if it had never been stopped. Dice and normalised surface
distance are measured on synthetic volumes of seeds that are never trained on, the same for every run of a recipe.

--preset takes its settings from a file, and what else is given changes them: fdif-swinunetr, fdif-resencl,
fdif-primusm and avs-db are the published ones, quick and organs are for a laptop, gpu-resenc for minutes on one GPU.
Options of the recipe that are not given stay as the recipe has them.

Example:
    fdif pretrain --preset quick --out runs/quick
    fdif pretrain --preset fdif-resencl --out runs/resencl --devices 8 --batch-size 16
    fdif pretrain --recipe "fdif + 2*avs_db" --network swin_unetr --size feature_size=24 --out runs/mixed
    fdif pretrain --task classification --network primus --size M --out runs/classes
    fdif pretrain --recipe random_tissue --objective contrast --size tiny --grid 48 48 48 --out runs/contrast
    fdif pretrain --preset quick --objective "class + distance" --out runs/distances
    fdif pretrain --preset quick --curriculum goal=0.6 scale=2 --out runs/course
    fdif pretrain --data datasets/published --network vnet --out runs/files
    fdif pretrain --preset fdif-primusm --distributed node0:9876,0/2 --shard-weights --out runs/two_nodes
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import jax
import tyro

from fdif_jax.evaluation.evaluator import Evaluator
from fdif_jax.objectives.combined import Combined
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.watching import Watch
from fdif_jax.scripts.jobs.dry_run import Estimate, estimate_training
from fdif_jax.scripts.jobs.measures import measures_of
from fdif_jax.scripts.jobs.prepared import Training, prepare
from fdif_jax.scripts.options.presets import preset_of
from fdif_jax.scripts.options.pretraining import PretrainingOptions as Config
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.scripts.options.training import settings_of
from fdif_jax.training.devices import OneEach
from fdif_jax.training.loop import Rehearsal, fit, rehearse
from fdif_jax.training.network import Weights
from fdif_jax.training.processes import is_first_process
from fdif_jax.training.run_document import PRETRAINING, RunDocument, Validation
from fdif_jax.training.runs import open_run


def defaults(arguments: Sequence[str]) -> Config | None:
    """The options of the preset that is asked for, for those that are not given."""
    return preset_of(arguments, partial(Config, out=tyro.MISSING))


def run(config: Config) -> None:
    """Train to the last step, from wherever the run directory is."""
    if config.dry_run:
        estimate(config).tell()
        return
    training, document = _prepared(config)
    source, network, plan = training.source, training.network, training.plan
    with open_run(config.out, document) as opened, Watch(opened, plan.steps, source.tasks) as watch:
        fit(
            network,
            source.make_batch,
            None,
            plan,
            opened,
            loss=source.objective.loss,
            feed=source.feed,
            course=source.course,
            devices=training.devices,
            validate=_validation(training, watch, config),
            validate_every=config.val_every,
            checkpoint_every=config.checkpoint_every,
            keep_every=config.keep_every,
            report=watch.show,
        )
        best = opened.best()
    _say(f"{config.out}: step {plan.steps}" + (f", best validation score {best:.3f}" if best >= 0 else ""))
    _say(f"next: fdif export {config.out} --out weights.pth")


def estimate(config: Config) -> Estimate:
    """What the training needs, by its first steps; nothing is written."""
    training, document = _prepared(config)
    source, plan = training.source, training.plan

    def rehearsed() -> Rehearsal:
        return rehearse(
            training.network,
            source.make_batch,
            None,
            plan,
            loss=source.objective.loss,
            feed=source.feed,
            course=source.course,
            devices=training.devices,
        )

    return estimate_training(config.out, document, plan.steps, config.keep_every, rehearsed)


def _say(text: str) -> None:
    if is_first_process():
        print(text)


def _prepared(config: Config) -> tuple[Training, RunDocument]:
    """What is trained, said in a line, and the document of its run; nothing is written yet."""
    check_least(config, val_samples=1)
    training = prepare(config)
    source, network, plan = training.source, training.network, training.plan
    document = RunDocument(
        kind=PRETRAINING,
        network=training.spec,
        task=source.task,
        objective=source.weighed,
        recipe=source.recipe,
        curriculum=source.course.curriculum.to_dict() if source.course else None,
        data=source.files,
        training=settings_of(config, plan),
        validation=Validation(config.val_every, config.val_samples, config.val_seed),
    )
    parameters = sum(network.weights[name].size for name in network.parameters)
    _say(
        f"{source.name}: {' x '.join(map(str, source.grid))} voxels, {source.describe()}; "
        f"network {training.spec['name']}: {parameters:,} parameters; {training.devices.describe()}"
    )
    return training, document


def _validation(
    training: Training, watch: Watch, config: Config
) -> Callable[[Weights, int], dict[str, float]]:
    """What `fit` measures on volumes that are never trained on: classes, where they are learnt, and what else is."""
    source, network, devices = training.source, training.network, training.devices
    objective = source.objective
    names = objective.names if isinstance(objective, Combined) else ("class",)

    def predict(weights: Weights, images: jax.Array) -> jax.Array:
        return objective.predict(network.apply(weights, images))

    evaluator = Evaluator(
        source.held_out, predict, source.tasks, config.val_samples, spread=partial(OneEach, devices)
    )
    others = None
    if set(names) != {"class"}:
        others = measures_of(training, config.val_samples, config.val_seed)

    def validate(weights: Weights, step: int) -> dict[str, float]:
        measured = watch.evaluation(step, evaluator(weights)) if "class" in names else {}
        return (others(weights) if others else {}) | measured

    return validate


if __name__ == "__main__":
    cli.main(["pretrain", *sys.argv[1:]])
