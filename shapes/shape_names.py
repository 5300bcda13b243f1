"""How an option names a family: a class, one of another vocabulary, or one of a user's file."""

from collections.abc import Sequence

from fdif_jax.errors import FdifError
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.vocabulary.vocabulary import Family, Vocabulary, resolve

_SHORT = ("published", "exact", "avs_db")  # vocabularies of the package, by one word


def find_family(shape: str, files: Sequence[str] = ()) -> tuple[Vocabulary, Family]:
    """The vocabulary, with more Python files, and family of ``torus``, ``published:torus``, or ``FILE.py:NAME``.

    FdifError if there is none, or the file has a mistake.
    """
    source, _, name = shape.rpartition(":")
    if not name or (source == "" and ":" in shape):
        raise FdifError(f"shape {shape!r}: should read FILE.py:NAME, or torus for a class that is built in")
    if name.endswith(".py"):
        names = ", ".join(f.name for f in vocabulary_of(name).families)
        raise FdifError(f"shape {shape!r}: say which family, as in {name}:NAME; the file has {names}")
    vocabulary = find_vocabulary(source or "exact", *files)
    return vocabulary, vocabulary.family(name)


def find_vocabulary(*sources: str) -> Vocabulary:
    """The vocabulary that ``exact``, ``FILE.py``, or a recipe's words for some make together."""
    return resolve([f"fdif_jax.shapes:{source}" if source in _SHORT else source for source in sources])
