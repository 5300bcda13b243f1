"""What many volumes and many GPUs cost, as formulas of what a volume, a step and an hour cost."""

from typing import NamedTuple

from fdif_jax.scripts.benchmarks.communication import sent_for_gradient

_GRADIENT = 4  # bytes of a parameter's gradient, which is float32


class Generating(NamedTuple):
    """What volumes on disk cost: hours of all cores together, bytes, dollars once and while they are kept."""

    core_hours: float
    bytes: float
    dollars: float
    dollars_kept: float


def generating(
    volumes: float,
    *,
    core_seconds: float,
    volume_bytes: float,
    months: float,
    price_core_hour: float,
    price_gb_month: float,
) -> Generating:
    """Volumes of so many core-seconds and bytes each, kept for so many months."""
    core_hours, total = volumes * core_seconds / 3600, volumes * volume_bytes
    return Generating(core_hours, total, core_hours * price_core_hour, total / 1e9 * months * price_gb_month)


class Pretraining(NamedTuple):
    """What pre-training on so many GPUs costs.

    Attributes:
        gpus: their number.
        sent: bytes that each sends in a step.
        exchange: seconds of a step that this takes.
        step: seconds of a step; nothing is sent while something is computed, which is the worst case.
        rate: volumes a second of all GPUs.
        efficiency: of the rate that as many GPUs had by themselves.
        hours: from the start to the last step.
        starting: the part of these hours before the first step.
        dollars: of all GPUs.
        read: bytes a second that all GPUs together would read if volumes came from files.
    """

    gpus: int
    sent: float
    exchange: float
    step: float
    rate: float
    efficiency: float
    hours: float
    starting: float
    dollars: float
    read: float


def pretraining(
    volumes: float,
    gpus: int,
    *,
    step_seconds: float,
    step_volumes: float,
    parameters: float,
    start_seconds: float,
    volume_bytes: float,
    link: float,
    price_gpu_hour: float,
) -> Pretraining:
    """A pass over so many volumes, of which every GPU takes ``step_volumes`` a step; ``link`` is in GB/s a GPU."""
    given = sent_for_gradient(_GRADIENT * parameters, gpus)
    exchange = given / (link * 1e9)
    step = step_seconds + exchange
    rate = gpus * step_volumes / step
    seconds = start_seconds + volumes / rate
    hours = seconds / 3600
    return Pretraining(
        gpus,
        given,
        exchange,
        step,
        rate,
        step_seconds / step,
        hours,
        start_seconds / seconds,
        hours * gpus * price_gpu_hour,
        rate * volume_bytes,
    )
