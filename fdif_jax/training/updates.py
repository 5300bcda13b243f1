"""The update: one step as a pure function of the state and its number, compiled for the devices at hand."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from fdif_jax.errors import FdifError
from fdif_jax.keys import sample_key, stream
from fdif_jax.training.devices import Devices
from fdif_jax.training.network import Network, State, Weights
from fdif_jax.training.plan import Pace, TrainingPlan

Batch = tuple[
    Float[Array, "B ... C"], Any
]  # images, and what is learnt of them: labels, or a tree with a row a sample
MakeBatch = Callable[[jax.Array, Any], Batch]
Loss = Callable[[Any, Array], Float[Array, ""]]
Update = Callable[[State, Array, Pace, Any], tuple[State, Float[Array, "2"]]]
Differentiate = Callable[[Weights, Weights, Array, Array, Any], tuple[Array, Weights, Weights, Any]]
"""Parameters, statistics, samples' keys, the network's key, data → loss, gradient, new statistics, what a course
counts."""


class Course(Protocol):
    """A curriculum: what is drawn follows what was learnt, by pure functions."""

    def begin(self) -> Any:
        """The competence before the first step, a pytree of small arrays."""

    def sampling(self, competence: Any) -> Any:
        """How the next batch is drawn: the ``data`` of ``make_batch``."""

    def count(self, outputs: Any, labels: Any) -> Any:
        """What a batch says of the learner: a pytree of whole numbers, which are summed over the parts of a batch."""

    def learn(self, competence: Any, counts: Any) -> Any:
        """The competence after a step."""

    def measured(self, competence: Any) -> Mapping[str, float]:
        """What a person is shown of it."""


def fresh_state(
    network: Network, plan: TrainingPlan, devices: Devices, course: Course | None = None
) -> State:
    """The state before the first step, on the devices; the network's own weights stay as they are."""
    # As one program: of each array by itself they take longer than the rest of a start.
    moments = jax.jit(plan.optimiser(network.rates).init)({n: network.weights[n] for n in network.parameters})
    average = network.weights if plan.ema else {}
    return devices.place(State(network.weights, moments, average, course.begin() if course else ()))


def step_numbers(plan: TrainingPlan, done: int | Array) -> Array:
    """The numbers of the samples of the step after ``done`` steps, uint32 ``(batch_size,)``."""
    return jnp.uint32(done) * jnp.uint32(plan.batch_size) + jnp.arange(plan.batch_size, dtype=jnp.uint32)


def update_of(
    network: Network,
    make_batch: MakeBatch,
    plan: TrainingPlan,
    loss: Loss,
    devices: Devices,
    *,
    fed: bool = False,
    course: Course | None = None,
) -> Update:
    """One step as a pure function: state, number of steps done, pace, data → state, (loss, norm of the gradient).

    The plan's own pace is not asked: runs that differ in it alone are one compiled program.

    Args:
        network: what is trained.
        make_batch: as in `fit`; every device makes its own rows.
        plan: the updates.
        loss: as in `fit`.
        devices: where.
        fed: data has a row for every sample of the batch.
        course: says how each batch is drawn; data is not asked then.

    Raises:
        FdifError: a course, and batches that are fed.
    """
    if course and fed:
        raise FdifError("a curriculum changes how scenes are drawn in the step; leave out feed")
    draw = devices.spread(make_batch, True, fed)

    def loss_of(parameters: Weights, statistics: Weights, batch: Batch, key: Array) -> tuple[Array, tuple]:
        images, labels = batch
        outputs, changed = network.train(statistics | parameters, images, key)
        counts = course.count(outputs, labels) if course else None
        return loss(outputs, labels), (statistics | changed, counts)

    def differentiate(parameters: Weights, statistics: Weights, keys: Array, key: Array, data: Any) -> tuple:
        (value, (statistics, counts)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            parameters, statistics, draw(keys, data), key
        )
        return value, gradient, statistics, counts

    gradient_of = differentiate if plan.accumulate == 1 else _in_parts(differentiate, plan.accumulate, fed)

    def update(state: State, done: Array, pace: Pace, data: Any) -> tuple[State, Float[Array, "2"]]:
        keys = jax.vmap(partial(sample_key, pace.seed))(step_numbers(plan, done))
        key = jax.random.fold_in(stream(pace.seed, "network"), done)
        parameters = {name: state.weights[name] for name in network.parameters}
        statistics = {name: state.weights[name] for name in state.weights.keys() - parameters.keys()}
        data = course.sampling(state.competence) if course else data
        value, gradient, statistics, counts = gradient_of(parameters, statistics, keys, key, data)
        optimiser = plan.optimiser(network.rates, pace)
        changes, moments = optimiser.update(gradient, state.moments, parameters)
        new = statistics | optax.apply_updates(parameters, changes)
        trace = jnp.stack([value, optax.tree.norm(gradient)])
        competence = course.learn(state.competence, counts) if course else state.competence
        return State(new, moments, _average(plan.ema, done, state.average, new), competence), trace

    return update


