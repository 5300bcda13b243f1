"""Fine-tune a network on labelled volumes, and measure its Dice on the validation cases.

The dataset is a JSON list in Decathlon or MONAI form. With --init RUN_DIR the network is that of a run of `fdif
pretrain` or `fdif import`: its weights are loaded, all but those of the output head, which starts fresh for the
dataset's classes; position embeddings are interpolated to the patch. With --init scratch everything starts fresh,
and --network and --size say which network.

Images are z-scored over all their voxels; there is no resampling, so cases should share a spacing. Patches
are centred on foreground and on background voxels equally often. The same command on the same --out goes on
where it stopped.

Example:
    fdif finetune Task04/dataset.json --init runs/pretrain --cases 8 --steps 1000 --out runs/finetune
    fdif finetune Task04/dataset.json --init scratch --size tiny --steps 1000 --out runs/scratch
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fdif_jax import models
from fdif_jax.checkpoints import Weights
from fdif_jax.classes import Task
from fdif_jax.datasets import Case, load_case, load_class_names, load_decathlon
from fdif_jax.errors import FdifError
from fdif_jax.finetuning import (
    SlidingWindow,
    patch_batch,
    patch_source,
    prepare_image,
    stack_cases,
)
from fdif_jax.interop import to_torch_state_dict
from fdif_jax.losses import mean_dice
from fdif_jax.objectives import Segmentation
from fdif_jax.plan import Plan, stream
from fdif_jax.runs import Run, load_run, open_run
from fdif_jax.scripts import cli
from fdif_jax.scripts.network_options import network_of, parse_size, planned
from fdif_jax.scripts.training_options import TrainingOptions, devices_of, plan_of
from fdif_jax.scripts.watching import TrainingBar, write_pictures
from fdif_jax.training import fit
from fdif_jax.transfer import carry
from fdif_jax.updates import functional
from fdif_jax.volumes import write_atomic, write_nifti

_LARGEST_PATCH = 96  # of the patch that is chosen where none is given


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    """Options of `fdif finetune`."""

    dataset: tyro.conf.Positional[Path]
    """The dataset's JSON list: "training", "validation" and "labels"."""
    init: str
    """A run directory of `fdif pretrain` or `fdif import`, or scratch."""
    out: Path
    """Run directory: weights, measurements, Dice, pictures."""
    steps: int = 20_000
    """Updates; the learning rate reaches 0 at the last."""
    seed: int = 0
    """Seed of everything that is drawn, the choice of --cases too."""
    cases: int = 0
    """Training cases, drawn at random (of one seed, fewer are among more); 0 for all."""
    val_cases: int = 0
    """Validation cases, the first of the list; 0 for all."""
    which: Literal["best", "last"] = "last"
    """Weights of the pre-training run to begin with: of its best validation, or the newest."""
    patch: tuple[int, int, int] | None = None
    """Voxels of a patch; the median case in multiples of the network's stride, at most 96, if not given."""
    window: tuple[float, float] | None = None
    """Clip intensities to this range first, as -175 250 for CT of the abdomen."""
    mirror_axes: tuple[int, ...] = (0,)
    """Axes (0, 1, 2) to mirror along; only those that swap no labels. Axis 0 is left-right in most files."""
    overlap: float = 0.5
    """Part of a patch that neighbours share in sliding-window inference."""
    save_predictions: bool = False
    """Also write the predicted labels of the validation cases as NIfTI."""
    augment: bool = True
    """Give the images random gamma, contrast, brightness and noise."""


class _Loaded(NamedTuple):
    """A case in memory: its name, prepared image, label and affine."""

    name: str
    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def run(config: Config) -> None:
    """Train to the last step from wherever the run directory is, then evaluate."""
    _check(config)
    devices, plan = devices_of(config), plan_of(config, config.steps, config.seed)
    class_names = load_class_names(config.dataset)
    training, validation = choose_cases(config)
    trained_on = read_cases(training, config, len(class_names), "reading training cases")
    spec, patch = choose_network(config, len(class_names) + 1, [case.image.shape for case in trained_on])
    model = models.create(**spec, seed=config.seed)
    origin = initialise(model, config)
    network = functional(model)
    # A patch that the network cannot take is an error before anything is written.
    jax.eval_shape(network.apply, network.weights, jnp.zeros((1, *patch, 1)))
    evaluated_on = read_cases(validation, config, len(class_names), "reading validation cases")
    source = patch_source(stack_cases([(c.image, c.label) for c in trained_on], patch))
    held_out = stack_cases([(c.image, c.label) for c in evaluated_on], patch)
    sliding = SlidingWindow(network.apply, held_out, len(class_names) + 1, patch, overlap=config.overlap)

    print(
        f"patch {' x '.join(map(str, patch))}; {len(training)} training and {len(validation)} validation cases"
    )
    with open_run(config.out, _document(config, plan, spec, origin, patch, training, validation)) as opened:
        with TrainingBar(plan.steps) as bar:
            trained = fit(
                network,
                patch_batch(patch, mirror_axes=config.mirror_axes, augment=config.augment),
                source,
                plan,
                opened,
                loss=Segmentation((Task("class", tuple(class_names)),), config.loss).loss,
                devices=devices,
                validate=lambda w, _: _scored(float(mean_dice(sliding.dice(w)))),
                validate_every=config.val_every,
                checkpoint_every=config.checkpoint_every,
                keep_every=config.keep_every,
                report=bar.show,
            )
        evaluate(opened, sliding, trained, evaluated_on, class_names, config.save_predictions)


