"""A family learned from fits: its spread, and the Python file that holds it."""

import ast
import collections
import dataclasses
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.fitting.fitted_shape import Fit
from fdif_jax.io.files import write_atomic
from fdif_jax.sdf.masks import extent
from fdif_jax.sdf.shape import Point
from fdif_jax.vocabulary.spread import Rows
from fdif_jax.vocabulary.user_files import load_catalogue

GROWTH = "growth"
_WIDTH = 100  # columns of the written shape
_MESH = 48
_MIRRORED = [
    "    hand = jnp.where(jax.random.bernoulli(hand_key, MIRRORED), -1.0, 1.0)",
    "    shape = fd.transform(shape, jnp.diag(jnp.stack([hand, 1.0, 1.0, 1.0])))",
]


def spread_of(fits: Sequence[Fit]) -> Rows:
    """The table of `Spread` from two fits or more of a family; ``growth`` is scale over the fits' geometric mean."""
    if len(fits) < 2:
        raise FdifError(f"a family is learned from two good fits or more, not {len(fits)}")
    free = fits[0].free
    scale = np.array([fit.scale for fit in fits])
    growth = scale / np.exp(np.log(scale).mean())
    lower, upper = growth.min() / 2, growth.max() * 2
    part = (growth - lower) / (upper - lower)
    u = np.column_stack([np.stack([fit.u for fit in fits]), np.log(part / (1 - part))])
    mean = u.mean(axis=0)
    _, sizes, axes = np.linalg.svd((u - mean) / np.sqrt(len(fits) - 1), full_matrices=False)
    kept = sizes > 1e-6
    directions = (sizes[kept, None] * axes[kept]).T
    bounds = zip([*free.lower, lower], [*free.upper, upper], strict=True)
    return {
        name: (_short(low), _short(high), _short(m), tuple(map(_short, row)))
        for name, (low, high), m, row in zip(
            (*free.free_names, GROWTH), bounds, mean, directions, strict=True
        )
    }


def write_family(fits: Sequence[Fit], name: str, path: str | os.PathLike) -> None:
    """Write the family that two fits or more spread over as a Python file that stands by itself.

    The file is loaded and its family tried before it gets its name.

    Raises:
        FdifError: fewer than two fits, or the shape holds something that cannot be written as text (a grid of
            samples, a function without a name).
    """
    path = Path(path)
    text = _text(fits, name).encode()
    trial = path.with_name(f".{path.stem}.part.py")
    try:
        write_atomic(trial, text)
        load_catalogue(trial)
        os.replace(trial, path)
    finally:
        trial.unlink(missing_ok=True)


def _text(fits: Sequence[Fit], name: str) -> str:
    rows, free = spread_of(fits), fits[0].free
    dice = [fit.dice for fit in fits]
    mirrored = sum(fit.mirrored for fit in fits) / len(fits)
    # What was drawn whole is as in most of the fits.
    drawn = np.array(
        [collections.Counter(column).most_common(1)[0][0] for column in np.stack([f.row for f in fits]).T]
    )
    affine = (_affine(*of, free.free_names) for of in zip(free.offset, free.ties, strict=True))
    numbers = zip(drawn, free.whole, affine, strict=True)
    writer = _Writer(repr(_short(number)) if whole else formula for number, whole, formula in numbers)
    leaves = jax.tree.unflatten(free.structure.treedef, list(map(_Leaf, free.structure.sizes)))
    body = writer.expression(leaves, 1)
    middle = jnp.asarray(np.mean([fit.u for fit in fits], axis=0), jnp.float32)
    half = _half_extent(free.shape(middle, jnp.asarray(drawn, jnp.float32)), fits[0])
    lines = [
        f'"""{name}: learned by `fdif fit-family` from {len(fits)} masks; Dice of the fits '
        f'{min(dice):.3f} … {max(dice):.3f}."""',
        "",
        *_head(writer),
        "# Of each parameter: lower and upper bound, mean of the unbounded parameter, and what each random",
        "# direction adds to it. growth is the size over the mean size.",
        "SPREAD = fd.Spread({",
        *(f"    {json.dumps(key)}: {row!r}," for key, row in rows.items()),
        "})",
        f"HALF = {_short(half)}  # half the longest edge of the mean member",
        *([f"MIRRORED = {_short(mirrored)}  # the share of mirror images"] if mirrored else []),
        "",
        "",
        '@fd.family(category="learned")',
        f"def {name}(key, grid):",
        f'    """A member; half its longest edge is .15 to .40 of the grid, and more or less as {GROWTH} goes."""',
        f"    spread_key, size_key{', hand_key' if mirrored else ''} = jax.random.split(key, {3 if mirrored else 2})",
        "    v = SPREAD.draw(spread_key)",
        "    size = jax.random.uniform(size_key, minval=0.15, maxval=0.4) * min(grid) / HALF",
        f"    shape = {body}",
        *(_MIRRORED if mirrored else []),
        f'    return fd.scale(shape, size * v["{GROWTH}"])',
        "",
    ]
    return "\n".join(lines)


def _head(writer: "_Writer") -> list[str]:
    """Imports, and what the shape needs of the user's own file."""
    head = ["import jax", "import jax.numpy as jnp", "", *sorted(writer.imports), "import fdif_jax as fd"]
    copied = [part for part in _definitions(writer.own) if part not in head]
    return [*head, *copied, *([""] * (2 if copied else 1))]


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """Stands for a leaf of this shape while a shape is written."""

    size: tuple[int, ...]


