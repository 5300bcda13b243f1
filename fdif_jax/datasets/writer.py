"""Writes datasets with a pool of threads; being killed at any moment costs only the samples in flight.

A dataset's bytes are decided by its `DatasetPlan` alone. While it grows, journals list the finished samples; the
same call finishes the rest and leaves the same directory as one that was never stopped. The manifest is
written last: a directory that has one is whole.

Shards keep a journal each, and whichever ends last finds all samples there and writes the manifest.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fdif_jax.datasets.headers import check_same, made_with
from fdif_jax.datasets.layouts import DatasetPlan
from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_out, json_of, make_folder, whole_json_lines, write_atomic
from fdif_jax.io.locks import hold

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
_JOURNAL = "journal-{}-of-{}.jsonl"  # of a shard
_JOURNALS = "journal*.jsonl"
_TURN = ".turn"  # locked by the process that opens its journal or finishes the dataset

RenderSamples = Callable[[Sequence[int]], Iterable[Sequence[np.ndarray]]]
"""Sample indices → the arrays of each one's files, in their order; called from several threads at once."""
MakeFiles = Callable[[Sequence[int]], Iterable[Sequence[bytes | memoryview]]]
"""Sample indices → the contents of each one's files, in their order; called from several threads at once."""
Record = dict[str, Any]  # {"bytes": size, "sha256": hex}


@dataclass(frozen=True)
class Report:
    """What a call of `write_dataset` found and did.

    Attributes:
        written: samples written by this call.
        found: samples of this call's share that were there already.
        complete: the dataset is whole and has its manifest.
        missing: samples of other shares that are not there yet, or damaged.
    """

    written: int
    found: int
    complete: bool
    missing: tuple[int, ...] = ()


def encoded(source: RenderSamples, plan: DatasetPlan) -> MakeFiles:
    """The files of a plan whose arrays ``source`` renders."""

    def make_files(indices: Sequence[int]) -> list[list[bytes | memoryview]]:
        return [[plan.layout.encode(array, plan) for array in arrays] for arrays in source(indices)]

    return make_files


def write_dataset(out: str | os.PathLike, source: RenderSamples, plan: DatasetPlan, **options: Any) -> Report:
    """Write the dataset of ``plan`` whose arrays ``source`` renders; options and errors are those of `write_files`."""
    return write_files(out, encoded(source, plan), plan, **options)


