"""Statistics of scans against phantoms that SciPy blurs and NumPy makes noisy, and recipes that follow from them."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import fdif_jax as fd
from fdif_jax.preprocessing.likeness import like_scans, likeness_of
from fdif_jax.scripts import cli
from tests.helpers.paths import HIPPOCAMPUS

SHAPE = (48, 40, 44)
BLOCKS = np.random.default_rng(1).uniform(0.2, 1, (6, 5, 6)).repeat(8, 0).repeat(8, 1).repeat(8, 2)[:, :, :44]


def phantom(folder, spacing=(1.0, 1.0, 1.0), blur=(0, 0, 0), noise=0.0, air=0, name="scan"):
    """A folder with a scan of blocks, blurred and noisy, ``air`` voxels of nothing around."""
    folder.mkdir(exist_ok=True)
    volume = np.pad(BLOCKS, air) * 1000
    volume = ndimage.gaussian_filter(volume, blur) + 1000 * noise * np.random.default_rng(0).standard_normal(
        volume.shape
    )
    nib.save(
        nib.Nifti1Image((volume + 50).astype(np.float32), np.diag([*spacing, 1.0])), folder / f"{name}.nii.gz"
    )
    return folder


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_blur_and_noise_of_a_phantom_are_found(noise, tmp_path):
    found = likeness_of(phantom(tmp_path / "a", blur=(0.9, 1.4, 0.0), noise=noise)).typical
    np.testing.assert_allclose(found.blur[0], (0.9, 1.4, 0.05), atol=0.2)
    # The range of intensities is 0.8 and what noise adds to it.
    assert noise * 0.75 <= found.noise[0] <= noise / 0.8 * 1.15 + 0.005


def test_quantiles_and_air(tmp_path):
    found = likeness_of(phantom(tmp_path / "a", air=6)).typical
    assert found.air == [1.0] and found.levels[0, 0] > 0.1 and found.shape.tolist() == [60, 52, 56]
    bare = likeness_of(phantom(tmp_path / "b")).typical
    low, high = np.percentile(BLOCKS, (0.5, 99.5))
    expected = np.quantile(np.clip((BLOCKS - low) / (high - low), 0, 1), np.linspace(0, 1, 17))
    np.testing.assert_allclose(bare.levels[0], expected, atol=0.02)
    assert bare.air == [0.0]


def test_a_recipe_takes_grid_spacing_and_look(tmp_path):
    likeness = likeness_of(phantom(tmp_path / "a", spacing=(1.0, 1.0, 3.0), noise=0.05))
    recipe, reasons = like_scans(fd.load_recipe("random_tissue"), likeness)
    assert recipe.grid == (48, 48, 48) and recipe.look.tissue.paint and len(recipe.look.tissue.levels) == 17
    voxel = np.asarray(recipe.placement.voxel)
    np.testing.assert_allclose(voxel / voxel[0], (1, 1, 3), rtol=2e-3)
    assert (
        recipe.placement.size == (0, 0) and recipe.look.tissue.noise[1] > 0.05 and recipe.look.tissue.air == 0
    )
    anatomy, _ = like_scans(fd.load_recipe("anatomy_random"), likeness)
    np.testing.assert_allclose(anatomy.placement.spacing, (0.9 * 3 ** (1 / 3), 1.1 * 3 ** (1 / 3)))
    assert anatomy.classes.largest == 12 and any("noise" in reason for reason in reasons)


def test_labels_tell_how_large_objects_are():
    likeness = likeness_of(HIPPOCAMPUS)
    recipe, _ = like_scans(fd.load_recipe("fdif"), likeness)
    edges = []
    for path in sorted((HIPPOCAMPUS / "labelsTr").glob("[!.]*.nii.gz"))[:8]:
        label = np.asarray(nib.load(path).dataobj)
        for class_id in (1, 2):
            found = np.argwhere(label == class_id)
            edges.append(np.prod(np.ptp(found, axis=0) + 1.0) ** (1 / 3))
    low, high = recipe.placement.size
    assert recipe.placement.kind == "ensemble" and min(edges) - 1 <= low < high <= max(edges) + 1


def test_the_command_saves_a_recipe_with_its_reasons(tmp_path, capsys):
    cli.run("like", [str(HIPPOCAMPUS), "--recipe", "fdif", "--out", str(tmp_path / "new/like.toml")])
    said = capsys.readouterr().out
    text = (tmp_path / "new/like.toml").read_text()
    assert "8 scans measured" in said and "# 8 scans measured\n" in text and "channel MRI" in text
    assert "hippocampus_" not in text
    assert fd.load_recipe(tmp_path / "new/like.toml").look.tissue.paint


def test_ct_has_no_artefacts_of_mri(tmp_path):
    likeness = likeness_of(phantom(tmp_path / "a"))._replace(channel_names=("CT",))
    tissue = like_scans(fd.load_recipe("random_tissue"), likeness).recipe.look.tissue
    assert tissue.bias_field == tissue.gamma == (0, 0)


@pytest.mark.parametrize("recipe", ["fdif", "fdif + anatomy"])
def test_what_cannot_be_measured_is_one_line(recipe, tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes(b"no scan")
    with pytest.raises(SystemExit) as stop:
        cli.run("like", [str(folder), "--recipe", recipe, "--out", str(tmp_path / "x.toml")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and not (tmp_path / "x.toml").exists()
    assert ("a mixture of recipes" if "+" in recipe else "a.nii.gz: not a NIfTI file") in error


def test_a_scan_of_one_intensity_has_no_likeness(tmp_path, capsys):
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), 7, np.float32), np.eye(4)), tmp_path / "even.nii.gz")
    with pytest.raises(SystemExit) as stop:
        cli.run("like", [str(tmp_path), "--out", str(tmp_path / "x.toml")])
    assert stop.value.code == 2 and not (tmp_path / "x.toml").exists()
    assert "even.nii.gz: all voxels of channel 0 are 7" in capsys.readouterr().err
