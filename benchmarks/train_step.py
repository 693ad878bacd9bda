"""A training step of resjax against stock Flax and PyTorch: images a second, and seconds to compile.

    python benchmarks/train_step.py [--networks 20 56 110 resnet50 vit convmixer] [--batch 128]
        [--large-batch 16] [--rounds 5] [--steps 20] [--cores 1] [--together] [--json PATH]
        [--torch-python INTERPRETER-WITH-TORCH]
        [--contenders resjax resjax-1 loop unrolled lax stock torch torch.compile torch.compile-graphs]

Every contender has a process of its own and waits while another one runs; once all have compiled they take
turns, so that a busy machine slows them alike. All of them use every core (or ``--cores``), or the one GPU.

* ``resjax`` runs the program of ``python -m resjax.train``: a round is one dispatch of several steps, which
  take their images from the data set on the device, standardize them, measure norms where a log line is
  due, and check that the update is finite. A CPU's cores are devices of their own, as the command makes them.
* ``resjax-1`` (only by --contenders): the same on one device.
* ``stock`` (``stock.py``): Linen, unrolled, JAX's own convolution and BatchNorm, one dispatch a step.
* ``loop``, ``unrolled`` (only by --contenders): ``resjax`` with one unit a loop iteration, or all of them.
* ``lax`` (only by --contenders): ``resjax`` with JAX's own convolution.
* ``torch``, ``torch.compile`` (``torch_step.py``, where an interpreter is named): channels_last;
  ``torch.compile-graphs`` (only by --contenders) has mode="reduce-overhead", which means CUDA graphs.

Networks are pre-activation ResNets of depth 6n + 2 on 32×32 images; there, too, the vision transformer of
size 'cifar' (``vit``) and ConvMixer-256/8 with windows of 5×5 and patches of 2×2 (``convmixer``), for which
PyTorch has timm, and stock Flax nothing; and ResNet-50 on 224×224. They compute in float32 or, written as
``110:bfloat16``, in that; the numbers of parameters are compared. All use SGD with momentum. Compiling counts
from the Python function on: tracing, lowering and XLA; in PyTorch, the first step. Ratios are medians over
rounds of (seconds of the other / seconds of resjax) in the same round; ``processor`` has the same of the
seconds that the processor worked, which depend less on other work on the machine. ``compile.py`` has more on
compilation. Bounds: a step's multiply-adds (three times the forward pass's) against the rate of a large
matrix product, measured on the same machine in the same dtype; the rate of copying memory stands beside it,
and the bytes that XLA estimates for the compiled step of those that have no loop over units (its "bytes
accessed" counts the body of a loop once).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from results import save
from rich.console import Console
from rich.table import Table
from serving import Contender, against, serve

HERE = Path(__file__).parent


_ALL = 1000  # units a loop iteration: more than a stack has

Served = tuple[float, Callable[[], None], dict[str, float]]
"""Seconds to compile, a round, and facts: parameters, XLA's estimate of the bytes of a step."""
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {"size": "cifar"}),
    "convmixer": ("convmixer", {"width": 256, "depth": 8, "kernel": 5, "patch": 2}),
}
DEFAULT = ("resjax", "stock", "torch", "torch.compile")
TORCH = {"torch": "eager", "torch.compile": "compile", "torch.compile-graphs": "graphs"}


def _stock(network: str, batch: int, dtype: str, steps: int) -> Served:
    import jax
    import stock

    images, labels, size = _examples(network, batch)
    arguments = jax.device_put((images.astype(np.float32) / 64 - 2, labels))
    large = network == "resnet50"
    model = stock.ResNet50(dtype=dtype) if large else stock.ResNet(int(network), dtype=dtype)
    state = stock.create_state(model, size, jax.random.key(0))
    start = time.perf_counter()
    compiled = stock.train_step.lower(state, *arguments).compile()
    seconds = time.perf_counter() - start

    def run_round() -> None:
        nonlocal state
        for _ in range(steps):
            state = compiled(state, *arguments)[0]
        jax.block_until_ready(state)

    return seconds, run_round, _bytes(compiled)


