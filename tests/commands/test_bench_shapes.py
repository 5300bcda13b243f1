"""The benchmark of shapes: they are those that another library makes, and what is measured is written down."""

import json

import numpy as np
import pytest

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import shapes

AT = np.float32([(0, 0, 0), (12.5, -7, 3), (20, 4, -16), (-9, 15, 11), (2, -21, 8), (-25, -3, -19)])
# Distances there of fogleman/sdf, by `shapes.theirs`.
DISTANCES = {
    "drilled": [8.0, 0.3842, 2.0, -3.0, 3.0, 7.5436],
    "frame": [12.5, 9.5, 0.5, 0.6716, 1.5, 4.2703],
    "blend": [5.0, -4.426, 9.5351, 5.664, 7.4915, 16.5436],
    "wheel": [5.0, -0.064, 12.4009, 4.975, 1.4448, 15.0366],
    "screw": [10.0, 4.4057, 8.2128, 6.513, 9.6177, 12.4777],
}


def test_the_shapes_are_those_of_the_other_library():
    made = shapes.ours()
    assert made.keys() == DISTANCES.keys()
    for name, shape in made.items():
        np.testing.assert_allclose(shape(AT), DISTANCES[name], atol=1e-4, err_msg=name)


def test_shapes_are_measured_and_written_down(tmp_path, capsys):
    path = tmp_path / "shapes.json"
    cli.run("bench", ["shapes", "--resolution", "24", "--runs", "1", "--json", str(path)])
    said, rows = capsys.readouterr().out, json.loads(path.read_text())
    assert [row["shape"] for row in rows] == list(DISTANCES)
    for row in rows:
        assert row["voxels"] > 0 and row["mesh"] > 0 and row["watertight"] and row["triangles"] > 1000
        assert row["shape"] in said


def test_a_folder_that_is_no_checkout_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.run("bench", ["shapes", "--sdf", str(tmp_path)])
    assert stopped.value.code == 2 and "is no checkout of fogleman/sdf" in capsys.readouterr().err
