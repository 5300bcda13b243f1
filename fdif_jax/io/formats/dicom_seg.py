"""DICOM segmentations of a DICOM scan, by highdicom."""

import io
import os
from collections.abc import Sequence

import numpy as np

from fdif_jax.io.files import reading
from fdif_jax.io.formats.dicom import needed, quietly, read_slices

_MAKER, _MODEL = "fdif-jax", "fdif predict"


def encode_dicom_seg(source: str | os.PathLike, labels: np.ndarray, names: Sequence[str]) -> bytes:
    """The bytes of a DICOM segmentation of the scan that `read_dicom` reads from ``source``: a segment a class.

    Args:
        source: folder, series or file of the scan.
        labels: class ids ``(D, H, W)`` on the scan's grid; 0 is background.
        names: of the classes 1, 2, …, which are the segments' labels.

    Raises:
        FdifError: highdicom is not installed, or the scan's headers lack what a segmentation takes from them.
    """
    hd = needed("highdicom", source, "writing DICOM segmentations")
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    found = read_slices(source)
    planes = labels.transpose(2, 1, 0)
    if len(found.headers) == 1:  # frames are in the order of the file
        files = list(found.headers)
        planes = planes[np.argsort([frame.number for frame in found.frames])]
    else:
        files = [frame.file for frame in found.frames]
    thickness = str(float(np.linalg.norm(found.affine[:3, 2])))[:16]
    for header in found.headers.values():
        header.setdefault("SliceThickness", thickness)  # which a scan need not say, and a segmentation must
    how = hd.AlgorithmIdentificationSequence(
        name=_MODEL, family=codes.DCM.ArtificialIntelligence, version=_version()
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=how,
        )
        for number, name in enumerate(names, start=1)
    ]
    with reading(source, "its headers lack what a DICOM segmentation needs"), quietly():
        made = hd.seg.Segmentation(
            source_images=[found.headers[file] for file in files],
            pixel_array=planes.astype(np.min_scalar_type(len(names))),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=generate_uid(),
            series_number=1000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=_MAKER,
            manufacturer_model_name=_MODEL,
            software_versions=_version(),
            device_serial_number="0",
            series_description="Segmentation by fdif-jax",
        )
        stream = io.BytesIO()
        made.save_as(stream)
    return stream.getvalue()


def _version() -> str:
    from importlib.metadata import version

    return version("fdif-jax")
