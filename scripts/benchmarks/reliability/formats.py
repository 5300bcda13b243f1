"""Every format that is read: good files to begin with, and the reader that a command calls for such a file."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import tomli_w

import fdif_jax as fd
from fdif_jax import models
from fdif_jax.anatomy.organ_masks import load_names
from fdif_jax.datasets.conventions import any_label
from fdif_jax.datasets.reader import load_conventions, load_dataset, volume_type
from fdif_jax.io.b2nd import encode_b2nd
from fdif_jax.io.formats.dicom import needed, quietly
from fdif_jax.io.formats.dicom_seg import encode_dicom_seg
from fdif_jax.io.formats.metaimage import encode_metaimage
from fdif_jax.io.formats.nrrd import encode_nrrd
from fdif_jax.io.nifti import encode_nifti
from fdif_jax.io.volumes import read_volume
from fdif_jax.models.nnunet import from_plans
from fdif_jax.models.recognise import recognise
from fdif_jax.preprocessing.scans import space_of
from fdif_jax.scenes.replay import placed_objects
from fdif_jax.scripts import pretrain
from fdif_jax.shapes import files, organs, published
from fdif_jax.shapes.meshes import from_mesh
from fdif_jax.training.runs import load_run
from fdif_jax.weights.files import check_finite, read_checkpoint


class Format(NamedTuple):
    """A format: the name of its file, good contents, and what reads it, as a command does.

    Attributes:
        name: of the file, in a folder of its own.
        seeds: makes good contents, in a folder where what they name is put.
        read: reads the file.
        text: whether it is JSON (``json.loads``) or TOML, and is to be changed as such, too.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    text: str = ""


def _volume() -> np.ndarray:
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) % 7


_AFFINE = np.array([[0, 2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, -3, 7], [0, 0, 0, 1]])


def _nifti(folder: Path) -> list[bytes]:
    arrays = _volume(), 2 * _volume().astype(np.float32), np.stack([_volume()] * 2, axis=-1).astype(np.uint8)
    return [bytes(encode_nifti(array, _AFFINE, compress=False)) for array in arrays]


def _nrrd(folder: Path) -> list[bytes]:
    fields = "type: short\ndimension: 3\nspace: RAS\nsizes: 4 5 6\nendian: big\nencoding: raw\n"
    space = "space directions: (0,1.5,0) (2,0,0) (0,0,-3)\nspace origin: (5,6,7)\n"
    text = f"NRRD0004\n{fields}{space}\n".encode()
    return [encode_nrrd(_volume(), _AFFINE), text + _volume().astype(">i2").tobytes(order="F")]


def _metaimage(folder: Path) -> list[bytes]:
    text = "NDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementSpacing = 1 2 3\nElementDataFile = LOCAL\n"
    return [encode_metaimage(_volume(), _AFFINE), text.encode() + _volume().tobytes(order="F")]


def _mgh(folder: Path) -> list[bytes]:
    return [nib.MGHImage(array, _AFFINE).to_bytes() for array in (_volume(), _volume().astype(np.float32))]


