"""`fdif experiment`: its statistics against SciPy, what it runs and when, what it refuses, and what it writes."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fdif_jax.evaluation.statistics import Result, compare, paired_interval, summarise
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs import side_by_side
from fdif_jax.scripts.jobs.study import Cell, cell_folder
from tests.helpers.paths import HIPPOCAMPUS

DATA = HIPPOCAMPUS / "dataset.json"  # 8 training and 4 validation cases

# ---------------------------------------------------------------------------------------------- the statistics


def differences(seeds, cases, seed=0):
    return np.random.default_rng(seed).normal(0.02, 0.05, (seeds, cases))


@given(st.floats(-1, 1), st.integers(1, 5), st.integers(1, 9))
def test_the_interval_of_a_constant_difference_is_that_constant(value, seeds, cases):
    np.testing.assert_allclose(
        paired_interval(np.full((seeds, cases), value), resamples=50), value, atol=1e-12
    )


@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 99))
def test_the_interval_of_swapped_sides_is_the_same_negated(seeds, cases, seed):
    values = differences(seeds, cases, seed)
    low, high = paired_interval(values, resamples=200)
    np.testing.assert_allclose(paired_interval(-values, resamples=200), (-high, -low), atol=1e-12)


def test_of_one_seed_it_is_the_percentile_bootstrap_of_scipy():
    values = differences(1, 40)
    expected = scipy.stats.bootstrap(
        (values[0],), np.mean, n_resamples=10_000, method="percentile", random_state=0
    ).confidence_interval
    np.testing.assert_allclose(paired_interval(values), expected, atol=1e-3)
    np.testing.assert_allclose(paired_interval(values.T), expected, atol=1e-3)  # of one case


def test_it_is_the_mean_of_drawn_rows_and_columns():
    """Against the plain form: draw rows, draw columns, take the mean of the sub-matrix."""
    values = differences(3, 12) + np.array([[-0.1], [0.0], [0.1]])
    rng = np.random.default_rng(1)
    drawn = [values[rng.integers(0, 3, 3)][:, rng.integers(0, 12, 12)].mean() for _ in range(20_000)]
    np.testing.assert_allclose(paired_interval(values), np.quantile(drawn, [0.025, 0.975]), atol=4e-3)


def test_seeds_that_differ_widen_it_and_what_is_undefined_is_left_out():
    values = np.tile(differences(1, 40), (3, 1)) + np.array([[-0.1], [0.0], [0.1]])
    low, high = paired_interval(values)
    alone = paired_interval(values.mean(0, keepdims=True))
    assert low < alone[0] - 0.02 and high > alone[1] + 0.02
    holes = np.concatenate([values, np.full((3, 3), np.nan)], axis=1)
    assert np.isfinite(paired_interval(holes)).all()
    assert np.isnan(paired_interval(np.full((2, 3), np.nan))).all()
    np.testing.assert_allclose(paired_interval(np.array([[0.3, np.nan]])), 0.3)


def results(init, table, cases=4, first_seed=0):
    names = [f"case{i}" for i in range(np.shape(table)[1])]
    return [
        Result(init, cases, seed, dict(zip(names, map(float, row), strict=True)))
        for seed, row in enumerate(np.asarray(table), first_seed)
    ]


def test_summaries_have_means_over_seeds_and_differences_of_common_seeds_case_by_case():
    base, other = np.array([[0.2, 0.4], [0.4, 0.8]]), np.array([[0.3, 0.5], [0.6, 0.8], [0.1, 0.9]])
    group = [*results("scratch", base), *results("fdif", other), *results("scratch", base, cases=2)]
    few, scratch, fdif = summarise(group, "scratch")
    assert (few.init, few.cases, few.difference) == ("scratch", 2, None)
    assert scratch.difference is None and scratch.dice == pytest.approx({0: 0.3, 1: 0.6})
    assert scratch.mean == pytest.approx(0.45) and scratch.deviation == pytest.approx(
        np.std([0.3, 0.6], ddof=1)
    )
    assert fdif.mean == pytest.approx(np.mean([0.4, 0.7, 0.5]))
    assert fdif.difference.mean == pytest.approx(0.1) and fdif.difference.seeds == 2
    assert fdif.difference.over_cases == paired_interval((other[:2] - base).mean(0, keepdims=True))
    assert compare(results("a", base), results("b", base, first_seed=2)) is None
    (one,) = summarise(results("scratch", base[:1]), "scratch")
    assert np.isnan(one.deviation)


def test_how_soon_a_curve_is_where_the_baseline_ends_and_which_seeds_are_stuck():
    def run(init, seed, curve, posterior=0.8):
        steps = tuple(zip((100, 200, 300, 400), curve, strict=True))
        return Result(init, 4, seed, {"case": curve[-1]}, steps, {"anterior": 0.8, "posterior": posterior})

    group = [
        run("scratch", 0, (0.1, 0.5, 0.6, 0.7)),
        run("scratch", 1, (0.1, 0.2, 0.3, 0.4), posterior=0.09),
        run("fdif", 0, (0.6, 0.7, 0.72, 0.71)),  # there after half of the steps
        run("fdif", 1, (0.1, 0.2, 0.3, 0.39)),  # never
        run("fdif", 2, (0.9, 0.9, 0.9, 0.9)),  # of a seed that the baseline lacks
    ]
    scratch, fdif = summarise(group, "scratch")
    assert not scratch.reached and scratch.stuck == 1
    assert fdif.reached == {0: 0.5, 1: np.inf} and fdif.stuck == 0


# -------------------------------------------------------------------------------------------------- the study


def experiment(*arguments, dataset=DATA):
    cli.run("experiment", [*([str(dataset)] if dataset else []), "--out", "study", *map(str, arguments)])


def refused(capsys, *arguments, **more):
    with pytest.raises(SystemExit) as left:
        experiment(*arguments, **more)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code == 2 and "Traceback" not in error
    return error


@pytest.fixture
def weights(tmp_path):
    """A file that passes for weights."""
    (tmp_path / "w.pth").write_bytes(b"")
    return "mine=w.pth"


def folder_of(*cell):
    return cell_folder(Path("study"), Cell(*cell))


def cells(calls):
    return [(c["init"], int(c["cases"]), int(c["seed"])) for c in calls if c["command"] == "finetune"]


def test_small_numbers_come_first_and_every_seed_has_all_initialisations(calls, weights, capsys):
    options = ["--steps", 20, "--lrs", "2e-3", "--warmups", 0.25, "--finetune=--size tiny --patch 16 16 16"]
    experiment("--inits", "scratch", weights, "--cases", 4, 2, 0, "--seeds", 2, *options, "--val-cases", 3)
    order = itertools.product((2, 4, 8), (0, 1), ("scratch", "w.pth"))
    assert cells(calls()) == [(init, n, seed) for n, seed, init in order]
    for call in calls():
        assert call["steps"] == "20" and call["lr"] == "0.002" and call["warmup"] == "5"
        assert call["val-every"] == "2" and call["val-cases"] == "3" and "val-from" not in call
        assert call["size"] == "tiny" and call["patch"] == "16 16 16"
    told = capsys.readouterr()
    assert "mine, 8 cases, seed 1: Dice 0.6950" in told.err and "12 of 12 runs" in told.err
    assert "0.535 ± 0.014" in told.out and "+9.0 [+9.0, +9.0]" in told.out and "dice.png" in told.out


def test_tables_and_plots_have_what_the_runs_came_to(calls, weights):
    experiment("--inits", "scratch", weights, "--cases", 2, 4, "--seeds", 2, "--steps", 4)
    rows = list(csv.DictReader(Path("study/results.csv").read_text().splitlines()))
    assert len(rows) == 2 * 2 * 2 * 4
    row = next(
        r for r in rows if (r["init"], r["cases"], r["seed"], r["case"]) == ("mine", "4", "1", "case3")
    )
    scores = json.loads((folder_of("mine", 4, 1) / "metrics.json").read_text())
    assert float(row["dice"]) == pytest.approx(scores["cases"]["case3"], abs=1e-6)
    document = json.loads(Path("study/results.json").read_text())
    found = {(entry["init"], entry["cases"]): entry for entry in document["results"]}
    assert document["baseline"] == "scratch" and found["scratch", 2]["difference"] is None
    entry = found["mine", 4]
    ours = [float(r["dice"]) for r in rows if (r["init"], r["cases"]) == ("mine", "4")]
    theirs = [float(r["dice"]) for r in rows if (r["init"], r["cases"]) == ("scratch", "4")]
    assert entry["mean"] == pytest.approx(np.mean(ours), abs=1e-6)
    assert entry["difference"]["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-6)
    assert entry["difference"]["interval"] == pytest.approx([entry["difference"]["mean"]] * 2)
    text = Path("study/table.md").read_text()
    assert "| cases | scratch | mine |" in text
    points = f"{100 * entry['difference']['mean']:+.1f}"
    assert f"{entry['mean']:.3f} ± {entry['deviation']:.3f}<br>{points} [{points}, {points}]" in text
    # Curves are straight lines of three validations; ours is where the baseline ends at the last of them only.
    assert entry["reached"] == {"0": 1.0, "1": 1.0} and "| 4 | - | 100 % |" in text
    for name in ("dice.png", "curves.png"):
        pixels = matplotlib.image.imread(f"study/{name}")[..., :3]
        assert pixels.shape[1] >= 1000
        for colour in ((0x55, 0x55, 0x55), (0x00, 0x72, 0xB2)):  # the two initialisations, in both plots
            assert (np.abs(pixels * 255 - colour).max(-1) < 1).sum() > 100


def test_every_initialisation_gets_the_pair_that_is_best_on_the_training_list(calls, weights, capsys):
    options = ["--lrs", "4e-3", "1e-3", "--warmups", 0.1, 0.5, "--tune-cases", 3, "--tune-val", 5]
    options += ["--tune-steps", 10, "--tune-seeds", 2, "--steps", 20, "--cases", 2, "--seeds", 1]
    experiment("--inits", "scratch", weights, *options)
    tuning = [call for call in calls() if call.get("val-from") == "training"]
    assert len(tuning) == 2 * 4 * 2
    assert all(
        (c["cases"], c["val-cases"], c["val-every"], c["steps"]) == ("3", "5", "0", "10") for c in tuning
    )
    assert {c["warmup"] for c in tuning} == {"1", "5"} and not {int(c["seed"]) for c in tuning} & {0}
    tuned = json.loads(Path("study/tuned.json").read_text())
    assert (tuned["scratch"]["lr"], tuned["mine"]["lr"]) == (1e-3, 4e-3)
    assert [(c["init"], c["lr"]) for c in calls()[-2:]] == [("scratch", "0.001"), ("w.pth", "0.004")]
    assert "0.004, 0.1" in capsys.readouterr().out and "*" in Path("study/table.md").read_text()
    before = len(calls())
    experiment("--inits", "scratch", weights, "other=w.pth", *options)
    assert {c["out"].split("/")[2] for c in calls()[before:]} == {"other"}


def test_a_pair_that_explodes_is_worse_than_any(calls, monkeypatch):
    best = "study/tune/scratch/lr0.001_warmup0.1/seed1000000"
    monkeypatch.setenv("FAKE_FAILS", best)
    options = [
        "--lrs",
        "1e-3",
        "2e-3",
        "3e-3",
        "--tune-val",
        5,
        "--tune-cases",
        3,
        "--cases",
        2,
        "--seeds",
        1,
    ]
    experiment("--inits", "scratch", *options)
    tuned = json.loads(Path("study/tuned.json").read_text())["scratch"]
    assert tuned["lr"] == 2e-3 and tuned["trials"][0]["dice"] == [None]
    assert "failed" in Path("study/table.md").read_text()


def test_recipes_are_pretrained_first_and_once(calls):
    options = ["--inits", "scratch", "fdif", "avs_db", "--cases", 2, "--seeds", 1, "--steps", 4]
    options += ["--pretrain=--steps 7 --size tiny"]
    experiment(*options)
    first, second, *rest = calls()
    assert [first["recipe"], second["recipe"]] == ["fdif", "avs_db"] and first["size"] == "tiny"
    assert [c["init"] for c in rest] == ["scratch", "study/pretrain/fdif", "study/pretrain/avs_db"]
    experiment(*options)
    assert len(calls()) == 5


def test_the_same_command_goes_on_and_a_study_may_grow(calls, weights):
    experiment("--inits", "scratch", "--cases", 4, "--seeds", 1, "--steps", 4)
    experiment("--inits", "scratch", "--cases", 4, "--seeds", 1, "--steps", 4)
    assert len(calls()) == 1
    experiment("--inits", "scratch", weights, "--cases", 2, 4, "--seeds", 2, "--steps", 4)
    assert len(calls()) == 8 and len(set(cells(calls()))) == 8


def test_another_study_in_the_same_folder_is_refused(calls, weights, capsys):
    usual = {"--inits": "scratch", "--cases": 2, "--seeds": 2, "--steps": 4}

    def with_(**changes):
        options = usual | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
        return [word for name, value in options.items() for word in (name, *str(value).split())]

    experiment(*with_())
    for changes, says in [
        ({"steps": 5}, "--steps is 4 there and 5 here"),
        ({"lrs": "2e-3"}, "--lrs is 0.001 there and 0.002 here"),
        ({"inits": weights}, "initialisation scratch is scratch there and not here"),
        ({"cases": "4"}, "--cases are 2 there and 4 here"),
        ({"seeds": "1"}, "--seeds is 2 there and 1 here"),
    ]:
        assert says in refused(capsys, *with_(**changes))
    assert "--finetune is nothing there and --size tiny here" in refused(
        capsys, *with_(), "--finetune=--size tiny"
    )
    assert len(calls()) == 2
    Path("other").mkdir()
    Path("other/file").touch()
    assert "not empty and holds no study" in refused(capsys, *with_(), "--out", "other")


def test_a_study_without_any_run_may_become_another(calls, monkeypatch, capsys):
    options = ["--inits", "scratch", "--cases", 2, "--seeds", 1, "--steps"]
    monkeypatch.setattr(
        side_by_side, "program", lambda job: [sys.executable, "-c", "import sys; sys.exit('no')"]
    )
    assert "failed: no" in refused(capsys, *options, 4)
    assert "failed: no" in refused(capsys, *options, 5)


def test_a_run_that_fails_is_named_and_the_others_are_kept(calls, weights, capsys, monkeypatch):
    bad = "study/runs/mine/n2/seed0"
    monkeypatch.setenv("FAKE_FAILS", bad)
    options = ["--inits", "scratch", weights, "--cases", 2, "--seeds", 2, "--steps", 4]
    error = refused(capsys, *options)
    assert f"mine, 2 cases, seed 0 failed: {bad}: the loss is nan (all it said: study/logs/" in error
    assert "runs failed" not in error and len(calls()) == 4
    assert "Unfinished: 1 of 4 runs" in Path("study/table.md").read_text()
    assert "1 of 2 seeds" in Path("study/table.md").read_text() and Path("study/dice.png").is_file()
    monkeypatch.delenv("FAKE_FAILS")
    experiment(*options)
    assert len(calls()) == 5 and "Unfinished" not in Path("study/table.md").read_text()


def test_where_the_first_run_fails_no_more_are_begun(calls, capsys, monkeypatch):
    monkeypatch.setenv("FAKE_FAILS", "study/runs/scratch/n2/seed0")
    assert "seed 0 failed" in refused(capsys, "--inits", "scratch", "--cases", 2, "--seeds", 3, "--steps", 4)
    assert len(calls()) == 1 and not Path("study/results.csv").exists()


def test_the_report_alone_is_made_of_what_is_there(calls, weights, capsys):
    assert "no study" in refused(capsys, "--report", dataset=None)
    experiment("--inits", "scratch", weights, "--cases", 2, "--seeds", 2, "--steps", 4)
    (folder_of("mine", 2, 1) / "metrics.json").unlink()
    for name in ("table.md", "dice.png", "results.csv"):
        (Path("study") / name).unlink()
    experiment("--report", dataset=None)
    assert "1 of 2 seeds" in Path("study/table.md").read_text() and Path("study/dice.png").is_file()
    assert len(calls()) == 4
    (folder_of("mine", 2, 0) / "metrics.json").write_text("{")
    assert "metrics.json is damaged" in refused(capsys, "--report", dataset=None)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_runs_side_by_side_divide_the_cores(calls, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "1")
    experiment("--inits", "scratch", "--cases", 2, "--seeds", 2, "--steps", 4, "--jobs", 2)
    first, second = calls()
    assert abs(first["time"] - second["time"]) < 1
    shares = {tuple(call["cores"]) for call in calls()}
    assert len(shares) == 2 and set.intersection(*map(set, shares)) == set()
    assert set().union(*shares) == os.sched_getaffinity(0)


def test_asked_to_stop_it_asks_its_runs_to_save_and_goes_on_later(calls, tmp_path, monkeypatch, capsys):
    saves = tmp_path / "saves.py"
    saves.write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n    pathlib.Path('saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\npathlib.Path('begun').touch()\ntime.sleep(60)\n"
    )
    whole = side_by_side.program
    monkeypatch.setattr(side_by_side, "program", lambda job: [sys.executable, str(saves)])
    options = ["--inits", "scratch", "--cases", 2, "--seeds", 2, "--steps", 4]
    # Whoever asks is another process, as soon as a run has begun.
    asks = (
        f"import os, time\nwhile not os.path.exists('begun'): time.sleep(0.02)\nos.kill({os.getpid()}, {{}})"
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asker = subprocess.Popen([sys.executable, "-c", asks.format(int(number))])
        with pytest.raises(SystemExit) as left:
            experiment(*options)
        asker.wait()
        assert left.value.code == 130 and "goes on from here" in capsys.readouterr().err
        Path("saved").unlink()
        Path("begun").unlink()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setattr(side_by_side, "program", whole)
    experiment(*options)
    assert len(calls()) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--inits", "scratch", "fdiff"], "unknown initialisation 'fdiff'; did you mean 'fdif'"),
        (["--inits", "mine=nowhere"], "nowhere is neither a run directory nor a file of weights"),
        (["--inits", "mine=empty"], "empty is not a run directory"),
        (["--inits", "mine=new"], "the run has no checkpoint yet"),
        (["--inits", "mine=none.toml"], "recipe file none.toml does not exist"),
        (["--inits", "a/b=w.pth"], "must be of letters, digits"),
        (["--inits", "scratch", "scratch"], "scratch is there twice"),
        (["--inits", "fdif", "fdif=w.pth"], "fdif is there twice"),
        (["--cases", "4", "9"], "--cases 9: .*lists 8 training cases"),
        (["--cases", "4", "4"], "--cases: 4 is there twice"),
        (["--cases", "0", "8"], r"--cases: 8 is there twice \(0 is all\)"),
        (["--cases", "-1"], "--cases must be 0"),
        (["--seeds", "0"], "--seeds must be 1 or more, not 0"),
        (["--jobs", "0"], "--jobs must be 1"),
        (["--val-every", "0"], "--val-every must be 1"),
        (["--val-cases", "5"], "lists 4 validation cases"),
        (["--lrs", "0"], "--lrs must be above 0"),
        (["--warmups", "1"], "--warmups are parts of the steps"),
        (["--lrs", "1e-3", "2e-3"], "--tune-cases 8 and --tune-val 20: together more than the 8"),
        (["--finetune=--lr 3"], "--finetune: --lr is what the study sets itself"),
        (["--finetune=--val_every=3"], "--val_every=?.* is what the study sets itself"),
        (["--pretrain=--out x"], "--pretrain: --out is what the study sets itself"),
        (["--finetune=--patience 3"], "--finetune: --patience is"),
        (["--finetune=--size 'a"], "No closing quotation"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_written(arguments, says, calls, weights, capsys):
    Path("empty").mkdir()
    Path("new").mkdir()
    Path("new/run.json").write_text('{"network": {}}')
    usual = {"--inits": ["scratch"], "--cases": ["2"]}
    given = {name: values for name, values in usual.items() if name not in arguments}
    error = refused(capsys, *arguments, *(word for name, values in given.items() for word in (name, *values)))
    assert pytest.raises(AssertionError, match=says).matches(AssertionError(error)), error
    assert not calls() and not Path("study").exists()


def test_options_that_a_command_does_not_know_are_refused_before_anything_is_written(calls, capsys):
    usual = ["--cases", 2, "--inits"]
    with pytest.raises(SystemExit) as left:
        experiment(*usual, "scratch", "--finetune=--pach 4 4 4")
    assert left.value.code == 2 and "--pach" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        experiment(*usual, "fdif", "--pretrain=--stepps 4")
    assert left.value.code == 2 and "--stepps" in capsys.readouterr().err
    assert "no such file" in refused(capsys, *usual, "scratch", dataset="nowhere.json")
    assert "give the dataset" in refused(capsys, *usual, "scratch", dataset=None)
    assert not Path("study").exists()


@pytest.mark.slow("five trainings in processes of their own; made-up ones are above")
def test_a_real_study(tmp_path, monkeypatch):
    """Two initialisations, one of them pre-trained by the study, at the least there is."""
    monkeypatch.chdir(tmp_path)
    small = "--size features=[4,8] --checkpoint-every 0"
    experiment(
        *[
            "--inits",
            "scratch",
            "fdif",
            "--cases",
            2,
            "--seeds",
            1,
            "--steps",
            2,
            "--val-cases",
            2,
            "--val-every",
            1,
        ],
        *[f"--finetune={small} --patch 16 16 16 --mirror-axes 0", "--jobs", 2],
        f"--pretrain={small} --steps 2 --grid 16 16 16 --num-classes 3 --min-objects 2 --max-objects 2 --val-samples 1",
    )
    document = json.loads(Path("study/results.json").read_text())
    assert [entry["init"] for entry in document["results"]] == ["scratch", "fdif"]
    loads = json.loads((folder_of("fdif", 2, 0) / "run.json").read_text())["init"]
    assert loads["from"] == "study/pretrain/fdif"
    assert {"dice.png", "curves.png", "results.csv", "table.md"} <= {p.name for p in Path("study").iterdir()}
