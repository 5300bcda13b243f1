"""AVS-DB: sections against other people's rasterisers, families against the specification, scenes against the
statistics of published volumes."""

import functools
import json

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.path import Path as Outline2D
from scipy.spatial import cKDTree

import fdif_jax as fd
from fdif_jax.errors import FdifError
from fdif_jax.sdf.grid import Grid
from fdif_jax.sdf.shape import Point
from fdif_jax.shapes import avs_db
from fdif_jax.shapes.avs_db import BEYOND, Ellipse

PUBLISHED = Grid(96, 96, 96)
SECTIONS = ("ellipse", "triangle", "square", "pentagon", "hexagon", "heptagon", "octagon", "nonagon")
RULES = ("constant", "concave", "cone", "convex")
# Mean, volume-to-volume deviation of 60 published volumes.
STATISTICS = {"labelled": (0.257, 0.035), "non-zero": (0.133, 0.013), "labels": (14.0, 1.6)}


# Ellipses are one program and polygons another, whatever their ranges and parameters.
distances = jax.jit(lambda shape, p: shape(p))
ellipse_distance = jax.jit(lambda ellipse, u, v: ellipse(u, v))


@functools.partial(jax.jit, static_argnums=(0, 2))
def drawn_from(draw, ranges, grid, keys):
    return jax.vmap(lambda key: draw(key, ranges, grid))(keys)


@functools.cache
def members(name, number, grid=PUBLISHED, seed=0):
    """The parameters of random members of a family, as documents; at most 800."""
    family = avs_db.family(name)
    keys = jax.random.split(jax.random.key(seed), 800)
    shapes = jax.tree.map(np.asarray, drawn_from(family.draw, dict(family.ranges), grid, keys))
    return [avs_db.describe(name, jax.tree.map(lambda leaf, i=i: leaf[i], shapes)) for i in range(number)]


def test_classes_are_sections_times_rules():
    names = [family.name for family in avs_db.families]
    assert names == [f"{section}_{rule}" for section in SECTIONS for rule in RULES]
    assert avs_db.categories == SECTIONS
    assert avs_db.class_id("nonagon_cone") == 1 + 4 * 7 + 2


@pytest.mark.parametrize("rule", RULES)
def test_ellipses_are_drawn_as_specified(rule):
    drawn = members(f"ellipse_{rule}", 800)
    axes = np.asarray([m["section"]["semi_axes"] for m in drawn])
    degrees = np.asarray([m["section"]["degrees"] for m in drawn])
    box = np.asarray([m["box"] for m in drawn])
    np.testing.assert_array_equal(axes, np.round(axes))
    assert axes.min() == 15 and (axes <= box[:, None] / 2).all() and axes.max() >= 38
    assert set(box) == set(range(30, 81, 2))
    assert degrees.min() >= 0 and degrees.max() <= 180 and len(set(degrees)) > 170
    check_heights_and_ratios(rule, drawn, apex=0)


