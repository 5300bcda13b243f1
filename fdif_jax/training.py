"""Training: one jitted function from a step's number to updated weights, and the loop that calls it.

A step draws its batch inside the jitted function, from a key that is a function of the seed and the step's
number alone. So nothing is fed from the host, and a resumed run equals an uninterrupted one to the bit on a
given backend.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Integer

from fdif_jax.augmentation import normalise, random_intensity
from fdif_jax.compiler import World
from fdif_jax.errors import FdifError, unknown
from fdif_jax.losses import LOSSES, deeply_supervised, dice_per_class, mean_dice
from fdif_jax.runs import LEARNT, Checkpoints, Run, Weights, weights

__all__ = [
    "Network",
    "Plan",
    "SyntheticValidation",
    "fit",
    "functional",
    "step_keys",
    "stream",
    "synthetic_batch",
]

Apply = Callable[[Weights, Float[Array, "B D H W C"]], Float[Array, "B D H W O"]]
Batch = tuple[Float[Array, "B D H W C"], Integer[Array, "B D H W"]]
State = tuple[Weights, optax.OptState]

# XLA runs convolutions inside a loop on one core of a CPU (3.4 times slower on two cores), so there a call is
# one step; on an accelerator one call does several, and the host is asked nothing in between.
_STEPS_PER_CALL = 10
_STREAMS = ("training", "validation", "weights", "cases")


@dataclass(frozen=True)
class Plan:
    """What decides the updates, beside the batches.

    Attributes:
        steps: number of updates; the learning rate reaches 0 there.
        seed: of everything drawn.
        batch_size: samples an update.
        loss: ``dice_ce`` or ``ce``.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, on all weights.
        warmup: steps of linear warm-up from 0; cosine decay follows.
        clip: greatest global norm of the gradient; 0 for no clipping.

    Raises:
        FdifError: a value is impossible.
    """

    steps: int
    seed: int = 0
    batch_size: int = 2
    loss: str = "dice_ce"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    warmup: int = 500
    clip: float = 0.0

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if not 0 <= self.seed < 2**32:
            raise FdifError(f"seed must be from 0 to 4294967295, not {self.seed}")
        for name in ("steps", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise FdifError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip"):
            if not getattr(self, name) >= 0:
                raise FdifError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.warmup >= self.steps:
            raise FdifError(f"warmup ({self.warmup}) must be shorter than the {self.steps} steps of the run")

    def optimiser(self) -> optax.GradientTransformation:
        """AdamW with linear warm-up, then cosine decay to 0 (Loshchilov & Hutter 2019, arXiv 1711.05101)."""
        rate = optax.warmup_cosine_decay_schedule(0, self.learning_rate, self.warmup, self.steps)
        clip = optax.clip_by_global_norm(self.clip) if self.clip else optax.identity()
        return optax.chain(clip, optax.adamw(rate, weight_decay=self.weight_decay))


def stream(seed: int, name: str) -> jax.Array:
    """The key of one of the independent random streams of a seed: training, validation, weights or cases."""
    return jax.random.fold_in(jax.random.key(np.uint32(seed)), _STREAMS.index(name))


def step_keys(seed: int, done: int | Array) -> tuple[jax.Array, jax.Array]:
    """The keys of the step after ``done`` steps: of its batch, and of what its network omits at random."""
    batch, network = jax.random.split(jax.random.fold_in(stream(seed, "training"), done))
    return batch, network


class Network(NamedTuple):
    """A network as pure functions of its weights by name.

    Attributes:
        weights: what it has learnt: parameters, and the running statistics of batch norms.
        parameters: the names of those that updates change.
        apply: ``(weights, images) -> logits`` in inference; the finest ones if there are several.
        train: ``(weights, images, key) -> logits, statistics`` in training: what is omitted at random is drawn from
            ``key``; logits as the network gives them, a list with deep supervision; the new running statistics.
    """

    weights: Weights
    parameters: tuple[str, ...]
    apply: Apply
    train: Callable[[Weights, Array, Array], tuple[Any, Weights]]


def functional(model: nnx.Module) -> Network:
    """The pure functions of a network; the network itself stays as it is."""
    graph, learnt, *rest = nnx.split(model, LEARNT, ...)
    flat = [(path, ".".join(map(str, path)), p) for path, p in nnx.to_flat_state(learnt)]

    def merged(named: Weights) -> nnx.Module:
        state = nnx.from_flat_state([(path, p.replace(named[name])) for path, name, p in flat])
        return nnx.merge(graph, state, *rest)

    def apply(named: Weights, images: Array) -> Array:
        logits = merged(named)(images)
        return logits[0] if isinstance(logits, list) else logits

    def train(named: Weights, images: Array, key: Array) -> tuple[Any, Weights]:
        network = merged(named)
        return network(images, key=key), weights(network, nnx.BatchStat)

    return Network(weights(model), tuple(weights(model, nnx.Param)), apply, train)


def synthetic_batch(
    program: World, batch_size: int, *, augment: bool = False
) -> Callable[[jax.Array, None], Batch]:
    """``make_batch`` for `fit` from a compiled recipe: scenes drawn and rendered on the device.

    Args:
        program: the compiled recipe.
        batch_size: scenes a batch.
        augment: give the images random looks (`random_intensity`).
    """

    def make_batch(key: jax.Array, _: None) -> Batch:
        scene_key, look_key = jax.random.split(key)
        images, labels = program.batch(jax.random.split(scene_key, batch_size))
        images = normalise(images)
        if augment:
            images = random_intensity(look_key, images)
        return images[..., None], labels

    return make_batch


class SyntheticValidation:
    """Mean foreground Dice on fixed synthetic volumes, of a random stream that training never draws from."""

    def __init__(self, program: World, apply: Apply, seed: int, samples: int):
        # A seed of their own, so that the compiled program is the one that also writes datasets.
        own = int(jax.random.bits(stream(seed, "validation")))
        self.volumes = [program.sample_at(own, i) for i in range(samples)]

        # One volume a call rather than a loop over all, for the reason at `_STEPS_PER_CALL`.
        @jax.jit
        def predict(weights: Weights, image: Array) -> Array:
            return apply(weights, normalise(image[None])[..., None])[0].argmax(-1)

        score = jax.jit(partial(dice_per_class, num_classes=program.num_classes + 1))
        self._predict, self._score = predict, score

    def __call__(self, weights: Weights) -> float:
        """`mean_dice` over the volumes."""
        rows = [self._score(self._predict(weights, image), label) for image, label in self.volumes]
        return float(mean_dice(jnp.stack(rows)))

    def example(self, weights: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, label and prediction of the first volume."""
        image, label = self.volumes[0]
        return np.asarray(image), np.asarray(label), np.asarray(self._predict(weights, image))


