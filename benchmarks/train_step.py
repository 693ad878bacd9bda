"""A training step of resjax against the same network in stock Flax: time a step, and time to compile it.

    python benchmarks/train_step.py [--depths 20 56 110] [--batch 64] [--rounds 5] [--json PATH]

Every contender has a process of its own and waits while another one runs; they take turns, so that a busy
machine slows them alike. ``stock.py`` is the opponent: Linen, unrolled, JAX's own convolution and BatchNorm,
one dispatch a step. resjax runs the program of ``python -m resjax.train``: a round is one dispatch of several
steps, which take their images from the data set on the device, standardize them, measure norms where a log
line is due, and check that the update is finite. Compiling counts from the Python function on: tracing,
lowering and XLA. The last line compiles resjax's program at depth 1202 against depth 20.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

STEPS = 5  # a round
COMPILED_DEEP = (20, 1202)
Contestant = tuple[Callable[[], Any], Callable[[Any, int], None]]


def serve(connection: Connection, name: str, depth: int, batch: int) -> None:
    """A contender: compiles, says how long that took, then times a round whenever it is asked to."""
    compile_it, run_round = _CONTENDERS[name](depth, batch)
    start = time.perf_counter()
    compiled = compile_it()
    connection.send(time.perf_counter() - start)
    done = 0
    while connection.recv() == "go":
        start = time.perf_counter()
        run_round(compiled, done)
        connection.send((time.perf_counter() - start) / STEPS)
        done += STEPS


def _stock(depth: int, batch: int) -> Contestant:
    import jax
    import stock

    images, labels = _examples(batch)
    arguments = (images.astype(np.float32) / 64 - 2, labels)
    state = stock.create_state(depth, jax.random.key(0))

    def run_round(compiled: Any, _: int) -> None:
        nonlocal state
        for _ in range(STEPS):
            state = compiled(state, *arguments)[0]
        jax.block_until_ready(state)

    return lambda: stock.train_step.lower(state, *arguments).compile(), run_round


def _resjax(depth: int, batch: int) -> Contestant:
    import jax
    import jax.numpy as jnp
    import optax

    from resjax import losses, models
    from resjax.data import Statistics
    from resjax.parallel import train_steps
    from resjax.train import Task, create_state

    network = models.build(
        models.defaults("resnet", depth=depth), image_shape=(32, 32, 3), num_classes=10
    )
    constants = Statistics(
        np.full((1, 1, 1, 1), 128, np.float32),
        np.full((1, 1, 1, 1), 64, np.float32),
        np.zeros((), np.float32),
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    task = Task(
        network, losses.cross_entropy, optimizer, lambda step: 0.1, constants, norms_every=100
    )
    images, labels = _examples(batch)
    data = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    places = jnp.tile(jnp.arange(batch, dtype=jnp.int32), (STEPS, 1))
    batches = {"index": places, "slot": places}
    steps = jax.jit(partial(train_steps, task=task), donate_argnums=0)
    state = create_state(task, 0, (32, 32, 3))

    def compile_it() -> Any:
        return steps.lower(state, data, batches, jnp.int32(0), jnp.int32(STEPS)).compile()

    def run_round(compiled: Any, done: int) -> None:
        nonlocal state
        counts = (jnp.int32(done), jnp.int32(STEPS))
        state = jax.block_until_ready(compiled(state, data, batches, *counts)[0])

    return compile_it, run_round


_CONTENDERS = {"stock": _stock, "resjax": _resjax}


def _examples(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return images, rng.integers(0, 10, size, np.int32)


class Contender:
    """A process that serves one contender."""

    def __init__(self, name: str, depth: int, batch: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(other, name, depth, batch), daemon=True)
        self._process.start()
        other.close()
        self.compile_seconds: float = self._connection.recv()
        self.step_seconds: list[float] = []

    def round(self) -> None:
        self._connection.send("go")
        self.step_seconds.append(self._connection.recv())

    def close(self) -> None:
        self._connection.send("stop")
        self._process.join()


def compete(depth: int, batch: int, rounds: int) -> dict[str, Any]:
    """Both at one depth: seconds a step (first round dropped) and to compile."""
    contenders = {name: Contender(name, depth, batch) for name in _CONTENDERS}
    for _ in range(rounds + 1):
        for contender in contenders.values():
            contender.round()
    row: dict[str, Any] = {"depth": depth}
    for name, contender in contenders.items():
        contender.close()
        times = contender.step_seconds[1:]
        row[name] = {
            "step_seconds": float(np.median(times)),
            "rounds": times,
            "compile_seconds": contender.compile_seconds,
            "images_per_second": batch / float(np.median(times)),
        }
    ratios = [a / b for a, b in zip(row["stock"]["rounds"], row["resjax"]["rounds"], strict=True)]
    row["step_ratio"] = float(np.median(ratios))
    row["step_ratio_range"] = [min(ratios), max(ratios)]
    row["compile_ratio"] = row["stock"]["compile_seconds"] / row["resjax"]["compile_seconds"]
    return row


def compile_deep(batch: int, rounds: int) -> dict[str, Any]:
    """Seconds to compile the shallow and the very deep network, in turns."""
    times: dict[int, list[float]] = {depth: [] for depth in COMPILED_DEEP}
    for _ in range(rounds):
        for depth in COMPILED_DEEP:
            contender = Contender("resjax", depth, batch)
            times[depth].append(contender.compile_seconds)
            contender.close()
    shallow, deep = (float(np.median(times[depth])) for depth in COMPILED_DEEP)
    return {"depths": COMPILED_DEEP, "compile_seconds": times, "ratio": deep / shallow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=[20, 56, 110])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deep-rounds", type=int, default=2, help="0 leaves depth 1202 out")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()

    console = Console()
    table = Table("depth", title=f"training step, batch {args.batch}, 32×32×3: stock Flax → resjax")
    for column in ("seconds a step", "ratio (range)", "images/s", "seconds to compile", "ratio"):
        table.add_column(column, justify="right")
    rows = []
    with console.status("") as status:
        for depth in args.depths:
            status.update(f"depth {depth}: compiling and measuring")
            row = compete(depth, args.batch, args.rounds)
            rows.append(row)
            stock, own = row["stock"], row["resjax"]
            low, high = row["step_ratio_range"]
            table.add_row(
                str(depth),
                f"{stock['step_seconds']:.2f} → {own['step_seconds']:.2f}",
                f"{row['step_ratio']:.2f}× ({low:.2f} to {high:.2f})",
                f"{stock['images_per_second']:.0f} → {own['images_per_second']:.0f}",
                f"{stock['compile_seconds']:.0f} → {own['compile_seconds']:.0f}",
                f"{row['compile_ratio']:.1f}×",
            )
        status.update(f"compiling depths {COMPILED_DEEP}")
        deep = compile_deep(args.batch, args.deep_rounds) if args.deep_rounds else None
    console.print(table)
    if deep:
        console.print(f"compiling depth 1202 takes {deep['ratio']:.2f}× as long as depth 20")
    if args.json:
        from resjax.provenance import provenance

        record = {"provenance": provenance(), "batch": args.batch, "rows": rows, "deep": deep}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
