"""Where shapes are, and their surfaces: against known volumes, and files that another library reads."""

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Samples, write_mesh
from fdif_jax.viewing.tracing import Region, trace
from fdif_jax.viewing.view_pictures import cut_open

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
AROUND = Region(np.full(3, -40, np.float32), np.full(3, 40, np.float32))


def samples(shape: fd.Shape, within: Region = AROUND, resolution: int = 64) -> Samples:
    found = Samples.of(shape, within, resolution, "it")
    assert found is not None
    return found


SOLIDS = {
    "sphere": (shapes.sphere(14.0), 4 / 3 * np.pi * 14**3, (14, 14, 14)),
    "box": (shapes.box(12.0, 8.0, 5.0), 8 * 12 * 8 * 5, (12, 8, 5)),
    "torus": (shapes.torus(13.0, 5.0), 2 * np.pi**2 * 13 * 25, (18, 5, 18)),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_meshes_have_the_volume_and_the_extent_of_their_shapes(name):
    shape, volume, half = SOLIDS[name]
    # Twisted by nothing, the shape has bounds that say nothing: it must be found.
    for known in (shape, fd.twist(shape, 0.0)):
        found = samples(known)
        mesh = found.mesh(RED)
        assert mesh.volume == pytest.approx(volume, rel=0.02)  # positive: faces look outwards
        np.testing.assert_allclose(mesh.bounds, [np.negative(half), half], atol=0.3)
        np.testing.assert_allclose(found.box.upper, half, atol=0.7)
        assert (found.box.upper >= half).all() and (found.box.lower <= np.negative(half)).all()
        assert found.slope == pytest.approx(1, abs=0.05)
        assert (
            np.mean(np.sum(mesh.vertex_normals * (mesh.vertices - mesh.triangles_center.mean(0)), 1) > 0)
            > 0.6
        )


def test_an_off_centre_shape_lies_where_it_should():
    mesh = samples(fd.translate(shapes.box(3.0, 6.0, 9.0), (10.0, -5.0, 2.0))).mesh(RED)
    np.testing.assert_allclose(mesh.bounds, [[7, -11, -7], [13, 1, 11]], atol=0.3)


def test_what_goes_beyond_the_region_is_cut_and_closed():
    within = Region(np.full(3, -40, np.float32), np.float32([40, 40, 0]))
    found = samples(shapes.sphere(14.0), within)
    mesh = found.mesh(RED)
    assert mesh.is_watertight and mesh.volume == pytest.approx(2 / 3 * np.pi * 14**3, rel=0.02)
    assert mesh.bounds[1, 2] == pytest.approx(0, abs=1e-4) and found.box.upper[2] == 0


def test_coarser_and_interpolated_samples_are_the_same_shape():
    found = samples(shapes.torus(13.0, 5.0))
    assert found.coarser().mesh(RED).volume == pytest.approx(found.mesh(RED).volume, rel=0.02)
    smooth = found.interpolated()
    p = fd.Point(*jnp.linspace(-12.0, 12.0, 33)[None] * jnp.array([[1.0], [0.3], [-0.7]]))
    off = np.abs(smooth.shape(p) - found.shape(p))
    assert off.max() < 0.5 and np.sort(off)[-2] < 0.15  # a ridge, in the middle, is rounded


def test_parts_show_what_is_left_of_them_and_are_cut_open():
    ball, core = shapes.sphere(14.0), fd.translate(shapes.sphere(6.0), (0.0, 3.0, 0.0))
    whole = samples(fd.parts(rim=ball, lost=shapes.sphere(2.0), core=core))
    parts = whole.parts()
    assert list(parts) == ["rim", "core"]  # one that others hide is not shown
    volumes = [parts[name].mesh(RED).volume for name in parts]
    balls = [4 / 3 * np.pi * radius**3 for radius in (14, 6)]
    np.testing.assert_allclose(volumes, [balls[0] - balls[1], balls[1]], rtol=0.03)
    # The eye of azimuth 0 is at -y: it looks on the plane through the core's middle, y = 3.
    camera = Camera((0.0, 0.0, 0.0), 20.0, 0.0, 0.0)
    cut = cut_open([(parts["rim"], RED), (parts["core"], BLUE)], camera)
    np.testing.assert_allclose([solid.box.lower[1] for solid in cut], 3, atol=0.3)
    seen = trace(cut, camera, 80, floor=False).colours.astype(int)
    red, blue = seen[..., 0] > 1.5 * seen[..., 2], seen[..., 2] > 1.5 * seen[..., 0]
    pixel = (40 / 80) ** 2
    assert red.sum() * pixel == pytest.approx(np.pi * (14**2 - 3**2 - 6**2), rel=0.05)
    assert blue.sum() * pixel == pytest.approx(np.pi * 6**2, rel=0.08)
    (only,) = samples(ball).parts().values()
    assert only.mesh(RED).volume == pytest.approx(balls[0], rel=0.03)


def test_slices_are_of_the_distance():
    found = samples(fd.translate(shapes.box(3.0, 6.0, 9.0), (10.0, -5.0, 2.0)), resolution=48)
    middle, planes = found.middle, found.slices(41, found.middle)
    np.testing.assert_allclose(middle, [10, -5, 2], atol=0.3)
    (left, front, low), (right, back, high) = found.region
    x, y, z = (np.linspace(a, b, 41) for a, b in ((left, right), (front, back), (low, high)))

    def inside(i, j, k):
        return (abs(i - 10) <= 3) & (abs(j + 5) <= 6) & (abs(k - 2) <= 9)

    for plane, expected in zip(
        planes,
        (
            inside(x[None], y[:, None], middle[2]),
            inside(x[None], middle[1], z[:, None]),
            inside(middle[0], y[None], z[:, None]),
        ),
        strict=True,
    ):
        assert 0.2 < expected.mean() < 0.9
        np.testing.assert_array_equal(plane <= 0, expected)


def test_the_outline_holds_the_shape():
    rng = np.random.default_rng(0)
    found = samples(fd.translate(shapes.sphere(9.0), (4.0, 0.0, -3.0)))
    way = rng.normal(size=(50, 3))
    farthest = (found.outline @ way.T).max(axis=0)
    true = way @ [4, 0, -3] + 9 * np.linalg.norm(way, axis=1)
    assert (farthest >= true - 0.35 * np.linalg.norm(way, axis=1)).all()
    assert (farthest <= true + 0.5 * np.linalg.norm(way, axis=1)).all()


@fd.node
class Broken(fd.Shape):
    radius: float
    kind: str = fd.static("NaN")

    def __call__(self, p):
        d = fd.shape.length(*p) - self.radius
        return jnp.where(p.x > 2, jnp.nan, 5 * d) if self.kind == "NaN" else 5 * d

    def bounds(self, margin=0.0):
        if self.kind == "bounds":
            raise ValueError("what a pity")
        return fd.Box.everywhere()


def test_what_cannot_be_seen_is_said():
    with pytest.raises(FdifError, match=r"^it: its distance is NaN at x, y, z = \d"):
        samples(Broken(9.0))
    with pytest.raises(FdifError, match=r"it: its bounds.* fails: ValueError: what a pity"):
        samples(Broken(9.0, "bounds"))
    assert Samples.of(fd.translate(shapes.sphere(5.0), (90.0, 0.0, 0.0)), AROUND, 32, "it") is None
    assert Samples.of(fd.round(shapes.sphere(5.0), -6.0), AROUND, 32, "it") is None


def test_a_steep_distance_is_found_to_be_steep():
    assert samples(Broken(9.0, "steep")).slope == 4


@pytest.mark.parametrize("ending", ["stl", "ply", "obj"])
def test_mesh_files_are_read_back(tmp_path, ending):
    meshes = [
        samples(fd.translate(shapes.sphere(6.0), (x, 0.0, 0.0)), resolution=32).mesh(colour)
        for x, colour in ((-10.0, RED), (10.0, (0.0, 0.0, 1.0)))
    ]
    path = tmp_path / f"two.{ending}"
    write_mesh(path, meshes)
    read = trimesh.load_mesh(path)
    assert read.volume == pytest.approx(sum(mesh.volume for mesh in meshes), rel=1e-3)
    np.testing.assert_allclose(read.bounds, [[-16, -6, -6], [16, 6, 6]], atol=0.3)
    if ending == "ply":
        left = read.vertices[:, 0] < 0
        assert (read.visual.vertex_colors[left][:, :3] == [255, 0, 0]).all()
    with pytest.raises(FdifError, match=r"two.vtk: a mesh's name ends in \.stl, \.ply, \.obj"):
        write_mesh(tmp_path / "two.vtk", meshes)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
