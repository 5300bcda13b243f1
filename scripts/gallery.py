"""Write a page of every class, displacement and mapper: a picture, the formula, parameters, the line that makes it.

The page is one file, index.html, that opens without a server, with a search box and a filter by category.

Example:
    fdif gallery --out gallery
    fdif gallery --catalogue my_shapes.py --vocabulary exact --out mine
"""

import base64
import html
import io
import os
import string
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import fdif_jax as fd
from fdif_jax import shapes
from fdif_jax.errors import FdifError
from fdif_jax.extras import needing
from fdif_jax.io.files import make_folder, write_atomic
from fdif_jax.scripts import cli
from fdif_jax.scripts.console.progress import progress_bar
from fdif_jax.scripts.jobs.view_targets import code_of, displaced, drawn, sampled, words_of
from fdif_jax.scripts.options.settings import check_least
from fdif_jax.shapes.formulas import formula_of
from fdif_jax.shapes.shape_names import find_vocabulary
from fdif_jax.viewing.camera import Camera
from fdif_jax.viewing.surfaces import Samples
from fdif_jax.viewing.tracing import Colour, trace
from fdif_jax.viewing.view_pictures import colour_of, encode
from fdif_jax.vocabulary.authoring import Authored
from fdif_jax.vocabulary.user_files import describe
from fdif_jax.vocabulary.vocabulary import Displacement, Family, Mapper, Range, Vocabulary