def _scored(dice: float) -> dict[str, float]:
    return {"dice": dice, "score": 0.0 if np.isnan(dice) else dice}


def _check(config: Config) -> None:
    for name in ("cases", "val_cases"):
        if getattr(config, name) < 0:
            raise FdifError(
                f"--{name.replace('_', '-')} must be 0 (all) or more, not {getattr(config, name)}"
            )
    if config.patch is not None and min(config.patch) < 1:
        raise FdifError(f"--patch must be three positive numbers, not {config.patch}")
    if config.window is not None and not config.window[0] < config.window[1]:
        raise FdifError(f"--window must be a lower and a higher intensity, not {config.window}")
    if not set(config.mirror_axes) <= {0, 1, 2} or len(set(config.mirror_axes)) < len(config.mirror_axes):
        raise FdifError(f"--mirror-axes must be some of 0, 1 and 2, each once, not {config.mirror_axes}")


# ------------------------------------------------------------------------------------------------- the data


def choose_cases(config: Config) -> tuple[list[Case], list[Case]]:
    """Training cases, drawn at random if not all are asked for, and validation cases.

    Raises:
        FdifError: more cases are asked for than there are, or there are none.
    """
    training, validation = load_decathlon(config.dataset)
    lists = (("training", training, config.cases), ("validation", validation, config.val_cases))
    for name, cases, wanted in lists:
        if not cases:
            raise FdifError(f"{config.dataset}: lists no {name} cases")
        if wanted > len(cases):
            option = "--cases" if name == "training" else "--val-cases"
            raise FdifError(f"{option} {wanted}: {config.dataset} lists {len(cases)} {name} cases")
    if config.cases:
        order = jax.random.permutation(stream(config.seed, "cases"), len(training))
        training = [training[i] for i in np.asarray(order)[: config.cases]]
    return training, validation[: config.val_cases or None]


def read_cases(cases: Sequence[Case], config: Config, num_classes: int, what: str) -> list[_Loaded]:
    """Read and prepare cases, with a progress bar."""
    loaded = []
    for case in track(cases, what, console=Console(stderr=True), transient=True):
        image, label = load_case(case, num_classes)
        prepared = prepare_image(image.array, config.window)
        loaded.append(_Loaded(case.id, prepared, label.array, label.affine))
    return loaded


# ---------------------------------------------------------------------------------------------- the network


