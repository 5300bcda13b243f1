"""Fine-tune a network on labelled scans, and measure its Dice on the validation cases.

DATASET is a folder or JSON list in the form of the Decathlon or MONAI, or a raw dataset of nnU-Net. --init is a run
directory of `fdif pretrain` or `fdif import`, a PyTorch file (.pth, .pt, .safetensors), or scratch; then --network and
--size say which network.

How scans are prepared follows from the training cases and is printed with its reasons: spacing, patch, normalisation
of every channel, and the axes to mirror along. Patches are drawn, turned, mirrored and changed in intensity on the
device. Scans are read once; until they are prepared they are kept, cropped, in the folder for temporary files (TMPDIR).
The same command on the same --out goes on where it stopped. `fdif predict` applies the result to new scans.

Example:
    fdif finetune Task04_Hippocampus --init runs/pretrain --cases 8 --steps 1000 --out runs/finetune
    fdif finetune Task04_Hippocampus --init scratch --size tiny --steps 1000 --out runs/scratch
    fdif finetune Dataset004_Hippocampus --init fdif.pth --folds 5 --patience 10 --out runs/folds
"""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from fdif_jax import models
from fdif_jax.batches.patches import lay_out, patch_batch
from fdif_jax.datasets.reader import Case, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.scan_store import ScanStore
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.watching import TrainingBar
from fdif_jax.scripts.jobs.cases import Chosen, choose_cases, plan_for, read_prepared
from fdif_jax.scripts.jobs.initial_weights import SCRATCH, Initial, read_initial
from fdif_jax.scripts.jobs.scores import Referee
from fdif_jax.scripts.options.network import network_of, planned
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.training import TrainingOptions, devices_of, plan_of, settings_of
from fdif_jax.tasks import Task
from fdif_jax.training.layer_rates import encoder_weights, layer_rates
from fdif_jax.training.loop import fit
from fdif_jax.training.network import Network, functional
from fdif_jax.training.objectives import Segmentation
from fdif_jax.training.plan import Plan
from fdif_jax.training.processes import is_first_process
from fdif_jax.training.run_document import (
    FINE_TUNING,
    CasesUsed,
    Inference,
    RunDocument,
    Start,
    Validation,
)
from fdif_jax.training.runs import open_run

_GRID = (96, 96, 96)  # that a network of position embeddings is made for until the patch is known


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions):
    """Options of `fdif finetune`."""

    dataset: tyro.conf.Positional[Path]
    """The dataset's folder or JSON list."""
    init: str
    """A run directory, a PyTorch file, or scratch."""
    out: Path
    """Run directory: weights, measurements, Dice, pictures; with --folds one for each fold in it."""
    steps: int = 20_000
    """Updates; the learning rate reaches 0 at the last."""
    seed: int = 0
    """Seed of everything that is drawn, the choice of --cases and folds too."""
    cases: int = 0
    """Training cases, drawn at random (of one seed, fewer are among more); 0 for all."""
    val_cases: int = 0
    """Validation cases, the first of the list; 0 for all."""
    val_from: Literal["validation", "training"] = "validation"
    """Validate on the dataset's validation cases, or on --val-cases of the training cases that are not trained on."""
    folds: int = 0
    """Cross-validate on the training cases in so many parts; 0 for no cross-validation."""
    fold: int | None = None
    """Which part to validate on, from 0; all, one after another, if not given."""
    which: Literal["best", "last"] = "last"
    """Weights of the pre-training run to begin with: of its best validation, or the newest."""
    freeze_encoder: Flag = False
    """Leave the encoder as it was pre-trained."""
    layer_decay: float = 1.0
    """Learning rate of an encoder's level as part of the next deeper one's, as 0.75; the decoder has all of it."""
    patience: int = 0
    """Stop after so many validations in a row without a better Dice, and keep the best weights; 0 for never."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres to resample to, left-right, back-front, down-up; the training cases' median if not given."""
    patch: tuple[int, int, int] | None = None
    """Voxels of a patch, along the same axes; the median case, at most 96³ voxels, if not given."""
    order: Literal[1, 3] = 3
    """Images are resampled linearly (1) or by cubic splines (3)."""
    window: tuple[float, float] | None = None
    """Clip intensities to this range first, as -175 250; of channels called CT the foreground's, if not given."""
    mirror_axes: Annotated[
        tuple[int, ...] | Literal["auto", "none"], tyro.conf.arg(metavar="auto|none|AXIS ...")
    ] = "auto"
    """Axes (0 left-right, 1 back-front, 2 down-up) to mirror along: those along which no class always lies before
    another, if not given."""
    rotate: float = 15.0
    """Rotate patches by up to so many degrees around each axis; 0 for never."""
    zoom: float = 1.2
    """Show patches up to so many times larger or smaller; 1 for never."""
    foreground: float = 0.5
    """Part of the patches that are centred on a class, drawn evenly from those of the case."""
    overlap: float = 0.5
    """Part of a patch that neighbours share in sliding-window inference."""
    cache: Path | None = None
    """Folder to keep prepared cases in, for the next run on the same cases by the same plan."""
    save_predictions: bool = False
    """Also write the predicted labels of the validation cases as NIfTI."""
    skip_bad: Flag = False
    """Go on without cases that cannot be read, and say so."""


