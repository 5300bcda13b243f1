"""Batches for training: of drawn scenes, of files, of patches of scans, and their augmentation."""
