"""The ResEnc U-Net against its PyTorch twin, as `ResidualEncoderUNet` is built and initialised by nnU-Net."""

import numpy as np
import pytest
from flax import nnx

from fdif_jax import models
from fdif_jax.models.resenc_unet import PRESETS, ResEncUNet
from fdif_jax.weights import state_dicts
from tests.helpers.slow import quick_of

torch = pytest.importorskip("torch")
pytest.importorskip("dynamic_network_architectures")
twins = pytest.importorskip("tests.helpers.twins")

# name: (input channels, grid, options); the features change, or stay, where a stage strides, or does not
SIZES = {
    "plain": (1, (8, 8, 8), {"features": (4, 6, 6), "blocks": (1, 2, 1)}),
    "deep": (2, (8, 8, 8), {"features": (4, 8, 12), "decoder_convs": (2, 1), "deep_supervision": True}),
    "anisotropic": (
        1,
        (4, 8, 16),
        {"features": (4, 6, 8), "strides": (1, (1, 2, 2), (2, 2, 4)), "kernels": ((1, 3, 3), 3, 3)},
    ),
    "unbiased": (2, (6, 4, 8), {"features": (4, 4), "strides": (1, (3, 1, 2)), "conv_bias": False}),
}


@pytest.mark.parametrize(
    "name",
    quick_of(SIZES, [n for n in SIZES if n not in ("deep", "anisotropic", "unbiased")], "a program more"),
)
def test_weights_of_either_side_give_the_same_network(name):
    channels, grid, options = SIZES[name]
    twins.assert_twins(models.create("resenc_unet", in_channels=channels, out_channels=3, **options), grid)


def test_initial_weights_are_distributed_as_nnunet_draws_them():
    model = models.create("resenc_unet", in_channels=2, out_channels=40, features=(16, 24), blocks=2)
    net = twins.twin(model)
    twins.assert_same_distributions(model, net.apply(net.initialize))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_the_originals_names_and_shapes(preset, deep_supervision):
    options = {"preset": preset, "deep_supervision": deep_supervision}
    model = nnx.eval_shape(lambda: models.create("resenc_unet", in_channels=1, out_channels=110, **options))
    number = twins.assert_same_shapes(model)
    if preset in ("M", "L", "XL"):  # published as 102 million
        assert 101e6 < number < 104e6


@pytest.mark.parametrize(
    "preset, patches",
    [
        ("base", [(40, 56, 40), (48, 48, 48)]),
        ("S", [(64, 64, 64), (96, 96, 96)]),
        ("M", [(128, 128, 128), (160, 192, 160)]),
        ("L", [(160, 192, 160), (192, 192, 192)]),
        ("XL", [(224, 256, 224), (256, 224, 224)]),
    ],
)
def test_presets_are_what_nnunet_plans(preset, patches):
    topology = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.network_topology")
    config = nnx.eval_shape(
        lambda: models.create("resenc_unet", in_channels=1, out_channels=2, preset=preset)
    ).config
    for patch in patches:
        # spacing, patch, least edge of the coarsest grid, most poolings: as the planner calls it
        _, strides, kernels, fitted, _ = topology.get_pool_and_conv_props((1, 1, 1), patch, 4, 999999)
        assert tuple(fitted) == patch
        assert config.strides == tuple(map(tuple, strides))
        assert config.kernels == tuple(map(tuple, kernels))
    # ResEncUNetPlanner's rules for the rest
    assert config.features == tuple(min(320, 32 * 2**stage) for stage in range(len(strides)))
    assert config.blocks == (1, 3, 4, 6, 6, 6)[: len(strides)]
    assert set(config.decoder_convs) == {1}


def test_transfer_finds_its_weights():
    def shapes(**options):
        options = {"in_channels": 1, "out_channels": 3, "features": (4, 6)} | options
        state = state_dicts.to_torch_state_dict(models.create("resenc_unet", **options))
        return {name: array.shape for name, array in state.items()}

    def differing(**options):
        return {name for name, shape in shapes(**options).items() if shape != base[name]}

    base = shapes()
    stem = {"decoder.encoder.stem.convs.0.conv.weight", "encoder.stem.convs.0.all_modules.0.weight"}
    assert set(ResEncUNet.input_weights) < differing(in_channels=2) >= stem
    assert all(base[name][1] == 1 for name in ResEncUNet.input_weights)
    sized = differing(out_channels=5)
    assert sized and all(name.startswith(ResEncUNet.head) for name in sized)
    known = ("decoder.encoder.", *ResEncUNet.encoder, *ResEncUNet.head)
    rest = {name for name in base if not name.startswith(known)}
    assert rest and all(name.startswith(("decoder.stages.", "decoder.transpconvs.")) for name in rest)


@pytest.mark.slow("102 million weights on 96³ voxels")
def test_the_published_size_is_the_same_network():
    options = {"preset": "L", "deep_supervision": True, "remat": True}  # which saves memory
    model = models.create("resenc_unet", in_channels=1, out_channels=14, **options)
    net = twins.twin(model)
    twins.randomise(net)
    # Of so many activations some lie within rounding of leaky ReLU's kink, where gradients jump: PyTorch's own in
    # float32 is 0.6 % off what it is in float64. Biases of norms move all away from the kink, to either side.
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("conv2.norm.bias"):
                parameter.copy_(parameter.abs() + 6)
            elif name.endswith("norm.bias"):
                parameter.add_(3 * parameter.sign())
    state_dicts.load_torch_state_dict(model, net.state_dict())
    twins.assert_equal_networks(model, net, (96, 96, 96), batch=1)
    state = net.state_dict()
    for name, array in state_dicts.to_torch_state_dict(model).items():
        np.testing.assert_array_equal(array, state.pop(name))
    assert not state
