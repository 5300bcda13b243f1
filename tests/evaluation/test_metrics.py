"""Surface metrics against MONAI's and against geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_confusion_matrix_metric,
    compute_hausdorff_distance,
    compute_surface_dice,
    get_confusion_matrix,
)
from monai.metrics.utils import create_table_neighbour_code_to_surface_area, get_mask_edges
from scipy import ndimage

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.metrics import compare
from tests.helpers.label_maps import label_maps, one_hot

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")


SPACINGS = st.one_of(
    st.sampled_from([(0.7, 0.7, 5.0), (5.0, 0.7, 0.7), (1.0, 1.0, 1.0)]),
    st.tuples(*[st.sampled_from([0.1, 0.7, 1.0, 1.5, 3.0])] * 3),
)
random_maps = given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    spacing=SPACINGS,
    tolerance=st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.1, 4.5]),
    num_classes=st.integers(2, 7),
)


def surface_dice(*maps, **options):
    return compare(*maps, ["nsd"], **options)[:, 0]


def hausdorff95(*maps, **options):
    return compare(*maps, ["hd95"], **options)[:, 0]


def assd(*maps, **options):
    return compare(*maps, ["assd"], **options)[:, 0]


def by_area(ours, theirs, spacing):
    """DeepMind's robust Hausdorff distance: of the elements that MONAI finds, by their distance, the first to complete
    95 % of the area; and the mean distance of all elements by area.
    """
    if not (ours.any() and theirs.any()):
        return np.nan, np.nan
    masks = (torch.from_numpy(mask) for mask in (ours, theirs))
    edges, others, areas, further = (part.numpy() for part in get_mask_edges(*masks, spacing=spacing))
    greatest, every = 0.0, []
    for one, other, area in ((edges, others, areas), (others, edges, further)):
        away = ndimage.distance_transform_edt(~other, sampling=spacing)[one]
        rows = np.array(sorted(zip(away, area[one].astype(float), strict=True)))
        every.append(rows)
        share = np.cumsum(rows[:, 1]) / rows[:, 1].sum()
        # A share of 95 % itself is a matter of rounding.
        rounding = (np.abs(share - 0.95) < 1e-6).any()
        greatest = (
            None if rounding or greatest is None else max(greatest, rows[np.searchsorted(share, 0.95), 0])
        )
    away, area = np.concatenate(every).T
    return greatest, (away * area).sum() / area.sum()


@random_maps
def test_by_area_they_are_monais_with_subvoxels_and_deepminds(seed, shape, spacing, tolerance, num_classes):
    prediction, label = label_maps(seed, shape, num_classes)
    pair = one_hot(prediction, num_classes), one_hot(label, num_classes)
    limits = [tolerance] * (num_classes - 1)
    wanted = compute_surface_dice(*pair, limits, spacing=spacing, use_subvoxels=True)[0]
    ours = surface_dice(prediction, label, num_classes, tolerance=tolerance, spacing=spacing)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    found = compare(prediction, label, num_classes, ["hd95", "assd"], spacing=spacing)
    for number, (distance, mean) in enumerate(found, start=1):
        farthest, wanted = by_area(prediction == number, label == number, spacing)
        assert farthest is None or distance == pytest.approx(farthest, rel=1e-5, nan_ok=True)
        assert mean == pytest.approx(wanted, rel=1e-5, nan_ok=True)


@random_maps
def test_by_voxels_they_are_monais_without(seed, shape, spacing, tolerance, num_classes):
    prediction, label = label_maps(seed, shape, num_classes)
    pair = one_hot(prediction, num_classes), one_hot(label, num_classes)
    wanted = compute_surface_dice(*pair, [tolerance] * (num_classes - 1), spacing=spacing)[0]
    given = {"spacing": spacing, "surface": "voxels"}
    ours = surface_dice(prediction, label, num_classes, tolerance=tolerance, **given)
    np.testing.assert_array_equal(ours.astype(np.float32), wanted)
    wanted = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0]
    np.testing.assert_allclose(hausdorff95(prediction, label, num_classes, **given), wanted, rtol=1e-5)
    wanted = compute_average_surface_distance(*pair, symmetric=True, spacing=spacing)[0].numpy()
    wanted[~np.isfinite(wanted)] = np.nan  # of a class in only one map it is infinite there
    np.testing.assert_allclose(assd(prediction, label, num_classes, **given), wanted, rtol=1e-5)


@given(seed=st.integers(0, 2**32 - 1), num_classes=st.integers(2, 7), spacing=SPACINGS)
def test_overlap_and_volumes_are_monais(seed, num_classes, spacing):
    maps = label_maps(seed, (9, 10, 8), num_classes)
    names = ["sensitivity", "precision", "volume", "relative_volume", "dice"]
    found = compare(*maps, num_classes, names, spacing=spacing)
    pair = [one_hot(ids, num_classes) for ids in maps]
    counts = get_confusion_matrix(*pair, include_background=False)[0].double()
    for column, name in enumerate(("sensitivity", "precision", "f1 score")):
        wanted = compute_confusion_matrix_metric(name, counts).numpy()
        np.testing.assert_allclose(found[:, column if column < 2 else 4], wanted, rtol=1e-6)
    ours, theirs = (
        (maps[i] == np.arange(1, num_classes).reshape(-1, 1, 1, 1)).sum((1, 2, 3)) for i in (0, 1)
    )
    nowhere = ours + theirs == 0
    ml = np.where(nowhere, np.nan, np.subtract(ours, theirs, dtype=float) * np.prod(spacing) / 1000)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.where(theirs > 0, ours / theirs - 1, np.nan)
    np.testing.assert_allclose(found[:, 2], ml, rtol=1e-9)
    np.testing.assert_allclose(found[:, 3], relative, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0)])
def test_all_256_neighbourhoods_weigh_what_they_do_for_monai(spacing):
    """Of each class a neighbourhood, and in the prediction a voxel apart: NSD at tolerance 0 is a ratio of areas."""
    table = create_table_neighbour_code_to_surface_area(spacing)[0].numpy()
    blocks = np.zeros((255, 4, 4, 4), np.uint8)
    blocks[:, 1:3, 1:3, 1:3] = np.unpackbits(np.arange(1, 256, dtype=np.uint8)).reshape(255, 2, 2, 2)
    octants = np.lib.stride_tricks.sliding_window_view(blocks, (2, 2, 2), axis=(1, 2, 3))
    area = table[np.packbits(octants.reshape(255, 27, 8), axis=-1)].sum((1, 2))
    alone = 8 * table[1]
    label = (blocks * np.arange(1, 256).reshape(-1, 1, 1, 1)).reshape(-1, 4, 4)
    label = np.pad(label, [(0, 0), (0, 0), (0, 3)])
    prediction = label.copy()
    prediction[1::4, 1, 5] = np.arange(1, 256)
    found = surface_dice(prediction, label, 256, tolerance=0, spacing=spacing)
    np.testing.assert_allclose(found, 2 * area / (2 * area + alone), rtol=1e-5)


def test_a_box_has_the_area_of_its_faces_less_what_its_rims_round_off():
    box = np.zeros((30, 20, 10), int)
    box[5:25, 4:16, 2:8] = 1  # 20 x 12 x 6 voxels
    spacing, edges = np.array([0.7, 0.7, 5.0]), np.array([20, 12, 6])
    ball = np.zeros_like(box)
    ball[0, 0, 0] = 1  # further away than the tolerance, of the area of an octahedron
    octahedron = np.sqrt(sum((spacing.prod() / spacing) ** 2))
    faces = 2 * ((edges - 1) * spacing).prod() / ((edges - 1) * spacing)
    rims = [4 * (edges[i] - 1) * spacing[i] * np.hypot(*np.delete(spacing, i)) / 2 for i in range(3)]
    area = faces.sum() + sum(rims) + octahedron  # its eight corners are those of an octahedron
    near = surface_dice(box, box | ball, 2, tolerance=0.1, spacing=spacing)[0]
    assert near == pytest.approx(2 * area / (2 * area + octahedron), abs=1e-6)


def test_slabs_apart_by_two_voxels():
    prediction, label = np.zeros((2, 20, 8, 8), int)
    prediction[4:10], label[6:12] = 1, 1
    given = {"spacing": (1.5, 1.0, 1.0), "surface": "voxels"}
    assert hausdorff95(prediction, label, 2, **given)[0] == 3.0
    assert hausdorff95(prediction, label, 2, spacing=given["spacing"])[0] == 3.0
    assert surface_dice(prediction, label, 2, tolerance=3, **given)[0] == 1.0
    # A slab's surface: two faces of 64 voxels, four rims of 28. Further than 2 mm are the whole outer face, 3 mm from
    # the other slab's, and of the inner face the four voxels in its middle, 3 mm from the other slab's rim.
    near = surface_dice(prediction, label, 2, tolerance=2, **given)[0]
    assert near == pytest.approx(1 - (64 + 4) / (2 * 64 + 4 * 28))


def test_coarse_slices_do_not_weigh_more_than_their_area():
    """A tall column, 0.7 x 0.7 x 5 mm, that ends two slices too soon: what is missed is a tenth of its sides."""
    prediction, label = np.zeros((2, 24, 24, 22), np.uint8)
    prediction[2:22, 2:22, 1:19], label[2:22, 2:22, 1:21] = 1, 1
    given = {"tolerance": 1, "spacing": (0.7, 0.7, 5.0)}
    near, counted = (surface_dice(prediction, label, 2, **given, surface=s)[0] for s in ("area", "voxels"))
    pair = one_hot(prediction, 2), one_hot(label, 2)
    wanted = compute_surface_dice(*pair, [1.0], spacing=given["spacing"], use_subvoxels=True)[0, 0]
    assert near == pytest.approx(float(wanted), abs=1e-6) and near > counted + 0.1


def test_a_class_in_neither_and_in_one_only():
    prediction, label = np.zeros((2, 6, 6, 6), np.uint8)
    prediction[1:3, 1:3, 1:3] = 2
    np.testing.assert_array_equal(surface_dice(prediction, label, 3), [np.nan, 0])
    np.testing.assert_array_equal(surface_dice(label, prediction, 3), [np.nan, 0])
    np.testing.assert_array_equal(hausdorff95(prediction, label, 3), [np.nan, np.nan])
    np.testing.assert_array_equal(assd(prediction, label, 3), [np.nan, np.nan])
    rates = compare(prediction, label, 3, ["sensitivity", "precision", "relative_volume", "volume"])
    np.testing.assert_array_equal(rates, [[np.nan] * 4, [np.nan, 0, np.nan, 0.008]])


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
        ({"spacing": (1, 1)}, "3 positive numbers"),
    ],
)
def test_impossible_arguments(arguments, says):
    with pytest.raises(FdifError, match=says):
        surface_dice(*np.zeros((2, 3, 3, 3), int), 2, **arguments)
    with pytest.raises(FdifError, match="one shape"):
        hausdorff95(np.zeros((3, 3, 3), int), np.zeros((3, 3, 4), int), 2)
