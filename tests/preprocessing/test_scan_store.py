"""Scans that are measured and then prepared: read from their files once, and prepared the same as if read again."""

from collections import Counter

import numpy as np
import pytest

from fdif_jax.datasets import reader
from fdif_jax.datasets.reader import list_cases, load_conventions
from fdif_jax.errors import FdifError
from fdif_jax.preprocessing import scan_store
from fdif_jax.preprocessing.fingerprints import CasePlan, fingerprint, measure
from fdif_jax.preprocessing.normalisation import ZScore
from fdif_jax.preprocessing.preparation import prepare
from fdif_jax.preprocessing.scan_store import ScanStore
from fdif_jax.preprocessing.scans import Scan, read_scan
from fdif_jax.preprocessing.spaces import Crop, Space
from tests.helpers.paths import HIPPOCAMPUS

CONVENTIONS = load_conventions(HIPPOCAMPUS)
CASES = list_cases(HIPPOCAMPUS)[0][:3]
PLAN = CasePlan((1.2, 1.0, 1.0), (8, 8, 8), (ZScore(),))


def _full(scan, file, protocol):
    file.write(b"half")
    raise OSError("no space left on device")


@pytest.mark.parametrize("room", [True, False])
def test_prepared_as_if_read_twice(room, monkeypatch):
    decoded = Counter()

    def read_volume(path, **options):
        decoded[path] += 1
        return real(path, **options)

    real = reader.read_volume
    wanted = [prepare(read_scan(case, CONVENTIONS), PLAN) for case in CASES]
    expected = fingerprint(
        (measure(read_scan(c, CONVENTIONS), n, 2) for n, c in enumerate(CASES)), CONVENTIONS
    )
    if not room:
        monkeypatch.setattr(scan_store.pickle, "dump", _full)
    monkeypatch.setattr(reader, "read_volume", read_volume)
    with ScanStore(CONVENTIONS) as scans:
        for _ in range(2):
            measured = fingerprint((scans.measure(case, n) for n, case in enumerate(CASES)), CONVENTIONS)
        found = [prepare(scans.read(case), PLAN) for case in CASES for _ in range(2)][::2]
        folder = scans._folder.name
        assert sorted(p.suffix for p in scan_store.Path(folder).iterdir()) == [".pickle"] * 3 * room
    assert not scan_store.Path(folder).exists()
    assert set(decoded.values()) == {1 if room else 3} and len(decoded) == 6
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(measured, name), value)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.label, other.label)
        assert one.label.dtype == other.label.dtype and one.way.crop.box == other.way.crop.box
        for way in (one.way, other.way):
            np.testing.assert_array_equal(way.labels_back(one.label), other.way.labels_back(other.label))


def test_what_was_not_measured_is_read_when_it_is_asked_for(tmp_path):
    with ScanStore(CONVENTIONS) as scans:
        np.testing.assert_array_equal(
            scans.read(CASES[0]).image, read_scan(CASES[0], CONVENTIONS).cropped().image
        )
        with pytest.raises(FdifError, match=r"gone\.nii\.gz: no such file"):
            scans.measure(CASES[0]._replace(image=tmp_path / "gone.nii.gz"), 0)


def test_a_crop_is_undone_by_itself():
    affine = np.array([[0, -1.0, 0, 3], [2, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    image = np.zeros((9, 8, 7, 1), np.float32)
    image[2:5, 1:7, 3:4] = 1
    space = Space((8, 9, 7), affine)
    scan = Scan("a", image, None, space)
    again = Crop.from_arrays(scan.crop.to_arrays())
    assert scan.crop.shape == again.shape == (3, 6, 1) and scan.cropped().image.shape == (3, 6, 1, 1)
    assert scan.cropped().cropped().crop.box == again.box == scan.content
    for crop in (scan.crop, again):
        whole = crop.uncrop(np.arange(18, dtype=np.uint8).reshape(3, 6, 1))
        assert whole.shape == space.shape and whole.dtype == np.uint8 and whole.flags.c_contiguous
        np.testing.assert_array_equal(space.to_canonical(whole)[scan.content].ravel(), np.arange(18))
        assert whole.sum() == np.arange(18).sum()
