"""How time and memory grow with depth, width, batch and the number of draws, and with which power.

    python benchmarks/growth.py [--rounds 3] [--json PATH] [--figure PATH]

One factor at a time, from a ResNet-20 of widths 16, 32, 64 on 8 images of 32×32×3: the training step of
``resjax.train`` (one dispatch of two steps, halved), deleting each unit, the exact path spectrum, and random
deletions by the number of sets. Times are medians of rounds, compiled; memory is what XLA sets aside beside
arguments and results (of ``compiled.memory_analysis()``; the random deletions are many small programs with
none of their own). Slopes are of a line through the logarithms, from the second value on where there are
four or more: 1 is linear. Linear is expected of a step in depth and batch; of the two analyses in batch; of
draws. Deleting each of n units, and the exact spectrum, are sums over n(n + 1)/2 units: 2 in depth. Width
multiplies channels on both sides of a kernel: 2 where convolutions bound it, 1 where memory does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from results import save
from rich.console import Console
from rich.table import Table

from resjax import models
from resjax.cpu.shared_batches import Cores
from resjax.data import Statistics
from resjax.network import losses
from resjax.studies import style
from resjax.studies.lesions import single_deletions
from resjax.studies.lesions.deletions import deletions
from resjax.studies.paths import path_exact
from resjax.training.step import Task, create_state, train_steps

SHAPE, STEPS = (32, 32, 3), 2
BASE = {"depth": 20, "width": 1, "batch": 8}
VALUES: dict[str, dict[str, tuple[int, ...]]] = {
    "training step": {"depth": (20, 110, 326, 1202), "width": (1, 2, 4), "batch": (8, 32, 128)},
    "delete each": {"depth": (20, 56, 110), "width": (1, 2, 4), "batch": (8, 32, 128)},
    "exact spectrum": {"depth": (20, 56, 110), "width": (1, 2, 4), "batch": (8, 32, 128)},
    "random deletions": {"draws": (4, 16, 64)},
}
Measured = tuple[Callable[[], Any], int | None, int]  # run it, bytes, how often it does the work


def network_of(depth: int, width: int) -> Any:
    widths = tuple(width * w for w in (16, 32, 64))
    config = models.defaults("resnet", depth=depth, widths=widths)
    return models.build(config, image_shape=SHAPE, num_classes=10)


def examples(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, *SHAPE)).astype(np.float32), rng.integers(0, 10, batch, np.int32)


def training_step(depth: int, width: int, batch: int) -> Measured:
    constants = Statistics(
        np.full((1, 1, 1, 1), 128, np.float32),
        np.full((1, 1, 1, 1), 64, np.float32),
        np.zeros((), np.float32),
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(1e-3, momentum=0.9))
    network = network_of(depth, width)
    task = Task(network, losses.cross_entropy, optimizer, lambda step: 1e-3, constants, norms_every=100)
    images = np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8)
    data = {"image": jnp.asarray(images), "label": jnp.asarray(examples(batch)[1])}
    places = jnp.tile(jnp.arange(batch, dtype=jnp.int32), (STEPS, 1))
    rest = (data, {"index": places, "slot": places})
    state = create_state(task, 0, SHAPE)
    steps = jax.jit(partial(train_steps, task=task), donate_argnums=0)
    compiled = steps.lower(state, *rest, jnp.int32(0), jnp.int32(STEPS)).compile()
    done = 0

    def run() -> Any:
        nonlocal state, done
        state, metrics = compiled(state, *rest, jnp.int32(done), jnp.int32(STEPS))
        done += STEPS
        return metrics["loss"]

    return run, compiled.memory_analysis().temp_size_in_bytes, STEPS


def _analysis(name: str, depth: int, width: int, batch: int) -> Measured:
    network = network_of(depth, width)
    variables = jax.jit(lambda key: network.init(key, SHAPE))(jax.random.key(0))
    x, y = map(jnp.asarray, examples(batch))
    lowered: Any
    arguments: tuple[Any, ...]
    if name == "delete each":
        arguments = (variables, x, y)
        all_units = (True,) * network.num_units
        lowered = single_deletions._lesion_batch.lower(
            Cores(), network, losses.cross_entropy, losses.share_wrong, all_units, *arguments
        )
    else:
        arguments = (variables, x, y, jax.random.key(0))
        lowered = path_exact._spectrum.lower(
            Cores(), network, losses.cross_entropy, path_exact.PAPER, *arguments
        )
    compiled = lowered.compile()
    return lambda: compiled(*arguments), compiled.memory_analysis().temp_size_in_bytes, 1


def random_deletions(draws: int) -> Measured:
    network = network_of(BASE["depth"], BASE["width"])
    variables = jax.jit(lambda key: network.init(key, SHAPE))(jax.random.key(0))
    x, y = examples(BASE["batch"])
    return lambda: deletions(network, variables, x, y, ks=(4,), draws=draws).error, None, 1


def prepare(program: str, factor: str, value: int) -> Measured:
    if program == "random deletions":
        return random_deletions(value)
    sizes = {**BASE, factor: value}
    return training_step(**sizes) if program == "training step" else _analysis(program, **sizes)


def measure(rounds: int, status: Any) -> Iterator[dict[str, Any]]:
    """A row for each program and factor; what several rows share is measured once."""
    known: dict[Any, tuple[list[float], int | None]] = {}
    for program, factors in VALUES.items():
        for factor, values in factors.items():
            found = []
            for value in values:
                case = (program, *{**BASE, factor: value}.items())
                if case not in known:
                    status.update(f"{program}, {factor} {value}")
                    known[case] = _timed(*prepare(program, factor, value), rounds)
                found.append(known[case])
            seconds, memory = ([part[i] for part in found] for i in range(2))
            medians = [float(np.median(times)) for times in seconds]
            yield {
                "program": program,
                "factor": factor,
                "values": list(values),
                "seconds": medians,
                "rounds": seconds,
                "temporary_bytes": memory,
                "slope_seconds": slope(values, medians),
                "slope_bytes": None if memory[0] is None else slope(values, memory),
            }


def _timed(
    run: Callable[[], Any], size: int | None, often: int, rounds: int
) -> tuple[list[float], int | None]:
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append((time.perf_counter() - start) / often)
    return times[1:], size


def slope(values: Any, measured: Any) -> float:
    """Of log(measured) over log(values); the first of four or more is left out: constants rule it."""
    skip = 1 if len(values) > 3 else 0
    logs = np.log(np.array([values[skip:], measured[skip:]], np.float64))
    return float(np.polyfit(*logs, 1)[0])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time above memory, a column for each factor, relative to the first value."""
    factors = ("depth", "width", "batch", "draws")
    with style.theme():
        fig, grid = style.axes_grid(2, len(factors))
        fig.set_size_inches(12, 6)
        programs = list(VALUES)
        for column, factor in enumerate(factors):
            for line, (what, name) in enumerate((("seconds", "time"), ("temporary_bytes", "memory"))):
                ax = grid[line][column]
                own = [row for row in rows if row["factor"] == factor and row[what][0] is not None]
                for row in own:
                    i = programs.index(row["program"])
                    values, measured = np.array(row["values"]), np.array(row[what])
                    power = row["slope_seconds" if what == "seconds" else "slope_bytes"]
                    label = f"{row['program']}: {power:.2f}"
                    shown = measured / measured[0]
                    ax.plot(values, shown, style.marker(i) + "-", color=style.color(i), label=label)
                if not own:
                    ax.set_axis_off()
                    ax.text(0.5, 0.5, "many small programs:\nnot measured", ha="center", va="center",
                            transform=ax.transAxes)  # fmt: skip
                    continue
                values = np.array(own[0]["values"])
                ax.plot(values, values / values[0], ":", color=style.ink(), label="linear: 1")
                ax.set(xscale="log", yscale="log", xlabel=factor)
                ax.set_xticks(values, [str(v) for v in values])
                ax.minorticks_off()
                if column == 0:
                    ax.set_ylabel(f"{name}, × the first")
                ax.legend(fontsize=7.5, title="slope", title_fontsize=7.5)
        fig.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--figure", type=Path, help="where to draw them")
    args = parser.parse_args()
    console = Console()
    rows = []
    with console.status("") as status:
        for row in measure(args.rounds, status):
            rows.append(row)
            save(args.json, {"base": BASE, "rows": rows})
    table = Table("program", "factor", title="from depth 20, width 1, batch 8")
    for column in ("values", "seconds", "slope", "MB", "slope"):
        table.add_column(column, justify="right")
    for row in rows:
        memory = row["temporary_bytes"]
        table.add_row(
            row["program"],
            row["factor"],
            f"{row['values'][0]} … {row['values'][-1]}",
            f"{row['seconds'][0]:.3g} … {row['seconds'][-1]:.3g}",
            f"{row['slope_seconds']:.2f}",
            "–" if memory[0] is None else f"{memory[0] / 1e6:.3g} … {memory[-1] / 1e6:.3g}",
            "–" if memory[0] is None else f"{row['slope_bytes']:.2f}",
        )
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")
    if args.figure:
        draw(rows, args.figure)
        console.print(f"written: {args.figure}")


if __name__ == "__main__":
    main()