def _in_parts(differentiate: Differentiate, parts: int, fed: bool) -> Differentiate:
    """What ``differentiate`` gives, of the parts of a batch one after another; means over the parts, sums of counts."""

    def split(array: Array) -> Array:
        return array.reshape(parts, -1, *array.shape[1:])

    def accumulate(parameters: Weights, statistics: Weights, keys: Array, key: Array, data: Any) -> tuple:
        def add_part(carry: tuple, part: tuple) -> tuple[tuple, Any]:
            # The barrier keeps XLA from working on several parts at once, which would need the memory of all.
            now, (total, gradient, statistics) = lax.optimization_barrier((parameters, carry))
            keys, key, rows = part
            value, change, statistics, counts = differentiate(
                now, statistics, keys, key, rows if fed else data
            )
            return (total + value, jax.tree.map(jnp.add, gradient, change), statistics), counts

        empty = (jnp.float32(0), jax.tree.map(jnp.zeros_like, parameters), statistics)
        rows = jax.tree.map(split, data) if fed else None
        # Unrolled on a CPU, which runs what is in a loop on one core.
        unroll = jax.default_backend() == "cpu"
        every = (split(keys), jax.random.split(key, parts), rows)
        (total, gradient, statistics), counts = lax.scan(add_part, empty, every, unroll=unroll)
        counts = jax.tree.map(lambda of_parts: of_parts.sum(0), counts)
        return total / parts, jax.tree.map(lambda sum_: sum_ / parts, gradient), statistics, counts

    return accumulate


def _average(keep: float, done: Array, average: Weights, new: Weights) -> Weights:
    """The moving average after a step; it keeps less at first, when it knows little."""
    if not average:
        return average
    kept = jnp.minimum(keep, (1.0 + done) / (10.0 + done))

    def moved(old: Array, value: Array) -> Array:
        return kept * old + (1 - kept) * value if jnp.issubdtype(value.dtype, jnp.floating) else value

    return {name: moved(average[name], value) for name, value in new.items()}


def lowered(
    update: Update, state: State, pace: Pace, data: Any, per_call: int, devices: Devices
) -> jax.stages.Lowered:
    """The program of a call, traced for the devices; see `compiled`. Arrays may be abstract."""
    placed = (jax.tree.map(lambda a: a.sharding, state), devices.copied)
    jit = partial(jax.jit, donate_argnums=0, out_shardings=placed)
    zero = np.int32(0)
    if per_call == 1:
        return jit(update).lower(state, zero, pace, data)

    def several(state: State, done: Array, count: Array, pace: Pace, data: Any) -> tuple[State, Array]:
        def body(i: Array, carry: tuple) -> tuple:
            state, traces = carry
            state, trace = update(state, done + i, pace, data)
            return state, traces.at[i].set(trace)

        return lax.fori_loop(0, count, body, (state, jnp.zeros((per_call, 2))))

    return jit(several).lower(state, zero, zero, pace, data)


def compiled(
    update: Update, state: State, pace: Pace, data: Any, per_call: int, devices: Devices
) -> Callable:
    """``advance(state, done, count, data) -> state, trace (count, 2)``, compiled; ``state`` is donated.

    The number of steps is an argument of one compiled loop, so that where a run stops, validates or saves
    changes no bit.
    """
    program = lowered(update, state, pace, data, per_call, devices).compile()

    def advance_one(state: State, done: int, count: int, data: Any) -> tuple[State, np.ndarray]:
        state, trace = program(state, np.int32(done), pace, data)
        return state, np.asarray(trace)[None]

    def advance(state: State, done: int, count: int, data: Any) -> tuple[State, np.ndarray]:
        state, traces = program(state, np.int32(done), np.int32(count), pace, data)
        return state, np.asarray(traces)[:count]

    return advance_one if per_call == 1 else advance
