"""Prepared cases kept in files, so that what was resampled once is read the next time."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case
from fdif_jax.io.files import make_folder, write_atomic
from fdif_jax.io.npz import read_npz
from fdif_jax.io.volumes import files_of
from fdif_jax.preprocessing.fingerprints import CasePlan
from fdif_jax.preprocessing.preparation import Prepared, Way
from fdif_jax.preprocessing.spaces import Crop


class CaseCache:
    """A folder of prepared cases, each under the digest of its files' names, sizes and times, and of the plan."""

    def __init__(self, folder: Path, plan: CasePlan, conventions: Conventions):
        """Keep cases in ``folder``, which is made if it is not there."""
        self._folder = folder
        self._how = [replace(plan, reasons=()).to_dict(), conventions.to_dict()]
        make_folder(folder)

    def get(self, case: Case, prepare: Callable[[], Prepared]) -> Prepared:
        """The case from its file; where there is none, or it is damaged, prepared anew and kept."""
        path = self._path(case)
        if path is None:
            return prepare()  # which says what is missing
        try:
            return _read(path, case.id)
        except Exception:  # whatever a damaged file makes of its reader
            prepared = prepare()
            _write(path, prepared)
            return prepared

    def _path(self, case: Case) -> Path | None:
        files = [file for volume in (*case.images, case.label) for file in files_of(volume)]
        try:
            stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        except OSError:
            return None
        said = json.dumps([stats, self._how])
        return self._folder / f"{hashlib.sha256(said.encode()).hexdigest()}.npz"


def _write(path: Path, prepared: Prepared) -> None:
    way, contents = prepared.way, BytesIO()
    np.savez(
        contents,
        image=prepared.image,
        label=np.zeros(0) if prepared.label is None else prepared.label,
        shapes=[way.resampled, way.padded],
        **way.crop.to_arrays(),
    )
    write_atomic(path, contents.getbuffer())


def _read(path: Path, name: str) -> Prepared:
    with path.open("rb") as file:
        kept = read_npz(path, file)
    image, label, crop = kept["image"], kept["label"], Crop.from_arrays(kept)
    resampled, padded = (tuple(map(int, shape)) for shape in kept["shapes"])
    way = Way(crop, resampled, padded)  # type: ignore[arg-type]
    return Prepared(name, image, label if label.size else None, way)