class _Prepared(NamedTuple):
    """Everything that is decided before the first step.

    Attributes:
        chosen: the cases' files.
        plan: how they are prepared.
        mirror_axes: along which patches and predictions are mirrored.
        spec: the network as plain data.
        network: itself, with the weights it starts from.
        trained_on: the training cases.
        validated_on: the validation cases.
    """

    chosen: Chosen
    plan: CasePlan
    mirror_axes: tuple[int, ...]
    spec: dict[str, Any]
    network: Network
    trained_on: list[Prepared]
    validated_on: list[Prepared]


def run(config: Config) -> None:
    """Train to the last step from wherever the run directory is, then evaluate; every fold, if there are folds."""
    _check(config)
    if not config.folds:
        _train(config)
        return
    with ScanStore(load_conventions(config.dataset)) as scans:  # which all folds share
        for number in range(config.folds) if config.fold is None else (config.fold,):
            print(f"fold {number} of {config.folds}")
            fold = dataclasses.replace(config, fold=number, out=config.out / f"fold_{number}")
            _train(fold, scans)


def _check(config: Config) -> None:
    for name in ("cases", "val_cases", "folds", "patience"):
        if getattr(config, name) < 0:
            raise FdifError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(config, name)}")
    if config.patch is not None and min(config.patch) < 1:
        raise FdifError(f"--patch must be three positive numbers, not {config.patch}")
    if config.window is not None and not config.window[0] < config.window[1]:
        raise FdifError(f"--window must be a lower and a higher intensity, not {config.window}")
    axes = config.mirror_axes
    if not isinstance(axes, str) and (not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes)):
        raise FdifError(f"--mirror-axes must be auto, none, or some of 0, 1 and 2, each once, not {axes}")
    if not 0 <= config.overlap < 1:
        raise FdifError(f"--overlap must be at least 0 and below 1, not {config.overlap:g}")
    if not 0 <= config.rotate <= 180:
        raise FdifError(f"--rotate must be from 0 to 180 degrees, not {config.rotate:g}")
    if not 1 <= config.zoom < 10:
        raise FdifError(f"--zoom must be at least 1 and below 10, not {config.zoom:g}")
    if not 0 <= config.foreground <= 1:
        raise FdifError(f"--foreground must be from 0 to 1, not {config.foreground:g}")
    if not 0 < config.layer_decay <= 1:
        raise FdifError(f"--layer-decay must be above 0 and at most 1, not {config.layer_decay:g}")
    if config.freeze_encoder and config.layer_decay != 1:
        raise FdifError("--freeze-encoder leaves no layer to --layer-decay; leave one of them out")
    if config.freeze_encoder and config.init == "scratch":
        raise FdifError("--freeze-encoder with --init scratch would keep random weights; leave it out")
    if config.patience and not config.val_every:
        raise FdifError("--patience counts validations; --val-every must be above 0")
    if config.fold is not None and not config.folds:
        raise FdifError(f"--fold {config.fold}: of how many? give --folds too")
    if config.folds and config.val_from == "training":
        raise FdifError("--folds validate on training cases already; leave --val-from out")


