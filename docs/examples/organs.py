"""Five organs by formula: what a user's file of shapes looks like.

x points to the left-right, y to the front-back and z to the head-feet axis, as in a scanner, so that a fit starts
close to how organs lie. Sizes are parts of the grid's shortest edge; a fit finds the millimetres by itself.

    fdif fit label.nii.gz --label 2 --shape organs.py:kidney --out kidney
"""

import jax
import jax.numpy as jnp

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.sdf.shape import length


@fd.node
class Ellipsoid(fd.Shape):
    """An ellipsoid of half axes x, y, z: the distance of first order, after Inigo Quilez."""

    x: fd.shape.Scalar
    y: fd.shape.Scalar
    z: fd.shape.Scalar

    def __call__(self, p):
        """Signed distance, true to first order at the surface."""
        half = (self.x, self.y, self.z)
        once = length(*(c / h for c, h in zip(p, half, strict=True)))
        twice = length(*(c / (h * h) for c, h in zip(p, half, strict=True)))
        return once * (once - 1) / twice

    def bounds(self, margin=0.0):
        """Where it can be nearer than the margin: its distance grows by the least half axis from shell to shell."""
        half = jnp.stack([self.x, self.y, self.z])
        return fd.Box.around(*half * (1 + margin / half.min()))


@fd.node
class Bow(fd.Shape):
    """A shape whose z axis is bent: x moves by a parabola of z, y by another, and x and y swell along z."""

    shape: fd.Shape
    x: fd.shape.Scalar
    y: fd.shape.Scalar
    swell: fd.shape.Scalar
    length: fd.shape.Scalar

    def __call__(self, p):
        """Distance of the straight shape; stretched by the bow."""
        t = p.z / self.length
        k = jnp.exp(-self.swell * jnp.tanh(t))
        return self.shape(
            fd.Point((p.x - self.x * self.length * t * t) * k, (p.y - self.y * self.length * t * t) * k, p.z)
        )

    def bounds(self, margin=0.0):
        """The straight shape's, as wide as the swelling makes it at most and as far as its ends move."""
        box = self.shape.bounds(margin)
        x, y, z = jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))
        wider, bow = jnp.exp(jnp.abs(self.swell)), z * z / self.length
        return fd.Box.around(x * wider + jnp.abs(self.x) * bow, y * wider + jnp.abs(self.y) * bow, z)


@fd.node
class Turned(fd.Shape):
    """A shape turned about x, then y, then z. The angles are parameters, which those of `fd.rotate` are not."""

    shape: fd.Shape
    x: fd.shape.Scalar
    y: fd.shape.Scalar
    z: fd.shape.Scalar

    def __call__(self, p):
        """Distance of the shape before it was turned; true if that was."""
        return self.turned()(p)

    def bounds(self, margin=0.0):
        """A box around the turned box."""
        return self.turned().bounds(margin)

    def turned(self):
        """The same with matrices instead of angles."""
        shape = fd.rotate(self.shape, self.x, (1.0, 0.0, 0.0))
        shape = fd.rotate(shape, self.y, (0.0, 1.0, 0.0))
        return fd.rotate(shape, self.z, (0.0, 0.0, 1.0))


@fd.node
class Rod(fd.Shape):
    """What lies within a radius of the segment from one point to another. A true distance."""

    start: jax.Array
    along: jax.Array
    radius: fd.shape.Scalar

    def __call__(self, p):
        """Signed distance."""
        x, y, z = (c - s for c, s in zip(p, self.start, strict=True))
        u, v, w = self.along
        part = jnp.clip((x * u + y * v + z * w) / (u * u + v * v + w * w), 0.0, 1.0)
        return length(x - part * u, y - part * v, z - part * w) - self.radius

    def bounds(self, margin=0.0):
        """The box of both ends, grown by the radius."""
        ends, grown = jnp.stack([self.start, self.start + self.along]), self.radius + margin
        return fd.Box(ends.min(axis=0) - grown, ends.max(axis=0) + grown)


def rod(start, end, radius, n):
    """A rod between two points, all in parts of n voxels."""
    start, end = jnp.stack(start), jnp.stack(end)
    return Rod(start * n, (end - start) * n, radius * n)


def uniform(key, *ranges):
    """One number a range (low, high), in the order of the ranges."""
    low, high = jnp.asarray(ranges).T
    return tuple(jax.random.uniform(key, low.shape, minval=low, maxval=high))


def ellipsoid(centre, half):
    """An ellipsoid somewhere."""
    return fd.translate(Ellipsoid(*half), centre)


@fd.family(category="organs")
def kidney(key, grid):
    """A bowed ellipsoid without its sinus, which is long, and the hilum that opens it (18 parameters)."""
    n = min(grid)
    body_key, sinus_key, hilum_key = jax.random.split(key, 3)
    a, b, c, bow_x, bow_y, swell, soft = uniform(
        body_key, (0.10, 0.16), (0.10, 0.16), (0.20, 0.28), (-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3), (0.01, 0.05)
    )  # fmt: skip
    x, y, z, r, s, t = uniform(
        sinus_key, (0.0, 0.08), (-0.06, 0.06), (-0.08, 0.08), (0.02, 0.08), (0.02, 0.08), (0.04, 0.16)
    )
    u, v, w, wide, tall = uniform(
        hilum_key, (0.04, 0.14), (-0.08, 0.08), (-0.08, 0.08), (0.02, 0.08), (0.02, 0.10)
    )
    sinus = ellipsoid((x * n, y * n, z * n), (r * n, s * n, t * n))
    hilum = ellipsoid((u * n, v * n, w * n), (2 * wide * n, wide * n, tall * n))
    straight = fd.difference(Ellipsoid(a * n, b * n, c * n), sinus, hilum, smooth=soft * n)
    return Bow(straight, bow_x, bow_y, swell, c * n)


