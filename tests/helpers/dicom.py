"""DICOM scans as scanners write them, of arrays and their affines."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"


def geometry(affine):
    """Orientation, spacing from row to row and column to column, and a slice's position by its number, in DICOM's axes.

    The array's axes are columns, rows and slices, as ITK has them.
    """
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    along, down = (float(np.linalg.norm(lps[:3, axis])) for axis in (0, 1))
    orientation = [*lps[:3, 0] / along, *lps[:3, 1] / down]
    return orientation, [down, along], lambda k: lps[:3, 3] + k * lps[:3, 2]


def _decimal(values):
    """As DICOM's decimal strings hold numbers: 16 characters at most."""
    return [pydicom.valuerep.format_number_as_ds(float(value)) for value in values]


def _common(array, sop_class, series, description):
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = sop_class
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.PatientID, made.PatientName, made.PatientBirthDate, made.PatientSex = "1", "A^B", "", "O"
    made.StudyInstanceUID, made.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5"
    made.StudyDate = made.StudyTime = made.StudyID = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.PositionReferenceIndicator = ""
    made.SeriesInstanceUID, made.SeriesDescription, made.SeriesNumber = series, description, 1
    made.Modality = "CT" if sop_class == CT else "MR"
    made.Columns, made.Rows = array.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * array.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(array.dtype.kind == "i")
    return made


def write_series(
    folder: Path,
    array,
    affine,
    *,
    series="1.2.3",
    description="axial",
    rescale=(1, 0),
    leave_out=(),
    **changes,
):
    """Write an array of integers ``(columns, rows, slices)``, a file a slice, in an order that is not theirs.

    Numbers become ``slope · number + intercept`` where they are read. ``changes`` name what is to be different in
    every file: a value, or a function of the slice's number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    orientation, spacing, position = geometry(affine)
    for k in set(range(array.shape[2])) - set(leave_out):
        made = _common(array, CT, series, description)
        made.InstanceNumber = k + 1
        made.ImageOrientationPatient, made.PixelSpacing = _decimal(orientation), _decimal(spacing)
        made.ImagePositionPatient = _decimal(position(k))
        made.RescaleSlope, made.RescaleIntercept = rescale
        made.PixelData = np.ascontiguousarray(array[:, :, k].T).tobytes()
        for name, value in changes.items():
            setattr(made, name, value(k) if callable(value) else value)
        number = (7 * k + 3) % 1000  # names are in another order than slices
        made.save_as(folder / f"{series}_{number:03d}.dcm", enforce_file_format=True)
    return folder


def write_multiframe(path: Path, array, affine, *, rescale=(1, 0), order=None, **changes):
    """Write the same as one enhanced file, its frames in an ``order``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    orientation, spacing, position = geometry(affine)
    order = range(array.shape[2]) if order is None else order
    made = _common(array, ENHANCED_MR, "1.2.3", "enhanced")
    made.InstanceNumber, made.NumberOfFrames = 1, len(order)

    def of(**values):
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return [item]

    shared = Dataset()
    shared.PlaneOrientationSequence = of(ImageOrientationPatient=_decimal(orientation))
    shared.PixelMeasuresSequence = of(PixelSpacing=_decimal(spacing), SliceThickness="1")
    made.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in order:
        group = Dataset()
        group.PlanePositionSequence = of(ImagePositionPatient=_decimal(position(k)))
        group.PixelValueTransformationSequence = of(RescaleSlope=rescale[0], RescaleIntercept=rescale[1])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    made.PixelData = np.ascontiguousarray(array.transpose(2, 1, 0)[list(order)]).tobytes()
    for name, value in changes.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)
    return path
