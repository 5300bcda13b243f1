"""How the PyTorch twins of the networks are made: as data, as code to print, and made."""

import importlib
import sys
import textwrap
from types import ModuleType
from typing import Any, NamedTuple

from fdif_jax.errors import FdifError
from fdif_jax.weights.state_dicts import to_torch_state_dict


class TorchTwin(NamedTuple):
    """How the PyTorch twin of a network is made.

    Attributes:
        path: of its class, dotted.
        arguments: that the class is called with, plain data by name.
        objects: the arguments that are not strings but the dotted paths of classes in ``torch.nn``.
    """

    path: str
    arguments: dict[str, Any]
    objects: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The installed package that has the class, as it is called in a package registry."""
        return self.path.partition(".")[0].replace("_", "-")

    @property
    def predicting(self) -> "TorchTwin":
        """The same as it predicts: with one output where training has several."""
        one = {key: False for key in self.arguments if key == "deep_supervision"}
        return self._replace(arguments=self.arguments | one)

    def code(self) -> str:
        """Python code that makes the network, untrained, as ``net``."""
        module, _, name = self.path.rpartition(".")
        imports = ["from torch import nn"] * bool(self.objects) + [f"from {module} import {name}"]
        told = (
            f"{key}={value.removeprefix('torch.') if key in self.objects else repr(value)}"
            for key, value in self.arguments.items()
        )
        lines = textwrap.wrap(", ".join(told) + ",", 106, break_long_words=False)
        return "\n".join([*imports, f"net = {name}(", *(f"    {line}" for line in lines), ")"])

    def build(self) -> Any:
        """The network, untrained; FdifError if its package is not installed."""
        # Some import torchvision, by way of timm, and use none of it. Its wheels for CUDA fail beside a PyTorch for
        # CPUs, in the module that registers what compiled operators are like.
        try:
            import torchvision  # noqa: F401
        except ImportError:
            pass
        except RuntimeError:
            name = "torchvision._meta_registrations"
            sys.modules[name] = ModuleType(name)
        try:
            made = _located(self.path)
            arguments = {
                key: _located(value) if key in self.objects else value
                for key, value in self.arguments.items()
            }
        except ImportError as error:
            raise FdifError(
                f"the PyTorch network {self.path} needs the Python package {error.name}; install it"
            ) from None
        return made(**arguments)


def loaded_twin(model: Any, *, predicting: bool = False) -> Any:
    """The PyTorch twin of a network of ours, with its weights, on the CPU; FdifError as `TorchTwin.build`."""
    twin: TorchTwin = model.torch_twin()
    net = (twin.predicting if predicting else twin).build()
    import torch

    state = {name: torch.from_numpy(array) for name, array in to_torch_state_dict(model).items()}
    net.load_state_dict(state, strict=True)
    return net


def _located(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
