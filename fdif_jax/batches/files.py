"""Batches of volumes that are read from files while the network trains on those before."""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Integer, Num

from fdif_jax.datasets.conventions import Labels
from fdif_jax.datasets.reader import Case, load_channels, load_dataset, load_labels, volume_type
from fdif_jax.errors import FdifError
from fdif_jax.rendering.look import normalise
from fdif_jax.tasks import Task

GridShape = tuple[int, int, int]
Arrays = tuple[np.ndarray, np.ndarray]

_AHEAD = 2  # batches that are read beside those that the workers are at


class FileSource:
    """The training cases of a dataset on disk as an endless sequence of batches.

    Step k's batch is a function of the dataset, ``seed`` and k: samples ``k·B …`` of a sequence in which every case
    comes once an epoch, each epoch in another order. Where a volume is larger than ``patch`` a random part is taken,
    drawn for each sample; where it is smaller it goes to the middle of one, amid its least value and label 0.

    Attributes:
        tasks: the label maps; `class_names` are those of the first.
        grid: ``(D, H, W)`` of a batch.
        channels: of an image, C.
        digest: SHA-256 of classes and cases, their names, shapes and types, by which a resumed run knows its dataset.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        batch_size: int,
        seed: int,
        patch: Sequence[int] | None = None,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        *,
        split: str = "training",
    ):
        """Reads the headers of all files; their voxels are read when they are needed.

        Args:
            path: directory or list, see `load_dataset`.
            batch_size: samples a batch over all processes, B.
            seed: of order and places, 0 to 2**32 - 1.
            patch: ``(D, H, W)`` of a batch; all volumes must have one shape if not given.
            process_index: of the processes that share a batch, this is i, and reads rows ``i·B/n … (i+1)·B/n - 1``.
            process_count: number of those processes, n.
            workers: threads that read; one for each core (at most 8) if not given.
            split: ``"training"`` or ``"validation"``.

        Raises:
            FdifError: the dataset cannot be read, or has no such cases; its images differ in channels, or without
                ``patch`` in shape; or an argument is impossible.
        """
        self._rows = _rows(batch_size, process_index, process_count)
        workers = min(os.cpu_count() or 1, 8) if workers is None else workers
        if workers < 1:
            raise FdifError(f"workers is {workers}; it must be at least 1")
        if not 0 <= seed < 2**32:
            raise FdifError(f"seed {seed}: must be 0 to {2**32 - 1}")
        dataset = load_dataset(path)
        if any(labels.regions for labels in dataset.labels):
            raise FdifError(
                f"{path}: has regions, which `fdif finetune` learns; files are pre-trained on by class"
            )
        self.tasks: tuple[Task, ...] = dataset.tasks
        self._cases: list[Case] = getattr(dataset, split)
        if not self._cases:
            raise FdifError(f"{path}: lists no {split} case")
        types = [_image_type(case) for case in self._cases]
        shapes = [shape for shape, _ in types]
        self.channels, self.grid = _channels(self._cases, shapes), _grid(self._cases, shapes, patch)
        common = np.result_type(*(dtype for _, dtype in types))
        self._image_type = common if common.kind in "iu" and common.itemsize <= 2 else np.dtype(np.float32)
        self._labels = dataset.labels
        self._label_type = _label_type(self._cases, self._labels)
        listed = [
            (case.id, shape, str(dtype)) for case, (shape, dtype) in zip(self._cases, types, strict=True)
        ]
        ignored = [meaning.ignore for meaning in self._labels]
        said = [self.tasks, listed, ignored] if any(ignored) else [self.tasks, listed]
        self.digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        self._batch_size, self._seed, self._workers = batch_size, seed, workers
        self._batches: Any = None  # grain's iterator, once it is needed
        self._next: int | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The foreground classes of the first label map; class id = position + 1."""
        return self.tasks[0].class_names

    def __len__(self) -> int:
        """Cases, which are as many as an epoch's samples."""
        return len(self._cases)

    def feed(self, step: int) -> Arrays:
        """This process's rows of the batch of ``step``, counted from 0; those of the following steps are read ahead.

        Returns:
            Images ``(b, D, H, W, C)``, in the files' dtype where all have the same of at most 16 bits, or float32; and
            labels ``(b, D, H, W)``, or ``(b, T, D, H, W)`` of T > 1 tasks, in the smallest type they fit in: unsigned,
            or signed where files may hold ignored voxels, which are -1.

        Raises:
            FdifError: naming the file, see `load_channels` and `load_labels`.
        """
        if self._batches is None:
            self._batches = self._read_ahead()
        if step != self._next:
            self._batches.set_state({"next_index": step})
        self._next = None  # after an error the iterator's place is not known
        batch = next(self._batches)
        self._next = step + 1
        return batch

    def read(self, numbers: Sequence[int]) -> Arrays:
        """The cases of these numbers (0 … len - 1, as listed) as a batch; of what is cut, the middle."""
        return self._stacked([(self._cases[number], None) for number in numbers])

    def _read_ahead(self) -> Any:
        import grain  # a third of a second that only those pay who read files

        # Grain numbers the orders of the epochs seed, seed + 1, …; from there those of another seed shall be far away.
        order = int(np.random.SeedSequence(self._seed).generate_state(1)[0])
        batches = (
            grain.MapDataset.range(len(self._cases))
            .shuffle(seed=order)
            .repeat()
            .batch(self._batch_size, drop_remainder=True)  # else grain's length of batches of 1 overflows
            .map_with_index(self._batch)
        )
        options = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=self._workers + _AHEAD)
        return iter(batches.to_iter_dataset(options))

    def _batch(self, step: int, cases: np.ndarray) -> Arrays:
        first = step * self._batch_size
        return self._stacked([(self._cases[cases[row]], first + row) for row in self._rows])

    def _stacked(self, samples: Sequence[tuple[Case, int | None]]) -> Arrays:
        """A batch of cases, each cut at the place of its sample's number, or in its middle."""
        images = np.empty((len(samples), *self.grid, self.channels), self._image_type)
        labels = np.empty((len(samples), len(self.tasks), *self.grid), self._label_type)
        for (case, number), image, maps in zip(samples, images, labels, strict=True):
            array = load_channels(case)
            shape = array.shape[:3]
            read = load_labels(case, shape, self._labels)
            start = _start(shape, self.grid, None if number is None else (self._seed, number))
            _place(array, image, start, fill=array.min((0, 1, 2)) if min(start) < 0 else 0)
            for label, target in zip(read, maps, strict=True):
                _place(label, target, start, fill=0)
        return images, labels if len(self.tasks) > 1 else labels[:, 0]


