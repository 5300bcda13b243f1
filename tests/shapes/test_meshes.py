"""Shapes from meshes against formulas and trimesh; a folder of meshes as a vocabulary."""

import re

import jax
import nibabel as nib
import numpy as np
import pytest
import trimesh

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point
from fdif_jax.sdf.structure import Structure
from fdif_jax.shapes import from_mesh
from fdif_jax.shapes.meshes import vocabulary_of
from tests.helpers.paths import DOCS

BALL = trimesh.creation.icosphere(subdivisions=4, radius=10.0)
BLOCK = trimesh.creation.box((2.0, 4.0, 6.0))
RING = trimesh.creation.torus(10.0, 4.0, major_sections=96, minor_sections=48)
STEP = 20 / 31  # of 32 samples along the ball
CORE = Point(0.0, 0.0, 0.0)

# One program instead of one an operation.
distances = jax.jit(lambda shape, p: shape(p))


def ball(radius, at=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    mesh.apply_translation(at)
    return mesh


def inverted(mesh):
    mesh = mesh.copy()
    mesh.invert()
    return mesh


def inside_grid(shape, count=3000):
    """Random points within the shape's box grown by one step."""
    lower, upper = (np.asarray(end) for end in shape.bounds(0.3))
    return Point(*np.random.default_rng(0).uniform(lower, upper, (count, 3)).astype(np.float32).T)


@pytest.mark.parametrize("ending", [".stl", ".obj", ".ply"])
def test_a_ball_from_a_file_is_within_half_a_step(tmp_path, ending):
    BALL.export(tmp_path / f"ball{ending}")
    shape = from_mesh(tmp_path / f"ball{ending}", resolution=32)
    p = inside_grid(shape)
    true = np.linalg.norm(p, axis=0) - 10
    off_centre = true > -9
    assert np.abs(np.asarray(distances(shape, p)) - true)[off_centre].max() < STEP / 2


@pytest.mark.parametrize("mesh, formula", [(BLOCK, shapes.box(1.0, 2.0, 3.0)), (RING, None)])
def test_distances_are_the_formulas(mesh, formula):
    shape = from_mesh(mesh, resolution=32)
    p = inside_grid(shape)
    # trimesh's ring lies about z, ours about y.
    true = distances(formula or shapes.torus(10.0, 4.0), p if formula else Point(p.x, p.z, p.y))
    error = np.abs(np.asarray(distances(shape, p)) - np.asarray(true))
    step = max(mesh.extents) / 31
    assert error.max() < 0.8 * step and error.mean() < 0.15 * step


def flipped_faces():
    faces = np.array(BALL.faces)
    faces[::3] = faces[::3, ::-1]
    return trimesh.Trimesh(BALL.vertices, faces, process=False)


def soup():
    return trimesh.Trimesh(
        BALL.triangles.reshape(-1, 3), np.arange(3 * len(BALL.faces)).reshape(-1, 3), process=False
    )


def doubled():
    return trimesh.Trimesh(BALL.vertices, np.concatenate([BALL.faces, BALL.faces[:7]]), process=False)


@pytest.mark.parametrize(
    "mesh", [inverted(BALL), flipped_faces(), soup(), doubled(), trimesh.util.concatenate([BALL, ball(4.0)])]
)
def test_faces_may_be_turned_loose_repeated_or_inside(mesh):
    got, plain = from_mesh(mesh, resolution=24), from_mesh(BALL, resolution=24)
    np.testing.assert_allclose(got.values, plain.values, atol=1e-3)


def test_cavities_stay_whichever_way_the_whole_looks():
    hollow = trimesh.util.concatenate([BALL, inverted(ball(5.0))])
    for mesh in (hollow, inverted(hollow)):
        assert 4 < float(distances(from_mesh(mesh, resolution=24), CORE)) < 5


def test_parts_apart_overlapping_and_touching_are_one_body():
    apart = trimesh.util.concatenate([ball(3.0, (-6, 0, 0)), inverted(ball(3.0, (6, 0, 0)))])
    shape = from_mesh(apart, resolution=32, centred=False)
    row = Point(np.asarray([6.0, -6.0, 0.0]), np.asarray([0.3, 0.3, 0.0]), np.zeros(3))
    left, right, between = distances(shape, row)
    assert left < -2 and right < -2 and between > 2
    overlapping = trimesh.util.concatenate([ball(5.0, (-3, 0, 0)), ball(5.0, (3, 0, 0))])
    assert float(distances(from_mesh(overlapping, resolution=32), CORE)) < -3
    cube = trimesh.creation.box((4, 4, 4))
    touching = trimesh.util.concatenate([cube, cube.copy().apply_translation((4, 0, 0))])
    assert float(distances(from_mesh(touching, resolution=32), CORE)) < -1.8


def test_a_leak_is_an_error_and_can_be_sealed(tmp_path):
    faces = np.array(BALL.faces)
    holed = trimesh.Trimesh(BALL.vertices, faces[1:], process=False)
    holed.export(tmp_path / "holed.stl")
    with pytest.raises(fd.FdifError, match=r"holed.stl: the mesh leaks: 3 open edges"):
        from_mesh(tmp_path / "holed.stl")
    sealed = from_mesh(tmp_path / "holed.stl", seal=True, resolution=24)
    np.testing.assert_allclose(sealed.values, from_mesh(BALL, resolution=24).values, atol=0.05)
    dome = trimesh.Trimesh(BALL.vertices, faces[BALL.triangles_center[:, 2] > 0], process=False)
    shape = from_mesh(dome, seal=True, resolution=32, centred=False)
    assert float(distances(shape, Point(0.0, 0.0, 4.0))) < -3
    assert float(distances(shape, Point(0.0, 0.0, -3.0))) > 2


def test_what_is_no_body_is_refused_in_one_line(tmp_path):
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
    files = {
        "empty.stl": b"",
        "text.stl": b"solid a\n facet\n rubbish",
        "cut.stl": bytes(80) + (1000).to_bytes(4, "little") + b"abc",
        "cut.ply": b"ply\nformat ascii 1.0\nelement vertex 3\n",
        "few.obj": b"v 0 0 0\nf 1 2 3\n",
        "nan.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 nan\nf 1 2 3\n",
        "point.obj": b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n",
        "mesh.xyz": b"1 2 3",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    cases = [
        *((tmp_path / name, {}, name) for name in files),
        (tmp_path / "none.stl", {}, "none.stl: no such file"),
        (flat, {"seal": True}, "flat"),
        (BALL, {"resolution": 3}, "resolution"),
        (3, {}, "not a int"),
    ]
    for source, options, message in cases:
        with pytest.raises(fd.FdifError, match=message) as error:
            from_mesh(source, **options)
        assert "\n" not in str(error.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    top = tmp_path / "bodies"
    (top / "vessel" / "deep").mkdir(parents=True)
    BALL.export(top / "s0001_liver.stl")
    BLOCK.export(top / "000123_liver.nii.g_1.stl")
    BLOCK.export(top / "rib_left_1.ply")
    RING.export(top / "vessel" / "deep" / "a ring.obj")
    mask = np.zeros((12, 12, 20), np.uint8)
    mask[3:9, 4:8, 3:17] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([1.0, 2.0, 1.0, 1.0])), top / "s0003_spleen.nii.gz")
    (top / ".hidden.stl").write_bytes(b"")
    (top / "notes.txt").write_text("not a shape")
    return top


def test_a_folder_becomes_families(folder):
    seen = []
    made = vocabulary_of(folder, resolution=16, progress=lambda *at: seen.append(at))
    assert [f.name for f in made.families] == ["liver", "rib_left_1", "spleen", "vessel"]
    assert seen == [(i, 5) for i in range(6)]
    draw = jax.jit(lambda key: made.family("liver").sample(key, Grid(40, 32, 48)))
    drawn = [draw(jax.random.key(i)) for i in range(60)]
    names = {made.describe("liver", shape)["name"] for shape in drawn}
    assert names == {"s0001_liver.stl", "000123_liver.nii.g_1.stl"}
    scales = [made.describe("liver", shape)["scale"] for shape in drawn]
    assert 0.15 * 32 <= min(scales) < 0.2 * 32 and 0.35 * 32 < max(scales) <= 0.4 * 32
    assert len({Structure.of(f.sample(jax.random.key(0), Grid(32, 32, 32))) for f in made.families}) == 1
    for f in made.families:
        params = made.describe(f.name, f.sample(jax.random.key(1), Grid(32, 32, 32)))
        assert made.describe(f.name, made.build(f.name, params)) == params
        box = made.build(f.name, params | {"scale": 10.0}).bounds()
        np.testing.assert_allclose(np.max(np.asarray(box.upper) - box.lower), 20, rtol=1e-2)


def test_members_are_the_meshes(folder):
    made = vocabulary_of(folder, resolution=32)
    shape = made.build("liver", {"kind": "member", "name": "s0001_liver.stl", "scale": 10.0})
    p = inside_grid(shape)
    true = np.linalg.norm(p, axis=0) - 10
    assert np.abs(np.asarray(distances(shape, p)) - true)[true > -9].max() < 0.4
    spleen = made.build("spleen", {"kind": "member", "name": "s0003_spleen.nii.gz", "scale": 7.0})
    np.testing.assert_allclose(spleen.bounds().upper, [3, 4, 7], atol=0.5)  # 6, 8 and 14 mm


def test_the_cache_gives_the_same_and_follows_the_files(folder):
    first = vocabulary_of(folder, resolution=16)
    again = vocabulary_of(folder, resolution=16, progress=lambda *at: pytest.fail("was computed again"))
    fresh = vocabulary_of(folder, resolution=16, cache=False)
    shape = [v.families[0].sample(jax.random.key(3), Grid(32, 32, 32)) for v in (first, again, fresh)]
    for other in shape[1:]:
        np.testing.assert_array_equal(shape[0].shape.library.stack, other.shape.library.stack)
    assert first.digest == again.digest == fresh.digest
    assert vocabulary_of(folder, resolution=17).digest != first.digest
    RING.export(folder / "s0001_liver.stl")
    assert vocabulary_of(folder, resolution=16).digest != first.digest


@pytest.mark.slow("a program more")
def test_a_recipe_mixes_meshes_and_formulas(folder):
    recipe = fd.load_recipe("fdif").replace(
        vocabulary=(str(folder), "fdif_jax.shapes:published"),
        primitives=("liver", "vessel", "sphere"),
        grid=(24, 24, 24),
        min_objects=4,
        max_objects=4,
        mappers=("linear_slope_10.0",),
        displacements=(),
    )
    program = fd.compile(recipe)
    assert {"liver", "vessel", "sphere"} <= {c.family.name for c in program.classes}
    image, label = map(np.asarray, program.sample_at(0, 0))
    assert image.max() > 0 and label.max() > 0
    again, same = map(np.asarray, program.render(program.scene_at(0, 0)))
    np.testing.assert_array_equal(same, label)
    assert np.abs(again.astype(int) - image).max() <= 1


def test_a_folder_that_is_no_vocabulary_says_so(folder, tmp_path):
    (tmp_path / "void").mkdir()
    for path, message in [(tmp_path / "void", "void: holds no shapes"), (tmp_path / "no", "no such folder")]:
        with pytest.raises(fd.FdifError, match=message):
            vocabulary_of(path)
    made = vocabulary_of(folder, resolution=16)
    good = {"kind": "member", "name": "s0001_liver.stl", "scale": 3.0}
    for change, message in [
        ({"name": "s0001_livre.stl"}, "did you mean 's0001_liver.stl'"),
        ({"scale": 0}, "'scale' must be above 0"),
        ({"kind": "box"}, "kind"),
        ({"more": 1}, "unknown parameter of liver 'more'"),
    ]:
        with pytest.raises(fd.FdifError, match=message):
            made.build("liver", good | change)
    with pytest.raises(fd.FdifError, match="Sphere is no scaled member"):
        made.describe("liver", shapes.sphere(3.0))
    (folder / "broken.stl").write_bytes(b"")
    with pytest.raises(fd.FdifError, match=r"broken.stl: holds no triangles"):
        vocabulary_of(folder, resolution=16)


@pytest.mark.slow("a page of commands, each with a program of its own")
def test_the_page_about_shapes_from_data_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = (DOCS / "shapes-from-data.md").read_text()
    small = "grid=(24, 24, 24), mappers=('floor_width_1.0',), displacements=(), max_objects=2, min_objects=2"
    assert "grid=(48, 48, 48)" in page
    page = page.replace("grid=(48, 48, 48)", small)
    said = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, said)
    assert abs(float(capsys.readouterr().out) + 1) < 0.2
    assert said["volume"].shape == (64, 64, 64) and said["label"].max() > 0
    assert {c.family.name for c in said["program"].classes} == {"ring", "organ", "torus"}
