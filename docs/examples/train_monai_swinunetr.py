"""Pre-train MONAI's SwinUNETR in plain PyTorch, on volumes that fdif-jax draws while the network trains.

The defaults are for a laptop; for the real thing take a GPU, --grid 96 96 96, --feature-size 48 and many steps.
It needs `pip install fdif-jax[torch] monai`.

Example:
    python docs/examples/train_monai_swinunetr.py --steps 10
"""

import os
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU, leave PyTorch room

import torch
import tyro
from monai.losses import DiceCELoss
from monai.networks.nets import SwinUNETR

import fdif_jax as fd
from fdif_jax.torch import VolumeDataset


def main(
    recipe: str = "fdif",
    grid: tuple[int, int, int] = (64, 64, 64),
    feature_size: int = 12,
    batch_size: int = 2,
    steps: int = 5,
    out: str = "",
) -> None:
    """Train, print loss and volumes a second, and save the state dict.

    Args:
        recipe: a shipped recipe's name or a .toml file.
        grid: voxels along each axis, multiples of 32, and not 32 along all of them.
        feature_size: of SwinUNETR; a multiple of 12.
        batch_size: volumes a step.
        steps: updates.
        out: .pth file for the weights; none if not given.
    """
    dataset = VolumeDataset(
        fd.load_recipe(recipe).replace(grid=grid), batch_size=batch_size, length=steps * batch_size
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = SwinUNETR(
        in_channels=1, out_channels=dataset.program.num_classes + 1, feature_size=feature_size
    ).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-5)
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)

    start = time.perf_counter()
    for step, (images, labels) in enumerate(dataset, 1):
        # Volumes drawn on a GPU are there already; those of the CPU travel.
        loss = criterion(net(images.to(device)), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.4f}")
        if step == 1:  # which compiled the recipe
            start = time.perf_counter()
    if steps > 1:
        print(f"{(steps - 1) * batch_size / (time.perf_counter() - start):.2f} volumes/s")
    if out:
        torch.save(net.state_dict(), out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
