"""Write a run's weights under the names and in the layout that the network's PyTorch twin loads.

The suffix of --out says the form: .pth (or .pt) needs PyTorch installed, .safetensors does not.

Example:
    fdif export runs/pretrain --out weights.pth
    fdif export runs/pretrain --out weights.safetensors --which best
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from fdif_jax import interop, models
from fdif_jax.runs import load_run
from fdif_jax.scripts import cli

_LOAD = {
    ".pth": "import torch\nnet.load_state_dict(torch.load({file!r}, weights_only=True))",
    ".safetensors": "from safetensors.torch import load_file\nnet.load_state_dict(load_file({file!r}))",
}
_LOAD[".pt"] = _LOAD[".pth"]


@dataclass(frozen=True)
class Config:
    """Options of ``fdif export``."""

    run_dir: tyro.conf.Positional[Path]
    """Folder that `fdif pretrain` or `fdif finetune` wrote."""
    out: Path
    """File to write: .pth, .pt or .safetensors."""
    which: Literal["best", "last"] = "last"
    """Weights of the best validation, or the newest."""


def run(config: Config) -> None:
    """Restore the run's network and write its state dict."""
    interop.check_suffix(config.out)
    training_run = load_run(config.run_dir)
    model = models.create(**training_run.network)
    training_run.restore(model, which=config.which)
    state = interop.to_torch_state_dict(model)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    interop.save_weights(state, config.out)
    arrays: dict[int, np.ndarray] = {id(array): array for array in state.values()}
    parameters = sum(array.size for array in arrays.values())
    print(f"{config.out}: {len(arrays)} tensors under {len(state)} names, {parameters:,} parameters")
    print("\nIn PyTorch:\n")
    print(model.torch_code())
    print(_LOAD[config.out.suffix].format(file=str(config.out)))


if __name__ == "__main__":
    cli.run("export")
