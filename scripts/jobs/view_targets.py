"""What `fdif view` can look at: families' members, plain shapes, scene documents, cases of datasets, label maps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np

import fdif_jax as fd
from fdif_jax.datasets.conventions import any_label
from fdif_jax.datasets.reader import load_channels, load_dataset, load_labels
from fdif_jax.errors import FdifError, unknown
from fdif_jax.io.files import MESHES, json_of
from fdif_jax.io.formats.dicom import is_segmentation
from fdif_jax.io.volumes import read_volume, read_volume_header, suffix_of
from fdif_jax.sdf.algebra import Affine, Displaced
from fdif_jax.sdf.operations.parts import Parts
from fdif_jax.sdf.sampled import Sampled
from fdif_jax.sdf.shape import Point, Shape, as_shape
from fdif_jax.shapes.files import KEY
from fdif_jax.shapes.shape_names import find_family, find_vocabulary
from fdif_jax.shapes.user_files import vocabulary_of
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Samples
from fdif_jax.viewing.tracing import Colour, Region, Solid
from fdif_jax.viewing.view_pictures import colour_of, cut_open
from fdif_jax.vocabulary import unions
from fdif_jax.vocabulary.user_files import defined_in, describe
from fdif_jax.vocabulary.vocabulary import NONE, Displacement, Family, Mapper, Vocabulary

AROUND = 1.5  # half the edge of the cube in which a member is looked for, over the longest edge of its grid
Change = Callable[[Shape], Shape]

SHOWN = 4  # members of each family of a file
LABEL_SAMPLES = 64  # along each edge of a label's shape


class Thing(NamedTuple):
    """One solid of a view."""

    samples: Samples
    colour: Colour


@dataclass(frozen=True)
class View:
    """What is shown in one picture."""

    name: str  # the files' names begin so
    title: str  # of the page
    things: Sequence[Thing]  # what is shown; at least one
    caption: Sequence[str] = ()  # lines below the title
    # names and colours of the classes that are shown
    legend: Mapping[str, Colour] = field(default_factory=dict)
    # image ``(D, H, W)``, label map and names of its classes by their ids, of a scene or a case
    volume: tuple[np.ndarray, np.ndarray, Mapping[int, str]] | None = None
    spacing: Sequence[float] = fd.Grid.spacing  # of that volume, along its axes
    mapper: Mapper | None = None  # shown in slices instead of the distance
    whole: Samples | None = None  # what slices show where the things are its parts

    def solids(self, camera: Camera) -> list[Solid]:
        """The things, to be traced; those that are parts, cut open."""
        if self.whole is not None:
            return cut_open(self.things, camera)
        return [samples.solid(colour) for samples, colour in self.things]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of what a target holds, and how finely: options of `fdif view`."""

    seed: int = 0
    """Which member of a family."""
    members: int | None = None
    """How many members, from that seed on; without it one of a family, and four of each of a file's families."""
    case: str = "0"
    """Number or name of a dataset's case; number of a scene in a document."""
    grid: tuple[int, int, int] = (96, 96, 96)
    """Voxels (D, H, W) of the volume for which members are drawn."""
    displacement: str = "none"
    """Displacement that roughens a shape."""
    mapper: str = "none"
    """Mapper whose intensity the slices of a shape show, instead of its distance."""
    vocabulary: tuple[str, ...] = ("published",)
    """What class names of a scene mean: published, exact, avs_db, or as in a recipe: package.module:attribute, FILE.py,
    a bank of organs (.npz), a folder of meshes; several make one."""
    catalogue: tuple[Path, ...] = ()
    """Python files whose shapes, displacements and mappers are known besides."""
    resolution: int = 96
    """Samples along each edge of the grid that meshes and slices are made of; meshes have half of it where there are
    more than four."""


def views_of(target: str, choice: Choice) -> list[View]:
    """The views of a target: one for each member of each family, else a single one; FdifError if there is none."""
    path = Path(target)
    document = _document(path) if path.suffix == ".json" else {}
    if path.suffix in MESHES or KEY in document:
        return [_plain(path.stem, fd.load(path), f"fd.load({target!r})", choice)]
    if path.is_dir() or "labels" in document:
        return [_case(path, choice)]
    if path.suffix == ".json":
        return [_scene(path, choice)]
    if suffix_of(target) or is_segmentation(target):
        return [_label_map(path, choice)]
    if path.suffix == ".py":
        return _file(path, choice)
    source, _, name = target.rpartition(":")
    plain = defined_in(source, Shape) if source.endswith(".py") else {}
    if name in plain:
        return [_plain(name, plain[name], f"{name}, of {source}", choice)]
    if plain and not defined_in(source, Family):
        raise unknown(f"shape of {source}:", name, plain)
    files = list(map(str, choice.catalogue))
    vocabulary, family = find_family(target, files)
    owners = [file for file in files if family in vocabulary_of(file).families]
    source = source or next(iter(owners), "exact")
    return list(_members(source, vocabulary, family, choice, choice.members or 1))


