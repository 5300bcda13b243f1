"""Heads and necks by formula, as subjects of a bank of organs: no scan is behind them.

A head is some sixty ellipsoids, tubes, boxes and horseshoes of distances, joined smoothly, in millimetres from a point
between the ears (right, anterior, superior). Sizes and places are those of any textbook of anatomy (three CTs were
looked at while they were set), and vary from head to head by a tenth or so, as do the length of the face, the tilt of
the chin and the bend of the neck. Organs are drawn over each other in order; skin and flesh are whole, with all that
lies in them.

`docs/make_head.py` makes the bank that comes with the package, `fdif_jax.shapes.organs:head`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fdif_jax.anatomy.bank import Bank, bank_of
from fdif_jax.anatomy.organ_masks import Subject, subject_of
from fdif_jax.sdf.seams import smooth_minimum
from fdif_jax.sdf.shape import Point, Shape
from fdif_jax.shapes import solids

STEP = 3.0  # mm a voxel
LOWER, UPPER = np.asarray([-105.0, -120.0, -190.0]), np.asarray([105.0, 125.0, 140.0])
SKIN = 3.2  # mm: how far below the surface of the skin all else stays
# Organs of several shapes.
GROUPS = {
    "skull": ("skull", "mastoid", "zygoma", "maxilla"),
    "brain": ("brain", "cerebellum"),
    "orbits": ("orbit",),
    "eyes": ("eye",),
    "airway": ("sinus", "nasal_cavity", "airway", "mouth"),
    "fat": ("fat_of_neck", "buccal_fat"),
    "tongue": ("tongue", "floor_of_mouth"),
    "spine": ("vertebra",),
    "neck_muscles": ("deep_neck", "trapezius"),
    "temporalis": ("temporalis",),
    "carotids": ("carotid",),
    "jugulars": ("jugular",),
    "thyroid": ("thyroid",),
    "larynx": ("larynx", "hyoid"),
    "tonsils": ("tonsil",),
    "pterygoids": ("pterygoid",),
}
SIDES = (("right", 1), ("left", -1))

Volume = np.ndarray  # signed distances or coordinates, float64, of a grid of the field of view
Drawn = Iterator[tuple[str, Volume]]


def heads(number: int) -> Bank:
    """The bank of this many heads; of seeds 0 to ``number - 1``."""
    return bank_of([subject(seed) for seed in range(number)], free=True)


def subject(seed: int) -> Subject:
    """One head."""
    shapes = dict(_shapes(Head(seed)))
    organs = sorted({_organ(name) for name in shapes})
    array = np.zeros(shapes["skin"].shape, np.uint16)
    for name, distance in shapes.items():
        inside = distance if name == "skin" else np.maximum(distance, shapes["skin"] + SKIN)
        array[inside < 0] = organs.index(_organ(name)) + 1
    affine = np.diag([STEP, STEP, STEP, 1.0])
    affine[:3, 3] = LOWER
    whole = {"skin": array > 0, "flesh": (array > 0) & (array != organs.index("skin") + 1)}
    return subject_of(f"head {seed}", organs, array, affine, whole)


def _organ(shape: str) -> str:
    return next((organ for organ, of in GROUPS.items() if shape.startswith(of)), shape)


class Head:
    """The coordinates of one head, and formulas of distances in them."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        axes = [np.arange(low, high, STEP) for low, high in zip(LOWER, UPPER, strict=True)]
        self.still = np.meshgrid(*axes, indexing="ij")
        x, y, z = (c / s for c, s in zip(self.still, 1 + 0.06 * self.normal(3), strict=True))
        self.x = x
        self.y, self.z = _turned(y, z, 8 * np.clip(self.rng.normal(), -1.8, 1.8))
        below = np.maximum(-70 - self.z, 0)
        bend = 0.25 + 0.12 * self.normal()
        self.neck = self.y + bend * below * below / (below + 40)  # y along the neck, which bends back

    def normal(self, *size: int) -> Any:
        """Standard normal numbers, at most 2."""
        return np.clip(self.rng.normal(size=size or None), -2, 2)

    def varied(self, size: Any, spread: float = 0.1) -> Any:
        """A size, or several, with this relative standard deviation."""
        return np.asarray(size, float) * (1 + spread * self.normal(*np.shape(size)))

    def near(self, *place: float, spread: float = 2.0) -> np.ndarray:
        """A place, with this standard deviation, mm."""
        return np.asarray(place, float) + spread * self.normal(3)

    def _of(self, shape: Shape, centre: Any, side: int, turn: float, y: Volume | None) -> Volume:
        """The distance to a shape about a centre on a side, turned about the axis to the right, degrees."""
        a, b, c = side * self.x - centre[0], (self.y if y is None else y) - centre[1], self.z - centre[2]
        with jax.enable_x64(True):
            return np.asarray(shape(Point(a, *_turned(b, c, turn))))

    def ellipsoid(
        self, centre: Any, half: Any, side: int = 1, turn: float = 0.0, y: Volume | None = None
    ) -> Volume:
        """An ellipsoid of these half axes."""
        return self._of(solids.ellipsoid(*map(float, half)), centre, side, turn, y)

    def box(
        self, centre: Any, half: Any, side: int = 1, turn: float = 0.0, rounded: float = 3.0,
        y: Volume | None = None,
    ) -> Volume:  # fmt: skip
        """A box of these half edges, rounded."""
        return self._of(solids.rounded_box(*map(float, half), radius=rounded), centre, side, turn, y)

    def tube(
        self, points: Sequence[Any], radii: Sequence[float], side: int = 1, y: Volume | None = None
    ) -> Volume:
        """A tube through points, its radius linear between them."""
        place = np.stack([side * self.x, self.y if y is None else y, self.z], -1)
        nearest = np.full(self.x.shape, np.inf)
        ends = zip(points, points[1:], radii, radii[1:], strict=False)
        for first, last, wide, wider in ends:
            way = np.asarray(last, float) - first
            t = np.clip((place - first) @ way / (way @ way), 0, 1)
            away = np.linalg.norm(place - first - t[..., None] * way, axis=-1)
            nearest = np.minimum(nearest, away - (wide + t * (wider - wide)))
        return nearest

    def arch(
        self, front: Any, back: Any, half: Any, thick: Any, low: Any, high: Any, rise: Any = 0.0
    ) -> Volume:
        """A horseshoe that opens to the back: a parabola of this half width at y = ``back``, between two heights.

        Its ends are ``rise`` higher than its middle.
        """
        aside = (self.x / half) ** 2
        slope = 2 * (front - back) * self.x / half**2
        away = (self.y - (front - (front - back) * aside)) / np.sqrt(1 + slope**2)
        z = self.z - rise * np.minimum(aside, 1.3)
        return np.maximum.reduce(
            [abs(away) - thick, abs(z - (low + high) / 2) - (high - low) / 2, back - self.y]
        )