def write_files(
    out: str | os.PathLike,
    make_files: MakeFiles,
    plan: DatasetPlan,
    *,
    workers: int = 1,
    batch_size: int = 1,
    shard: tuple[int, int] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write the dataset of ``plan`` to ``out``, going on from whatever an earlier call left there.

    Args:
        out: the directory; new, empty, or holding (part of) this very dataset.
        make_files: what files hold; called from ``workers`` threads at once, with up to ``batch_size`` indices.
        plan: what to write. No other argument changes a byte of the finished directory.
        workers: threads that make files and write them.
        batch_size: consecutive samples that one thread makes in one call.
        shard: ``(i, n)`` writes only the samples with ``index % n == i``. Shards may be written at once, one after
            another, or elsewhere and copied together, journals too; the call after which no sample is missing
            checks every file and finishes the dataset. A call without ``shard`` writes what all of them left.
        progress: called in this thread with the samples done and all the samples of this call's share.

    Raises:
        FdifError: ``out`` holds something else, shards of another ``n`` too, or another process is writing there.
        OSError: the disk is full or may not be written; what is finished stays and is not written again.
    """
    out, header = Path(out), {**plan.identity(), "made_with": made_with()}
    share, path = _share(plan.total, shard, workers, batch_size), out / _journal_of(shard)
    make_folder(out)
    whole = Report(0, len(share), complete=True)
    if _finished(out, header):
        return whole
    with contextlib.ExitStack() as stack:
        with _turn(out):
            if _finished(out, header):
                return whole
            _reopen(out, header)
            others = _read_others(stack, path, header, shard)
            journal = _Journal(stack.enter_context(open(path, "ab")), path, header)
        files = others | journal.files
        # Files of shards may have been copied here from elsewhere.
        intact = _has_hash if shard or others else _has_size
        todo = _lacking(out, plan, share, files, intact, workers)
        found = len(share) - len(todo)
        progress(found, len(share))
        runs = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        with contextlib.closing(_written(out, make_files, plan, runs, workers)) as finished:
            for done, record in enumerate(finished, found + 1):
                journal.add(record)
                files |= record
                progress(done, len(share))
        with _turn(out):
            if shard is None:
                _finish(out, plan, header, files)
                return Report(len(todo), found, complete=True)
            missing = _merge(out, plan, header, files, share, workers)
            return Report(len(todo), found, complete=not missing, missing=tuple(missing))


def survey_dataset(
    out: Path, plan: DatasetPlan, workers: int, batch_size: int, shard: tuple[int, int] | None
) -> list[int]:
    """The samples that `write_dataset` would write; errors are its, and nothing is written."""
    header = {**plan.identity(), "made_with": made_with()}
    share, path = _share(plan.total, shard, workers, batch_size), out / _journal_of(shard)
    check_out(out, folder=True)
    if _is_whole(out, header):
        return []
    with contextlib.ExitStack() as stack:
        others = _read_others(stack, path, header, shard)
        files = others | (_read_manifest(out) or {"files": {}})["files"]
        if path.exists():
            _lock(stack.enter_context(open(path, "rb+")), path)
            files |= _read_journal(path, header)[0]
    return _lacking(out, plan, share, files, _has_hash if shard or others else _has_size, workers)


def _journal_of(shard: tuple[int, int] | None) -> str:
    return JOURNAL if shard is None else _JOURNAL.format(*shard)


def _share(total: int, shard: tuple[int, int] | None, workers: int, batch_size: int) -> range:
    """The samples of a call; FdifError for an impossible shard or number."""
    if workers < 1 or batch_size < 1:
        raise FdifError(f"workers ({workers}) and batch size ({batch_size}) must be at least 1")
    first, step = shard or (0, 1)
    if not 0 <= first < step:
        raise FdifError(f"shard {first}/{step}: i/n needs 0 <= i < n")
    return range(first, total, step)


@contextlib.contextmanager
def _turn(out: Path) -> Iterator[None]:
    """Wait until no other process opens its journal here, or finishes the dataset, and keep them waiting."""
    path = out / _TURN
    while True:
        with open(path, "wb") as file:
            hold(file, wait=True)
            # Whoever had it before has removed it, and another one may wait for a new file of this name.
            if _is_at(file, path):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _read_others(
    stack: contextlib.ExitStack, own: Path, header: dict, shard: tuple[int, int] | None
) -> dict[str, Record]:
    """The files that the other journals list.

    Shards run beside each other; a call without ``shard`` runs alone: it holds all journals, and a shard looks whether
    it does. As both do so in their `_turn`, none can begin in between.
    """
    files: dict[str, Record] = {}
    for path in sorted(set(own.parent.glob(_JOURNALS)) - {own}):
        of = re.search(r"-of-(\d+)\.", path.name)
        if shard and of and int(of[1]) != shard[1]:
            raise FdifError(
                f"{own.parent}: holds a shard of {of[1]} ({path.name}), this is one of {shard[1]}; give every shard "
                "the same number, or finish it all without shards"
            )
        if not shard or path.name == JOURNAL:
            with contextlib.ExitStack() as looking:
                file = (looking if shard else stack).enter_context(open(path, "rb+"))
                _lock(file, path)
        files |= _read_journal(path, header)[0]
    return files


def _merge(
    out: Path, plan: DatasetPlan, header: dict, files: dict[str, Record], share: range, workers: int
) -> list[int]:
    """Finish the dataset if the other shards are done, each file as its writer noted it; the samples that are not."""
    if _finished(out, header):
        return []
    for path in out.glob(_JOURNALS):
        files |= _read_journal(path, header)[0]
    others = [i for i in range(plan.total) if i not in share]
    # A shard that is still at work shows in the sizes, so only the last one reads what all have written.
    missing = _lacking(out, plan, others, files, _has_size, workers)
    missing = missing or _lacking(out, plan, others, files, _has_hash, workers)
    if not missing:
        _finish(out, plan, header, files)
    return missing


def _written(
    out: Path, make_files: MakeFiles, plan: DatasetPlan, runs: list[list[int]], workers: int
) -> Generator[dict[str, Record]]:
    """Make and write every run of samples; yields each sample's files once they are in place."""

    def write(index: int, files: Sequence[bytes | memoryview]) -> dict[str, Record]:
        pairs = zip(plan.layout.files(index, plan), files, strict=True)
        return {path.as_posix(): _write(out / path, data) for path, data in pairs}

    def write_run(run: list[int]) -> list[dict[str, Record]]:
        return [write(index, files) for index, files in zip(run, make_files(run), strict=True)]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="sample")
    try:
        for future in as_completed([pool.submit(write_run, run) for run in runs]):
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write(path: Path, data: bytes | memoryview) -> Record:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return {"bytes": len(data), "sha256": _hash(data)}


Intact = Callable[[Path, str, dict[str, Record]], bool]


