"""Pre-train a network on scenes that are drawn and rendered inside the training step.

No data set is stored. The same command on the same --out goes on where it stopped, and ends with the same weights,
to the bit, as if it had never been stopped. Dice is measured on synthetic volumes that are never trained on.

Options that are not given stay as the recipe has them.

Example:
    fdif pretrain --recipe fdif --out runs/pretrain --steps 30000
    fdif pretrain --out runs/small --steps 500 --grid 40 40 40 --categories basic --preset tiny
    fdif pretrain --out runs/like_nnunet --plans nnUNetResEncUNetLPlans.json
    fdif pretrain --out runs/swin --network swin_unetr --size feature_size=24
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.runs import open_run
from fdif_jax.scripts import cli
from fdif_jax.scripts.network_options import network_of, planned
from fdif_jax.scripts.recipe_options import RecipeOptions, recipe_of
from fdif_jax.scripts.training_options import TrainingOptions, plan_of
from fdif_jax.scripts.watching import TrainingBar, write_pictures
from fdif_jax.training import SyntheticValidation, fit, functional, synthetic_batch


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions, RecipeOptions):
    """Options of `fdif pretrain`."""

    out: Path
    """Run directory: weights, measurements, pictures."""
    steps: int = 30_000
    """Updates; the learning rate reaches 0 at the last."""
    val_samples: int = 8
    """Synthetic volumes to validate on."""


def run(config: Config) -> None:
    """Train to the last step, from wherever the run directory is."""
    if config.val_samples < 1:
        raise FdifError(f"--val-samples must be at least 1, not {config.val_samples}")
    recipe, plan = recipe_of(config), plan_of(config, config.steps, config.seed)
    if config.grid is None and (like := planned(config)):
        recipe = recipe.replace(grid=like.patch)
    program = fd.compile(recipe)
    if len(program.tasks) > 1:
        raise FdifError("--multi-task: pre-training has one head yet; leave it out, or generate a data set")
    spec = network_of(config, in_channels=1, out_channels=program.num_classes + 1, grid=program.grid)
    network = functional(models.create(**spec, seed=config.seed))
    # A grid that the network cannot take is an error before anything is written.
    jax.eval_shape(network.apply, network.weights, jnp.zeros((1, *program.grid, 1)))
    document = {
        "kind": "pretraining",
        "network": spec,
        "recipe": recipe.to_dict(),
        "training": dataclasses.asdict(plan) | {"augment": config.augment},
        "validation": {"every": config.val_every, "samples": config.val_samples},
    }
    parameters = sum(network.weights[name].size for name in network.parameters)
    print(
        f"recipe {config.recipe}: {' x '.join(map(str, program.grid))} voxels, "
        f"{program.num_classes} class{'es' * (program.num_classes != 1)}; "
        f"network {config.network}: {parameters:,} parameters"
    )
    with open_run(config.out, document) as opened:
        validation = SyntheticValidation(program, network.apply, config.seed, config.val_samples)
        with TrainingBar(plan.steps) as bar:
            trained = fit(
                network,
                synthetic_batch(program, plan.batch_size, augment=config.augment),
                None,
                plan,
                opened,
                validate=validation,
                validate_every=config.val_every,
                checkpoint_every=config.checkpoint_every,
                report=bar.show,
            )
        pictures = write_pictures(opened, validation.example(trained), program.class_names)
        best = opened.best_dice()
    print(f"{config.out}: step {plan.steps}" + (f", best validation Dice {best:.3f}" if best >= 0 else ""))
    print("pictures: " + ", ".join(map(str, pictures)))
    print(f"next: fdif export {config.out} --out weights.pth")


if __name__ == "__main__":
    cli.run("pretrain")
