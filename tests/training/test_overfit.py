"""Every network learns two fixed volumes by heart, in training as the commands train; Dice by MONAI."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.batches.scenes import scene_batch
from fdif_jax.objectives.losses import dice_cross_entropy
from fdif_jax.training.loop import fit
from fdif_jax.training.network import functional
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run

pytestmark = pytest.mark.slow("networks are trained until they have learnt, for minutes")

SCENES = {"primitives": ("sphere", "torus"), "categories": (), "mappers": ("inverse_cube",)}
SCENES |= {"displacements": ("ridge",), "min_objects": 2, "max_objects": 3}
SAMPLES = (7, 11)  # in which both classes are large
CUBE = (16, 16, 16)

# Network, its size, grid, learning rate. SwinUNETR and V-Net halve a grid five and four times.
CASES = [
    ("resenc_unet", {"features": (8, 16, 32)}, CUBE, 1e-2),
    ("swin_unetr", {"feature_size": 12, "depths": (1, 1, 1, 1)}, (32, 32, 64), 2e-3),
    (
        "unetr",
        {"feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 3, "grid": CUBE},
        CUBE,
        3e-3,
    ),
    ("vnet", {"dropout_prob_down": 0.0, "dropout_prob_up": (0.0, 0.0)}, CUBE, 1e-3),
    (
        "primus",
        {"embed_dim": 96, "depth": 2, "num_heads": 4, "patch_embed_size": 4, "grid": CUBE},
        CUBE,
        3e-3,
    ),
]


class Learnt(Exception):
    """The network has reached what is asked for."""


@pytest.mark.parametrize(("name", "size", "grid", "rate"), CASES, ids=[case[0] for case in CASES])
def test_a_network_learns_two_volumes_by_heart(tmp_path, name, size, grid, rate):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    program = fd.compile(fd.load_recipe("fdif").replace(grid=grid, **SCENES))
    keys = jnp.stack([fd.sample_key(0, number) for number in SAMPLES])
    images, labels = jax.jit(scene_batch(program))(keys, None)
    network = functional(models.create(name, in_channels=1, out_channels=3, **size))
    apply = jax.jit(network.apply)

    def one_hot(maps):
        classes = torch.from_numpy(np.array(maps, np.int64))
        return torch.nn.functional.one_hot(classes, 3).movedim(-1, 1)

    def validate(weights, step):
        predicted = one_hot(apply(weights, images).argmax(-1))
        dice = float(metrics.compute_dice(predicted, one_hot(labels), include_background=False).mean())
        scores.append(dice)
        if dice >= 0.95:
            raise Learnt
        return {"dice": dice, "score": dice}

    scores: list[float] = []
    validate_every, began = 10, time.monotonic()
    plan = TrainingPlan(steps=400, batch_size=2, learning_rate=rate, warmup=10)
    with pytest.raises(Learnt), open_run(tmp_path / "run", RunDocument(network={"name": name})) as run:
        fit(
            network,
            lambda keys, batch: batch,
            (images, labels),
            plan,
            run,
            loss=dice_cross_entropy,
            validate=validate,
            validate_every=validate_every,
        )
    print(
        f"{name}: Dice {scores[-1]:.3f} after {validate_every * len(scores)} steps, {time.monotonic() - began:.0f} s"
    )
    assert scores[0] < 0.9, "it did not know them from the start"
