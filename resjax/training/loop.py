"""The training loop: it dispatches several steps at a time and writes their results.

The host waits for the device only to save a checkpoint (and, with many hosts, to agree on a stop): while the
device runs one dispatch, the host writes the results of the previous one and prepares the next batches.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from resjax.training.checkpoint import Checkpoints
from resjax.training.devices import Devices, any_process
from resjax.training.diagnosis import first_nonfinite
from resjax.training.experiment import Experiment, Plan
from resjax.training.feed import Evaluation, Feed
from resjax.training.step import Batch, Metrics, Teacher, TrainState
from resjax.workdir.stopping import StopRequest, phase
from resjax.workdir.writers import Writer, read_records

T = TypeVar("T")


def run(
    experiment: Experiment,
    devices: Devices,
    checkpoints: Checkpoints,
    writer: Writer,
    stop: StopRequest,
    teacher: Teacher | None = None,
) -> TrainState:
    """Trains from the newest checkpoint or the initial state to the end of the plan; returns the last state.

    ``teacher`` has its arrays on every device.

    Raises:
      FloatingPointError: a step was not finite; the state before it is saved.
      Stopped: ``stop`` was requested; the state is saved.
    """
    config, task, plan = experiment.config, experiment.task, experiment.plan
    step = checkpoints.newest or 0
    several = jax.process_count() > 1
    evaluates = step == 0 or _lacks_evaluation(step, plan, checkpoints)
    if step >= plan.total and not evaluates:
        writer.say(
            f"nothing to do: the newest checkpoint is of step {step}, and the last step is {plan.total}"
        )
        return checkpoints.restore(devices.abstract(experiment.state_shapes))
    evaluate = Evaluation(task, experiment.dataset, devices, config.eval.batch_size)
    if step >= plan.total:
        with phase("the last state was evaluated"):
            state = checkpoints.restore(devices.abstract(experiment.state_shapes))
            writer.write(experiment.record(step, evaluate(state)))
        return state
    feed = Feed(config, experiment.dataset, devices, step)
    reports = _Reports(experiment, feed, writer, checkpoints, teacher)

    def next_dispatch() -> tuple[int, Batch]:
        end = min(plan.next_event(step), step + config.train.steps_per_dispatch)
        return end, feed.batches(step, end - step)

    def unless_stopped(work: Callable[[], T]) -> T | None:
        # Several processes stop in the same step only, so there all work is completed.
        return work() if several else stop.interruptible(work)

    kept = f"the run is at step {step} of {plan.total}, where the same command continues"
    with phase("the first batches were read", kept):
        end, batches = next_dispatch()
    program = devices.train_program(task)
    with phase("the training was compiled", kept):
        state, evaluation, train_steps = prepare(
            program,
            experiment,
            devices,
            checkpoints,
            evaluate if evaluates else None,
            (feed.images, batches),
            teacher,
        )
    found = _Found(step, step, evaluation=evaluation)

    with stop.deferred(agreed=several):
        while step < plan.total and not _stops(stop, step, plan):
            start, count = jnp.int32(step), jnp.int32(end - step)
            state, metrics = train_steps(state, feed.images, batches, start, count, teacher)
            reports.write(found, state)
            evaluation = None
            evaluates = end % plan.evaluate == 0 or end == plan.total
            if evaluates:
                evaluation = unless_stopped(functools.partial(evaluate, state))
            found = _Found(step, end, metrics, evaluation)
            step = end
            if step % plan.save == 0 and step < plan.total:
                # Records are written first, so a run that resumes here need not recompute them.
                reports.write(found, state, saves=True)
                found = _Found(step, step)
                checkpoints.save(state)
            if step < plan.total:
                if (dispatch := unless_stopped(next_dispatch)) is None:
                    break
                end, batches = dispatch
        reports.write(found, state, saves=True)
        checkpoints.save(state)
        if step < plan.total or (evaluates and evaluation is None):
            raise stop.stopped(
                f"{stop.name or 'another host was stopped'}: saved at step {step} of {plan.total} in "
                f"{checkpoints.directory}; the same command continues there"
            )
    return state


def _lacks_evaluation(step: int, plan: Plan, checkpoints: Checkpoints) -> bool:
    """Whether this step is to be evaluated and was not, because of a stop; the same on all hosts."""
    if step % plan.evaluate and step < plan.total:
        return False
    records = read_records(checkpoints.directory.parent)
    own = (r for r in records.without_norms() if r["step"] == step)
    missing = not any(name.endswith("_loss") for record in own for name in record)
    return any_process(missing and jax.process_index() == 0)


def prepare(
    program: jax.stages.Wrapped,
    experiment: Experiment,
    devices: Devices,
    checkpoints: Checkpoints,
    evaluate: Callable[[TrainState], Metrics] | None,
    data: tuple[Batch | None, Batch],
    teacher: Teacher | None = None,
) -> tuple[TrainState, Metrics | None, jax.stages.Compiled]:
    """The state to train from, its evaluation with ``evaluate``, and the compiled ``program``.

    All three are made concurrently, because Python and half of XLA's work run on one core: the initial
    state is compiled while the steps are traced, and evaluated while the steps are compiled. ``data`` are the
    images and the batches of any dispatch, for their shapes.
    """
    newest = checkpoints.newest
    shapes = devices.abstract(experiment.state_shapes)
    with ThreadPoolExecutor(2) as pool:
        # Other threads only compile: the caller's JAX settings apply to this thread alone.
        making = pool.submit(experiment.lowered_state.compile) if newest is None else None
        lowered = program.lower(shapes, *data, jnp.int32(0), jnp.int32(0), teacher)
        steps = pool.submit(lowered.compile)
        if making is None:
            state = checkpoints.restore(shapes)
            experiment.check_seed(state)
        else:
            state = devices.copy(making.result()(experiment.key))
        return state, evaluate(state) if evaluate else None, steps.result()


def _stops(stop: StopRequest, step: int, plan: Plan) -> bool:
    """Whether all hosts stop here. To agree, several hosts must wait for the device, so they do this only at
    log steps."""
    if jax.process_count() == 1:
        return stop.name is not None
    return step % plan.log == 0 and any_process(stop.name is not None)


@dataclasses.dataclass(frozen=True)
class _Found:
    """Results of the dispatch of steps ``start`` to ``end``; their computation may still be running."""

    start: int
    end: int
    metrics: Metrics | None = None
    evaluation: Metrics | None = None


class _Reports:
    """Writes results as records; losses are means since the last record.

    Every checkpoint ends a record, so a run that resumes there needs no earlier losses.
    """

    def __init__(
        self,
        experiment: Experiment,
        feed: Feed,
        writer: Writer,
        checkpoints: Checkpoints,
        teacher: Teacher | None,
    ) -> None:
        self._experiment = experiment
        self._feed = feed
        self._writer = writer
        self._checkpoints = checkpoints
        self._teacher = teacher
        self._losses: list[float] = []
        self._errors: list[float] = []
        self._rate = 0.0

    def write(self, found: _Found, state: TrainState, saves: bool = False) -> None:
        """Waits for ``found`` and writes it.

        ``state`` is the newest state, possibly of a later step; with ``saves`` it is about to be saved.
        """
        if found.metrics is not None:
            self._training(found, state, saves)
        if found.evaluation is not None:
            self._writer.write(self._experiment.record(found.end, found.evaluation))
        if saves:
            self._writer.sync()

    def _training(self, found: _Found, state: TrainState, saves: bool) -> None:
        assert found.metrics is not None
        plan, end = self._experiment.plan, found.end
        series = {k: v for k, v in found.metrics.items() if k != "norms"}
        done = {k: np.asarray(v)[: end - found.start] for k, v in series.items()}
        finite = bool(done["finite"].all())
        if not finite:
            bad = int(np.argmin(done["finite"]))
            loss, end = done["loss"][bad], found.start + bad
            done = {k: v[:bad] for k, v in done.items()}
        if len(done["loss"]):
            self._rate = float(done["learning_rate"][-1])
        self._losses += done["loss"].tolist()
        self._errors += done["error"].tolist()
        self._writer.progress(end)
        closes = end % plan.log == 0 or saves or not finite
        if closes and self._losses:
            record: dict[str, Any] = {
                **self._experiment.record(end),
                "loss": float(np.mean(self._losses)),
                "error": float(np.mean(self._errors)),
                "learning_rate": self._rate,
                "images_per_second": self._writer.speed(end, self._experiment.config.train.batch_size),
            }
            if end % plan.log == 0 and finite:
                record["norms"] = found.metrics["norms"]
            self._writer.write(record)
            self._losses, self._errors = [], []
        if not finite:
            self._stop_at(end, float(loss), state)

    def _stop_at(self, bad: int, loss: float, state: TrainState) -> None:
        self._checkpoints.save(state)
        batch, task = self._feed.whole_batch(bad), self._experiment.task
        where = first_nonfinite(state, batch, self._teacher, task=task)
        raise FloatingPointError(
            f"the update from step {bad} to {bad + 1} is not finite (loss {loss:.4g}); the first non-finite "
            f"value is {where}. The update was not applied: the state of step {int(state.step)} is saved in "
            f"{self._checkpoints.directory}. Try, in another --workdir, a smaller optimizer.learning_rate, a "
            "longer optimizer.warmup, or an optimizer.clip_norm."
        )
