"""Probabilities and uncertainty: the softmax of whole logits on the file's grid, in nnU-Net's form; MI by SciPy."""

import tempfile

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage, special, stats

from fdif_jax.inference.prediction import predict_case
from fdif_jax.inference.probabilities import (
    mean_uncertainty,
    predict_closely,
    uncertainty_of,
    write_probabilities,
)
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import AsItIs
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scans import Scan
from fdif_jax.preprocessing.spaces import Space
from fdif_jax.training.network import functional
from tests.helpers.training import Net

PATCH = (8, 6, 8)
AFFINE = nib.affines.from_matvec(np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]), [10, 20, 30])


@pytest.fixture(scope="module")
def networks():
    """Two networks, alone and together."""
    first, second = (functional(Net(seed=seed)) for seed in range(2))
    both = TiledNetwork(first.apply, [first.weights, second.weights], PATCH, mirror_axes=(1,))
    return both, [both.of([network.weights], (1,)) for network in (first, second)]


def case(spacing):
    image = np.random.default_rng(0).standard_normal((9, 11, 17, 1)).astype(np.float32)
    image[:2] = image[:, :, -3:] = 0  # which is cropped
    return prepare(Scan("a", image, None, Space((11, 9, 17), AFFINE)), CasePlan(spacing, PATCH, (AsItIs(),)))


def on_the_file(prepared, logits):
    """Logits on the grid of the crop, (K, D, H, W), each class interpolated as a whole."""
    crop, content = prepared.way.crop, logits[prepared.way.content]
    factors = [new / old for new, old in zip(crop.shape, content.shape, strict=False)]
    options = {"order": 1, "mode": "nearest", "grid_mode": True}
    return np.stack([ndimage.zoom(content[..., k], factors, **options) for k in range(content.shape[3])])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1.4, 0.7, 1.9)])
def test_probabilities_are_nnunets_file_of_the_mean_logits(networks, spacing, tmp_path):
    both, alone = networks
    prepared = case(spacing)
    with tempfile.TemporaryFile() as scratch:
        found = predict_closely(both, prepared, scratch)
        write_probabilities(tmp_path / "a.npz", scratch, prepared.way.crop, both.num_classes)
    assert found.uncertainty is None
    written = np.load(tmp_path / "a.npz")
    assert list(written) == ["probabilities"]
    array = written["probabilities"]
    assert array.shape == (both.num_classes, 17, 9, 11) and array.dtype == np.float32
    np.testing.assert_allclose(array.sum(0), 1, atol=1e-5)
    # What torch's softmax makes of the mean, on canonical axes; around it all is background.
    mean = sum(on_the_file(prepared, network.logits(prepared.image)) for network in alone) / 2
    wanted = torch.softmax(torch.from_numpy(mean), 0).numpy()
    canonical = np.stack([prepared.way.crop.source.to_canonical(volume.T) for volume in array])
    box = prepared.way.crop.box
    np.testing.assert_allclose(canonical[:, *box], wanted, atol=1e-4)
    outside = np.ones(canonical.shape[1:], bool)
    outside[box] = False
    assert outside.any() and (canonical[0, outside] == 1).all() and not canonical[1:, outside].any()
    # The labels: theirs, in the order of a file's axes, and those of a prediction without probabilities.
    np.testing.assert_array_equal(array.argmax(0).T, found.labels)
    assert (found.labels != predict_case(both, prepared)).mean() < 1e-3 and len(np.unique(found.labels)) > 1


def test_the_array_lies_as_simpleitk_reads_the_label_map(networks, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    prepared = case((1, 1, 1))
    with tempfile.TemporaryFile() as scratch:
        labels = predict_closely(networks[0], prepared, scratch).labels
        write_probabilities(tmp_path / "a.npz", scratch, prepared.way.crop, networks[0].num_classes)
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "a.nii.gz")
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["probabilities"].argmax(0), read)


