"""The training loop: from a run's newest checkpoint to its last step.

A step draws its batch inside the jitted function: sample n of the run's seed is a function of the two alone. So
nothing is fed from the host, a resumed run equals an uninterrupted one to the bit on the same devices, and any
number of devices sees the same samples.
"""

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from fdif_jax.errors import FdifError
from fdif_jax.signals import handled
from fdif_jax.training.checkpoints import Checkpoints
from fdif_jax.training.devices import Devices
from fdif_jax.training.network import Network, State, Weights
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.processes import any_process
from fdif_jax.training.runs import Run
from fdif_jax.training.updates import Course, Loss, MakeBatch, compiled, fresh_state, update_of

# XLA runs convolutions inside a loop on one core of a CPU (3.4 times slower on two cores), so there a call is
# one step; on an accelerator one call does several, and the host is asked nothing in between.
STEPS_PER_CALL = 10


def fit(
    network: Network,
    make_batch: MakeBatch,
    data: Any,
    plan: TrainingPlan,
    run: Run,
    *,
    loss: Loss,
    feed: Callable[[int], Any] | None = None,
    course: Course | None = None,
    devices: Devices | None = None,
    validate: Callable[[Weights, int], Mapping[str, float]] | None = None,
    validate_every: int = 0,
    checkpoint_every: int = 0,
    keep_every: int = 0,
    patience: int = 0,
    log_every: int = 10,
    report: Callable[[int, Mapping[str, float]], None] = lambda step, measurement: None,
) -> Weights:
    """Train from the newest checkpoint of ``run``, or from the network's own weights, to the last step of ``plan``.

    Measurements go to the run's history, checkpoints to the run: every ``checkpoint_every`` steps, where the
    validation's score is the best so far, at the end, and when Ctrl-C or SIGTERM asks to stop.

    Args:
        network: as `functional` gives it; its weights, where to start, are left as they are.
        make_batch: ``(keys, data) -> (images, labels)``, jittable; a row for every sample's key, which depends on no
            other row.
        data: arrays that ``make_batch`` reads on the devices, the same for every sample, or None.
        plan: the updates.
        run: an opened run (`open_run`).
        loss: what the network gives in training, and labels → what is minimised.
        feed: step (from 0) → host arrays with a row for every sample of this process, which are then ``data``.
        course: a curriculum (`SceneCourse`), which then says what ``data`` is.
        devices: where to train; all of this process's if not given.
        validate: weights and step → measurements, called every ``validate_every`` steps and at the end; ``score``
            among them ranks the checkpoints.
        validate_every: 0 for never.
        checkpoint_every: 0 for only as said above.
        keep_every: checkpoints at multiples of so many steps are kept for good; 0 for none.
        patience: stop early, after so many validations in a row that were no better than the best before; 0 for never.
        log_every: steps that one recorded loss is the mean of.
        report: called with the step and its measurements after every call of the jitted function.

    Returns:
        The weights after the last step; their average, where the plan keeps one.

    Raises:
        FdifError: the loss or its gradient is not finite or has exploded, the batch cannot be divided over the
            devices, or the run's checkpoint is of another network.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    devices = devices or Devices()
    devices.check_batch(plan.batch_size, plan.accumulate)
    intervals = (log_every, validate_every, checkpoint_every, keep_every)
    steps = _Steps(network, plan, devices, intervals, course)
    with run.checkpoints(keep_every=keep_every) as checkpoints, _stop_requests() as stopped:
        loop = _Loop(steps, run, checkpoints, stopped, validate, patience, report)
        return loop.train(make_batch, data, loss, feed)


class Rehearsal(NamedTuple):
    """What the first steps of a training took.

    Attributes:
        compiling: seconds until the first call had ended.
        step: seconds of a step after that.
        state_bytes: of what a checkpoint keeps.
    """

    compiling: float
    step: float
    state_bytes: int


def rehearse(
    network: Network,
    make_batch: MakeBatch,
    data: Any,
    plan: TrainingPlan,
    *,
    loss: Loss,
    feed: Callable[[int], Any] | None = None,
    course: Course | None = None,
    devices: Devices | None = None,
    seconds: float = 3.0,
) -> Rehearsal:
    """Do the first steps of a training for some seconds, as `fit` does them, and keep nothing; arguments are its."""
    devices = devices or Devices()
    state = fresh_state(network, plan, devices, course)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    begun = time.perf_counter()
    endless = dataclasses.replace(plan, steps=max(plan.steps, 1_000_000))  # a short one is measured, too
    calls = _Steps(network, endless, devices, (STEPS_PER_CALL,) * 4, course).calls(
        0, state, make_batch, data, loss, feed
    )
    next(calls)
    compiling = time.perf_counter() - begun
    steps, took = 0, 0.0
    for _, _, trace, more in calls:
        steps, took = steps + len(trace), took + more
        if took > seconds:
            break
    return Rehearsal(compiling, took / steps, state_bytes)


def _due(done: int, *intervals: int) -> bool:
    """Whether one of these numbers of steps is over after so many; 0 never is."""
    return any(done % every == 0 for every in intervals if every)


@dataclasses.dataclass
class _Steps:
    """The steps of a training, from call to call of the jitted function.

    ``intervals`` are the steps between two measurements, validations, checkpoints, and checkpoints that are kept.
    """

    network: Network
    plan: TrainingPlan
    devices: Devices
    intervals: tuple[int, int, int, int]
    course: Course | None

    def calls(
        self,
        done: int,
        state: State,
        make_batch: MakeBatch,
        data: Any,
        loss: Loss,
        feed: Callable[[int], Any] | None,
    ) -> Iterator[tuple[int, State, np.ndarray, float]]:
        """The calls of the jitted function: steps done, state, a row of loss and norm for every step, seconds."""
        plan, devices = self.plan, self.devices
        one_by_one = feed is not None or jax.default_backend() == "cpu"
        per_call = 1 if one_by_one else min(STEPS_PER_CALL, self.intervals[0])
        fed = done
        data = devices.divide(feed(done)) if feed else devices.copy_to_all(data)
        update = update_of(
            self.network, make_batch, plan, loss, devices, fed=feed is not None, course=self.course
        )
        advance = compiled(update, state, plan.pace, data, per_call, devices)
        while done < plan.steps:
            start = time.perf_counter()
            milestones = (done - done % every + every for every in self.intervals if every)
            stop = min(plan.steps, done + per_call, *milestones)
            if feed and done != fed:
                data, fed = devices.divide(feed(done)), done
            state, trace = advance(state, done, stop - done, data)
            done = stop
            yield done, state, trace, time.perf_counter() - start


@dataclasses.dataclass
class _Loop:
    """What stays the same from step to step; as in `fit`, and a list that says when to stop."""

    steps: _Steps
    run: Run
    checkpoints: Checkpoints
    stopped: list[int]
    validate: Callable[[Weights, int], Mapping[str, float]] | None
    patience: int
    report: Callable[[int, Mapping[str, float]], None]

    def train(
        self, make_batch: MakeBatch, data: Any, loss: Loss, feed: Callable[[int], Any] | None
    ) -> Weights:
        """From the newest checkpoint to the last step; see `fit`."""
        steps, run = self.steps, self.run
        plan = steps.plan
        log_every, validate_every, *saves_every = steps.intervals
        fresh = fresh_state(steps.network, plan, steps.devices, steps.course)
        done, state = run.resume(self.checkpoints, fresh)
        if done == plan.steps or _no_better(run, self.patience):
            self.report(done, run.history[-1] if run.history else {})
            return state.result
        losses: list[float] = []
        seconds = 0.0
        calls = steps.calls(done, state, make_batch, data, loss, feed)
        for done, state, trace, took in calls:
            _check_trace(trace, done - len(trace), plan, run, self.checkpoints)
            losses, seconds = losses + trace[:, 0].tolist(), seconds + took
            measured = {"loss": losses[-1]}
            last = done == plan.steps
            asked = jax.process_count() == 1 or last or _due(done, *steps.intervals)
            stopping = asked and any_process(bool(self.stopped))
            validated: Mapping[str, float] = {}
            if self.validate and validate_every and (last or done % validate_every == 0):
                validated = self.validate(state.result, done)
            best = bool(validated) and validated["score"] > run.best()
            enough = bool(validated) and not best and _no_better(run, self.patience, now=1)
            save = last or best or stopping or enough or _due(done, *saves_every)
            if save or validated or done % log_every == 0:
                measured = self._measured(done, losses, seconds, state) | {
                    name: value for name, value in validated.items() if not np.isnan(value)
                }
                run.record(step=done, **measured)
                losses, seconds = [], 0.0
            if save:
                self.checkpoints.save(done, state, measured.get("score"))
            self.report(done, measured)
            if stopping and not last:
                raise KeyboardInterrupt
            if enough:
                break
        return state.result

    def _measured(self, done: int, losses: Sequence[float], seconds: float, state: State) -> dict[str, float]:
        course, plan = self.steps.course, self.steps.plan
        shown = course.measured(jax.tree.map(np.asarray, state.competence)) if course else {}
        return {
            "loss": float(np.mean(losses)),
            "volumes_per_second": round(plan.batch_size * len(losses) / seconds, 3),
            "learning_rate": float(plan.pace.rate(done - 1)),
            **shown,
        }


def _no_better(run: Run, patience: int, now: int = 0) -> bool:
    """Whether the last ``patience`` validations, ``now`` of which is not recorded yet, were no better than the best."""
    scores = [m["score"] for m in run.history if "score" in m]
    since = len(scores) - 1 - int(np.argmax(scores)) if scores else 0
    return 0 < patience <= since + now


def _check_trace(
    trace: np.ndarray, first: int, plan: TrainingPlan, run: Run, checkpoints: Checkpoints
) -> None:
    """Raise FdifError if the loss or its gradient is not finite, or the loss has exploded, and say where."""
    bad = np.flatnonzero(~np.isfinite(trace).all(axis=1) | (trace[:, 0] > plan.max_loss))
    if not bad.size:
        return
    done = first + int(bad[0])
    loss, norm = trace[bad[0]]
    kept = checkpoints.latest()
    where = "there is no checkpoint yet" if kept is None else f"the last good checkpoint is step {kept}"
    samples = f"{done * plan.batch_size} to {(done + 1) * plan.batch_size - 1} of seed {plan.seed}"
    raise FdifError(
        f"{run.path}: at step {done + 1}, on samples {samples}, the loss is {loss:g} and its gradient's norm "
        f"{norm:g}; {where}. Begin a new run with a lower learning rate or with clipping"
    )


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Notes Ctrl-C and SIGTERM in a list, so that the step under way ends and is saved; a second one acts as
    usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number, frame):
        caught.append(number)
        signal.signal(number, previous[number])

    with handled(note, signal.SIGINT, signal.SIGTERM) as previous:
        yield caught
