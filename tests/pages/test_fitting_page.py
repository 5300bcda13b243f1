"""docs/fitting.md runs as it is printed, with fewer starts, and its table is about the families that there are."""

import json
import re
import shutil

import pytest

from fdif_jax.shapes.user_files import vocabulary_of
from tests.helpers.pages import run_here
from tests.helpers.paths import DOCS, HIPPOCAMPUS

ORGANS = DOCS / "examples" / "organs.py"
HIPPOCAMPI = HIPPOCAMPUS / "labelsTr"
SCENES = "--min-objects 1 --max-objects 2 --sdf-mappers inverse_cube --displacement-functions ridge"
PARAMETERS = {"kidney": 18, "spleen": 13, "liver": 23, "vertebra": 22, "hippocampus": 15}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the page is read: its masks and its file of families."""
    for path in (ORGANS, *HIPPOCAMPI.glob("hippocampus_00[136].nii.gz")):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow("many fits")
def test_the_page_runs(folder, capsys):
    few = "--starts 6"
    small = {
        "--out hippocampus\n": f"--out hippocampus {few}\n",
        "--name learned": f"--name learned {few}",
        " hippocampus_006.nii.gz": "",
        "3 masks": "2 masks",
        "--num-samples 4 --grid 48 48 48": f"--num-samples 1 --grid 24 24 24 {SCENES}",
    }
    run_here("fitting.md", small, capsys)
    fit = json.loads((folder / "hippocampus" / "parameters.json").read_text())
    assert fit["dice"] > 0.85 and len(fit["parameters"]) == PARAMETERS["hippocampus"]
    assert len(list((folder / "hippocampus" / "rendered").rglob("*.nii.gz"))) == 2
    text = (folder / "learned.py").read_text()
    assert "class Turned" in text and "class Rod" not in text
    assert len(list((folder / "data" / "learned").rglob("*_y.nii.gz"))) == 1


def test_the_table_counts_parameters_right():
    page = (DOCS / "fitting.md").read_text()
    told = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \+ 7 \|", page, re.MULTILINE))
    assert {name: int(count) for name, count in told.items()} == PARAMETERS
    assert {family.name for family in vocabulary_of(ORGANS).families} == set(PARAMETERS)