def _bytes(compiled: Any) -> dict[str, float]:
    found = (compiled.cost_analysis() or {}).get("bytes accessed")
    return {"xla_bytes_accessed": found} if found else {}


def _network(name: str, dtype: str, unroll: int = 0, conv: str = "auto") -> Any:
    from resjax import models

    if name == "resnet50":
        model = models.defaults("imagenet_resnet", dtype=dtype, unroll=unroll, conv=conv)
        return models.build(model, image_shape=(224, 224, 3), num_classes=1000)
    family, options = SMALL.get(name) or ("resnet", {"depth": int(name)})
    model = models.defaults(family, **options, dtype=dtype, unroll=unroll, conv=conv)
    return models.build(model, image_shape=(32, 32, 3), num_classes=10)


def _resjax(
    network: str,
    batch: int,
    dtype: str,
    steps: int,
    unroll: int = 0,
    cpu_devices: int = 0,
    conv: str = "auto",
) -> Served:
    import jax
    import jax.numpy as jnp
    import optax

    from resjax import config as configs
    from resjax.data import Statistics
    from resjax.network import losses
    from resjax.train import Task, create_state
    from resjax.training.cores import share_cores
    from resjax.training.devices import Devices

    images, labels, size = _examples(network, batch)
    config = configs.default()
    config.train.batch_size, config.data.image_size = batch, size
    config.parallel.cpu_devices = cpu_devices
    share_cores(config)
    devices = Devices()
    built = _network(network, dtype, unroll, conv)
    constants = Statistics(
        np.full((1, 1, 1, 1), 128, np.float32),
        np.full((1, 1, 1, 1), 64, np.float32),
        np.zeros((), np.float32),
    )
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))
    task = Task(built, losses.cross_entropy, optimizer, lambda step: 0.1, constants, norms_every=100)
    data = devices.copy({"image": images, "label": labels})
    places = np.tile(np.arange(batch, dtype=np.int32), (steps, 1))
    batches = devices.split({"index": places, "slot": places})
    program = devices.train_program(task)
    state = devices.copy(create_state(task, 0, (size, size, 3)))
    done, count = 0, jnp.int32(steps)
    start = time.perf_counter()
    compiled = program.lower(state, data, batches, jnp.int32(0), count, None).compile()
    seconds = time.perf_counter() - start

    def run_round() -> None:
        nonlocal state, done
        state = jax.block_until_ready(compiled(state, data, batches, jnp.int32(done), count, None)[0])
        done += steps

    facts = {"parameters": sum(p.size for p in jax.tree.leaves(state.params))}
    # The loop over the steps of a dispatch counts once, so without a loop over units this is one step's.
    looped = any(built.scan_unroll(stack.n, train=True) < stack.n for stack in built.stacks)
    return seconds, run_round, facts if looped else facts | _bytes(compiled)


OWN: dict[str, Callable[[str, int, str, int], Served]] = {
    "resjax": _resjax,
    "resjax-1": partial(_resjax, cpu_devices=1),
    "loop": partial(_resjax, unroll=1),
    "unrolled": partial(_resjax, unroll=_ALL),
    "lax": partial(_resjax, conv="lax"),
    "stock": _stock,
}


def _examples(network: str, batch: int) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(0)
    size, classes = (224, 1000) if network == "resnet50" else (32, 10)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    return images, rng.integers(0, classes, batch, np.int32), size


