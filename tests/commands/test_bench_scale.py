"""`fdif bench scale`: what is sent is counted right, and costs follow from what is given."""

import json

import jax
import jax.numpy as jnp
import pytest

from fdif_jax.scripts import cli
from fdif_jax.scripts.benchmarks import scale
from fdif_jax.scripts.benchmarks.communication import Exchange, exchanges, sent, sent_for_gradient
from fdif_jax.scripts.benchmarks.cost import generating, pretraining

TINY = [
    *("scale", "--grid", "8", "8", "8", "--primitives", "sphere", "--sdf-mappers", "inverse_cube"),
    *("--displacement-functions", "none", "--min-objects", "1", "--max-objects", "2"),
    *("--network", "resenc_unet", "--size", "features=[4,96]", "blocks=1", "--batch-size", "2"),
]
# As XLA writes a step for a CPU, shortened.
TEXT = """
  %all-reduce.5 = (f32[2]{0}, f32[3,3,64,96]{3,2,1,0}, /*index=2*/bf16[32]{0}, f32[]) all-reduce(%a, %b), channel_id=1
  %all-gather = f32[64,256]{1,0} all-gather(%bitcast.338), channel_id=4, replica_groups=[1,2]<=[2], dimensions={0}
  ROOT %all-gather.1 = pred[10]{0} all-gather(%d), channel_id=5, dimensions={0}
  %reduce-scatter = f32[8,4]{1,0} reduce-scatter(%e), channel_id=6
  %fusion.3 = f32[7]{0} fusion(%all-gather), kind=kLoop, calls=%all-reduce_like
"""


def test_what_is_sent_is_counted_by_kind():
    found = exchanges(TEXT)
    assert found == {
        "all-reduce": Exchange(1, 4 * (2 + 3 * 3 * 64 * 96 + 1) + 2 * 32),
        "all-gather": Exchange(2, 4 * 64 * 256 + 10),
        "reduce-scatter": Exchange(1, 4 * 8 * 4),
    }
    # A ring of 4: every device passes on three quarters of what is reduced, and again of what is gathered.
    each = {
        "all-reduce": Exchange(1, 400),
        "all-gather": Exchange(2, 400),
        "reduce-scatter": Exchange(1, 100),
    }
    assert [sent({kind: exchange}, 4) for kind, exchange in each.items()] == [600, 300, 300]
    assert sent(found, 1) == sent_for_gradient(1e9, 1) == 0
    assert sent_for_gradient(400, 4) == 600


def test_a_sum_over_devices_is_found_in_what_xla_writes():
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"),
        mesh=mesh,
        in_specs=jax.sharding.PartitionSpec("data"),
        out_specs=jax.sharding.PartitionSpec(),
    )
    text = jax.jit(total).lower(jnp.zeros((1, 3, 5))).as_text("hlo")
    assert exchanges(text) == {"all-reduce": Exchange(1, 60)}


def test_costs_follow_from_what_is_given():
    kept = generating(
        1_000_000,
        core_seconds=0.18,
        volume_bytes=2e6,
        months=3,
        price_core_hour=0.1,
        price_gb_month=0.01,
    )
    assert kept == pytest.approx((50, 2e12, 5, 60))  # hours; 2 TB; 50 × 0.1; 2000 GB × 3 × 0.01
    given = {
        "step_seconds": 0.02,
        "step_volumes": 2,
        "parameters": 1e8,
        "start_seconds": 90,
        "volume_bytes": 1e6,
        "link": 35.0,
        "price_gpu_hour": 4,
    }
    alone, eight = (pretraining(360_000, n, **given) for n in (1, 8))
    assert alone == pytest.approx((1, 0, 0, 0.02, 100, 1, 3690 / 3600, 90 / 3690, 4.1, 1e8))
    # 2 · 7/8 · 400 MB at 35 GB/s are 20 ms: as long as the step.
    assert eight == pytest.approx((8, 7e8, 0.02, 0.04, 400, 0.5, 990 / 3600, 90 / 990, 8.8, 4e8))


def test_what_cannot_be_measured_is_refused(capsys):
    for further, words in (
        (["--gpus", "0"], "--gpus must be numbers of at least 1"),
        (["--virtual", "1", "-2"], "--virtual must be numbers of at least 1"),
        (["--volumes", "0"], "--volumes must be at least 1"),
        (["--runs", "0"], "--runs must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.run("bench", [*TINY, *further])
        assert stop.value.code == 2 and words in capsys.readouterr().err


def test_what_is_given_is_not_measured(monkeypatch, capsys, tmp_path):
    row = {
        **{
            "devices": 1,
            "processes": 1,
            "shard_weights": False,
            "seconds": 0.5,
            "fastest": 0.4,
            "slowest": 0.6,
        },
        **{"compile_seconds": 3.0, "exchanges": {}, "sent": 0.0, "formula": 0.0},
    }
    conditions = {
        **{"name": "recipe fdif", "grid": [8] * 3, "training": {"batch_size": 2}, "load": 0.0, "cores": 2},
        **{"network": {"name": "resenc_unet", "dtype": "float32"}, "parameters": 1e6},
    }
    monkeypatch.setattr(scale, "_measured", lambda config: [row | {"conditions": conditions}])
    path = tmp_path / "scale.json"
    given = ["--core-seconds", "0.2", "--volume-bytes", "1e6", "--volumes", "1000", "--step-seconds", "0.25"]
    cli.run("bench", [*TINY, *given, "--gpus", "1", "4", "--json", str(path)])
    figures = json.loads(path.read_text())
    assert figures["given"] == {
        **{"step_seconds": 0.25, "step_volumes": 2, "parameters": 1e6, "start_seconds": 3.0},
        **{"core_seconds": 0.2, "volume_bytes": 1e6},
    }
    assert figures["pretraining"][1]["sent"] == 2 * 3 / 4 * 4e6
    said = capsys.readouterr().out
    assert "1,000 volumes of 0.2 core-seconds and 1.0 MB: 0.1 core-hours, 1.0 GB" in said
    assert "ms for 2 a GPU, 1 M parameters, 25 GB/s a GPU" in said


@pytest.mark.slow("five processes that compile a training each")
def test_a_real_step_sends_its_gradient_however_it_is_divided(tmp_path, capfd):
    path = tmp_path / "scale.json"
    given = ["--core-seconds", "0.2", "--volume-bytes", "1e6", "--runs", "1", "--virtual", "1", "2"]
    cli.run("bench", [*TINY, *given, "--json", str(path)])
    figures = json.loads(path.read_text())
    alone, two, divided, processes = figures["steps"]
    assert alone["exchanges"] == {} and alone["formula"] == 0
    weights = 4 * figures["parameters"]
    for row in (two, processes):
        assert row["devices"] == 2 and set(row["exchanges"]) == {"all-reduce"}
        assert row["formula"] == weights
        assert row["sent"] == pytest.approx(weights, rel=0.01)
    assert (two["processes"], processes["processes"]) == (1, 2)
    assert divided["shard_weights"] and divided["exchanges"]["all-gather"]["bytes"] > weights / 2
    assert divided["sent"] > 1.2 * weights
