"""Scans that are measured first and prepared later, by what was measured of all, and yet read from their files once."""

import pickle
import tempfile
from pathlib import Path
from typing import Self

from fdif_jax.datasets.conventions import Conventions
from fdif_jax.datasets.reader import Case
from fdif_jax.preprocessing.fingerprints import Measurement, measure
from fdif_jax.preprocessing.scans import Scan, read_scan


class ScanStore:
    """Labelled cases of a dataset; use it in a ``with`` block.

    What was read to be measured is kept in a temporary folder, cropped, until the block ends, so that memory holds one
    scan at a time. Where that folder's disk is full, scans are read from their files again.
    """

    def __init__(self, conventions: Conventions):
        """Cases whose files keep to ``conventions``."""
        self._conventions = conventions
        self._folder = tempfile.TemporaryDirectory(prefix="fdif_scans_")
        self._measurements: dict[Case, Measurement] = {}
        self._kept: dict[Case, Path] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def measure(self, case: Case, number: int) -> Measurement:
        """`fingerprints.measure` of a case, once, and its scan kept; errors as of `read_scan`."""
        if case not in self._measurements:
            scan = read_scan(case, self._conventions)
            self._measurements[case] = measure(scan, number, len(self._conventions.label_names))
            path = Path(self._folder.name, f"{len(self._measurements)}.pickle")
            try:
                with path.open("wb") as file:
                    pickle.dump(scan.cropped(), file, pickle.HIGHEST_PROTOCOL)
                self._kept[case] = path
            except OSError:  # there is no room
                path.unlink(missing_ok=True)
        return self._measurements[case]

    def read(self, case: Case) -> Scan:
        """The scan, cropped: as it was kept, or else from its files; errors as of `read_scan`."""
        if case in self._kept:
            with self._kept[case].open("rb") as file:
                return pickle.load(file)
        return read_scan(case, self._conventions).cropped()
