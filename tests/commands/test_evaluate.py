"""`fdif evaluate`: equal to MONAI on random label maps, honest about what is undefined, and bad files; a report."""

import csv
import dataclasses
import io
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
from fdif_jax.evaluation import metrics
from fdif_jax.evaluation.scoring import bootstrap_interval, score_case, worst_place
from fdif_jax.scripts import cli, evaluate
from tests.helpers.label_maps import label_maps, one_hot
from tests.helpers.tabs import open_page

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


# ------------------------------------------------------------------------- measures, regions, probabilities, report


def test_what_is_not_asked_for_is_not_computed_and_dice_always_is(folders, monkeypatch, capsys):
    root, maps = folders
    monkeypatch.setattr(metrics, "surfaces_apart", lambda *_: pytest.fail("no surface is asked for"))
    evaluate.run(config_of(root, measures=("volume", "sensitivity"), worst=0))
    rows = rows_of(root)
    assert list(rows[0]) == ["case", "class", "dice", "sensitivity", "volume_difference_ml"]
    prediction, label = maps["case_1"]
    volume = (np.sum(prediction == 2) - np.sum(label == 2)) * np.prod(SPACING) / 1000
    assert float(rows[4]["volume_difference_ml"]) == pytest.approx(volume, rel=1e-4)
    printed = capsys.readouterr().out
    assert "sensitivity" in printed and "HD95" not in printed


def test_regions_are_unions_of_labels_and_count_in_no_mean(folders):
    root, maps = folders
    evaluate.run(config_of(root, regions=("whole=[1,2,3]", "core=[2,3]"), worst=0))
    rows = {(r["case"], r["class"]): r for r in rows_of(root)}
    assert [name for case, name in rows if case == "case_1"] == ["a", "b", "c", "whole", "core"]
    for case, (prediction, label) in maps.items():
        for name, lowest in (("whole", 1), ("core", 2)):
            masks = (prediction >= lowest).astype(int), (label >= lowest).astype(int)
            wanted = score_case(*masks, [1], spacing=SPACING)[0]
            found = [float(rows[case, name][field]) for field in ("dice", "nsd", "hd95_mm")]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
    summary = json.loads((root / "out/scores_summary.json").read_text())
    means = [np.nanmean([float(rows[case, name]["dice"] or "nan") for name in "abc"]) for case in maps]
    assert [summary["per_case"][case]["dice"] for case in maps] == pytest.approx(means, rel=1e-4)
    told = summary["classes"]["mean"]["dice"]
    assert (
        told["mean"] == pytest.approx(np.mean(means), rel=1e-4) and told["low"] < told["mean"] < told["high"]
    )
    assert told["cases"] == summary["cases"] == 3 and set(summary["classes"]) == {
        *"abc",
        "whole",
        "core",
        "mean",
    }


def save_probabilities(root, case, label, *, certain=1.0):
    """In nnU-Net's form: of the labels that are true, so certain."""
    array = np.stack([np.where(label == number, certain, (1 - certain) / 3) for number in range(4)])
    array = array.transpose(0, 3, 2, 1).astype(np.float32)
    np.savez_compressed(root / f"predictions/{case}.npz", probabilities=array)


def test_probabilities_beside_predictions_are_scored(folders, capsys):
    root, maps = folders
    save_probabilities(root, "case_0", maps["case_0"][1])
    save_probabilities(root, "case_1", maps["case_1"][1], certain=0.7)
    evaluate.run(config_of(root, regions=("core=[2,3]",), worst=0, report=root / "out/report.html"))
    rows = {(r["case"], r["class"]): (r["ece"], r["brier"]) for r in rows_of(root)}
    for name in ("a", "b", "c", "core"):
        assert rows["case_2", name] == ("", "")  # it has none
        if rows["case_0", name] != ("", ""):  # where it is
            assert rows["case_0", name] == ("0", "0")
    # Of a class 0.7 and 0.1, of two together 0.8 and 0.2: as far from the truth either way.
    ece, brier = map(float, rows["case_1", "core"])
    assert ece == pytest.approx(0.2, rel=1e-3) and brier == pytest.approx(0.04, rel=1e-3)
    page = (root / "out/report.html").read_text()
    assert 'id="calibration"' in page and "voxels, 0.800 said, 1.000 are" in page
    evaluate.run(config_of(root, measures=("brier",), worst=0))
    assert list(rows_of(root)[0]) == ["case", "class", "dice", "brier"]
    assert "left out" not in capsys.readouterr().err


