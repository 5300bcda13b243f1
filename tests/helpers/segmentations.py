"""Segmentations as 3D Slicer and highdicom write them."""

import gzip

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

AFFINE = nib.affines.from_matvec(np.array([[0, -1.5, 0], [0, 0, 2.0], [0.5, 0, 0]]), [7, -8, 9])
LABELS = np.random.default_rng(0).integers(0, 4, (8, 5, 4)).astype(np.uint8)
LABELS[..., 0] = 0  # the lowest slice has no segment
LABELS[..., 2] = 0  # nor has one between two that have
NAMES = {1: "liver", 2: "left kidney", 3: "spleen"}


def slicer(path, layers, segments, affine=AFFINE, kinds="list domain domain domain"):
    """A segmentation as 3D Slicer 5 writes it, of layers ``(L, i, j, k)``; of ``segments`` name, layer and value."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    vectors = [f"({','.join(map(str, column))})" for column in lps[:3].T]
    texts = {"Segmentation_ContainedRepresentationNames": "Binary labelmap|Closed surface|"}
    for number, (name, layer, value) in enumerate(segments):
        texts |= {f"Segment{number}_ID": f"Segment_{number + 1}", f"Segment{number}_Name": name}
        texts |= {f"Segment{number}_Layer": layer, f"Segment{number}_LabelValue": value}
    lines = [
        "NRRD0004", "type: unsigned char", f"dimension: {layers.ndim}", "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, layers.shape))}",
        f"space directions: {'none ' * (layers.ndim - 3)}{' '.join(vectors[:3])}",
        f"kinds: {kinds[(4 - layers.ndim) * 5 :]}", "encoding: gzip", f"space origin: {vectors[3]}",
        *(f"{name}:={text}" for name, text in texts.items() if text is not None), "", "",
    ]  # fmt: skip
    path.write_bytes("\n".join(lines).encode() + gzip.compress(layers.tobytes(order="F")))
    return path


def dicom_seg(folder, out, labels, kind="BINARY", names=NAMES, masks=None, **options):
    """A segmentation of a series by highdicom."""
    files = [pydicom.dcmread(file) for file in folder.iterdir()]
    files.sort(key=lambda one: one.InstanceNumber)
    for file in files:
        file.setdefault("SliceThickness", "2")
    planes = labels.transpose(2, 1, 0) if masks is None else masks
    described = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.Organ, codes.SCT.Organ, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in names.items()
    ]
    made = hd.seg.Segmentation(
        files, planes, kind, described, hd.UID(), 1, hd.UID(), 1, "m", "n", "1", "2", **options
    )  # fmt: skip
    made.save_as(out)
    return out