def choose_network(
    config: Config, out_channels: int, shapes: Sequence[tuple[int, ...]]
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """The network as plain data, and the patch it is trained on.

    Raises:
        FdifError: the run directory is none, or options contradict its network.
    """
    if config.init == "scratch":
        spec = network_of(config, in_channels=1, out_channels=out_channels, grid=(_LARGEST_PATCH,) * 3)
    else:
        pretrained = load_run(config.init).network
        _check_agrees(config, pretrained)
        spec = models.segmenting(pretrained, out_channels) | {"in_channels": 1}
    abstract = nnx.eval_shape(lambda: models.create(**spec))
    like = planned(config)
    patch = config.patch or (like.patch if like else None) or default_patch(shapes, abstract.grid_multiple)
    return spec | ({"grid": list(patch)} if models.takes_grid(spec["name"]) else {}), patch


def _check_agrees(config: Config, pretrained: Mapping[str, Any]) -> None:
    """What is asked for beside a run's network must be that network's."""
    like = planned(config)
    asked = (like.network if like else {}) | parse_size(config.size)
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    asked |= {"name": config.network} if config.network != defaults["network"] else {}
    asked |= {"dtype": config.dtype} if config.dtype != defaults["dtype"] else {}
    for name, value in asked.items():
        if value != pretrained.get(name):
            option = {"name": "--network", "preset": f"--size {value}", "dtype": "--dtype"}.get(
                name, f"--size {name}"
            )
            option = f"--plans ({name})" if like and name in like.network else option
            raise FdifError(
                f"{option} contradicts {config.init}, whose network is {dict(pretrained)}; leave it out, "
                "or give --init scratch"
            )


def default_patch(shapes: Sequence[tuple[int, ...]], multiple: tuple[int, int, int]) -> tuple[int, int, int]:
    """The median case, rounded up to what the network takes and no larger than about 96."""
    median = np.minimum(np.median(np.array(shapes), axis=0), _LARGEST_PATCH)
    d, h, w = np.maximum(np.ceil(median / multiple), 2).astype(int) * multiple
    return int(d), int(h), int(w)


def initialise(model: nnx.Module, config: Config) -> dict[str, Any]:
    """Load the pre-trained weights, if any; where they are from, for ``run.json``."""
    if config.init == "scratch":
        return {"from": "scratch"}
    pretrained = load_run(config.init)
    original = models.create(**pretrained.network)
    pretrained.restore(original, config.which)
    report = carry(model, original, source=config.init, head=False)
    state = to_torch_state_dict(original)
    print(f"{config.init}: {report.summary()}")
    digest = hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest()
    return {"from": config.init, "which": config.which, "weights_sha256": digest}


def _document(
    config: Config,
    plan: Plan,
    spec: dict[str, Any],
    origin: dict[str, Any],
    patch: tuple[int, int, int],
    training: Sequence[Case],
    validation: Sequence[Case],
) -> dict[str, Any]:
    return {
        "kind": "fine-tuning",
        "network": spec,
        "init": origin,
        "dataset": {
            "list": str(config.dataset),
            "training": [case.id for case in training],
            "validation": [case.id for case in validation],
            "window": config.window,
        },
        "training": dataclasses.asdict(plan)
        | {"augment": config.augment, "loss": config.loss, "patch": patch, "mirror_axes": config.mirror_axes},
        "validation": {"every": config.val_every, "overlap": config.overlap},
    }


# ------------------------------------------------------------------------------------------------- the result


def evaluate(
    run: Run,
    sliding: SlidingWindow,
    trained: Weights,
    cases: Sequence[_Loaded],
    class_names: Sequence[str],
    save_predictions: bool,
) -> None:
    """Predict every validation case; write ``metrics.json``, ``dice.csv`` and pictures; print a table."""
    rows = []
    for i in track(range(len(cases)), "evaluating", console=Console(stderr=True), transient=True):
        case, (prediction, dice) = cases[i], sliding.predict(trained, i)
        rows.append(dice)
        if i == 0:
            pictures = write_pictures(run, (case.image, case.label, prediction), class_names)
        if save_predictions:
            (run.path / "predictions").mkdir(exist_ok=True)
            write_nifti(run.path / "predictions" / f"{case.name}.nii.gz", prediction, case.affine)
    dice = np.stack(rows)
    per_class, per_case = _plain(jnp.nanmean(dice, axis=0)), _plain(jnp.nanmean(dice, axis=1))
    mean = _plain(mean_dice(dice))
    metrics = {
        "mean_dice": mean,
        "dice": dict(zip(class_names, per_class, strict=True)),
        "cases": {c.name: d for c, d in zip(cases, per_case, strict=True)},
    }
    write_atomic(run.path / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    write_atomic(run.path / "dice.csv", _csv(cases, class_names, dice, per_case).encode())

    table = Table(title=f"Dice of {len(cases)} validation cases")
    for column in ("class", "Dice"):
        table.add_column(column, justify="right" if column == "Dice" else "left")
    for name, value in (*zip(class_names, per_class, strict=True), ("mean", mean)):
        table.add_row(name, "absent" if value is None else f"{value:.4f}")
    Console().print(table)
    print(f"{run.path}: metrics.json, dice.csv, " + ", ".join(p.name for p in pictures))


def _plain(values: Any) -> Any:
    """As JSON holds it: rounded, and None for what is nowhere."""
    if np.ndim(values):
        return [_plain(value) for value in np.asarray(values)]
    return None if np.isnan(values) else round(float(values), 6)


def _csv(cases: Sequence[_Loaded], class_names: Sequence[str], dice: np.ndarray, per_case: Sequence) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", *class_names, "mean"])
    for case, row, mean in zip(cases, dice, per_case, strict=True):
        writer.writerow([case.name, *_plain(row), mean])
    return text.getvalue()


if __name__ == "__main__":
    cli.run("finetune")
