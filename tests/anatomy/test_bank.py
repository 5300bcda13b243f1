"""Banks of organs: built from label maps whose geometry is known, and one real one."""

import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest

from fdif_jax.anatomy.bank import DISJOINT, INSIDE, RELATIONS, TOUCHING, Bank, body_frames, build_bank
from fdif_jax.anatomy.organ_masks import load_names, read_subject
from fdif_jax.anatomy.placement import Waves
from fdif_jax.errors import FdifError
from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts import cli
from fdif_jax.sdf.shape import Point
from fdif_jax.shapes.organs import vocabulary_of
from tests.helpers.paths import ANATOMY
from tests.helpers.phantom import NAMES, phantom, plain

# One program instead of one an operation.
distances = jax.jit(lambda shape, p: shape(p))


def rotated() -> np.ndarray:
    """Turned by 30°, mirrored, anisotropic, somewhere in the scanner."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.asarray([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-1.0, 1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 1.5, 3.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.asarray((60, 60, 24)) / 2)
    return affine


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    write_nifti(paths[0], phantom(plain()), plain())
    moved = phantom(rotated(), (60, 60, 24), 1.1, (3.0, -2.0, 1.0))
    write_nifti(paths[1], moved, rotated())
    return paths


def untouched(bank: Bank, path: Path, subject, frame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mask of every organ of the only subject, and the bank's organ at the mask's voxels."""
    volume = nib.load(path)
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
    scanner = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    right, front, up = np.moveaxis(frame.scale * scanner + frame.shift, -1, 0)
    still = Waves(jnp.zeros((3, 3)), jnp.zeros(3), jnp.zeros((3, 3)))
    atlas = vocabulary_of_bank(bank).atlas
    found = {}
    for m, organ in enumerate(bank.organ):
        shape = atlas.shape(jnp.float32(m), jnp.float32(1.0), jnp.zeros(3), still)
        d = distances(shape, Point(up, front, right))
        found[bank.organs[organ]] = np.asarray(d)
    return found


def vocabulary_of_bank(bank):
    from fdif_jax.shapes.organs import _vocabulary

    return _vocabulary(bank)


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("case", ["plain", "rotated", "real"])
def test_an_organ_rendered_untouched_is_its_mask(case, tmp_path):
    if case == "real":
        path, names = (
            ANATOMY / "subject03_abdomen_mr_label.nii.gz",
            load_names(ANATOMY / "label_names.json", "mr"),
        )
    else:
        path, names = tmp_path / "a.nii.gz", NAMES
        affine, shape = (plain(), (40, 36, 30)) if case == "plain" else (rotated(), (60, 60, 24))
        write_nifti(path, phantom(affine, shape), affine)
    subject, _ = read_subject(path, names)
    bank = build_bank([path], [names])
    label = np.asarray(nib.load(path).dataobj)
    rendered = untouched(bank, path, subject, body_frames([subject])[0])
    assert len(rendered) == len(subject.parts) >= 5
    for organ, distance in rendered.items():
        mask = np.isin(label, [i for i, name in names.items() if name == organ])
        assert dice(distance <= 0, mask) >= 0.97, organ


def test_bounds_hold_the_organ_at_every_margin(files):
    bank = build_bank(files[:1], [NAMES])
    atlas = vocabulary_of_bank(bank).atlas
    rng = np.random.default_rng(0)
    waves = Waves(
        jnp.asarray(rng.normal(size=(3, 3)) / 60, jnp.float32),
        jnp.asarray(rng.random(3), jnp.float32),
        jnp.asarray(rng.uniform(-1.5, 1.5, (3, 3)), jnp.float32),
    )
    line = jnp.arange(-50.0, 50.0)
    for m in range(len(bank.organ)):
        shape = atlas.shape(jnp.float32(m), jnp.float32(0.8), jnp.asarray(bank.centroid[m]), waves)
        p = Point(line, line[:, None], line[:, None, None])
        d = np.asarray(distances(shape, p))
        for margin in (0.0, 3.0):
            box = shape.bounds(margin)
            outside = np.zeros(d.shape, bool)
            for c, low, high in zip(p, *box, strict=True):
                outside |= np.asarray((c < low - 1e-3) | (c > high + 1e-3))
            assert d[outside].min() > margin and (d <= margin).any()


