"""Write a run's weights for PyTorch, under the names and in the layout of the network's PyTorch twin.

--to says who reads the file:
    monai        a plain state dict, for MONAI and any PyTorch code (.pth)
    safetensors  the same as .safetensors; PyTorch need not be installed to write it
    nnunet       what nnUNetv2_train -pretrained_weights takes (.pth); resenc_unet and primus
    nnssl        what nnUNetv2_preprocess_like_nnssl and nnUNetv2_train_pretrained take (.pth); resenc_unet and primus

nnU-Net takes weights whose shapes are those of its own network. --in-channels, --out-channels and --patch write the
network for other images, classes or patches than it was trained on, by the rules by which fdif finetune loads one.
Of a run that learnt to classify, monai and safetensors get the encoder and its linear head; with --out-channels, and
for nnU-Net in any case, the file is the segmentation network with that encoder, all else fresh.

Example:
    fdif export runs/pretrain --out weights.pth
    fdif export runs/pretrain --out weights.safetensors --which best
    fdif export runs/pretrain --to nnunet --out pretrained.pth --in-channels 4
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fdif_jax import models
from fdif_jax.scripts import cli
from fdif_jax.scripts.jobs.exporting import Trained, Wanted, built_by_nnunet, check_wanted, write_weights
from fdif_jax.training.run_document import PRETRAINING
from fdif_jax.training.runs import load_run


@dataclass(frozen=True, kw_only=True)
class Config(Wanted):
    """Options of ``fdif export``."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `fdif pretrain`, `fdif finetune` or `fdif import` wrote."""
    out: Path
    """File to write: .pth, .pt or .safetensors."""
    which: Literal["best", "last"] = "last"
    """Weights of the best validation, or the newest."""


def run(config: Config) -> None:
    """Restore the run's network and write its weights."""
    form = check_wanted(config, config.out)
    training_run = load_run(config.run_dir)
    model = models.create(**training_run.network)
    # An impossible form is an error before the weights are read.
    built_by_nnunet(str(training_run.path), training_run.network, model, form)
    training_run.restore(model, which=config.which)
    document = training_run.document
    patch = (document.recipe or {}).get("grid") or (document.training or {}).get("patch")
    trained = Trained(
        str(training_run.path), training_run.network, model, patch, document.kind == PRETRAINING
    )
    write_weights(trained, config, config.out)
    if (labels := document.labels or {}).get("regions"):
        print(
            f"its channels are the logits of regions, {', '.join(labels['class_names'])}: a sigmoid each, no softmax"
        )


if __name__ == "__main__":
    cli.run("export")
