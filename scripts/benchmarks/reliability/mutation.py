"""Damaged files, made of good ones by a seeded generator: bytes, numbers, entries of archives, values of documents."""

import copy
import gzip
import io
import json
import math
import random
import struct
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import tomli_w

from fdif_jax.scripts.benchmarks.reliability.formats import Format

_DEEP, _NESTED = "@deep", "@nested"
_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 0.5, -0.0, 1e-300, 1e38, 1e308, math.inf, -math.inf, math.nan),
    *(255, 65536, 2**31, 2**63, -(2**63), 10**30, 10**400),
    *(
        "",
        "x",
        ".",
        "..",
        "../../../outside",
        "/outside",
        "a\0b",
        "\ud800",
        "é\u202e",
        "x" * 5000,
        "1e999",
        "-1",
    ),
    *([], {}, [[]], {"": ""}, [1, "x"], [None], _DEEP, _NESTED),
)
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**62, -(2**63))
_REALS = (0.0, -1.0, 1e-45, 1e30, 3.4e38, 1e300, math.inf, -math.inf, math.nan, 352.0, 0.5)


def damaged(rng: random.Random, form: Format, seeds: Sequence[bytes]) -> bytes:
    """A file of a format, changed in one place or several."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data = _changed(rng, form, data, seeds)
    data = packed(form, data)
    if form.name.endswith(".gz") and rng.random() < 0.3:
        data = rng.choice(_CHANGES)(rng, data)
    return data


def packed(form: Format, data: bytes) -> bytes:
    """The bytes of a file, deflated where a format's are."""
    return gzip.compress(data, 1, mtime=0) if form.name.endswith(".gz") else data


def _changed(rng: random.Random, form: Format, data: bytes, seeds: Sequence[bytes]) -> bytes:
    if rng.random() < 0.75:
        try:
            if form.text:
                return _document(rng, data, form.text)
            if data[:2] == b"PK":
                return _archive(rng, data)
            if form.name.endswith(".safetensors"):
                end = 8 + int.from_bytes(data[:8], "little")
                header = _document(rng, data[8:end], "json")
                return len(header).to_bytes(8, "little") + header + data[end:]
        except Exception:
            pass  # it was damaged before, or the format has no such value
    if rng.random() < 0.05:
        other = rng.choice(seeds)
        return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
    return rng.choice(_CHANGES)(rng, data)


def _archive(rng: random.Random, data: bytes) -> bytes:
    """An archive with one entry changed, renamed, left out, or there twice."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    place = rng.randrange(len(entries))
    name, inner, kind = entries[place]
    how = rng.random()
    if how < 0.8:
        entries[place] = name, rng.choice(_CHANGES)(rng, inner), kind
    elif how < 0.9:
        entries[place] = rng.choice(("../../outside.npy", "/outside.npy", "", entries[0][0])), inner, kind
    else:
        entries.pop(place)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, inner, kind in entries:
            archive.writestr(zipfile.ZipInfo(name), inner, kind)
    return stream.getvalue()


def _document(rng: random.Random, data: bytes, text: str) -> bytes:
    """JSON or TOML with one value that is another, gone, renamed or elsewhere."""
    whole = {"": json.loads(data) if text == "json" else tomllib.loads(data.decode())}
    places: list[tuple[Any, Any]] = []
    level: list[Any] = [whole]
    while level:
        held = level.pop()
        keys = list(held) if isinstance(held, dict) else range(len(held))
        places += [(held, key) for key in keys]
        level += [held[key] for key in keys if isinstance(held[key], dict | list)]
    held, key = rng.choice(places)
    how = rng.random()
    if how < 0.7:
        held[key] = copy.deepcopy(rng.choice(_ODD))
    elif how < 0.8:
        other, place = rng.choice(places)
        held[key] = copy.deepcopy(other[place])
    elif how < 0.9 and isinstance(held, dict):
        held[str(rng.choice(_ODD))] = held.pop(key)
    elif held is not whole:
        del held[key]
    made = whole.get("", next(iter(whole.values())))
    if text == "toml":
        return tomli_w.dumps(made).encode(errors="surrogatepass")
    depth = rng.choice((100, 500, 100_000))
    return (
        json.dumps(made)
        .replace(f'"{_DEEP}"', "[" * depth)
        .replace(f'"{_NESTED}"', "[" * depth + "]" * depth)
        .encode()
    )


def _flip(rng: random.Random, data: bytes) -> bytes:
    return _put(data, rng, bytes([rng.randrange(256)]))


def _number(rng: random.Random, data: bytes) -> bytes:
    """A number that is unusual, in one of the forms that files have, over bytes at an even place or at the end."""
    order = rng.choice("<>")
    if rng.random() < 0.5:
        packed = struct.pack(f"{order}{rng.choice('fd')}", 0.0)
        form = "f" if len(packed) == 4 else "d"
        value = rng.choice(_REALS)
        packed = struct.pack(f"{order}{form}", value if form == "d" or abs(value) < 3.5e38 else math.inf)
    else:
        form = rng.choice("hiq")
        bits = 8 * struct.calcsize(form)
        packed = (rng.choice(_NUMBERS) % 2**bits).to_bytes(bits // 8, "little" if order == "<" else "big")
    return _put(data, rng, packed, step=2)


def _put(data: bytes, rng: random.Random, packed: bytes, step: int = 1) -> bytes:
    place = rng.randrange(0, max(len(data) - len(packed), 0) + 1, step)
    return data[:place] + packed + data[place + len(packed) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _lengthened(rng: random.Random, data: bytes) -> bytes:
    """Some bytes there several times."""
    first = rng.randint(0, len(data))
    piece = data[first : first + rng.choice((1, 4, 16, 64, 1024))]
    return data[:first] + piece * rng.choice((2, 3, 100)) + data[first:]


def _shortened(rng: random.Random, data: bytes) -> bytes:
    first = rng.randint(0, len(data))
    return data[:first] + data[first + rng.choice((1, 2, 4, 8, 64)) :]


def _word(rng: random.Random, data: bytes) -> bytes:
    """A number or word of a text that is another."""
    words = data.split(b" ")
    odd = ("nan", "-1", "1e400", "999999999999", "inf", "", "\0", "\n", "/", "é", "-", "0", "x" * 300)
    words[rng.randrange(len(words))] = rng.choice(odd).encode()
    return b" ".join(words)


_CHANGES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _flip, _flip, _number, _number, _number, _cut, _lengthened, _shortened, _word,
)  # fmt: skip
