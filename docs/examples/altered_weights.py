"""Write two files beside released.safetensors of a folder, which has the weights of resenc-tiny.

In encoder.safetensors only the encoder is pre-trained. In rescaled.safetensors every convolution before an instance
norm has the length (the norm of all its weights) of a fresh one, which changes nothing of what the network computes.

    python altered_weights.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from fdif_jax import models
from fdif_jax.models import released
from fdif_jax.weights.state_dicts import to_torch_state_dict

ENCODER = ("encoder.", "decoder.encoder.")
BEFORE_A_NORM = (".conv.weight", ".all_modules.0.weight")

folder = Path(sys.argv[1])
trained = load_file(folder / "released.safetensors")
network = models.create(**released.card_of("resenc-tiny").network)
fresh = {name: np.ascontiguousarray(array) for name, array in to_torch_state_dict(network).items()}

encoder = {name: array if name.startswith(ENCODER) else fresh[name] for name, array in trained.items()}
save_file(encoder, folder / "encoder.safetensors")

rescaled, times = dict(trained), []
for name in filter(lambda name: name.endswith(BEFORE_A_NORM), trained):
    times.append(np.linalg.norm(trained[name]) / np.linalg.norm(fresh[name]))
    for part in (name, name.removesuffix("weight") + "bias"):
        if part in trained:
            rescaled[part] = (trained[part] / times[-1]).astype(np.float32)
save_file(rescaled, folder / "rescaled.safetensors")
print(
    f"weights before norms were {min(times):.1f} to {max(times):.1f} times as long, median {np.median(times):.1f}"
)
