"""How fast max pooling and its gradient are on one core of a CPU, resjax's against JAX's own.

    python benchmarks/pool.py [--rounds 7] [--json PATH]

Milliseconds of processor time, so that other work on the machine counts less. Both take turns; the table has
medians, and the ratio is the median over rounds of JAX's time / resjax's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

from resjax.cpu.pool import max_pool

# Name: images [B, H, W, C], window, strides, padding.
SHAPES = {
    "ResNet-50's stem": ((4, 112, 112, 64), (3, 3), (2, 2), ((1, 1), (1, 1))),
    "AlexNet, first": ((4, 55, 55, 64), (3, 3), (2, 2), "VALID"),
    "VGG, second": ((4, 112, 112, 128), (2, 2), (2, 2), "VALID"),
    "LeNet-5, first": ((64, 28, 28, 6), (2, 2), (2, 2), "VALID"),
}


def measure(name: str, rounds: int) -> dict[str, object]:
    size, *how = SHAPES[name]
    x = jnp.maximum(jax.random.normal(jax.random.key(0), size), 0)
    calls = {}
    for impl, pool in (("stock", nn.max_pool), ("resjax", max_pool)):
        values = partial(lambda x, pool: pool(x, *how), pool=pool)
        dy = jax.random.normal(jax.random.key(1), jax.eval_shape(values, x).shape)
        calls[impl, "forward"] = partial(jax.jit(values), x)
        calls[impl, "forward and backward"] = partial(jax.jit(partial(_both, values)), x, dy)
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            jax.block_until_ready(call())  # the memory is then as this call leaves it, not another one
            start = time.process_time()
            jax.block_until_ready(call())
            times[key].append(1e3 * (time.process_time() - start))
    row: dict[str, object] = {"shape": name, "images": size, "window": how[0], "strides": how[1]}
    for what in ("forward", "forward and backward"):
        stock, own = times["stock", what], times["resjax", what]
        ratio = np.divide(stock, own)
        row[what] = {
            "stock_ms": float(np.median(stock)),
            "resjax_ms": float(np.median(own)),
            "ratio": float(np.median(ratio)),
            "range": [float(ratio.min()), float(ratio.max())],
            "rounds": {"stock_ms": stock, "resjax_ms": own},
        }
    return row


def _both(pool: Callable[[jax.Array], jax.Array], x: jax.Array, dy: jax.Array) -> list[jax.Array]:
    y, backward = jax.vjp(pool, x)
    return [y, *backward(dy)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = Table("shape", "what", "JAX, ms", "resjax, ms", "ratio (range)")
    rows = []
    for name in SHAPES:
        rows.append(row := measure(name, args.rounds))
        for what in ("forward", "forward and backward"):
            it = row[what]
            assert isinstance(it, dict)
            ratio = "{:.2f}× ({:.2f} to {:.2f})".format(it["ratio"], *it["range"])
            table.add_row(name, what, f"{it['stock_ms']:.2f}", f"{it['resjax_ms']:.2f}", ratio)
        save(args.json, {"clock": "processor time, one core", "rounds": args.rounds, "rows": rows})
    Console().print(table)


if __name__ == "__main__":
    main()
