"""A user's file of families as a vocabulary, with all displacements and mappers besides its own."""

from pathlib import Path

from fdif_jax.shapes.displacements import DISPLACEMENTS
from fdif_jax.shapes.mappers import MAPPERS
from fdif_jax.vocabulary.user_files import load_catalogue
from fdif_jax.vocabulary.vocabulary import Vocabulary


def vocabulary_of(path: str | Path) -> Vocabulary:
    """The file's families, displacements and mappers, and those of the package; errors as of `load_catalogue`."""
    return load_catalogue(path, DISPLACEMENTS, MAPPERS)
