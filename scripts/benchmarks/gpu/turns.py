"""Part `turns`: a training step of each network and its PyTorch original's, in turns in one process."""

from typing import Any

from fdif_jax.scripts.benchmarks.gpu.figures import Figures
from fdif_jax.scripts.benchmarks.gpu.sizes import Size
from fdif_jax.scripts.benchmarks.gpu.steps import ready_step
from fdif_jax.scripts.benchmarks.parts import Turn, in_turns, spread
from fdif_jax.scripts.benchmarks.rivals import TorchSteps


def measure(size: Size, figures: Figures) -> None:
    """Our step, PyTorch's (automatic mixed precision, channels last) and that by `torch.compile`; networks in order.

    All are compiled, beside other parts, before the first is measured.
    """
    prepared: dict[str, dict[str, Turn]] = {}
    for name, options in size.networks.items():
        with figures.attempt(f"{name} compiling"):
            prepared[name] = _compiled(options, size)
    for name, calls in prepared.items():
        with figures.attempt(name), figures.alone():
            figures.add(name, _compared(calls, size))


def _compiled(options: tuple[str, ...], size: Size) -> dict[str, Turn]:
    training, steps = ready_step(options, size.batch)
    calls: dict[str, Turn] = {"ours": steps, "PyTorch": TorchSteps(training)}
    if size.compile_torch:
        calls["PyTorch, compiled"] = TorchSteps(training, compiled=True)
    for call in calls.values():
        call(0)  # compiles
    return calls


def _compared(calls: dict[str, Turn], size: Size) -> dict[str, Any]:
    """Seconds of a step, their spread, volumes a second, and how many times as long as ours."""
    measured = {name: spread(seconds) for name, seconds in in_turns(calls, size.runs).items()}
    return {
        name: one
        | {
            "volumes_per_second": size.batch / one["seconds"],
            "times_ours": one["seconds"] / measured["ours"]["seconds"],
        }
        for name, one in measured.items()
    }
