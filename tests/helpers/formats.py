"""One scan in every format, by the libraries that others write them with."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tests.helpers.dicom import write_multiframe, write_series


def to_itk(array, affine):
    """SimpleITK's image of an array ``(i, j, k)`` and an affine in NIfTI's space."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def write_itk(path: Path, array, affine, *, compress=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_itk(array, affine), str(path), compress)
    return path


def write_formats(folder: Path, name, array, affine):
    """The paths of a scan by its formats, each in a folder of that name; its axes are at right angles to each other."""
    nifti = folder / f"nifti/{name}.nii.gz"
    nifti.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), nifti)
    mgz = folder / f"mgz/{name}.mgz"
    mgz.parent.mkdir()
    nib.save(nib.MGHImage(array, affine), mgz)
    k = np.random.default_rng(0).permutation(array.shape[2]).tolist()
    return {
        "nifti": nifti,
        "mgz": mgz,
        "nrrd": write_itk(folder / f"nrrd/{name}.nrrd", array, affine, compress=True),
        "nhdr": write_itk(folder / f"nhdr/{name}.nhdr", array, affine),
        "seg.nrrd": write_itk(folder / f"seg/{name}.seg.nrrd", array, affine),
        "mha": write_itk(folder / f"mha/{name}.mha", array, affine, compress=True),
        "mhd": write_itk(folder / f"mhd/{name}.mhd", array, affine),
        "zraw": write_itk(folder / f"zraw/{name}.mhd", array, affine, compress=True),
        "series": write_series(folder / f"series/{name}", array, affine),
        "multi-frame": write_multiframe(
            folder / f"multi-frame/{name}/IM1.dcm", array, affine, order=k
        ).parent,
    }
