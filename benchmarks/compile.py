"""Seconds until a step is compiled: at a first start, at a second one from kept programs, and in stock Flax.

    python benchmarks/compile.py [--depths 20 56 110 1202] [--stock-depths 20 56 110] [--rounds 2] [--json P]

The programs are those of ``python -m resjax.train`` at CIFAR-10's image size: the first state, many training
steps a dispatch, and the evaluation of many batches. Each start is a process of its own: a cold one with an
empty folder for compiled programs (``resjax.cpu.compilation``), then a warm one with what the cold one left
there. A start counts from the Python function on: tracing, lowering, and XLA or reading. Stock Flax
(``stock.py``) has one step a dispatch and starts cold; "stock, flag" compiles as quickly as the commands do.
"init" is the first state, compiled and computed; the others are not run, so their numbers do not depend on
how fast they are. "start" is what training needs, the first state and the steps: of stock Flax the sum, and
of resjax as ``loop.prepare`` makes them, side by side.
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
from typing import Any

import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

PROGRAMS = ("init", "train", "start", "eval")
KINDS = ("cold", "warm", "stock", "stock, flag")


def _experiment(depth: int, batch: int) -> tuple[Any, Any]:
    """As the command makes it, on random images."""
    from resjax import config as configs
    from resjax import data
    from resjax.cpu.compilation import compile_quickly, keep_compiled
    from resjax.data.info import Info
    from resjax.train import make_experiment
    from resjax.training.cores import share_cores
    from resjax.training.devices import Devices

    compile_quickly()
    keep_compiled()
    config = configs.default("resnet", depth=depth)
    config.train.batch_size, config.data.image_size = batch, 32
    share_cores(config)  # as the command does
    images, labels = np.zeros((1024, 32, 32, 3), np.uint8), np.zeros(1024, np.int32)
    info = Info("random", (32, 32, 3), 10, 1024, 1024, mean=(0.5,) * 3, std=(0.25,) * 3)
    arrays = data.Arrays(info, images, labels, images, labels)
    return make_experiment(config, arrays), Devices()


def start_programs(depth: int, batch: int) -> dict[str, float]:
    """Seconds for each program alone, in this process."""
    experiment, devices = _experiment(depth, batch)
    import jax

    started = time.perf_counter()
    state = jax.block_until_ready(experiment.create_state())
    init = time.perf_counter() - started

    def shaped(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    most = experiment.config.train.steps_per_dispatch
    batches = {"index": shaped(most, batch), "slot": shaped(most, batch)}
    train_set = {"image": shaped(1024, 32, 32, 3, dtype=np.uint8), "label": shaped(1024)}
    test_set = {
        "image": shaped(2, 512, 32, 32, 3, dtype=np.uint8),
        "label": shaped(2, 512),
        "mask": shaped(2, 512, dtype=np.float32),
    }
    arguments = (state, train_set, batches, shaped(), shaped(), None)
    train, evaluate = devices.train_program(experiment.task), devices.eval_program(experiment.task)
    return {
        "init": init,
        "train": _seconds(train, *arguments),
        "eval": _seconds(evaluate, state.variables, test_set),
    }


def start_run(depth: int, batch: int) -> dict[str, float]:
    """Seconds for the first state and the steps, as a run begins."""
    experiment, devices = _experiment(depth, batch)
    import jax

    from resjax.training import loop
    from resjax.training.checkpoint import Checkpoints
    from resjax.training.feed import Feed

    feed = Feed(experiment.config, experiment.dataset, devices, 0)
    batches = feed.batches(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder)
        started = time.perf_counter()
        nothing = lambda state: {}  # noqa: E731
        begun = loop.prepare(
            devices.train_program(experiment.task),
            experiment,
            devices,
            checkpoints,
            nothing,
            (feed.images, batches),
        )
        jax.block_until_ready(begun[0])
        return {"start": time.perf_counter() - started}


def start_stock(depth: int, batch: int) -> dict[str, float]:
    """The same for stock Flax."""
    import jax
    import jax.numpy as jnp
    import stock

    started = time.perf_counter()
    state = jax.block_until_ready(stock.create_state(stock.ResNet(depth), 32, jax.random.key(0)))
    init = time.perf_counter() - started
    x = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    y = jax.ShapeDtypeStruct((batch,), jnp.int32)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    evaluate = jax.jit(lambda v, x: stock.ResNet(depth).apply(v, x, train=False))
    train = _seconds(stock.train_step, state, x, y)
    return {
        "init": init,
        "train": train,
        "start": init + train,
        "eval": _seconds(evaluate, variables, x),
    }


def start_stock_with_flag(depth: int, batch: int) -> dict[str, float]:
    from resjax.cpu.compilation import compile_quickly

    compile_quickly()
    return start_stock(depth, batch)


def _seconds(function: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    function.lower(*arguments).compile()
    return time.perf_counter() - start


STARTS = {
    "programs": start_programs,
    "run": start_run,
    "stock": start_stock,
    "stock, flag": start_stock_with_flag,
}


def start(name: str, depth: int, batch: int, folder: str) -> dict[str, float]:
    """One start in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--start",
        name,
        "--depths",
        str(depth),
        "--batch",
        str(batch),
    ]
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, env={**env, "RESJAX_CACHE_DIR": folder}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} said: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(depth: int, batch: int, rounds: int, with_stock: bool) -> dict[str, Any]:
    """Seconds of every round, by kind of start and program; contenders take turns."""
    kinds = KINDS if with_stock else KINDS[:2]
    seconds: dict[str, Any] = {kind: {name: [] for name in PROGRAMS} for kind in kinds}
    for _ in range(rounds):
        for kind in kinds[2:]:
            for program, value in start(kind, depth, batch, "off").items():
                seconds[kind][program].append(value)
        for name in ("run", "programs"):
            with tempfile.TemporaryDirectory() as folder:
                for kind in kinds[:2]:
                    for program, value in start(name, depth, batch, folder).items():
                        seconds[kind][program].append(value)
                size = sum(path.stat().st_size for path in Path(folder).rglob("*-cache"))
    return {"depth": depth, "seconds": seconds, "kept_bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=[20, 56, 110, 1202])
    parser.add_argument("--stock-depths", type=int, nargs="*", default=[20, 56, 110])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--start", choices=STARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        print(json.dumps(STARTS[args.start](args.depths[0], args.batch)))
        return

    # Saving starts JAX here, and the starts that follow need the GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    title = f"seconds to compile, batch {args.batch}, 32×32×3: stock Flax, cold, warm (median of rounds)"
    table = Table("depth", title=title)
    for column in (*PROGRAMS, "kept"):
        table.add_column(column, justify="right")
    rows = []
    console = Console()
    with console.status("") as status:
        for depth in args.depths:
            status.update(f"depth {depth}")
            row = measure(depth, args.batch, args.rounds, depth in args.stock_depths)
            rows.append(row)
            save(args.json, {"batch": args.batch, "rows": rows})
            cells = [
                " / ".join(
                    f"{np.median(row['seconds'][kind][program]):.2f}" if kind in row["seconds"] else "–"
                    for kind in ("stock", "cold", "warm")
                )
                for program in PROGRAMS
            ]
            table.add_row(str(depth), *cells, f"{row['kept_bytes'] / 1e6:.1f} MB")
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
