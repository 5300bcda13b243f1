"""Fingerprints, plans, and cases there and back: an oracle's labels return voxel for voxel to their file's grid."""

import json
import re
from itertools import count, repeat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case, load_conventions, load_dataset
from fdif_jax.errors import FdifError
from fdif_jax.io import memory
from fdif_jax.preprocessing import preparation
from fdif_jax.preprocessing.fingerprints import (
    CasePlan,
    Fingerprint,
    choose_patch,
    fingerprint,
    measure,
    mirror_axes,
    plan_cases,
)
from fdif_jax.preprocessing.normalisation import AsItIs, UnitRange, Window, ZScore, read_normalisation
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scans import Scan, read_scan
from fdif_jax.preprocessing.spaces import Space
from tests.helpers.paths import HIPPOCAMPUS
from tests.helpers.spaces import SHAPES, affines, scores_back

DATA = HIPPOCAMPUS
TWO = Conventions(("a", "b"))


def plan_of(spacing, patch=(8, 8, 8), channels=({"kind": "zscore"},)):
    return CasePlan(tuple(spacing), patch, channels)


def one_hot(labels, num_classes):
    return (labels[..., None] == np.arange(num_classes)).astype(np.float32)


# ------------------------------------------------------------------------------------------ there and back


@given(affine=affines(), shape=SHAPES, seed=st.integers(0, 999), patch=SHAPES, margin=st.integers(0, 2))
def test_an_oracle_returns_the_label_on_its_own_grid(tmp_path_factory, affine, shape, seed, patch, margin):
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("case")
    image = rng.integers(1, 99, shape).astype(np.int16)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    label[(0,) * 3] = 1
    shown = np.pad(image, margin), np.pad(label, margin)  # what is around it is 0, and will be cropped
    paths = [folder / "image.nii.gz", folder / "label.nii.gz"]
    for path, array in zip(paths, shown, strict=True):
        nib.save(nib.Nifti1Image(array, affine), path)
    scan = read_scan(Case(*paths, "case"), TWO)
    prepared = prepare(scan, plan_of(scan.space.canonical.spacing, patch))

    cropped = Space(shape, affine).canonical.shape
    assert prepared.image.shape == (*np.maximum(cropped, patch), 1)
    assert prepared.label.shape == prepared.image.shape[:3] and prepared.way.keeps_grid
    for back in (
        prepared.way.labels_back(prepared.label),
        scores_back(prepared.way, one_hot(prepared.label, 3)),
    ):
        np.testing.assert_array_equal(back, np.asarray(nib.load(paths[1]).dataobj))
        assert back.flags.c_contiguous


@given(affine=affines(), scale=st.sampled_from([0.5, 0.8, 1.7]))
def test_what_was_resampled_comes_back_to_its_own_grid_nearly_as_it_was(affine, scale):
    shape = (26, 30, 28)
    z, y, x = np.indices(shape) - np.array([13, 15, 14]).reshape(3, 1, 1, 1)
    label = ((z / 9) ** 2 + (y / 12) ** 2 + (x / 10) ** 2 < 1).astype(np.int8)
    space = Space(shape, affine)
    scan = Scan("ball", space.to_canonical(label + 1.0)[..., None], space.to_canonical(label), space)
    target = np.array(space.canonical.spacing) * scale
    prepared = prepare(scan, plan_of(target, (60, 12, 12)))
    assert prepared.image.shape[0] >= 60 and not prepared.way.keeps_grid
    inside = prepared.image[prepared.way.content].shape[:3]
    np.testing.assert_allclose(inside, np.array(space.canonical.shape) / scale, atol=0.5)
    for back in (
        prepared.way.labels_back(prepared.label),
        scores_back(prepared.way, one_hot(prepared.label, 2)),
    ):
        assert back.shape == shape
        assert 2 * (back & label).sum() / (back.sum() + label.sum()) > (0.97 if scale < 1 else 0.93)


