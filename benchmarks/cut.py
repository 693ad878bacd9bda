"""The time of a network against the units that were cut: its forward pass and its training step.

    nice python benchmarks/cut.py --json=docs/results/cut_latency_cpu.json

Units that keep the shape go, evenly spread over the depth. Weights are random; the time does not depend on
them. All networks take turns in one process, see ``resjax.studies.cutting.cost``. Where other work shares the
machine, --clock=processor counts the time that this process was given, over all of its threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from results import save
from rich.console import Console
from rich.table import Table

from resjax import models
from resjax.data import Statistics
from resjax.models.layer_table import layer_table, totals
from resjax.network import Network, losses
from resjax.network.cut import cut
from resjax.studies.cutting.cost import Program, forward_pass, latency, line_told, median, training_step
from resjax.training.step import Task, create_state

SHAPE = (32, 32, 3)
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def keeping_shape(network: Network) -> list[str]:
    """Names of the units of which nothing stays when they are cut."""
    return [unit.name for unit in network.units if unit.stack.unit.vanishes]


def spread(pool: list[str], count: int) -> list[str]:
    """``count`` names, evenly over the pool."""
    return [pool[i] for i in np.linspace(0, len(pool) - 1, count).round().astype(int)]


def forward(batch: int) -> Callable[[Network], Program]:
    images = np.random.default_rng(0).standard_normal((batch, *SHAPE), np.float32)

    def of(network: Network) -> Program:
        variables = jax.jit(lambda key: network.init(key, SHAPE))(jax.random.key(0))
        return forward_pass(network, variables, images)

    return of


def step(batch: int) -> Callable[[Network], Program]:
    data = {
        "image": np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8),
        "label": np.zeros(batch, np.int32),
        "slot": np.arange(batch, dtype=np.int32),
    }
    constants = Statistics(
        *(np.full((1, 1, 1, 1), v, np.float32) for v in (128, 64)), np.zeros((), np.float32)
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))

    def of(network: Network) -> Program:
        task = Task(network, losses.cross_entropy, optimizer, lambda step: 0.1, constants, norms_every=100)
        return training_step(task, create_state(task, 0, SHAPE), data)

    return of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--every", type=int, default=3, help="units between one network and the next")
    parser.add_argument("--batch", type=int, default=500, help="images of the larger forward pass")
    parser.add_argument("--step", type=int, default=128, help="images of a training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    config = models.defaults("resnet", depth=args.depth, placement="post")
    whole = models.build(config, image_shape=SHAPE, num_classes=10)
    pool = keeping_shape(whole)
    gone = range(0, len(pool) + 1, args.every)
    networks = {k: cut(whole, spread(pool, k), SHAPE) for k in gone}
    sums = {k: totals(layer_table(network, SHAPE)) for k, network in networks.items()}
    products = [sums[k].multiply_adds for k in gone]
    record: dict[str, Any] = {
        "network": f"ResNet-{args.depth}, {SHAPE[0]}×{SHAPE[1]}, random weights",
        "clock": args.clock,
        "gone": list(gone),
        "parameters": [sums[k].parameters for k in gone],
        "multiply_adds": products,
        "rows": {},
    }
    contenders = {
        "forward pass, batch 1": forward(1),
        f"forward pass, batch {args.batch}": forward(args.batch),
        f"training step, batch {args.step}": step(args.step),
    }
    console = Console()
    for name, of in contenders.items():
        with console.status(f"{name}: compiling and measuring"):
            programs = {str(k): of(network) for k, network in networks.items()}
            turns = latency(programs, rounds=args.rounds, clock=CLOCKS[args.clock])
        seconds = np.array([turns[str(k)] for k in gone])
        told = line_told(gone, products, seconds)
        record["rows"][name] = {"seconds": seconds.tolist(), "told": told}
        save(args.json, record)
        console.print(_table(f"{name}, {args.clock} time", gone, products, seconds))
        console.print(told)


def _table(title: str, gone: range, products: list[int], seconds: np.ndarray) -> Table:
    table = Table("units gone", title=title)
    for column in ("multiply-adds", "ms, median (95 %)", "of the intact time (95 %)"):
        table.add_column(column, justify="right")
    for k, cost, own in zip(gone, products, seconds, strict=True):
        middle, low, high = (1000 * v for v in median(own))
        ratios = median(own / seconds[0])
        table.add_row(
            str(k),
            f"{cost / products[0]:.3f}",
            f"{middle:.3g} ({low:.3g} to {high:.3g})",
            "{:.3f} ({:.3f} to {:.3f})".format(*ratios),
        )
    return table


if __name__ == "__main__":
    main()