with needing("pictures"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

SAMPLES, FINE_SAMPLES = 48, 96  # along each edge, to find where a shape is, and to draw from them
QUALITY = 82  # of the pictures, as WebP has it
BALL = 28.0  # radius of the sphere that shows a displacement, voxels
RING = (26.0, 12.0)  # radii of the torus that shows a mapper
GREY = (0.78, 0.76, 0.72)


@dataclass(frozen=True)
class Config:
    """Options of `fdif gallery`."""

    out: Path = Path("gallery")
    """Folder to write index.html to."""
    catalogue: tuple[Path, ...] = ()
    """Python files of your own shapes, displacements and mappers, shown before the others."""
    vocabulary: tuple[str, ...] = ("exact", "avs_db")
    """Whose classes are shown: exact (the 109 of FDIF), published (the same, as published), avs_db, or as in a recipe:
    package.module:attribute, a bank of organs (.npz), a folder of meshes."""
    seed: int = 3
    """Which member of each family is shown."""
    size: int = 160
    """Pixels along each edge of a picture."""


@dataclass(frozen=True)
class Entry:
    """One card of the page."""

    name: str  # what recipes call it
    kind: str  # class, displacement or mapper, and whose
    category: str  # what the filter calls its group
    formula: str  # in words and signs
    parameters: Sequence[tuple[str, str]]  # names and values
    code: str  # the line of Python that makes it
    draw: Callable[[], bytes]  # makes its picture, a WebP file
    program: object  # entries of one program are drawn one after another, so that it is compiled once
    aliases: Sequence[str] = ()  # other names


def run(config: Config) -> None:
    """Draw all cards and write the page."""
    check_least(config, size=16, seed=0)
    sources = [*map(str, config.catalogue), *config.vocabulary]
    if not sources:
        raise FdifError("nothing to show: give a --vocabulary or a --catalogue")
    cards = list(entries(sources, config.seed, config.size))
    make_folder(config.out)
    with progress_bar() as bar:
        task = bar.add_task("drawing", total=len(cards), measured="")
        pictures = draw_all(cards, lambda name: bar.update(task, advance=1, measured=name))
    path = config.out / "index.html"
    write_atomic(path, page_of(cards, pictures).encode())
    kinds = [card.kind.partition(" ")[0].rstrip(",:") for card in cards]
    counts = ", ".join(f"{kinds.count(kind)} {plural}" for kind, plural in _PLURALS.items() if kind in kinds)
    print(f"{path}: {counts}")


_PLURALS = {"class": "classes", "displacement": "displacements", "mapper": "mappers"}


def entries(sources: Sequence[str], seed: int, size: int) -> Iterator[Entry]:
    """The cards of all things of some vocabularies, each displacement and mapper once."""
    shown: set[int] = set()
    vocabularies = [(source, find_vocabulary(source)) for source in sources]
    for source, vocabulary in vocabularies:
        for family in vocabulary.families:
            yield _class_entry(source, vocabulary, family, seed, size)
    for things, entry in (("displacements", _displacement_entry), ("mappers", _mapper_entry)):
        for source, vocabulary in vocabularies:
            for thing in getattr(vocabulary, things):
                if id(thing) not in shown:
                    yield entry(source, thing, size)
                    shown.add(id(thing))


def _class_entry(source: str, vocabulary: Vocabulary, family: Family, seed: int, size: int) -> Entry:
    grid = fd.Grid(96, 96, 96)
    shape = drawn(family, seed, grid)
    colour = colour_of(vocabulary.families.index(family))
    text = family.draw.function.__doc__ if isinstance(family.draw, Authored) else None
    formula = f"{' '.join(text.split())} {formula_of(shape)}" if text else formula_of(shape)
    # A user's function draws by itself and has no ranges: its member's values are shown.
    parameters = [(name, _range(of)) for name, of in family.ranges.items()] or [
        (name, f"{value:.4g}") for name, value in describe(shape).items() if isinstance(value, float)
    ]
    return Entry(
        family.name,
        f"class of {Path(source).name}",
        f"{Path(source).name}: {family.category}",
        formula,
        parameters,
        code_of(source, family, seed, grid),
        lambda: _picture(sampled(shape, grid, SAMPLES, family.name), colour, size),
        jax.tree.structure(shape),
        family.aliases,
    )


def _range(of: Range) -> str:
    low, high = float(of.low), float(of.high)
    return f"{low:g}" if low == high else f"{low:g} … {high:g}"


def _displacement_entry(source: str, displacement: Displacement, size: int) -> Entry:
    grid = fd.Grid(96, 96, 96)
    ball = displaced(shapes.sphere(BALL), displacement, grid)
    field = f"{words_of(source)}.displacement({displacement.name!r}).field"
    return Entry(
        displacement.name,
        f"displacement on a sphere of radius {BALL:g}",
        "displacements",
        displacement.formula,
        [],
        f"fd.displace(shapes.sphere({BALL}), "
        f"jax.tree_util.Partial({field}, highest=fd.Grid{tuple(grid)}.highest))",
        lambda: _picture(
            # As samples all have one structure, and one program.
            sampled(ball, grid, FINE_SAMPLES, displacement.name).interpolated(),
            GREY,
            size,
        ),
        "displacement",
    )


def _mapper_entry(source: str, mapper: Mapper, size: int) -> Entry:
    return Entry(
        mapper.name,
        "mapper, intensity over distance, and in a slice through a torus",
        "mappers",
        mapper.formula,
        [],
        f"fd.map(shapes.torus{RING}, {words_of(source)}.mapper({mapper.name!r}))(fd.Grid(96, 96, 96).points())",
        lambda: _curve(mapper, size),
        "mapper",
    )


def draw_all(cards: Sequence[Entry], done: Callable[[str], None]) -> dict[int, bytes]:
    """The pictures of all cards, by their position; those of one program in one thread."""
    groups: dict[object, list[int]] = {}
    for i, card in enumerate(cards):
        groups.setdefault(card.program, []).append(i)

    def draw(group: Sequence[int]) -> dict[int, bytes]:
        pictures = {}
        for i in group:
            pictures[i] = cards[i].draw()
            done(cards[i].name)
        return pictures

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {i: picture for part in pool.map(draw, groups.values()) for i, picture in part.items()}


def _picture(samples: Samples, colour: Colour, size: int) -> bytes:
    camera = Camera.around(samples.outline, field_of_view=20.0)
    return encode(trace([samples.solid(colour)], camera, size).colours, "WEBP", quality=QUALITY)


def _curve(mapper: Mapper, size: int) -> bytes:
    """Intensity over distance, and a slice through a torus."""
    figure = Figure(figsize=(2 * size / 100, size / 100), dpi=100, layout="constrained", facecolor="white")
    curve, slice_ = figure.subplots(1, 2)
    d = jnp.linspace(-12, 6, 721)
    curve.plot(d, mapper(d), linewidth=1.0)
    curve.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    curve.set(ylim=(-4, 134), yticks=[0, 64, 128], xticks=[-10, 0])
    curve.tick_params(labelsize=6)
    edge = jnp.arange(-44, 45, 0.5)
    distance = shapes.torus(*RING)(fd.Point(edge[None, :], 0.0, edge[:, None]))
    slice_.imshow(mapper(distance), cmap="gray", vmin=0, vmax=128)
    slice_.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return encode(np.asarray(canvas.buffer_rgba())[..., :3].copy(), "WEBP", quality=QUALITY)


def page_of(cards: Sequence[Entry], pictures: dict[int, bytes]) -> str:
    """The page, with its pictures inside."""
    template = string.Template((resources.files("fdif_jax.scripts") / "gallery_page.html").read_text("utf-8"))
    page = io.StringIO()
    for i, card in enumerate(cards):
        page.write(_card(card, i, pictures[i]))
    options = "".join(
        f'<option value="{html.escape(c)}">{html.escape(c)}</option>'
        for c in dict.fromkeys(card.category for card in cards)
    )
    return template.substitute(title="fdif-jax: gallery", options=options, cards=page.getvalue())


def _card(card: Entry, number: int, picture: bytes) -> str:
    name, anchor = html.escape(card.name), html.escape(f"{card.category}/{card.name}".replace(" ", "_"))
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in card.parameters)
    aliases = f"<p>also: {html.escape(', '.join(card.aliases))}</p>" if card.aliases else ""
    data = base64.b64encode(picture).decode()
    return f"""<article id="{anchor}" data-name="{name}" data-category="{html.escape(card.category)}">
<img src="data:image/webp;base64,{data}" alt="{name}">
<h2><a href="#{anchor}">{name}</a></h2><div class="kind">{html.escape(card.kind)}</div>
<p class="formula">{html.escape(card.formula)}</p>{f"<table>{rows}</table>" if rows else ""}{aliases}
<pre>{html.escape(card.code)}</pre>
</article>
"""


if __name__ == "__main__":
    cli.run("gallery")
