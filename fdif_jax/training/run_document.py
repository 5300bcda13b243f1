"""``run.json``: what a run was asked for and what it began with, as a type that is written and read here."""

import dataclasses
import json
import shlex
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

import jax

RUN = "run.json"
PRETRAINING, FINE_TUNING, IMPORTED = "pretraining", "fine-tuning", "imported"
_PACKAGES = ("fdif-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")

Table = Mapping[str, Any]
Which = Literal["best", "last"] | int  # a checkpoint: of the best validation, the newest, or of a step


@dataclass(frozen=True)
class Files:
    """The dataset whose files a network was pre-trained on: its path, and a hash of its classes and cases."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Start:
    """Where a fine-tuning began.

    Attributes:
        source: a run directory, a file of weights, or "scratch"; in ``run.json`` it is called ``from``.
        weights_sha256: of the weights, so that another run of the same name is another start.
        which: checkpoint of a run.
    """

    source: str = field(metadata={"key": "from"})
    weights_sha256: str | None = None
    which: Which | None = None


@dataclass(frozen=True)
class CasesUsed:
    """The cases of a fine-tuning by their ids.

    Attributes:
        list: the dataset's folder or JSON list.
        training: trained on.
        validation: validated on.
        skipped: those that could not be read.
    """

    list: str
    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """Steps between validations; of a pre-training the number of its volumes, and their seed."""

    every: int
    samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Inference:
    """How a fine-tuned network predicts if nothing else is asked for.

    Attributes:
        overlap: fraction of a window's edge that neighbours share.
        mirror_axes: that predictions are averaged over.
        weights: of the ``last`` step or the ``best`` validation.
    """

    overlap: float
    mirror_axes: tuple[int, ...]
    weights: Literal["best", "last"]


@dataclass(frozen=True)
class ImportedFile:
    """The checkpoint that a run's weights were imported from: its name and hash."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Origin:
    """What a run began with beside what was asked for, so that it can be repeated; a run may go on with another."""

    versions: Mapping[str, str]
    command: str
    devices: Mapping[str, int]
    processes: int

    @classmethod
    def here(cls) -> "Origin":
        """That of this process."""
        devices = [device.device_kind for device in jax.devices()]
        return cls(
            {name: version(name) for name in _PACKAGES},
            shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            {kind: devices.count(kind) for kind in sorted(set(devices))},
            jax.process_count(),
        )


@dataclass(frozen=True, kw_only=True)
class RunDocument:
    """What decides a run's result, and what it began with. What a run of its kind has not is None.

    Attributes:
        kind: `PRETRAINING`, `FINE_TUNING`, `IMPORTED`, or that of somebody's own training.
        network: for `models.create`.
        task: of a pre-training: segmentation, classification or multilabel.
        objective: weights of its objectives and how voxels are contrasted, where it has others than classes.
        recipe: that was pre-trained on, as plain data.
        curriculum: how what is drawn follows what was learnt, as plain data.
        data: or the files.
        init: where a fine-tuning began.
        dataset: its cases.
        cases: how they are prepared, a `CasePlan` as plain data.
        labels: what their numbers mean, `Conventions` as plain data.
        training: settings of the updates (`Plan`), of the loss and of data augmentation, by name.
        validation: when and on what.
        inference: how the result predicts.
        source: the file of imported weights.
        left_fresh: weights that it lacked.
        origin: None in what is asked for.
        further: what else ``run.json`` holds, by name.
    """

    kind: str | None = None
    network: Table
    task: str | None = None
    objective: Table | None = None
    recipe: Table | None = None
    curriculum: Table | None = None
    data: Files | None = None
    init: Start | None = None
    dataset: CasesUsed | None = None
    cases: Table | None = None
    labels: Table | None = None
    training: Table | None = None
    validation: Validation | None = None
    inference: Inference | None = None
    source: ImportedFile | None = None
    left_fresh: tuple[str, ...] | None = None
    origin: Origin | None = None
    further: Table = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Table) -> Self:
        """The document of plain data; ValueError, naming the key, for what is none."""
        if not isinstance(data, Mapping) or not isinstance(data.get("network"), Mapping):
            raise ValueError("its network is no table")
        names = {each.name for each in dataclasses.fields(cls)} - {"origin", "further"}
        given: dict[str, Any] = {name: data[name] for name in names & data.keys()}
        for name, kind in _PARTS.items():
            if given.get(name) is not None:
                given[name] = _part(kind, given[name], name)
        if given.get("left_fresh") is not None:
            given["left_fresh"] = tuple(given["left_fresh"])
        origin = _part(Origin, data, RUN) if data.keys() >= ORIGIN else None
        further = {name: value for name, value in data.items() if name not in names | ORIGIN}
        return cls(**given, origin=origin, further=further)

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON holds it, without what is None."""
        plain = _plain(self)
        origin, further = plain.pop("origin", {}), plain.pop("further")
        return json.loads(json.dumps(plain | origin | further))


ORIGIN = {each.name for each in dataclasses.fields(Origin)}
# The fields that are types of this module, but for the origin, whose keys stand beside the others.
_PARTS: Mapping[str, type] = {
    name: kind
    for name, hint in typing.get_type_hints(RunDocument).items()
    for kind in typing.get_args(hint)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind is not Origin
}


def _part(kind: type, data: Any, name: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{name} is no table")
    given = {}
    for each in dataclasses.fields(kind):
        key = each.metadata.get("key", each.name)
        if key in data:
            value = data[key]
            given[each.name] = tuple(value) if isinstance(value, list) else value
        elif each.default is dataclasses.MISSING:
            raise ValueError(f"{name} does not say {key!r}")
    return kind(**given)


def _plain(part: Any) -> dict[str, Any]:
    """The fields that are not None, by the keys of ``run.json``."""
    values = {
        each.metadata.get("key", each.name): getattr(part, each.name) for each in dataclasses.fields(part)
    }
    return {
        key: _plain(value) if dataclasses.is_dataclass(value) else value
        for key, value in values.items()
        if value is not None
    }
