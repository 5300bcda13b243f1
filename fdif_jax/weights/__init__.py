"""Weights of networks under PyTorch's names: files of them, conversion both ways, transfer to another network."""
