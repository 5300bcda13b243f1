"""Comparing a network with its PyTorch twin; imported by the tests of each network, which have PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from fdif_jax import interop


def twin(model: nnx.Module) -> torch.nn.Module:
    """The PyTorch network that ``model.torch_code()`` builds, in evaluation mode."""
    scope: dict = {}
    torch.manual_seed(0)
    exec(model.torch_code(), scope)
    return scope["net"].eval()


def randomise(net: torch.nn.Module) -> None:
    """Draw every parameter and running statistic: fresh ones of 0 or 1 hide what is behind them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            scale = 0.3 if fan_in < 100 else 3 / math.sqrt(fan_in)
            parameter.copy_(0.1 * scale + scale * torch.randn(parameter.shape, generator=generator))
        for name, buffer in net.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def assert_equal_networks(model: nnx.Module, net: torch.nn.Module, grid: tuple[int, int, int]) -> None:
    """Outputs within 1e-4 of the largest, and the input gradient of a weighting of all of them within 1e-3."""
    x = np.random.default_rng(2).standard_normal((2, *grid, model.config.in_channels), dtype=np.float32)

    @nnx.jit
    def ours(model, x):
        def weighted(x):
            outputs = model(x)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            return sum((jnp.cos(jnp.arange(y.size)).reshape(y.shape) * y).sum() for y in outputs), outputs

        return jax.grad(weighted, has_aux=True)(x)

    gradient, outputs = ours(model, x)
    leaf = torch.from_numpy(x).requires_grad_()
    wanted = net(leaf.permute(0, 4, 1, 2, 3))
    wanted = [y.permute(0, 2, 3, 4, 1) for y in (wanted if isinstance(wanted, list) else [wanted])]
    sum((torch.arange(y.numel()).cos().reshape(y.shape) * y).sum() for y in wanted).backward()
    assert len(outputs) == len(wanted)
    for y, want in zip(outputs, wanted, strict=True):
        want = want.detach().numpy()
        assert np.abs(want).max() > 1e-3
        np.testing.assert_allclose(y, want, atol=1e-4 * np.abs(want).max())
    want = leaf.grad.numpy()
    assert np.abs(want).max() > 0
    np.testing.assert_allclose(gradient, want, atol=1e-3 * np.abs(want).max())


def assert_twins(model: nnx.Module, grid: tuple[int, int, int]) -> None:
    """The same names, shapes and number of parameters; equal networks with weights from either side."""
    net = twin(model)
    theirs = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert {name: array.shape for name, array in interop.to_torch_state_dict(model).items()} == theirs
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert ours == sum(parameter.numel() for parameter in net.parameters())
    randomise(net)
    interop.load_torch_state_dict(model, net.state_dict())
    assert_equal_networks(model, net, grid)
    other = twin(model)
    state = {name: torch.from_numpy(array) for name, array in interop.to_torch_state_dict(model).items()}
    other.load_state_dict(state, strict=True)
    assert_equal_networks(model, other, grid)


def assert_same_distributions(model: nnx.Module, net: torch.nn.Module) -> None:
    """Both freshly initialised: equal mean and standard deviation of every layer, within what draws allow."""
    drawn = 0
    for name, want in net.state_dict().items():
        got, want = interop.to_torch_state_dict(model)[name], want.double().numpy()
        if want.size < 2 or want.std() == 0:
            np.testing.assert_array_equal(got, want, err_msg=name)
            continue
        drawn += 1
        # the relative error of a standard deviation from n draws is about 1 / sqrt(2 n); both sides have one
        error = 1 / math.sqrt(got.size)
        assert abs(got.std() / want.std() - 1) < 5 * error, name
        assert abs(got.mean() - want.mean()) < 7 * want.std() * error, name
    assert drawn > 3
