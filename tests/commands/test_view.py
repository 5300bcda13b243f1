"""`fdif view`: what it writes of shapes, files, scenes and cases; its page in a browser; watching; bad input."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import nibabel as nib
import numpy as np
import pytest
import trimesh
from hypothesis import given
from PIL import Image

import fdif_jax as fd
from fdif_jax.datasets.reader import load_dataset
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import read_nifti
from fdif_jax.scripts import cli, view
from fdif_jax.scripts.jobs import view_targets
from fdif_jax.scripts.jobs.view_targets import Choice, View, views_of
from fdif_jax.vocabulary.vocabulary import resolve
from tests.helpers.names import HOSTILE, names_no_other_file
from tests.helpers.paths import HIPPOCAMPUS
from tests.helpers.tabs import open_page
from tests.helpers.user_shapes import SHAPES

SMALL = ("--size", "48", "--resolution", "32")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SHAPES)
    return path


def choice(**changes) -> Choice:
    config = view.Config(target="")
    given = {name: getattr(config, name) for name in Choice.__dataclass_fields__}
    return Choice(**given | {"grid": fd.Grid(96, 96, 96), "resolution": 48} | changes)


def opened(browser, page: Path):
    """The page in a browser, after it has drawn; fails if it says or asks anybody for anything."""
    tab, said = open_page(browser, page, 400, 300)
    tab.wait_for_selector("canvas")
    tab.wait_for_timeout(700)
    return tab, said


def pixels(tab, path: Path) -> np.ndarray:
    tab.evaluate("document.getElementById('words').style.display = 'none'")
    tab.screenshot(path=path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_class_gives_picture_slices_mesh_and_a_page_to_turn(tmp_path, browser, capsys):
    out, mesh = tmp_path / "out", tmp_path / "ring.stl"
    options = ["--size", "64", "--resolution", "48", "--seed", "3", "--mesh", str(mesh)]
    cli.run("view", ["torus", "--out", str(out), *options])
    assert sorted(path.name for path in out.iterdir()) == ["torus.html", "torus.png", "torus_slices.png"]
    assert "torus.html" in capsys.readouterr().out
    picture = np.asarray(Image.open(out / "torus.png")).astype(int)
    green = picture[..., 1] > picture[..., 0] + 40  # the third class's colour
    assert picture.shape == (64, 64, 3) and 0.2 < green.mean() < 0.8
    assert not green[32, 32] and (picture[:4] == 255).all()  # the hole, and the paper above
    shape = fd.shapes.exact.family("torus").sample(jax.random.key(3), fd.Grid(96, 96, 96))
    big, small = float(shape.distance), float(shape.profile.radius_)
    assert trimesh.load_mesh(mesh).volume == pytest.approx(2 * np.pi**2 * big * small**2, rel=0.03)

    tab, said = opened(browser, out / "torus.html")
    assert "torus, seed 3" in tab.inner_text("#words") and "family('torus')" in tab.inner_text("#words")
    assert tab.title() == "torus, seed 3"
    before = pixels(tab, tmp_path / "before.png")
    drawn = before.min(axis=2) < 200
    assert 0.03 < drawn.mean() < 0.8 and (before[drawn][:, 1] > before[drawn][:, 0]).mean() > 0.9
    tab.mouse.move(200, 150)
    tab.mouse.down()
    tab.mouse.move(300, 120, steps=4)
    tab.mouse.up()
    tab.wait_for_timeout(300)
    assert (abs(pixels(tab, tmp_path / "after.png") - before).max(axis=2) > 60).mean() > 0.01
    assert not said
    tab.close()


def test_all_families_of_a_file_are_a_sheet(file, tmp_path):
    cli.run("view", [str(file), *SMALL, "--members", "3", "--out", str(tmp_path / "sheet.png")])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape == (2 * (48 + 22), 3 * 48, 3)
    balls, rings = sheet[22:70], sheet[92:140]
    assert ((balls.max(axis=2) - balls.min(axis=2)) > 40).mean() > 0.2
    assert ((rings.max(axis=2) - rings.min(axis=2)) > 40).mean() > 0.1
    assert (tmp_path / "sheet.html").stat().st_size > 500_000


@given(HOSTILE)
def test_a_picture_is_in_the_folder_whatever_its_view_is_called(name):
    path = view._picture_path(view.Config(target="x"), [View(name, "", [])])
    assert path.parent == Path("view") and names_no_other_file(path.stem) and path.suffix == ".png"


def test_members_displacements_and_mappers_are_chosen(file):
    assert [len(views_of(f"{file}{name}", choice(resolution=16))) for name in (":ball", "")] == [1, 8]
    one, two = views_of(f"{file}:ball", choice(members=2, seed=5, mapper="shell"))
    assert (one.title, two.title) == ("ball, seed 5", "ball, seed 6")
    assert one.mapper.name == "shell" and float(one.mapper(np.full(1, 0.5, np.float32))[0]) == 128
    radius = float(resolve([str(file)]).family("ball").sample(jax.random.key(6), fd.Grid(96, 96, 96)).radius)
    assert two.things[0].samples.mesh((1, 0, 0)).extents == pytest.approx([2 * radius] * 3, rel=0.02)
    (ball,) = views_of("ball", choice(catalogue=(file,), resolution=16))
    assert ball.title == "ball, seed 0" and str(file) in ball.caption[-1]
    (mapped,) = views_of("torus", choice(catalogue=(file,), mapper="shell", resolution=16))
    assert mapped.mapper.name == "shell" and "exact" in mapped.caption[-1]
    (plain,) = views_of("sphere", choice())
    (rough,) = views_of("sphere", choice(displacement="turbulence"))
    assert "turbulence" in rough.caption[-1]
    volumes = [view.things[0].samples.mesh((1, 0, 0)).volume for view in (plain, rough)]
    assert abs(volumes[1] / volumes[0] - 1) > 0.01


def test_plain_shapes_are_seen_of_a_file_and_as_they_were_saved(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text(
        "from fdif_jax import shapes\nball = shapes.sphere(9.0)\nring = shapes.torus(12.0, 4.0)\nten = 10\n"
    )
    (ring,) = views_of(f"{path}:ring", choice(mapper="inverse_cube"))
    assert (ring.name, ring.title, ring.mapper.name) == ("ring", "ring", "inverse_cube")
    assert ring.things[0].samples.mesh((1, 0, 0)).volume == pytest.approx(2 * np.pi**2 * 12 * 16, rel=0.02)
    assert [view.name for view in views_of(str(path), choice(resolution=16))] == ["ball", "ring"]
    fd.shapes.sphere(9.0).save(tmp_path / "saved.json")
    fd.shapes.sphere(9.0).save(tmp_path / "saved.stl", resolution=32)
    for name in ("saved.json", "saved.stl"):
        (saved,) = views_of(str(tmp_path / name), choice())
        assert (saved.name, f"fd.load({str(tmp_path / name)!r})") == ("saved", saved.caption[1])
        volume = saved.things[0].samples.mesh((1, 0, 0)).volume
        assert volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)
    with pytest.raises(FdifError, match="fdif view: disc is a Circle; it should be a shape"):
        fd.shapes.circle(3.0).save(tmp_path / "disc.json")
        views_of(str(tmp_path / "disc.json"), choice())


def test_a_scene_is_seen_where_its_labels_are(tmp_path, fixtures):
    scene = fd.load_scenes(fixtures / "scenes.json")[0]
    one = fd.Scene(scene.grid, scene.objects[1:2])
    beyond = np.eye(4)
    beyond[0, 3] = -500
    far = dataclasses.replace(one.objects[0], inverse_transform=beyond.tolist(), class_id=(7,))
    fd.save_scenes([one, fd.Scene(scene.grid, (*one.objects, far))], tmp_path / "two.json")
    (seen,) = views_of(str(tmp_path / "two.json"), choice(case="1"))
    name = one.objects[0].class_name
    assert (seen.name, list(seen.legend)) == ("two_1", [name])
    assert seen.legend[name] == seen.things[0].colour
    assert [thing.samples.name for thing in seen.things] == [f"{name} (object 0)"]
    label, mesh = seen.volume[1], seen.things[0].samples.mesh((1, 0, 0))
    assert mesh.volume == pytest.approx((label > 0).sum(), rel=0.06)
    z, y, x = np.argwhere(label > 0).mean(axis=0) - 24
    np.testing.assert_allclose(mesh.center_mass, [x, y, z], atol=0.3)


def test_a_case_is_seen_in_millimetres():
    (seen,) = views_of(str(HIPPOCAMPUS), choice(case="hippocampus_003", resolution=32))
    assert (
        list(seen.legend) == ["Anterior", "Posterior"] and seen.legend["Anterior"] != seen.legend["Posterior"]
    )
    case = next(c for c in load_dataset(HIPPOCAMPUS).training if c.id == "hippocampus_003")
    label = read_nifti(case.label)
    voxel = abs(np.linalg.det(label.affine[:3, :3]))
    for i, thing in enumerate(seen.things, 1):
        mesh, inside = thing.samples.mesh(thing.colour), label.array == i
        assert mesh.volume == pytest.approx(inside.sum() * voxel, rel=0.1)
        middle = label.affine[:3, :3] @ np.argwhere(inside).mean(axis=0) + label.affine[:3, 3]
        np.testing.assert_allclose(mesh.center_mass, middle, atol=1)
    np.testing.assert_array_equal(seen.volume[1], label.array)
    (bare,) = views_of(str(case.label), choice(resolution=32))
    assert [thing.samples.name for thing in bare.things] == ["label 1", "label 2"]


def test_a_label_in_another_order_than_its_image_is_seen_where_it_lies(tmp_path, monkeypatch):
    """The first axis of the label's file runs the other way, and its second and third are exchanged."""
    source = nib.load(HIPPOCAMPUS / "labelsTr/hippocampus_003.nii.gz")
    nib.save(source, tmp_path / "image.nii.gz")
    nib.save(source.as_reoriented([[0, -1], [2, 1], [1, 1]]), tmp_path / "label.nii.gz")
    listed = {
        "labels": {"0": "x", "1": "a", "2": "b"},
        "training": [{"image": "image.nii.gz", "label": "label.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    monkeypatch.setattr(
        view_targets, "_labels", lambda name, title, volume, affine, choice: (volume[1], affine)
    )
    ((label, affine),) = views_of(str(tmp_path), choice(case="0"))
    wanted, seen = (
        nib.affines.apply_affine(placed, np.argwhere(array == 1).mean(axis=0))
        for array, placed in ((np.asarray(source.dataobj), source.affine), (label, affine))
    )
    np.testing.assert_allclose(seen, wanted, atol=1e-3)


def test_labels_of_an_atlas_are_seen_by_their_ids(tmp_path):
    label = np.zeros((12, 11, 10), np.uint32)
    label[2:5, 2:9, 2:8], label[5:9, 2:9, 2:8] = 2035, 3_614_454_277
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "atlas.nii.gz")
    (seen,) = views_of(str(tmp_path / "atlas.nii.gz"), choice(resolution=16))
    assert list(seen.legend) == ["label 2035", "label 3614454277"]
    assert seen.volume[2] == {2035: "label 2035", 3_614_454_277: "label 3614454277"}
    np.testing.assert_array_equal(seen.volume[1], label)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("toruss", "did you mean 'torus'"),
        ("mine.py:bal", "did you mean 'ball'"),
        ("none.py", "none.py: no such file"),
        ("none.json", "none.json does not exist"),
        ("none.nii.gz", "none.nii.gz: no such file"),
        (".", "no dataset"),
        ("syntax.py", "syntax.py:3: SyntaxError"),
        ("number.py", "number.py:7: family 'ball' returns a "),
        ("undefined.py:ball", "NaN"),
        ("nothing.py:ball", "ball, seed 0: nothing to see"),
        ("empty.py", "no family"),
        ("plain.py:bal", "unknown shape of plain.py: 'bal'; did you mean 'ball'?"),
        ("plain.json", "plain.json: makes no shape"),
        ("torus --out mine.py", "mine.py: cannot be made a directory"),
        ("torus --mesh torus.vtk", "ends in .stl, .ply, .obj"),
        ("torus --displacement ridg", "did you mean 'ridge'"),
        ("torus --size 0", "--size must be at least 16"),
        ("torus --field-of-view 180", "--field-of-view"),
        (". --watch", "--watch: . is no file"),
    ],
)
def test_bad_input_is_one_line(target, says, file, monkeypatch, capsys):
    monkeypatch.chdir(file.parent)
    drawn = "return shapes.sphere(jax.random.uniform(key, minval=0.1, maxval=0.3) * min(grid))"
    for name, old, new in (
        ("syntax", "import fdif_jax", "import import"),
        ("number", drawn, "return 1.0"),
        ("undefined", drawn, "return shapes.sphere(jnp.sqrt(-jax.random.uniform(key)))"),
        ("nothing", drawn, "return shapes.sphere(-1.0 - jax.random.uniform(key))"),
    ):
        Path(f"{name}.py").write_text(SHAPES.replace(old, new, 1))
    Path("empty.py").write_text(SHAPES.replace("@fd.family", ""))
    Path("plain.py").write_text("from fdif_jax import shapes\nball = shapes.sphere(5.0)\n")
    Path("plain.json").write_text('{"fdif_shape": 1, "shape": {"class": "Sphere", "radius": "wide"}}')
    before = set(file.parent.iterdir())
    with pytest.raises(SystemExit) as done:
        cli.run("view", target.split())
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2 and error.count("\n") == 0
    assert says in error
    assert set(file.parent.iterdir()) - before <= {file.parent / "__pycache__"}


@pytest.mark.slow("waits for files to change")
def test_watching_draws_again_after_each_save_and_outlives_mistakes(file, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-u", "-m", "fdif_jax.scripts.view", f"{file}:ball", "--watch", *SMALL]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        watching = subprocess.Popen([*command, "--out", str(out)], stdout=stream, stderr=subprocess.STDOUT)

    def until(lines: int) -> str:
        end = time.monotonic() + 60
        while log.read_text().count("\n") < lines:
            assert watching.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return log.read_text().splitlines()[-1]

    try:
        assert "ball.png" in until(2)  # after the line that says that the file is run
        first = (out / "ball.png").read_bytes()
        file.write_text(SHAPES.replace("import fdif_jax as fd", "import fdif_jax as"))
        assert "mine.py:3: SyntaxError" in until(3)
        assert (out / "ball.png").read_bytes() == first
        file.write_text(SHAPES.replace("shapes.sphere(", "shapes.octahedron("))
        assert "ball.png" in until(4)
        assert (out / "ball.png").read_bytes() != first
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
        assert log.read_text().count("\n") == 4
    finally:
        watching.kill()
