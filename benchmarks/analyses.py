"""What two analyses cost, in units of what they replace: delete-each and the exact path spectrum.

    python benchmarks/analyses.py [--depths 20 56 110] [--batch 64] [--rounds 5] [--json PATH]

* ``delete_each`` of n units against n + 1 whole forward passes.
* ``path_spectrum`` against n gradients of the mean loss with respect to all parameters, each with the forward
  pass that it needs; and against n backward passes alone (such a gradient minus a forward pass).

All are compiled programs on one batch, BatchNorm with running statistics; opponents take turns in one
process. Memory is what XLA sets aside beside arguments and results; the measure is one gradient of a training
step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

from resjax import models
from resjax.cpu.shared_batches import Cores
from resjax.network.losses import cross_entropy, share_wrong
from resjax.studies.lesions import single_deletions
from resjax.studies.paths import path_exact


def programs(depth: int, batch: int, size: int) -> tuple[int, dict[str, tuple[Any, tuple[Any, ...]]]]:
    """The number of units, and {name: (compiled, arguments)}."""
    shape = (size, size, 3)
    config = models.defaults("resnet", depth=depth)
    network = models.build(config, image_shape=shape, num_classes=10)
    variables = jax.jit(lambda key: network.init(key, shape))(jax.random.key(0))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, *shape)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, batch), jnp.int32)

    def gradient(train: bool) -> Callable[..., Any]:
        def loss(params: Any, variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            out = network.apply({**variables, "params": params}, x, train=train)
            return jnp.mean(cross_entropy(out.logits, y))

        return jax.jit(jax.grad(loss))

    by_parameters = (variables["params"], variables, x, y)
    everything = (True,) * network.num_units
    key, loss, probe = jax.random.key(0), cross_entropy, path_exact.PAPER
    lowered = {
        "forward": (
            jax.jit(lambda v, x: network.apply(v, x).logits).lower(variables, x),
            (variables, x),
        ),
        "gradient": (gradient(False).lower(*by_parameters), by_parameters),
        "training gradient": (gradient(True).lower(*by_parameters), by_parameters),
        "delete_each": (
            single_deletions._lesion_batch.lower(
                Cores(), network, loss, share_wrong, everything, variables, x, y
            ),
            (variables, x, y),
        ),
        "path_spectrum": (
            path_exact._spectrum.lower(Cores(), network, loss, probe, variables, x, y, key),
            (variables, x, y, key),
        ),
    }
    return network.num_units, {k: (low.compile(), args) for k, (low, args) in lowered.items()}


def compete(depth: int, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Seconds of each program in each round (the first is dropped), ratios of medians, memory."""
    n, compiled = programs(depth, batch, size)
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(rounds + 1):
        for name, (program, arguments) in compiled.items():
            repeats = 1 if name in ("delete_each", "path_spectrum") else 5
            start = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(program(*arguments))
            seconds[name].append((time.perf_counter() - start) / repeats)
    kept = {name: np.array(values[1:]) for name, values in seconds.items()}
    ratios = {
        "delete_each / (n + 1) forward": kept["delete_each"] / ((n + 1) * kept["forward"]),
        "path_spectrum / n gradients": kept["path_spectrum"] / (n * kept["gradient"]),
        "path_spectrum / n backward": kept["path_spectrum"] / (n * (kept["gradient"] - kept["forward"])),
    }
    memory = {k: c.memory_analysis().temp_size_in_bytes for k, (c, _) in compiled.items()}
    return {
        "depth": depth,
        "units": n,
        "seconds": {name: values.tolist() for name, values in kept.items()},
        "ratios": {
            name: {
                "median": float(np.median(values)),
                "range": [float(values.min()), float(values.max())],
            }
            for name, values in ratios.items()
        },
        "temporary_bytes": memory,
        "memory_ratios": {
            name: memory[name] / memory["training gradient"] for name in ("delete_each", "path_spectrum")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="*", default=[20, 56, 110])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32, help="pixels on a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()

    console = Console()
    table = Table("depth", title=f"batch {args.batch}, {args.size}×{args.size}×3")
    columns = (
        "delete_each / (n + 1) forward",
        "path_spectrum / n gradients",
        "path_spectrum / n backward",
    )
    for column in (*columns, "memory: delete_each", "memory: path_spectrum"):
        table.add_column(column, justify="right")
    rows = []
    with console.status("") as status:
        for depth in args.depths:
            status.update(f"depth {depth}: compiling and measuring")
            row = compete(depth, args.batch, args.size, args.rounds)
            rows.append(row)
            save(args.json, {"batch": args.batch, "size": args.size, "rows": rows})
            cells = (
                f"{r['median']:.2f} ({r['range'][0]:.2f} to {r['range'][1]:.2f})"
                for r in (row["ratios"][column] for column in columns)
            )
            table.add_row(str(depth), *cells, *(f"{v:.2f}×" for v in row["memory_ratios"].values()))
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")


if __name__ == "__main__":
    main()