def _no_report(step: int, measurement: Mapping[str, float]) -> None:
    pass


def fit(
    network: Network,
    make_batch: Callable[[jax.Array, Any], Batch],
    data: Any,
    plan: Plan,
    run: Run,
    *,
    validate: Callable[[Weights], float] | None = None,
    validate_every: int = 0,
    checkpoint_every: int = 0,
    log_every: int = 10,
    report: Callable[[int, Mapping[str, float]], None] = _no_report,
) -> Weights:
    """Train from the newest checkpoint of ``run``, or from the network's own weights, to the last step of ``plan``.

    Measurements go to the run's history, checkpoints to the run: every ``checkpoint_every`` steps, where the
    validation Dice is the best so far, at the end, and when Ctrl-C or SIGTERM asks to stop.

    Args:
        network: as `functional` gives it; its weights, where to start, are left as they are.
        make_batch: ``(key, data) -> (images, labels)``, jittable.
        data: arrays that ``make_batch`` reads on the device, or None.
        plan: the updates.
        run: an opened run (`open_run`).
        validate: weights → mean foreground Dice, called every ``validate_every`` steps and at the end.
        validate_every: 0 for never.
        checkpoint_every: 0 for only as said above.
        log_every: steps that one recorded loss is the mean of.
        report: called with the step and its measurements after every call of the jitted function.

    Returns:
        The weights after the last step.

    Raises:
        FdifError: the loss or its gradient is not finite, or the run's checkpoint is of another network.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    optimiser = plan.optimiser()
    per_call = 1 if jax.default_backend() == "cpu" else min(_STEPS_PER_CALL, log_every)
    milestones = [every for every in (log_every, validate_every, checkpoint_every) if every]

    with run.checkpoints() as checkpoints, _stop_requests() as stopped:
        fresh = jax.tree.map(
            jnp.copy, network.weights
        )  # the loop donates its state, and the caller keeps theirs
        moments = optimiser.init({name: fresh[name] for name in network.parameters})
        done, state = run.resume(checkpoints, (fresh, moments))
        if done == plan.steps:
            return state[0]
        update = _update(network, make_batch, plan, optimiser)
        advance = _compiled(update, state, data, per_call)
        losses: list[float] = []
        seconds = 0.0
        while done < plan.steps:
            start, first = time.perf_counter(), done
            stop = min(plan.steps, done + per_call, *(done - done % every + every for every in milestones))
            state, trace = advance(state, done, stop - done, data)
            _check_finite(trace, first, run, checkpoints)
            done, seconds = stop, seconds + time.perf_counter() - start
            losses += trace[:, 0].tolist()
            measured = {"loss": losses[-1]}

            last = done == plan.steps
            dice, best = None, False
            if validate and validate_every and (done % validate_every == 0 or last):
                dice = validate(state[0])
                best = dice > run.best_dice()
            save = last or best or bool(stopped) or (checkpoint_every and done % checkpoint_every == 0)
            if save or dice is not None or done % log_every == 0:
                speed = plan.batch_size * len(losses) / seconds
                measured = {"loss": float(np.mean(losses)), "volumes_per_second": round(speed, 3)}
                measured |= {} if dice is None or np.isnan(dice) else {"dice": dice}
                run.record(step=done, **measured)
                losses, seconds = [], 0.0
            if save:
                checkpoints.save(done, state, measured.get("dice"))
            report(done, measured)
            if stopped and not last:
                raise KeyboardInterrupt
    return state[0]


def _update(network: Network, make_batch: Callable, plan: Plan, optimiser: optax.GradientTransformation):
    """One step as a pure function: state, number of steps done, data → state, (loss, norm of the
    gradient)."""
    criterion = deeply_supervised(LOSSES[plan.loss])

    def update(state: State, done: Array, data: Any) -> tuple[State, Float[Array, "2"]]:
        weights, moments = state
        batch_key, network_key = step_keys(plan.seed, done)
        images, labels = make_batch(batch_key, data)

        def loss_of(parameters: Weights) -> tuple[Array, Weights]:
            logits, statistics = network.train(weights | parameters, images, network_key)
            return criterion(logits, labels), statistics

        parameters = {name: weights[name] for name in network.parameters}
        (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        changes, moments = optimiser.update(gradient, moments, parameters)
        trace = jnp.stack([loss, optax.tree.norm(gradient)])
        return (weights | optax.apply_updates(parameters, changes) | statistics, moments), trace

    return update


def _compiled(update: Callable, state: State, data: Any, per_call: int):
    """``advance(state, done, count, data) -> state, trace (count, 2)``, compiled; ``state`` is donated.

    The number of steps is an argument of one compiled loop, so that where a run stops, validates or saves
    changes no bit.
    """
    zero = np.int32(0)
    if per_call == 1:
        step = jax.jit(update, donate_argnums=0).lower(state, zero, data).compile()

        def advance_one(state, done, count, data):
            state, trace = step(state, np.int32(done), data)
            return state, np.asarray(trace)[None]

        return advance_one

    @partial(jax.jit, donate_argnums=0)
    def several(state, done, count, data):
        def body(i, carry):
            state, traces = carry
            state, trace = update(state, done + i, data)
            return state, traces.at[i].set(trace)

        return lax.fori_loop(0, count, body, (state, jnp.zeros((per_call, 2))))

    loop = several.lower(state, zero, zero, data).compile()

    def advance(state, done, count, data):
        state, traces = loop(state, np.int32(done), np.int32(count), data)
        return state, np.asarray(traces)[:count]

    return advance


def _check_finite(trace: np.ndarray, first: int, run: Run, checkpoints: Checkpoints) -> None:
    bad = np.flatnonzero(~np.isfinite(trace).all(axis=1))
    if bad.size:
        loss, norm = trace[bad[0]]
        kept = checkpoints.latest()
        where = "there is no checkpoint yet" if kept is None else f"the last good checkpoint is step {kept}"
        raise FdifError(
            f"{run.path}: at step {first + 1 + bad[0]} the loss is {loss:g} and its gradient's norm {norm:g}; "
            f"{where}. Begin a new run with a lower learning rate or with clipping"
        )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Notes Ctrl-C and SIGTERM in a list, so that the step under way ends and is saved; a second one acts as
    usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number, frame):
        caught.append(number)
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