def _dicom(folder: Path) -> list[bytes]:
    """A file of several frames, as scanners write enhanced MR."""
    pydicom = needed("pydicom", folder, "writing DICOM")

    def of(**values: Any) -> Any:
        made = pydicom.Dataset()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    def frame(height: float) -> Any:
        place = of(ImagePositionPatient=[0, 0, height])
        return of(PlanePositionSequence=[place], PixelValueTransformationSequence=[of(RescaleSlope=2)])

    shared = of(
        PlaneOrientationSequence=[of(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[of(PixelSpacing=[1, 2])],
    )
    kind = "1.2.840.10008.5.1.4.1.1.4.1"
    made = of(
        SOPClassUID=kind, SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", Modality="MR", SeriesDescription="t1",
        StudyInstanceUID="1.2.5", FrameOfReferenceUID="1.2.6", SeriesNumber=1, InstanceNumber=1,
        **dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"), ""),
        **dict.fromkeys(("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"), ""),
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", Rows=5, Columns=4, NumberOfFrames=6,
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1, PixelData=_volume().tobytes(),
        SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[*map(frame, range(6))],
    )  # fmt: skip
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    stream = io.BytesIO()
    with quietly():
        made.save_as(stream, enforce_file_format=True)
    return [stream.getvalue()]


def _slicer(folder: Path) -> list[bytes]:
    """Segmentations of 3D Slicer: two layers, and one."""
    space = "space: left-posterior-superior\nspace origin: (5,6,7)\nencoding: raw\n"
    vectors = "(0,1.5,0) (2,0,0) (0,0,-3)"
    layers = np.stack([_volume() == 1, _volume() == 2]).astype(np.uint8)
    made = []
    for array, first in ((layers, "none "), (layers[0] + 2 * layers[1], "")):
        sizes = " ".join(map(str, array.shape))
        text = f"NRRD0004\ntype: uint8\ndimension: {array.ndim}\nsizes: {sizes}\n{space}"
        text += f"space directions: {first}{vectors}\nkinds: {'list ' * bool(first)}domain domain domain\n"
        for number in range(2):
            layer, value = (number, 1) if first else (0, number + 1)
            text += f"Segment{number}_Name:=organ {number}\nSegment{number}_Layer:={layer}\n"
            text += f"Segment{number}_LabelValue:={value}\n"
        made.append(f"{text}\n".encode() + array.tobytes(order="F"))
    return made


def _dicom_seg(folder: Path) -> list[bytes]:
    (folder / "source.dcm").write_bytes(_dicom(folder)[0])
    labels = (_volume() % 3).astype(np.uint8)
    return [encode_dicom_seg(folder / "source.dcm", labels, ("liver", "kidney"))]


def _read_volume(path: Path) -> None:
    volume_type(path)
    volume = read_volume(path, allow_4d=True)
    space_of(path, volume).canonical.apart_from(space_of(path, volume))
    any_label(path, volume.array)


def _blosc2(folder: Path) -> list[bytes]:
    return [encode_b2nd(_volume()), encode_b2nd(_volume().astype(np.float32), "ZSTD", 5)]


def _lists(folder: Path) -> list[bytes]:
    """Lists of the Decathlon, MONAI and nnU-Net, and the volumes that they name."""
    for name in ("a.nii", "b/a.nii", "imagesTr/c_0000.nii", "labelsTr/c.nii"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode_nifti(_volume(), compress=False))
    case = {"image": "a.nii", "label": "b/a.nii", "fold": 1}
    labels = {"0": "background", "1": "liver", "2": "kidney"}
    named = {"background": 0, "liver": 1, "ignore": 2}
    several = {"label_shape": "b/a.nii", "id": "x"}
    return [
        json.dumps(document).encode()
        for document in (
            {"labels": labels, "modality": {"0": "CT"}, "training": [case, case], "validation": [case]},
            {
                "labels": named,
                "labels_shape": labels,
                "tasks": ["class", "shape"],
                "training": [case | several],
            },
            {"labels": named, "channel_names": {"0": "MRI"}, "numTraining": 1, "file_ending": ".nii"},
        )
    ]


def _read_list(path: Path) -> None:
    load_conventions(path)
    load_dataset(path)


def _recipes(folder: Path) -> list[bytes]:
    mixture = {"kind": "mixture", "parts": [{"recipe": "fdif", "weight": 2}, {"recipe": "random_tissue"}]}
    known = [fd.load_recipe(name).to_dict() for name in ("fdif", "anatomy", "avs_db")]
    return [tomli_w.dumps(recipe).encode() for recipe in (*known, mixture)]


def _presets(folder: Path) -> list[bytes]:
    shipped = Path(pretrain.__file__).parent / "options/presets"
    return [path.read_bytes() for path in sorted(shipped.glob("*.toml"))]


def _scenes(folder: Path) -> list[bytes]:
    place = np.eye(4).tolist()
    common = {"class_id": 1, "inverse_transform": place, "displacement": "none", "mapper": "inverse_cube"}
    profile = {"kind": "star", "points": 5, "radius": 3.0, "ratio": 0.5}
    parts: list[tuple[str, dict[str, Any]]] = [
        ("sphere", {"radius": 4.0}),
        ("torus", {"major_radius": 4.0, "minor_radius": 1.0}),
        (
            "star_prism",
            {"half_height": 3.0, "profile": profile, "taper": {"kind": "linear", "second_scale": 0.5}},
        ),
    ]
    known = {name for family in published.families for name in (family.name, *family.aliases)}
    objects = [common | {"class": name, "params": params} for name, params in parts if name in known]
    inner = {"params": {"radius": 4.0}, "inverse": place[:3]}
    union = common | {"class": "sphere|sphere", "params": {"smooth": 1.0, "first": inner, "second": inner}}
    return [json.dumps([{"grid": [8, 9, 10], "objects": [*objects, union]}]).encode()]


def _read_scenes(path: Path) -> None:
    for scene in fd.load_scenes(path):
        placed_objects(scene, published)


def _shapes(folder: Path) -> list[bytes]:
    shape = fd.union(fd.shapes.sphere(3.0), fd.translate(fd.shapes.sphere(2.0), (1.0, 0.0, 0.0)))
    files.save(shape, folder / "made.json")
    return [(folder / "made.json").read_bytes()]


def _meshes(kind: str, folder: Path) -> list[bytes]:
    import trimesh

    mesh = trimesh.creation.icosphere(1, 4.0)
    options = [{"file_type": kind}, *({"stl": [{"file_type": "stl_ascii"}]}.get(kind, []))]
    made = [mesh.export(**option) for option in options]
    made += [mesh.export(file_type="ply", encoding="ascii")] if kind == "ply" else []
    return [one if isinstance(one, bytes) else one.encode() for one in made]


def _bank(folder: Path) -> list[bytes]:
    from fdif_jax.anatomy.bank import build_bank

    z, y, x = np.ogrid[:20, :20, :20]
    label = np.where((z - 10) ** 2 + (y - 8) ** 2 + (x - 9) ** 2 < 20, 1, 0)
    label = np.where((abs(z - 10) < 3) & (abs(y - 15) < 3) & (abs(x - 9) < 3), 2, label).astype(np.uint8)
    (folder / "label.nii").write_bytes(encode_nifti(label, compress=False))
    build_bank([folder / "label.nii"], [{1: "liver", 2: "kidney"}]).save(folder / "made.npz")
    return [(folder / "made.npz").read_bytes()]


def _state() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "in_tr.conv_block.conv.weight": random.normal(size=(4, 1, 5, 5, 5)).astype(np.float32),
        "in_tr.conv_block.conv.bias": np.zeros(4, np.float32),
        "steps": np.array([3]),
    }


def _safetensors(folder: Path) -> list[bytes]:
    import safetensors.numpy

    return [safetensors.numpy.save(_state(), {"format": "pt"})]


def _torch(folder: Path) -> list[bytes]:
    import torch

    made = []
    tensors = {name: torch.from_numpy(array) for name, array in _state().items()}
    plan = {"plans": json.loads(_plans(folder)[0]), "configuration": "3d_fullres"}
    for contents in (tensors, {"network_weights": tensors, "init_args": plan, "epoch": 3}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(contents, stream, _use_new_zipfile_serialization=zipped)
            made.append(stream.getvalue())
    return made


def _read_weights(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    check_finite(str(path), checkpoint.state)
    recognise(checkpoint, source=str(path))


def _plans(folder: Path) -> list[bytes]:
    arguments = {
        "n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]], "n_blocks_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
        "conv_bias": True, "conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None, "dropout_op_kwargs": None,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    built = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture = {"network_class_name": built, "arch_kwargs": arguments}
    base = {"patch_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0], "architecture": architecture}
    configurations = {"base": base, "3d_fullres": {"inherits_from": "base"}}
    return [json.dumps({"configurations": configurations}).encode()]


def _read_plans(path: Path) -> None:
    models.config_of(**from_plans(path).network, in_channels=1, out_channels=2)


def _runs(folder: Path) -> list[bytes]:
    network = {"name": "vnet", "in_channels": 1, "out_channels": 2}
    document = {
        "kind": "fine-tuning", "network": network, "init": {"from": "scratch"}, "left_fresh": ["a"],
        "dataset": {"list": "data.json", "training": ["a"]}, "validation": {"every": 3},
        "inference": {"overlap": 0.5, "mirror_axes": [0, 1], "weights": "last"},
    }  # fmt: skip
    return [json.dumps(document).encode()]


FORMATS = {
    "nifti": Format("scan.nii", _nifti, _read_volume),
    "nifti_gz": Format("scan.nii.gz", _nifti, _read_volume),
    "nrrd": Format("scan.nrrd", _nrrd, _read_volume),
    "metaimage": Format("scan.mha", _metaimage, _read_volume),
    "mgh": Format("scan.mgh", _mgh, _read_volume),
    "dicom": Format("scan.dcm", _dicom, _read_volume),
    "slicer": Format("map.seg.nrrd", _slicer, _read_volume),
    "dicom_seg": Format("map.dcm", _dicom_seg, _read_volume),
    "blosc2": Format("scan.b2nd", _blosc2, _read_volume),
    "list": Format("dataset.json", _lists, _read_list, "json"),
    "names": Format("names.json", lambda folder: [b'{"1": "liver", "2": "kidney"}'], load_names, "json"),
    "recipe": Format("recipe.toml", _recipes, fd.load_recipe, "toml"),
    "preset": Format(
        "preset.toml", _presets, lambda path: pretrain.defaults(["--preset", str(path)]), "toml"
    ),
    "scenes": Format("scenes.json", _scenes, _read_scenes, "json"),
    "shape": Format("shape.json", _shapes, files.load, "json"),
    **{
        kind: Format(
            f"mesh.{kind}", functools.partial(_meshes, kind), functools.partial(from_mesh, resolution=8)
        )
        for kind in ("stl", "obj", "ply")
    },
    "bank": Format("bank.npz", _bank, organs.vocabulary_of),
    "safetensors": Format("weights.safetensors", _safetensors, _read_weights),
    "torch": Format("weights.pth", _torch, _read_weights),
    "plans": Format("plans.json", _plans, _read_plans, "json"),
    "run": Format("run.json", _runs, lambda path: load_run(path.parent), "json"),
}
