"""Fine-tuning: patches, sliding window against MONAI, loading pre-trained weights, and the whole command."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from test_training import Net

from fdif_jax import losses, models
from fdif_jax.augmentation import normalise, random_intensity, random_mirror
from fdif_jax.checkpoints import State
from fdif_jax.datasets import load_class_names
from fdif_jax.errors import FdifError
from fdif_jax.finetuning import SlidingWindow, patch_batch, patch_source, prepare_image, stack_cases
from fdif_jax.plan import Plan
from fdif_jax.runs import load_run, open_run, weights
from fdif_jax.scripts import finetune
from fdif_jax.training import fit
from fdif_jax.updates import functional

DATA = Path(__file__).parent / "data" / "hippocampus"
NETWORK = {"name": "resenc_unet", "in_channels": 1, "features": [4, 8], "dtype": "float32"}


def _case(shape, seed=0):
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    label[1:4, 2:5, 1:3] = 1
    label[1:4, 2:5, 3:5] = 2
    return rng.standard_normal(shape).astype(np.float32), label


# --------------------------------------------------------------------------------------------- augmentation


def test_normalised_volumes_have_zero_mean_and_unit_variance():
    images = np.random.default_rng(0).integers(0, 129, (2, 6, 5, 7)).astype(np.uint8)
    images[1] = 40
    result = np.asarray(normalise(images))
    np.testing.assert_allclose(result[0], (images[0] - images[0].mean()) / images[0].std(), atol=1e-5)
    assert abs(result[1]).max() < 0.1
    assert (prepare_image(images[1]) == 0).all()
    assert not np.asarray(normalise(np.zeros((1, 2, 2, 2), np.uint8))).any()
    np.testing.assert_allclose(prepare_image(images[0]), result[0], atol=1e-5)
    clipped = prepare_image(images[0], (20, 60))
    np.testing.assert_allclose(np.ptp(clipped), 40 / images[0].clip(20, 60).std(), rtol=1e-5)


def test_looks_keep_the_order_of_intensities_but_for_noise_and_differ_between_samples():
    images = jnp.tile(jnp.linspace(-2, 2, 64).reshape(1, 4, 4, 4), (16, 1, 1, 1))
    keys = jax.random.split(jax.random.key(0), len(images))
    result = np.asarray(jax.vmap(random_intensity)(keys, images))
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images, result, strict=True)]
    assert np.isfinite(result).all() and min(correlation) > 0.95
    assert len({a.tobytes() for a in result}) > 8
    np.testing.assert_allclose(result[3], random_intensity(keys[3], images[3]), atol=1e-5)


def test_mirroring_moves_image_and_label_together_along_the_given_axes_only():
    images = jnp.arange(8 * 3 * 4 * 5, dtype=jnp.float32).reshape(8, 3, 4, 5)
    keys = jax.random.split(jax.random.key(1), len(images))
    mirror = jax.vmap(lambda key, image: random_mirror(key, image, image.astype(int), (0, 2)))
    mirrored, labels = mirror(keys, images)
    np.testing.assert_array_equal(mirrored, labels)
    seen = set()
    for before, after in zip(np.asarray(images), np.asarray(mirrored), strict=True):
        flips = [f for f in ((), (0,), (2,), (0, 2)) if np.array_equal(after, np.flip(before, f))]
        assert len(flips) == 1
        seen.add(flips[0])
    assert len(seen) > 2
    np.testing.assert_array_equal(random_mirror(keys[0], images[0], labels[0], ())[0], images[0])


# -------------------------------------------------------------------------------------------------- patches


def test_patches_are_cut_from_one_place_of_image_and_label_and_half_are_centred_on_foreground():
    patch = (5, 5, 5)
    cases = []
    for i, shape in enumerate([(20, 22, 24), (30, 12, 16)]):
        label = np.zeros(shape, np.uint8)
        label[10, 6, 8] = i + 1  # a single voxel, which chance alone would miss
        image = np.arange(label.size, dtype=np.float32).reshape(shape) + 1e5 * (i + 1)
        cases.append((image, label))
    source = patch_source(stack_cases(cases, patch))
    images, labels = jax.jit(patch_batch(patch, mirror_axes=(), augment=False))(
        jax.random.split(jax.random.key(0), 400), source
    )
    centred = 0
    for image, label in zip(np.asarray(images)[..., 0], np.asarray(labels), strict=True):
        whole, truth = cases[int(image.min() // 1e5) - 1]
        z, y, x = np.unravel_index(int(np.argmax(whole == image[0, 0, 0])), whole.shape)
        at = np.s_[z : z + 5, y : y + 5, x : x + 5]
        np.testing.assert_array_equal(whole[at], image)
        np.testing.assert_array_equal(truth[at], label)
        centred += label[2, 2, 2] > 0
    assert 160 < centred < 240


def test_a_case_smaller_than_the_patch_lies_in_its_middle_and_one_without_foreground_is_drawn_from():
    image, label = np.ones((3, 9, 4), np.float32), np.zeros((3, 9, 4), np.uint8)
    source = patch_source(stack_cases([(image, label)], (5, 5, 6)))
    images, labels = patch_batch((5, 5, 6), augment=False)(jax.random.split(jax.random.key(0), 3), source)
    assert images.shape == (3, 5, 5, 6, 1) and not np.asarray(labels).any()
    assert (np.asarray(images)[:, 1:4, :, 1:5] == 1).all() and np.asarray(images).sum() == 3 * 3 * 5 * 4


# ------------------------------------------------------------------------------------------- sliding window


@pytest.mark.parametrize(("shape", "overlap"), [((13, 9, 17), 0.5), ((8, 8, 8), 0.25), ((5, 11, 8), 0.5)])
def test_sliding_window_equals_monai(shape, overlap):
    patch, (image, label) = (8, 8, 8), _case(shape)
    network = functional(Net())
    start, apply = network.weights, network.apply
    stack = stack_cases([_case((10, 20, 6), 1), (image, label)], patch)
    sliding = SlidingWindow(apply, stack, 3, patch, overlap=overlap, tile_batch=3)
    logits = sliding.logits(start, 1)

    def predictor(tiles):
        result = apply(start, jnp.asarray(tiles.numpy()).transpose(0, 2, 3, 4, 1))
        return torch.from_numpy(np.asarray(result).transpose(0, 4, 1, 2, 3).copy())

    expected = sliding_window_inference(
        torch.from_numpy(image)[None, None], patch, 2, predictor, overlap=overlap, mode="gaussian"
    )
    np.testing.assert_allclose(logits, expected[0].permute(1, 2, 3, 0).numpy(), atol=1e-4)
    prediction, dice = sliding.predict(start, 1)
    np.testing.assert_array_equal(prediction, logits.argmax(-1))
    np.testing.assert_array_equal(dice, losses.dice_per_class(logits.argmax(-1), label, 3))
    np.testing.assert_array_equal(sliding.dice(start)[1], dice)


def test_fitting_two_cases_learns_them(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(2):
        _, label = _case((9, 10, 8))
        label = np.roll(label, rng.integers(0, 4), axis=1)
        cases.append((prepare_image(label * 40.0 + rng.standard_normal(label.shape)), label))
    patch, plan = (8, 8, 8), Plan(steps=60, batch_size=4, learning_rate=3e-2, warmup=5)
    stack = stack_cases(cases, patch)
    network = functional(Net(features=8))
    with open_run(tmp_path / "run", {"network": {}}) as run:
        trained = fit(
            network, patch_batch(patch), patch_source(stack), plan, run, loss=losses.dice_cross_entropy
        )
    sliding = SlidingWindow(network.apply, stack, 3, patch)
    assert (
        float(losses.mean_dice(sliding.dice(trained)))
        > 0.8
        > float(losses.mean_dice(sliding.dice(network.weights)))
    )


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two training cases and one for validation, in nnU-Net's way of naming labels."""
    root = tmp_path_factory.mktemp("data")
    document = json.loads((DATA / "dataset.json").read_text())
    document["training"], document["validation"] = document["training"][:2], document["validation"][:1]
    document["labels"] = {"background": 0, "Anterior": 1, "Posterior": 2}
    for entry in document["training"] + document["validation"]:
        for path in (entry["image"], entry["label"]):
            (root / path).parent.mkdir(exist_ok=True)
            shutil.copy(DATA / path, root / path)
    (root / "dataset.json").write_text(json.dumps(document))
    return root / "dataset.json"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run directory with a checkpoint of a network of five output channels."""
    path = tmp_path_factory.mktemp("runs") / "pretrained"
    network = {**NETWORK, "out_channels": 5}
    with open_run(path, {"kind": "pretraining", "network": network}) as run, run.checkpoints() as checkpoints:
        model = models.create(**network, seed=7)
        checkpoints.save(1, State(weights(model), {"count": jnp.zeros(())}, {}), None)
    return path


def _config(dataset, out, init="scratch", **changes):
    sizes = {"size": ("features=[4,8]",)} if init == "scratch" else {}
    small = {"steps": 4, "patch": (16, 16, 16), "val_every": 2, "seed": 1} | sizes
    return finetune.Config(dataset=dataset, out=out, init=str(init), **small | changes)


def test_finetune_from_a_run_loads_all_but_the_head_and_reports_dice(dataset, pretrained, tmp_path, capsys):
    out = tmp_path / "run"
    finetune.run(_config(dataset, out, pretrained, save_predictions=True, cases=2))
    printed = capsys.readouterr().out
    number = len(weights(models.create(**{**NETWORK, "out_channels": 3})))
    assert f"loaded {number - 2} of {number} tensors; left fresh 2 (decoder.seg_layers.0" in printed
    assert "Anterior" in printed and "mean" in printed

    document = json.loads(dataset.read_text())
    case = document["validation"][0]["image"].split("/")[-1].removesuffix(".nii.gz")
    truth = nib.load(dataset.parent / document["validation"][0]["label"])
    saved = nib.load(out / "predictions" / f"{case}.nii.gz")
    np.testing.assert_allclose(saved.affine, truth.affine)
    a, b = np.asarray(saved.dataobj), np.asarray(truth.dataobj)
    expected = [2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum()) for c in (1, 2)]
    metrics = json.loads((out / "metrics.json").read_text())
    np.testing.assert_allclose(list(metrics["dice"].values()), expected, atol=1e-5)
    assert metrics["mean_dice"] == pytest.approx(np.mean(expected), abs=1e-5)
    rows = list(csv.DictReader((out / "dice.csv").open()))
    assert [r["case"] for r in rows] == [case]
    assert float(rows[0]["Posterior"]) == pytest.approx(expected[1], abs=1e-5)
    assert {"curve.png", "prediction.png"} <= {p.name for p in out.iterdir()}
    history = load_run(out).history
    assert [m["step"] for m in history] == [2, 4]

    finetune.run(
        _config(dataset, out, pretrained, save_predictions=True, cases=2)
    )  # finished: only evaluates
    assert load_run(out).history == history and json.loads((out / "metrics.json").read_text()) == metrics
    with pytest.raises(FdifError, match=r"training\.learning_rate is 0\.0001 there and 0\.01 here"):
        finetune.run(_config(dataset, out, pretrained, cases=2, lr=1e-2))


def test_fewer_cases_are_among_more(dataset, tmp_path):
    config = _config(DATA / "dataset.json", tmp_path)
    chosen = [
        {c.id for c in finetune.choose_cases(finetune.Config(**{**vars(config), "cases": n}))[0]}
        for n in range(1, 9)
    ]
    assert [len(c) for c in chosen] == list(range(1, 9))
    assert all(a < b for a, b in itertools.pairwise(chosen))


def test_labels_may_map_either_way_round(dataset):
    names = ("Anterior", "Posterior")
    assert load_class_names(DATA / "dataset.json") == load_class_names(dataset) == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, 'needs "labels"'),
        ({"0": "background", "2": "Posterior"}, "must number the classes"),
        ({"0": "background"}, "must number the classes"),
        (["background", "Anterior"], 'needs "labels"'),
    ],
)
def test_labels_that_number_no_classes_are_refused(tmp_path, labels, message):
    (tmp_path / "d.json").write_text(json.dumps({"training": [], "labels": labels}))
    with pytest.raises(FdifError, match=message):
        load_class_names(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": 9}, "--cases 9: .*lists 2 training cases"),
        ({"val_cases": 2}, "--val-cases 2: .*lists 1 validation cases"),
        ({"cases": -1}, "--cases must be 0"),
        ({"steps": 0}, "steps must be positive"),
        ({"patch": (16, 16, 15)}, "multiples of"),
        ({"patch": (0, 16, 16)}, "--patch must be"),
        ({"window": (5.0, 5.0)}, "--window must be"),
        ({"mirror_axes": (0, 3)}, "--mirror-axes must be"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"init": "nowhere"}, "nowhere is not a run directory"),
        ({"val_every": -1}, "--val-every must be 0 or more"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(dataset, tmp_path, changes, message):
    with pytest.raises(FdifError, match=message):
        finetune.run(_config(dataset, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_sizes_that_contradict_the_run_are_refused(dataset, pretrained, tmp_path):
    for changes, option in [
        ({"size": ("features=[4,16]",)}, "--size features"),
        ({"size": ("small",)}, "--size small"),
        ({"network": "vnet"}, "--network"),
        ({"dtype": "bfloat16"}, "--dtype"),
    ]:
        with pytest.raises(FdifError, match=f"{option} contradicts .*pretrained, whose network is"):
            finetune.run(_config(dataset, tmp_path / "run", pretrained, **changes))
    assert not (tmp_path / "run").exists()


def _break(dataset, tmp_path, damage):
    root = tmp_path / "data"
    shutil.copytree(dataset.parent, root)
    document = json.loads((root / "dataset.json").read_text())
    damage(*(root / document["training"][0][key] for key in ("image", "label")))
    return root / "dataset.json"


def _truncate(image, label):
    image.write_bytes(image.read_bytes()[:2000])


def _relabel(image, label):
    volume = np.asarray(nib.load(label).dataobj).copy()
    volume[0, 0, 0] = 3
    nib.save(nib.Nifti1Image(volume, np.eye(4)), label)


def _crop(image, label):
    nib.save(nib.Nifti1Image(np.asarray(nib.load(label).dataobj)[1:], np.eye(4)), label)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image, label: image.unlink(), "no such file"),
        (_truncate, "truncated"),
        (_relabel, "holds label 3; 2 classes allow 0 to 2"),
        (_crop, "but its image"),
    ],
)
def test_damaged_cases_are_refused_by_name(dataset, tmp_path, damage, message):
    broken = _break(dataset, tmp_path, damage)
    with pytest.raises(FdifError, match=rf"hippocampus_\d+.*{message}"):
        finetune.run(_config(broken, tmp_path / "run"))