class _Writer:
    """Writes a shape as the expression that makes it."""

    def __init__(self, entries: Iterator[str]) -> None:
        self.entries = entries
        self.imports: set[str] = set()
        self.own: dict[str, set[str]] = collections.defaultdict(set)  # file → names of the user's own things

    def expression(self, thing: Any, depth: int) -> str:
        """The text of a node, a leaf, or plain data; entries are taken in the order of the leaves."""
        if isinstance(thing, _Leaf):
            return self._array(thing.size, depth) if thing.size else next(self.entries)
        if isinstance(thing, jax.tree_util.Partial):
            given = [self.expression(a, depth + 1) for a in thing.args]
            given += [f"{key}={self.expression(a, depth + 1)}" for key, a in thing.keywords.items()]
            return self._call("jax.tree_util.Partial", [self._named(thing.func), *given], depth)
        if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
            parts = [
                f"{f.name}={self.expression(getattr(thing, f.name), depth + 1)}"
                for f in dataclasses.fields(thing)
            ]
            return self._call(self._named(type(thing)), parts, depth)
        if isinstance(thing, tuple | list):
            inner = ", ".join(self.expression(part, depth + 1) for part in thing)
            return f"[{inner}]" if isinstance(thing, list) else f"({inner},)"
        if thing is None or isinstance(thing, bool | int | float | str):
            return repr(thing)
        if callable(thing):
            return self._named(thing)
        raise FdifError(
            f"a {type(thing).__name__} in a shape cannot be written as text; fit a shape made of formulas"
        )

    def _array(self, size: tuple[int, ...], depth: int) -> str:
        rows = [self._nested(size[1:]) for _ in range(size[0])]
        line = f"jnp.asarray([{', '.join(rows)}])"
        if len(line) + 4 * depth < _WIDTH:
            return line
        indent = "    " * (depth + 1)
        return "jnp.asarray([\n" + "".join(f"{indent}{row},\n" for row in rows) + "    " * depth + "])"

    def _nested(self, size: tuple[int, ...]) -> str:
        """The next entries as a list of lists."""
        if not size:
            return next(self.entries)
        return f"[{', '.join(self._nested(size[1:]) for _ in range(size[0]))}]"

    def _call(self, name: str, parts: Sequence[str], depth: int) -> str:
        line = f"{name}({', '.join(parts)})"
        if "\n" not in line and len(line) + 4 * depth < _WIDTH:
            return line
        indent = "    " * (depth + 1)
        return f"{name}(\n" + "".join(f"{indent}{part},\n" for part in parts) + "    " * depth + ")"

    def _named(self, thing: Any) -> str:
        """The name of a class or function at the top level of a module, and what makes it known."""
        name, module = thing.__qualname__, thing.__module__
        if not name.isidentifier():
            raise FdifError(f"{name} in a shape cannot be written as text; move it to the top of its file")
        if module.startswith("fdif_user_"):
            self.own[inspect.getfile(thing)].add(name)
            return name
        if module.startswith("fdif_jax.sdf."):
            return f"fd.sdf.{name}"
        importlib.import_module(module)
        package, _, inner = module.partition(".")
        if package == "fdif_jax":
            self.imports.add(f"from fdif_jax import {inner.partition('.')[0]}")
            return f"{inner}.{name}"
        self.imports.add(f"import {module}")
        return f"{module}.{name}"


def _definitions(own: Mapping[str, set[str]]) -> Iterator[str]:
    """The text of the top-level statements that define these names, and of all that those use."""
    for file, wanted in own.items():
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        statements = ast.parse("\n".join(lines)).body
        defined = {name: statement for statement in statements for name in _bound(statement)}
        kept: list[ast.stmt] = []
        names = list(wanted)
        while names:
            statement = defined.get(names.pop())
            if statement is not None and statement not in kept:
                kept.append(statement)
                names += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
        for statement in sorted(kept, key=lambda s: s.lineno):
            decorators = getattr(statement, "decorator_list", [])
            first = min([statement.lineno, *(d.lineno for d in decorators)])
            if isinstance(statement, ast.ClassDef | ast.FunctionDef):
                yield "\n"
            yield "\n".join(lines[first - 1 : statement.end_lineno])


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return [
        node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)
    ]


def _affine(offset: float, ties: np.ndarray, names: Sequence[str]) -> str:
    """``2.0 + 0.5 * v['first.radius']``."""
    terms = [] if abs(offset) < 1e-6 * (1 + np.abs(ties).max(initial=0)) else [repr(_short(offset))]
    for i in map(int, np.flatnonzero(np.abs(ties) > 1e-5 * np.abs(ties).max(initial=1))):
        value = f"v[{json.dumps(names[i])}]"
        terms.append(value if abs(ties[i] - 1) < 1e-6 else f"{_short(ties[i])!r} * {value}")
    return " + ".join(terms) or "0.0"


def _half_extent(shape: Any, fit: Fit) -> float:
    """Half the longest edge of the box around a shape, in its own units, on a mesh as wide as the fitted mask."""
    first, stop = extent(fit.mask.inside)
    steps = (stop - first) * np.linalg.norm(fit.mask.affine[:3, :3], axis=0)
    reach = float(np.linalg.norm(steps) / fit.scale)  # the diagonal of the mask's box
    for _ in range(2):
        axis = jnp.linspace(-reach, reach, _MESH, dtype=jnp.float32)
        d = shape(Point(axis[None, None, :], axis[None, :, None], axis[:, None, None]))
        held = np.argwhere(np.broadcast_to(d, (_MESH,) * 3) < 0)
        if not len(held):
            raise FdifError(
                f"the mean of the fits of {fit.family.name!r} has no inside; the masks differ too much"
            )
        edges = np.ptp(held, axis=0) + 1
        half = float(edges.max() * reach / (_MESH - 1))
        reach = min(reach, 1.2 * float(np.abs(np.asarray(axis)[held]).max()))
    return half


def _short(value: float) -> float:
    return float(f"{float(value):.7g}")
