"""Does the accelerator compute what the CPU computes? One training step of every kind of network on both.

    python launch/accelerator.py [--json=PATH]

Start here on a GPU or TPU that is new: minutes, most of them compilation (five on an H200 beside a training,
where the last network was not reached; two busy cores take 2.6 minutes against themselves). The loss and the
norm of the gradient of one step are compared in float32, with matrix products at full precision, and in
bfloat16, whose 8 bits allow more. A table, and exit status 1 where one differs by more than its tolerance.
Without an accelerator the CPU is compared with itself, which says only that every network runs. The numbers
are written after each network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from resjax import command, models
from resjax.network import losses
from resjax.workdir.provenance import provenance
from resjax.workdir.workdir import write

# Builder, image size, fields: small forms of what the configurations train.
NETWORKS: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "ResNet-20": ("resnet", (32, 32, 3), {"depth": 20}),
    "plain-20": ("resnet", (32, 32, 3), {"depth": 20, "shortcut": "none"}),
    "ResNet-50": ("imagenet_resnet", (64, 64, 3), {"depth": 50}),
    "VGG-11, BatchNorm": ("vgg", (64, 64, 3), {"configuration": "A", "norm": True}),
    "AlexNet": ("alexnet", (227, 227, 3), {}),
    "LeNet-5": ("lenet5", (32, 32, 1), {}),
    "Veit's plain": ("veit_plain", (32, 32, 3), {}),
}
# Relative; float32 sums in another order, bfloat16 rounds at every layer.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
BATCH = 8


def one_step(name: str, dtype: str, device: jax.Device) -> tuple[float, float]:
    """Loss and gradient norm of a network at initialization, on ``device``."""
    builder, shape, fields = NETWORKS[name]
    model = models.defaults(builder, **fields, dtype=dtype)
    network = models.build(model, image_shape=shape, num_classes=10)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, *shape), np.float32)
    y = rng.integers(0, 10, BATCH, np.int32)

    def loss(params: Any, stats: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        variables = {"params": params, "batch_stats": stats}
        logits = network.apply(variables, x, train=True, key=jax.random.key(1)).logits
        return jnp.mean(losses.cross_entropy(logits, y))

    with jax.default_device(device):
        variables = jax.jit(lambda key: network.init(key, shape))(jax.random.key(0))
        with jax.default_matmul_precision("highest"):
            value, gradient = jax.jit(jax.value_and_grad(loss))(
                variables["params"], variables["batch_stats"], x, y
            )
        return float(value), float(optax.tree.norm(gradient))


def compare(path: Path | None = None) -> list[dict[str, Any]]:
    """One row a network and dtype: both numbers on both devices, and whether they agree; also in ``path``."""
    rows: list[dict[str, Any]] = []
    cpu = jax.devices("cpu")[0]
    for name in NETWORKS:
        for dtype, allowed in TOLERANCE.items():
            here, there = one_step(name, dtype, jax.devices()[0]), one_step(name, dtype, cpu)
            apart = float(np.max(np.abs(np.subtract(here, there)) / np.abs(there)))
            agree = bool(apart <= allowed)  # NaN does not
            rows.append(
                {"network": name, "dtype": dtype, "loss, gradient norm": here, "on CPU": there}
                | {"relative difference": apart, "allowed": allowed, "agree": agree}
            )
            print(f"{name:18} {dtype:9} {apart:.1e}  {'agree' if agree else 'DIFFER'}", flush=True)
            if path:
                found = {"provenance": provenance(), "rows": rows}
                write(path, json.dumps(found, indent=1) + "\n")
    return rows


def _main(argv: list[str]) -> None:
    del argv
    rows = compare(Path(_JSON.value) if _JSON.value else None)
    if not all(row["agree"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    _JSON = flags.DEFINE_string("json", "", "Where to write the numbers.")
    command.run(_main)
