"""Pictures: the colours and panels are there, from several threads at once, the same bytes every time."""

from concurrent.futures import ThreadPoolExecutor

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from fdif_jax.errors import FdifError
from fdif_jax.viewing.viz import save_curves, save_slices

SHAPE = (12, 16, 20)


def volumes(top):
    label = np.zeros(SHAPE, np.uint16)
    label[3:9, 4:12, 5:10] = 1
    label[3:9, 4:12, 10:15] = top
    return np.linspace(0, 128, label.size).reshape(SHAPE).astype(np.uint8), label


def hues(path):
    """Number of strongly coloured hues (sixths of a circle, twelve steps) in a picture."""
    rgb = matplotlib.image.imread(path)[..., :3]
    colours = matplotlib.colors.rgb_to_hsv(rgb)
    return len(
        np.unique((colours[..., 0] * 12).astype(int)[(colours[..., 1] > 0.4) & (colours[..., 2] > 0.3)])
    )


@pytest.mark.parametrize("top", [2, 101])
def test_two_labels_have_two_colours(top, tmp_path):
    image, label = volumes(top)
    save_slices(image, np.zeros_like(label), tmp_path / "none.png")
    save_slices(image, label, tmp_path / "two.png", [f"class {i}" for i in range(top)])
    assert hues(tmp_path / "none.png") == 0 and hues(tmp_path / "two.png") >= 2


def test_ignored_voxels_are_hatched_and_no_class(tmp_path):
    image, label = volumes(2)
    label = label.astype(np.int16)
    label[9:] = -1
    save_slices(image, label, tmp_path / "some.png")
    assert hues(tmp_path / "some.png") >= 2
    striped = []
    for name, labels in (("none", np.zeros_like(label)), ("all", np.full_like(label, -1))):
        save_slices(np.zeros_like(image), labels, tmp_path / f"{name}.png")
        rgb = matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3]
        striped.append((abs(rgb - 0.45) < 0.01).all(-1).mean())
        assert hues(tmp_path / f"{name}.png") == 0
    assert striped[0] < 0.01 and striped[1] > 0.05


def test_a_prediction_adds_a_row(tmp_path):
    image, label = volumes(2)
    save_slices(image, label, tmp_path / "a.png")
    save_slices(image, label, tmp_path / "b.png", prediction=label)
    heights = [matplotlib.image.imread(tmp_path / name).shape[0] for name in ("a.png", "b.png")]
    assert heights[1] > heights[0] * 1.3


def test_threads_draw_the_same_picture(tmp_path):
    image, label = volumes(2)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda path: save_slices(image, label, path), paths))
    assert len({path.read_bytes() for path in paths}) == 1


def test_constant_volumes_can_be_shown(tmp_path):
    save_slices(np.zeros(SHAPE), np.zeros(SHAPE, int), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_slices_are_as_wide_and_high_as_in_space(tmp_path):
    save_slices(np.zeros((10, 20, 30), np.uint8), None, tmp_path / "flat.png", spacing=(3.0, 1.5, 0.5))
    black = np.asarray(Image.open(tmp_path / "flat.png").convert("L")) < 1
    rows = np.flatnonzero(black.mean(1) > 0.1)
    middle = black[(rows[0] + rows[-1]) // 2]
    edges = np.flatnonzero(np.diff(np.pad(middle.astype(int), 1)))
    found = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin > 20:
            found.append(black[:, (begin + end) // 2].sum() / (end - begin))
    # z is up beside y and x, 30 mm each and 15; y is up beside x, 30 and 15.
    np.testing.assert_allclose(found, [30 / 15, 30 / 15, 30 / 30], rtol=0.05)


def test_shapes_must_agree(tmp_path):
    with pytest.raises(FdifError, match=r"prediction \(2, 2, 2\)"):
        save_slices(*volumes(2), tmp_path / "a.png", prediction=np.zeros((2, 2, 2), int))
    assert not (tmp_path / "a.png").exists()


def test_curves_have_a_panel_for_losses_and_one_for_dice(tmp_path):
    loss = {"loss": [(0, 1.0), (10, 0.5)], "dice_loss": [(0, 0.7), (10, 0.4)]}
    save_curves(loss, tmp_path / "loss.png")
    save_curves(loss | {"val_dice": [(0, 0.1), (10, 0.6)]}, tmp_path / "both.png")
    widths = [matplotlib.image.imread(tmp_path / name).shape[1] for name in ("loss.png", "both.png")]
    assert widths[1] == 2 * widths[0]


@pytest.mark.parametrize("name", [r"$x_{$ \frac", "\udcff", "two\nlines"])
def test_names_are_letters_and_no_formulas(name, tmp_path):
    """Names of files and classes may be anything: what matplotlib takes for a formula, and bytes that are no UTF-8."""
    image, label = volumes(2)
    save_slices(image, label, tmp_path / "slices.png", [name, name], title=name)
    save_curves({f"loss {name}": [(0, 1.0), (1, 0.5)]}, tmp_path / "curves.png")
    assert all(hues(path) for path in tmp_path.iterdir())