@pytest.mark.parametrize(("count", "rule"), [(3, "cone"), (4, "constant"), (7, "concave"), (9, "convex")])
def test_polygons_are_drawn_as_specified(count, rule):
    drawn = members(f"{SECTIONS[count - 2]}_{rule}", 800)
    vertices = np.asarray([m["section"]["vertices"] for m in drawn])
    box = np.asarray([m["box"] for m in drawn])
    assert vertices.shape == (800, count, 2)
    radius = np.hypot(*np.moveaxis(vertices, -1, 0))
    degrees = np.rad2deg(np.arctan2(vertices[..., 1], vertices[..., 0])) % 360
    np.testing.assert_allclose(radius, np.round(radius), atol=1e-4)
    np.testing.assert_allclose(degrees, np.round(degrees), atol=1e-3)
    whole = np.round(degrees) % 360
    borders = 360 * np.arange(count + 1) // count
    assert (borders[:-1] <= whole).all() and (whole < borders[1:]).all()
    assert set(box) == set(range(30, 81))
    assert np.round(radius).min() == 15 and (np.round(radius) <= box[:, None] // 2).all()
    check_heights_and_ratios(rule, drawn, apex=1)


def check_heights_and_ratios(rule, drawn, apex):
    height = np.asarray([m["height"] for m in drawn])
    bottom, middle, top, turn = (
        np.asarray([m["ratio"][n] for m in drawn]) for n in ("bottom", "middle", "top", "turn")
    )
    assert set(height) == set(range(10, 51))
    if rule == "constant":
        assert (bottom == 1).all() and (middle == 1).all() and (top == 1).all()
    elif rule == "cone":
        assert (bottom == 1).all() and (middle == 0).all()
        np.testing.assert_array_equal(turn, height - apex)
    else:
        np.testing.assert_array_equal(turn, np.round(turn))
        assert turn.min() == 3 and (height - turn).min() == 3
        wide, narrow = ((0.8, 1.0), (0.3, 0.5)) if rule == "concave" else ((0.3, 0.5), (0.8, 1.0))
        for values, (low, high) in ((bottom, wide), (middle, narrow), (top, wide)):
            assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high


def scale_at(ratio, height, z):
    """The scale of a section, by NumPy's interpolation."""
    return np.interp(z, [0, ratio["turn"], height], [ratio["bottom"], ratio["middle"], ratio["top"]])


def section_of(section, scale, u, v):
    """Which points a scaled section holds: matplotlib's point-in-polygon test, or the ellipse's inequality."""
    if section["kind"] == "polygon":
        path = Outline2D(scale * np.asarray(section["vertices"]))
        return path.contains_points(np.stack([u.ravel(), v.ravel()], -1)).reshape(u.shape)
    (a, b), angle = section["semi_axes"], np.deg2rad(section["degrees"])
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    return (along / (scale * a)) ** 2 + (across / (scale * b)) ** 2 <= 1


def border_of(section, scale):
    """Points of a scaled section's border, at most 0.03 voxels apart."""
    fraction = np.linspace(0, 1, 4000)[:, None]
    if section["kind"] == "polygon":
        vertices = scale * np.asarray(section["vertices"])
        return np.concatenate(
            [a + fraction * (b - a) for a, b in zip(vertices, np.roll(vertices, -1, 0), strict=True)]
        )
    (a, b), angle, at = section["semi_axes"], np.deg2rad(section["degrees"]), 4 * np.pi * fraction[:, 0]
    along, across = scale * a * np.cos(at / 2), scale * b * np.sin(at / 2)
    return np.stack(
        [along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)], -1
    )


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.sampled_from([f.name for f in avs_db.families]), st.integers(0, 50), st.floats(0, 1))
def test_sections_and_their_lines_are_where_their_border_says(name, seed, at):
    """The object is the section and one voxel around it; the line is three voxels thick, whatever the scale."""
    params = members(name, 51)[seed]
    z = float(round(at * (params["height"] - 1)))
    scale = scale_at(params["ratio"], params["height"], z)
    hypothesis.assume(scale > 0.25)
    u, v = np.random.default_rng(seed).uniform(-45, 45, (2, 20_000))
    inside = section_of(params["section"], scale, u, v)
    away = cKDTree(border_of(params["section"], scale)).query(np.stack([u, v], -1))[0]
    true = np.where(inside, -away, away)
    d = np.asarray(distances(avs_db.build(name, params), Point(np.float32(u), np.float32(v), np.float32(z))))
    d = d + BEYOND
    # An ellipse's distance is of first order, and off by so much at the line's rims.
    slack = 0.3 if name.startswith("ellipse") else 0.02
    near = (true > -2.5) & (true < 1.5)
    assert np.abs(d - true)[near].max() <= slack
    assert ((d <= 0) == inside)[np.abs(true) > 0.02].all()
    line = np.asarray(avs_db.mapper("contour")(jnp.asarray(d - BEYOND))) == 128
    assert line[(true > -2 + slack) & (true < 1 - slack)].all()
    assert not line[(true < -2 - slack) | (true > 1 + slack)].any()


