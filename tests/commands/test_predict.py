"""`fdif predict`: an oracle gives back the label on any grid, ensembles are means, bad files are named."""

import json

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.inference.prediction import find_cases, labels_of_planes, load_ensemble, predict_case
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.io.b2nd import encode_b2nd
from fdif_jax.io.volumes import read_volume
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.normalisation import AsItIs
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scans import Scan
from fdif_jax.preprocessing.spaces import Space, labels_of_scores
from fdif_jax.scripts import cli, predict
from fdif_jax.training.network import State, functional
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run
from tests.helpers.dicom import write_series
from tests.helpers.formats import write_formats
from tests.helpers.monai_tiles import monai
from tests.helpers.pages import run_here
from tests.helpers.spaces import affines, scores_back
from tests.helpers.training import Net

PATCH = (8, 6, 8)
AFFINE = nib.affines.from_matvec(np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]]), [10, 20, 30])
CLASSES = ("a", "b", "c")
TWO_CHANNELS = ("T1", "T2")


def document_of(network=None, plan=None, channels=("MRI",), **inference):
    plan = plan or CasePlan((1, 1, 1), PATCH, (AsItIs(),) * len(channels), reasons=("because",))
    return {
        "kind": "fine-tuning",
        "network": network or {"name": "oracle", "in_channels": len(channels), "out_channels": 4},
        "cases": plan.to_dict(),
        "labels": {"class_names": list(CLASSES), "ignore": None, "channel_names": list(channels)},
        "inference": {"overlap": 0.5, "mirror_axes": [], "weights": "last"} | inference,
    }


def make_run(path, document, *saved):
    """A run directory; of every checkpoint the weights and the score."""
    with open_run(path, RunDocument.from_dict(document)) as run, run.checkpoints() as checkpoints:
        for step, (learnt, score) in enumerate(saved, start=1):
            checkpoints.save(step, State(learnt, {"count": jnp.zeros(())}, {}), score)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def labels_of(path):
    return np.asarray(nib.load(path).dataobj)


def random_label(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.int16)


def fdif_predict(root, *arguments):
    """The command's exit status, on the folders of ``root``; options that are given again replace these."""
    given = ["--model", root / "run", "--input", root / "scans", "--out", root / "out", *arguments]
    try:
        cli.run("predict", list(map(str, given)))
    except SystemExit as left:
        return left.code
    return 0


