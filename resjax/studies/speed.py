"""How long one pass of one example takes, measured on a network and the machine at hand.

Three programs run on one batch of the evaluation set: a forward pass, the same unit by unit, and a gradient
of the mean loss with respect to the parameters. Each runs once to be compiled and ``ROUNDS`` times for its
time; the fastest round counts, since whatever else the machine does can only add time. The gradient is
counted as three passes of equal time, one forward and two backward. Where it can't be computed, a backward
pass counts as one or two forward ones.

The forward programs are those that studies use, so they are not compiled again for batches of the same size,
which a quick look often has. A pass of a smaller batch takes longer for each example than is measured here.

The time of a compilation is that of a program which no cache has. After a first look the cache has these
programs, but not those of studies that were left out: their estimates would be too low.

*Cost.* The compilation of three programs, two of them in every command, and about a dozen passes of a batch:
a few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from resjax.cpu.compilation import compiling_anew
from resjax.network import Network, Variables
from resjax.network.losses import Loss
from resjax.studies.costs import Speed
from resjax.studies.lesions.prefixes import count_passes, deleting, measure_places
from resjax.studies.options import Options
from resjax.studies.subject import Subject
from resjax.studies.variants import measure, with_gates

ROUNDS = 2
MOST_EXAMPLES = 64


def measure_speed(run: Subject, options: Options, *, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Seconds of a pass of each kind, and of the compilation of a forward pass; see the module.

    Args:
      run: its network and its evaluation examples are used.
      options: of which ``batch_size`` is used, up to 64.
      clock: returns seconds.
    """
    size = min(options.batch_size, MOST_EXAMPLES)
    given = network, variables, images, labels = run.evaluation(size)
    how: Any = {"loss": run.loss, "metric": run.metric, "batch_size": size}
    count, n = len(labels), network.num_units
    gates = np.ones((1, n), np.float32)
    timed = partial(_first_and_fastest, clock)
    # Two programs: the intact network, and one variant compared with it.
    first, two = timed(lambda: measure(*given, with_gates, gates, **how), compiling_anew())
    forward = two / (2 * count)
    walked = forward
    if network.chained and run.deletable.any():
        last = int(np.flatnonzero(run.deletable)[-1])
        places = deleting(np.arange(n)[None] == last)
        _, own = timed(lambda: measure_places(*given, places, **how))
        walked = own / (count_passes(places) * count)
    backward = forward
    leaves = jax.tree.leaves(variables["params"])
    if leaves and all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        batch = variables["params"], variables, *jax.device_put((images, np.asarray(labels)))
        try:
            _, own = timed(lambda: jax.block_until_ready(_gradient(network, run.loss, *batch)))
            backward = own / (3 * count)
        except Exception:  # a function without a derivative, or no memory: studies that need it tell
            backward = 2 * forward
    return Speed(forward, walked, backward, max(first - two, 0.0) / 2)


def _first_and_fastest(
    clock: Callable[[], float], run: Callable[[], Any], first: AbstractContextManager[None] | None = None
) -> tuple[float, float]:
    """Seconds of the first call, which compiles within the context ``first``, and of the fastest of the later
    ones."""
    seconds = []
    contexts: list[AbstractContextManager[None]] = [first or nullcontext(), *[nullcontext()] * ROUNDS]
    for context in contexts:
        with context:
            start = clock()
            run()
            seconds.append(clock() - start)
    return seconds[0], min(seconds[1:])


@partial(jax.jit, static_argnums=(0, 1))
def _gradient(network: Network, loss: Loss, params: Any, variables: Variables, x: Any, y: jax.Array) -> Any:
    def mean(params: Any) -> jax.Array:
        return jnp.mean(loss(network.apply({**variables, "params": params}, x).logits, y))

    return jax.grad(mean)(params)
