"""Fits against shapes whose parameters are known, and against real masks."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.fitting.fitter import Fitter
from fdif_jax.fitting.free_parameters import FreeParameters
from fdif_jax.fitting.mask_targets import Mask, Target
from fdif_jax.scripts import cli
from fdif_jax.shapes import exact
from fdif_jax.shapes.user_files import vocabulary_of
from tests.helpers.paths import ANATOMY, DOCS

ORGANS = DOCS / "examples" / "organs.py"
LABELS = ANATOMY / "subject03_abdomen_mr_label.nii.gz"
GRID = fd.Grid(64, 64, 64)
"""What random members are sized for."""


def voxelised(shape, spacing, seed) -> tuple[Mask, np.ndarray]:
    """A shape somewhere, turned somehow, in voxels of this spacing; and the rotation."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    size = np.ceil(72 / np.asarray(spacing)).astype(int)
    index = np.moveaxis(np.indices(size), 0, -1).reshape(-1, 3)
    middle = affine[:3, :3] @ (size / 2) + affine[:3, 3] + rng.uniform(-3, 3, 3)
    local = ((index @ affine[:3, :3].T + affine[:3, 3]) - middle) @ rotation
    d = shape(fd.Point(*local.T.astype(np.float32)))
    return Mask(np.asarray(d).reshape(size) < 0, affine), rotation


def recovered(name: str, seed: int, spacing, fitter: Fitter) -> tuple[float, float]:
    """The greatest relative error of a known member's free parameters, and the Dice."""
    shape = exact.family(name).sample(jax.random.key(seed), GRID)
    fit = fitter.fit(voxelised(shape, spacing, seed)[0])
    true = np.asarray(fitter.free.structure.pack(shape, fitter.free.structure.width))[fitter.free.free]
    return float(np.abs(np.array(list(fit.values.values())) / true - 1).max()), fit.dice


@pytest.mark.slow("a fit from eight starts; the command below fits one")
def test_parameters_of_a_known_shape_are_found_again():
    fitter = Fitter(exact.family("five_star_prism"), GRID, scale=1.0, starts=8, finalists=2, steps=(80, 240))
    error, dice = recovered("five_star_prism", 1002, (1.0, 1.0, 1.0), fitter)
    assert error < 0.02 and dice > 0.985


@pytest.mark.slow("ten fits; one is above")
def test_nine_of_ten_known_shapes_are_found_again():
    names = ["sphere", "torus", "cone", "octahedron", "cylinder", "three_star_revolution"]
    names += ["five_star_prism", "six_star_prism", "seven_star_prism", "eight_star_prism"]
    errors = {}
    for seed, name in enumerate(names, 1000):
        errors[name] = recovered(name, seed, (1.0, 1.0, 1.0), Fitter(exact.family(name), GRID, scale=1.0))[0]
    assert sum(error < 0.02 for error in errors.values()) >= 9, errors


@pytest.mark.slow("fits at a scan's own resolution")
@pytest.mark.parametrize(
    ("family", "label", "dice"), [("kidney", 2, 0.9), ("kidney", 3, 0.9), ("liver", 5, 0.85)]
)
def test_organs_of_a_real_scan_are_fitted(family, label, dice):
    fit = Fitter(vocabulary_of(ORGANS).family(family)).fit(Mask.load(LABELS, label))
    assert fit.dice > dice and len(fit.values) <= 25


def test_what_is_free_is_told_from_what_is_tied():
    prism = FreeParameters.of(exact.family("five_star_cone_prism"), GRID)
    assert prism.free_names == ("profile.radius_", "profile.ratio", "half_height", "taper.second_scale")
    assert np.all(prism.lower < prism.members[:, prism.free].min(axis=0))
    assert np.all(prism.upper > prism.members[:, prism.free].max(axis=0))
    for row in prism.members[:5]:
        np.testing.assert_allclose(
            prism.row(jnp.asarray(prism.unbounded(row)), row), row, rtol=1e-4, atol=1e-4
        )
    # Whatever the optimiser does, the values stay between their bounds and the taper ends at twice the half height.
    far = np.asarray(prism.row(jnp.asarray([1e3, -1e3, 3.0, 0.0]), prism.members[0]))
    named = dict(zip(prism.names, far, strict=True))
    assert named["profile.radius_"] == pytest.approx(prism.upper[0]) and named["profile.points"] == 5
    assert named["taper.below"] == pytest.approx(2 * named["half_height"], rel=1e-4)