def test_probabilities_are_turned_as_their_prediction_is(folders):
    """Their file has the prediction's order of voxels, and the label map's may be another."""
    root, maps = folders
    label = maps["case_1"][1]
    save_probabilities(root, "case_1", label, certain=0.7)
    evaluate.run(config_of(root, measures=("ece", "brier"), worst=0))
    wanted = rows_of(root)
    image = nib.Nifti1Image(label, AFFINE)
    turned = image.as_reoriented([[1, -1], [0, 1], [2, -1]])
    nib.save(turned, root / "data/labelsTr/case_1.nii.gz")
    evaluate.run(config_of(root, measures=("ece", "brier"), worst=0))
    assert rows_of(root) == wanted


@pytest.mark.slow("pictures and a report; what is drawn of a name is tried in tests/viewing")
def test_scores_are_written_whatever_a_case_is_called(folders):
    root, maps = folders
    prediction, label = maps["case_1"]
    for name in (r"$x_{$ \\frac", "\udcff", "two\nlines"):
        save(root / f"predictions/{name}.nii.gz", prediction)
        save(root / f"data/labelsTr/{name}.nii.gz", label)
    evaluate.run(config_of(root, measures=("dice",), worst=4, report=root / "out/report.html"))
    assert len(list((root / "out/scores_worst").iterdir())) == 4
    text = (root / "out/scores.csv").read_text(errors="surrogateescape")
    assert {row["case"] for row in csv.DictReader(io.StringIO(text))} >= {"\udcff", "two\nlines"}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            {"softmax": np.zeros(3)},
            r"case_1\.npz: has no probabilities, floats \(4, 10, 11, 12\), \(classes, z, y, x\)",
        ),
        (
            {"probabilities": np.zeros((4, 12, 11, 10))},
            r"must be floats \(4, 10, 11, 12\).*not float64 \(4, 12, 11, 10\)",
        ),
        ({"probabilities": np.zeros((3, 10, 11, 12))}, r"not float64 \(3, 10, 11, 12\)"),
        ({"probabilities": np.zeros((4, 10, 11, 12), int)}, "not int64"),
        ({"probabilities": np.full((4, 10, 11, 12), 2.0)}, "must be from 0 to 1, not 2 to 2"),
        ({"probabilities": np.full((4, 10, 11, 12), np.nan)}, "must be from 0 to 1, not nan to nan"),
        (b"PK nothing", r"case_1\.npz: is no archive of probabilities"),
    ],
)
def test_other_archives_are_named(folders, array, message):
    root, _ = folders
    path = root / "predictions/case_1.npz"
    path.write_bytes(array) if isinstance(array, bytes) else np.savez(path, **array)
    with pytest.raises(FdifError, match=message):
        evaluate.run(config_of(root, measures=("ece",), worst=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ("dice", "ece")}, r"predictions: holds no NAME\.npz of probabilities"),
        ({"regions": ("whole",)}, r"--regions whole: must be name=value, as whole=\[1,2,3\]"),
        (
            {"regions": ("whole=[1,4]",)},
            r"--regions whole: must be a list of labels \(1 to 3\), as whole=\[1,2\]",
        ),
        ({"regions": ("whole=[]",)}, "must be a list of labels"),
        ({"regions": ("b=[1,2]",)}, "--regions b: is the name of a class"),
        ({"regions": ("mean=[1,2]",)}, "--regions mean: is the name of a class or of a column"),
        ({"report": "predictions"}, "predictions: is a folder; give the name of a file"),
    ],
)
def test_impossible_measures_and_regions_are_refused(folders, changes, message):
    root, _ = folders
    if "report" in changes:
        changes = {"report": root / changes["report"]}
    with pytest.raises(FdifError, match=message):
        evaluate.run(config_of(root, **changes))
    assert not (root / "out").exists()


