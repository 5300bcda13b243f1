"""Shapes from masks against the formulas that the masks were cut from."""

import jax
import nibabel as nib
import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.sdf.shape import Point
from fdif_jax.shapes import from_mask
from tests.helpers.slow import quick_of

# One program instead of one an operation.
distances = jax.jit(lambda shape, p: shape(p))


def ball(radius, spacing=(1.0, 1.0, 1.0), seed=0):
    """A ball cut into voxels, its centre off the grid: mask, true distances, centres (x, y, z) of the voxels."""
    spacing = np.asarray(spacing)
    off = np.random.default_rng(seed).uniform(-0.5, 0.5, 3) * spacing
    counts = np.ceil((2 * radius + 8) / spacing).astype(int)
    z, y, x = np.meshgrid(
        *[(np.arange(n) - n // 2) * s for n, s in zip(counts, spacing, strict=True)], indexing="ij"
    )
    distance = np.sqrt((z - off[0]) ** 2 + (y - off[1]) ** 2 + (x - off[2]) ** 2) - radius
    return distance <= 0, distance, Point(x, y, z)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.7, 0.7, 0.5)])
@pytest.mark.parametrize("radius", quick_of([4.2, 9.7], [4.2], "larger grids"))
def test_a_ball_comes_back_within_half_a_voxel(radius, spacing):
    for seed in range(2):
        mask, true, centres = ball(radius, spacing, seed)
        shape = from_mask(mask, spacing=spacing, centred=False)
        got = np.asarray(distances(shape, centres))
        near = true < 1.5 * max(spacing)  # what the shape samples; beyond it is a bound
        assert np.abs(got - true)[near].max() < 0.5 * max(spacing)
        assert np.abs((got - true)[near].mean()) < 0.1 * max(spacing)
        np.testing.assert_array_equal(got <= 0, mask)


def test_a_box_keeps_its_faces():
    mask = np.zeros((16, 20, 24), bool)
    mask[4:12, 5:15, 6:18] = True  # ± 4, 5, 6 about the middle
    shape = from_mask(mask)
    along = np.linspace(-9, 9, 181)
    for axis, half in enumerate((6, 5, 4)):
        at = Point(*[along if k == axis else np.zeros(181) for k in range(3)])
        near = np.abs(np.abs(along) - half) < 1.5
        np.testing.assert_allclose(
            np.asarray(distances(shape, at))[near], (np.abs(along) - half)[near], atol=0.1
        )


def test_smooth_zero_puts_the_surface_midway():
    mask = np.zeros((9, 9, 9), bool)
    mask[:, :, :5] = True
    shape = from_mask(mask, smooth=0.0, centred=False)
    np.testing.assert_allclose(float(distances(shape, Point(0.5, 0.0, 0.0))), 0, atol=1e-3)


def test_one_voxel_and_one_sheet_survive():
    voxel, sheet = np.zeros((2, 9, 9, 9), bool)
    voxel[4, 4, 4] = sheet[4, 1:8, 1:8] = True
    for mask in (voxel, sheet):
        shape = from_mask(mask)
        assert float(distances(shape, Point(0.0, 0.0, 0.0))) < -0.2
        assert 0.2 < float(distances(shape, Point(0.0, 0.0, 1.0))) < 1.1


def test_a_turned_and_sheared_affine_places_the_ball_in_millimetres(tmp_path):
    turn = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, -1.0]])
    shear = np.array([[1.0, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ shear @ np.diag([1.0, 0.8, 1.5])
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 40, 24)], indexing="ij"), axis=-1)
    affine[:3, 3] = [30, -20, 5] - affine[:3, :3] @ [19.7, 19.2, 11.6]
    world = index @ affine[:3, :3].T + affine[:3, 3]
    true = np.linalg.norm(world - [30, -20, 5], axis=-1) - 8
    labels = np.where(true <= 0, 7, 2).astype(np.uint8)
    labels[:2] = 0
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(labels, affine), path)
    for source in (path, str(path), nib.load(path)):
        shape = from_mask(source, label=7, centred=False)
        got = np.asarray(distances(shape, Point(*np.moveaxis(world, -1, 0))))
        assert np.abs(got - true)[true < 1.5].max() < 0.75
    middle = np.asarray(from_mask(path, label=7).bounds()).mean(axis=0)
    np.testing.assert_allclose(middle, 0, atol=0.75)


