"""A fine-tuned network as a program for a patch: ONNX of its PyTorch twin, or JAX's exported StableHLO.

Beside it lies a JSON file with what whoever calls it needs: patch, spacing, normalisation, labels.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from fdif_jax.errors import FdifError
from fdif_jax.extras import lacking
from fdif_jax.io.files import write_atomic, write_json
from fdif_jax.models.conv import portable
from fdif_jax.models.torch_twins import loaded_twin
from fdif_jax.scripts.exports.finetuned import FineTuned, about
from fdif_jax.training.network import functional

_PLATFORMS = ("cpu", "cuda", "tpu")
_ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession({file!r})
(logits,) = session.run(None, {{"image": patches}})  # float32 (B, {channels}, {patch}) -> (B, {classes}, {patch})"""
_EXPORTED = """
from jax import export
network = export.deserialize(open({file!r}, "rb").read())
logits = network.call(patches)  # float32 (B, {patch}, {channels}) -> (B, {patch}, {classes})"""


def write_onnx(tuned: FineTuned, out: Path) -> None:
    """Write an ONNX model ``(B, C, D, H, W)`` → logits ``(B, K, D, H, W)`` of any batch, and its JSON file.

    FdifError for more than one network, or if the packages that write it are not installed.
    """
    if lack := lacking("onnx"):
        raise FdifError(f"--to onnx {lack}")
    net = loaded_twin(tuned.single("onnx"), predicting=True).eval()
    data = _onnx(net, (2, len(tuned.plan.channels), *tuned.plan.patch))
    _write(tuned, out, data, "onnx", f"image: float32 (B, C, {_patch(tuned)})", _ONNX)


def _onnx(net: Any, shape: Sequence[int]) -> bytes:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks to developers of PyTorch's exporter
        program: Any = torch.onnx.export(
            net,
            (torch.zeros(tuple(shape)),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    return program.model_proto.SerializeToString()


def write_exported(tuned: FineTuned, out: Path) -> None:
    """Write `jax.export`'s bytes of ``(B, D, H, W, C)`` → logits ``(B, D, H, W, K)`` of any batch, and its JSON file.

    FdifError for more than one network.
    """
    network = functional(tuned.single("exported"))
    (batch,) = export.symbolic_shape("b")
    shape = (batch, *tuned.plan.patch, len(tuned.plan.channels))
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    predict = jax.jit(lambda images: network.apply(network.weights, images).astype(jnp.float32))
    with portable():
        data = bytes(export.export(predict, platforms=_PLATFORMS)(images).serialize())
    _write(tuned, out, data, "jax.export", f"float32 (B, {_patch(tuned)}, C)", _EXPORTED)


def _write(tuned: FineTuned, out: Path, data: bytes, form: str, takes: str, usage: str) -> None:
    described = out.with_suffix(".json")
    write_atomic(out, data)
    write_json(described, about(tuned, form=form, input=takes))
    print(f"{out}: {len(data):,} bytes; {described}: how scans are prepared for it")
    print(
        usage.format(
            file=os.fspath(out),
            channels=len(tuned.plan.channels),
            classes=len(tuned.classes),
            patch=_patch(tuned),
        )
    )


def _patch(tuned: FineTuned) -> str:
    return ", ".join(map(str, tuned.plan.patch))
