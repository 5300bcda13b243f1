"""`fdif evaluate`: equal to MONAI on random label maps, honest about what is undefined, and about bad files."""

import csv
import dataclasses
import json
import time

import nibabel as nib
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from fdif_jax.errors import FdifError
from fdif_jax.evaluation.scoring import bootstrap_interval, score_case
from fdif_jax.scripts import cli, evaluate
from tests.helpers.label_maps import label_maps, one_hot

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
SPACING = (1.5, 0.7, 2.0)
AFFINE = nib.affines.from_matvec(np.array([[0, -0.7, 0], [1.5, 0, 0], [0, 0, 2]]), [10, 20, 30])
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4}


def monai_scores(prediction, label, num_classes, spacing, tolerance):
    pair = one_hot(prediction, num_classes), one_hot(label, num_classes)
    return np.stack(
        [
            compute_dice(*pair, include_background=False, ignore_empty=True)[0].numpy(),
            compute_surface_dice(*pair, [tolerance] * (num_classes - 1), spacing=spacing)[0].numpy(),
            compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0].numpy(),
        ],
        axis=1,
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    margin=st.integers(0, 3),
    num_classes=st.integers(2, 6),
)
def test_scores_equal_monai(seed, shape, margin, num_classes):
    prediction, label = (np.pad(m, margin) for m in label_maps(seed, shape, num_classes))
    classes = range(1, num_classes)
    scores = score_case(prediction, label, classes, spacing=SPACING, tolerance=1.5, surface="voxels")
    expected = monai_scores(prediction, label, num_classes, SPACING, 1.5)
    # A class that is predicted and not there scores 0 with us; MONAI leaves its Dice out.
    only_predicted = [c for c in range(1, num_classes) if c in prediction and c not in label]
    assert not scores[[c - 1 for c in only_predicted], 0].any()
    expected[[c - 1 for c in only_predicted], 0] = 0
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_ignored_voxels_do_not_count():
    prediction, label = label_maps(0, (12, 12, 12), 4).astype(int)
    ignored = np.zeros(label.shape, bool)
    ignored[:5] = True
    elsewhere = np.where(ignored, 0, prediction), np.where(ignored, 0, label)
    np.testing.assert_array_equal(
        score_case(prediction, np.where(ignored, -1, label), (1, 2, 3), spacing=SPACING),
        score_case(*elsewhere, (1, 2, 3), spacing=SPACING),
    )


def test_ids_are_names_and_no_numbers():
    """Scores are those of classes 1, 2, … whatever the ids, and of no more classes than are asked for."""
    prediction, label = label_maps(1, (12, 12, 12), 4).astype(np.int64)
    ids = np.array([0, 7, 2035, 614454277])
    wanted = score_case(prediction, label, (1, 2, 3), spacing=SPACING)
    found = score_case(ids[prediction], ids[label], ids[1:], spacing=SPACING)
    np.testing.assert_array_equal(found, wanted)
    some = score_case(ids[prediction], ids[label], ids[[1, 3]], spacing=SPACING)
    np.testing.assert_array_equal(some, wanted[[0, 2]])


def test_intervals_are_those_of_scipy_and_leave_out_what_is_undefined():
    values = np.random.default_rng(0).beta(8, 2, 40)
    low, high = bootstrap_interval(np.append(values, np.nan))
    wanted = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999)
    np.testing.assert_allclose([low, high], wanted.confidence_interval, atol=0.004)
    assert low < values.mean() < high
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5)
    assert np.isnan(bootstrap_interval(np.array([np.nan]))).all()


# ------------------------------------------------------------------------------------------------- the command


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def folders(tmp_path):
    """Three cases, each worse than the one before, of a dataset of three classes."""
    maps = {}
    for number in range(3):
        prediction, label = label_maps(number, (12, 11, 10), 4).astype(np.uint8)
        noise = np.random.default_rng(number).random(label.shape) < 0.05 + 0.3 * number
        prediction = np.where(noise, 0, label if number < 2 else prediction).astype(np.uint8)
        maps[f"case_{number}"] = prediction, label
        save(tmp_path / f"predictions/case_{number}.nii.gz", prediction)
        save(tmp_path / f"data/labelsTr/case_{number}.nii.gz", label)
        save(tmp_path / f"data/imagesTr/case_{number}_0000.nii.gz", label.astype(np.int16) * 10)
    save(tmp_path / "data/labelsTr/case_9.nii.gz", label)  # nobody predicted it
    (tmp_path / "data/dataset.json").write_text(json.dumps({"labels": LABELS}))
    return tmp_path, maps


def config_of(root, **changes):
    return evaluate.Config(root / "predictions", root / "data/labelsTr", root / "out/scores.csv", **changes)


