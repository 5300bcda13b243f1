"""What a rendered scene is, plainly and slowly."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from fdif_jax.rendering.renderer import INTENSITY_TOP
from fdif_jax.scenes.documents import Scene
from fdif_jax.scenes.replay import PlacedObject, placed_objects
from fdif_jax.sdf.affine import move
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point
from fdif_jax.vocabulary.vocabulary import Vocabulary


def render_reference(grid: Grid, objects: Sequence[PlacedObject]) -> tuple[Array, Array]:
    """Image (uint8) and label (int32) by the definition: every distance on the whole grid, then paint by volume."""
    p = grid.points()
    highest = Point(*map(float, grid.highest))
    image = jnp.zeros(grid, jnp.float32)
    masks = []
    for o in objects:
        d = o.shape(move(o.inverse, p))
        if o.displacement is not None:
            d = d + o.displacement.field(p, highest)
        image = image + o.mapper(d)
        masks.append(d <= 0)
    label = jnp.zeros((len(objects[0].label), *grid), jnp.int32)
    for i in sorted(range(len(objects)), key=lambda i: -int(masks[i].sum())):
        label = jnp.where(masks[i], jnp.asarray(objects[i].label)[:, None, None, None], label)
    label = label[0] if len(label) == 1 else label
    return jnp.clip(image, 0, INTENSITY_TOP).astype(jnp.uint8), label


def render_scene_reference(scene: Scene, vocabulary: Vocabulary) -> tuple[Array, Array]:
    """Image and label of a scene document by the plain renderer."""
    return render_reference(scene.grid, placed_objects(scene, vocabulary))
