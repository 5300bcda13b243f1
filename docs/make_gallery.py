"""Draw the README's picture with our own renderer: classes as lit solids, and slices of scenes.

Example:
    python docs/make_gallery.py docs/gallery.png
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fdif_jax as fd
from fdif_jax import shapes

PIXELS, STEPS, EDGE = 160, 192, 96
CLASSES = (
    "sphere", "octahedron", "cone", "torus", "convex_cylinder", "concave_cylinder",
    "five_star_revolution", "square_torus", "eight_star_torus", "triangle_prism", "heptagon_prism", "five_star_prism",
    "hexagon_convex_prism", "six_star_convex_prism", "pentagon_concave_prism", "seven_star_cone_prism",
    "onioned_nonagon_prism", "onioned_eight_star_concave_prism",
)  # fmt: skip
ROUGH = (("sphere", "ridge_coarse"), ("torus", "perlin_more_fine"), ("square_prism", "turbulence"),
         ("cone", "sawtooth"), ("octahedron", "sharpmax"), ("pentagon_torus", "twisted_x"))  # fmt: skip


@jax.jit
def shaded(shape: fd.Shape, reach: jax.Array) -> jax.Array:
    """A lit orthographic picture (PIXELS, PIXELS), 0 … 1, of the cube of half edge ``reach``; NaN beside the shape."""
    shape = fd.rotate(fd.rotate(shape, 0.6, (0.0, 0.0, 1.0)), -1.0, (1.0, 0.0, 0.0))
    line = jnp.linspace(-reach, reach, PIXELS)
    x, y = jnp.meshgrid(line, -line)
    depths, step = jnp.linspace(1.6 * reach, -1.6 * reach, STEPS), 3.2 * reach / (STEPS - 1)

    def march(hit: jax.Array, z: jax.Array) -> tuple[jax.Array, None]:
        inside = shape(fd.Point(x, y, jnp.full_like(x, z))) <= 0
        return jnp.where(jnp.isnan(hit) & inside, z, hit), None

    hit, _ = jax.lax.scan(march, jnp.full_like(x, jnp.nan), depths)

    def bisect(i: int, low: jax.Array) -> jax.Array:
        """Raise the point inside towards the surface, by half as much each time."""
        higher = low + step / 2.0 ** (i + 1)
        return jnp.where(shape(fd.Point(x, y, higher)) <= 0, higher, low)

    point = fd.Point(x, y, jax.lax.fori_loop(0, 8, bisect, jnp.nan_to_num(hit)))
    gradient = jax.grad(lambda p: jnp.sum(shape(p)))(point)
    normal = jnp.stack(gradient) / jnp.sqrt(sum(c**2 for c in gradient) + 1e-12)
    light = jnp.asarray([-0.45, 0.6, 0.66])
    lit = 0.25 + 0.75 * jnp.clip(jnp.tensordot(light, normal, 1), 0, 1)
    return jnp.where(jnp.isnan(hit), jnp.nan, lit)


def member(name: str, seed: int, displacement: str | None = None) -> fd.Shape:
    """A random member of a class, perhaps roughened."""
    grid = fd.Grid(EDGE, EDGE, EDGE)
    shape = shapes.exact.family(name).sample(jax.random.key(seed), grid)
    if displacement:
        field = shapes.exact.displacement(displacement).field
        highest = fd.Point(*map(float, grid.highest))
        shape = fd.displace(shape, jax.tree_util.Partial(lambda p: field(p, highest)))
    return shape


def reach_of(shape: fd.Shape) -> jax.Array:
    """Half the edge of the cube to look at."""
    plain = shape.shape if isinstance(shape, fd.algebra.Displaced) else shape
    return jnp.minimum(1.12 * jnp.max(plain.bounds(2.0).upper), 0.75 * EDGE)


def main(path: str) -> None:
    """Draw the picture and write it to ``path``."""
    solids = [(name, member(name, 3)) for name in CLASSES]
    solids += [(f"{name} + {rough}", member(name, 5, rough)) for name, rough in ROUGH]
    program = fd.compile(fd.load_recipe("fdif"))
    figure = Figure(figsize=(13.2, 11.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(5, 6)
    colours = 0.25 + 0.75 * matplotlib.colormaps["turbo"](np.linspace(0.08, 0.92, len(solids)))
    for axis, (name, shape), colour in zip(axes.flat, solids, colours, strict=False):
        lit = np.asarray(shaded(shape, reach_of(shape)))[..., None]
        axis.imshow(np.where(np.isnan(lit), 1.0, lit * colour[:3]))
        axis.set_title(name.replace("_", " "), fontsize=8.5)
    for i in range(3):
        image, label = (np.asarray(v) for v in program.sample_at(1, i))
        left, right = axes[4, 2 * i : 2 * i + 2]
        left.imshow(image[EDGE // 2], cmap="gray", vmin=0, vmax=128)
        left.set_title(f"recipe fdif, sample {i}: image", fontsize=8.5)
        shown = np.ma.masked_equal(label[EDGE // 2], 0)
        right.imshow(shown, cmap="turbo", vmin=0, vmax=program.num_classes, interpolation="nearest")
        right.set_title("label", fontsize=8.5)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main(sys.argv[1])