def rows_of(root):
    return list(csv.DictReader((root / "out/scores.csv").open()))


def test_a_line_a_case_and_class_a_table_and_pictures_of_the_worst(folders, capsys):
    root, maps = folders
    evaluate.run(config_of(root, tolerance=1.5, worst=2, images=root / "data/imagesTr"))
    rows = rows_of(root)
    assert [(r["case"], r["class"]) for r in rows] == [(case, c) for case in maps for c in "abc"]
    found = np.array([[float(r[m] or "nan") for m in ("dice", "nsd", "hd95_mm")] for r in rows])
    wanted = [score_case(*pair, (1, 2, 3), spacing=SPACING, tolerance=1.5) for pair in maps.values()]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-4)
    printed = capsys.readouterr().out
    assert "1 of 4 label maps have no prediction" in printed
    assert "NSD 1.5 mm" in printed and "mean [95 % interval]" in printed
    means = {case: np.nanmean(s[:, 0]) for case, s in zip(maps, wanted, strict=True)}
    assert f"{np.mean(list(means.values())):.4f} [" in printed
    pictures = sorted((root / "out/scores_worst").iterdir())
    assert [p.name for p in pictures] == ["1.png", "2.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_labels_of_a_list_are_those_of_its_cases(folders, capsys):
    """Every label map is called ``label.nii.gz``; what differs is the patient's folder."""
    root, maps = folders
    entries = []
    for case in maps:
        for name, source in (("image", f"imagesTr/{case}_0000"), ("label", f"labelsTr/{case}")):
            (root / case).mkdir(exist_ok=True)
            (root / f"data/{source}.nii.gz").rename(root / case / f"{name}.nii.gz")
        entries.append({"image": f"{case}/image.nii.gz", "label": f"{case}/label.nii.gz"})
        (root / f"predictions/{case}.nii.gz").rename(root / f"predictions/{case}_image.nii.gz")
    (root / "patients.json").write_text(json.dumps({"labels": LABELS, "training": entries}))
    config = dataclasses.replace(config_of(root, worst=1), labels=root / "patients.json")
    evaluate.run(config)
    rows = rows_of(root)
    assert [(r["case"], r["class"]) for r in rows] == [(f"{case}_image", c) for case in maps for c in "abc"]
    wanted = np.concatenate(
        [score_case(*pair, [1, 2, 3], spacing=SPACING, tolerance=1.0) for pair in maps.values()]
    )
    np.testing.assert_allclose([float(r["dice"] or "nan") for r in rows], wanted[:, 0], rtol=1e-4)
    (root / "predictions/case_1_image.nii.gz").rename(root / "predictions/other.nii.gz")
    with pytest.raises(FdifError, match=r"other\.nii\.gz: no case of .*patients\.json is called other"):
        evaluate.run(config)
    pairs = evaluate._pairs(dataclasses.replace(config, skip_bad=True))
    assert [pair.id for pair in pairs] == ["case_0_image", "case_2_image"]
    assert "skipped: " in capsys.readouterr().err


def test_a_picture_without_its_image_is_an_error_after_the_scores_are_written(folders, capsys):
    root, _ = folders
    (root / "data/imagesTr/case_2_0000.nii.gz").unlink()  # the worst case's
    with pytest.raises(FdifError, match=r"imagesTr/case_2\.nii\.gz: no such file"):
        evaluate.run(config_of(root, images=root / "data/imagesTr"))
    assert len(rows_of(root)) == 9
    evaluate.run(config_of(root, images=root / "data/imagesTr", skip_bad=True))
    assert "no picture: " in capsys.readouterr().err
    assert {p.name for p in (root / "out/scores_worst").iterdir()} == {"2.png", "3.png"}


def test_without_a_dataset_classes_are_numbers_and_absent_ones_are_empty(folders):
    root, _ = folders
    (root / "data/dataset.json").unlink()
    for folder in ("predictions", "data/labelsTr"):
        save(root / folder / "case_0.nii.gz", np.full((12, 11, 10), 1, np.uint8))
    evaluate.run(config_of(root, worst=0))
    rows = rows_of(root)
    assert [(r["class"], r["dice"], r["hd95_mm"]) for r in rows[:3]] == [
        ("1", "1", "0"),
        ("2", "", ""),
        ("3", "", ""),
    ]
    assert not (root / "out/scores_worst").exists()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64])
