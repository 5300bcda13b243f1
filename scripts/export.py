"""Write a run's weights for PyTorch, or a fine-tuned network whole, with how scans are prepared, for other programs.

Weights are under the names and in the layout of the network's PyTorch twin. --to says who reads the file:
    monai        a plain state dict, for MONAI and any PyTorch code (.pth)
    safetensors  the same as .safetensors; PyTorch need not be installed to write it
    nnunet       what nnUNetv2_train -pretrained_weights takes (.pth); resenc_unet and primus
    nnssl        what nnUNetv2_preprocess_like_nnssl and nnUNetv2_train_pretrained take (.pth); resenc_unet and primus

nnU-Net takes weights whose shapes are those of its own network. --in-channels, --out-channels and --patch write the
network for other images, classes or patches than it was trained on, by the rules by which fdif finetune loads one.
Of a run that learnt to classify, monai and safetensors get the encoder and its linear head; with --out-channels, and
for nnU-Net in any case, the file is the segmentation network with that encoder, all else fresh.

The network of `fdif finetune` leaves whole --to one of these, which predict as `fdif predict` does:
    monai-bundle    a folder that `python -m monai.bundle run` runs
    nnunet-results  a folder of results that `nnUNetv2_predict` runs, all folds in one; resenc_unet and primus
    onnx            a program for a patch (.onnx), and a JSON file with what prepares scans for it
    exported        the same as JAX's exported StableHLO (.jaxexport), which runs without fdif-jax

Example:
    fdif export runs/pretrain --out weights.pth
    fdif export runs/pretrain --out weights.safetensors --which best
    fdif export runs/pretrain --to nnunet --out pretrained.pth --in-channels 4
    fdif export runs/finetune --to monai-bundle --out bundle
    fdif export runs/folds --to nnunet-results --out nnUNet_results
    fdif export runs/finetune --to onnx --out network.onnx
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fdif_jax import models
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_out
from fdif_jax.scripts import cli
from fdif_jax.scripts.exports.finetuned import FineTuned, load_finetuned
from fdif_jax.scripts.exports.monai_bundle import write_bundle
from fdif_jax.scripts.exports.nnunet import write_results
from fdif_jax.scripts.exports.programs import write_exported, write_onnx
from fdif_jax.scripts.jobs.exporting import (
    Form,
    Trained,
    Wanted,
    built_by_nnunet,
    check_wanted,
    write_weights,
)
from fdif_jax.training.run_document import PRETRAINING, Which
from fdif_jax.training.runs import load_run

WholeForm = Literal["monai-bundle", "nnunet-results", "onnx", "exported"]
_WHOLE: dict[str, Callable[[FineTuned, Path], None]] = {
    "monai-bundle": write_bundle,
    "nnunet-results": write_results,
    "onnx": write_onnx,
    "exported": write_exported,
}
_SUFFIXES = {"onnx": ".onnx", "exported": ".jaxexport"}  # the others write folders


@dataclass(frozen=True, kw_only=True)
class Config(Wanted):
    """Options of ``fdif export``."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `fdif pretrain`, `fdif finetune` or `fdif import` wrote."""
    out: Path
    """File to write: .pth, .pt, .safetensors, .onnx or .jaxexport; or a new folder."""
    to: Form | WholeForm | None = None
    """Who reads it; if not given the suffix says: monai for .pth and .pt, or safetensors."""
    which: Which | None = None
    """Weights of the best validation, the newest, or of a step that the run kept (--keep-every); the newest, or what a
    whole network's run says, if not given."""


def run(config: Config) -> None:
    """Restore the run's network and write its weights, or all of it."""
    if config.to in _WHOLE:
        _write_whole(config, str(config.to))
        return
    form = check_wanted(config.to, config.out)
    training_run = load_run(config.run_dir)
    model = models.create(**training_run.network)
    # An impossible form is an error before the weights are read.
    built_by_nnunet(str(training_run.path), training_run.network, model, form)
    training_run.restore(model, "last" if config.which is None else config.which)
    document = training_run.document
    patch = (document.recipe or {}).get("grid") or (document.training or {}).get("patch")
    trained = Trained(
        str(training_run.path), training_run.network, model, patch, document.kind == PRETRAINING
    )
    write_weights(trained, config, form, config.out)
    if (labels := document.labels or {}).get("regions"):
        print(
            f"its channels are the logits of regions, {', '.join(labels['class_names'])}: a sigmoid each, no softmax"
        )


def _write_whole(config: Config, form: str) -> None:
    """Write a fine-tuned network with all that predicting needs."""
    for name in ("in_channels", "out_channels", "patch"):
        if getattr(config, name) is not None:
            raise FdifError(
                f"--{name.replace('_', '-')}: --to {form} is the network as it was fine-tuned; leave it out"
            )
    suffix = _SUFFIXES.get(form, "")
    if config.out.suffix != suffix and suffix:
        raise FdifError(f"--to {form} writes {suffix}, not {config.out}")
    check_out(config.out, folder=not suffix)
    _WHOLE[form](load_finetuned(config.run_dir, config.which), config.out)


if __name__ == "__main__":
    cli.run("export")
