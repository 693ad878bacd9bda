"""Depthwise convolutions on one core of a CPU: resjax's, JAX's own and PyTorch's, and their gradients.

    python benchmarks/depthwise.py [--rounds 5] [--torch-python INTERPRETER-WITH-TORCH] [--json PATH]

The shapes are those of ConvMixer-256 (windows of 5, 7 and 9) and of ConvNeXt's first and third stage. Stride
1, float32. ``resjax`` has the forms for one thread, ``resjax, many`` those for a device with many.
Milliseconds are processor time, so that other work on the machine counts less. All take turns; the table has
medians, and ratios are medians over rounds of (milliseconds of the other / milliseconds of resjax).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

from resjax.cpu.conv import conv
from resjax.cpu.one_thread import one_thread

# Name: batch, size of the images, channels, window.
SHAPES = {
    "ConvMixer-256, 5×5": (16, 16, 256, 5),
    "ConvMixer-256, 7×7": (16, 16, 256, 7),
    "ConvMixer-256, 9×9": (16, 16, 256, 9),
    "ConvNeXt on 32×32, stage 1": (16, 32, 48, 7),
    "ConvNeXt on 32×32, stage 3": (16, 8, 192, 7),
    "ConvNeXt-T, stage 1": (4, 56, 96, 7),
    "ConvNeXt-T, stage 3": (4, 14, 384, 7),
}
OPERATIONS = ("forward", "input gradient", "kernel gradient")
Call = Callable[[], float]
"""Milliseconds of processor time."""


def own(shape: tuple[int, ...], impl: str, alone: bool) -> dict[str, Call]:
    batch, size, channels, window = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x, dy = (jax.random.normal(key, (batch, size, size, channels)) for key in keys[:2])
    kernel = jax.random.normal(keys[2], (window, window, 1, channels))
    p = window // 2

    def f(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(x, kernel, padding=((p, p), (p, p)), groups=channels, impl=impl)

    found = {
        "forward": lambda x, k, dy: f(x, k),
        "input gradient": lambda x, k, dy: jax.vjp(lambda x: f(x, k), x)[1](dy)[0],
        "kernel gradient": lambda x, k, dy: jax.vjp(lambda k: f(x, k), k)[1](dy)[0],
    }
    if alone:
        found = {name: one_thread()(operation) for name, operation in found.items()}
    return {name: timed(partial(jax.jit(operation), x, kernel, dy)) for name, operation in found.items()}


def timed(call: Callable[[], jax.Array]) -> Call:
    def run() -> float:
        call().block_until_ready()  # the memory is then as this call leaves it, not another one
        start = time.process_time()
        call().block_until_ready()
        return 1e3 * (time.process_time() - start)

    return run


class Torch:
    """A process of ``depthwise_torch.py``."""

    def __init__(self, interpreter: str) -> None:
        script = str(Path(__file__).parent / "depthwise_torch.py")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([interpreter, script], stdin=pipe, stdout=pipe, text=True)

    def calls(self, shape: tuple[int, ...]) -> dict[str, Call]:
        return {operation: partial(self._run, [*shape, operation]) for operation in OPERATIONS}

    def _run(self, what: list[Any]) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def measure(shape: tuple[int, ...], rounds: int, torch: Torch | None) -> dict[str, dict[str, Any]]:
    """{operation: {contender: its milliseconds and its ratio}}."""
    contenders = {
        "resjax": own(shape, "cpu", True),
        "resjax, many": own(shape, "cpu", False),
        "JAX": own(shape, "lax", False),
    }
    if torch is not None:
        contenders["PyTorch"] = torch.calls(shape)
    found: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        calls = {name: named[operation] for name, named in contenders.items()}
        for call in calls.values():
            call()
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(call())
        found[operation] = {name: _summary(t, times["resjax"]) for name, t in times.items()}
    return found


def _summary(times: list[float], resjax: list[float]) -> dict[str, Any]:
    ratios = np.divide(times, resjax)
    return {
        "ms": float(np.median(times)),
        "ratio": float(np.median(ratios)),
        "range": [float(ratios.min()), float(ratios.max())],
        "rounds": times,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch-python", help="an interpreter that has torch")
    parser.add_argument("--json", type=Path, help="where to write the results")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch = Torch(args.torch_python) if args.torch_python else None
    names = ["resjax", "resjax, many", "JAX", *(["PyTorch"] if torch else [])]
    table = Table("convolution", "operation", *names, title="milliseconds (ratio to resjax)")
    rows = []
    for title, shape in SHAPES.items():
        found = measure(shape, args.rounds, torch)
        rows.append({"convolution": title, "batch, size, channels, window": shape, "milliseconds": found})
        for operation, by_name in found.items():
            cells = [f"{by_name[name]['ms']:.2f} ({by_name[name]['ratio']:.2f}×)" for name in names]
            table.add_row(title, operation, *cells)
        save(args.json, {"clock": "processor time, one core", "rows": rows})
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
