"""A training step by part: seconds, work as XLA counts it and memory; and what this machine reaches at best.

Generating, the forward pass, and both passes are programs of their own; the backward pass and the update are what the
next larger program takes beyond them. All are measured in turns, so that whatever else the machine does meets each.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fdif_jax.keys import sample_key
from fdif_jax.models.conv import portable
from fdif_jax.scripts.jobs.prepared import Training
from fdif_jax.training.devices import Devices
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.updates import compiled, fresh_state, lowered, step_numbers

_SAVED = "/jax/compilation_cache/compile_time_saved_sec"
_FAR = 1000  # steps from the first of one turn to the first of the next

Turn = Callable[[int], float]
"""Number of the turn → seconds of one step."""


def share_of_floor(row: Mapping[str, Any]) -> str:
    """The floor of a row of a table in percent of its seconds; nothing where no time passed."""
    return f"{row['floor'] / row['seconds']:.0%}" if row["seconds"] else ""


class Work(NamedTuple):
    """Operations, and bytes read and written, of one step on all devices."""

    flops: float
    bytes: float

    def beyond(self, *others: "Work") -> "Work":
        """What is not in others; the compiler may have saved something, but not below nothing."""
        return Work(*(max(mine - sum(theirs), 0.0) for mine, *theirs in zip(self, *others, strict=True)))


class Part(NamedTuple):
    """A part of the step, or all of it: seconds of one step in every run, and its work."""

    seconds: tuple[float, ...]
    work: Work

    def beyond(self, *others: "Part") -> "Part":
        """What is not in others, run by run; noise makes nothing negative."""
        every = zip(self.seconds, *(other.seconds for other in others), strict=True)
        seconds = tuple(max(mine - sum(theirs), 0.0) for mine, *theirs in every)
        return Part(seconds, self.work.beyond(*(other.work for other in others)))


class Memory(NamedTuple):
    """Bytes that the step takes on each device."""

    arguments: int  # weights, moments, averages; updated in place
    results: int  # what is written beside them
    temporary: int  # everything else, as XLA has planned it
    reached: int | None  # the most that the device has held by then, if it tells

    @property
    def total(self) -> int:
        """All that XLA has planned."""
        return self.arguments + self.results + self.temporary


class Peaks(NamedTuple):
    """What all devices together reach: operations of a matrix product and bytes of a pass over memory, a second."""

    flops: float
    bytes: float


class Steps:
    """Training as `fit` runs it, a turn at a time; ``compile_seconds`` are as if no program had been kept."""

    def __init__(self, training: Training):
        source, devices = training.source, training.devices
        self._training = training
        self._per_call = 1 if source.feed else training.several
        self._state = fresh_state(training.network, training.plan, devices, source.course)
        update, data = training.update(training.plan), self._data(0)
        build = partial(compiled, update, self._state, training.plan.pace, data, self._per_call, devices)
        self._advance, self.compile_seconds = _timed_compilation(build)
        self.first_loss: float | None = None  # of the very first batch, once there was a turn

    def __call__(self, turn: int) -> float:
        """A turn; the batch of its first step is read before the clock starts, those that follow are not."""
        first, count = turn * _FAR, self._training.several
        data = self._data(first)
        start = time.perf_counter()
        for done in range(first, first + count, self._per_call):
            self._state, trace = self._advance(self._state, done, self._per_call, data)
            data = self._data(done + 1)
            self.first_loss = float(trace[0, 0]) if self.first_loss is None else self.first_loss
        return (time.perf_counter() - start) / count

    def _data(self, step: int) -> Any:
        source = self._training.source
        return self._training.devices.divide(source.feed(step)) if source.feed else None


def _timed_compilation(build: Callable[[], Any]) -> tuple[Any, float]:
    """What ``build`` gives, and its seconds as if nothing had been compiled before."""
    seconds = []

    def add(event: str, duration_secs: float, **_: Any) -> None:
        if event == _SAVED:
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(add)
    try:
        start = time.perf_counter()
        built = build()
        seconds.append(time.perf_counter() - start)
    finally:
        jax.monitoring.unregister_event_duration_listener(add)
    return built, sum(seconds)


def seconds_of(
    call: Callable[[], Any], runs: int, calls: int, wait: Callable[[Any], Any] = jax.block_until_ready
) -> list[float]:
    """Seconds of a call in each of so many runs of ``calls`` in a row; one before them, which may compile, is none."""
    wait(call())
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        wait(result)
        seconds.append((time.perf_counter() - start) / calls)
    return seconds


def seconds_of_call(call: Callable[[], Any]) -> float:
    """Seconds that a call takes, which waits for its own end."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def pooled_seconds(pool: Executor, call: Callable[[int], Any], runs: int, calls: int) -> list[float]:
    """Seconds of a call, of its number, in each of so many runs of ``calls`` by all workers of a pool."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        list(pool.map(call, range(calls)))
        seconds.append((time.perf_counter() - start) / calls)
    return seconds


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median, ``seconds``, with the ``fastest`` and the ``slowest``."""
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def in_turns(calls: Mapping[str, Turn], runs: int) -> dict[str, tuple[float, ...]]:
    """Seconds of every call in every run; turn 0 of each does not count, as it pays for what comes once."""
    for call in calls.values():
        call(0)
    measured = [[call(turn) for call in calls.values()] for turn in range(1, runs + 1)]
    return dict(zip(calls, zip(*measured, strict=True), strict=True))