def _train(config: Config, shared: ScanStore | None = None) -> None:
    devices, plan = devices_of(config), plan_of(config, config.steps, config.seed)
    initial = read_initial(config.init, config.which, config)
    with ScanStore(load_conventions(config.dataset)) if shared is None else nullcontext(shared) as scans:
        ready = _prepare(config, initial, scans)
    class_names = ready.chosen.conventions.class_names
    referee = Referee(
        ready.validated_on,
        ready.chosen,
        TiledNetwork(
            ready.network.apply,
            [ready.network.weights],
            ready.plan.patch,
            in_channels=len(ready.plan.channels),
            overlap=config.overlap,
            tile_batch=1 if jax.default_backend() == "cpu" else 4,
        ),
    )
    make_batch = patch_batch(
        ready.plan.patch,
        ready.plan.spacing,
        foreground=config.foreground,
        mirror_axes=ready.mirror_axes,
        degrees=config.rotate,
        zoom=config.zoom,
        intensity=config.augment,
    )
    with open_run(config.out, _document(config, plan, ready, initial)) as opened:
        with TrainingBar(plan.steps) as bar:
            trained = fit(
                ready.network,
                make_batch,
                lay_out(ready.trained_on, len(class_names) + 1),
                plan,
                opened,
                loss=Segmentation((Task("class", class_names),), config.loss).loss,
                devices=devices,
                validate=lambda weights, _: referee.measure(devices.gather(weights)),
                validate_every=config.val_every if ready.validated_on else 0,
                checkpoint_every=config.checkpoint_every,
                keep_every=config.keep_every,
                patience=config.patience,
                report=bar.show,
            )
        judged: Any = opened.weights("best") if config.patience else devices.gather(trained)
        if is_first_process():
            referee.report(opened, judged, ready.mirror_axes, save_predictions=config.save_predictions)


def _prepare(config: Config, initial: Initial | None, scans: ScanStore) -> _Prepared:
    """Read the cases, and make the network that fits them; nothing is written yet."""
    chosen = choose_cases(config)
    spec = _network(config, initial, chosen)
    multiple = nnx.eval_shape(lambda: models.create(**spec)).grid_multiple
    plan, axes, chosen = plan_for(config, chosen, multiple, planned(config), scans)
    spec |= {"grid": list(plan.patch)} if models.takes_grid(spec["name"]) else {}
    model = models.create(**spec, seed=config.seed)
    if initial is not None:
        print(f"{config.init}: {initial.put_into(model).summary()}")
    network = functional(
        model,
        frozen=encoder_weights(model) if config.freeze_encoder else (),
        rates={} if config.layer_decay == 1 else layer_rates(model, config.layer_decay),
    )
    # A patch that the network cannot take is an error before anything is written.
    jax.eval_shape(network.apply, network.weights, jnp.zeros((1, *plan.patch, len(plan.channels))))
    trained_on, validated_on, chosen = read_prepared(config, chosen, plan, scans)
    return _Prepared(chosen, plan, axes, spec, network, trained_on, validated_on)


def _network(config: Config, initial: Initial | None, chosen: Chosen) -> dict[str, Any]:
    """The network as plain data, for the dataset's channels and classes."""
    channels = len(chosen.conventions.channel_names)
    out_channels = len(chosen.conventions.class_names) + 1
    if initial is None:
        return network_of(config, in_channels=channels, out_channels=out_channels, grid=_GRID)
    return models.segmenting(initial.network, out_channels) | {"in_channels": channels}


def _document(config: Config, plan: Plan, ready: _Prepared, initial: Initial | None) -> RunDocument:
    """What decides the result; `fdif predict` reads how cases are prepared from it."""
    chosen = ready.chosen
    patches = ("rotate", "zoom", "foreground", "freeze_encoder", "layer_decay", "patience")
    further = {name: getattr(config, name) for name in patches} | {"mirror_axes": ready.mirror_axes}
    return RunDocument(
        kind=FINE_TUNING,
        network=ready.spec,
        init=Start(SCRATCH) if initial is None else initial.start(config.which),
        dataset=CasesUsed(
            str(config.dataset), _ids(chosen.training), _ids(chosen.validation), tuple(chosen.skipped)
        ),
        cases=ready.plan.to_dict(),
        labels=chosen.conventions.to_dict(),
        training=settings_of(config, plan, **further),
        validation=Validation(config.val_every),
        inference=Inference(config.overlap, ready.mirror_axes, "best" if config.patience else "last"),
    )


def _ids(cases: Sequence[Case]) -> tuple[str, ...]:
    return tuple(case.id for case in cases)


if __name__ == "__main__":
    cli.run("finetune")
