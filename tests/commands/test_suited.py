"""What `fdif finetune` chooses where nothing is said."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from fdif_jax.models import released
from fdif_jax.preprocessing.fingerprints import VOXEL_BUDGET
from fdif_jax.scripts.jobs import suited as choices
from fdif_jax.scripts.options.finetuning import FinetuningOptions
from fdif_jax.scripts.options.network import UNKNOWN_GRID, network_of
from tests.helpers.paths import ROOT

OPEN = FinetuningOptions(dataset=ROOT / "tests/data/hippocampus", out=ROOT / "nowhere")
RATE = released.card_of(released.USUAL).finetuning["lr"]


def test_without_a_word_it_begins_with_released_weights_their_rate_and_steps_by_cases(capsys):
    chosen = choices.suited(replace(OPEN, cases=7))
    assert (chosen.init, chosen.lr, chosen.steps) == (released.USUAL, RATE, 700)
    told = capsys.readouterr().out
    assert f"released weights {released.USUAL}" in told and "700 steps: 100 for each of 7" in told


def test_from_scratch_it_is_the_same_network_with_the_same_budget():
    chosen = choices.suited(replace(OPEN, init="scratch"))
    assert (chosen.init, chosen.network, chosen.size) == ("scratch", "resenc_unet", ("tiny",))
    assert (chosen.lr, chosen.steps) == (RATE, choices.suited(OPEN).steps)


def test_what_is_said_is_kept(capsys):
    said = replace(OPEN, init="runs/mine", lr=2e-3, steps=5, network="vnet", patience=0)
    assert choices.suited(said) == said
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "init", "told"),
    [
        ({"size": ("tiny",)}, released.USUAL, "of the network that is asked for"),
        ({"size": ("small",)}, "scratch", "nearest is resenc-5m"),
        ({"network": "vnet"}, "scratch", "nothing is released"),
        ({"network": "swin_unetr"}, "swin-organs", "whose size is not asked for"),
        ({"network": "swin_unetr", "size": ("tiny",)}, "scratch", "nearest is swin-organs"),
        ({"network": "primus"}, "primus-tiny", "whose size is not asked for"),
    ],
)
def test_a_network_that_is_asked_for_has_its_own_weights_or_none(changes, init, told, capsys):
    chosen = choices.suited(replace(OPEN, **changes))
    assert chosen.init == init and told in capsys.readouterr().out
    assert chosen.lr == (released.card_of(init).finetuning["lr"] if init != "scratch" else 1e-4)


@pytest.mark.parametrize("name", released.names())
def test_a_network_from_scratch_is_the_released_one_of_its_kind(name):
    """So that with and without --init scratch differ in nothing else."""
    card = released.card_of(name)
    chosen = choices.suited(replace(OPEN, init="scratch", network=card.network["name"]))
    spec = network_of(chosen, in_channels=1, grid=UNKNOWN_GRID, out_channels=2)
    usual = released.card_of(released.USUAL)
    assert released.same(spec) == (usual if usual.network["name"] == card.network["name"] else card)


def listed(folder: Path, *names: str) -> Path:
    """A folder of two lists of these training cases: ``held`` has no validation cases, ``validated`` has one."""
    cases = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    source = json.loads((OPEN.dataset / "dataset.json").read_text())
    for kept, chosen in (("held", []), ("validated", cases[:1])):
        path = folder / kept / "dataset.json"
        path.parent.mkdir()
        path.write_text(json.dumps(source | {"training": cases, "validation": chosen}))
    return folder


def test_cases_held_out_stop_a_run_and_those_that_judge_it_do_not(tmp_path, capsys):
    folder = listed(tmp_path, *(f"case_{number}" for number in range(10)))
    held = replace(OPEN, dataset=folder / "held/dataset.json")
    chosen = choices.suited(held)
    assert (chosen.steps, chosen.patience, chosen.val_every) == (1000, 5, 50)
    assert "stops after 5 validations, 50 steps apart" in capsys.readouterr().out
    assert choices.suited(replace(held, val_every=100)).val_every == 100
    unstopped = {"steps": 300}, {"folds": 5}, {"val_every": 0}, {"patience": 0}
    judged = replace(held, dataset=folder / "validated/dataset.json")
    for config in (judged, *(replace(held, **changes) for changes in unstopped)):
        assert choices.suited(config).patience == 0


@pytest.mark.parametrize(
    ("cases", "steps", "on_a_gpu"), [(1, 600, 1000), (8, 800, 2000), (5000, 1000, 20_000)]
)
def test_steps_have_limits_that_a_device_sets(cases, steps, on_a_gpu, monkeypatch):
    config = replace(OPEN, cases=cases)
    assert choices.suited(config).steps == steps
    assert choices.voxel_budget() == 48**3
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choices.suited(config).steps == on_a_gpu
    assert choices.voxel_budget() == VOXEL_BUDGET