def use_oracle(patched):
    """In place of networks: the class is the intensity, of the first channel."""

    def load_members(ensemble, which):
        return lambda _, tiles: jax.nn.one_hot(tiles[..., 0].astype(int), 4), [{"none": jnp.zeros(())}]

    patched.setattr(predict, "load_members", load_members)


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Three scans that are their own label maps, and a run of the oracle."""
    use_oracle(monkeypatch)
    make_run(tmp_path / "run", document_of())
    for number in range(3):
        save(tmp_path / f"scans/case_{number}.nii.gz", random_label((9, 8, 10), number))
    return tmp_path


# --------------------------------------------------------------------------------------------- round trips


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@settings(max_examples=12)
@given(
    affine=affines(),
    shape=st.tuples(*[st.integers(2, 14)] * 3),
    mirror_axes=st.sampled_from([("none",), (0,), (1, 2)]),
    ending=st.sampled_from([".nii.gz", ".nii", "_0000.nii.gz"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_oracle_reproduces_the_label_on_its_own_grid(scratch, affine, shape, mirror_axes, ending, seed):
    root, label = scratch / str(len(list(scratch.iterdir()))), random_label(shape, seed)
    source = nib.load(save(root / f"scans/x{ending}", label, affine))
    spacing = Space(shape, source.affine).canonical.spacing
    make_run(root / "run", document_of(plan=CasePlan(spacing, PATCH, (AsItIs(),))))
    with pytest.MonkeyPatch.context() as patched:
        use_oracle(patched)
        assert fdif_predict(root, "--mirror-axes", *mirror_axes) == 0
    found = nib.load(root / "out/x.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), label)
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(found.affine, source.affine)


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    wanted=st.tuples(*[st.integers(1, 14)] * 3),
    seed=st.integers(0, 99),
)
def test_scores_interpolated_plane_by_plane_are_those_of_the_volume(shape, wanted, seed):
    scores = np.random.default_rng(seed).standard_normal((*shape, 3)).astype(np.float32)
    labels = labels_of_planes(iter(scores), shape[0], wanted)
    expected = labels_of_scores(scores, wanted)
    assert labels.dtype == expected.dtype
    assert (labels != expected).sum() <= 1  # of two scores that are equal but for rounding either may win


@pytest.mark.parametrize("spacing", [(1, 1, 0.4), (2.0, 0.7, 1.3), (0.5, 3.0, 1)])
def test_a_resampled_case_is_predicted_as_its_whole_logits_are(spacing):
    network = functional(Net())
    tiled = TiledNetwork(network.apply, [network.weights], PATCH)
    image = np.random.default_rng(0).standard_normal((9, 11, 17, 1)).astype(np.float32)
    image[:2] = image[:, :, -3:] = 0  # which is cropped
    space = Space((11, 9, 17), AFFINE)
    prepared = prepare(Scan("a", image, None, space), CasePlan(spacing, PATCH, (AsItIs(),)))
    assert not prepared.way.keeps_grid
    seen = []
    labels = predict_case(tiled, prepared, lambda done, tiles: seen.append((done, tiles)))
    expected = scores_back(prepared.way, tiled.logits(prepared.image))
    assert labels.shape == (11, 9, 17) and labels.dtype == expected.dtype == np.uint8
    assert (labels != expected).mean() < 1e-3 and len(np.unique(labels)) == 3
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)


# ------------------------------------------------------------------------------------------------ ensembles

NETWORK = {"name": "resenc_unet", "in_channels": 1, "out_channels": 4, "features": [4, 8], "dtype": "float32"}


@pytest.mark.slow("twelve networks in a program; two are in tests/inference")
def test_an_ensemble_of_folds_and_runs_is_the_mean_of_logits_over_networks_and_mirrorings(tmp_path, capsys):
    plan = CasePlan((1, 1, 1), (16, 16, 16), (AsItIs(),))
    document = document_of(NETWORK, plan, mirror_axes=[0, 2], overlap=0.25, weights="best")
    network, draw = functional(models.create(**NETWORK)), np.random.default_rng(1).standard_normal
    apply = jax.jit(network.apply)
    run_weights = [
        {n: w + 0.3 * draw(w.shape, np.float32) for n, w in network.weights.items()} for _ in range(4)
    ]
    make_run(tmp_path / "run/fold_0", document, (run_weights[0], None))
    make_run(tmp_path / "run/fold_1", document, (run_weights[1], 0.9), (run_weights[3], 0.5))
    document["cases"]["reasons"] = ["another"]
    make_run(tmp_path / "single", document, (run_weights[2], None))
    image = np.random.default_rng(0).standard_normal((20, 16, 23, 1)).astype(np.float32)
    save(tmp_path / "scans/x.nii.gz", image[..., 0], np.eye(4))

    def check(seeds, axes, *arguments):
        assert fdif_predict(tmp_path, "--overwrite", *arguments) == 0
        flips = [tuple(a + 1 for i, a in enumerate(axes) if n >> i & 1) for n in range(2 ** len(axes))]
        members = [run_weights[seed] for seed in seeds]

        @jax.jit
        def mean(tiles):
            votes = [jnp.flip(apply(member, jnp.flip(tiles, f)), f) for member in members for f in flips]
            return sum(votes) / len(votes)

        logits = monai(mean, image, plan.patch, 0.25)
        highest = np.sort(logits, -1)
        clear = highest[..., -1] - highest[..., -2] > 1e-4
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(labels_of(tmp_path / "out/x.nii.gz")[clear], logits.argmax(-1)[clear])

    models_given = ["--model", tmp_path / "run", tmp_path / "single"]
    check((0, 1, 2), (0, 2), *models_given)
    assert "3 networks, 4 mirrorings" in capsys.readouterr().out
    check((0, 3, 2), (), *models_given, "--which", "last", "--mirror-axes", "none", "--tile-batch", 3)
    assert "patch 16 × 16 × 16, overlap 0.25, 3 networks, no mirroring" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pretraining"}, "/b: a run of kind 'pretraining'; `fdif finetune` makes"),
        ({"cases": None}, r"/b/run\.json: does not say 'cases'"),
        (
            {"cases.patch": [8, 8, 8]},
            r"/run and .*/b are no ensemble: cases.patch is \[8, 6, 8\] and",
        ),
        ({"labels.class_names": ["a"]}, r'labels.class_names is \[.* and \["a"\]'),
        ({"network.features": [4]}, r"network.features is not set and \[4\]"),
        ({"cases.order": 7}, r"order must be 1"),
        ({"inference.weights": None}, r"/b/run\.json is damaged: .*inference does not say 'weights'"),
    ],
)
def test_runs_that_are_no_ensemble_are_refused(tmp_path, change, message):
    document = document_of()
    ((keys, value),) = change.items()
    *path, key = keys.split(".")
    part = document[path[0]] if path else document
    part[key] = value
    if value is None:
        del part[key]
    make_run(tmp_path / "run", document_of())
    (tmp_path / "b").mkdir()
    (tmp_path / "b/run.json").write_text(json.dumps(document))
    with pytest.raises(FdifError, match=message):
        load_ensemble([tmp_path / "run", tmp_path / "b"])


def test_a_run_of_an_ensemble_counts_once(tmp_path):
    make_run(tmp_path / "folds/fold_0", document_of())
    with pytest.raises(FdifError, match="fold_0: is given twice, and would count twice"):
        load_ensemble([tmp_path / "folds", tmp_path / "folds/../folds/fold_0"])


# ---------------------------------------------------------------------------------------- files in and out


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", "<>")
def test_the_scans_header_is_kept(folders, kind, endianness):
    header = kind.header_class(endianness=endianness)
    header["descrip"], header["cal_max"] = b"scanner 7", 3
    header.set_xyzt_units("mm", "sec")
    header.set_intent("z score")
    header.set_slope_inter(1, 0)
    image = kind(random_label((9, 8, 10)), None, header)
    turned = AFFINE.copy()
    turned[:3, 3] = 5
    image.set_qform(AFFINE, 1)
    image.set_sform(turned, 4)  # which is the one that counts
    nib.save(image, folders / "scans/case_0.nii.gz")
    assert fdif_predict(folders) == 0
    found = nib.load(folders / "out/case_0.nii.gz")
    assert type(found) is kind
    np.testing.assert_array_equal(found.affine, turned)
    np.testing.assert_allclose(found.get_qform(), AFFINE, atol=1e-6)
    assert (int(found.header["qform_code"]), int(found.header["sform_code"])) == (1, 4)
    assert bytes(found.header["descrip"]).startswith(b"scanner 7")
    assert found.header.get_xyzt_units() == ("mm", "sec") and found.header.get_zooms() == (1, 1, 1)
    assert found.header.get_intent()[0] == "none" and found.header["cal_max"] == 0
    np.testing.assert_array_equal(np.asarray(found.dataobj), random_label((9, 8, 10)))


def test_a_scan_in_metres_whose_qfac_is_0_is_predicted_and_keeps_its_header(folders):
    image = nib.Nifti1Image(random_label((9, 8, 10)), None)
    image.header.set_zooms((0.001,) * 3)
    image.header.set_qform(AFFINE @ np.diag([0.001, 0.001, 0.001, 1]), 1)
    image.header.set_xyzt_units("meter")
    image.header["pixdim"][0] = 0
    path = folders / "scans/case_1.nii"
    path.with_suffix(".nii.gz").unlink()
    path.write_bytes(image.to_bytes())
    assert image.header["pixdim"][0] == 0
    assert fdif_predict(folders) == 0
    found = nib.load(folders / "out/case_1.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), random_label((9, 8, 10)))
    np.testing.assert_allclose(found.affine, nib.load(path).affine)
    assert found.header.get_xyzt_units()[0] == "meter" and len(list((folders / "out").iterdir())) == 3


OBLIQUE = nib.affines.from_matvec(
    Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() @ np.diag([0.7, 1.2, 2.5]),
    [10, -20, 30],
)


@pytest.fixture(scope="module")
def every_format(tmp_path_factory):
    """An oblique scan of unequal spacings in every format, and a run of a network that looks at neighbours."""
    root = tmp_path_factory.mktemp("every_format")
    image = np.random.default_rng(0).integers(0, 200, (11, 9, 8)).astype(np.int16)
    plan = CasePlan((1, 1, 2), PATCH, (AsItIs(),))
    network = {"name": "oracle", "in_channels": 1, "out_channels": 3}
    document = document_of(network, plan)
    document["labels"]["class_names"] = ["liver", "left kidney"]
    make_run(root / "run", document)
    return root, image, write_formats(root / "scans", "scan", image, OBLIQUE)


def use_network(patched):
    network = functional(Net())
    scaled = jax.jit(lambda weights, tiles: network.apply(weights, tiles / 100))
    patched.setattr(predict, "load_members", lambda ensemble, which: (scaled, [network.weights]))


def test_a_scan_has_the_same_prediction_in_every_format_and_in_its_own(every_format, monkeypatch, capfd):
    root, image, paths = every_format
    use_network(monkeypatch)
    ends = {"nifti": ".nii.gz", "mgz": ".mgz", "mha": ".mha", "mhd": ".mha", "zraw": ".mha"}
    ends |= {way: ".nrrd" for way in ("nrrd", "nhdr", "seg.nrrd")}
    found = {}
    for way, path in paths.items():
        out = root / "out" / way
        assert (
            fdif_predict(root, "--input", path if way in ("series", "nrrd") else path.parent, "--out", out)
            == 0
        )
        (written,) = out.iterdir()
        assert written.name == f"scan{ends.get(way, '.nii.gz')}"
        volume = read_volume(written)
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
        found[way] = volume.array
        assert (
            fdif_predict(root, "--input", path.parent, "--out", out) == 0
        )  # is there, and on its scan's grid
    assert "1 of 1 are there already" in capfd.readouterr().out
    assert len(np.unique(found["nifti"])) == 3 and found["nifti"].shape == image.shape
    for way, labels in found.items():
        np.testing.assert_array_equal(labels, found["nifti"], err_msg=way)
    assert len(found) == 10


def test_a_dicom_scan_is_predicted_as_a_dicom_segmentation(every_format, monkeypatch, capfd):
    import highdicom

    root, _, paths = every_format
    use_network(monkeypatch)
    assert fdif_predict(root, "--input", paths["nifti"], "--out", root / "plain") == 0
    expected = nib.as_closest_canonical(nib.load(root / "plain/scan.nii.gz"))
    for way in ("series", "multi-frame"):
        out = root / "seg" / way
        assert fdif_predict(root, "--input", paths[way].parent, "--out", out, "--dicom-seg") == 0
        found = highdicom.seg.segread(out / "scan.dcm")
        names = [found.get_segment_description(n).segment_label for n in found.segment_numbers]
        assert names == ["liver", "left kidney"]
        volume = found.get_volume(combine_segments=True)
        ours = nib.Nifti1Image(volume.array.astype(np.uint8), np.diag([-1.0, -1, 1, 1]) @ volume.affine)
        ours = nib.as_closest_canonical(ours)
        np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(expected.dataobj))
    assert fdif_predict(root, "--input", paths["nrrd"], "--dicom-seg", "--out", root / "none") == 2
    assert "scan.nrrd: is no DICOM scan" in capfd.readouterr().err


def test_the_page_on_formats(tmp_path, monkeypatch, capsys):
    use_oracle(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/tuned", document_of())
    for name in ("p1", "p2"):
        write_series(tmp_path / "patients" / name, random_label((9, 8, 10)), AFFINE, description="t1 axial")
    run_here("scans.md", {}, capsys)
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {
        "p1.nii.gz",
        "p2.nii.gz",
        "p1.dcm",
    }
    np.testing.assert_array_equal(labels_of(tmp_path / "predictions/p1.nii.gz"), random_label((9, 8, 10)))


def test_of_a_folder_of_several_series_one_is_predicted(folders, capfd):
    scans, label = folders / "dicom", random_label((9, 8, 10))
    write_series(scans / "patient", label, AFFINE)
    write_series(scans / "patient", label[::-1], AFFINE, series="1.2.9", description="coronal")
    assert fdif_predict(folders, "--input", scans) == 2
    assert "patient: holds 2 series; choose one" in capfd.readouterr().err
    for name, source in (("a", scans), ("b", scans / "patient")):
        out = folders / "out" / name
        assert fdif_predict(folders, "--input", source, "--series", "coronal", "--out", out) == 0
        np.testing.assert_array_equal(labels_of(out / "patient.nii.gz"), label[::-1])
    out = folders / "out/c"  # FOLDER/SERIES is called as the folder
    assert fdif_predict(folders, "--input", scans / "patient/1.2.9", "--out", out) == 0
    np.testing.assert_array_equal(labels_of(out / "patient.nii.gz"), label[::-1])
    assert fdif_predict(folders, "--input", scans, "--series", "axial", "--out", scans / "patient") == 2
    assert "holds the scans" in capfd.readouterr().err
    assert fdif_predict(folders, "--series", "coronal") == 2
    assert "--series coronal is of folders of DICOM slices, and there is none" in capfd.readouterr().err


def test_one_file_blosc2_arrays_and_other_folders_are_taken(folders):
    label = random_label((4, 5, 6))
    (folders / "scans/.hidden.nii.gz").write_bytes(b"")
    (folders / "scans/notes.txt").write_bytes(b"")
    (folders / "scans/z.b2nd").write_bytes(encode_b2nd(label))
    assert fdif_predict(folders, "--input", folders / "scans/z.b2nd") == 0
    assert [path.name for path in (folders / "out").iterdir()] == ["z.nii.gz"]
    np.testing.assert_array_equal(labels_of(folders / "out/z.nii.gz"), label)
    assert fdif_predict(folders) == 0
    assert len(list((folders / "out").iterdir())) == 4


def test_channels_are_a_fourth_axis_or_a_file_each(folders):
    make_run(folders / "two", document_of(channels=TWO_CHANNELS))
    array = np.stack([random_label((9, 8, 10), seed) for seed in range(2)], axis=-1)
    save(folders / "two_scans/a_0001.nii.gz", array)  # of four axes: its number is no channel's
    for channel in range(2):
        save(folders / f"two_scans/b_{channel:04d}.nii.gz", array[..., channel])
    arguments = ["--model", folders / "two", "--input", folders / "two_scans"]
    assert fdif_predict(folders, *arguments) == 0
    for name in ("a_0001", "b"):
        found = nib.load(folders / f"out/{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(found.dataobj), array[..., 0])
        np.testing.assert_array_equal(found.affine, AFFINE)


def test_names_of_cases(tmp_path):
    def cases(*names, channels=1, source="."):
        for old in tmp_path.iterdir():
            old.unlink()
        for name in names:
            (tmp_path / name).write_bytes(b"")
        found = find_cases(tmp_path / source, channels, tmp_path / "out")
        return {case.id: [p.name for p in case.images] for case in found}

    assert cases("a_0000.nii.gz", "b.nii") == {"a": ["a_0000.nii.gz"], "b": ["b.nii"]}
    assert set(cases("a_0001.nii", "a_0002.nii")) == {"a_0001", "a_0002"}
    assert set(cases("a_0000.nii", "a_0001.nii")) == {"a_0000", "a_0001"}
    both = {"a": ["a_0000.nii", "a_0001.nii"]}
    assert cases("a_0000.nii", "a_0001.nii", channels=2) == both
    assert cases("a_0001.nii", channels=2) == both  # what is missing is told when it is read
    assert cases("a_0000.nii", "a_0001.nii", "b.nii", channels=2, source="a_0001.nii") == both
    assert cases("a_0000.nii", "a_0002.nii", channels=2)["a"] == ["a_0000.nii", "a_0001.nii", "a_0002.nii"]
    assert cases("a.nii", "a.nii.gz", "b.nii", "b.nii.gz", source="a.nii") == {"a": ["a.nii"]}
    assert cases("a_0000.nii", "a.nii", "a_x.nii", source="a_0000.nii") == {"a": ["a_0000.nii"]}
    with pytest.raises(FdifError, match=r"a\.nii\.gz: there is a\.nii, too"):
        cases("a.nii", "a.nii.gz")
    with pytest.raises(FdifError, match=r"a\.nii and .*a_0000\.nii are both the image of case a"):
        cases("a.nii", "a_0000.nii")


def test_no_scan_is_written_over_where_links_lead(folders, capsys):
    """The scans are links into two folders: neither of these, nor that of the links, takes predictions."""
    scans = {}
    for number in range(2):
        path = save(folders / f"real_{number}/{number}.nii.gz", random_label((4, 5, 6), number))
        scans[path] = path.read_bytes()
        (folders / "links").mkdir(exist_ok=True)
        (folders / f"links/{number}.nii.gz").symlink_to(path)
    for out in ("real_0", "real_1", "links"):
        assert fdif_predict(folders, "--input", folders / "links", "--out", folders / out, "--overwrite") == 2
        assert f"--out {folders / out}: holds the scans" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in scans} == scans
    assert all(path.is_symlink() for path in (folders / "links").iterdir())


@pytest.mark.parametrize("kind", ["folder", "half"])
def test_what_is_no_whole_prediction_does_not_pass_for_one(folders, kind, capsys):
    path = folders / "out" / sorted(find_cases(folders / "scans", 1, folders / "out"))[0].out.name
    path.parent.mkdir()
    path.mkdir() if kind == "folder" else path.write_bytes(b"half of it")
    assert fdif_predict(folders) == 2
    error = capsys.readouterr().err
    assert f"{path}: " in error and "it is no whole prediction: remove it, or --overwrite" in error


def test_an_interrupted_command_goes_on_and_overwrites_only_when_asked(folders, monkeypatch, capsys):
    predicted = []

    def interrupted(*arguments):
        if len(predicted) == 1:
            raise KeyboardInterrupt
        predicted.append(1)
        return predict_case(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(predict, "predict_case", interrupted)
        assert fdif_predict(folders) == 130
    (done,) = (folders / "out").iterdir()
    before = done.stat().st_mtime_ns
    assert fdif_predict(folders) == 0
    printed = capsys.readouterr().out
    assert "1 of 3 are there already" in printed and "2 label maps written" in printed
    assert done.stat().st_mtime_ns == before and len(list((folders / "out").iterdir())) == 3
    assert fdif_predict(folders) == 0 and "0 label maps written" in capsys.readouterr().out
    assert fdif_predict(folders, "--overwrite") == 0 and "3 label maps written" in capsys.readouterr().out
    assert done.stat().st_mtime_ns > before


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_scans_of_one_name_in_two_folders_do_not_pass_for_each_other(folders, kind, capsys):
    """As in a loop over patients that gives every one of them the same --out."""
    for number, shape in enumerate([(9, 8, 10), (9, 8, 10), (9, 8, 9)]):
        moved = AFFINE.copy()
        moved[0, 3] += number
        (folders / f"patient_{number}").mkdir()
        path = folders / f"patient_{number}/image.nii.gz"
        nib.save(kind(random_label(shape, number), AFFINE if number == 2 else moved), path)
    assert fdif_predict(folders, "--input", folders / "patient_0/image.nii.gz") == 0
    first = (folders / "out/image.nii.gz").read_bytes()
    assert fdif_predict(folders, "--input", folders / "patient_0/image.nii.gz") == 0
    for number in (1, 2):
        capsys.readouterr()
        assert fdif_predict(folders, "--input", folders / f"patient_{number}") == 2
        error = capsys.readouterr().err
        assert f"out/image.nii.gz: is on another grid than {folders}/patient_{number}/image.nii.gz" in error
    assert (folders / "out/image.nii.gz").read_bytes() == first
    assert fdif_predict(folders, "--input", folders / "patient_2", "--overwrite") == 0
    assert (labels_of(folders / "out/image.nii.gz") == random_label((9, 8, 9), 2)).all()


# ------------------------------------------------------------------------------- probabilities and uncertainty


def test_probabilities_and_uncertainty_lie_beside_the_labels_of_a_scan(folders, capsys):
    both = ["--save-probabilities", "--save-uncertainty"]
    (folders / "scans/case_0.nii.gz").unlink()
    assert fdif_predict(folders) == 0 and fdif_predict(folders, *both) == 0
    assert "2 label maps written" in capsys.readouterr().out  # those that are there lack the rest
    out = folders / "out"
    files = {"case_1.nii.gz", "case_1.npz", "case_2.nii.gz", "case_2.npz", "uncertainty", "uncertainty.csv"}
    assert {path.name for path in out.iterdir()} == files
    label = random_label((9, 8, 10), 1)
    np.testing.assert_array_equal(labels_of(out / "case_1.nii.gz"), label)
    highest = np.e / (np.e + 3)  # of logits 1, 0, 0, 0
    wanted = np.where(label[None] == np.arange(4).reshape(-1, 1, 1, 1), highest, (1 - highest) / 3)
    np.testing.assert_allclose(
        np.load(out / "case_1.npz")["probabilities"], wanted.transpose(0, 3, 2, 1), rtol=1e-5
    )
    entropy = -(highest * np.log(highest) + (1 - highest) * np.log((1 - highest) / 3)) / np.log(4)
    uncertain = nib.load(out / "uncertainty/case_1.nii.gz")
    np.testing.assert_allclose(np.asarray(uncertain.dataobj), entropy, rtol=1e-5)
    np.testing.assert_array_equal(uncertain.affine, AFFINE)
    lines = (out / "uncertainty.csv").read_text().splitlines()
    assert lines[0] == "case,measure,foreground,border" and [line[:15] for line in lines[1:]] == [
        "case_1,entropy,",
        "case_2,entropy,",
    ]
    assert [float(number) for number in lines[1].split(",")[2:]] == pytest.approx([entropy] * 2, rel=1e-4)


def test_only_what_lacks_something_is_predicted_again(folders, capsys):
    both = ["--save-probabilities", "--save-uncertainty"]
    assert fdif_predict(folders, *both) == 0
    table = (folders / "out/uncertainty.csv").read_text()
    for missing in ("case_1.npz", "uncertainty/case_2.nii.gz", "case_0.nii.gz"):
        (folders / "out" / missing).unlink()
        capsys.readouterr()
        assert fdif_predict(folders, *both) == 0 and "1 label maps written" in capsys.readouterr().out
        assert (folders / "out" / missing).exists()
    assert (folders / "out/uncertainty.csv").read_text() == table
    assert fdif_predict(folders, *both) == 0 and "0 label maps written" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ bad input


def _zero_spacing(path):
    image = nib.load(path)
    image.header["pixdim"][3] = 0
    image.header["sform_code"], image.header["srow_z"] = 1, 0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


def _one_voxel(value, dtype):
    array = np.ones((9, 8, 10), dtype)
    array[2, 1, 3] = value
    return array


def _metres(path):
    image = nib.load(path)
    image.header.set_xyzt_units("meter")
    nib.save(image, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated"),
        (lambda path: save(path, np.full((9, 8, 10), np.nan, np.float32)), "NaN"),
        (lambda path: save(path, np.ones((9, 8), np.float32)), "a volume of 3 or 4 axes is needed"),
        (lambda path: save(path, np.ones((1, 1, 1), np.uint8)), "at least 2 voxels along every axis"),
        (_zero_spacing, "spacing (1, 1, 0) mm; it must be"),
        (
            lambda path: save(path, _one_voxel(-1.7e308, np.float64)),
            "absurd voxels: -1.7e+308 at (2, 1, 3)",
        ),
        (lambda path: save(path, _one_voxel(-(2**63), np.int64)), "absurd voxels: -9.22337e+18 at (2, 1, 3)"),
        (_metres, "spacing (1, 1, 1) metres; it must be 1e-06 to 100 mm"),
        (
            lambda path: save(path, np.ones((9, 8, 10, 2), np.uint8)),
            "2 channels, but its dataset has 1 (MRI)",
        ),
    ],
)
def test_a_bad_scan_is_named_or_skipped(folders, damage, message, capsys):
    path = folders / "scans/case_1.nii.gz"
    damage(path)
    assert fdif_predict(folders) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert line.startswith("fdif predict: error: ") and str(path) in line and message in line
    assert fdif_predict(folders, "--skip-bad") == 0
    told = capsys.readouterr().err
    assert f"skipped: {path}" in told and "skipped 1 of 2 cases" in told  # the first was written before
    assert {path.name for path in (folders / "out").iterdir()} == {"case_0.nii.gz", "case_2.nii.gz"}


def test_a_missing_channel_is_named(folders, capsys):
    make_run(folders / "two", document_of(channels=TWO_CHANNELS))
    save(folders / "two_scans/a_0000.nii.gz", random_label((9, 8, 10)))
    save(folders / "two_scans/b.nii.gz", np.ones((9, 8, 10, 2), np.uint8))
    arguments = ["--model", folders / "two", "--input", folders / "two_scans"]
    assert fdif_predict(folders, *arguments) == 2
    assert "a_0001.nii.gz: no such file; it would be the channel T2 of case a" in capsys.readouterr().err
    assert fdif_predict(folders, *arguments, "--skip-bad") == 0
    assert [path.name for path in (folders / "out").iterdir()] == ["b.nii.gz"]


def test_a_command_that_can_predict_nothing_fails(folders, capsys):
    for path in (folders / "scans").iterdir():
        path.write_bytes(b"none")
    assert fdif_predict(folders, "--skip-bad") == 2
    assert "no case could be predicted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "scans"], "scans is not a run directory"),
        (["--model"], "no run directory to predict with"),
        (["--input", "nowhere"], "nowhere: no such file or folder"),
        (["--input", "empty"], "empty: holds no volume (.nii.gz, .nii, .b2nd, .seg.nrrd, .nrrd,"),
        (["--input", "run/run.json"], "run/run.json: is no volume"),
        (["--out", "scans"], "scans: holds the scans; give another folder"),
        (["--overlap", "1"], "overlap must be"),
        (["--mirror-axes", "0", "0"], "axes to mirror along"),
        (["--tile-batch", "0"], "at least 1 tile"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    folders, arguments, message, capsys, monkeypatch
):
    monkeypatch.chdir(folders)
    (folders / "empty").mkdir()
    assert fdif_predict(folders, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (folders / "out").exists()


def test_a_run_without_a_checkpoint_or_of_another_kind_is_refused(tmp_path, capsys):
    make_run(tmp_path / "run", document_of(NETWORK))
    save(tmp_path / "scans/a.nii.gz", random_label((9, 8, 10)))
    assert fdif_predict(tmp_path) == 2
    assert "the run has no checkpoint yet" in capsys.readouterr().err
    (tmp_path / "run/run.json").write_text(json.dumps({"kind": "pretraining", "network": NETWORK}))
    assert fdif_predict(tmp_path) == 2
    assert "a run of kind 'pretraining'" in capsys.readouterr().err