def test_a_mask_is_measured_in_millimetres():
    shape = exact.family("sphere").sample(jax.random.key(1), GRID)
    mask, _ = voxelised(shape, (1.0, 1.5, 3.0), seed=4)
    target = Target.of(mask)
    radius = float(shape.radius)
    assert target.radius == pytest.approx(radius, rel=0.02)
    away = np.linalg.norm(target.points, axis=1) - radius
    assert np.abs(target.depth - away).mean() < 1.0
    assert np.mean((target.depth < 0) == (away < 0)) > 0.97
    assert np.abs(np.linalg.norm(target.surface, axis=1) - radius).max() < 1.6
    points = target.sample(2000, np.random.default_rng(0))
    inside = points.weight[points.depth < 0].sum()
    assert inside == pytest.approx((target.depth < 0).mean(), rel=0.1)


def test_a_scene_of_a_fit_lies_on_the_masks_voxels_and_has_their_spacing():
    family, spacing = exact.family("sphere"), (1.0, 1.5, 3.0)
    shape = family.sample(jax.random.key(1), GRID)
    mask, rotation = voxelised(shape, spacing, seed=4)
    free = FreeParameters.of(family, GRID)
    row = np.asarray(free.structure.pack(shape, free.structure.width))
    fit = Fit(family, free, row[free.free], row, rotation, Target.of(mask).centroid, 1.0, False, mask)
    scene = fit.scene(exact)
    assert scene.grid.spacing == pytest.approx(spacing)
    ((_, label),) = fd.render_scenes([scene], exact)
    both = 2 * (mask.inside & (label > 0)).sum() / (mask.inside.sum() + (label > 0).sum())
    assert both > 0.98 and both == pytest.approx(fit.dice, abs=1e-3)


CORNERS = """\
import jax
import fdif_jax as fd
from fdif_jax import shapes

UNUSED = 3


@fd.node
class Corner(fd.Shape):
    x: fd.shape.Scalar
    y: fd.shape.Scalar
    z: fd.shape.Scalar
    thick: fd.shape.Scalar

    def __call__(self, p):
        def bar(x, y, z):
            box = shapes.box(*(v / 2 + self.thick for v in (x, y, z)))
            return fd.translate(box, (x / 2, y / 2, z / 2))(p)
        return jax.numpy.minimum(jax.numpy.minimum(bar(self.x, 0, 0), bar(0, self.y, 0)), bar(0, 0, self.z))


@fd.family
def corner(key):
    low, high = jax.numpy.array([[8.0, 14, 21, 3], [10, 17, 25, 4]])
    return Corner(*jax.random.uniform(key, (4,), minval=low, maxval=high))
"""
TRUE = {"x": 9.0, "y": 15.0, "z": 23.0, "thick": 3.5}
"""Bars of three lengths that meet in a corner: no turn makes it its own mirror image."""


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """A folder with a family, a mask of a member, and one of a larger member's mirror image."""
    folder = tmp_path_factory.mktemp("corners")
    (folder / "corners.py").write_text(CORNERS)
    Corner = type(vocabulary_of(folder / "corners.py").family("corner").sample(jax.random.key(0), GRID))
    for name, factor, spacing in (("right", 1.0, (1.0, 1.0, 1.6)), ("left", 1.2, (1.5, 1.5, 1.5))):
        mask, _ = voxelised(Corner(**{k: factor * v for k, v in TRUE.items()}), spacing, seed=3)
        inside = mask.inside if name == "right" else mask.inside[::-1]
        nib.save(nib.Nifti1Image(inside.astype(np.uint8) * 4, mask.affine), folder / f"{name}.nii.gz")
    return folder


