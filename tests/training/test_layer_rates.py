"""What of a network is fine-tuned, and how fast: frozen encoders and layer-wise learning rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.objectives import losses
from fdif_jax.training.layer_rates import encoder_weights, layer_rates
from fdif_jax.training.loop import fit
from fdif_jax.training.network import functional, weights
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run
from fdif_jax.weights.state_dicts import torch_variables

SPECS = {
    "resenc_unet": ({"features": [4, 8, 8]}, ["encoder.stem", "encoder.stages.0", "encoder.stages.1"]),
    "swin_unetr": ({"preset": "tiny"}, ["swinViT.patch_embed", "swinViT.layers1", "swinViT.layers2"]),
    "unetr": ({"grid": [32, 32, 32]}, ["vit.patch_embedding", "vit.blocks.0", "vit.blocks.1"]),
    "vnet": ({}, ["in_tr", "down_tr32", "down_tr64"]),
    "primus": ({"preset": "tiny", "grid": [32, 32, 32]}, ["down_projection", "eva.blocks.0", "eva.blocks.1"]),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_level_nearer_to_the_image_learns_slower_and_the_decoder_as_fast_as_can_be(name):
    size, first_levels = SPECS[name]
    model = nnx.eval_shape(lambda: models.create(name, in_channels=1, out_channels=3, **size))
    rates = layer_rates(model, 0.5)
    by_torch_name = {
        names[0]: rates.get(".".join(map(str, path)), 1.0) for path, names, _ in torch_variables(model)
    }
    levels = [{r for n, r in by_torch_name.items() if n.startswith(f"{level}.")} for level in first_levels]
    assert all(len(level) == 1 for level in levels)
    slowest, second, third = (level.pop() for level in levels)
    assert 2 * slowest == second and 2 * second == third and slowest == min(rates.values())
    assert max(rates.values()) == 0.5
    assert {r for n, r in by_torch_name.items() if not n.startswith(tuple(type(model).encoder))} == {1.0}
    assert set(rates) == encoder_weights(model)


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.1, float("nan")])
def test_impossible_decays(decay):
    with pytest.raises(FdifError, match="above 0 and at most 1"):
        layer_rates(models.create("resenc_unet", in_channels=1, out_channels=2, features=[4, 8]), decay)


def _trained(tmp_path, network, name, steps=2):
    """The weights after some steps on one made-up batch."""
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 8, 1))
    labels = (images[..., 0] > 0).astype(jnp.uint8)
    plan = TrainingPlan(steps=steps, learning_rate=1e-2, warmup=0, weight_decay=0.1)
    with open_run(tmp_path / name, RunDocument(network={})) as run:
        return fit(network, lambda *_: (images, labels), None, plan, run, loss=losses.dice_cross_entropy)


@pytest.mark.slow("a training more; which weights are frozen is tested beside it")
def test_a_frozen_encoder_stays_and_the_rest_learns(tmp_path):
    model = models.create("resenc_unet", in_channels=1, out_channels=2, features=[4, 8])
    frozen = encoder_weights(model)
    network = functional(model, frozen=frozen)
    before, after = weights(model), _trained(tmp_path, network, "run")
    assert 0 < len(frozen) < len(before)
    for name, value in before.items():
        assert np.array_equal(value, after[name]) is (name in frozen), name


@pytest.mark.slow("a training program more; frozen encoders are below")
def test_rates_are_parts_of_the_learning_rate(tmp_path):
    """Adam's first step is as long as the learning rate, whatever the gradient."""
    model = models.create("resenc_unet", in_channels=1, out_channels=2, features=[4, 8])
    before, rates = weights(model), layer_rates(model, 0.25)
    changes = []
    for name, given in (("all", {}), ("less", rates)):
        after = _trained(tmp_path, functional(model, rates=given), name, steps=1)
        changes.append({n: np.asarray(after[n] - before[n]) for n in before})
    for name in before:
        np.testing.assert_allclose(changes[1][name], rates.get(name, 1.0) * changes[0][name], atol=3e-7)