def test_a_case_is_cropped_normalised_and_padded():
    image = np.zeros((12, 10, 9, 2), np.float32)
    image[2:8, 1:7, 3:9, 0] = np.random.default_rng(0).uniform(5, 9, (6, 6, 6))
    image[4, 4, 4, 1] = 1
    scan = Scan("a", image, None, Space(image.shape[:3], np.eye(4)))
    prepared = prepare(scan, plan_of((1, 1, 1), (4, 8, 4), (ZScore(nonzero=True), AsItIs())))
    assert prepared.label is None and prepared.image.shape == (6, 8, 6, 2)
    first = prepared.image[:, 1:7, :, 0]
    np.testing.assert_allclose([first.mean(), first.std()], [0, 1], atol=1e-5)
    assert not prepared.image[:, [0, 7]].any() and prepared.image[..., 1].sum() == 1
    back = prepared.way.labels_back(np.ones((6, 8, 6), np.uint8))
    assert back.sum() == 6**3 and back[2:8, 1:7, 3:9].all()
    with pytest.raises(FdifError, match="case a: 2 channels, but the plan is for 1"):
        prepare(scan, plan_of((1, 1, 1)))
    with pytest.raises(FdifError, match=r"a prediction of shape \(6, 6, 6\)"):
        prepared.way.labels_back(np.ones((6, 6, 6), np.uint8))


def test_ignored_voxels_stay_ignored_through_resampling():
    label = np.zeros((8, 8, 8), np.int8)
    label[:4], label[4:] = -1, 1
    scan = Scan("a", np.ones((8, 8, 8, 1), np.float32), label, Space((8, 8, 8), np.eye(4)))
    finer = prepare(scan, plan_of((0.5, 0.5, 0.5))).label
    assert (finer[:8] == -1).all() and (finer[8:] == 1).all()


# -------------------------------------------------------------------------------------------- normalisation


def test_normalisations_by_hand():
    channel = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    window = Window((-100.0, 300.0), 50.0, 80.0)
    np.testing.assert_allclose(window(channel), (channel.clip(-100, 300) - 50) / 80, rtol=1e-5)
    np.testing.assert_allclose(ZScore()(channel), (channel - channel.mean()) / channel.std(), atol=1e-5)
    channel[:2] = 0
    kept = channel[channel != 0]
    expected = np.where(channel != 0, (channel - kept.mean()) / kept.std(), 0)
    np.testing.assert_allclose(ZScore(nonzero=True)(channel), expected, atol=1e-5)
    unit = UnitRange()(channel)
    assert unit.min() == 0 and unit.max() == 1 and unit.dtype == np.float32
    np.testing.assert_array_equal(AsItIs()(channel), channel.astype(np.float32))
    for constant in (ZScore(), ZScore(nonzero=True), UnitRange()):
        for value in (0, 7):
            assert not constant(np.full((3, 3, 3), value, np.int16)).any()


def test_normalisations_travel_as_plain_data():
    for chosen in (Window((-100.0, 300.0), 50.0, 80.0), ZScore(nonzero=True), UnitRange(), AsItIs()):
        assert read_normalisation(json.loads(json.dumps(chosen.to_dict()))) == chosen
    with pytest.raises(FdifError, match="unknown kind of normalisation 'zscor'; did you mean 'zscore'"):
        read_normalisation({"kind": "zscor"})
    with pytest.raises(FdifError, match="from a lower to a higher"):
        Window((3.0, 3.0), 0.0, 1.0)


# ----------------------------------------------------------------------------------------------------- plans


def measured(spacings, shapes, name="MRI", foreground=None, zeros=0.0, centres=None):
    count = len(spacings)
    foreground = np.random.default_rng(0).normal(100, 20, 5000) if foreground is None else foreground
    return Fingerprint(
        np.array(spacings, float),
        np.array(shapes),
        np.asarray(foreground, np.float32)[None],
        np.full((count, 1), zeros),
        np.zeros((count, 2, 3)) if centres is None else np.asarray(centres, float),
        (name,),
        ("left", "right"),
    )


def test_the_hippocampus_and_its_plan():
    conventions = load_conventions(DATA)
    cases = load_dataset(DATA).training
    scans = [read_scan(case, conventions) for case in cases]
    found = fingerprint(map(measure, scans, count(), repeat(2)), conventions)
    assert found.channel_names == ("MRI",) and found.foreground.shape[0] == 1
    np.testing.assert_array_equal(found.spacings, np.ones((len(cases), 3)))
    np.testing.assert_array_equal(found.shapes, [scan.image[scan.content].shape[:3] for scan in scans])
    pooled = np.concatenate([scan.image[scan.label > 0].ravel() for scan in scans])
    assert found.foreground.mean() == pytest.approx(pooled.mean(), rel=0.02)
    plan = plan_cases(found, (4, 4, 4))
    assert plan.spacing == (1, 1, 1) and plan.channels == (ZScore(),)
    median = np.median(found.shapes, axis=0)
    assert all(edge % 4 == 0 and 0 <= edge - n < 4 for edge, n in zip(plan.patch, median, strict=True))
    assert plan.reasons[0] == f"spacing 1 × 1 × 1 mm: that of all {len(cases)} cases"
    assert [why.split(":")[0].split()[0] for why in plan.reasons] == ["spacing", "patch", "channel"]
    assert CasePlan.from_dict(json.loads(json.dumps(plan.to_dict())), "plan") == plan


