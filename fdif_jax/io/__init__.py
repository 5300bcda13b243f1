"""Volumes and tables on disk: NIfTI and Blosc2, and files that are whole or not there."""
