"""Generators of labelled volumes that others have published, run from a checkout as their pages say, beside ours."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from fdif_jax.datasets.sources import RenderedSource
from fdif_jax.datasets.writer import write_dataset
from fdif_jax.errors import FdifError
from fdif_jax.scenes.recipe import Recipe, load_recipe
from fdif_jax.scripts.benchmarks.parts import Turn
from fdif_jax.scripts.options.format import FormatOptions, job_of


class Generator(NamedTuple):
    """A published generator, which is run from a checkout."""

    option: str  # that a checkout is given by
    repository: str
    script: str  # of the checkout, by which one is known
    recipe: str  # ours that draws the same distribution
    command: Callable[[Path, Recipe, int, Path], Sequence[str]]
    """Checkout, our recipe, samples, folder to write to → arguments of Python."""
    at: str  # folder of the checkout to run in
    path: str  # folder of the checkout where its modules are
    processes: int  # that draw samples at once


def _fdif(checkout: Path, recipe: Recipe, samples: int, out: Path) -> Sequence[str]:
    """The command of its page for the paper's data set, of so many samples."""
    edges = zip(("--D", "--H", "--W"), map(str, recipe.grid), strict=True)
    counts = {
        "--num_samples": samples,
        "--min_objects": recipe.min_objects,
        "--max_objects": recipe.max_objects,
        "--num_classes": 109,
    }
    return [
        str(checkout / FDIF.script),
        *(text for edge in edges for text in edge),
        *(text for name, number in counts.items() for text in (name, str(number))),
        "--sdf_mappers",
        *recipe.mappers,
        "--displacement_functions",
        *recipe.displacements,
        "--mapper_as_augmentation",
        "--displacement_as_augmentation",
        "--out_dir",
        str(out),
    ]


def _primgeoseg(checkout: Path, recipe: Recipe, samples: int, out: Path) -> Sequence[str]:
    """Its script with its own settings but for the number of samples and the edge."""
    script = checkout / PRIMGEOSEG.script
    settings = yaml.safe_load((script.parent / "config" / "config001.yaml").read_text(encoding="utf-8"))
    settings |= {"data_num": samples, "space": recipe.grid[0]}
    ours = out / "settings.yaml"
    ours.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [str(script), "--worker_id", "0", "--yaml_path", str(ours), "--base_save_dir", str(out)]


FDIF = Generator(
    "--fdif", "yamanoko/FDIF", "src/fdslxsdf4seg/generate_sdf_dataset.py", "fdif", _fdif, ".", "src", 1
)
PRIMGEOSEG = Generator(
    "--primgeoseg",
    "SUPER-TADORY/PrimGeoSeg",
    "data_generation/mk_data.py",
    "avs_db",
    _primgeoseg,
    "data_generation",
    "data_generation",
    10,
)


def check_checkout(generator: Generator, checkout: Path) -> None:
    """FdifError if a folder is no checkout of a generator."""
    if not (checkout / generator.script).is_file():
        raise FdifError(
            f"{generator.option} {checkout}: is no checkout of {generator.repository}, which has {generator.script}"
        )


def ours(generator: Generator, edge: int, samples: int) -> Turn:
    """Turns of `fdif generate` for the same distribution: seconds a sample, written, once its program is compiled."""
    job = job_of(FormatOptions(generator.recipe, grid=(edge,) * 3, num_samples=samples))
    source = RenderedSource(job.sample, 0)

    def turn(_: int) -> float:
        with _folder() as folder:
            start = time.perf_counter()
            write_dataset(folder, source, job.plan, workers=min(os.cpu_count() or 1, 16))
            return (time.perf_counter() - start) / samples

    return turn


def theirs(generator: Generator, checkout: Path, python: str, edge: int, samples: int) -> Turn:
    """Turns of a published generator: seconds a sample, written; what it takes for no samples does not count.

    ``samples`` are those of each process of it that a core is there for.
    """
    checkout, samples = checkout.absolute(), samples * min(generator.processes, os.cpu_count() or 1)
    recipe = load_recipe(generator.recipe).replace(grid=(edge,) * 3)

    def seconds(count: int) -> float:
        with _folder() as folder:
            out = Path(folder)
            command = [python, *generator.command(checkout, recipe, count, out)]
            start = time.perf_counter()
            _run(generator, checkout, command)
            took = time.perf_counter() - start
            written = len(list(out.rglob("*.nii.gz")))
        if written != 2 * count:
            raise FdifError(
                f"{generator.option} {checkout}: it wrote {written} volumes instead of {2 * count}, an image and a "
                f"label map a sample; take a newer or older commit of {generator.repository}"
            )
        return took

    def turn(_: int) -> float:
        starting = seconds(0)
        return max(seconds(samples) - starting, 0.0) / samples

    return turn


def _run(generator: Generator, checkout: Path, command: Sequence[str]) -> None:
    places = [str(checkout / generator.path), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    try:
        ended = subprocess.run(
            command,
            cwd=checkout / generator.at,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise FdifError(f"--python {command[0]}: cannot be run: {error.strerror}") from None
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or "it says nothing").splitlines()[-1]
        raise FdifError(
            f"{generator.option} {checkout}: its generator ends with {ended.returncode}: {said}; install what it "
            "needs, and name its Python by --python"
        )


def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="fdif-bench-", ignore_cleanup_errors=True)
