"""Calibration against scikit-learn, against counting bin by bin, and where it is nothing."""

import numpy as np
import pytest

from fdif_jax.evaluation.calibration import BINS, brier_score, calibration_error, reliability

SPACING = (1.0, 2.0, 5.0)


def case(seed=0, shape=(26, 14, 9)):
    """A probability, and a truth that is more often so than it says; of a corner only, 10 mm from all of the rest."""
    rng = np.random.default_rng(seed)
    probability, truth = rng.random(shape).astype(np.float32), np.zeros(shape, bool)
    inner = np.s_[:6, :4, :3]
    truth[inner] = rng.random((6, 4, 3)) < np.sqrt(probability[inner])
    truth[5, 3, 2] = True
    return probability, truth, probability > 1.5, rng.random(shape) < 0.9


def test_each_bin_is_counted_in_the_box_of_the_class_and_10_mm_around():
    probability, truth, guess, judged = case()
    judged[5, 3, 2] = True
    bins = reliability(probability, truth, guess, judged, SPACING)
    wanted = np.zeros((BINS, 4))
    for i, j, k in np.argwhere(judged):
        if i < 6 + 10 and j < 4 + 5 and k < 3 + 2:
            p, y = float(probability[i, j, k]), float(truth[i, j, k])
            at = next(b for b in range(BINS) if p <= (b + 1) / BINS)
            wanted[at] += [1, p, y, (p - y) ** 2]
    np.testing.assert_allclose(bins, wanted)
    mean = sum(n * abs(p / n - y / n) for n, p, y, _ in wanted if n) / wanted[:, 0].sum()
    assert calibration_error(bins) == pytest.approx(mean) and mean > 0.01


def test_curve_and_brier_score_are_scikit_learns():
    calibration = pytest.importorskip("sklearn.calibration")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    probability = rng.random((12, 11, 10)).astype(np.float32)
    truth = rng.random(probability.shape) < probability**2
    everywhere = np.ones_like(truth)
    bins = reliability(probability, truth, everywhere, everywhere, SPACING)
    frequency, confidence = calibration.calibration_curve(truth.ravel(), probability.ravel(), n_bins=BINS)
    np.testing.assert_allclose(bins[:, 2] / bins[:, 0], frequency)
    np.testing.assert_allclose(bins[:, 1] / bins[:, 0], confidence, rtol=1e-5)
    wanted = metrics.brier_score_loss(truth.ravel(), probability.ravel())
    assert brier_score(bins) == pytest.approx(wanted, rel=1e-5)


def test_a_class_that_is_nowhere_has_no_calibration_and_a_sure_one_no_error():
    nowhere = np.zeros((4, 4, 4), bool)
    bins = reliability(np.zeros((4, 4, 4)), nowhere, nowhere, ~nowhere, SPACING)
    assert not bins.any() and np.isnan([calibration_error(bins), brier_score(bins)]).all()
    truth = np.indices((4, 4, 4))[0] > 1
    sure = reliability(truth.astype(np.float32), truth, truth, ~nowhere, SPACING)
    assert calibration_error(sure) == brier_score(sure) == 0 and sure[:, 0].sum() == 64
