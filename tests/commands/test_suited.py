"""What `fdif finetune` chooses where nothing is said."""

from dataclasses import replace

import jax
import pytest

from fdif_jax.models import released
from fdif_jax.preprocessing.fingerprints import VOXEL_BUDGET
from fdif_jax.scripts.jobs import suited as choices
from fdif_jax.scripts.options.finetuning import FinetuningOptions
from tests.helpers.paths import ROOT

OPEN = FinetuningOptions(dataset=ROOT / "tests/data/hippocampus", out=ROOT / "nowhere")
RATE = released.card_of("resenc-tiny").finetuning["lr"]


def test_without_a_word_it_begins_with_released_weights_their_rate_and_steps_by_cases(capsys):
    chosen = choices.suited(replace(OPEN, cases=7))
    assert (chosen.init, chosen.lr, chosen.steps) == ("resenc-tiny", RATE, 700)
    told = capsys.readouterr().out
    assert "released weights resenc-tiny" in told and "700 steps: 100 for each of 7" in told


def test_from_scratch_it_is_the_same_network_with_the_same_budget():
    chosen = choices.suited(replace(OPEN, init="scratch"))
    assert (chosen.init, chosen.network, chosen.size) == ("scratch", "resenc_unet", ("tiny",))
    assert (chosen.lr, chosen.steps) == (RATE, choices.suited(OPEN).steps)


def test_what_is_said_is_kept(capsys):
    said = replace(OPEN, init="runs/mine", lr=2e-3, steps=5, network="vnet")
    assert choices.suited(said) == said
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "init", "told"),
    [
        ({"size": ("tiny",)}, "resenc-tiny", "of the network that is asked for"),
        ({"size": ("small",)}, "scratch", "nearest is resenc-tiny"),
        ({"network": "vnet"}, "scratch", "nothing is released"),
    ],
)
def test_a_network_that_is_asked_for_has_its_own_weights_or_none(changes, init, told, capsys):
    chosen = choices.suited(replace(OPEN, **changes))
    assert chosen.init == init and told in capsys.readouterr().out
    assert chosen.lr == (RATE if init == "resenc-tiny" else 1e-4)


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
