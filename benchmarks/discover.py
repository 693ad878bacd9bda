"""What it costs to take somebody's function apart: finding its units, compiling, deleting each unit.

    python benchmarks/discover.py [--networks ResNet-50 ViT-B] [--delete ResNet-50] [--rounds 3] [--json PATH]

The networks are written below as their users write them, in Linen, without a part of resjax: ResNets of
bottleneck blocks and vision transformers, with ImageNet's 1,000 classes. Three questions, each beside the
function as it was, in one process, where contenders take turns:

* **Discovery.** ``resjax.discover``, beside one trace of the function, which is its floor.
* **Compilation.** From the Python function to the compiled forward pass, tracing included, of
  ``found.network.apply`` and of the function. Equal units are one loop in the first.
* **Deleting each of n units** (networks of ``--delete``). ``lesion(found.network, …)``, beside n + 1 calls of
  the user's own jitted function on the same images: what deletions by hand cost if they need no compilation
  of their own. The first round, which compiles, is reported apart.

Discovery and compilation need shapes only; each round forgets what JAX compiled before. Weights are random,
for timings do not depend on them. The logits of both must agree to 1e-3 of their size.

Seconds are those of the clock, and those of the processor, summed over threads. Other work on the machine
changes the latter less, so the table has them; the file has both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from results import save
from rich.console import Console
from rich.table import Table

import resjax
from resjax.studies.lesions.lesion import lesion

CLASSES = 1000
CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "wall": time.perf_counter}
RATIOS = {
    "discover ÷ trace": ("discover", "trace"),
    "compile": ("compile function", "compile network"),
    "delete each": ("n + 1 calls", "lesion"),
}
Times = dict[str, list[dict[str, float]]]  # of each round, by contender and clock


class Bottleneck(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm() -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=not train)

        f = nn.relu(norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        f = nn.relu(norm()(nn.Conv(self.features, (3, 3), self.stride, use_bias=False)(f)))
        f = norm()(nn.Conv(4 * self.features, (1, 1), use_bias=False)(f))
        if x.shape != f.shape:
            x = norm()(nn.Conv(4 * self.features, (1, 1), self.stride, use_bias=False)(x))
        return nn.relu(x + f)


class ResNet(nn.Module):
    blocks: tuple[int, ...]
    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(self.features, (7, 7), 2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, n in enumerate(self.blocks):
            for i in range(n):
                x = Bottleneck(self.features * 2**stage, 2 if stage and not i else 1)(x, train)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Layer(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(h, h)
        h = nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(h))


class ViT(nn.Module):
    depth: int
    width: int
    heads: int
    patch: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (self.patch, self.patch), self.patch)(x)
        x = x.reshape(len(x), -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(self.depth):
            x = Layer(self.heads)(x)
        return nn.Dense(CLASSES)(nn.LayerNorm()(x).mean(1))


NETWORKS: dict[str, nn.Module] = {
    "ResNet-50": ResNet((3, 4, 6, 3)),
    "ResNet-152": ResNet((3, 8, 36, 3)),
    "ViT-B": ViT(depth=12, width=768, heads=12),
    "ViT, 48 layers": ViT(depth=48, width=384, heads=6),
}
SMALL: dict[str, nn.Module] = {
    "ResNet-14": ResNet((1, 2, 1), features=4),
    "ViT, 2 layers": ViT(depth=2, width=8, heads=2),
}


def random_variables(specs: Any) -> Any:
    """Kernels that keep the size of their inputs; scales and variances 1, all else 0."""
    rng = np.random.default_rng(0)

    def drawn(path: Any, spec: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(spec.shape, spec.dtype)
        if name != "kernel":
            return np.zeros(spec.shape, spec.dtype)
        values = rng.standard_normal(spec.shape, np.float32)
        return values / np.sqrt(max(values.size // spec.shape[-1], 1))

    return jax.tree_util.tree_map_with_path(drawn, specs)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[dict[str, float], Any]:
    """The seconds of one call by each clock, and what it returned."""
    starts = {name: clock() for name, clock in CLOCKS.items()}
    value = jax.block_until_ready(function(*arguments))
    return {name: clock() - starts[name] for name, clock in CLOCKS.items()}, value


def find_and_compile(model: nn.Module, specs: Any, image: Any, rounds: int) -> tuple[Any, list[Any], Times]:
    """What was found, both compiled forward passes (the function's, the network's), and the seconds."""

    def fresh() -> Callable[..., Any]:
        return lambda v, x: model.apply(v, x)  # JAX remembers the traces of a function that it knows

    def compiled(fn: Callable[..., Any], variables: Any) -> Any:
        return jax.jit(fn).lower(variables, image).compile()

    contenders: dict[str, Callable[[Any], Any]] = {
        "trace": lambda _: jax.make_jaxpr(fresh())(specs, image),
        "discover": lambda _: resjax.discover(fresh(), specs, image),
        "compile function": lambda _: compiled(fresh(), specs),
        "compile network": lambda found: compiled(
            lambda v, x: found.network.apply(v, x).logits, found.variables
        ),
    }
    times: Times = {name: [] for name in contenders}
    made: dict[str, Any] = {}
    for _ in range(rounds):
        for name, contender in contenders.items():
            jax.clear_caches()
            one, made[name] = timed(contender, made.get("discover"))
            times[name].append(one)
    return made["discover"], [made["compile function"], made["compile network"]], times


def delete_each(found: Any, function: Any, variables: Any, images: np.ndarray, rounds: int) -> Times:
    """The seconds of both ways; in the first round that of ``lesion`` has its compilation."""
    labels, n = np.arange(len(images)) % CLASSES, found.network.num_units
    stacked = jax.device_put(found.stack(variables))
    variables, x = jax.device_put(variables), jax.device_put(images)
    contenders: dict[str, Callable[[], Any]] = {
        "n + 1 calls": lambda: [jax.device_get(function(variables, x)) for _ in range(n + 1)],
        "lesion": lambda: lesion(found.network, stacked, images, labels, batch_size=len(images)).error,
    }
    times: Times = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            times[name].append(timed(contender)[0])
    return times


def check(found: Any, programs: list[Any], variables: Any, images: np.ndarray) -> float:
    """The largest difference of logits, as a share of the largest logit.

    Raises:
      ValueError: it is above 1e-3, so that two networks would be compared.
    """
    expected, logits = programs[0](variables, images), programs[1](found.stack(variables), images)
    apart = float(jnp.abs(logits - expected).max() / jnp.abs(expected).max())
    if not apart <= 1e-3:
        raise ValueError(f"the logits of function and network differ by {apart:.1e}; allowed: 1e-3")
    return apart


def ratio(times: Times, above: str, below: str, clock: str) -> dict[str, Any]:
    """Median and range over the rounds."""
    each = [a[clock] / b[clock] for a, b in zip(times[above], times[below], strict=True)]
    return {"median": float(np.median(each)), "range": [min(each), max(each)]}


def measure(model: nn.Module, batch: int, size: int, rounds: int, delete: bool) -> dict[str, Any]:
    """All seconds and ratios of one network."""
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    specs = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), image)
    found, programs, times = find_and_compile(model, specs, image, rounds)
    images = np.random.default_rng(1).standard_normal(image.shape, np.float32)
    variables = random_variables(specs)
    apart, first = check(found, programs, variables, images), None
    if delete:
        deleting = delete_each(found, programs[0], variables, images, rounds)
        first = deleting["lesion"][0]
        times |= {name: rows[1:] for name, rows in deleting.items()}
    return {
        "units": found.network.num_units,
        "classes": len({stack.group or stack.name for stack in found.network.stacks}),
        "parameters": found.num_parameters,
        "seconds": times,
        "first lesion": first,
        "largest difference of logits": apart,
        "ratios": {
            clock: {name: ratio(times, *pair, clock) for name, pair in RATIOS.items() if pair[0] in times}
            for clock in CLOCKS
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--delete", nargs="*", choices=NETWORKS, default=["ResNet-50", "ViT-B"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="pixels on a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--smoke", action="store_true", help="two tiny networks, one round")
    args = parser.parse_args()
    networks = SMALL if args.smoke else {name: NETWORKS[name] for name in args.networks}
    batch, size, rounds = (2, 32, 1) if args.smoke else (args.batch, args.size, args.rounds)
    jax.config.update("jax_enable_compilation_cache", False)

    console = Console()
    table = Table("network", title=f"processor seconds, batch {batch} of {size}×{size}×3")
    columns = (
        "units",
        "discover",
        "of a trace",
        "compile: fn, found",
        "ratio",
        "delete: calls, lesion",
        "ratio",
    )
    for column in columns:
        table.add_column(column, justify="right")
    rows = []
    with console.status("") as status:
        for name, model in networks.items():
            status.update(name)
            row = {"network": name, **measure(model, batch, size, rounds, args.smoke or name in args.delete)}
            rows.append(row)
            save(args.json, {"batch": batch, "size": size, "rounds": rounds, "rows": rows})
            table.add_row(name, *_cells(row))
    console.print(table)
    if args.json:
        console.print(f"written: {args.json}")


def _cells(row: dict[str, Any]) -> list[str]:
    def medians(*names: str) -> str:
        times = [row["seconds"].get(name) for name in names]
        return ", ".join(f"{np.median([one['processor'] for one in own]):.3g}" for own in times if own)

    def ratios(name: str) -> str:
        one = row["ratios"]["processor"].get(name)
        return f"{one['median']:.2f}× ({one['range'][0]:.2f} to {one['range'][1]:.2f})" if one else "–"

    return [
        f"{row['units']} in {row['classes']} classes",
        medians("discover"),
        ratios("discover ÷ trace"),
        medians("compile function", "compile network"),
        ratios("compile"),
        medians("n + 1 calls", "lesion"),
        ratios("delete each"),
    ]


if __name__ == "__main__":
    main()