def test_the_graph_says_what_the_phantom_is(files):
    bank = build_bank(files, [NAMES, NAMES])
    relation, at = bank.relation(), bank.organs.index
    assert relation[at("core"), at("shell")] == INSIDE
    assert relation[at("left"), at("right")] == relation[at("right"), at("left")] == TOUCHING
    assert relation[at("far"), at("left")] == relation[at("core"), at("right")] == DISJOINT
    assert (bank.seen[~np.eye(5, dtype=bool)] == 2).all() and bank.relations.shape[0] == len(RELATIONS)
    # Only the shell has a closed outline besides its own grid: one for each of two subjects.
    holder = bank.organ == at("shell")
    assert (bank.hull[holder] >= len(bank.organ)).all() and len(bank.size) == len(bank.organ) + 2
    assert (bank.hull[~holder] == np.flatnonzero(~holder)).all()


def test_subjects_are_brought_into_one_body(files):
    """The second phantom is the first, larger and elsewhere, on a turned, mirrored, anisotropic grid."""
    bank = build_bank(files, [NAMES, NAMES])
    for organ in range(len(bank.organs)):
        first, second = bank.centroid[bank.organ == organ]
        assert np.abs(first - second).max() < 1.0
    small, large = bank.volume[bank.organ == bank.organs.index("shell")]
    assert large == pytest.approx(small, rel=0.1)
    assert (bank.spread == 5.0).all()


def test_an_organ_cut_by_the_field_of_view_gives_way_to_a_whole_one(tmp_path):
    label = phantom(plain())
    whole, cropped = tmp_path / "whole.nii.gz", tmp_path / "cut.nii.gz"
    write_nifti(whole, label, plain())
    affine = plain()
    affine[:3, 3] += affine[:3, :3] @ (0, 0, 14)
    write_nifti(cropped, label[:, :, 14:], affine)  # through the middle of the boxes, below the far ball
    bank = build_bank([whole, cropped], [NAMES, NAMES])
    left, far = bank.organs.index("left"), bank.organs.index("far")
    assert bank.shown[left] == 2 and bank.whole[left] == 1
    assert bank.subject[bank.organ == left].tolist() == [0] and not bank.cut.any()
    alone = build_bank([cropped], [NAMES])
    assert alone.cut[alone.organ == left].all() and not alone.cut[alone.organ == far].any()


def test_a_bank_holds_nothing_of_a_patient(files, tmp_path):
    build_bank(files, [NAMES, NAMES]).save(tmp_path / "one.npz")
    build_bank(files, [NAMES, NAMES]).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz") as stored:
        texts = [name for name in stored.files if stored[name].dtype.kind in "USO"]
        assert texts == ["organs"] and sorted(stored["organs"]) == sorted(NAMES.values())
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert all(info.date_time[0] == 1980 for info in archive.infolist())
    bank = Bank.load(tmp_path / "one.npz")
    assert len(bank.digest) == 64 and (bank.values == build_bank(files, [NAMES, NAMES]).values).all()


def bad(tmp_path: Path, **changes) -> list[str]:
    """The command's arguments for a phantom and a names file, with something wrong."""
    label, affine = changes.get("label", phantom(plain())), changes.get("affine", plain())
    image = nib.Nifti1Image(label, None)
    image.header["sform_code"], image.header["srow_x"] = 1, affine[0]
    image.header["srow_y"], image.header["srow_z"] = affine[1], affine[2]
    nib.save(image, tmp_path / "a.nii.gz")
    (tmp_path / "n.json").write_text(json.dumps(changes.get("names", {str(k): v for k, v in NAMES.items()})))
    return [str(tmp_path / "a.nii.gz"), "--names", str(tmp_path / "n.json") + changes.get("section", "")]