def test_a_large_mask_is_sampled_more_coarsely():
    mask, true, centres = ball(20.0)
    shape = from_mask(mask, resolution=16, centred=False)
    assert max(shape.values.shape) <= 16 + 5
    near = np.abs(true) < 2
    assert np.abs(np.asarray(distances(shape, centres)) - true)[near].max() < 1.0


def test_what_touches_the_edge_is_closed_half_a_voxel_beyond():
    mask = np.zeros((8, 8, 8), bool)
    mask[:, :, 4:] = True
    shape = from_mask(mask, centred=False)
    np.testing.assert_allclose(float(distances(shape, Point(3.5, 0.0, 0.0))), 0, atol=0.1)


def test_a_label_map_of_a_scene_gives_its_object_back():
    points = fd.Grid(21, 24, 27).points()
    ring = fd.translate(shapes.torus(6.0, 3.0), (2.3, -1.2, 0.6))
    label = np.where(distances(ring, points) <= 0, 5, 0).astype(np.uint8)
    shape = from_mask(label, label=5, centred=False)
    np.testing.assert_array_equal(np.asarray(distances(shape, points)) <= 0, label == 5)


def nifti(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_images_in_metres_and_damaged_ones(tmp_path):
    small, _, _ = ball(5)
    image = nib.Nifti1Image(small.astype(np.uint8), np.diag([0.002, 0.002, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    wanted = from_mask(small, spacing=(2, 2, 2), resolution=16).bounds()
    for source in (image, tmp_path / "a.nii"):
        found = from_mask(source, resolution=16).bounds()
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(sorted(one), sorted(other), atol=1e-3)
    loaded = nib.load(tmp_path / "a.nii")
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:500])
    with pytest.raises(fd.FdifError, match=r"a\.nii: damaged image"):
        from_mask(loaded)


def test_what_makes_no_shape_is_refused_in_one_line(tmp_path):
    some = np.zeros((5, 5, 5), np.uint8)
    some[2, 2, 2] = 3
    (tmp_path / "bad.nii").write_bytes(b"no nifti at all")
    cases = [
        (nifti(tmp_path / "empty.nii.gz", some * 0), {}, "empty.nii.gz: no voxel is not zero"),
        (nifti(tmp_path / "full.nii.gz", some * 0 + 1), {}, "full.nii.gz: every voxel"),
        (
            nifti(tmp_path / "some.nii.gz", some),
            {"label": 4},
            "some.nii.gz: no voxel is labelled 4.*holds 0, 3",
        ),
        (nifti(tmp_path / "4d.nii.gz", np.zeros((4, 4, 4, 2), np.uint8)), {}, "4d.nii.gz: shape"),
        (nifti(tmp_path / "nan.nii.gz", np.full((4, 4, 4), np.nan, np.float32)), {}, "nan.nii.gz: holds NaN"),
        (
            nifti(tmp_path / "half.nii.gz", some * np.float32(0.5)),
            {},
            "half.nii.gz: holds label 1.5; labels are whole",
        ),
        (tmp_path / "bad.nii", {}, "bad.nii: not a NIfTI"),
        (tmp_path / "none.nii.gz", {}, "none.nii.gz: no such file"),
        (tmp_path / "some.nii.gz", {"spacing": (1, 1, 1)}, "spacing is for arrays"),
        (some, {"spacing": (1, 0, 1)}, "spacing must be three numbers above 0"),
        (some[0], {}, "3 axes"),
        (some.astype(complex), {}, "complex128"),
        (some, {"smooth": -1}, "smooth must be"),
        (some, {"resolution": 2}, "resolution must be"),
        (17, {}, "not a int"),
    ]
    for source, options, message in cases:
        with pytest.raises(fd.FdifError, match=message) as error:
            from_mask(source, **options)
        assert "\n" not in str(error.value)


def test_the_module_says_what_it_lacks():
    with pytest.raises(AttributeError, match="from_mush"):
        shapes.from_mush  # noqa: B018
