"""Fine-tune a network on labelled scans, and measure its Dice on the validation cases.

DATASET is a folder or JSON list in the form of the Decathlon or MONAI, or a raw dataset of nnU-Net, whose classes or
regions (unions of labels, which may overlap) are learnt; its volumes are .nii.gz, .nii, .b2nd, .nrrd, .mha, .mhd, .mgz,
or folders of DICOM slices. --init is released weights by name, a run directory of `fdif pretrain` or `fdif import`, a
PyTorch file (.pth, .pt, .safetensors), or scratch. Where nothing is said, it begins with released weights, and steps
and learning rate follow from the number of cases and from the weights; what is chosen is printed with its reason.

How scans are prepared follows from the training cases and is printed with its reasons: spacing, patch, normalisation
of every channel, and the axes to mirror along. Patches are drawn, turned, mirrored and changed in intensity on the
device. Scans are read once; until they are prepared they are kept, cropped, in the folder for temporary files (TMPDIR).
The same command on the same --out goes on where it stopped. `fdif predict` applies the result to new scans.

Example:
    fdif finetune Task04_Hippocampus --out runs/hippocampus
    fdif finetune Task04_Hippocampus --init runs/pretrain --cases 8 --steps 1000 --out runs/finetune
    fdif finetune Task04_Hippocampus --init scratch --size tiny --steps 1000 --out runs/scratch
    fdif finetune Dataset004_Hippocampus --init fdif.pth --folds 5 --patience 10 --out runs/folds
"""

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fdif_jax import models
from fdif_jax.batches.patches import lay_out, patch_batch
from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case, load_conventions
from fdif_jax.inference.sliding_window import TiledNetwork
from fdif_jax.io.files import check_out
from fdif_jax.objectives.supervised import Regions, Segmentation
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.preparation import Prepared
from fdif_jax.preprocessing.scan_store import ScanStore
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.watching import TrainingBar
from fdif_jax.scripts.jobs.cases import Chosen, choose_cases, plan_for, read_prepared
from fdif_jax.scripts.jobs.dry_run import Estimate, estimate_training
from fdif_jax.scripts.jobs.initial_weights import SCRATCH, Initial, read_initial
from fdif_jax.scripts.jobs.scores import Referee
from fdif_jax.scripts.jobs.suited import suited
from fdif_jax.scripts.options.finetuning import FinetuningOptions as Config
from fdif_jax.scripts.options.finetuning import check_finetuning
from fdif_jax.scripts.options.network import UNKNOWN_GRID, network_of, planned
from fdif_jax.scripts.options.training import devices_of, plan_of, settings_of
from fdif_jax.tasks import Task
from fdif_jax.training.layer_rates import encoder_weights, layer_rates
from fdif_jax.training.loop import fit, rehearse
from fdif_jax.training.network import Network, functional
from fdif_jax.training.plan import TrainingPlan
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


class _Ready(NamedTuple):
    """Everything that is decided before the first step."""

    chosen: Chosen  # the cases' files
    plan: CasePlan  # how they are prepared
    mirror_axes: tuple[int, ...]  # along which patches and predictions are mirrored
    spec: dict[str, Any]  # the network as plain data
    network: Network  # itself, with the weights it starts from
    trained_on: list[Prepared]  # the training cases
    validated_on: list[Prepared]  # the validation cases


def run(config: Config) -> None:
    """Train to the last step from wherever the run directory is, then evaluate; every fold, if there are folds."""
    check_finetuning(config)
    check_out(config.out, folder=True)
    if not config.folds:
        if needed := _train(config):
            needed.tell()
        return
    numbers = range(config.folds) if config.fold is None else (config.fold,)
    if config.dry_run and len(numbers) > 1:
        print(f"of {len(numbers)} folds the first; each of the others needs about as much")
    with ScanStore(load_conventions(config.dataset)) as scans:  # which all folds share
        for number in numbers[:1] if config.dry_run else numbers:
            print(f"fold {number} of {config.folds}")
            fold = dataclasses.replace(config, fold=number, out=config.out / f"fold_{number}")
            if needed := _train(fold, scans):
                needed.tell()


def _train(config: Config, shared: ScanStore | None = None) -> Estimate | None:
    """Train, or, of a dry run, what it needs."""
    devices = devices_of(config)
    config = suited(config)
    if config.dry_run:
        config = dataclasses.replace(config, cache=None)  # which would be written
    plan = plan_of(config, config.steps, config.seed)
    initial = read_initial(config.init, config.which, config)
    with ScanStore(load_conventions(config.dataset)) if shared is None else nullcontext(shared) as scans:
        ready = _prepare(config, initial, scans)
    conventions = ready.chosen.conventions
    loss = _objective(conventions, config).loss
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
            painted=conventions.painted,
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
    document = _document(config, plan, ready, initial)
    data = lay_out(ready.trained_on, len(conventions.label_names) + 1, conventions.regions)
    if config.dry_run:
        return estimate_training(
            config.out,
            document,
            plan.steps,
            config.keep_every,
            lambda: rehearse(ready.network, make_batch, data, plan, loss=loss, devices=devices),
        )
    with open_run(config.out, document) as opened:
        with TrainingBar(plan.steps) as bar:
            trained = fit(
                ready.network,
                make_batch,
                data,
                plan,
                opened,
                loss=loss,
                devices=devices,
                validate=lambda weights, _: referee.measure(devices.gather(weights)),
                validate_every=config.val_every if ready.validated_on else 0,
                checkpoint_every=config.checkpoint_every,
                keep_every=config.keep_every,
                patience=config.patience or 0,
                report=bar.show,
            )
        judged: Any = opened.weights("best") if config.patience else devices.gather(trained)
        if is_first_process():
            referee.report(opened, judged, ready.mirror_axes, save_predictions=config.save_predictions)
            print(
                f"next: fdif predict --model {config.out} --input SCANS --out LABELS, "
                f"or fdif export {config.out} --out weights.pth"
            )
    return None


def estimate(config: Config) -> Estimate:
    """What a fine-tuning without folds needs, by its first steps; nothing is written."""
    found = _train(dataclasses.replace(config, dry_run=True))
    assert found is not None
    return found


def _prepare(config: Config, initial: Initial | None, scans: ScanStore) -> _Ready:
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
    return _Ready(chosen, plan, axes, spec, network, trained_on, validated_on)


def _objective(conventions: Conventions, config: Config) -> Segmentation | Regions:
    """What is learnt: classes, one to a voxel, or regions, each by itself."""
    if conventions.regions:
        return Regions(conventions.regions, config.loss)
    return Segmentation((Task("class", conventions.class_names),), config.loss)


def _network(config: Config, initial: Initial | None, chosen: Chosen) -> dict[str, Any]:
    """The network as plain data, for the dataset's channels and classes or regions."""
    channels = len(chosen.conventions.channel_names)
    out_channels = _objective(chosen.conventions, config).channels
    if initial is None:
        return network_of(config, in_channels=channels, out_channels=out_channels, grid=UNKNOWN_GRID)
    return models.segmenting(initial.network, out_channels) | {"in_channels": channels}


def _document(config: Config, plan: TrainingPlan, ready: _Ready, initial: Initial | None) -> RunDocument:
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
    cli.main(["finetune", *sys.argv[1:]])