def measure_parts(training: Training, steps: Steps, runs: int) -> tuple[dict[str, Part], Memory]:
    """The parts of the step and the ``step`` itself, in the order in which they run, each so many times; and its
    memory.
    """
    plan, devices = training.plan, training.devices
    steps(0)
    reached = (devices.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
    programs, calls = _programs(training)
    turns = {name: _turns(training, call) for name, call in calls.items()}
    seconds = in_turns({**turns, "step": steps}, runs)
    works = {name: _work(program, devices.count * plan.accumulate) for name, program in programs.items()}
    step = _compiled_step(training, plan)
    with portable():  # XLA counts no work in calls of oneDNN
        works["step"] = _step_work(training, works)
    drawn, passed, both, whole = (Part(seconds[name], works[name]) for name in works)
    parts = {"generate": drawn, "forward": passed, "backward": both.beyond(passed)}
    parts |= {"update": whole.beyond(drawn, both), "step": whole}
    return parts, planned_memory(step, reached)


def step_memory(training: Training) -> Memory:
    """What XLA plans for the step."""
    return planned_memory(_compiled_step(training, training.plan))


def step_text(training: Training) -> str:
    """What XLA made of the step, as it writes it."""
    return _compiled_step(training, training.plan).as_text()


def planned_memory(step: Any, reached: int | None = None) -> Memory:
    """What XLA plans for a compiled step."""
    planned = step.memory_analysis()
    results = planned.output_size_in_bytes - planned.alias_size_in_bytes
    return Memory(planned.argument_size_in_bytes, results, planned.temp_size_in_bytes, reached)


def _programs(training: Training) -> tuple[dict[str, Any], dict[str, Callable[[int], Any]]]:
    """Generating, the forward pass, and both passes, each as XLA counts it; and a call of each, of a step's number."""
    network, plan, devices = training.network, training.plan, training.devices
    draw = devices.spread(training.source.make_batch, True, False)
    statistics = devices.place(network.weights)
    parameters = {name: statistics.pop(name) for name in network.parameters}

    def generate(done: jax.Array) -> tuple:
        return draw(jax.vmap(partial(sample_key, plan.seed))(step_numbers(plan, done)[: training.rows]), None)

    def loss_of(parameters: dict, statistics: dict, batch: tuple, key: jax.Array) -> tuple:
        images, labels = batch
        outputs, changed = network.train(statistics | parameters, images, key)
        return training.source.objective.loss(outputs, labels), changed

    made = _compile(generate, np.int32(0))
    arguments = (parameters, statistics, made(np.int32(0)), jax.random.key(0))
    both = jax.value_and_grad(loss_of, has_aux=True)
    forward, gradient = _compile(loss_of, *arguments), _compile(both, *arguments)
    return (
        {
            "generate": made,
            "forward": _to_count(loss_of, *arguments),
            "gradient": _to_count(both, *arguments),
        },
        {
            "generate": lambda step: made(np.int32(step)),
            "forward": lambda _: forward(*arguments),
            "gradient": lambda _: gradient(*arguments),
        },
    )


def _turns(training: Training, call: Callable[[int], Any]) -> Turn:
    """Turns of a call for one of the parts of a batch; its seconds are those of all of them."""

    def turn(number: int) -> float:
        start = time.perf_counter()
        for step in range(training.several):
            result = call(number * _FAR + step)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / training.several * training.plan.accumulate

    return turn


def _compile(function: Callable, *arguments: Any, **options: Any) -> Any:
    return jax.jit(function, **options).lower(*arguments).compile()


def _to_count(function: Callable, *arguments: Any) -> Any:
    """The program with XLA's own convolutions, whose work it counts."""
    with portable():
        return _compile(lambda *given: function(*given), *arguments)


def _compiled_step(training: Training, plan: TrainingPlan) -> Any:
    """One step, as `compiled` has it, to be asked and not to be run."""
    state = fresh_state(training.network, plan, training.devices, training.source.course)
    return lowered(training.update(plan), state, plan.pace, None, 1, training.devices).compile()


def _work(program: Any, times: float) -> Work:
    """The work of so many calls, as XLA counts it: of a loop, one round."""
    counted = program.cost_analysis() or {}
    return Work(times * counted.get("flops", 0.0), times * counted.get("bytes accessed", 0.0))


def _step_work(training: Training, works: Mapping[str, Work]) -> Work:
    """The work of the whole step; as a batch in parts may be a loop, of a step of one part and of the other parts."""
    plan, count = training.plan, training.devices.count
    if plan.accumulate == 1:
        return _work(_compiled_step(training, plan), count)
    single = dataclasses.replace(plan, batch_size=training.rows, accumulate=1)
    first, others = _work(_compiled_step(training, single), count), 1 - 1 / plan.accumulate
    every = zip(first, works["generate"], works["gradient"], strict=True)
    return Work(*(one + others * (drawn + both) for one, drawn, both in every))


def loss_memory(training: Training) -> dict[str, int]:
    """Bytes of the logits on one device, and what the loss and its gradient by them take beside both."""
    network, objective = training.network, training.source.objective
    keys = jax.random.split(jax.random.key(0), training.rows // training.devices.count)
    images, labels = jax.eval_shape(training.source.make_batch, keys, None)
    outputs, _ = jax.eval_shape(network.train, network.weights, images, keys[0])
    planned = _compile(jax.value_and_grad(objective.loss), outputs, labels).memory_analysis()
    return {
        "channels": objective.channels,
        "logits_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(outputs)),
        "temporary_bytes": planned.temp_size_in_bytes,
    }


def measure_peaks(devices: Devices, dtype: str, runs: int) -> Peaks:
    """The best of ``runs`` of a large matrix product in ``dtype``, and of a pass that adds 1 to 512 MiB in place."""
    edge, calls = (2048, 2) if jax.default_backend() == "cpu" else (8192, 20)
    square = jax.random.normal(jax.random.key(0), (devices.count, edge, edge)) / edge**0.5
    square = jax.device_put(square.astype(dtype), devices.by_rows)
    large = jax.device_put(jnp.zeros((devices.count, 2**27), jnp.float32), devices.by_rows)
    multiply = jax.jit(devices.spread(lambda x, y: (x[0] @ y[0])[None], True, True))
    add = jax.jit(devices.spread(lambda x: x + 1, True), donate_argnums=0)

    def rate(work: float, call: Callable, x: jax.Array) -> float:
        def on() -> jax.Array:
            nonlocal x
            x = call(x)
            return x

        return work / min(seconds_of(on, runs, calls))

    operations, moved = 2.0 * devices.count * edge**3, 2.0 * large.nbytes
    return Peaks(rate(operations, lambda x: multiply(x, square), square), rate(moved, add, large))
