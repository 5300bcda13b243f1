"""Heads by formula: sizes and places as in a textbook of anatomy, sides, and the bank that comes with the package."""

import hashlib
import importlib.resources

import numpy as np
import pytest

import fdif_jax as fd
from fdif_jax.anatomy.bank import INTERLOCKED, bank_of
from fdif_jax.shapes.heads import heads, subject
from fdif_jax.shapes.organs import head

# Millilitres: least and greatest of adults, generously.
VOLUMES = {
    "parotid_right": (15, 45),
    "parotid_left": (15, 45),
    "mandible": (45, 110),
    "brain": (1000, 1700),
    "submandibular_right": (3, 14),
    "submandibular_left": (3, 14),
    "tongue": (40, 120),
    "thyroid": (8, 30),
}


@pytest.fixture(scope="module")
def drawn():
    return [subject(seed) for seed in (0, 5)]


def test_organs_are_as_large_as_those_of_adults(drawn):
    for body in drawn:
        found = {organ: part.volume / 1000 for organ, part in body.parts.items()}
        outside = {o: found[o] for o, (low, high) in VOLUMES.items() if not low <= found[o] <= high}
        assert not outside and len(found) == 29


def test_organs_lie_where_they_do_in_a_head(drawn):
    for body in drawn:
        at = {organ: part.centroid for organ, part in body.parts.items()}  # right, anterior, superior
        for organ in ("parotid", "masseter", "submandibular", "sternomastoid"):
            assert at[f"{organ}_right"][0] > 15 and at[f"{organ}_left"][0] < -15
        assert abs(at["mandible"][0]) < 5 and at["mandible"][1] > at["parotid_right"][1] > at["spine"][1]
        heights = [at[organ][2] for organ in ("brain", "orbits", "teeth", "submandibular_left", "thyroid")]
        assert heights == sorted(heights, reverse=True)
        box = body.parts["parotid_left"].upper - body.parts["parotid_left"].lower
        assert (box < (45, 60, 80)).all()
        assert not body.parts["mandible"].cut and not body.parts["parotid_right"].cut


def test_skin_and_flesh_are_whole_and_skin_holds_all(drawn):
    for body in drawn:
        skin = body.parts["skin"]
        parts = body.parts.values()
        assert all((skin.lower <= p.lower).all() and (p.upper <= skin.upper).all() for p in parts)
        assert skin.volume > body.parts["flesh"].volume > 10 * body.parts["tongue"].volume
        values = skin.grid.values  # solid: the distance has one minimum region, no wall
        assert values[tuple(n // 2 for n in values.shape)] < -20 / skin.grid.unit


def test_a_seed_is_a_head(drawn):
    again = subject(5).parts["mandible"]
    assert (again.grid.values == drawn[1].parts["mandible"].grid.values).all()
    assert again.volume != drawn[0].parts["mandible"].volume


def test_any_organs_of_a_drawn_body_may_overlap(drawn):
    bank = bank_of(drawn, free=True)
    assert (bank.relation() == INTERLOCKED).all()
    assert (bank_of(drawn).relation() != INTERLOCKED).any()


def test_scenes_show_air_fat_flesh_and_bone_as_a_ct_does():
    off = ("deviation", "gamma", "noise", "bias_field", "spikes", "blur", "ringing", "resolution")
    clean = {key: [0.0, 0.0] for key in off} | {"texture": 0.0, "partial_volume": False}
    recipe = fd.load_recipe("head")
    look = recipe.look.to_dict()
    look["tissue"] |= clean
    small = recipe.replace(grid=(32, 32, 32), spacing=(3.0, 3.0, 3.0), look=look)
    program = fd.compile(small)
    image, label = (np.asarray(a) for a in program.sample_at(0, 3))
    names = ("background", *program.class_names)
    level = {names[c]: np.median(image[label == c]) for c in np.unique(label)}
    assert level["background"] == 0 and level["airway"] <= 2
    assert 0 < level["fat"] < level["muscle"] < level["mandible"]
    assert {"parotid_left", "parotid_right", "flesh", "bone"} <= set(level)


@pytest.mark.slow("eight heads")
def test_the_shipped_bank_is_made_again_to_the_byte(tmp_path):
    file = importlib.resources.files("fdif_jax.shapes") / "head.npz"
    heads(8).save(tmp_path / "head.npz")
    assert (tmp_path / "head.npz").read_bytes() == file.read_bytes()
    assert head.digest == hashlib.sha256(file.read_bytes()).hexdigest()