def _file(path: Path, choice: Choice) -> list[View]:
    """Members of a file's families; its plain shapes where it has no family."""
    plain = defined_in(path, Shape)
    if plain and not defined_in(path, Family):
        return [_plain(name, shape, f"{name}, of {path}", choice) for name, shape in plain.items()]
    vocabulary = vocabulary_of(path)
    if not vocabulary.families:
        raise FdifError(f"{path}: has no family to look at; `fdif gallery` shows displacements and mappers")
    return [
        view
        for family in vocabulary.families
        for view in _members(str(path), vocabulary, family, choice, choice.members or SHOWN)
    ]


def _members(
    source: str, vocabulary: Vocabulary, family: Family, choice: Choice, count: int
) -> Iterator[View]:
    colour, grid = colour_of(vocabulary.families.index(family)), fd.Grid(*choice.grid)
    for seed in range(choice.seed, choice.seed + count):
        code, title = code_of(source, family, seed, grid), f"{family.name}, seed {seed}"
        yield _view(family.name, title, drawn(family, seed, grid), colour, code, vocabulary, choice)


def _plain(name: str, shape: Shape, code: str, choice: Choice) -> View:
    """A shape that is no member of a family; ``code`` is what makes it."""
    vocabulary = find_vocabulary("exact", *map(str, choice.catalogue))
    as_shape("fdif view", name, shape)
    return _view(name, name, shape, colour_of(1), code, vocabulary, choice)


def _view(
    name: str,
    title: str,
    shape: Shape,
    colour: Colour,
    code: str,
    vocabulary: Vocabulary,
    choice: Choice,
) -> View:
    """A shape with the displacement and the mapper that are chosen."""
    grid, caption = fd.Grid(*choice.grid), [_with_values(shape), code]
    mapper = vocabulary.mapper(choice.mapper) if choice.mapper != NONE else None
    change: Change = lambda part: part  # noqa: E731
    if choice.displacement != NONE:
        displacement = vocabulary.displacement(choice.displacement)
        change = lambda part: displaced(part, displacement, grid)  # noqa: E731
        caption.append(f"displacement {displacement.name}: {displacement.formula}")
    whole = sampled(changed(shape, change), grid, choice.resolution, title)
    if not isinstance(shape, Parts):
        return View(name, title, [Thing(whole, colour)], caption, mapper=mapper)
    parts = whole.parts()
    legend = {f"{name}.{part}": colour_of(shape.names.index(part)) for part in parts}
    things = [Thing(samples, of) for samples, of in zip(parts.values(), legend.values(), strict=True)]
    return View(name, title, things, caption, legend, mapper=mapper, whole=whole)


def changed(shape: Shape, change: Change) -> Shape:
    """A shape after a change of it, or of each of its parts."""
    return Parts(tuple(map(change, shape.shapes)), shape.names) if isinstance(shape, Parts) else change(shape)


def drawn(family: Family, seed: int, grid: fd.Grid) -> Shape:
    """The member of a family that the key of ``seed`` draws; families of one structure share the program."""
    return jax.jit(family.draw, static_argnums=2)(jax.random.key(seed), family.ranges, grid)


def displaced(shape: Shape, displacement: Displacement, grid: fd.Grid) -> Shape:
    """A shape with a displacement of a grid's coordinates added to its distance."""
    highest = Point(*map(float, grid.highest))
    return Displaced(shape, jax.tree_util.Partial(displacement.field, highest=highest))


def sampled(shape: Shape, grid: fd.Grid, resolution: int, name: str) -> Samples:
    """Samples of a member drawn for a grid; FdifError if there is no inside to see."""
    reach = AROUND * max(grid)
    cube = Region(np.full(3, -reach, np.float32), np.full(3, reach, np.float32))
    samples = Samples.of(shape, cube, resolution, name)
    if samples is None:
        raise FdifError(
            f"{name}: nothing to see: the distance is positive within {reach:g} voxels of the origin"
        )
    return samples


def code_of(source: str, family: Family, seed: int, grid: fd.Grid) -> str:
    """The line of Python that makes a member; ``source`` is a word of `find_vocabulary`."""
    return f"{words_of(source)}.family({family.name!r}).sample(jax.random.key({seed}), fd.Grid{tuple(grid)})"


def words_of(source: str) -> str:
    """The Python for the vocabulary of a source, after importing what it names."""
    if source in ("exact", "published", "avs_db"):
        return f"shapes.{source}"
    return f"fd.vocabulary.resolve([{source!r}])"


def _with_values(shape: Shape) -> str:
    values = describe(shape)
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    more = len(values) - len(shown)
    return ", ".join([*shown, *([f"and {more} array{'s' * (more > 1)}"] if more else [])])


def _document(path: Path) -> dict:
    try:
        document = json_of(path.read_bytes())
    except (OSError, ValueError):
        return {}  # reading it as a scene says what is wrong
    return document if isinstance(document, dict) else {}


