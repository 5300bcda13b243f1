"""``run.json`` as every kind of run has written it: read, kept as it is, and gone on with."""

import json

import pytest

from fdif_jax.errors import FdifError
from fdif_jax.training.run_document import CasesUsed, Files, Inference, RunDocument, Start, Validation
from fdif_jax.training.runs import load_run, open_run

NETWORK = {"name": "resenc_unet", "in_channels": 1, "out_channels": 3, "features": [4, 8], "dtype": "float32"}
TRAINING = {
    "steps": 20,
    "seed": 0,
    "batch_size": 2,
    "learning_rate": 1e-4,
    "augment": True,
    "loss": "dice_ce",
}
PRETRAINING = {
    "kind": "pretraining",
    "network": NETWORK,
    "task": "segmentation",
    "recipe": {"kind": "scenes", "vocabulary": ["fdif_jax.shapes:published"], "grid": [8, 9, 10]},
    "training": TRAINING,
    "validation": {"every": 500, "samples": 8, "seed": 0},
}
ON_FILES = {name: value for name, value in PRETRAINING.items() if name != "recipe"} | {
    "data": {"path": "data/shapes", "sha256": "0" * 64}
}
FINE_TUNING = {
    "kind": "fine-tuning",
    "network": NETWORK,
    "init": {"from": "runs/pretrain", "weights_sha256": "1" * 64, "which": "last"},
    "dataset": {"list": "Task04/dataset.json", "training": ["a", "b"], "validation": ["c"], "skipped": []},
    "cases": {
        "spacing": [1.0, 1.0, 1.0],
        "patch": [8, 8, 8],
        "channels": [{"kind": "zscore", "nonzero": False}],
        "order": 3,
        "reasons": ["because"],
    },
    "labels": {"class_names": ["x", "y"], "ignore": None, "channel_names": ["MRI"]},
    "training": TRAINING | {"rotate": 15.0, "mirror_axes": [0]},
    "validation": {"every": 500},
    "inference": {"overlap": 0.5, "mirror_axes": [0], "weights": "last"},
}
FROM_SCRATCH = FINE_TUNING | {"init": {"from": "scratch"}}
IMPORTED = {
    "kind": "imported",
    "network": NETWORK,
    "source": {"file": "w.pth", "sha256": "2" * 64},
    "left_fresh": [],
}
ORIGIN = {"versions": {"jax": "0.1"}, "command": "fdif x", "devices": {"cpu": 1}, "processes": 1}
OTHERS = {"kind": "mine", "network": {}, "notes": {"by": "me"}}
ALL = [PRETRAINING, ON_FILES, FINE_TUNING, FROM_SCRATCH, IMPORTED, OTHERS]


@pytest.mark.parametrize("plain", ALL, ids=lambda plain: plain["kind"])
def test_documents_of_old_are_read_and_their_runs_go_on(plain, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(plain | ORIGIN))
    document = load_run(tmp_path).document
    assert document.to_dict() == plain | ORIGIN and document.origin.command == "fdif x"
    assert RunDocument.from_dict(document.to_dict()) == document
    asked = RunDocument.from_dict(plain)
    assert asked.origin is None and asked.to_dict() == plain
    with open_run(tmp_path, asked) as run:
        assert run.document == document  # which another version may have begun
    with (
        pytest.raises(FdifError, match=r'task is .* there and "other" here'),
        open_run(tmp_path, RunDocument.from_dict(plain | {"task": "other"})),
    ):
        pass


def test_parts_are_types():
    document, other = RunDocument.from_dict(FINE_TUNING), RunDocument.from_dict(ON_FILES)
    assert document.init == Start("runs/pretrain", "1" * 64, "last")
    assert document.dataset == CasesUsed("Task04/dataset.json", ("a", "b"), ("c",))
    assert document.inference == Inference(0.5, (0,), "last") and document.validation == Validation(500)
    assert other.data == Files("data/shapes", "0" * 64) and other.recipe is None


def test_what_is_begun_says_with_what(tmp_path):
    with open_run(tmp_path / "run", RunDocument.from_dict(PRETRAINING)) as run:
        assert run.document.origin.processes == 1 and "jax" in run.document.origin.versions
    written = json.loads((tmp_path / "run/run.json").read_text())
    assert list(written)[:2] == ["kind", "network"] and set(written) == set(PRETRAINING) | set(ORIGIN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inference": {"overlap": 0.5, "mirror_axes": []}}, "inference does not say 'weights'"),
        ({"init": {}}, "init does not say 'from'"),
        ({"dataset": ["a"]}, "dataset is no table"),
        ({"network": None}, "its network is no table"),
        ({"left_fresh": 3}, "not iterable"),
    ],
)
def test_a_damaged_part_is_named(change, message, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(FINE_TUNING | change))
    with pytest.raises(FdifError, match=rf"run\.json is damaged: .*{message}"):
        load_run(tmp_path)
