"""Released weights: each file is its card's, loads strictly elsewhere, and is what fine-tuning begins with."""

import hashlib
import math
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.models import released
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs.initial_weights import read_initial
from fdif_jax.scripts.options.network import NetworkOptions
from fdif_jax.weights.state_dicts import to_torch_state_dict, torch_variables

NAMES = released.names()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_its_cards_and_holds_each_parameter_once_in_half_precision(name):
    card = released.card_of(name)
    data = card.file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == card.sha256
    state = safetensors.numpy.load(data)
    assert all(array.dtype == np.float16 for array in state.values() if array.dtype.kind == "f")
    network = nnx.eval_shape(lambda: models.create(**card.network))
    sizes = {known_as[0]: math.prod(variable.shape) for _, known_as, variable in torch_variables(network)}
    assert {name: array.size for name, array in state.items()} == sizes
    assert card.pretraining["steps"] > 0 and card.finetuning["lr"] > 0 and card.scores


def test_all_together_are_no_burden_to_the_wheel():
    assert NAMES and sum(path.stat().st_size for path in released.FOLDER.iterdir()) < 40e6


@pytest.mark.slow("packs whole networks; what was released is read above")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_packs_into_the_same_file(name):
    model = released.load(name)
    assert released.packed(model) == released.card_of(name).file.read_bytes()


LOADED = """
import sys, torch, types
try:  # Primus imports timm, and that torchvision: see twins.py
    import torchvision
except RuntimeError:
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
exec(open(sys.argv[1]).read())
edge = int(sys.argv[2])
with torch.no_grad():
    x = torch.linspace(-2, 2, edge ** 3).reshape(1, 1, edge, edge, edge)
    print(*net.eval()(x).flatten()[::997].tolist())
assert "jax" not in sys.modules and not any(name.startswith("fdif") for name in sys.modules)
"""


@pytest.mark.slow("processes")
@pytest.mark.parametrize("name", NAMES)
def test_the_lines_that_are_printed_load_a_file_strictly_without_jax(name, tmp_path, capsys):
    """In a process of its own; logits are those of the network here."""
    pytest.importorskip("torch")
    pytest.importorskip("dynamic_network_architectures")
    pytest.importorskip("monai")
    cli.run("weights", [name, "--to", "monai", "--out", str(tmp_path / "weights.pth")])
    (tmp_path / "lines.py").write_text(capsys.readouterr().out.partition("In PyTorch:\n\n")[2])
    model = released.load(name)
    edge = released.card_of(name).network.get("grid", 2 * np.array(model.grid_multiple))[0]
    command = [sys.executable, "-c", LOADED, str(tmp_path / "lines.py"), str(edge)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    images = np.linspace(-2, 2, edge**3, dtype=np.float32).reshape(1, edge, edge, edge, 1)
    logits = model(images)
    finest = np.asarray(logits[0] if isinstance(logits, list) else logits)
    expected = np.moveaxis(finest, -1, 1).ravel()[::997]
    np.testing.assert_allclose(np.array(said.split(), float), expected, atol=1e-4 * abs(expected).max())


def test_fine_tuning_begins_with_them_by_name_at_any_precision():
    initial = read_initial("resenc-tiny", "last", NetworkOptions(dtype="bfloat16"))
    assert initial is not None and initial.network["dtype"] == "bfloat16"
    state = to_torch_state_dict(released.load("resenc-tiny"))
    jax.tree.map(np.testing.assert_array_equal, dict(initial.state), state)


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resenc-tiny").mkdir()
    with pytest.raises(FdifError, match="not a run directory"):
        read_initial("resenc-tiny", "last", NetworkOptions())


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    for path in released.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(released, "FOLDER", tmp_path)
    file = tmp_path / "resenc-tiny.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(FdifError, match="its SHA-256 is"):
        released.load("resenc-tiny")
    file.unlink()
    with pytest.raises(FdifError, match="No such file"):
        released.load("resenc-tiny")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["resenc-tin"], "did you mean 'resenc-tiny'"),
        (["--to", "monai"], "give --out FILE"),
        (["--out", "x.pth"], "which weights?"),
        (["resenc-tiny", "--to", "monai", "--out", "x.safetensors"], "writes .pth or .pt"),
    ],
)
def test_bad_input_is_one_line(options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.run("weights", options)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and says in told and told.count("\n") == 1


def test_all_are_listed_with_the_name_first_and_each_has_a_card(capsys):
    cli.run("weights", [])
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        (line,) = (line for line in lines if line.lstrip("│ ").startswith(name))
        cli.run("weights", [name])
        card = capsys.readouterr().out
        for score in released.card_of(name).scores.values():
            points, low, high = score.gain
            assert low < points < high and f"{points:+.1f} [{low:+.1f}, {high:+.1f}]" in line
            assert f"Dice {score.dice}" in card and score.gain_in_words in card
        assert released.card_of(name).sha256 in card and "fdif pretrain" in card


def test_the_nearest_is_named_with_what_it_would_give():
    assert released.nearest({"name": "vnet", "in_channels": 1, "out_channels": 2}) is None
    spec = {"name": "resenc_unet", "in_channels": 3, "out_channels": 9, "preset": "tiny"}
    tensors = len(list(torch_variables(models.create(**spec))))
    assert f"{released.USUAL}, of which {tensors} of {tensors}" in str(released.nearest(spec))
    assert released.same(spec) == released.card_of(released.USUAL)
    assert released.same(spec | {"preset": "small"}) is None