@fd.family(category="organs")
def spleen(key, grid):
    """A bowed ellipsoid that a larger one presses flat on one side (13 parameters)."""
    n = min(grid)
    a, b, c, bow_x, bow_y, swell, x, y, z, r, s, t, soft = uniform(
        key, (0.10, 0.22), (0.12, 0.22), (0.18, 0.28), (-0.3, 0.3), (-0.3, 0.3), (-0.3, 0.3),
        (0.14, 0.24), (-0.10, 0.10), (-0.10, 0.10), (0.06, 0.20), (0.10, 0.25), (0.10, 0.25), (0.03, 0.10),
    )  # fmt: skip
    body = Bow(Ellipsoid(a * n, b * n, c * n), bow_x, bow_y, swell, c * n)
    return fd.difference(body, ellipsoid((x * n, y * n, z * n), (r * n, s * n, t * n)), smooth=soft * n)


@fd.family(category="organs")
def liver(key, grid):
    """A large right lobe, a flat left one, a tip below, the bed that stomach and kidney press (23 parameters)."""
    n = min(grid)
    lobe, left, tip, bed, (soft, bite) = (
        uniform(k, *ranges)
        for k, ranges in zip(
            jax.random.split(key, 5),
            (
                ((0.14, 0.28), (0.18, 0.26), (0.12, 0.26)),
                ((-0.30, -0.14), (0.0, 0.18), (-0.05, 0.14), (0.12, 0.24), (0.08, 0.18), (0.06, 0.20)),
                ((0.0, 0.12), (-0.12, 0.06), (-0.22, -0.08), (0.08, 0.16), (0.10, 0.18), (0.14, 0.24)),
                ((-0.20, -0.02), (-0.24, -0.10), (-0.24, -0.06), (0.08, 0.24), (0.08, 0.20), (0.08, 0.24)),
                ((0.04, 0.16), (0.03, 0.08)),
            ),
            strict=True,
        )
    )

    def part(numbers):
        return ellipsoid([v * n for v in numbers[:3]], [v * n for v in numbers[3:]])

    whole = fd.union(Ellipsoid(*(v * n for v in lobe)), part(left), part(tip), smooth=soft * n)
    return fd.difference(whole, part(bed), smooth=bite * n)


@fd.family(category="organs")
def vertebra(key, grid):
    """A body and an arch: mirrored joints, pedicles, laminae and transverse processes, and a spine (22 parameters)."""
    n = min(grid)
    body_key, joint_key, arch_key = jax.random.split(key, 3)
    a, b, c, edge, soft = uniform(
        body_key, (0.12, 0.18), (0.08, 0.14), (0.07, 0.12), (0.01, 0.04), (0.02, 0.08)
    )
    x, y, z, r, s, t, pedicle = uniform(
        joint_key, (0.07, 0.15), (-0.26, -0.14), (-0.05, 0.05), (0.02, 0.06), (0.02, 0.06), (0.06, 0.20), (0.02, 0.05)
    )  # fmt: skip
    back, low, lamina, tip_y, tip_z, spine, out_x, out_y, out_z, process = uniform(
        arch_key, (-0.34, -0.20), (-0.10, 0.04), (0.02, 0.05), (-0.50, -0.34), (-0.20, -0.02), (0.02, 0.06),
        (0.20, 0.34), (-0.28, -0.12), (-0.06, 0.08), (0.02, 0.05),
    )  # fmt: skip
    parts = [fd.round(shapes.box(a * n, b * n, c * n), edge * n)]
    for side in (1, -1):
        joint = (side * x, y, z)
        parts += [
            ellipsoid([v * n for v in joint], (r * n, s * n, t * n)),
            rod((side * x, -b, z), joint, pedicle, n),
            rod(joint, (0.0, back, low), lamina, n),
            rod(joint, (side * out_x, out_y, out_z), process, n),
        ]
    return fd.union(*parts, rod((0.0, back, low), (0.0, tip_y, tip_z), spine, n), smooth=soft * n)


@fd.family(category="organs")
def hippocampus(key, grid):
    """A bowed body and a head that is turned against it (15 parameters)."""
    n = min(grid)
    body_key, head_key = jax.random.split(key)
    a, b, c, bow_x, bow_y, soft = uniform(
        body_key, (0.05, 0.10), (0.05, 0.10), (0.20, 0.28), (-0.4, 0.4), (-0.4, 0.4), (0.03, 0.12)
    )
    x, y, z, r, s, t, *angles = uniform(
        head_key, (-0.08, 0.08), (-0.08, 0.08), (0.04, 0.20), (0.05, 0.14), (0.05, 0.14), (0.05, 0.14),
        (-0.6, 0.6), (-0.6, 0.6), (-0.6, 0.6),
    )  # fmt: skip
    body = Bow(Ellipsoid(a * n, b * n, c * n), bow_x, bow_y, 0.0, c * n)
    head = fd.translate(Turned(Ellipsoid(r * n, s * n, t * n), *angles), (x * n, y * n, z * n))
    return fd.union(body, head, smooth=soft * n)
