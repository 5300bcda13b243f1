"""`fdif browse` attacked: paths, names, sizes, clients that wait, and many at once."""

import contextlib
import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fdif_jax.datasets.reader import load_dataset
from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts import browse

SECRET = b"SECRET"
PARALLEL, SLOW = 100, 50
_ANSWER = 2.0  # seconds in which another is answered while slow clients wait
_PATHS = (
    *("/../secret", "/../../secret", "/cases/../../secret", "//secret", "/%2e%2e/secret", "/..%2fsecret"),
    *(
        "/web/../secret",
        "/secret",
        "/cases/0/../../secret",
        "http://127.0.0.1/secret",
        "/\\..\\secret",
        "/./../secret",
    ),
    *("/cases/-1.json", "/cases/0/image-9.nii", "/cases/999999999.json", "/cases/0.json%00", "*"),
)
_HOSTS = ("evil.example", "127.0.0.1", "127.0.0.1.evil.example", "[::1]", "0.0.0.0", "", "localhost.evil:80")


def _case(folder: Path, edge: int) -> Path:
    """A dataset of one case, and a secret beside it."""
    data = folder / "data"
    data.mkdir()
    (folder / "secret").write_bytes(SECRET)
    volume = (np.arange(edge**3) % 3).astype(np.uint8).reshape(edge, edge, edge)
    write_nifti(data / "a.nii.gz", volume)
    entry = {"image": "a.nii.gz", "label": "a.nii.gz"}
    document = {"labels": {"0": "background", "1": "x", "2": "y"}, "training": [entry]}
    (data / "dataset.json").write_text(json.dumps(document))
    return data


@contextlib.contextmanager
def served(data: Path, title: str) -> Iterator[int]:
    """A server of a dataset, by a thread of its own; its port."""
    with browse.server_of(browse.Cases(load_dataset(data), title), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def raw(port: int, request: bytes, wait: float = 20.0) -> bytes:
    """What is answered to bytes; as much as comes before the connection ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        with contextlib.suppress(OSError):  # a server that has hung up already: ENOTCONN at shutdown
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


def _get(port: int, path: str) -> bytes:
    """The body of a good request; OSError if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise OSError(f"{path}: {answer.status}")
    return body


def _traversal(port: int) -> list[str]:
    answers = {path: raw(port, _request(port, path)) for path in _PATHS}
    return [
        f"{path}: {told[:60]!r}" for path, told in answers.items() if SECRET in told or b" 200 " in told[:20]
    ]


def _request(port: int, path: str = "/dataset.json", host: str | None = None, more: str = "") -> bytes:
    host = f"127.0.0.1:{port}" if host is None else host
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def _rebinding(port: int) -> list[str]:
    answers = {host: raw(port, _request(port, host=host)) for host in _HOSTS}
    answers["none"] = raw(port, b"GET /dataset.json HTTP/1.1\r\nConnection: close\r\n\r\n")
    hidden = _request(port)  # a request in the body of another, as a page elsewhere can have it sent
    length = f"Content-Length: {len(hidden)}\r\n"
    answers["hidden"] = raw(port, _request(port, host="evil.example", more=length) + hidden)
    posted = f"POST / HTTP/1.1\r\nHost: evil.example\r\n{length}\r\n".encode()
    answers["posted"] = raw(port, posted + hidden)
    return [f"{host}: {told[:60]!r}" for host, told in answers.items() if b"attacked" in told]


def _oversized(port: int) -> list[str]:
    requests = {
        "path": _request(port, "/" + "a" * 2**20),
        "header": _request(port, more=f"X: {'a' * 2**20}\r\n"),
        "headers": _request(port, more="".join(f"X{i}: {i}\r\n" for i in range(10_000))),
        "body": _request(port, "/none", more=f"Content-Length: {2**40}\r\n") + bytes(2**22),
        "bytes": bytes(2**20),
        "version": b"GET / HTTP/99999999999.1\r\n\r\n",
    }
    return [
        f"{name}: {told[:60]!r}"
        for name, request in requests.items()
        if b" 200 " in (told := raw(port, request))
    ]


def _slow(port: int) -> list[str]:
    """Clients that send a few bytes and wait; another is answered all the same."""
    with contextlib.ExitStack() as stack:
        for number in range(SLOW):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            client.sendall(
                _request(port, "/niivue.umd.js")[: 10 * (number % 8)]
            )  # some read nothing that they ask for
        began = time.perf_counter()
        _get(port, "/dataset.json")
        seconds = time.perf_counter() - began
    return [f"answered after {seconds:.1f} s"] if seconds > _ANSWER else []


def _parallel(port: int) -> list[str]:
    """Many requests for a volume at the same time: each gets it, and few are in memory at once."""
    whole = _get(port, "/cases/0/image-0.nii")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ThreadPoolExecutor(PARALLEL) as pool:
        bodies = list(pool.map(lambda _: len(_get(port, "/cases/0/image-0.nii")), range(PARALLEL)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) * 1024
    faults = [] if bodies == [len(whole)] * PARALLEL else ["a body is cut short"]
    # The clients are in this process, too, each with its body.
    return faults + ([f"{grown:,} bytes more"] if grown > 3 * PARALLEL * len(whole) + 2**28 else [])


_ATTACKS: dict[str, Callable[[int], list[str]]] = {
    f"{len(_PATHS)} paths that lead elsewhere": _traversal,
    f"{len(_HOSTS) + 3} names of other hosts": _rebinding,
    "6 oversized requests": _oversized,
    f"{SLOW} slow clients": _slow,
    f"{PARALLEL} requests at once": _parallel,
}


def measure(folder: Path, edge: int = 64) -> dict[str, dict[str, Any]]:
    """Attack a server of one volume with so many voxels an edge; faults and seconds of each attack."""
    figures = {}
    with served(_case(folder, edge), "attacked") as port:
        for name, attack in _ATTACKS.items():
            began = time.perf_counter()
            faults = attack(port)
            figures[name] = {"seconds": time.perf_counter() - began, "faults": faults}
        _get(port, "/")
    return figures
