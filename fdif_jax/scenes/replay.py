"""Replay: rendering scene documents again."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.rendering.renderer import Renderer, Table
from fdif_jax.scenes.documents import Scene, SceneObject
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.shape import Shape
from fdif_jax.sdf.structure import Structure
from fdif_jax.vocabulary import unions
from fdif_jax.vocabulary.vocabulary import NONE, Displacement, Mapper, Vocabulary


class PlacedObject(NamedTuple):
    """One object of a scene: local shape, world → local affine, displacement, mapper, class ids.

    Or one part of an object; ``whole`` is the object's number.
    """

    shape: Shape
    inverse: Float[Array, "3 4"]
    displacement: Displacement | None
    mapper: Mapper
    label: tuple[int, ...]
    whole: int


def placed_objects(scene: Scene, vocabulary: Vocabulary) -> list[PlacedObject]:
    """The objects of a scene document, or their parts, with what its names mean.

    FdifError for a name that is not in ``vocabulary``.
    """
    return [
        PlacedObject(
            shape,
            jnp.asarray(o.inverse_transform, jnp.float32)[:3],
            None if o.displacement == NONE else vocabulary.displacement(o.displacement),
            vocabulary.mapper(part.mapper),
            part.class_id,
            number,
        )
        for number, o in enumerate(scene.objects)
        for part, shape in zip(o.labelled, _shapes(o, vocabulary, number), strict=True)
    ]


def _shapes(o: SceneObject, vocabulary: Vocabulary, number: int) -> tuple[Shape, ...]:
    """What the parts of an object show; its shape, if it has none."""
    shape = unions.build(vocabulary, o.class_name, o.params)
    names = shape.names if isinstance(shape, Parts) else ()
    if names != tuple(part.name for part in o.parts):
        wanted = f"name its parts {', '.join(names)}, in this order" if names else "be of one label"
        raise FdifError(f"object {number}: class_id and mapper of a {o.class_name} must {wanted}")
    return shape.regions if isinstance(shape, Parts) else (shape,)


def render_scenes(scenes: Sequence[Scene], vocabulary: Vocabulary) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image (uint8) and label (uint8 or uint16) of each scene document, in order.

    Scenes on the same grid share one compiled program.

    Raises:
        FdifError: a scene names something that is not in ``vocabulary``; raised before anything is rendered.
    """
    placed = [placed_objects(scene, vocabulary) for scene in scenes]
    objects = [o for scene in placed for o in scene]
    structures = tuple(dict.fromkeys(Structure.of(o.shape) for o in objects))
    displacements = tuple(dict.fromkeys(o.displacement for o in objects if o.displacement is not None))
    mappers = tuple(dict.fromkeys(o.mapper for o in objects))
    top_label = max((max(o.label) for o in objects), default=1)
    size = max(map(len, placed), default=1)
    programs: dict[Grid, tuple[Renderer, Callable]] = {}
    for scene, row in zip(scenes, placed, strict=True):
        if scene.grid not in programs:
            renderer = Renderer(scene.grid, structures, displacements, mappers, top_label)
            programs[scene.grid] = renderer, jax.jit(renderer)
        renderer, render = programs[scene.grid]
        image, label = render(_table(renderer, row, size))
        yield np.asarray(image), np.asarray(label)


def _table(renderer: Renderer, objects: Sequence[PlacedObject], size: int) -> Table:
    filled = [*objects, *[objects[0]] * (size - len(objects))]
    structures = [Structure.of(o.shape) for o in filled]
    chosen = [o.displacement for o in filled]
    return Table(
        jnp.int32(len(objects)),
        jnp.asarray([renderer.structures.index(s) for s in structures]),
        jnp.stack([s.pack(o.shape, renderer.width) for s, o in zip(structures, filled, strict=True)]),
        jnp.stack([o.inverse for o in filled]),
        jnp.asarray([0 if d is None else 1 + renderer.displacements.index(d) for d in chosen]),
        jnp.asarray([renderer.mappers.index(o.mapper) for o in filled]),
        jnp.asarray([o.label for o in filled]),
        jnp.asarray([o.whole for o in filled]) if renderer.has_parts else None,
    )
