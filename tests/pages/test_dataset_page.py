"""docs/datasets.md: its commands run, at small sizes, and say what the page shows."""

import pytest

from tests.helpers import nnunet_client
from tests.helpers.pages import run_page

SHAPES = "--primitives sphere torus --displacement-functions ridge"
PLAIN = ("monai", "nnUNet_raw", "instances", "scratch", "shapes")  # what a mapper more would only make slower


@pytest.mark.slow("a page of many commands, each with programs of its own")
def test_the_page_on_datasets(tmp_path):
    pytest.importorskip("monai")
    small = {
        "--grid 64 64 64": f"--grid 16 16 16 {SHAPES}",
        **{
            f"fdif generate --out {out} ": f"fdif generate --out {out} --sdf-mappers inverse_cube "
            for out in PLAIN
        },
        "--out tasks ": "--out tasks --sdf-mappers inverse_cube modular_5 ",
        "--samples-per-class 25": "--samples-per-class 5",
        "--num-samples 200": "--num-samples 2 --min-objects 1 --max-objects 2",
        "--num-val-samples 20": "--num-val-samples 1",
    }
    run_page("datasets.md", tmp_path, nnunet_client.environment(tmp_path), small)
    assert (tmp_path / "nnUNet_raw/Dataset902_Shapes_Val/dataset.json").is_file()
    assert (tmp_path / "tasks/data/label/batch_0000/sample_00001_y_mapper.nii.gz").is_file()