def test_ct_is_windowed_by_the_percentiles_of_its_foreground():
    voxels = np.linspace(-200, 800, 1001)
    plan = plan_cases(measured([(1, 1, 1)], [(9, 9, 9)], "CT", voxels), (1, 1, 1))
    (window,) = plan.channels
    assert window.window == pytest.approx((-195, 795))
    inside = voxels.clip(-195, 795)
    assert (window.mean, window.deviation) == pytest.approx((inside.mean(), inside.std()), rel=1e-5)
    given = plan_cases(measured([(1, 1, 1)], [(9, 9, 9)]), (1, 1, 1), window=(-20.0, 200.0))
    assert given.channels[0].window == (-20, 200) and "as given" in given.reasons[-1]
    with pytest.raises(FdifError, match=r"channel CT: 40 in most of what is measured.* give one by --window"):
        plan_cases(measured([(1, 1, 1)], [(9, 9, 9)], "CT", np.full(9, 40)), (1, 1, 1))


@pytest.mark.parametrize(
    ("name", "zeros", "chosen"),
    [
        ("T1", 0.1, ZScore()),
        ("T1", 0.6, ZScore(nonzero=True)),
        ("noNorm", 0.6, AsItIs()),
        ("rescale_to_0_1", 0.0, UnitRange()),
    ],
)
def test_normalisation_follows_from_the_channel(name, zeros, chosen):
    assert plan_cases(measured([(1, 1, 1)], [(9, 9, 9)], name, zeros=zeros), (1, 1, 1)).channels == (chosen,)


def test_target_spacing_is_the_median_but_finer_along_a_coarse_axis():
    spacings = [(0.8, 0.8, z) for z in (1.5, 5, 5, 5, 5, 6, 6, 6, 7, 8, 9)]
    shapes = [(512, 512, 40)] * len(spacings)
    assert plan_cases(measured(spacings, shapes), (4, 4, 4)).spacing == (0.8, 0.8, 5.0)
    assert plan_cases(measured(spacings[5:], shapes[5:]), (4, 4, 4)).spacing == (0.8, 0.8, 6.0)
    tall = [(64, 64, 300)] * len(spacings)  # coarse, but with as many voxels
    assert plan_cases(measured(spacings, tall), (4, 4, 4)).spacing == (0.8, 0.8, 6.0)
    plan = plan_cases(measured(spacings, shapes), (4, 4, 4), spacing=(1, 1, 2), patch=(8, 8, 8))
    assert plan.spacing == (1, 1, 2) and plan.patch == (8, 8, 8)
    assert plan.reasons[:2] == ("spacing 1 × 1 × 2 mm: as given", "patch 8 × 8 × 8: as given")


