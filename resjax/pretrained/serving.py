"""The forward pass of a network as a file that JAX alone runs: StableHLO of ``jax.export``.

The weights are constants of the program, and the batch size is free. Whoever serves the network needs neither
this package nor Flax, and no code of the model::

    import jax.export, pathlib
    net = jax.export.deserialize(bytearray(pathlib.Path("net.jaxexport").read_bytes()))
    logits = jax.jit(net.call)(images)

Convolutions are JAX's own, so that one file is for CPUs, GPUs and TPUs. (In this package, those on a CPU have
another form, see ``resjax.cpu.conv``; the values are equal up to rounding.) A program can't be trained on: it
has no derivatives, no training mode and no gates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import export

from resjax.cpu.conv import any_device
from resjax.network import Network, Variables
from resjax.network.example import one_example

PLATFORMS = ("cpu", "cuda", "tpu")


def forward_program(
    network: Network,
    variables: Variables,
    example: Any,
    prepare: Callable[[Any], Any] | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
) -> export.Exported:
    """The program inputs → logits outside training, for any batch size; ``serialize()`` gives the bytes.

    ::

        found = resjax.discover(fn, params, images[:2])
        program = forward_program(found.network, found.variables, images[:2])
        Path("net.jaxexport").write_bytes(program.serialize())

    Args:
      network, variables: any, also those that ``resjax.discover`` found.
      example: a batch of inputs, or its shapes and dtypes; of images, (H, W, C) suffices and means float32.
      prepare: what is done to the inputs in the program before the network, such as standardization.
      platforms: the devices that can run the program, some of 'cpu', 'cuda', 'rocm' and 'tpu'.

    Returns:
      A program that takes inputs like ``example`` with any number of examples and returns float logits
      [B, …, classes].
    """
    (batch,) = export.symbolic_shape("batch")
    inputs = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct((batch, *v.shape[1:]), v.dtype), one_example(example)
    )

    def forward(x: Any) -> jax.Array:
        return network.apply(variables, x if prepare is None else prepare(x)).logits

    with any_device(), _without_places():
        return export.export(jax.jit(forward), platforms=platforms)(inputs)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Programs lowered under it do not name the files and lines of the code that they were traced from."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
