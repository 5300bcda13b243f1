"""Run one part of the GPU programme: ``python -m fdif_jax.scripts.benchmarks.gpu.part NAME FOLDER SIZE [SECONDS]``."""

import sys
from importlib import import_module
from pathlib import Path

from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import SIZES
from fdif_jax.scripts.console.compilation import leave_out_searches


def main(name: str, folder: str, size: str, *seconds: str) -> None:
    """Measure, into ``FOLDER/NAME.json``; a last file ``NAME.done`` says that nothing is left to do."""
    leave_out_searches()
    figures = Figures(Path(folder), name)
    module = import_module(f"fdif_jax.scripts.benchmarks.gpu.{name}")
    module.measure(SIZES[size], figures, *map(float, seconds))
    (Path(folder) / f"{name}.done").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
