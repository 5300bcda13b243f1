"""Folders of volumes, without a list: what is in them, by name."""

from pathlib import Path

from fdif_jax.errors import FdifError
from fdif_jax.io.files import is_file_or_link, visible
from fdif_jax.io.formats.dicom import is_segmentation
from fdif_jax.io.formats.dicom_seg import segmentation_at
from fdif_jax.io.remarks import remark_left_out
from fdif_jax.io.volumes import DICOM_SUFFIXES, VOLUMES, is_beside, is_dicom_scan, suffix_of


def find_volumes(folder: Path, *, segmentations: bool = False) -> dict[str, str]:
    """Names, in order, and suffixes, as they are written, of the volumes in a folder.

    Folders of DICOM slices are volumes without a suffix; files of DICOM segmentations are volumes where label maps are
    looked for (``segmentations``). A link whose file is not there is a volume, too: that is told
    when it is read. What lies beside volumes is named by a remark, but for hidden files, the voxels of a header, and a
    volume's probabilities (``.npz``). FdifError if there is no such folder, or two volumes differ in their suffixes
    only.
    """
    if not folder.is_dir():
        there = folder.exists()
        raise FdifError(f"{folder}: {'is a file; give the folder of it' if there else 'no such folder'}")
    found: dict[str, str] = {}
    others: list[str] = []
    for file in visible(folder):
        suffix, path = suffix_of(file), folder / file
        if segmentations and not suffix and is_segmentation(path):
            suffix = path.suffix
        elif not (is_file_or_link(path) if suffix else path.is_dir() and is_dicom_scan(path)):
            others += [] if is_beside(file) else [file]
            continue
        name = file.removesuffix(suffix)
        if name in found:
            raise FdifError(f"{path}: there is {name}{found[name]}, too; leave one of them out")
        found[name] = suffix
    if found:
        others = [file for file in others if not (file.endswith(".npz") and file[:-4] in found)]
        remark_left_out(folder, others, f"no volumes ({VOLUMES})")
    return found


def is_one_scan(path: Path) -> bool:
    """Whether a path is a DICOM scan and no folder of other volumes, which slices may lie beside."""
    return is_dicom_scan(path) and not (
        path.is_dir() and (any(map(suffix_of, visible(path))) or segmentation_at(path))
    )


def volumes_in(path: Path, series: str | None = None, *, segmentations: bool = False) -> dict[str, Path]:
    """The volumes of a folder by their names; that one alone where the path is a DICOM scan itself (`is_one_scan`).

    Of folders of DICOM slices it is the ``series``, by its UID or description, if one is given. Errors are as of
    `find_volumes`; FdifError, too, if there is a series and no DICOM.
    """
    if is_one_scan(path):
        owner = (path if path.exists() else path.parent).absolute()  # of a series it is its folder
        found = {owner.stem if owner.suffix.lower() in DICOM_SUFFIXES else owner.name: path}
    else:
        suffixes = find_volumes(path, segmentations=segmentations)
        found = {name: path / f"{name}{suffix}" for name, suffix in suffixes.items()}
    if series is None:
        return found
    slices = [name for name, volume in found.items() if volume.is_dir()]
    if not slices:
        raise FdifError(f"{path}: --series {series} is of folders of DICOM slices, and there is none")
    return found | {name: found[name] / series for name in slices}
