"""MONAI's sliding windows."""

import jax.numpy as jnp
import numpy as np
import torch
from monai.inferers import sliding_window_inference


def monai(function, image, patch, overlap):
    """MONAI's result, channels last, of a function of tiles with channels last."""

    def predictor(tiles):
        result = function(jnp.asarray(tiles.numpy()).transpose(0, 2, 3, 4, 1))
        return torch.from_numpy(np.asarray(result).transpose(0, 4, 1, 2, 3).copy())

    volume = torch.from_numpy(image.transpose(3, 0, 1, 2).copy())[None]
    result = sliding_window_inference(volume, patch, 1, predictor, overlap=overlap, mode="gaussian")
    return result[0].permute(1, 2, 3, 0).numpy()
