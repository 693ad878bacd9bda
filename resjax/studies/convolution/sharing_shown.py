"""How sharing and sparseness are shown; the numbers are those of ``resjax.studies.convolution.sharing``."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from resjax.models.local import CONNECTIONS, layer
from resjax.studies.batches import Progress
from resjax.studies.convolution import sharing
from resjax.studies.convolution.sharing import LayerJacobian, layer_jacobian
from resjax.studies.old_study import Claim, Finding, Table
from resjax.studies.words import count, join, percent

Results = Mapping[str, LayerJacobian]


def _run(smoke: bool, seed: int, progress: Progress | None) -> dict[str, LayerJacobian]:
    del smoke  # it takes seconds
    key, results = jax.random.key(seed), {}
    for i, name in enumerate(CONNECTIONS):
        if progress:
            progress(i, 1 + len(CONNECTIONS))
        one = layer(name, 1, 3, (8, 8), pad=False)
        variables = jax.jit(one.init)(key, np.zeros((1, 8, 8, 1), np.float32))
        window = 64 if name == "dense" else 9
        results[name] = layer_jacobian(one, variables, (8, 8, 1), window=window)
    large = layer("convolution", 6, 5, (32, 32), pad=False)
    variables = jax.jit(large.init)(key, np.zeros((1, 32, 32, 3), np.float32))
    results["larger convolution"] = layer_jacobian(
        large, variables, (32, 32, 3), window=75, keep=False
    )
    if progress:
        progress(1 + len(CONNECTIONS), 1 + len(CONNECTIONS))
    return results


def as_designed(r: LayerJacobian) -> bool:
    """Whether an unpadded layer's Jacobian holds what the arithmetic of windows says."""
    sparse = r.connections == r.window and np.isclose(r.zeros, r.predicted_zeros, atol=1e-12)
    return bool(sparse and r.values == r.weights)


def finding(results: Results) -> Finding:
    """Whether what was counted is what was measured."""
    points = [
        f"{label}, {_shape(r.input_shape)} to {_shape(r.output_shape)}: {percent(r.zeros)} zeros "
        f"(predicted {percent(r.predicted_zeros)}); an output sees {r.connections:,} of {r.inputs:,} "
        f"inputs; {count(r.distinct, 'different row')} among {r.outputs:,}, so {r.values:,} numbers, for "
        f"{count(r.weights, 'weight')}; biases: {r.biases:,}."
        for label, r in results.items()
    ]
    odd = [label for label, r in results.items() if not as_designed(r)]
    if odd:
        return Finding(f"The Jacobian is not what the design says: {join(odd)}.", points)
    r = max(results.values(), key=lambda r: r.outputs)
    return Finding(
        f"Jacobians hold what the design says. From {_shape(r.input_shape)} to {_shape(r.output_shape)}, "
        f"{r.weights:,} weights do, where {r.unshared_weights:,} would if none were shared, and "
        f"{r.dense_weights:,} if every output saw every input.",
        points,
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def table(results: Results) -> Table:
    """One row a layer."""
    rows = [
        (
            label,
            _shape(r.input_shape),
            _shape(r.output_shape),
            f"{r.weights:,}",
            f"{r.biases:,}",
            f"{r.connections:,}",
            percent(r.zeros),
            percent(r.predicted_zeros),
            f"{r.distinct:,}",
            f"{r.unshared_weights:,}",
            f"{r.dense_weights:,}",
        )
        for label, r in results.items()
    ]
    columns = (
        "layer",
        "input",
        "output",
        "weights",
        "biases",
        "an output sees",
        "zeros",
        "predicted",
        "different rows",
        "weights if unshared",
        "if dense",
    )
    return Table(columns, rows)


CLAIM = Claim(
    name="sharing",
    title="Sparse connections, shared weights",
    question=(
        "Why convolutions? A layer is a matrix between all inputs and all outputs. In a convolution most "
        "of its entries are 0 (an output sees its window only), and the others repeat along the diagonal "
        "(all positions use the same weights). Shown are the matrices, measured by differentiating the "
        "layers, and how many numbers each form needs."
    ),
    code=(
        "import jax, numpy as np\n"
        "from resjax.studies.convolution import sharing\n"
        "from resjax.models.local import layer\n"
        "conv = layer('convolution', 6, 5, (32, 32), pad=False)\n"
        "variables = conv.init(jax.random.key(0), np.zeros((1, 32, 32, 3)))\n"
        "sharing.layer_jacobian(conv, variables, (32, 32, 3), window=75)"
    ),
    result=LayerJacobian,
    run=_run,
    plot=sharing.plot,
    finding=finding,
    table=table,
    summary=lambda results: {},
)