def test_uncertainty_is_the_mutual_information_of_networks_and_the_entropy_of_one(networks):
    both, alone = networks
    prepared = case((1.4, 0.7, 1.9))
    each = [
        torch.softmax(torch.from_numpy(on_the_file(prepared, n.logits(prepared.image))), 0) for n in alone
    ]
    each = np.stack([p.numpy() for p in each]).astype(float)
    entropies = stats.entropy(each, axis=1)
    wanted = (stats.entropy(each.mean(0)) - entropies.mean(0)) / np.log(both.num_classes)
    box = prepared.way.crop.box

    def found(network):
        uncertainty = predict_closely(network, prepared, uncertainty=True).uncertainty
        assert uncertainty.shape == (11, 9, 17) and uncertainty.dtype == np.float32
        return prepared.way.crop.source.to_canonical(uncertainty)

    np.testing.assert_allclose(found(both)[box], wanted, atol=1e-4)
    assert wanted.max() > 0.01
    single = found(alone[0])
    np.testing.assert_allclose(single[box], entropies[0] / np.log(both.num_classes), atol=1e-4)
    assert single.sum() == pytest.approx(single[box].sum())  # nothing is uncertain outside


def test_regions_have_a_sigmoid_each_and_are_painted(tmp_path):
    first, second = (functional(Net(seed=seed)) for seed in range(2))
    network = TiledNetwork(first.apply, [first.weights, second.weights], PATCH, painted=(2, 1, 3))
    prepared = case((1.4, 0.7, 1.9))
    with tempfile.TemporaryFile() as scratch:
        found = predict_closely(network, prepared, scratch, uncertainty=True)
        write_probabilities(tmp_path / "a.npz", scratch, prepared.way.crop, 3, regions=True)
    array = np.load(tmp_path / "a.npz")["probabilities"]
    alone = [network.of([member.weights], ()) for member in (first, second)]
    logits = np.stack([on_the_file(prepared, one.logits(prepared.image)) for one in alone]).astype(float)
    canonical, box = (prepared.way.crop.source.to_canonical, prepared.way.crop.box)
    given = np.stack([canonical(volume.T) for volume in array])
    np.testing.assert_allclose(given[:, *box], special.expit(logits.mean(0)), atol=1e-4)
    assert given.sum() == pytest.approx(given[:, *box].sum(), rel=1e-5)  # no region outside
    labels = np.select([region > 0.5 for region in array[::-1]], (3, 1, 2), 0).T
    assert (found.labels != labels).mean() < 1e-3 and len(np.unique(found.labels)) > 1
    np.testing.assert_array_equal(found.labels, predict_case(network, prepared))
    p = special.expit(logits)
    entropies = stats.entropy(np.stack([p, 1 - p]), axis=0)
    wanted = (stats.entropy(np.stack([p.mean(0), 1 - p.mean(0)]), axis=0) - entropies.mean(0)).mean(
        0
    ) / np.log(2)
    np.testing.assert_allclose(canonical(found.uncertainty)[box], wanted, atol=1e-4)


def test_uncertainty_runs_from_0_to_1():
    sure, other, even = [1.0, 0, 0], [0, 1.0, 0], [1 / 3] * 3
    members = np.array([[sure, sure], [even, even], [sure, other]], np.float32)
    np.testing.assert_allclose(uncertainty_of(members), [0, 0, np.log(2) / np.log(3)], atol=1e-6)
    np.testing.assert_allclose(uncertainty_of(members[:, :1]), [0, 1, 0], atol=1e-6)


def test_the_numbers_of_a_case_are_means_over_foreground_and_borders():
    labels, uncertainty = np.zeros((6, 5, 4), np.uint8), np.zeros((6, 5, 4), np.float32)
    labels[3:] = 1
    uncertainty[2], uncertainty[3], uncertainty[4:] = 0.2, 0.6, 0.3
    assert mean_uncertainty(uncertainty, labels) == pytest.approx(((0.6 + 0.3 * 2) / 3, 0.4))
    assert np.isnan(mean_uncertainty(uncertainty, np.zeros_like(labels))).all()