def test_a_subject_counts_once(tmp_path, capsys):
    (tmp_path / "link.nii.gz").symlink_to("a.nii.gz")
    arguments = [str(tmp_path / "link.nii.gz"), *bad(tmp_path), "--out", str(tmp_path / "bank.npz")]
    with pytest.raises(SystemExit):
        cli.run("bank", ["build", *arguments])
    assert "a.nii.gz: is given twice, and would count twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": {"2": "shell", "5": "core"}}, "labels 6, 9, 11 without a name"),
        ({"label": np.zeros((8, 8, 8), np.uint8)}, "a.nii.gz: the label map is empty"),
        ({"label": phantom(plain())[..., None].repeat(2, -1)}, "a volume of 3 axes is needed"),
        ({"label": phantom(plain()) * np.float32(0.3)}, "labels are whole numbers"),
        ({"label": -phantom(plain()).astype(np.int16)}, "labels are whole numbers from 0"),
        ({"affine": np.diag([2.0, 0.0, 2.0, 1.0])}, "spacing (2, 0, 2) mm"),
        ({"names": {"ct": {"2": "x"}}, "section": ":mr"}, "unknown section of"),
        ({"names": {"ct": {"2": "x"}}}, "say which"),
        ({"names": {"two": "x"}}, "'two': 'x' is not a label"),
        ({"names": []}, "a table of label and organ"),
    ],
)
def test_bad_input_is_one_line(changes, says, tmp_path, capsys):
    arguments = bad(tmp_path, **changes)
    with pytest.raises(SystemExit) as done:
        cli.run("bank", ["build", *arguments, "--out", str(tmp_path / "bank.npz")])
    error = capsys.readouterr().err
    assert done.value.code == 2 and not (tmp_path / "bank.npz").exists()
    assert says in error.splitlines()[-1] and error.count("error:") == 1


def test_ids_of_an_atlas_cost_nothing_and_change_nothing(tmp_path):
    """Ids up to 4 294 967 295: a table by value would be of 8 GB."""
    label, far = phantom(plain()), {label: 2**32 - 1 - 1000 * label for label in NAMES}
    renamed = np.zeros(label.shape, np.uint32)
    for ours, theirs in far.items():
        renamed[label == ours] = theirs
    for name, array in (("a", label), ("b", renamed)):
        nib.save(nib.Nifti1Image(array, plain()), tmp_path / f"{name}.nii.gz")
    wanted, _ = read_subject(tmp_path / "a.nii.gz", NAMES)
    found, _ = read_subject(tmp_path / "b.nii.gz", {far[label]: name for label, name in NAMES.items()})
    assert found.parts.keys() == wanted.parts.keys() == set(NAMES.values())
    for organ, part in found.parts.items():
        assert part.volume == wanted.parts[organ].volume and part.touches == wanted.parts[organ].touches


def test_one_voxel_is_left_out_with_a_warning_or_kept(tmp_path, capsys):
    label = phantom(plain())
    label[label == 11] = 0
    label[30, 30, 20] = 11
    write_nifti(tmp_path / "a.nii.gz", label, plain())
    (tmp_path / "n.json").write_text(json.dumps({"ct": {str(k): v for k, v in NAMES.items()}}))
    arguments = [
        "build",
        f"{tmp_path}/a.nii.gz=ct",
        "--names",
        f"{tmp_path}/n.json",
        "--out",
        f"{tmp_path}/b.npz",
    ]
    cli.run("bank", arguments)
    assert "far has 1 voxel; left out" in " ".join(capsys.readouterr().err.split())
    assert "far" not in Bank.load(tmp_path / "b.npz").organs
    cli.run("bank", [*arguments, "--min-voxels", "1"])
    capsys.readouterr()
    bank = Bank.load(tmp_path / "b.npz")
    assert bank.volume[bank.organ == bank.organs.index("far")] == pytest.approx(8.0)
    cli.run("bank", ["show", f"{tmp_path}/b.npz"])
    text = capsys.readouterr().out
    assert all(organ in text for organ in bank.organs) and "spread" in text


def test_a_file_that_is_no_bank_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "y.npz", version=np.int32(1), organs=np.asarray(["a"]), values=np.zeros(3, np.int16))
    for name in ("x", "y"):
        with pytest.raises(FdifError, match=f"{name}.npz: not an organ bank"):
            vocabulary_of(tmp_path / f"{name}.npz")
    with pytest.raises(FdifError, match="cannot read"):
        Bank.load(tmp_path / "z.npz")
