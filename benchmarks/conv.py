"""How fast the convolution and its gradients are, resjax's against JAX's own, alone and inside a scan.

    python benchmarks/conv.py [--set cifar|imagenet|all|"many channels"] [--seconds 8] [--one-core]
        [--operations forward "input gradient" "kernel gradient"] [--json PATH]

For each shape: the forward pass, the input gradient and the kernel gradient, as one call, and as one turn of
a ``lax.scan`` over stacked arguments. With ``--one-core``, resjax's forms are those for one thread, and times
are processor time. All of a row's contenders take turns, so
that a busy machine slows them alike; the table has medians in milliseconds, the JSON also the fastest
and the quartiles.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from results import save
from rich.console import Console
from rich.table import Table

from resjax.cpu.conv import Padding, conv
from resjax.cpu.one_thread import one_thread

TURNS = 2  # of the scan
OPERATIONS = ("forward", "input gradient", "kernel gradient")


class Shape(NamedTuple):
    """Images [batch, size, size, channels] and a kernel [window, window, channels / groups, features]."""

    batch: int
    size: int
    channels: int
    features: int
    window: int = 3
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> Padding:
        p = 0 if self.window == 11 else (self.window - 1) // 2
        return ((p, p), (p, p))

    def __str__(self) -> str:
        groups = f" groups {self.groups}" if self.groups > 1 else ""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return (
            f"{self.batch}×{self.size}²  {self.window}×{self.window}{stride}  "
            f"{self.channels}→{self.features}{groups}"
        )


SETS = {
    "cifar": [
        *(Shape(64, 32 // s, 16 * s, 16 * s) for s in (1, 2, 4)),
        *(Shape(128, 32 // s, 16 * s, 16 * s) for s in (1, 2, 4)),
        Shape(64, 32, 3, 16),
        Shape(64, 32, 16, 32, stride=2),
        Shape(64, 16, 32, 64, stride=2),
        Shape(64, 32, 64, 16, window=1),
        Shape(64, 16, 64, 128, window=1, stride=2),
    ],
    "imagenet": [
        Shape(8, 224, 3, 64, window=7, stride=2),
        Shape(8, 56, 64, 64),
        Shape(8, 56, 64, 256, window=1),
        Shape(8, 56, 256, 512, window=1, stride=2),
        Shape(8, 28, 128, 128),
        Shape(8, 56, 128, 128, stride=2),
        Shape(8, 28, 256, 256, stride=2),
        Shape(8, 14, 512, 512, stride=2),
        Shape(8, 14, 256, 256),
        Shape(8, 7, 512, 512),
        Shape(8, 227, 3, 96, window=11, stride=4),
        Shape(8, 27, 96, 256, window=5, groups=2),
        Shape(8, 56, 64, 64, groups=64),
    ],
}
SETS["many channels"] = [shape for shape in SETS["imagenet"] if shape.window == 3 and shape.channels >= 128]
SETS["all"] = SETS["cifar"] + SETS["imagenet"]


def contenders(
    shape: Shape, alone: bool, wanted: Sequence[str] = OPERATIONS
) -> dict[tuple[str, str, str], tuple[Callable[[], jax.Array], int]]:
    """(operation, implementation, place) → (a call, how many convolutions it is)."""
    keys = jax.random.split(jax.random.key(0), 3)
    side = (shape.batch, shape.size, shape.size, shape.channels)
    window = (shape.window, shape.window, shape.channels // shape.groups, shape.features)
    options = {
        "strides": (shape.stride, shape.stride),
        "padding": shape.padding,
        "groups": shape.groups,
    }
    x = jax.random.normal(keys[0], (TURNS, *side))
    kernel = jax.random.normal(keys[1], (TURNS, *window))
    out = jax.eval_shape(partial(conv, **options), x[0], kernel[0])
    dy = jax.random.normal(keys[2], (TURNS, *out.shape))

    calls = {}
    for impl in ("lax", "cpu"):
        f = partial(conv, impl=impl, **options)
        operations = {
            "forward": lambda x, k, dy, f=f: f(x, k),
            "input gradient": lambda x, k, dy, f=f: jax.vjp(lambda x: f(x, k), x)[1](dy)[0],
            "kernel gradient": lambda x, k, dy, f=f: jax.vjp(lambda k: f(x, k), k)[1](dy)[0],
        }
        for name in wanted:
            operation = one_thread()(operations[name]) if alone else operations[name]
            single = partial(jax.jit(operation), x[0], kernel[0], dy[0])
            looped = partial(jax.jit(partial(_scan, operation)), x, kernel, dy)
            calls[name, impl, "alone"] = (single, 1)
            calls[name, impl, "in scan"] = (looped, TURNS)
    return calls


def _scan(operation: Callable[..., jax.Array], *stacked: jax.Array) -> jax.Array:
    out = jax.eval_shape(operation, *(a[0] for a in stacked))
    zero = jnp.zeros(out.shape, out.dtype)
    return lax.scan(lambda total, a: (total + operation(*a), None), zero, stacked)[0]


def measure(
    shape: Shape, seconds: float, alone: bool, wanted: Sequence[str]
) -> dict[tuple[str, str, str], list[float]]:
    """Milliseconds a convolution, from as many rounds as fit in ``seconds``, at least three."""
    calls = contenders(shape, alone, wanted)
    clock = time.process_time if alone else time.perf_counter
    for call, _ in calls.values():
        jax.block_until_ready(call())
    times: dict[tuple[str, str, str], list[float]] = {key: [] for key in calls}
    end = time.perf_counter() + seconds
    while min(map(len, times.values())) < 3 or time.perf_counter() < end:
        for key, (call, count) in calls.items():
            start = clock()
            jax.block_until_ready(call())
            times[key].append(1e3 * (clock() - start) / count)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=SETS, default="cifar")
    parser.add_argument("--seconds", type=float, default=8, help="for each shape, after compiling")
    parser.add_argument("--operations", nargs="*", default=OPERATIONS, choices=OPERATIONS)
    parser.add_argument("--one-core", action="store_true", help="and the forms for one thread")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    if args.one_core:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    console = Console()
    table = Table("shape", "operation", title="milliseconds (medians): JAX's own → resjax's")
    table.add_column("alone", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("in scan", justify="right")
    table.add_column("ratio", justify="right")
    rows = []
    with console.status("compiling and measuring") as status:
        for shape in SETS[args.set]:
            status.update(str(shape))
            times = measure(shape, args.seconds, args.one_core, args.operations)
            for operation in args.operations:
                cells = []
                for place in ("alone", "in scan"):
                    stock, own = (times[operation, impl, place] for impl in ("lax", "cpu"))
                    ratio = float(np.median(stock) / np.median(own))
                    cells += [f"{np.median(stock):.1f} → {np.median(own):.1f}", f"{ratio:.1f}×"]
                    rows.append(
                        {
                            "shape": shape._asdict(),
                            "operation": operation,
                            "place": place,
                            "stock_ms": _summary(stock),
                            "resjax_ms": _summary(own),
                            "ratio": ratio,
                        }
                    )
                first = operation == args.operations[0]
                table.add_row(str(shape) if first else "", operation, *cells)
            table.add_section()
            save(args.json, {"turns": TURNS, "one_core": args.one_core, "rows": rows})
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")


def _summary(times: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(times, (25, 50, 75))
    return {"median": middle, "min": min(times), "q1": low, "q3": high, "rounds": len(times)}


if __name__ == "__main__":
    main()
