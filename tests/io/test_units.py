"""One label map in metres, whose qfac is 0, is to every reader and command what it is in millimetres."""

import json

import nibabel as nib
import numpy as np
import pytest

from fdif_jax.anatomy.organ_masks import read_subject
from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case, read_volume
from fdif_jax.fitting.mask_targets import Mask
from fdif_jax.preprocessing.likeness import likeness_of
from fdif_jax.preprocessing.scans import read_scan
from fdif_jax.scripts import cli
from tests.helpers.phantom import NAMES, phantom, plain

SPACING, SHAPE = (2.0, 2.5, 3.0), (40, 36, 30)


def write(path, unit):
    affine = plain(SPACING, SHAPE)
    image = nib.Nifti1Image(phantom(affine, SHAPE), None)
    image.header.set_zooms(np.array(SPACING) / unit)
    affine[:3] /= unit
    image.header.set_qform(affine, 1)
    image.header.set_xyzt_units({1: "mm", 1000: "meter", 0.001: "micron"}[unit])
    image.header["pixdim"][0] = unit == 1
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(image.to_bytes())
    return path


@pytest.fixture(params=[1000, pytest.param(0.001, marks=pytest.mark.slow("as metres are"))])
def files(tmp_path, request):
    return write(tmp_path / "mm/a.nii", 1), write(tmp_path / "other/a.nii", request.param)


def test_volumes_scans_organs_masks_and_likenesses_are_the_same(files):
    wanted = nib.load(files[0]).affine
    names = Conventions(tuple(f"c{i}" for i in range(1, 12)))
    for path in files:
        for affine in (
            read_volume(path).affine,
            read_scan(Case(path, path, "a"), names).space.affine,
            Mask.load(path, 5).affine,
        ):
            np.testing.assert_allclose(affine, wanted, rtol=1e-6)
        np.testing.assert_allclose(likeness_of(path.parent).typical.spacing, SPACING, rtol=1e-6)
    subjects = [read_subject(path, NAMES)[0] for path in files]
    np.testing.assert_allclose(subjects[0].corners, subjects[1].corners, rtol=1e-5)
    for organ, part in subjects[0].parts.items():
        other = subjects[1].parts[organ]
        for name in ("centroid", "volume", "lower", "upper"):
            np.testing.assert_allclose(getattr(part, name), getattr(other, name), rtol=1e-5, atol=1e-4)


@pytest.mark.slow("pictures and surfaces in two units; what readers give is compared beside it")
def test_scores_are_the_same(files, tmp_path):
    scores = []
    for path in files:
        prediction = nib.load(path)
        (path.parent / "guess").mkdir()
        moved = np.roll(np.asarray(prediction.dataobj), 2, 0)
        nib.save(nib.Nifti1Image(moved, prediction.affine, prediction.header), path.parent / "guess/a.nii")
        (path.parent / "dataset.json").write_text(
            json.dumps({"labels": {f"c{i}" if i else "background": i for i in range(12)}})
        )
        folder, out = path.parent, path.parent / "scores.csv"
        cli.run("evaluate", [f"{folder}/guess", f"{folder}", "--out", f"{out}", "--worst", "0"])
        scores.append(out.read_text())
    assert scores[0] == scores[1] and ",4" in scores[0]  # HD95 of what moved 2 voxels of 2 mm