def test_two_labels_of_an_atlas_make_two_rows(folders, dtype, capsys):
    root, _ = folders
    (root / "data/dataset.json").unlink()
    label = np.zeros((12, 11, 10), dtype)
    label[2:5, 2:9, 2:8], label[5:9, 2:9, 2:8] = 2035, 614454277
    prediction = label.copy()
    prediction[4, 2:9, 2:8] = 614454277
    for case in range(3):
        save(root / f"predictions/case_{case}.nii.gz", prediction)
        save(root / f"data/labelsTr/case_{case}.nii.gz", label)
    started = time.process_time()
    evaluate.run(config_of(root, worst=1))
    assert time.process_time() - started < 20  # by value it were 614454277 rows a case
    rows = rows_of(root)
    assert [(r["case"], r["class"]) for r in rows[:3]] == [
        ("case_0", "2035"),
        ("case_0", "614454277"),
        ("case_1", "2035"),
    ]
    assert len(rows) == 6
    assert float(rows[0]["dice"]) == pytest.approx(2 * 2 / (2 + 3)) and float(rows[1]["hd95_mm"]) == 1.5
    assert "614454277" in capsys.readouterr().out and (root / "out/scores_worst/1.png").exists()


def test_the_surface_is_an_option_by_name(folders, capsys):
    root, maps = folders
    evaluate.run(config_of(root, surface="voxels", tolerance=1.5, worst=0))
    found = [float(r["nsd"] or "nan") for r in rows_of(root)]
    wanted = np.concatenate([monai_scores(*pair, 4, SPACING, 1.5)[:, 1] for pair in maps.values()])
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert "surfaces by voxels" in capsys.readouterr().out


def test_maps_without_a_list_hold_whole_numbers_from_minus_1(folders):
    root, _ = folders
    (root / "data/dataset.json").unlink()
    for wrong in (0.5, -2, 1e30):
        save(root / "predictions/case_1.nii.gz", np.full((12, 11, 10), wrong, np.float32))
        with pytest.raises(FdifError, match=r"case_1\.nii\.gz: (is no label map|holds label|holds absurd)"):
            evaluate.run(config_of(root))


def test_the_label_called_ignore_is_not_compared(folders):
    root, maps = folders
    prediction, label = maps["case_0"]
    label = label.copy()
    label[prediction != label] = 4
    save(root / "data/labelsTr/case_0.nii.gz", label)
    evaluate.run(config_of(root))
    assert {r["dice"] for r in rows_of(root)[:3]} <= {"1", ""}


def _moved(path):
    save(path, np.asarray(nib.load(path).dataobj), AFFINE + np.eye(4)[[3, 0, 1, 2]].T)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "data/labelsTr/case_1.nii.gz").unlink(),
            r"labelsTr/case_1\.nii\.gz: no such file",
        ),
        (lambda root: _moved(root / "predictions/case_1.nii.gz"), r"predictions/case_1\.nii\.gz: its affine"),
        (lambda root: _truncated(root / "predictions/case_1.nii.gz"), r"case_1\.nii\.gz: truncated"),
        (
            lambda root: save(root / "predictions/case_1.nii.gz", np.ones((12, 11, 9), np.uint8)),
            r"case_1\.nii\.gz: shape \(12, 11, 9\), but",
        ),
        (
            lambda root: save(root / "predictions/case_1.nii.gz", np.full((12, 11, 10), 9, np.uint8)),
            r"case_1\.nii\.gz: holds label 9, which its dataset does not declare: 0 background, 1 a",
        ),
    ],
)
def test_a_bad_case_is_named_or_skipped(folders, damage, message, capsys):
    root, _ = folders
    damage(root)
    with pytest.raises(FdifError, match=message):
        evaluate.run(config_of(root))
    assert not (root / "out").exists()
    evaluate.run(config_of(root, skip_bad=True))
    assert {r["case"] for r in rows_of(root)} == {"case_0", "case_2"}
    told = capsys.readouterr().err
    assert "skipped: " in told and "case_1" in told and "skipped 1 of 3 cases" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": -1.0}, "--tolerance must be"),
        ({"worst": -1}, "--worst must be"),
        ({"dataset": "nowhere.json"}, "nowhere.json: no such file"),
        ({"images": "nowhere"}, "nowhere: no such folder"),
        ({"predictions": "data"}, "data: holds no volume"),
    ],
)
def test_impossible_options_are_refused(folders, changes, message):
    root, _ = folders
    config = config_of(root)
    with pytest.raises(FdifError, match=message):
        evaluate.run(
            evaluate.Config(
                **vars(config) | {k: root / v if isinstance(v, str) else v for k, v in changes.items()}
            )
        )


def test_nothing_scored_is_an_error_of_the_command(folders, capsys):
    root, _ = folders
    for path in (root / "predictions").iterdir():
        _truncated(path)
    arguments = [str(root / "predictions"), str(root / "data/labelsTr"), "--out", str(root / "scores.csv")]
    with pytest.raises(SystemExit) as left:
        cli.run("evaluate", [*arguments, "--skip-bad"])
    assert left.value.code == 2 and "none of" in capsys.readouterr().err