def bounds(dtype: str) -> dict[str, float]:
    """Operations a second of a large matrix product, and bytes a second of a copy (read and written)."""
    import jax
    import jax.numpy as jnp

    def fastest(run: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
        jax.block_until_ready(run(x))
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            # Asked for at once, so that none waits for us.
            jax.block_until_ready([run(x) for _ in range(4)])
            times.append((time.perf_counter() - begun) / 4)
        return min(times)

    # Random, for a GPU multiplies zeros and ones faster.
    matrix = jax.random.normal(jax.random.key(0), (4096, 4096), dtype)
    vector = jnp.ones(2**26, jnp.float32)
    return {
        "product_flops": 2 * 4096**3 / fastest(jax.jit(lambda a: a @ a), matrix),
        "copy_bytes": 2 * vector.nbytes / fastest(jax.jit(jnp.negative), vector),
    }


def _multiply_adds(network: str) -> int:
    """Of one image, forward."""
    from resjax.models.layer_table import layer_table, totals

    size = 224 if network == "resnet50" else 32
    return totals(layer_table(_network(network, "float32"), (size, size, 3))).multiply_adds


def contenders_of(
    network: str,
    batch: int,
    dtype: str,
    steps: int,
    torch_python: str | None,
    names: Sequence[str],
    together: bool,
) -> dict[str, Contender]:
    """The named contenders' processes: compiled one after the other, or ``together`` and not awaited."""
    own = (sys.executable, __file__, "--serve")
    commands = {name: (*own, name) for name in OWN}
    if torch_python:
        side = (torch_python, str(HERE / "torch_step.py"))
        commands |= {name: (*side, form) for name, form in TORCH.items()}
    commands = {name: command for name, command in commands.items() if name in names}
    if network in SMALL:
        commands.pop("stock", None)
    given = (network, str(batch), dtype, str(steps))
    if together:
        return {k: Contender(*v, *given) for k, v in commands.items()}
    return {k: Contender(*v, *given).ready() for k, v in commands.items()}


def compete(
    network: str, batch: int, dtype: str, rounds: int, contenders: dict[str, Contender]
) -> dict[str, Any]:
    """Their seconds a step (first round dropped) and to compile."""
    for _ in range(rounds + 1):
        for contender in contenders.values():
            contender.round()
    operations = 3 * 2 * batch * _multiply_adds(network)  # backward twice as many as forward
    row: dict[str, Any] = {"network": network, "batch": batch, "dtype": dtype}
    row["operations"] = operations
    for name, contender in contenders.items():
        contender.close()
        times = contender.step_seconds[1:]
        row[name] = {
            "step_seconds": float(np.median(times)),
            "rounds": times,
            "compile_seconds": contender.compile_seconds,
            "images_per_second": batch / float(np.median(times)),
        }
        row[name] |= against(times, row["resjax"]["rounds"])
        work = contender.processor_seconds[1:]
        own = row[name]["processor"] = {"step_seconds": float(np.median(work)), "rounds": work}
        own |= against(work, row["resjax"]["processor"]["rounds"])
        row[name] |= contender.facts
    counts = {k: v["parameters"] for k, v in row.items() if isinstance(v, dict) and "parameters" in v}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{network}: the contenders differ in their numbers of parameters: {counts}")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks",
        nargs="*",
        default=["20", "56", "110", "resnet50"],
        help="depth[:dtype], or vit, convmixer, resnet50",
    )
    parser.add_argument("--batch", type=int, default=128, help="of the small images")
    parser.add_argument("--large-batch", type=int, default=16, help="of ResNet-50's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a round, one dispatch")
    parser.add_argument(
        "--together", action="store_true", help="all contenders of all networks compile at once: "
        "sooner, where there are many cores and memory, but their seconds to compile say little"
    )  # fmt: skip
    parser.add_argument("--cores", type=int, help="use only so many")
    parser.add_argument("--torch-python", help="an interpreter that has torch")
    parser.add_argument("--contenders", nargs="*", default=DEFAULT, choices=(*OWN, *TORCH))
    parser.add_argument("--json", type=Path, help="where to write the results, after each network")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        name, network, batch, dtype, steps = args.serve
        seconds, run_round, facts = OWN[name](network, int(batch), dtype, int(steps))
        serve(seconds, run_round, int(steps), **facts)
        return
    if "resjax" not in args.contenders:
        parser.error("--contenders without resjax: ratios are to it; name it too")
    if args.contenders != DEFAULT and "torch" in " ".join(args.contenders) and not args.torch_python:
        parser.error("torch and torch.compile need --torch-python")

    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    # Contenders share a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    console = Console()
    table = Table("network", "contender", title="one training step; ratio: resjax's speed / theirs")
    for column in ("seconds", "images/s", "ratio (range)", "processor", "ratio (range)", "to compile"):
        table.add_column(column, justify="right")
    named = (name.partition(":") for name in dict.fromkeys(args.networks))
    rows = [(network, dtype or "float32") for network, _, dtype in named]
    wrong = {dtype for _, dtype in rows} - {"float32", "bfloat16"}
    if wrong:
        parser.error(f"{', '.join(wrong)}; allowed: float32, bfloat16")

    def begin(network: str, dtype: str) -> dict[str, Contender]:
        given = (args.steps, args.torch_python, args.contenders, args.together)
        return contenders_of(network, sizes(network), dtype, *given)

    def sizes(network: str) -> int:
        return int(args.large_batch if network == "resnet50" else args.batch)

    record: dict[str, Any] = {"steps_a_round": args.steps, "together": args.together, "rows": []}
    record["cores"] = len(os.sched_getaffinity(0))
    started = {}
    if args.together:
        started = {row: begin(*row) for row in rows}
        for row, contenders in started.items():
            for name, contender in contenders.items():
                seconds = contender.ready().compile_seconds
                console.print(f"{', '.join(row)}, {name}: compiled in {seconds:.0f} s")
    for network, dtype in rows:
        with console.status(f"{network}, {dtype}: compiling and measuring"):
            contenders = started.get((network, dtype)) or begin(network, dtype)
            row = compete(network, sizes(network), dtype, args.rounds, contenders)
        record["rows"].append(row)
        add_rows(table, row)
        save(args.json, record)
    console.print(table)
    record["bounds"] = {dtype: bounds(dtype) for dtype in dict.fromkeys(d for _, d in rows)}
    save(args.json, record)
    for dtype, limits in record["bounds"].items():
        console.print(
            "{dtype}: a large matrix product: {product_flops:.3g} operations a second; "
            "a copy: {copy_bytes:.3g} bytes a second".format(dtype=dtype, **limits)
        )
    for row in record["rows"]:
        limits = record["bounds"][row["dtype"]]
        share = row["operations"] / row["resjax"]["step_seconds"] / limits["product_flops"]
        name = f"{row['network']}, {row['dtype']}"
        console.print(f"{name}: resjax's step does {share:.0%} of such a product's rate")
        for it in (k for k in row if isinstance(row[k], dict) and "xla_bytes_accessed" in row[k]):
            rate = row[it]["xla_bytes_accessed"] / row[it]["step_seconds"]
            console.print(
                f"  {it}: {rate / limits['copy_bytes']:.0%} of the copy's rate, by XLA's estimate of bytes"
            )


def add_rows(table: Table, row: dict[str, Any]) -> None:
    for name in (k for k in row if isinstance(row[k], dict)):
        it = row[name]
        table.add_row(
            "{network}, batch {batch}, {dtype}".format(**row) if name == "resjax" else "",
            name,
            f"{it['step_seconds']:.4f}",
            f"{it['images_per_second']:.0f}",
            "{:.2f}× ({:.2f} to {:.2f})".format(it["ratio"], *it["range"]),
            f"{it['processor']['step_seconds']:.4f}",
            "{:.2f}× ({:.2f} to {:.2f})".format(it["processor"]["ratio"], *it["processor"]["range"]),
            f"{it['compile_seconds']:.1f}",
        )


if __name__ == "__main__":
    main()