@hypothesis.given(
    st.floats(0.2, 40), st.floats(1, 3), st.floats(0, 180), st.floats(-3, 3), st.floats(0, 2 * np.pi)
)
def test_an_ellipse_is_true_enough_near_its_border(a, ratio, degrees, offset, at):
    """At a point a known distance from the border along its normal."""
    b = a * ratio
    normal = np.asarray([b * np.cos(at), a * np.sin(at)])
    normal /= np.hypot(*normal)
    local = np.asarray([a * np.cos(at), b * np.sin(at)]) + abs(offset) * normal
    turn = np.deg2rad(degrees)
    u, v = (
        local[0] * np.cos(turn) - local[1] * np.sin(turn),
        local[0] * np.sin(turn) + local[1] * np.cos(turn),
    )
    d = float(ellipse_distance(Ellipse(a, b, degrees), np.float32(u), np.float32(v)))
    assert abs(offset) / Ellipse.stretch - 1e-3 <= d <= abs(offset) + 1e-3


def test_nothing_is_left_of_a_cone_at_its_tip_but_the_line():
    cone = {"bottom": 1.0, "middle": 0.0, "top": 0.0, "turn": 9.0}
    section = {"kind": "polygon", "vertices": [[20, 0], [0, 20], [-20, -20]]}
    shape = avs_db.build("t", {"section": section, "height": 10.0, "box": 40.0, "ratio": cone})
    inside = np.asarray(distances(shape, Grid(24, 48, 48).points())) <= 0
    held = inside.sum(axis=(1, 2))
    assert held[12 + 9] == 5  # a point and its four neighbours
    assert (np.diff(held[12:22]) < 0).all() and held[:12].sum() == 0 and held[22:].sum() == 0


@hypothesis.given(
    st.sampled_from([f.name for f in avs_db.families]),
    st.integers(0, 10**6),
    st.sampled_from([(96, 96, 96), (24, 30, 40)]),
)
@pytest.mark.slow("every class, over and over")
def test_an_object_lies_within_its_bounds_and_its_bounds_within_its_frame(name, seed, grid):
    (params,) = members(name, 1, Grid(*grid), seed)
    shape = avs_db.build(name, params)
    points = Grid(110, 100, 100).points()
    inside = np.asarray(distances(shape, points)) <= 0
    held = [np.asarray(c).ravel()[inside.any(axis=tuple({0, 1, 2} - {2 - k}))] for k, c in enumerate(points)]
    (lower, upper), frame = shape.bounds(), shape.frame()
    least, greatest = np.asarray([c.min() for c in held]), np.asarray([c.max() for c in held])
    assert (np.asarray(lower) <= least).all() and (greatest <= np.asarray(upper)).all()
    assert (np.asarray(frame.lower) <= np.asarray(lower)).all()
    edge = np.floor(np.asarray(frame.upper)) - np.ceil(np.asarray(frame.lower)) + 1
    wish = max(params["box"], params["height"])
    assert (edge >= wish).all() and (edge <= wish + 5).all()


