"""Where a picture of shapes is taken from."""

import dataclasses
import math

import numpy as np

AIR = 1.12  # a picture's edge over what it must show


@dataclasses.dataclass(frozen=True)
class Camera:
    """The view of a square picture in which z points upwards."""

    target: tuple[float, float, float]  # x, y, z of the picture's middle
    half: float  # half the picture's edge at the target, in units of the shapes
    azimuth: float = 30.0  # degrees by which the eye is turned about z, from the -y axis towards the +x axis
    elevation: float = 25.0  # degrees of the eye above the x-y plane, -90 … 90
    field_of_view: float = 0.0  # degrees between opposite edges of the picture; 0 for parallel rays

    @classmethod
    def around(
        cls,
        points: np.ndarray,
        azimuth: float = 30.0,
        elevation: float = 25.0,
        field_of_view: float = 0.0,
    ) -> "Camera":
        """The camera that shows points ``(n, 3)`` as large as the picture allows."""
        x, y, z = ((points.min(axis=0) + points.max(axis=0)) / 2).tolist()
        camera = cls((x, y, z), 1.0, azimuth, elevation, field_of_view)
        right, up, back = camera.axes @ (points - [x, y, z]).T
        # What lies closer to the eye is seen larger.
        seen = np.maximum(abs(right), abs(up)) + camera.spread * back
        return dataclasses.replace(camera, half=AIR * float(seen.max()))

    @property
    def spread(self) -> float:
        """How much the view widens with each unit of the way from the eye."""
        return math.tan(math.radians(self.field_of_view) / 2)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors ``(3, 3)``: to the right, upwards, and back to the eye."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = np.array([math.cos(a), math.sin(a), 0.0])
        back = np.array([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)])
        return np.stack([right, np.cross(back, right), back])

    def rays(self, right: np.ndarray, up: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Origins and unit directions, each float32 ``(3, n)``, of rays through points of the picture.

        ``right`` and ``up`` ``(n,)`` are -1 at the left or lower edge … 1 at the other; ``reach`` is how far before the
        target parallel rays begin.
        """
        axes = self.axes
        plane = np.array(self.target)[:, None] + self.half * (axes[:2].T @ np.stack([right, up]))
        back = np.broadcast_to(axes[2][:, None], plane.shape)
        if self.field_of_view == 0:
            return (plane + reach * back).astype(np.float32), (-back).astype(np.float32)
        eye = np.array(self.target)[:, None] + self.half / self.spread * back
        way = plane - eye
        return eye.astype(np.float32), (way / np.linalg.norm(way, axis=0)).astype(np.float32)
