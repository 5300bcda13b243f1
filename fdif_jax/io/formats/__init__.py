"""Formats of volumes beside NIfTI and Blosc2, a module each: what reads them, and what writes label maps in them."""
