"""`fdif bench rivals`: what others have published is run from a checkout; a line per rival says how long it takes."""

import json
import statistics
import sys

import pytest
import yaml

from fdif_jax.errors import FdifError
from fdif_jax.scenes.recipe import load_recipe
from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import generators, published

# Generators that note what they are asked for, and write files by name only.
FDIF = """
import argparse, json, os, pathlib, time
from fdslxsdf4seg import here
p = argparse.ArgumentParser()
for name in "D H W num_samples min_objects max_objects num_classes".split():
    p.add_argument("--" + name, type=int)
for name in ("sdf_mappers", "displacement_functions"):
    p.add_argument("--" + name, nargs="*")
for name in ("mapper_as_augmentation", "displacement_as_augmentation"):
    p.add_argument("--" + name, action="store_true")
p.add_argument("--out_dir", type=pathlib.Path)
asked = p.parse_args()
with open(here, "a") as notes:
    notes.write(json.dumps({**vars(asked), "out_dir": ""}) + "\\n")
for i in range(asked.num_samples):
    time.sleep(0.02)
    for what in ("image", "label"):
        (asked.out_dir / f"{what}{i}.nii.gz").touch()
"""
PRIMGEOSEG = """
import argparse, json, pathlib, yaml
p = argparse.ArgumentParser()
for name in ("worker_id", "yaml_path", "base_save_dir"):
    p.add_argument("--" + name)
asked = p.parse_args()
settings = yaml.safe_load(open(asked.yaml_path))
with open("notes.jsonl", "a") as notes:
    notes.write(json.dumps(settings) + "\\n")
for i in range(settings["data_num"]):
    for what in ("img", "label"):
        pathlib.Path(asked.base_save_dir, f"{what}{i}.nii.gz").touch()
"""


@pytest.fixture
def fdif(tmp_path):
    package = tmp_path / "FDIF" / "src" / "fdslxsdf4seg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"here = {str(tmp_path / 'notes.jsonl')!r}")
    (package / "generate_sdf_dataset.py").write_text(FDIF)
    return tmp_path / "FDIF"


@pytest.fixture
def primgeoseg(tmp_path):
    folder = tmp_path / "PrimGeoSeg" / "data_generation"
    (folder / "config").mkdir(parents=True)
    (folder / "mk_data.py").write_text(PRIMGEOSEG)
    (folder / "config" / "config001.yaml").write_text("data_num: 5000\nspace: 96\nocclusion_r: 0.7\n")
    return tmp_path / "PrimGeoSeg"