def _scene(path: Path, choice: Choice) -> View:
    scenes = dict(enumerate(fd.load_scenes(path)))
    if not scenes:
        raise FdifError(f"{path}: holds no scene")
    number = int(choice.case) if choice.case.isdigit() else -1
    if number not in scenes:
        raise FdifError(f"--case {choice.case}: {path} holds scenes 0 to {len(scenes) - 1}")
    scene, vocabulary = scenes[number], find_vocabulary(*choice.vocabulary, *map(str, choice.catalogue))
    image, label = next(fd.render_scenes([scene], vocabulary))
    things, legend, region = [], {}, Region(*map(np.asarray, scene.grid.box))
    for i, o in enumerate(scene.objects):
        shape = _placed(scene, o, vocabulary)
        samples = Samples.of(shape, region, choice.resolution, f"{o.class_name} (object {i})")
        # An object may lie beyond the grid. Compiling a program for each of many structures would take minutes, and
        # show no more than what is linear between samples does.
        for part, shown in (samples.parts() if samples else {}).items():
            place = shape.names.index(part) if isinstance(shape, Parts) else 0
            said = f"{o.class_name}.{part}" if part else o.class_name
            legend[said] = colour_of(_number(o, vocabulary) + place)
            things.append(Thing(shown, legend[said]))
    if not things:
        raise FdifError(f"{path}, scene {number}: no object reaches into the grid")
    names = {
        part.class_id[0]: f"{o.class_name}.{part.name}" if part.name else o.class_name
        for o in scene.objects
        for part in o.labelled
    }
    first = label.reshape(-1, *image.shape)[0]
    title = f"{path.name}, scene {number}"
    volume, spacing = (image, first, names), scene.grid.spacing
    return View(f"{path.stem}_{number}", title, things, legend=legend, volume=volume, spacing=spacing)


def _placed(scene: fd.Scene, o: fd.SceneObject, vocabulary: Vocabulary) -> Shape:
    """An object's shape in the scene's coordinates."""
    inverse = jnp.asarray(o.inverse_transform, jnp.float32)[:3]

    def there(part: Shape) -> Shape:
        moved = Affine(part, inverse)
        if o.displacement == NONE:
            return moved
        return displaced(moved, vocabulary.displacement(o.displacement), scene.grid)

    return changed(unions.build(vocabulary, o.class_name, o.params), there)


def _number(o: fd.SceneObject, vocabulary: Vocabulary) -> int:
    """What an object's colour counts by: its family as in a view of it alone, or its label if it is a union."""
    if unions.SEPARATOR in o.class_name:
        return o.class_id[0]
    return vocabulary.families.index(vocabulary.family(o.class_name))


def _case(path: Path, choice: Choice) -> View:
    dataset = load_dataset(path)
    cases = [*dataset.training, *dataset.validation]
    by_name = {str(i): case for i, case in enumerate(cases)} | {case.id: case for case in cases}
    if choice.case not in by_name:
        if choice.case.isdigit():
            raise FdifError(f"--case {choice.case}: {path} holds cases 0 to {len(cases) - 1}")
        raise unknown(f"case of {path}:", choice.case, by_name)
    case = by_name[choice.case]
    image = load_channels(case)[..., 0]
    label = load_labels(case, image.shape, dataset.labels)[0]
    names = dict(enumerate(dataset.tasks[0].class_names, start=1))
    placed = [read_volume_header(path).affine for path in (case.image, case.label)]
    affine = next(
        (one for one in placed if not np.array_equal(one, np.eye(4))), placed[0]
    )  # as `load_labels` has it
    return _labels(case.id, f"case {case.id}", (image, label, names), affine, choice)


def _label_map(path: Path, choice: Choice) -> View:
    volume = read_volume(path)
    label = any_label(path, volume.array)
    names = {i: volume.names.get(i, f"label {i}") for i in np.unique(label[label > 0]).tolist()}
    stem = path.name.removesuffix(suffix_of(path.name))
    return _labels(stem, path.name, (label, label, names), volume.affine, choice)


def _labels(
    name: str,
    title: str,
    volume: tuple[np.ndarray, np.ndarray, Mapping[int, str]],
    affine: np.ndarray,
    choice: Choice,
) -> View:
    """Labels as shapes in millimetres, along the scanner's axes."""
    from fdif_jax.shapes.masks import outline_of_mask  # a second to import, which only label maps need

    _, label, names = volume
    present = [int(i) for i in np.unique(label) if i > 0]
    if not present:
        raise FdifError(f"{title}: nothing is labelled")
    things = []
    for i in present:
        mask = nib.Nifti1Image((label == i).astype(np.uint8), affine)
        shape = Sampled.of(*outline_of_mask(mask).sample_cube(LABEL_SAMPLES))
        lower, upper = (np.asarray(end) for end in shape.bounds())
        room = 0.1 * (upper - lower)
        samples = Samples.of(shape, Region(lower - room, upper + room), choice.resolution, names[i])
        if samples is not None:
            things.append(Thing(samples, colour_of(i)))
    legend = {names[i]: colour_of(i) for i in present}
    spacing = nib.affines.voxel_sizes(affine)
    return View(name, title, things, ["millimetres, along the scanner's axes"], legend, volume, spacing)
