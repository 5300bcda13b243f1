"""Organ banks: label maps of real bodies turned into shapes, anchors and a graph, without anything of a patient.

A `Bank` holds, for every organ of every subject, a small grid of signed distances in millimetres (scipy's exact
Euclidean distance transform); for every organ where it usually lies, how large it is and how it is turned; and for
every pair how often they were found disjoint, touching, interlocked or one inside the other. It holds no intensities,
no header text, no file names and no coordinates of a scanner.

**Body frame.** Millimetres along right, anterior, superior (the file's affine says where these are). Subjects lie
anywhere in their scanners and show different parts of the body, hence boxes and volumes of the field of view say
nothing. What they share are organs: each subject is scaled and shifted so that the centroids of its uncut organs come
to lie on those of the *reference*, the subject with most of them; the least squares are reweighted (Huber), so that a
displaced organ does not pull the others along. The origin is the mean of the reference's centroids.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fdif_jax.anatomy.organ_masks import ENCLOSED, DistanceGrid, OrganMask, Subject, read_subject
from fdif_jax.errors import FdifError
from fdif_jax.io.files import reading, write_atomic
from fdif_jax.io.npz import read_npz

VERSION = 1
DISJOINT, TOUCHING, INTERLOCKED, INSIDE = range(4)
RELATIONS = ("disjoint", "touching", "interlocked", "inside")
INTERLOCK = 0.1  # share of an organ within another's closed outline that counts as interlocked
MIN_SPREAD = 5.0  # mm: what even a single subject leaves open about an organ's place
MIN_TURN, MAX_TURN = 3.0, 15.0  # degrees
MIN_GROWTH, MAX_GROWTH = 0.05, 0.25
_COARSEST = 1e4  # mm: no step of a grid of a body is as long


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """Shapes, anchors and topology of organs. N organs, S subjects, M members (an organ of a subject), G ≥ M grids.

    Members are the organs that serve as shapes: those that no field of view cuts, or else the largest of those cut.

    Lengths are millimetres of the body frame, axes right, anterior, superior.

    Attributes:
        organs: their names, in order.
        organ: of each member, which organ, int32 ``(M,)``.
        subject: of each member, which subject, int32 ``(M,)``.
        cut: whether the field of view cuts it, bool ``(M,)``.
        hull: of each member, the grid of its closed outline (itself unless it holds another organ), int32 ``(M,)``.
        centroid: of each member, float32 ``(M, 3)``.
        volume: of each member, mm³, float32 ``(M,)``.
        size: edges of each grid, int32 ``(G, 3)``.
        start: position of each grid in ``values``, int32 ``(G,)``.
        unit: millimetres that one step of ``values`` stands for, float32 ``(G,)``.
        inverse: body point → fractional index along the grid's three axes, float32 ``(G, 3, 4)``.
        lower: lower corner of the box of each grid's inside, float32 ``(G, 3)``.
        upper: upper corner; a point further than m outside this box has a distance above m.
        values: all signed distances, the last axis fastest, int16 ``(V,)``.
        window: lower and upper corner of each subject's field of view, float32 ``(S, 2, 3)``.
        mean: usual centroid of each organ, float32 ``(N, 3)``.
        spread: its standard deviation, at least `MIN_SPREAD`, float32 ``(N, 3)``.
        extent: mean size of its box, float32 ``(N, 3)``.
        growth: standard deviation of its size relative to the mean, float32 ``(N,)``.
        axis: direction of its longest extent, float32 ``(N, 3)``.
        turn: standard deviation of that direction, degrees, float32 ``(N,)``.
        shown: how many subjects showed each organ, int32 ``(N,)``.
        whole: how many showed it uncut, int32 ``(N,)``.
        relations: in how many subjects each pair was disjoint, touching, interlocked, or the first inside the second,
            int32 ``(4, N, N)``.
        digest: SHA-256 of the file it came from; empty for one that was just built.
    """

    organs: tuple[str, ...]
    organ: np.ndarray
    subject: np.ndarray
    cut: np.ndarray
    hull: np.ndarray
    centroid: np.ndarray
    volume: np.ndarray
    size: np.ndarray
    start: np.ndarray
    unit: np.ndarray
    inverse: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    values: np.ndarray
    window: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    extent: np.ndarray
    growth: np.ndarray
    axis: np.ndarray
    turn: np.ndarray
    shown: np.ndarray
    whole: np.ndarray
    relations: np.ndarray
    digest: str = ""

    @property
    def seen(self) -> np.ndarray:
        """How many subjects showed both organs of a pair, ``(N, N)``."""
        both = self.relations.sum(0)
        # "Inside" is counted for the inner organ's row only; the pair was seen all the same.
        return both + (self.relations[INSIDE].T * ~np.eye(len(self.organs), dtype=bool))

    def relation(self) -> np.ndarray:
        """What generation goes by, int ``(N, N)``; entry (i, j) is `INSIDE` where i lies in j.

        The most permissive relation that any subject showed; a pair that no subject showed together counts as disjoint.
        """
        counts, found = self.relations, np.full(self.relations.shape[1:], DISJOINT)
        for kind in (TOUCHING, INTERLOCKED):
            found[counts[kind] > 0] = kind
        found[2 * counts[INSIDE] > self.seen] = INSIDE
        found[(counts[INSIDE] > 0) & (found != INSIDE)] = INTERLOCKED
        found[((counts[INSIDE] > 0).T) & (found < INTERLOCKED)] = INTERLOCKED
        return found

    def save(self, path: str | Path) -> None:
        """Write the bank (``.npz``), complete or not at all; equal banks give equal bytes."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "digest"}
        arrays["organs"] = np.asarray(self.organs)
        # Neighbours differ little: their differences take half the room of the distances once deflated.
        arrays["values"] = np.diff(self.values, prepend=self.values.dtype.type(0))
        data = io.BytesIO()
        np.savez_compressed(data, version=np.int32(VERSION), **arrays)
        write_atomic(path, data.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "Bank":
        """Read a bank; FdifError naming the file if it is missing, damaged or no bank."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise FdifError(f"{path}: cannot read: {error.strerror}") from None
        with reading(path, "not an organ bank; `fdif bank build` makes one"):
            arrays: dict[str, Any] = read_npz(path, io.BytesIO(data))
            version = int(arrays.pop("version"))
            arrays["organs"] = tuple(str(name) for name in arrays["organs"])
            arrays["values"] = np.cumsum(arrays["values"], dtype=np.int16)
            if version != VERSION:
                raise FdifError(
                    f"{path}: a bank of format {version}, this version reads {VERSION}; build it anew"
                )
            bank = cls(**arrays, digest=hashlib.sha256(data).hexdigest())
            bank._check()
            return bank

    def _check(self) -> None:
        """Raise a ValueError if an array has not the shape, type or range that the others make it have."""
        n, m, s, g = len(self.organs), len(self.organ), len(self.window), len(self.size)
        whole, real = np.dtype(np.int32), np.dtype(np.float32)
        forms = {
            "organ subject hull": (whole, (m,)),
            "cut": (np.dtype(bool), (m,)),
            "centroid": (real, (m, 3)),
            "volume": (real, (m,)),
            "size": (whole, (g, 3)),
            "start": (whole, (g,)),
            "unit": (real, (g,)),
            "inverse": (real, (g, 3, 4)),
            "lower upper": (real, (g, 3)),
            "values": (np.dtype(np.int16), (len(self.values),)),
            "window": (real, (s, 2, 3)),
            "mean spread extent axis": (real, (n, 3)),
            "growth turn": (real, (n,)),
            "shown whole": (whole, (n,)),
            "relations": (whole, (len(RELATIONS), n, n)),
        }
        for names, form in forms.items():
            for name in names.split():
                array = getattr(self, name)
                if (array.dtype, array.shape) != form or not np.isfinite(array).all():
                    raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, or not finite")
        limits = {"organ": n, "subject": s, "hull": g}
        if not (n and m and s and m <= g and len(set(self.organs)) == n):
            raise ValueError("no organs, or some twice")
        if any(
            getattr(self, name).min() < 0 or getattr(self, name).max() >= top for name, top in limits.items()
        ):
            raise ValueError("members of organs, subjects or grids that are not there")
        cells = self.size.astype(np.int64).prod(axis=1)
        if self.size.min() < 2 or self.start.min() < 0 or (self.start + cells).max() > len(self.values):
            raise ValueError("grids beyond its values")
        matrices = self.inverse[:, :, :3].astype(np.float64)
        if min(abs(np.linalg.det(matrices))) == 0 or self.unit.min() <= 0:
            raise ValueError("grids without an extent")
        if np.linalg.norm(np.linalg.inv(matrices), axis=1).max() > _COARSEST:
            raise ValueError(f"grids with steps above {_COARSEST:g} mm")
        if len(np.unique(self.organ)) < n:
            raise ValueError("organs without a shape")


def build_bank(
    paths: Sequence[str | Path],
    names: Sequence[Mapping[int, str]],
    *,
    min_voxels: int = 8,
    progress: Callable[[list[str]], None] = lambda warnings: None,
) -> Bank:
    """The bank of label maps, one a subject; ``names`` has label → organ of each, ``min_voxels`` is as in
    `read_subject`.

    ``progress`` is called after each subject with its warnings. FdifError as of `read_subject`, or without a label map.
    """
    if not paths:
        raise FdifError("no label map given; a bank needs at least one")
    subjects = []
    for path, table in zip(paths, names, strict=True):
        subject, warnings = read_subject(path, table, min_voxels)
        subjects.append(subject)
        progress(warnings)
    return bank_of(subjects)


def bank_of(subjects: Sequence[Subject], *, free: bool = False) -> Bank:
    """The bank of these subjects; with ``free`` any organs of one may overlap, as those of a drawn body do that fit."""
    frames = body_frames(subjects)
    organs = tuple(sorted({organ for subject in subjects for organ in subject.parts}))
    shown = [
        [frames[i].placed(s.parts[o], i) for i, s in enumerate(subjects) if o in s.parts] for o in organs
    ]
    members = [(n, member) for n, candidates in enumerate(shown) for member in _usable(candidates)]
    owners = [m for m, (_, member) in enumerate(members) if member.hull is not None]
    grids = [member.grid for _, member in members]
    grids += [member.hull for _, member in members if member.hull is not None]
    hull = np.arange(len(members))
    hull[owners] = len(members) + np.arange(len(owners))
    lengths = [grid.values.size for grid in grids]
    boxes = [grid.box() for grid in grids]
    anchors = [_anchor(candidates) for candidates in shown]
    numbers = {
        "organ": [n for n, _ in members],
        "subject": [member.subject for _, member in members],
        "hull": hull,
        "size": [grid.values.shape for grid in grids],
        "start": np.cumsum(lengths) - lengths,
        "shown": [len(candidates) for candidates in shown],
        "whole": [sum(not member.cut for member in candidates) for candidates in shown],
        "relations": _all_free(subjects, organs) if free else _relations(subjects, organs),
    }
    lengths_of = {
        "centroid": [member.centroid for _, member in members],
        "volume": [member.volume for _, member in members],
        "unit": [grid.unit for grid in grids],
        "inverse": [grid.inverse for grid in grids],
        "lower": [lower for lower, _ in boxes],
        "upper": [upper for _, upper in boxes],
        "window": [frame.box(subject.corners) for frame, subject in zip(frames, subjects, strict=True)],
        **{key: [anchor[key] for anchor in anchors] for key in anchors[0]},
    }
    return Bank(
        organs=organs,
        cut=np.asarray([member.cut for _, member in members]),
        values=np.concatenate([grid.values.ravel() for grid in grids]),
        **{name: np.asarray(value, np.int32) for name, value in numbers.items()},  # type: ignore[arg-type]
        **{name: np.asarray(value, np.float32) for name, value in lengths_of.items()},  # type: ignore[arg-type]
    )


def _usable(candidates: Sequence[OrganMask]) -> list[OrganMask]:
    """Those that serve as shapes: uncut ones, else those that are about as large as the largest."""
    whole = [member for member in candidates if not member.cut]
    largest = max(member.volume for member in candidates)
    return whole or [member for member in candidates if member.volume >= 0.8 * largest]


class Frame(NamedTuple):
    """Scanner millimetres → body millimetres: ``scale · point + shift``."""

    scale: float
    shift: np.ndarray

    def placed(self, part: OrganMask, subject: int) -> OrganMask:
        """The part of subject number ``subject`` in the body frame."""
        ends = {
            name: self.scale * getattr(part, name) + self.shift for name in ("centroid", "lower", "upper")
        }
        grid, hull = self.moved(part.grid), None if part.hull is None else self.moved(part.hull)
        volume = part.volume * self.scale**3
        return dataclasses.replace(part, **ends, volume=volume, grid=grid, hull=hull, subject=subject)

    def moved(self, grid: DistanceGrid) -> DistanceGrid:
        """The grid with distances and coordinates of the body frame."""
        linear = grid.inverse[:, :3] / self.scale
        offset = grid.inverse[:, 3] - linear @ self.shift
        return DistanceGrid(
            grid.values, grid.unit * self.scale, np.concatenate([linear, offset[:, None]], axis=1)
        )

    def box(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner of the points' box in the body frame."""
        moved = self.scale * points + self.shift
        return moved.min(0), moved.max(0)


def body_frames(subjects: Sequence[Subject]) -> list[Frame]:
    """Every subject's way into the body frame (see the module's text).

    Subjects join in order of their number of uncut organs; each is fitted to the mean centroids of those before it.
    Three shared uncut organs give scale and shift, one or two the shift; without any, organs that are cut serve.
    """
    uncut = [{o: p.centroid for o, p in s.parts.items() if not p.cut} for s in subjects]
    every = [{o: p.centroid for o, p in s.parts.items()} for s in subjects]
    order = sorted(range(len(subjects)), key=lambda s: (-len(uncut[s]), -len(every[s])))
    origin = np.mean(list((uncut[order[0]] or every[order[0]]).values()), axis=0)
    frames: dict[int, Frame] = {order[0]: Frame(1.0, -origin)}
    for s in order[1:]:
        for of in (uncut, every):
            known: dict[str, list[np.ndarray]] = {}
            for other, frame in frames.items():
                for organ, centroid in of[other].items():
                    known.setdefault(organ, []).append(frame.scale * centroid + frame.shift)
            shared = sorted(set(known) & set(of[s]))
            if shared:
                there = np.asarray([np.mean(known[o], axis=0) for o in shared])
                here = np.asarray([of[s][o] for o in shared])
                frames[s] = _fitted(here, there, with_scale=of is uncut and len(shared) >= 3)
                break
        else:
            raise FdifError(
                f"{subjects[s].name}: shares no organ with {subjects[order[0]].name}; "
                "they cannot be brought into one body"
            )
    return [frames[s] for s in range(len(subjects))]


def _fitted(here: np.ndarray, there: np.ndarray, with_scale: bool) -> Frame:
    """Scale and shift that take points ``here`` to points ``there``, by reweighted least squares (Huber, 10 mm)."""
    weight = np.ones(len(here))
    frame = Frame(1.0, np.zeros(3))
    for _ in range(10):
        w = (weight / weight.sum())[:, None]
        a, b = (w * here).sum(0), (w * there).sum(0)
        scale = 1.0
        if with_scale:
            ratio = np.sum(w * (here - a) * (there - b)) / max(np.sum(w * np.square(here - a)), 1e-9)
            scale = float(np.clip(ratio, 0.5, 2.0))
        frame = Frame(scale, b - scale * a)
        off = np.linalg.norm(scale * here + frame.shift - there, axis=1)
        weight = 1 / np.maximum(off, 10.0)
    return frame


def _relations(subjects: Sequence[Subject], organs: tuple[str, ...]) -> np.ndarray:
    counts = np.zeros((4, len(organs), len(organs)), np.int32)
    for subject in subjects:
        for i, a in enumerate(organs):
            for j, b in enumerate(organs[:i]):
                if a in subject.parts and b in subject.parts:
                    kind, flipped = _relation(subject.parts[a], subject.parts[b])
                    if kind == INSIDE:
                        counts[(kind, j, i) if flipped else (kind, i, j)] += 1
                    else:
                        counts[kind, [i, j], [j, i]] += 1
    return counts


def _all_free(subjects: Sequence[Subject], organs: tuple[str, ...]) -> np.ndarray:
    counts = np.zeros((4, len(organs), len(organs)), np.int32)
    counts[INTERLOCKED] = len(subjects)
    return counts


def _relation(a: OrganMask, b: OrganMask) -> tuple[int, bool]:
    """How two organs of a subject lie to each other; for `INSIDE` whether ``b`` is the inner one."""
    of_a, of_b = b.holds.get(a.organ, 0.0), a.holds.get(b.organ, 0.0)
    if max(of_a, of_b) >= ENCLOSED:
        return INSIDE, of_b > of_a
    if max(of_a, of_b) >= INTERLOCK:
        return INTERLOCKED, False
    return (TOUCHING if b.organ in a.touches or a.organ in b.touches else DISJOINT), False


def _anchor(candidates: Sequence[OrganMask]) -> dict[str, np.ndarray]:
    """Statistics of one organ over the members that serve as shapes."""
    chosen = _usable(candidates)
    centroid = np.asarray([member.centroid for member in chosen])
    box = np.asarray([member.upper - member.lower for member in chosen])
    directions = np.asarray([member.axis for member in chosen])
    relative = box.mean(1) / box.mean()
    # The mean of lines, not of arrows: the strongest direction of their scatter.
    main = np.linalg.eigh(directions.T @ directions)[1][:, -1]
    angles = np.degrees(np.arccos(np.clip(np.abs(directions @ main), 0, 1)))
    return {
        "mean": centroid.mean(0),
        "spread": np.maximum(centroid.std(0), MIN_SPREAD),
        "extent": box.mean(0),
        "growth": np.clip(relative.std(), MIN_GROWTH, MAX_GROWTH),
        "axis": main,
        "turn": np.clip(np.sqrt(np.mean(angles**2)), MIN_TURN, MAX_TURN),
    }
