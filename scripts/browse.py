"""Look through a dataset in a web browser: each case in three planes and in 3D, its labels laid over it.

DATASET is the directory, or the JSON list, of a dataset in the form of MONAI, the Decathlon or nnU-Net v2 (raw), of
`fdif generate` or of anybody. Volumes of all formats that are read are shown; labels lie over the image voxel by voxel,
as training takes them. Only this machine can open the page, and the page loads nothing from elsewhere. Ctrl-C ends it.

Up and down change the case, space hides the labels, / searches. Drag the planes to move the crosshair, and the 3D view
to turn it; the wheel goes through the slices.

Example:
    fdif browse data/fdif
    fdif browse nnUNet_raw/Dataset999_SDFSynthetic --port 9000 --no-open
"""

import errno
import functools
import json
import re
import sys
import threading
import webbrowser
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from fdif_jax.datasets.reader import Case, Dataset, load_dataset, load_labels, volume_type
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import encode_nifti
from fdif_jax.io.volumes import read_volume
from fdif_jax.scripts import cli

LOOPBACK = "127.0.0.1"
_WEB = Path(__file__).parent / "web"
_FILES = {
    "/": ("browse.html", "text/html; charset=utf-8"),
    "/browse.css": ("browse.css", "text/css; charset=utf-8"),
    "/browse.js": ("browse.js", "text/javascript; charset=utf-8"),
    "/niivue.umd.js": ("niivue.umd.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    # The viewer keeps its pictures and fonts in data URLs.
    "Content-Security-Policy": "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_JSON, _TEXT, _NIFTI = "application/json", "text/plain; charset=utf-8", "application/octet-stream"
_READERS = threading.BoundedSemaphore(4)  # volumes in memory at the same time, however many ask
_SHOWABLE = ("uint8", "int16", "uint16", "int32", "float32")  # voxels that the viewer reads


@dataclass(frozen=True)
class Config:
    """Options of ``fdif browse``."""

    dataset: tyro.conf.Positional[Path]
    """Directory or JSON list of a dataset (MONAI, Decathlon, nnU-Net v2)."""
    port: int = 8377
    """Port of the page; 0 takes any that is free."""
    open: bool = True
    """Open the page in the web browser."""


def run(config: Config) -> None:
    """Serve the page until Ctrl-C."""
    cases = Cases(load_dataset(config.dataset), str(config.dataset))
    with server_of(cases, config.port) as server:
        url = f"http://{LOOPBACK}:{server.server_port}/"
        print(f"{config.dataset}: {len(cases)} cases at {url} (Ctrl-C ends this)", flush=True)
        if config.open:
            # In a thread: some browsers run in the terminal, and only return when they are closed.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


class Cases:
    """A dataset as the page asks for it: a list, and each case's voxels by number."""

    def __init__(self, dataset: Dataset, title: str) -> None:
        self._dataset, self._title = dataset, title
        self._cases = [*dataset.training, *dataset.validation]
        # The page asks for a case's description and then for its labels.
        self._labels = functools.lru_cache(maxsize=2)(self._read_labels)

    def __len__(self) -> int:
        return len(self._cases)

    def listing(self) -> dict[str, Any]:
        """Title, names of the label maps and of their classes, and the cases' names; training cases first."""
        return {
            "title": self._title,
            "tasks": [{"name": task.name, "classes": task.class_names} for task in self._dataset.tasks],
            "cases": [case.id for case in self._cases],
            "training": len(self._dataset.training),
        }

    def describe(self, number: int) -> dict[str, Any]:
        """A case's shape, spacing (mm), channels, and for each label map the classes it shows, with their voxels.

        Under ``ignored`` is how many voxels of each map are ignored, under ``error`` what is wrong with its labels;
        then there are none. FdifError if its image cannot be read.
        """
        case = self._cases[number]
        image = read_volume(case.image, allow_4d=True)
        described: dict[str, Any] = {
            "shape": image.array.shape[:3],
            "spacing": image.spacing,
            "channels": len(_channels(case)),
            "labels": [],
            "ignored": [],
        }
        try:
            maps = self._labels(number)
            described["labels"] = [map_.classes for map_ in maps]
            described["ignored"] = [map_.ignored for map_ in maps]
        except FdifError as error:
            described["error"] = str(error)
        return described

    def image(self, number: int, channel: int) -> bytes | memoryview:
        """A channel of a case's image as NIfTI; IndexError if there is no such channel."""
        path, position = _channels(self._cases[number])[channel]
        volume = read_volume(path, allow_4d=True)
        array = volume.array if position is None else volume.array[..., position]
        if array.dtype.name not in _SHOWABLE:
            array = array.astype(np.float32)
        return encode_nifti(array, volume.affine, compress=False)

    def label(self, number: int, task: int) -> bytes | memoryview:
        """A label map as NIfTI, its labels replaced by their places in the description's list, counted from 1."""
        ranks = self._labels(number)[task].ranks
        affine = read_volume(self._cases[number].image, allow_4d=True).affine
        return encode_nifti(ranks, affine, compress=False)

    def _read_labels(self, number: int) -> list["_Map"]:
        case, tasks = self._cases[number], self._dataset.tasks
        shape, _ = volume_type(case.image)
        labels = load_labels(case, shape[:3], self._dataset.labels)
        return [_ranked(label, task.class_names) for label, task in zip(labels, tasks, strict=True)]


def _channels(case: Case) -> list[tuple[Path, int | None]]:
    """File and place along its fourth axis, if it has one, of each of an image's channels."""
    shape, _ = volume_type(case.image)
    places = range(shape[3]) if len(shape) == 4 else (None,)
    return [(case.image, place) for place in places] + [(path, None) for path in case.further_images]


class _Map(NamedTuple):
    """A label map to be shown."""

    # ``(D, H, W)``, its classes renumbered 1, 2, … as a viewer's table of colours is short; 0 for background
    # and where voxels are ignored
    ranks: np.ndarray
    classes: list[dict[str, Any]]  # of each of these numbers the id, name and voxels
    ignored: int  # ignored voxels


def _ranked(label: np.ndarray, names: tuple[str, ...]) -> _Map:
    ignored = int(np.count_nonzero(label < 0))
    label = np.maximum(label, 0)
    counts = np.bincount(label.ravel(), minlength=1)
    present = np.flatnonzero(counts[1:]) + 1
    rank = np.zeros(len(counts), np.uint8 if len(present) < 256 else np.uint16)
    rank[present] = np.arange(1, len(present) + 1)
    shown = [{"id": int(i), "name": names[i - 1], "voxels": int(counts[i])} for i in present]
    return _Map(rank[label], shown, ignored)


def server_of(cases: Cases, port: int) -> ThreadingHTTPServer:
    """A server of the page, listening on this machine's own address only; FdifError if the port cannot be had."""
    if not 0 <= port <= 65535:
        raise FdifError(f"--port is {port}; ports are 1 to 65535, and 0 takes any that is free")
    try:
        return _Server((LOOPBACK, port), functools.partial(_Handler, cases))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FdifError(f"port {port} is in use; choose another by --port, or 0 for any") from None
        raise FdifError(f"cannot listen on port {port}: {error.strerror}; choose another by --port") from None


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless the browser has hung up, as it does when one scrolls on, or is too slow."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers with the page's four files and with what `Cases` has: no request names a file of the disk."""

    timeout = 60  # seconds that a client may be silent
    protocol_version = "HTTP/1.1"
    server_version = "fdif"

    def __init__(self, cases: Cases, *arguments: Any) -> None:
        self._cases = cases
        super().__init__(*arguments)

    def do_GET(self) -> None:  # the name http.server looks for
        """Answer one request."""
        # A foreign page whose name is made to resolve to this machine would be let in by the browser, not by us.
        port = self.server.server_address[1]  # type: ignore[index]
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            self.close_connection = True
            self._send(HTTPStatus.FORBIDDEN, _TEXT, f"open http://{LOOPBACK}:{port}/".encode())
            return
        try:
            with _READERS:
                kind, body = self._answer(self.path.partition("?")[0])
        except LookupError:
            self._send(HTTPStatus.NOT_FOUND, _TEXT, b"no such page")
        except (FdifError, OSError, MemoryError) as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _TEXT, str(error).encode(errors="replace"))
        else:
            self._send(HTTPStatus.OK, kind, body)

    def _answer(self, path: str) -> tuple[str, bytes | memoryview]:
        """Type and bytes of an answer; LookupError if there is none."""
        if path in _FILES:
            name, kind = _FILES[path]
            return kind, (_WEB / name).read_bytes()
        if path == "/dataset.json":
            return _JSON, json.dumps(self._cases.listing()).encode()
        if found := re.fullmatch(r"/cases/([0-9]{1,9})\.json", path):
            return _JSON, json.dumps(self._cases.describe(int(found[1]))).encode()
        if found := re.fullmatch(r"/cases/([0-9]{1,9})/(image|label)-([0-9]{1,9})\.nii", path):
            voxels = self._cases.image if found[2] == "image" else self._cases.label
            return _NIFTI, voxels(int(found[1]), int(found[3]))
        raise LookupError(path)

    def _send(self, status: HTTPStatus, kind: str, body: bytes | memoryview) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the page shows what goes wrong."""


if __name__ == "__main__":
    cli.run("browse")