def test_the_worst_place_is_the_middle_of_what_is_wrong():
    label, prediction = np.zeros((2, 20, 20, 20), np.int8)
    label[2:4, 2:18, 2:18] = 1  # a sheet that is missed, and a thicker ball of another class
    prediction[10:17, 9:16, 8:15] = 2
    assert worst_place(prediction, label, (1, 1, 1)) == (13, 12, 11)
    assert worst_place(prediction, label, (1, 1, 0.2))[0] in (2, 3)  # in mm it is the sheet that is thicker
    label[8:18, 8:18, 8:18] = -1  # which nobody compares
    assert worst_place(prediction, label, (1, 1, 1))[0] in (2, 3)
    assert worst_place(np.maximum(label, 0), label, (1, 1, 1)) == (3, 10, 10)


NASTY = "<img src=x onerror=alert(1)>"


def test_the_report_is_one_file_whose_texts_are_no_markup(folders):
    root, _ = folders
    labels = {"background": 0, "a": 1, "b": 2, NASTY: 3, "ignore": 4}
    (root / "data/dataset.json").write_text(json.dumps({"labels": labels}))
    for path in [*root.glob("*/case_2.nii.gz"), *root.glob("data/*/case_2*")]:
        path.rename(path.with_name(path.name.replace("case_2", "case_2&amp;<u>")))
    evaluate.run(config_of(root, images=root / "data/imagesTr", report=root / "out/report.html", worst=1))
    page = (root / "out/report.html").read_text()
    assert (
        NASTY not in page
        and "<u>" not in page
        and "&lt;img src=x" in page
        and "case_2&amp;amp;&lt;u&gt;" in page
    )
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/png;base64,") == 1
    assert 'id="calibration"' not in page  # there are no probabilities
    assert {path.name for path in (root / "out").iterdir()} == {
        "scores.csv",
        "scores_summary.json",
        "scores_worst",
        "report.html",
    }


@pytest.mark.slow("a browser")
def test_the_report_in_a_browser(folders, browser):
    root, maps = folders
    labels = {"background": 0, "a": 1, "b": 2, NASTY: 3, "ignore": 4}
    (root / "data/dataset.json").write_text(json.dumps({"labels": labels}))
    save_probabilities(root, "case_1", maps["case_1"][1], certain=0.7)
    evaluate.run(config_of(root, images=root / "data/imagesTr", report=root / "report.html"))
    tab, said = open_page(browser, root / "report.html", 1200, 900)
    assert tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 500)") == [True] * 3
    sections = ["summary", "distributions", "calibration", "worst", "every"]
    assert tab.evaluate("[...document.querySelectorAll('section')].map(s => s.id)") == sections
    assert tab.locator("#summary tbody tr").count() == 4 and tab.locator("#distributions svg").count() == 10
    assert tab.locator("#distributions svg").first.locator("circle").count() == sum(
        bool(r["dice"]) for r in rows_of(root)
    )
    cells = "[...document.querySelectorAll('#cases tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    summary = json.loads((root / "out/scores_summary.json").read_text())["per_case"]
    dice = {case: f"{row['dice']:.4f}" for case, row in summary.items()}
    assert [line[:2] for line in tab.evaluate(cells)] == [[case, dice[case]] for case in maps]
    tab.click("#cases th:nth-child(2) button")
    assert [line[0] for line in tab.evaluate(cells)] == sorted(maps, key=lambda case: summary[case]["dice"])
    assert tab.get_attribute("#cases th:nth-child(2)", "aria-sort") == "ascending"
    tab.click("#cases th:nth-child(2) button")
    assert [line[0] for line in tab.evaluate(cells)] == sorted(maps, key=lambda case: -summary[case]["dice"])
    tab.click("text=ECE >> nth=-1")
    assert tab.evaluate(cells)[0][0] == "case_1"  # what is undefined comes last
    tab.select_option("#class", label=NASTY)
    wanted = {r["case"]: r["dice"] for r in rows_of(root) if r["class"] == NASTY}
    found = {line[0]: line[1] for line in tab.evaluate(cells)}
    assert found == {case: f"{float(d):.4f}" if d else "–" for case, d in wanted.items()}
    tab.fill("#search", "CASE_2")
    assert [line[0] for line in tab.evaluate(cells)] == ["case_2"] and tab.inner_text("#count") == "1 of 3"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1200
    assert not said
    tab.close()