def notes(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_checkout_is_run_in_turns_with_ours_and_a_line_says_how_long(fdif, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generators, "ours", lambda generator, edge, samples: lambda turn: 0.001)
    path = tmp_path / "rivals.json"
    options = ["--fdif", str(fdif), "--edge", "16", "--their-samples", "3", "--anyway", "--json", str(path)]
    cli.run("bench", ["rivals", *options])
    document = json.loads(path.read_text())
    (row,) = document["rivals"]
    assert (row["rival"], row["what"], document["runs"]) == ("yamanoko/FDIF", "a sample of 16³, written", 5)
    # Beyond starting Python, whose noise is divided by three.
    assert row["theirs"]["slowest"] > 0.015 and row["ours"]["seconds"] == 0.001
    assert row["times"] == pytest.approx(row["theirs"]["seconds"] / 0.001)
    assert row["least"] <= row["times"] <= row["most"]
    assert capsys.readouterr().out.startswith("yamanoko/FDIF, a sample of 16³, written: ours 0.001 s")
    asked = notes(tmp_path / "notes.jsonl")
    assert [note["num_samples"] for note in asked] == [0, 3] * 6  # one turn does not count
    recipe = load_recipe("fdif")
    assert (asked[1]["D"], asked[1]["H"], asked[1]["W"]) == (16, 16, 16)
    assert (asked[1]["min_objects"], asked[1]["max_objects"], asked[1]["num_classes"]) == (20, 20, 109)
    assert asked[1]["sdf_mappers"] == list(recipe.mappers) and len(recipe.mappers) == 10
    assert asked[1]["displacement_functions"] == list(recipe.displacements) and len(recipe.displacements) == 9
    assert asked[1]["mapper_as_augmentation"] and asked[1]["displacement_as_augmentation"]


def test_primgeoseg_has_its_own_settings_and_a_sample_for_every_process(primgeoseg, monkeypatch):
    monkeypatch.setattr(generators.os, "cpu_count", lambda: 4)
    turn = generators.theirs(generators.PRIMGEOSEG, primgeoseg, sys.executable, 32, 2)
    assert turn(0) >= 0
    asked = notes(primgeoseg / "data_generation" / "notes.jsonl")
    settings = {"space": 32, "occlusion_r": 0.7}
    assert asked == [settings | {"data_num": 0}, settings | {"data_num": 8}]
    kept = yaml.safe_load((primgeoseg / "data_generation" / "config" / "config001.yaml").read_text())
    assert kept["data_num"] == 5000


def test_seconds_of_both_make_a_line():
    row = published.row_of("theirs", "a thing", [0.1, 0.2, 0.4], [1.0, 4.0, 6.0])
    assert row["ours"] == {"seconds": 0.2, "fastest": 0.1, "slowest": 0.4}
    assert (row["times"], row["least"], row["most"]) == pytest.approx((20.0, 10.0, 20.0))
    row["busy"] = False
    assert (
        published._line(row)
        == "[bold]theirs[/], a thing: ours 0.2 s (0.1-0.4), theirs 4 s (1-6): [bold]20 times[/] "
        "(10-20)"
    )
    assert published._line(row | {"busy": True}).endswith("on a busy machine")
    assert published._line(row | {"times": None}).endswith("no ratio, as the machine is busy")


def test_distances_and_meshes_of_the_shapes_are_summed_run_by_run(monkeypatch):
    kinds = ("voxels", "their voxels", "mesh", "their mesh")
    seconds = {kind: [float(10**i + run) for run in range(5)] for i, kind in enumerate(kinds)}
    monkeypatch.setattr(published.shapes, "measure", lambda shape, peer, resolution, runs: ({}, seconds))
    monkeypatch.setattr(published.shapes, "theirs", lambda library: dict.fromkeys(published.shapes.ours()))
    rows = list(published._shapes(None, 5))
    assert [row["what"] for row in rows] == ["distances of five shapes, 128³", "meshes of five shapes, 128³"]
    for row, kind in zip(rows, ("voxels", "mesh"), strict=True):
        ours, theirs = (5 * statistics.median(seconds[name]) for name in (kind, f"their {kind}"))
        assert (row["ours"]["seconds"], row["theirs"]["seconds"], row["times"]) == (
            ours,
            theirs,
            theirs / ours,
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to measure; give --fdif"),
        (
            ["--fdif", "."],
            "is no checkout of yamanoko/FDIF, which has src/fdslxsdf4seg/generate_sdf_dataset.py",
        ),
        (["--primgeoseg", "."], "is no checkout of SUPER-TADORY/PrimGeoSeg"),
        (["--sdf", "."], "is no checkout of fogleman/sdf"),
        (["--torch", "--runs", "4"], "--runs must be at least 5"),
    ],
)
def test_impossible_options_are_one_clear_line(options, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run("bench", ["rivals", *options])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and says in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "import sys\nsys.exit('no module named plotly')",
            "ends with 1: no module named plotly; install what",
        ),
        ("", "it wrote 0 volumes instead of 2"),
    ],
)
def test_a_generator_that_fails_is_one_clear_line(script, says, fdif):
    (fdif / generators.FDIF.script).write_text(script)
    with pytest.raises(FdifError, match=says):
        generators.theirs(generators.FDIF, fdif, sys.executable, 16, 1)(0)
    with pytest.raises(FdifError, match="--python none: cannot be run"):
        generators.theirs(generators.FDIF, fdif, "none", 16, 1)(0)


@pytest.mark.slow("the renderer's program, and a network beside its original")
def test_ours_writes_samples_and_networks_are_lines_too():
    assert generators.ours(generators.FDIF, 16, 2)(0) > 0
    pytest.importorskip("dynamic_network_architectures")
    spec = {"name": "resenc_unet", "in_channels": 1, "out_channels": 2, "features": [4, 6], "blocks": 1}
    case = published.networks.Case(spec | {"dtype": "float32"}, "cpu", (8, 8, 8), 1, 5)
    rows = list(published._network(case))
    assert [row["what"].rpartition(", ")[2] for row in rows] == ["forward", "forward and backward"]
    assert all(row["times"] > 0 and row["rival"] == "PyTorch" for row in rows)
    assert published._step(1)["times"] > 0