@given(
    shape=st.tuples(*[st.integers(1, 700)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3),
    multiple=st.tuples(*[st.sampled_from([1, 4, 16, 32])] * 3),
    budget=st.sampled_from([32**3, 48**3, 64**3, 96**3, 192**3]),
)
def test_a_patch_fits_the_network_the_budget_and_the_case(shape, spacing, multiple, budget):
    if 2 * np.prod(multiple) > budget:
        with pytest.raises(FdifError, match="too few for a patch"):
            choose_patch(shape, spacing, multiple, budget)
        return
    patch, why = choose_patch(shape, spacing, multiple, budget)
    whole = np.maximum(np.ceil(np.array(shape) / multiple), 2) * multiple
    assert np.prod(patch) <= budget and (np.array(patch) <= whole).all()
    counts = np.array(patch) // multiple
    assert (counts * multiple == patch).all() and counts.prod() >= 2
    assert (patch == tuple(whole)) == ("at most" not in why)
    if counts.min() < 2:  # no room for two along each axis
        extents = np.array(shape) * spacing
        assert counts.max() <= 2 and 8 * np.prod(multiple) > budget
        assert np.prod(patch) * 2 > budget
        assert extents[counts == 1].max() <= extents[counts == 2].min()
        return
    lengths = [edge * s for edge, s in zip(patch, spacing, strict=True)]
    for axis in range(3):
        before = lengths[axis] + multiple[axis] * spacing[axis]
        for other in range(3):  # what was cut was longer than all that could be cut
            if patch[axis] < whole[axis] and patch[other] > 2 * multiple[other]:
                assert before >= lengths[other]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": (1, 0, 1)}, "spacing must be three numbers of 1e-06 to 100"),
        ({"spacing": (1, 1)}, "spacing must be three numbers"),
        ({"spacing": "111"}, "spacing must be three numbers"),
        ({"patch": (8, 8)}, "patch must be three"),
        ({"patch": (8, 0, 8)}, "patch must be three positive"),
        ({"order": 2}, "order must be 1"),
        ({"channels": ()}, "channels must list"),
        ({"channels": ({"kind": "window"},)}, "the key 'window' is missing"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    with pytest.raises(FdifError, match=message):
        CasePlan(**{"spacing": (1, 1, 1), "patch": (8, 8, 8), "channels": (ZScore(),)} | changes)


def test_a_fingerprint_needs_a_case_and_its_label():
    with pytest.raises(FdifError, match="at least one"):
        fingerprint([], TWO)
    unlabelled = Scan("a", np.ones((3, 3, 3, 1), np.float32), None, Space((3, 3, 3), np.eye(4)))
    with pytest.raises(FdifError, match="case a: a fingerprint needs its label"):
        measure(unlabelled, 0, 2)


def test_an_impossible_spacing_is_refused_before_it_is_used():
    with pytest.raises(FdifError, match="spacing must be three numbers"):
        plan_cases(measured([(1, 1, 1)], [(9, 9, 9)]), (1, 1, 1), spacing=(1.0, 0.0, 1.0))


def test_no_mirroring_along_an_axis_on_which_one_class_lies_before_another():
    spacings, shapes, nan = [(1.0, 1.0, 1.0)] * 4, [(9, 9, 9)] * 4, [np.nan] * 3
    apart = [[(10, 5, 5), (30 + i, 5 + i, 5 - i)] for i in (-2, -1, 1, 2)]
    assert mirror_axes(measured(spacings, shapes, centres=apart)) == (
        (1, 2),
        "not along axis 0 (left to right), on which left lies before right",
    )
    turned = [pair if i % 2 else pair[::-1] for i, pair in enumerate(apart)]
    everywhere = ((0, 1, 2), "no class always lies before another along any axis")
    assert mirror_axes(measured(spacings, shapes, centres=turned)) == everywhere
    lacking = [[(10, 5, 5), nan], *apart[1:3], [nan, nan]]
    assert mirror_axes(measured(spacings, shapes, centres=lacking))[0] == (1, 2)
    never_both = [[(10, 5, 5), nan], [nan, (30, 5, 5)]] * 2
    assert mirror_axes(measured(spacings, shapes, centres=never_both)) == everywhere
    assert (
        mirror_axes(measured(spacings[:1], shapes[:1], centres=apart[:1]))[0] == ()
    )  # one case could be any


# ------------------------------------------------------------------------------------------------ absurd grids


@pytest.mark.parametrize(
    ("spacing", "target", "message"),
    [
        (
            (1, 1, 1),
            (0.001, 1, 1),
            r"spacing 1 × 1 × 1 mm, prepared at 0.001 × 1 × 1 mm: more than 100 times",
        ),
        ((0.5, 0.0007, 0.5), (1, 1, 1), "more than 100 times as coarse or as fine; check pixdim"),
        (
            (5, 5, 5),
            (0.06, 0.06, 0.06),
            r"a grid of 7500 × 7500 × 7500 voxels, which needs [\d,]+ bytes of memory",
        ),
    ],
)
def test_absurd_grids_are_refused_before_they_are_allocated(spacing, target, message, monkeypatch):
    monkeypatch.setattr(preparation, "resample", None)  # which would be too late
    scan = Scan("s1", np.ones((90, 90, 90, 1), np.int8), None, Space((90, 90, 90), np.diag([*spacing, 1.0])))
    with pytest.raises(FdifError, match=f"case s1: .*{message}"):
        prepare(scan, plan_of(target))


def test_memory_is_the_least_of_the_machines_and_its_limits(monkeypatch):
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert 2**28 < memory.memory() <= 1024 * int(total[1])
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (4096, 2**40))
    assert memory.memory() == 4096
