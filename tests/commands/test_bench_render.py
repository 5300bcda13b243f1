"""`fdif bench render`: its figures are there, add up and are about what was asked for."""

import json

import pytest

from fdif_jax.scripts import cli

SMALL = ["render", "--edges", "16", "--objects", "3", "--runs", "2", "--samples", "2"]


def bench(tmp_path, *options):
    cli.run("bench", [*SMALL, *options, "--json", str(tmp_path / "bench.json")])
    (row,) = json.loads((tmp_path / "bench.json").read_text())
    assert row["fastest"] <= row["seconds"] <= row["slowest"] and row["peak_gb"] > 0
    return row


@pytest.mark.slow("a program for every stage")
def test_stages_have_times_counts_and_floors(tmp_path, capsys):
    recipe = tmp_path / "few.toml"
    recipe.write_text('primitives = ["sphere", "torus"]\ndisplacements = ["ridge"]\n')
    row = bench(tmp_path, "--stages", "--recipe", str(recipe))
    assert row["grid"] == [16] * 3 and row["objects"] == 3
    stages = {stage["name"]: stage for stage in row["stages"]}
    assert list(stages) == [
        "draw objects", "cull tiles", "shapes", "displacements", "mappers", "composite", "paint labels",
    ]  # fmt: skip
    assert all(stage["seconds"] >= 0 for stage in stages.values())
    # Three objects on a grid of one tile: at most three visits, of which each shape takes tens of operations a voxel.
    assert 10 < stages["shapes"]["flops"] / 16**3 < 3 * 1000
    assert stages["composite"]["flops"] <= 5 * 3 * 16**3
    assert stages["shapes"]["floor"] >= stages["shapes"]["flops"] / row["rates"]["flops"]
    assert "floor/time" in capsys.readouterr().out


@pytest.mark.slow("a kernel that is interpreted")
def test_batches_and_the_kernel_are_measured(tmp_path):
    row = bench(tmp_path, "--batch", "2", "--recipe", "avs_db", "--kernel", "interpret")
    assert row["batch"] == 2 and row["kernel"] == "interpret" and row["workers"] == 1


@pytest.mark.slow("a program more; recipes are measured beside it")
def test_a_file_of_shapes_is_measured(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import fdif_jax as fd\nfrom fdif_jax import shapes\n\n\n"
        "@fd.family\ndef ball(key, grid):\n    return shapes.sphere(0.2 * min(grid))\n"
    )
    options = ["--catalogue", str(mine), "--categories", "mine"]
    assert bench(tmp_path, *options)["compile_seconds"] > 0
    mine.write_text("def ball(:\n")
    with pytest.raises(SystemExit):
        bench(tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kernel", "on"], "give --batch"),
        (["--batch", "-1"], "--batch must be 0 or more"),
        (["--stages", "--batch", "2"], "--stages measures single samples"),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--recipe", "fdif + fdif_exact"], "parts of a mixture"),
        (["--runs", "0"], "--runs must be at least 1"),
    ],
)
def test_impossible_options_are_one_clear_line(options, says, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run("bench", [*SMALL, *options])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and says in message and message.count("\n") == 1
