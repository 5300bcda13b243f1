"""The options of `fdif finetune`, and what is impossible among them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fdif_jax.errors import FdifError
from fdif_jax.scripts.options.recipe import Flag
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.scripts.options.training import TrainingOptions
from fdif_jax.training.run_document import Which

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class FinetuningOptions(TrainingOptions):
    """Options of `fdif finetune`."""

    dataset: tyro.conf.Positional[Path]
    """The dataset's folder or JSON list."""
    init: str = AUTO
    """Released weights by name (`fdif weights` lists them), a run directory, a PyTorch file, scratch; or auto: the
    released weights of the network that is asked for, resenc-organs if none is."""
    out: Path
    """Run directory: weights, measurements, Dice, pictures; with --folds one for each fold in it."""
    steps: int = 0
    """Updates; the learning rate reaches 0 at the last. 0 is by the number of training cases."""
    lr: float = 0.0
    """Highest learning rate of AdamW; 0 is what was tuned for the network's released weights, or else 1e-4."""
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
    folds_from: Literal["list", "seed"] = "list"
    """Folds are those of the list where its cases have a "fold", or of splits_final.json beside it; or always drawn."""
    which: Which = "last"
    """Weights of the pre-training run to begin with: of its best validation, the newest, or of a step that it kept
    (--keep-every)."""
    freeze_encoder: Flag = False
    """Leave the encoder as it was pre-trained."""
    layer_decay: float = 1.0
    """Learning rate of an encoder's level as a fraction of the next deeper one's, e.g. 0.75; the decoder has all of
    it."""
    patience: int | None = None
    """Stop after so many validations in a row without a better Dice, and keep the best weights; 0 for never. If not
    given it is 5 where --steps is not given and training cases are held out to validate, and else 0."""
    spacing: tuple[float, float, float] | None = None
    """Millimetres to resample to, left-right, back-front, down-up; the training cases' median if not given."""
    patch: tuple[int, int, int] | None = None
    """Voxels of a patch, along the same axes; the median case, at most 96³ voxels, on a CPU 48³, if not given."""
    order: Literal[1, 3] = 3
    """Images are resampled linearly (1) or by cubic splines (3)."""
    window: tuple[float, float] | None = None
    """Clip intensities to this range first, e.g. -175 250; of channels called CT the foreground's, if not given."""
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
    """Fraction of the patches that are centred on a class, drawn evenly from those of the case."""
    overlap: float = 0.5
    """Fraction of a patch that neighbours share in sliding-window inference."""
    cache: Path | None = None
    """Folder to keep prepared cases in, for the next run on the same cases by the same plan."""
    save_predictions: bool = False
    """Also write the predicted labels of the validation cases, in their images' formats."""
    skip_bad: Flag = False
    """Go on without cases that cannot be read, and say so."""


def check_finetuning(config: FinetuningOptions) -> None:
    """Raise FdifError if an option is out of its range, or two contradict each other."""
    check_least(config, "{} or more", steps=0, cases=0, val_cases=0, folds=0, patience=0)
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
