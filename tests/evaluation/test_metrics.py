"""Surface metrics against MONAI's and against geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import hausdorff95, surface_dice
from tests.helpers.label_maps import label_maps, one_hot

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.1, 0.7, 1.0, 1.5, 3.0])] * 3),
    tolerance=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.1, 4.5]),
    num_classes=st.integers(2, 7),
)
def test_surface_metrics_equal_monai(seed, shape, spacing, tolerance, num_classes):
    prediction, label = label_maps(seed, shape, num_classes)
    pair = one_hot(prediction, num_classes), one_hot(label, num_classes)
    wanted = compute_surface_dice(*pair, [tolerance] * (num_classes - 1), spacing=spacing)[0]
    ours = surface_dice(prediction, label, num_classes, tolerance=tolerance, spacing=spacing)
    np.testing.assert_array_equal(ours.astype(np.float32), wanted)
    wanted = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0]
    np.testing.assert_allclose(
        hausdorff95(prediction, label, num_classes, spacing=spacing), wanted, rtol=1e-5
    )


def test_slabs_apart_by_two_voxels():
    prediction, label = np.zeros((2, 20, 8, 8), int)
    prediction[4:10], label[6:12] = 1, 1
    spacing = (1.5, 1.0, 1.0)
    assert hausdorff95(prediction, label, 2, spacing=spacing)[0] == 3.0
    assert surface_dice(prediction, label, 2, tolerance=3, spacing=spacing)[0] == 1.0
    # A slab's surface: two faces of 64 voxels, four rims of 28. Further than 2 mm are the whole outer face, 3 mm from
    # the other slab's, and of the inner face the four voxels in its middle, 3 mm from the other slab's rim.
    near = surface_dice(prediction, label, 2, tolerance=2, spacing=spacing)[0]
    assert near == pytest.approx(1 - (64 + 4) / (2 * 64 + 4 * 28))


def test_a_class_in_neither_and_in_one_only():
    prediction, label = np.zeros((2, 6, 6, 6), np.uint8)
    prediction[1:3, 1:3, 1:3] = 2
    np.testing.assert_array_equal(surface_dice(prediction, label, 3), [np.nan, 0])
    np.testing.assert_array_equal(surface_dice(label, prediction, 3), [np.nan, 0])
    np.testing.assert_array_equal(hausdorff95(prediction, label, 3), [np.nan, np.nan])


def test_ids_that_are_no_class_do_not_count():
    prediction, label = np.zeros((2, 5, 5, 5), int)
    prediction[2:4, 2:4, 2:4], label[2:4, 2:4, 2:4] = 7, 1
    np.testing.assert_array_equal(surface_dice(prediction, label, 2), [0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tolerance": -1}, "tolerance"),
        ({"tolerance": np.nan}, "tolerance"),
        ({"spacing": (1, 0, 1)}, "positive"),
        ({"spacing": (1, 1)}, "as many"),
    ],
)
def test_impossible_arguments(arguments, says):
    with pytest.raises(FdifError, match=says):
        surface_dice(*np.zeros((2, 3, 3, 3), int), 2, **arguments)
    with pytest.raises(FdifError, match="one shape"):
        hausdorff95(np.zeros((3, 3, 3), int), np.zeros((3, 3, 4), int), 2)
