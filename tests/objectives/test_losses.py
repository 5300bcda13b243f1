"""Losses and Dice against MONAI's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.metrics import DiceMetric

from fdif_jax.objectives import losses
from tests.helpers.slow import quick_of


def _batch(classes, grid=(6, 7, 5), batch=2, seed=0):
    rng = np.random.default_rng(seed)
    logits = 4 * rng.standard_normal((batch, *grid, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, (batch, *grid)).astype(np.uint8)


def _to_torch(logits, labels):
    return torch.from_numpy(np.moveaxis(logits, -1, 1).copy()).requires_grad_(), torch.from_numpy(
        labels.astype(np.int64)
    )[:, None]


@pytest.mark.parametrize("classes", quick_of([2, 5, 110], [5], "a program more"))
def test_dice_cross_entropy_and_its_gradient_equal_monai(classes):
    logits, labels = _batch(classes)
    labels[0] = 0  # a sample of background only
    x, y = _to_torch(logits, labels)
    expected = DiceCELoss(to_onehot_y=True, softmax=True)(x, y)
    expected.backward()
    value, gradient = jax.value_and_grad(losses.dice_cross_entropy)(logits, labels)
    assert abs(float(value) - expected.item()) < 1e-5
    np.testing.assert_allclose(gradient, np.moveaxis(x.grad.numpy(), 1, -1), atol=1e-7)


def test_cross_entropy_equals_pytorch():
    logits, labels = _batch(9)
    x, y = _to_torch(logits, labels)
    expected = torch.nn.functional.cross_entropy(x, y[:, 0])
    assert abs(float(losses.cross_entropy(logits, labels)) - expected.item()) < 1e-5


def test_voxels_without_a_label_count_in_no_loss():
    logits, labels = _batch(4)
    labels = labels.astype(np.int8)
    labels[np.random.default_rng(1).random(labels.shape) < 0.3] = -1
    x, y = _to_torch(logits, labels)
    expected = torch.nn.functional.cross_entropy(x, y[:, 0], ignore_index=-1)
    assert abs(float(losses.cross_entropy(logits, labels)) - expected.item()) < 1e-5

    judged = (y >= 0).float()
    p = torch.softmax(x, 1) * judged
    t = torch.nn.functional.one_hot(y[:, 0].clamp(min=0), 4).moveaxis(-1, 1) * judged
    axes = (2, 3, 4)
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    both = 1 - dice.mean() + expected
    both.backward()
    value, gradient = jax.value_and_grad(losses.dice_cross_entropy)(logits, labels)
    assert abs(float(value) - both.item()) < 1e-5
    np.testing.assert_allclose(gradient, np.moveaxis(x.grad.numpy(), 1, -1), atol=1e-7)
    assert not np.asarray(gradient)[labels < 0].any()
    nobody = np.full_like(labels, -1)
    for loss in losses.LOSSES.values():
        assert np.isfinite(loss(logits, nobody))


REGIONS = ((1, 2, 3), (2, 3), (3,))


def _regions_in_torch(logits, labels):
    """Logits, which regions a voxel is in, and whether it has a label, channels first."""
    x, _ = _to_torch(logits, labels)
    inside = torch.from_numpy(np.stack([np.isin(labels, of) for of in REGIONS], axis=1)).float()
    return x, inside, torch.from_numpy(labels >= 0)[:, None].float()


def test_losses_of_regions_equal_monai_and_pytorch():
    logits, labels = _batch(3)
    labels = np.random.default_rng(2).integers(0, 4, labels.shape).astype(np.uint8)
    labels[0] = 0  # a sample without any region
    x, inside, _ = _regions_in_torch(logits, labels)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, inside)
    assert abs(float(losses.binary_cross_entropy(logits, labels, REGIONS)) - entropy.item()) < 1e-5
    expected = entropy + DiceLoss(sigmoid=True)(x, inside)
    expected.backward()
    value, gradient = jax.value_and_grad(losses.dice_binary_cross_entropy)(logits, labels, REGIONS)
    assert abs(float(value) - expected.item()) < 1e-5
    np.testing.assert_allclose(gradient, np.moveaxis(x.grad.numpy(), 1, -1), atol=1e-7)


def test_losses_of_regions_leave_out_voxels_without_a_label():
    logits, labels = _batch(3)
    labels = np.random.default_rng(2).integers(-1, 4, labels.shape).astype(np.int8)
    x, inside, judged = _regions_in_torch(logits, labels)
    each = torch.nn.functional.binary_cross_entropy_with_logits(x, inside, reduction="none")
    entropy = (each.mean(1, keepdim=True) * judged).sum() / judged.sum()
    p, axes = torch.sigmoid(x) * judged, (2, 3, 4)
    dice = (2 * (p * inside).sum(axes) + 1e-5) / (p.sum(axes) + inside.sum(axes) + 1e-5)
    expected = 1 - dice.mean() + entropy
    expected.backward()
    value, gradient = jax.value_and_grad(losses.dice_binary_cross_entropy)(logits, labels, REGIONS)
    assert abs(float(value) - expected.item()) < 1e-5
    assert abs(float(losses.binary_cross_entropy(logits, labels, REGIONS)) - entropy.item()) < 1e-5
    np.testing.assert_allclose(gradient, np.moveaxis(x.grad.numpy(), 1, -1), atol=1e-7)
    assert not np.asarray(gradient)[labels < 0].any()
    for loss in losses.REGION_LOSSES.values():
        assert np.isfinite(loss(logits, np.full_like(labels, -1), REGIONS))
        certain = np.stack([np.where(np.isin(labels, of), 3e4, -3e4) for of in REGIONS], axis=-1)
        assert float(loss(certain.astype(np.float32), labels, REGIONS)) == pytest.approx(0, abs=1e-5)


def test_the_loss_of_regions_is_nnunets_and_1():
    theirs = pytest.importorskip("nnunetv2.training.loss.compound_losses")
    logits, labels = _batch(3)
    labels = np.random.default_rng(2).integers(0, 4, labels.shape).astype(np.uint8)
    x, inside, _ = _regions_in_torch(logits, labels)
    options = {"batch_dice": False, "do_bg": True, "smooth": 1e-5, "ddp": False}
    expected = theirs.DC_and_BCE_loss({}, options)(x, inside).item() + 1
    assert abs(float(losses.dice_binary_cross_entropy(logits, labels, REGIONS)) - expected) < 1e-5


@pytest.mark.parametrize("loss", losses.LOSSES.values())
def test_large_logits_neither_overflow_nor_give_nan(loss):
    labels = np.zeros((1, 2, 2, 2), np.uint8)
    logits = np.full((1, 2, 2, 2, 3), -3e4, np.float32)
    logits[..., 0] = 3e4
    value, gradient = jax.value_and_grad(loss)(logits, labels)
    assert float(value) == pytest.approx(0, abs=1e-5) and np.isfinite(gradient).all()


def test_the_loss_keeps_no_second_copy_of_the_logits():
    logits, labels = jnp.zeros((1, 24, 24, 24, 110)), jnp.zeros((1, 24, 24, 24), jnp.uint8)
    compiled = jax.jit(jax.grad(losses.dice_cross_entropy)).lower(logits, labels).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * logits.nbytes


def test_dice_per_class_equals_monai_on_the_classes_that_are_there():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 5, (8, 8, 8))
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 6, label.shape))
    one_hot = [torch.from_numpy(np.eye(8)[v]).movedim(-1, 0)[None] for v in (prediction, label)]
    expected = DiceMetric(include_background=False, ignore_empty=True)(*one_hot)[0].numpy()
    dice = np.asarray(losses.dice_per_class(prediction, label, 8))
    np.testing.assert_allclose(dice[:4], expected[:4], atol=1e-6)
    assert dice[4] == 0, "class 5 was predicted and is not there"
    assert np.isnan(dice[5:]).all(), "classes 6 and 7 are nowhere"


def test_mean_dice_leaves_out_absent_classes_and_empty_volumes():
    nan = np.nan
    dice = np.array([[1.0, 0.5, nan], [nan, 0.25, nan], [nan, nan, nan]])
    assert float(losses.mean_dice(dice)) == pytest.approx((0.75 + 0.25) / 2)


def test_deep_supervision_halves_the_weight_of_every_coarser_resolution_and_leaves_out_the_last():
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 3, (2, 8, 8, 8)))
    logits = [jnp.asarray(rng.standard_normal((2, n, n, n, 3)), jnp.float32) for n in (8, 4, 2)]
    coarse = labels[:, 1::2, 1::2, 1::2]
    wanted = (2 * losses.cross_entropy(logits[0], labels) + losses.cross_entropy(logits[1], coarse)) / 3
    supervised = losses.deeply_supervised(losses.cross_entropy)
    np.testing.assert_allclose(supervised(logits, labels), wanted, rtol=1e-6)
    np.testing.assert_allclose(supervised(logits[0], labels), losses.cross_entropy(logits[0], labels))
    np.testing.assert_allclose(supervised(logits[:1], labels), losses.cross_entropy(logits[0], labels))