def _lacking(
    out: Path,
    plan: DatasetPlan,
    indices: Sequence[int],
    files: dict[str, Record],
    intact: Intact,
    workers: int,
) -> list[int]:
    """Those of the samples that have a file that is not as it was noted, or not there."""

    def present(index: int) -> bool:
        return all(intact(out, path.as_posix(), files) for path in plan.layout.files(index, plan))

    with ThreadPoolExecutor(workers) as pool:
        return [i for i, there in zip(indices, pool.map(present, indices), strict=True) if not there]


def _has_size(out: Path, path: str, files: dict[str, Record]) -> bool:
    """Whether the file is noted and has its size; hashing a large dataset anew would take minutes."""
    try:
        return path in files and os.stat(out / path).st_size == files[path]["bytes"]
    except OSError:
        return False


def _has_hash(out: Path, path: str, files: dict[str, Record]) -> bool:
    """Whether the file is noted and holds what its writer wrote."""
    try:
        return _has_size(out, path, files) and _hash((out / path).read_bytes()) == files[path]["sha256"]
    except OSError:
        return False


def _hash(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _finished(out: Path, header: dict) -> bool:
    """Whether ``out`` is this dataset, whole; then journals that a killed call left go."""
    whole = _is_whole(out, header)
    if whole:
        _remove_journals(out)
    return whole


def _is_whole(out: Path, header: dict) -> bool:
    """Whether ``out`` is this dataset, whole; FdifError if it is another, or something else."""
    if not out.exists():
        return False
    manifest = _read_manifest(out)
    if manifest is None:
        names = [
            path.name for path in out.iterdir() if path.name != _TURN and not path.name.endswith(".part")
        ]
        # Another process may be done by now: then there is a manifest, and no journal any more.
        if names and not any(out.glob(_JOURNALS)) and not (out / MANIFEST).exists():
            raise FdifError(f"{out}: not empty, and no dataset of ours; give a new or an empty directory")
        return False
    files = manifest.pop("files")
    whole = all(_has_size(out, path, files) for path in files)
    # Where nothing is to be written it does not matter what would write it.
    check_same(out, manifest, header | {"made_with": manifest.get("made_with")} if whole else header)
    return whole


def _read_manifest(out: Path) -> dict[str, Any] | None:
    try:
        manifest = json_of((out / MANIFEST).read_bytes())
        return {**manifest, "files": dict(manifest["files"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise FdifError(f"{out / MANIFEST}: no manifest of ours; give a new or an empty directory") from None


def _reopen(out: Path, header: dict) -> None:
    """Let a journal take the place of the manifest, if there is one: files were lost, and writing goes on from it."""
    manifest = _read_manifest(out)
    if manifest is not None:
        with open(out / JOURNAL, "ab") as file:
            _Journal(file, out / JOURNAL, header).add(manifest["files"])
        (out / MANIFEST).unlink()


def _finish(out: Path, plan: DatasetPlan, header: dict, files: dict[str, Record]) -> None:
    """Write the lists, sweep up after killed calls, write the manifest, drop the journals; in this order."""
    for path, document in plan.layout.documents(plan).items():
        data = document.encode() if isinstance(document, str) else _json(document)
        files[path] = _write(out / path, data)
    for part in out.rglob(".*.part"):
        part.unlink()
    write_atomic(out / MANIFEST, _json({**header, "files": dict(sorted(files.items()))}))
    _remove_journals(out)


def _remove_journals(out: Path) -> None:
    for path in out.glob(_JOURNALS):
        path.unlink(missing_ok=True)


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


class _Journal:
    """The samples that one writer has finished, a JSON line each, after a line that says of which dataset."""

    def __init__(self, file: BinaryIO, path: Path, header: dict):
        self._file = file
        _lock(file, path)
        self.files, length = _read_journal(path, header)
        self._file.truncate(length)  # a line that a killed call did not finish
        if length == 0:
            self._append(header)

    def add(self, files: dict[str, Record]) -> None:
        """Note files that are in place under their final names."""
        self._append(files)
        self.files |= files

    def _append(self, line: dict) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()


def _read_journal(path: Path, header: dict) -> tuple[dict[str, Record], int]:
    """The files that a journal lists and the length in bytes of its whole lines."""
    entries, length = whole_json_lines(path.read_bytes())
    if entries:
        check_same(path.parent, entries[0], header)
    files: dict[str, Record] = {}
    for entry in entries[1:]:
        files |= entry
    return files, length


def _lock(file: BinaryIO, path: Path) -> None:
    """Hold ``file`` until it is closed, or say that another process does."""
    if not hold(file):
        raise FdifError(f"{path.parent}: another process is writing here ({path.name}); wait for it")