@pytest.mark.slow("a fit and its picture; poor ones are below")
def test_the_command_writes_scene_parameters_and_picture(corners):
    out, shape = corners / "fit", f"{corners / 'corners.py'}:corner"
    cli.run("fit", [str(corners / "right.nii.gz"), "--shape", shape, "--out", str(out), "--starts", "6"])
    said = json.loads((out / "parameters.json").read_text())
    assert said["dice"] > 0.97 and not said["pose"]["mirrored"]
    for name, of in said["parameters"].items():
        assert of["lower"] < of["value"] < of["upper"]
        assert of["value"] * said["pose"]["scale_mm"] == pytest.approx(TRUE[name], rel=0.03)
    assert (out / "fit.png").read_bytes()[:4] == b"\x89PNG"
    # The scene, rendered, lies voxel on voxel on the mask and has the Dice that was said.
    scenes = fd.load_scenes(out / "scene.json")
    ((_, label),) = fd.render_scenes(scenes, vocabulary_of(corners / "corners.py"))
    mask = np.asarray(nib.load(corners / "right.nii.gz").dataobj) != 0
    both = 2 * (mask & (label > 0)).sum() / (mask.sum() + (label > 0).sum())
    assert label.shape == mask.shape and both == pytest.approx(said["dice"], abs=2e-3)
    assert sorted(p.name for p in out.iterdir()) == ["fit.png", "parameters.json", "scene.json"]


