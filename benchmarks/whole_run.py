"""A whole run against its bare step loop, and the seconds from the start of a process to its first step.

    python benchmarks/whole_run.py [--epochs 5] [--depth 8] [--rounds 2] [--json PATH]

The data have CIFAR-10's size: 50,000 training and 10,000 test images of 32×32×3, random bytes, padded and
flipped. The network is scaled down (depth 8, widths 2, 4, 8), so that it fits into minutes on a CPU; its
steps are short, and what a run does besides weighs more than it would at full size.

* *Bare loop*: the compiled program of ``resjax.train``, dispatched again and again on batches that are
  prepared before; nothing is read back until the end.
* *Whole run*: ``loop.run`` with the default cadence (a log line every 50 steps, evaluation and checkpoint
  every 5 epochs and at the end, evaluation at the start), to the last checkpoint on disk.

Both take turns in one process, with everything compiled; a whole run also makes its first state. Evaluation
is arithmetic of its own, not overhead, so it is timed alone and reported apart. Starts are processes of their
own, cold (no compiled programs kept) and warm, to the end of the first step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

MOST = 50  # steps a dispatch


def _experiment(depth: int, epochs: int) -> Any:
    from resjax import config as configs
    from resjax import data
    from resjax.data.info import Info
    from resjax.train import make_experiment
    from resjax.training.cores import share_cores

    config = configs.default("resnet", depth=depth, widths=(2, 4, 8))
    config.data.pad, config.data.flip = 4, True
    config.train.duration = f"{epochs} epochs"
    config.train.steps_per_dispatch = MOST
    config.optimizer.learning_rate = 0.01
    share_cores(config)  # as the command does
    rng = np.random.default_rng(0)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        return images, rng.integers(0, 10, n, np.int32)

    info = Info("random", (32, 32, 3), 10, 50_000, 10_000, mean=(0.5,) * 3, std=(0.29,) * 3)
    return make_experiment(config, data.Arrays(info, *split(50_000), *split(10_000)))


def start(depth: int) -> dict[str, float]:
    """Seconds of each part of a start, in this process."""
    marks = [("python", time.time())]
    import jax
    import jax.numpy as jnp

    from resjax import train  # noqa: F401  (what the command imports)
    from resjax.cpu.compilation import compile_quickly, keep_compiled
    from resjax.training import loop
    from resjax.training.checkpoint import Checkpoints
    from resjax.training.devices import Devices
    from resjax.training.feed import Evaluation, Feed

    compile_quickly()
    keep_compiled()
    marks.append(("imports", time.time()))
    experiment = _experiment(depth, 1)
    config = experiment.config
    marks.append(("data and network", time.time()))
    devices = Devices()
    evaluate = Evaluation(experiment.task, experiment.dataset, devices, config.eval.batch_size)
    feed = Feed(config, experiment.dataset, devices, 0)
    batches = feed.batches(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        program, shapes = devices.train_program(experiment.task), (feed.images, batches)
        begun = loop.prepare(program, experiment, devices, checkpoints, evaluate, shapes)
    state, evaluation, run = begun
    marks.append(("first state and programs", time.time()))
    jax.block_until_ready(evaluation)
    marks.append(("rest of the evaluation", time.time()))
    jax.block_until_ready(run(state, feed.images, batches, jnp.int32(0), jnp.int32(1), None)[0].params)
    marks.append(("first step", time.time()))
    times = [mark for _, mark in marks]
    parts = dict(zip([n for n, _ in marks[1:]], np.diff(times).tolist(), strict=True))
    return {"python": marks[0][1], **parts}


def starts(depth: int) -> dict[str, dict[str, float]]:
    """A cold and a warm start."""
    found = {}
    command = [sys.executable, __file__, "--start", "--depth", str(depth)]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cold", "warm"):
            before = time.time()
            env = {**os.environ, "RESJAX_CACHE_DIR": folder}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"a {kind} start said: {done.stderr}")
            parts = json.loads(done.stdout.splitlines()[-1])
            parts["python"] -= before
            found[kind] = {**parts, "total": sum(parts.values())}
    return found


class _Timed:
    """Calls something, and keeps the seconds."""

    def __init__(self, function: Any) -> None:
        self._function, self.seconds = function, 0.0

    def __call__(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*arguments)
        finally:
            self.seconds += time.perf_counter() - start


def bare(experiment: Any, devices: Any, run: Any, feed: Any) -> float:
    """Seconds of all steps of the plan and nothing else."""
    import jax
    import jax.numpy as jnp

    total = experiment.plan.total
    ends = [(s, min(MOST, total - s)) for s in range(0, total, MOST)]
    prepared = [(feed.batches(s, n), jnp.int32(s), jnp.int32(n)) for s, n in ends]
    state = jax.block_until_ready(devices.copy(experiment.create_state()))
    start = time.perf_counter()
    for batches, first, count in prepared:
        state, _ = run(state, feed.images, batches, first, count, None)
    jax.block_until_ready(state.params)
    return time.perf_counter() - start


def whole(experiment: Any, devices: Any) -> dict[str, float]:
    """Seconds of ``loop.run``, and of what it waits for."""
    from resjax.training import loop
    from resjax.training.checkpoint import Checkpoints
    from resjax.workdir.stopping import StopRequest
    from resjax.workdir.writers import Writer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        total = experiment.plan.total
        checkpoints = Checkpoints(path, 2)
        with Writer(path, 0, total) as writer:
            save = checkpoints.save = _Timed(checkpoints.save)  # type: ignore[method-assign]
            write = writer.write = _Timed(writer.write)  # type: ignore[method-assign]
            start = time.perf_counter()
            loop.run(experiment, devices, checkpoints, writer, StopRequest())
            seconds = time.perf_counter() - start
    return {"loop": seconds, "saving": save.seconds, "writing": write.seconds}


def compete(depth: int, epochs: int, rounds: int) -> dict[str, Any]:
    import jax

    from resjax.training.devices import Devices
    from resjax.training.feed import Evaluation, Feed

    experiment = _experiment(depth, epochs)

    class Compiled(Devices):
        """Every run gets the same compiled functions, as if it had compiled them before."""

        def __init__(self) -> None:
            super().__init__()
            self.compiled_train = Devices.train_program(self, experiment.task)
            self._eval = Devices.eval_program(self, experiment.task)

        def train_program(self, task: Any) -> Any:
            lowered = SimpleNamespace(compile=lambda: self.compiled_train)
            return SimpleNamespace(lower=lambda *_: lowered)

        def eval_program(self, task: Any) -> Any:
            return self._eval

    devices = Compiled()
    feed = Feed(experiment.config, experiment.dataset, devices, 0)
    run = devices.compiled_train
    size = experiment.config.eval.batch_size
    evaluation = Evaluation(experiment.task, experiment.dataset, devices, size)
    state = devices.copy(experiment.create_state())
    evaluate = _Timed(lambda: jax.block_until_ready(evaluation(state)))
    evaluate()
    first = run(state, feed.images, feed.batches(0, 1), np.int32(0), np.int32(1), None)  # compiles
    jax.block_until_ready(first)
    state = devices.copy(experiment.create_state())
    found: dict[str, Any] = {"bare": [], "whole": [], "one_evaluation": []}
    for _ in range(rounds):
        found["bare"].append(bare(experiment, devices, run, feed))
        found["whole"].append(whole(experiment, devices))
        evaluate.seconds = 0.0
        evaluate()
        found["one_evaluation"].append(evaluate.seconds)
    found["bare"].append(bare(experiment, devices, run, feed))  # on both sides of every whole run
    plan = experiment.plan
    found |= {"steps": plan.total, "evaluations": 1 + -(-plan.total // plan.evaluate)}
    beside = [(a + b) / 2 for a, b in zip(found["bare"], found["bare"][1:], strict=False)]
    rows = []
    for alone, run_, one in zip(beside, found["whole"], found["one_evaluation"], strict=True):
        evaluating = one * found["evaluations"]
        rows.append(
            {
                "all": run_["loop"] / alone - 1,
                "evaluation": evaluating / alone,
                "saving": run_["saving"] / alone,
                "writing": run_["writing"] / alone,
                "overhead": (run_["loop"] - evaluating) / alone - 1,
            }
        )
    found["shares"] = {k: [row[k] for row in rows] for k in rows[0]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(args.depth)))
        return

    console = Console()
    began = starts(args.depth)
    record = {"depth": args.depth, "epochs": args.epochs, "starts": began}
    save(args.json, record)
    table = Table("start", *began["cold"], title="seconds from process start to the first step")
    for kind, parts in began.items():
        table.add_row(kind, *(f"{seconds:.2f}" for seconds in parts.values()))
    console.print(table)
    found = compete(args.depth, args.epochs, args.rounds)
    save(args.json, record | found)
    table = Table("over the bare loop", "median", "rounds", title=f"{found['steps']} steps")
    for name, shares in found["shares"].items():
        cells = ", ".join(f"{100 * share:+.1f} %" for share in shares)
        table.add_row(name, f"{100 * float(np.median(shares)):+.1f} %", cells)
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
