"""nnU-Net as a client: its environment, the Decathlon's folder of our test data, a plan, runs to be exported."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fdif_jax import models
from fdif_jax.training.network import State, weights
from fdif_jax.training.run_document import RunDocument
from fdif_jax.training.runs import open_run
from tests.helpers import twins  # noqa: F401 - for torchvision
from tests.helpers.paths import HIPPOCAMPUS

# nnU-Net's trainers import timm, and that torchvision: see twins.py, which has made it harmless in this process.
BROKEN_TORCHVISION = not hasattr(sys.modules.get("torchvision._meta_registrations"), "__file__")


# What a plans file of nnU-Net 2.8 says of a residual encoder U-Net, here an anisotropic one.
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 12],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_blocks_per_stage": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


# A configuration for small machines, all else as in the plans' 3d_fullres.
SMALL = {
    "batch_size": 2,
    "patch_size": [24, 32, 24],
    "architecture": ARCHITECTURE
    | {
        "arch_kwargs": ARCHITECTURE["arch_kwargs"]
        | {
            "features_per_stage": [4, 8, 16],
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_blocks_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
        }
    },
}


def save_run(folder: Path, network: dict, **document) -> nnx.Module:
    """A run directory as a training would leave it, with one checkpoint of random weights; and the network."""
    model = models.create(**network)
    rng = np.random.default_rng(5)
    state = nnx.state(model, nnx.Param)
    drawn = jax.tree.map(lambda p: jnp.asarray(0.05 + 0.3 * rng.standard_normal(p.shape, np.float32)), state)
    nnx.update(model, drawn)
    with (
        open_run(folder, RunDocument.from_dict({"network": network, **document})) as run,
        run.checkpoints() as checkpoints,
    ):
        checkpoints.save(1, State(weights(model), {"steps": jnp.array(1)}, {}), None)
    return model


def decathlon_folder(parent: Path) -> Path:
    """``Task04_Hippocampus`` as the Decathlon's archive unpacks, with the twelve cases that we have."""
    folder = parent / "Task04_Hippocampus"
    shutil.copytree(HIPPOCAMPUS, folder)
    (folder / "imagesTs").mkdir()
    listed = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(listed | {"test": [], "numTest": 0}))
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Environment variables for nnU-Net's commands: its three folders in ``folder``, few processes, on the CPU."""
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "site").mkdir(exist_ok=True)
    if BROKEN_TORCHVISION:
        (folder / "site" / "sitecustomize.py").write_text(
            "import sys, types\n"
            "name = 'torchvision._meta_registrations'\n"
            "sys.modules[name] = types.ModuleType(name)\n"
        )
    return {
        **os.environ,
        **{name: str(folder / name) for name in names},
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "site"),
    }
