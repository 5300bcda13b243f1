"""Comparing a network with its PyTorch twin; imported by the tests of each network, which have PyTorch."""

import copy
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from fdif_jax.weights import state_dicts

# Primus's twin imports timm, and that torchvision, whose wheels for CUDA fail beside PyTorch's for CPUs, where they
# register what their compiled operators are like. Nothing here calls those.
try:
    import torchvision  # noqa: F401
except RuntimeError:
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
except ImportError:
    pass


def twin(model: nnx.Module) -> torch.nn.Module:
    """The PyTorch network that ``model.torch_twin().code()`` builds, for evaluation, untrained."""
    scope: dict = {}
    torch.manual_seed(0)
    exec(model.torch_twin().code(), scope)
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


@nnx.jit
def outcome(model: nnx.Module, x):
    """Gradient with respect to the input of a weighting of all outputs, and the outputs."""

    def weighted(x):
        outputs = model(x)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        return sum((jnp.cos(jnp.arange(y.size)).reshape(y.shape) * y).sum() for y in outputs), outputs

    return jax.grad(weighted, has_aux=True)(x)


def torch_outcome(net: torch.nn.Module, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The same of a PyTorch network."""
    leaf = torch.from_numpy(x).requires_grad_()
    outputs = net(leaf.permute(0, 4, 1, 2, 3))
    outputs = [y.permute(0, 2, 3, 4, 1) for y in (outputs if isinstance(outputs, list) else [outputs])]
    sum((torch.arange(y.numel()).cos().reshape(y.shape) * y).sum() for y in outputs).backward()
    return leaf.grad.numpy(), [y.detach().numpy() for y in outputs]


def assert_equal_networks(
    model: nnx.Module, net: torch.nn.Module, grid: tuple[int, int, int], batch: int = 2
) -> None:
    """Outputs within 1e-4 of the largest, the input gradient of a weighting of all of them within 1e-3 of its norm.

    Rounding decides on which side of a ReLU's kink a value near zero falls, in PyTorch as here. So where the gradients
    differ by more, ours may be up to 1.5 times as far from PyTorch's in float64 as PyTorch's in float32 is, if that is
    below 1e-2. Where PyTorch's own gradient jumps by more than 1e-3 between two inputs that are almost the same, they
    are compared at another input.
    """
    for seed in range(2, 7):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((batch, *grid, model.config.in_channels), dtype=np.float32)
        gradient, outputs = outcome(model, x)
        want_gradient, wanted = torch_outcome(net, x)
        for y, want in zip(outputs, wanted, strict=True):
            assert np.abs(want).max() > 1e-3
            np.testing.assert_allclose(y, want, atol=1e-4 * np.abs(want).max())
        if _apart(gradient, want_gradient) <= 1e-3:
            return
        exact, _ = torch_outcome(copy.deepcopy(net).double(), x.astype(np.float64))
        if _apart(gradient, exact) <= 1.5 * min(_apart(want_gradient, exact), 1e-2):
            return
        nudge = 1e-5 * rng.standard_normal(x.shape, dtype=np.float32)
        nearby = [torch_outcome(net, x + nudge)[0], torch_outcome(net, x - nudge)[0]]
        assert max(_apart(near, want_gradient) for near in nearby) > 1e-3, "gradients differ"
    raise AssertionError("PyTorch's gradient jumps at every input tried")


def _apart(gradient: np.ndarray, want: np.ndarray) -> float:
    assert np.any(want)
    return float(np.linalg.norm(np.ravel(gradient - want)) / np.linalg.norm(np.ravel(want)))


def assert_same_shapes(model: nnx.Module) -> int:
    """The same names and shapes without any values, for networks of any size: pass one from ``nnx.eval_shape``.

    Returns:
        The number of parameters.
    """
    scope: dict = {}
    with torch.device("meta"):
        exec(model.torch_twin().code(), scope)
    theirs = {name: tuple(tensor.shape) for name, tensor in scope["net"].state_dict().items()}
    ours = {}
    for _, names, variable in state_dicts.torch_variables(model):
        axes = variable.get_metadata().get("torch_axes") or range(variable.ndim)
        ours |= dict.fromkeys(names, tuple(variable.shape[axis] for axis in axes))
    assert ours == theirs
    number = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert number == sum(parameter.numel() for parameter in scope["net"].parameters())
    return number


def assert_twins(model: nnx.Module, grid: tuple[int, int, int], batch: int = 2) -> None:
    """The same names, shapes and number of parameters; equal networks; weights that go there and back to the bit."""
    net = twin(model)
    theirs = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert {name: array.shape for name, array in state_dicts.to_torch_state_dict(model).items()} == theirs
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert ours == sum(parameter.numel() for parameter in net.parameters())
    randomise(net)
    state_dicts.load_torch_state_dict(model, net.state_dict())
    assert_equal_networks(model, net, grid, batch)
    back = state_dicts.to_torch_state_dict(model)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def assert_same_distributions(model: nnx.Module, net: torch.nn.Module) -> None:
    """Both freshly initialised: equal mean and standard deviation of every layer, within what draws allow."""
    ours, drawn = state_dicts.to_torch_state_dict(model), 0
    for name, want in net.state_dict().items():
        got, want = ours[name], want.double().numpy()
        if want.size < 2 or want.std() == 0:
            np.testing.assert_array_equal(got, want, err_msg=name)
            continue
        drawn += 1
        # the relative error of a standard deviation from n draws is about 1 / sqrt(2 n); both sides have one
        error = 1 / math.sqrt(got.size)
        assert abs(got.std() / want.std() - 1) < 5 * error, name
        assert abs(got.mean() - want.mean()) < 7 * want.std() * error, name
        if (
            got.size > 5000
        ):  # a normal distribution has 4.55 % beyond two standard deviations, a uniform one nothing
            beyond = [np.mean(np.abs(values - values.mean()) > 2 * values.std()) for values in (got, want)]
            assert abs(beyond[0] - beyond[1]) < 0.02, name
    assert drawn > 3