def test_other_grids_scale_lengths_and_keep_heights_whole():
    """A third of the edge, a third of the lengths."""
    small, published = members("square_convex", 300, Grid(32, 40, 36)), members("square_convex", 300)
    for a, b in zip(small, published, strict=True):
        np.testing.assert_allclose(
            a["section"]["vertices"], np.asarray(b["section"]["vertices"]) / 3, rtol=1e-5, atol=1e-5
        )
        assert a["height"] == np.round(b["height"] / 3) and a["box"] == np.round(b["box"] / 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"transform": False, "categories": ["ellipse"]},
        {"transform": True},
    ],
)
@pytest.mark.slow("programs of documents; formulas are in test_compiler")
def test_scene_documents_render_to_the_very_volumes(tmp_path, changes):
    program = fd.compile(fd.load_recipe("avs_db").replace(grid=[32, 28, 36], **changes))
    volumes = [program.sample_at(2, i) for i in range(2)]
    scenes = [program.scene_at(2, i) for i in range(2)]
    fd.save_scenes(scenes, tmp_path / "scenes.json")
    assert all(scene["objects"] for scene in json.loads((tmp_path / "scenes.json").read_text()))
    again = list(fd.render_scenes(fd.load_scenes(tmp_path / "scenes.json"), avs_db))
    assert len(again) == len(volumes) == 2
    for mine, other in zip(again, volumes, strict=True):
        np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_array_equal(mine[1], other[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"section": {"kind": "star"}}, "ellipse"),
        ({"section": {"kind": "ellipse", "semi_axes": [3.0, -1.0], "degrees": 0.0}}, "semi_axes"),
        ({"section": {"kind": "polygon", "vertices": [[0, 1]] * 12}}, "three to 9"),
        ({"height": 0}, "height"),
        ({"ratio": {"bottom": 1.0, "middle": 1.0, "top": 1.0}}, "turn"),
        ({"depth": 3.0}, "depth"),
    ],
)
def test_impossible_parameters_are_named(change, words):
    (params,) = members("ellipse_cone", 1)
    with pytest.raises(FdifError, match=words):
        avs_db.build("ellipse_cone", params | change)


def test_classes_can_be_chosen():
    recipe = fd.load_recipe("avs_db").replace(grid=[24, 24, 24], categories=["ellipse", "nonagon"])
    program = fd.compile(recipe.replace(placement={"kind": "scattered"}))
    assert program.class_names == tuple(f"{s}_{r}" for s in ("ellipse", "nonagon") for r in RULES)
    labels = np.asarray(jax.jit(program.draw)(fd.sample_key(0, 0)).label)
    assert labels.min() >= 1 and labels.max() <= 8


@pytest.mark.slow("200 scenes; twenty are above")
def test_sections_and_rules_are_equally_frequent():
    """Of what is drawn, placed or not, over 200 scenes."""
    program = fd.compile(fd.load_recipe("avs_db").replace(grid=[8, 8, 8]))
    keys = jax.vmap(lambda i: fd.sample_key(0, i))(jnp.arange(200))
    classes = np.asarray(jax.jit(lambda k: jax.lax.map(program.draw, k))(keys).label)[..., 0] - 1
    assert classes.shape == (200, 20)
    for factor, number in ((classes // 4, 8), (classes % 4, 4), (classes, 32)):
        seen = np.bincount(factor.ravel(), minlength=number)
        assert len(seen) == number and scipy.stats.chisquare(seen).pvalue > 1e-3


def statistics(volumes):
    """Labelled and non-zero part of every volume, and its number of distinct labels."""
    program = fd.compile(fd.load_recipe("avs_db"))
    rows = []
    for i in range(volumes):
        image, label = map(np.asarray, program.sample_at(11, i))
        assert set(np.unique(image)) == {0, 128}
        rows.append(((label > 0).mean(), (image > 0).mean(), len(np.setdiff1d(label, 0))))
    return dict(zip(STATISTICS, np.transpose(rows), strict=True))


def assert_agrees(measured, deviations):
    for name, (mean, deviation) in STATISTICS.items():
        error = deviation * np.sqrt(1 / 60 + 1 / len(measured[name]))
        assert abs(measured[name].mean() - mean) <= deviations * error, (name, measured[name].mean())


@pytest.mark.slow("twenty volumes of the published size")
def test_twenty_volumes_look_like_published_ones():
    assert_agrees(statistics(20), 3)


@pytest.mark.slow("200 volumes; twenty are above")
def test_two_hundred_volumes_agree_with_published_ones():
    measured = statistics(200)
    assert_agrees(measured, 2.5)
    for name, (_, deviation) in STATISTICS.items():
        # The deviation of 60 volumes is known to a tenth.
        assert 0.7 < measured[name].std(ddof=1) / deviation < 1.3, name
