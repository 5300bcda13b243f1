"""Libraries that only some features stand on: extras of the package, so that its core stays small."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from fdif_jax.errors import FdifError


class Extra(NamedTuple):
    """An extra of the package.

    Attributes:
        modules: what is imported of it.
        serves: what needs it, for a person.
    """

    modules: tuple[str, ...]
    serves: str


EXTRAS = {
    "formats": Extra(("SimpleITK", "pydicom", "highdicom"), "scans and segmentations as DICOM"),
    "pictures": Extra(
        ("matplotlib", "PIL"), "curves and pictures of runs, datasets, studies, scores, fits and shapes"
    ),
    "surfaces": Extra(
        ("trimesh", "igl", "skimage"), "fdif view and gallery, meshes as shapes and shapes as meshes"
    ),
    "tensorboard": Extra(("tensorboardX",), "TensorBoard's files of a pre-training"),
    "onnx": Extra(("onnx", "onnxscript", "torch"), "fine-tuned networks as ONNX"),
    "torch": Extra(("torch",), "weights as .pth files, datasets for PyTorch, comparisons with PyTorch"),
}
"""By the name that ``pip install 'fdif-jax[NAME]'`` takes."""


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Import in the block what an extra brings; FdifError, which names the extra, where it is missing."""
    try:
        yield
    except ImportError as error:
        if str(error.name).partition(".")[0] not in EXTRAS[extra].modules:
            raise
        raise FdifError(lacking(extra) or str(error)) from error


def lacking(extra: str) -> str | None:
    """What is missing of an extra, and how to install it, in words that go on a sentence; None if it is there.

    Nothing is imported.
    """
    missing = [module for module in EXTRAS[extra].modules if not _is_there(module)]
    if not missing:
        return None
    are = "is" if len(missing) == 1 else "are"
    return (
        f"needs {' and '.join(missing)}, which {are} not installed: pip install 'fdif-jax[{extra}]' brings it"
    )


def _is_there(module: str) -> bool:
    with suppress(ImportError, ValueError):  # ValueError of one that stands as None in sys.modules
        return importlib.util.find_spec(module) is not None
    return False
