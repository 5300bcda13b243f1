"""`fdif bench objectives`: every objective beside classes alone, in turns, with its memory."""

import json

import pytest

from fdif_jax.scripts import bench, cli
from fdif_jax.scripts.benchmarks import objectives

TINY = [
    "objectives", "--grid", "8", "8", "8", "--primitives", "sphere", "--sdf-mappers", "inverse_cube",
    "--displacement-functions", "none", "--size", "features=[2,4]", "blocks=1", "--max-objects", "3",
]  # fmt: skip


@pytest.mark.slow("a training for every objective")
def test_times_and_memory_are_ratios_to_classes_alone(tmp_path, capsys):
    path = tmp_path / "objectives.json"
    cli.run(
        "bench", [*TINY, "--runs", "2", "--objectives", "class + distance", "--anyway", "--json", str(path)]
    )
    figures = json.loads(path.read_text())
    rows = figures["objectives"]
    assert list(rows) == ["class", "class + distance"] and rows["class"]["ratio"] == 1
    for row in rows.values():
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["ratio"] == row["seconds"] / rows["class"]["seconds"]
        assert row["memory_ratio"] == row["memory"] / rows["class"]["memory"]
    # Weights and two moments of a head of two features and two distances, in float32, at least.
    assert rows["class + distance"]["memory"] - rows["class"]["memory"] >= 3 * 4 * (2 * 2 + 2)
    assert figures["grid"] == [8, 8, 8] and figures["runs"] == 2
    printed = capsys.readouterr().out
    assert "fdif bench objectives" in printed and "class + distance" in printed


def test_without_a_preset_it_is_quick():
    config = bench.defaults(["objectives", "--runs", "2"])
    assert isinstance(config, objectives.Config)
    assert (config.grid, config.batch_size, config.network) == ((40, 40, 40), 2, "resenc_unet")
    assert bench.defaults(["objectives", "--preset", "gpu-resenc"]).grid == (64, 64, 64)
    assert bench.defaults(["render"]) is None and bench.defaults([]) is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--objectives", "distanc"], "did you mean 'distance'"),
        (["--objectives", "0*distance"], "'0' is no weight"),
        (["--contrast", "voxels=0"], "contrast: voxels must be at least 1"),
        (["--runs", "0"], "--runs must be at least 1"),
    ],
)
def test_impossible_options_are_one_clear_line(options, says, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run("bench", [*TINY, *options])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and says in message and message.count("\n") == 1