def file_batch(
    keys: jax.Array, data: tuple[Num[Array, "B D H W C"], Integer[Array, "B *tasks D H W"]]
) -> tuple[Float[Array, "B D H W C"], Integer[Array, "B *tasks D H W"]]:
    """``make_batch`` for `fit` with `FileSource.feed`: every channel of every volume normalised by itself."""
    images, labels = data
    return jax.vmap(normalise, -1, -1)(images), labels


def _rows(batch_size: int, index: int, count: int) -> range:
    if batch_size < 1 or batch_size % count:
        raise FdifError(f"batch size {batch_size}: must be a positive multiple of the {count} processes")
    if not 0 <= index < count:
        raise FdifError(f"process {index} of {count}: the index must be 0 to {count - 1}")
    local = batch_size // count
    return range(index * local, (index + 1) * local)


def _image_type(case: Case) -> tuple[tuple[int, ...], np.dtype]:
    """Shape ``(D, H, W, C)`` and dtype of a case's image."""
    types = [volume_type(path) for path in case.images]
    shape = (*types[0][0], 1)[:4]
    return (*shape[:3], shape[3] * len(types)), np.result_type(*(dtype for _, dtype in types))


def _channels(cases: Sequence[Case], shapes: Sequence[tuple[int, ...]]) -> int:
    """The number of channels that all images have."""
    for case, shape in zip(cases, shapes, strict=True):
        if shape[3] != shapes[0][3]:
            raise FdifError(
                f"{case.image}: channels: {shape[3]}, but {cases[0].image} has {shapes[0][3]}; all must have the same"
            )
    return shapes[0][3]


def _grid(cases: Sequence[Case], shapes: Sequence[tuple[int, ...]], patch: Sequence[int] | None) -> GridShape:
    """The patch, or else the shape that all volumes have."""
    if patch is not None:
        if len(patch) != 3 or min(patch) < 1:
            raise FdifError(f"patch is {tuple(patch)}; it must be three numbers of at least 1")
        return patch[0], patch[1], patch[2]
    for case, shape in zip(cases, shapes, strict=True):
        if shape[:3] != shapes[0][:3]:
            raise FdifError(
                f"{case.image}: shape {shape[:3]}, but {cases[0].image} has {shapes[0][:3]}; give a patch"
            )
    return shapes[0][0], shapes[0][1], shapes[0][2]


def _label_type(cases: Sequence[Case], labels: Sequence[Labels]) -> np.dtype:
    """What batches of labels hold: signed integers where there may be -1, by the list or by the types of the files."""
    unsigned = all(volume_type(path)[1].kind == "u" for case in cases for path in case.labels)
    if unsigned and all(meaning.ignore is None for meaning in labels):
        return np.min_scalar_type(max(len(meaning.class_names) for meaning in labels))
    return np.result_type(*(np.min_scalar_type(-len(meaning.class_names) - 1) for meaning in labels))


def _start(shape: Sequence[int], patch: GridShape, number: tuple[int, int] | None) -> tuple[int, ...]:
    """Where in the volume a patch begins: drawn by seed and number of the sample, else in the middle.

    A negative place is before the volume, which is smaller than the patch.
    """
    room = [n - p for n, p in zip(shape, patch, strict=True)]
    middle = [r // 2 for r in room]
    if number is None or max(room) <= 0:
        return tuple(middle)
    drawn = np.random.default_rng(number).integers(0, np.maximum(room, 0) + 1)
    return tuple(int(d) if r > 0 else m for d, r, m in zip(drawn, room, middle, strict=True))


def _place(array: np.ndarray, target: np.ndarray, start: Sequence[int], fill: Any) -> None:
    """Write the part of ``array`` that begins at ``start`` of its first axes to ``target``, and ``fill`` beside it."""
    lengths = list(zip(start, array.shape, target.shape, strict=False))
    inside = tuple(slice(max(s, 0), s + p) for s, n, p in lengths)
    to = tuple(slice(max(-s, 0), n - s) for s, n, p in lengths)
    if min(start) < 0:
        target[...] = fill
    target[to] = array[inside]
