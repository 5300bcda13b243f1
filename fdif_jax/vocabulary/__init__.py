"""Named random families of shapes, displacements and mappers, and how a user writes and checks some."""

from fdif_jax.vocabulary.vocabulary import resolve

__all__ = ["resolve"]
