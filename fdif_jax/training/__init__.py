"""Training of a network: its updates, losses, devices, checkpoints and run directories."""