@pytest.mark.slow("two fits and a program; one fit is above")
def test_a_family_is_learned_and_drawn_from(corners, tmp_path, capsys):
    out = tmp_path / "learned.py"
    masks = [str(corners / "right.nii.gz"), f"{corners / 'left.nii.gz'}:4"]
    options = ["--shape", f"{corners / 'corners.py'}:corner", "--out", str(out), "--starts", "6", "--mirror"]
    cli.run("fit-family", [*masks, *options, "--name", "angle"])
    dice = re.findall(r": Dice (\S+)\n", capsys.readouterr().out)
    assert len(dice) == 2 and min(map(float, dice)) > 0.95  # the second only as a mirror image
    assert [path.name for path in tmp_path.iterdir()] == ["learned.py"]
    text = out.read_text()
    assert text.count("class Corner") == 1 and "UNUSED" not in text and "MIRRORED = 0.5" in text

    family = vocabulary_of(out).family("angle")
    members = [family.sample(jax.random.key(seed), GRID) for seed in range(12)]
    # Members look like the masks, whose proportions are the same, and come in both hands and many sizes.
    for member in members:
        drawn = member.shape.shape
        assert float(drawn.x / drawn.z) == pytest.approx(9 / 23, rel=0.05)
        assert float(drawn.y / drawn.z) == pytest.approx(15 / 23, rel=0.05)
        edge = float(member.factor * (drawn.z + 2 * drawn.thick))
        assert 2 * 0.15 * 64 * 0.6 < edge < 2 * 0.40 * 64 * 1.6
    assert {float(member.shape.inverse[0, 0]) for member in members} == {-1.0, 1.0}
    assert len({float(member.factor) for member in members}) == 12

    recipe = fd.load_recipe("fdif").replace(
        vocabulary=[str(out)], grid=(32, 32, 32), min_objects=2, max_objects=2
    )
    program = fd.compile(recipe)
    image, label = program.sample_at(0, 0)
    assert program.class_names == ("angle",) and np.asarray(label).max() == 1 and np.asarray(image).max() > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{empty}", "--shape", "{mine}:ball"], "no voxel is not zero"),
        (["{mask}", "--label", "9", "--shape", "{mine}:ball"], "no voxel is labelled 9"),
        (["{mask}", "--shape", "{mine}:bal"], "did you mean 'ball'"),
        (["{mask}", "--shape", "ball"], "unknown class 'ball'"),
        (["{mask}", "--shape", "none.py:ball"], "none.py: no such file"),
        (["{mask}", "--shape", "{mine}:broken"], r"mine\.py:8: .* NaN"),
        (["{mask}", "--shape", "{mine}:hollow"], r"mine\.py:12: no random member .* has an inside"),
        (["{mask}", "--shape", "{mine}:fixed"], r"mine\.py:16: all members of 'fixed' are the same"),
        (["{mask}", "--shape", "{mine}:ball", "--starts", "0"], "--starts must be at least 1"),
        (["{mask}", "--shape", "{mine}:ball", "--scale", "-1"], "scale must be a finite number"),
    ],
)
def test_bad_input_is_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    voxels = np.zeros((12, 12, 12), np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), "empty.nii.gz")
    voxels[4:8, 4:8, 4:8] = 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), "mask.nii.gz")
    ball = "    return shapes.sphere({}jax.random.uniform(key, minval=2.0, maxval=5.0){})\n\n"
    parts = {
        "ball": ball.format("", ""), "broken": ball.format("jnp.log(-", ")"),
        "hollow": ball.format("-", ""), "fixed": "    return shapes.sphere(3.0)\n\n",
    }  # fmt: skip
    text = "import jax, jax.numpy as jnp\nimport fdif_jax as fd\nfrom fdif_jax import shapes\n"
    Path("mine.py").write_text(
        text + "".join(f"@fd.family\ndef {name}(key):\n{body}" for name, body in parts.items())
    )
    names = {"empty": "empty.nii.gz", "mask": "mask.nii.gz", "mine": "mine.py"}
    with pytest.raises(SystemExit) as done:
        cli.run("fit", [argument.format(**names) for argument in arguments])
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2 and re.search(says, error) and "\n" not in error
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != "") == [
        "empty.nii.gz",
        "mask.nii.gz",
        "mine.py",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["right.nii.gz"], "two masks or more, not 1"),
        (["right.nii.gz", "./right.nii.gz"], "right.nii.gz: is given twice, and would count twice"),
        (["right.nii.gz", "left.nii.gz:5"], "left.nii.gz: no voxel is labelled 5"),
        (["right.nii.gz", "left.nii.gz", "--min-dice", "90"], "--min-dice must be from 0 to 1, not 90"),
        (["right.nii.gz", "left.nii.gz", "--name", "my angle"], "a family needs a name that Python takes"),
        (["right.nii.gz", "left.nii.gz", "--out", "x.txt"], r"should be the name of a Python file"),
        (["right.nii.gz", "left.nii.gz", "--out", "nowhere/x.py"], r"in a folder that is there"),
    ],
)
def test_bad_input_of_fit_family_is_one_line(arguments, says, corners, monkeypatch, capsys):
    monkeypatch.chdir(corners)
    with pytest.raises(SystemExit) as done:
        cli.run("fit-family", [*arguments, "--shape", "corners.py:corner"])
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2 and re.search(says, error) and "\n" not in error
    assert not list(corners.glob("x.*")) and not list(corners.glob("new_family*"))


@pytest.mark.slow("fits of several masks")
def test_a_family_of_poor_fits_is_not_written(corners, monkeypatch, capsys):
    monkeypatch.chdir(corners)
    masks = ["right.nii.gz", "left.nii.gz", "--min-dice", "0.9", "--starts", "2"]
    with pytest.raises(SystemExit):
        cli.run("fit-family", [*masks, "--shape", "sphere", "--out", "poor.py"])
    said = capsys.readouterr()
    assert said.out.count("left out") == 2 and "two good fits or more, not 0" in said.err
    assert not (corners / "poor.py").exists()


def test_a_mask_has_three_axes():
    with pytest.raises(FdifError, match="3 axes"):
        Mask(np.ones((3, 3), bool), np.eye(4))
