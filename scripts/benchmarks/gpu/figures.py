"""Figures of one part of the GPU programme: a JSON file that is whole after every measurement."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fdif_jax.io.files import write_atomic
from fdif_jax.io.locks import hold


class Figures:
    """Named figures of a part, kept in ``folder/NAME.json``; what a part has measured survives its end."""

    def __init__(self, folder: Path, name: str):
        self.folder, self._path = folder, folder / f"{name}.json"
        self._figures: dict[str, Any] = {}

    def add(self, name: str, figure: Any) -> None:
        """Keep a figure, and write all of them."""
        self._figures[name] = figure
        write_atomic(self._path, json.dumps(self._figures, indent=1).encode())
        print(f"{time.strftime('%X')} {name}: {json.dumps(figure)[:400]}", flush=True)

    def known(self, name: str) -> Any:
        """A figure that was added."""
        return self._figures[name]

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Measure in the block; a failure is a figure, too, and the part goes on with the next."""
        start = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.add(name, {"failed": f"{type(error).__name__}: {str(error)[:1500]}"})
        print(f"{time.strftime('%X')} {name} took {time.perf_counter() - start:.1f} s", flush=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the accelerator in the block: no other part measures meanwhile."""
        with open(self.folder / "accelerator.lock", "w") as lock:
            hold(lock, wait=True)
            yield


def read(folder: Path, name: str) -> dict[str, Any]:
    """The figures of a part; none where it has written nothing."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}