def _turned(y: Volume, z: Volume, degrees: float) -> tuple[Volume, Volume]:
    """Coordinates along axes that are turned about the axis to the right."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return cosine * y + sine * z, -sine * y + cosine * z


class _Jaw(NamedTuple):
    """The lower jaw: half its width at the branches, how far it reaches to the front, where its branches rise; mm."""

    half: float
    front: float
    branch: float


def _union(a: Volume, b: Volume, width: float) -> Volume:
    """The smooth union of two shapes."""
    with jax.enable_x64(True):
        return np.asarray(smooth_minimum(a, b, width))


def _shapes(h: Head) -> Drawn:
    """Names and distances of all shapes, in the order in which they are drawn over each other.

    Random numbers are taken in this order, too: another one makes other heads of the same seeds.
    """
    jaw = _Jaw(h.varied(47, 0.06), h.varied(80, 0.06), 6 + 3 * h.rng.normal())
    fat = np.clip(h.varied(5.0, 0.4), 2, 10)  # under the skin
    skin = _skin(h)
    yield "skin", skin
    yield "flesh", skin + fat
    nape = h.ellipsoid(h.near(0, -78, -110), h.varied((40, 14, 60)), y=h.neck)
    yield "fat_of_neck", np.maximum(nape, skin + 3)
    yield from _skull(h, skin, fat)
    mandible = _mandible(h, jaw)
    yield from _face(h, skin, jaw)
    yield "mandible", mandible
    yield from _neck(h, skin)
    for side, sign in SIDES:
        yield f"parotid_{side}", _parotid(h, jaw, mandible, skin, sign)


def _mandible(h: Head, jaw: _Jaw) -> Volume:
    """A horseshoe and two branches, each with a notch above."""
    notches = [h.ellipsoid((jaw.half + 2, jaw.branch + 4, -6), (12, 8, 14), s) for _, s in SIDES]
    thick, high = h.varied(4.8, 0.15), h.varied(12.5, 0.12)
    body = h.arch(jaw.front, jaw.branch - 6, jaw.half, thick, -92 - high, -92 + high, h.varied(18, 0.25))
    centre = jaw.half + 2, jaw.branch, -44
    branches = [
        h.box(centre, (h.varied(4.5, 0.15), h.varied(15, 0.1), h.varied(36, 0.08)), s, turn=10)
        for _, s in SIDES
    ]
    notched = [np.maximum(branch, -notch) for branch, notch in zip(branches, notches, strict=True)]
    return np.minimum.reduce([*notched, body])


def _skin(h: Head) -> Volume:
    """The outline: cranium, face, neck, shoulders, cheeks, nose, ears; closed where the field of view ends."""
    cranium = h.ellipsoid((0, 0, 48), h.varied((76, 95, 84), 0.03))
    face = h.ellipsoid(h.near(0, 38, -48), h.varied((60, 58, 72), 0.05))
    neck = h.ellipsoid((0, -18, -120), (h.varied(58, 0.12), h.varied(60, 0.1), 190), y=h.neck)
    wide = h.near(0, -25, -235, spread=6.0)
    shoulders = h.ellipsoid(wide, (h.varied(190, 0.1), h.varied(85, 0.1), h.varied(75, 0.12)), y=h.neck)
    outline = _union(_union(_union(cranium, face, 25), neck, 30), shoulders, 40)
    for _, sign in SIDES:
        outline = _union(outline, h.ellipsoid(h.near(46, 12, -46), h.varied((27, 42, 50), 0.06), sign), 15)
    outline = _union(outline, h.ellipsoid((0, 92, -18), (13, 16, 17)), 8)
    for _, sign in SIDES:
        outline = np.minimum(outline, h.ellipsoid((78, -12, -8), (6, 14, 28), sign))
    x, y, z = h.still
    return np.maximum.reduce([outline, -180 - z, abs(x) - 96, -110 - y, y - 116, z - 132])


def _skull(h: Head, skin: Volume, fat: float) -> Drawn:
    """The vault, what it holds, and the bones and cavities below and before it."""
    bone, half = h.varied(6, 0.15), np.asarray((76.0, 95.0, 84.0)) - 5 - fat * 0.6
    h.normal(3)  # unused; without them all that follows, and so the shipped bank, would be other heads
    vault = h.ellipsoid((0, 0, 48), half)
    base = h.box((0, 8, 0), (50, 62, 7), turn=-8)
    yield "skull", np.maximum(vault, np.minimum(2 - h.z, base))
    inside = h.ellipsoid((0, 0, 48), half - bone)
    yield "brain", np.maximum(inside, 6 - 0.1 * h.y - h.z)
    yield "cerebellum", h.ellipsoid(h.near(0, -50, 2), h.varied((44, 28, 20)))
    for side, s in SIDES:
        yield f"mastoid_{side}", h.ellipsoid(h.near(53, -20, -14), h.varied((9, 12, 17), 0.15), s)
        arch = [h.near(62, 12, -10), h.near(60, 38, -12), h.near(44, 66, -18)]
        yield f"zygoma_{side}", h.tube(arch, h.varied((3.5, 4, 7), 0.1), s)
        yield f"orbit_{side}", h.ellipsoid(h.near(32, 66, 8), h.varied((17, 22, 17), 0.08), s)
        yield f"eye_{side}", h.ellipsoid(h.near(32, 76, 8), np.full(3, h.varied(12, 0.06)), s)
    yield "maxilla", h.ellipsoid(h.near(0, 56, -32), h.varied((33, 26, 21), 0.08))
    for side, s in SIDES:
        yield f"sinus_{side}", h.ellipsoid(h.near(24, 56, -22), h.varied((11, 14, 15), 0.2), s)
    nose = h.ellipsoid(h.near(0, 58, -16), h.varied((13, 34, 20), 0.12))
    yield "nasal_cavity", np.maximum(nose, skin + 3)


def _face(h: Head, skin: Volume, jaw: _Jaw) -> Drawn:
    """Muscles about the jaw, the mouth and what lies in it, teeth."""
    for side, s in SIDES:
        masseter = h.ellipsoid((jaw.half + 9, jaw.branch + 12, -50), h.varied((9, 17, 30), 0.12), s, turn=15)
        yield f"masseter_{side}", np.maximum(masseter, skin + 2)
        inner = (jaw.half - 8, jaw.branch + 10, -46)
        yield f"pterygoid_{side}", h.ellipsoid(inner, h.varied((8, 15, 25), 0.12), s, turn=10)
        temporalis = h.ellipsoid(h.near(62, 25, 22), h.varied((9, 32, 32), 0.1), s)
        yield f"temporalis_{side}", np.maximum(temporalis, skin + 2)
        yield f"buccal_fat_{side}", h.ellipsoid(h.near(43, 45, -40), h.varied((11, 12, 14), 0.2), s)
    yield "tongue", h.ellipsoid(h.near(0, 38, -72), h.varied((22, 32, 24), 0.12))
    yield "floor_of_mouth", h.ellipsoid(h.near(0, 40, -98), h.varied((24, 28, 10), 0.15))
    middle = h.near(0, 50, -50)
    air = (h.varied(16, 0.3), h.varied(24, 0.2), np.clip(h.varied(4, 0.6), 1, 9))
    yield "mouth", h.ellipsoid(middle, air)
    for side, s in SIDES:
        yield f"submandibular_{side}", h.ellipsoid(h.near(34, 24, -92), h.varied((11, 16, 13), 0.15), s)
        yield f"tonsil_{side}", h.ellipsoid(h.near(17, 14, -66), h.varied((7, 9, 14), 0.2), s)
    lower = h.arch(jaw.front - 4, 30, h.varied(27, 0.06), 5, -77, -66)
    yield "teeth", np.minimum(lower, h.arch(jaw.front - 2, 30, 28, 5, -62, -52))


def _neck(h: Head, skin: Volume) -> Drawn:
    """Seven vertebrae, muscles, vessels, thyroid, larynx and the airway."""
    y = h.neck
    for number in range(7):
        z = -32 - 17 * number - 4 * (number > 0)
        centre = np.asarray((0, -22 - 0.06 * (z + 70), z)) + 1.5 * h.rng.normal(size=3)
        column = h.ellipsoid(centre, (h.varied(15), h.varied(11), 60), y=y)
        spine = h.box(np.add(centre, (0, -30, -3)), (3, 14, 5), rounded=2, y=y)
        wings = h.box(np.add(centre, (0, -13, 0)), (24, 5, 5), y=y)
        body = np.maximum(column, abs(h.z - z) - 7)
        yield f"vertebra_C{number + 1}", _union(body, np.minimum(spine, wings), 4)
    yield "spinal_cord", h.tube([(0, -40, -5), (0, -40, -200)], h.varied((8, 8), 0.08), y=y)
    for side, s in SIDES:
        way = [h.near(57, -26, -25), h.near(50, -10, -95, spread=3.0), h.near(16, 18, -190)]
        yield f"sternomastoid_{side}", np.maximum(h.tube(way, h.varied((11, 12, 9), 0.12), s, y), skin + 3)
        deep = h.ellipsoid(h.near(28, -52, -100), h.varied((23, 21, 75), 0.1), s, y=y)
        yield f"deep_neck_{side}", np.maximum(deep, skin + 5)
        trapezius = h.ellipsoid(h.near(34, -75, -130), h.varied((34, 9, 70), 0.12), s, y=y)
        yield f"trapezius_{side}", np.maximum(trapezius, skin + 3)
        way = [h.near(25, 2, -20), h.near(30, 2, -90), h.near(22, 2, -195)]
        yield f"carotid_{side}", h.tube(way, h.varied((3.5, 4, 4), 0.15), s, y)
        way = [h.near(32, -6, -20), h.near(37, -3, -90), h.near(28, 4, -195)]
        yield f"jugular_{side}", h.tube(way, h.varied((5, 6.5, 6), 0.25), s, y)
        yield f"thyroid_{side}", h.ellipsoid(h.near(17, 22, -158), h.varied((8, 11, 22), 0.15), s, y=y)
    larynx = h.ellipsoid(h.near(0, 28, -130), h.varied((19, 19, 26), 0.1), y=y)
    yield "larynx", np.maximum(larynx, -larynx - 4)
    way = [h.near(0, *at) for at in ((22, -18), (14, -50), (18, -90), (26, -128), (22, -155), (10, -200))]
    yield "airway", h.tube(way, h.varied((9, 6, 8, 6, 9, 9), 0.25), y=y)
    ring = abs(np.hypot(h.x, y - 22) - 22) - 3
    yield "hyoid", np.maximum.reduce([ring, abs(h.z + 108) - 4, 15 - y])


def _parotid(h: Head, jaw: _Jaw, mandible: Volume, skin: Volume, side: int) -> Volume:
    """A parotid gland: about the hind edge of the jaw's branch, below the ear, with a tail downwards."""
    centre = np.asarray((jaw.half + 10, jaw.branch - 8, -42)) + 2 * h.normal(3)
    shallow = h.ellipsoid(np.add(centre, (3, 3, 0)), h.varied((10, 22, 28), 0.12), side, turn=10)
    deep = h.ellipsoid(np.add(centre, (-6, -9, 2)), h.varied((14, 12, 23), 0.12), side)
    tail = h.ellipsoid(np.add(centre, (-1, -6, -24)), h.varied((8, 10, 13), 0.2), side)
    gland = _union(_union(shallow, deep, 8), tail, 8)
    return np.maximum.reduce([gland, 1 - mandible, skin + 2.5])
