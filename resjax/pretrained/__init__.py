"""Import and export of networks trained elsewhere.

``load("resnet50.pth")`` reads a file of PyTorch tensors without PyTorch and without running code in it
(``reading``), finds the network among what the file holds (``source``, ``finding``), recognizes it
(``layouts``) and converts it (``places``, ``convert``, ``biases``).
``python -m resjax.pretrained FILE --workdir=DIR`` makes a workdir from it, to analyze or to continue
training. ``python -m resjax.pretrained.export --workdir=DIR`` writes a run's network, with ``--out=FILE``
for PyTorch, with ``--export=FILE`` as a program for processes that have only JAX.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from resjax import models
from resjax.network import Network
from resjax.pretrained.convert import to_variables, with_new_head
from resjax.pretrained.layouts.layout import Layout
from resjax.pretrained.layouts.recognition import recognize
from resjax.pretrained.source import Source, read

__all__ = ["Layout", "Pretrained", "Source", "load", "read", "recognize"]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network that was trained elsewhere."""

    layout: Layout  # with ``mean`` and ``std`` to standardize its images
    model: ConfigDict  # its configuration, for resjax.models.build
    network: Network
    variables: dict[str, Any]  # as numpy float32
    image_shape: tuple[int, int, int]  # (H, W, C) of its images


def load(
    path: str | Path,
    image_size: int = 0,
    *,
    prefix: str | None = None,
    names: str | Path | Mapping[str, str] | None = None,
    new_head: int = 0,
    **model_fields: Any,
) -> Pretrained:
    """A network from a file of PyTorch tensors.

    Args:
      path, prefix, names: see ``read``.
      image_size: side of the images in pixels; 0 for the size in its training, 224 or 32.
      new_head: classes of a new, random classifier (key 0); 0 to take that of the file.
      **model_fields: changes to the recognized configuration, for properties that a file does not show.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it can't be read without running code, its layout is unknown, its network can't be
        represented here, it has no classifier and ``new_head`` is 0, or tensors are missing, unexpected or
        of another shape.
    """
    source = read(path, prefix=prefix, names=names)
    layout = source.layout
    fields = layout.model.to_dict() | model_fields
    model = models.defaults(fields.pop("name"), **fields)
    size = image_size or layout.image_size
    shape = (size, size, layout.channels)
    classes = new_head or layout.num_classes
    if not classes:
        raise ValueError(
            f"{path} has no classifier of a known name: initialize a new one, load(…, new_head=CLASSES)"
        )
    network = models.build(model, image_shape=shape, num_classes=classes)
    named = layout.naming(network)
    variables = to_variables(source.tensors, network, shape, named, head=not new_head)
    if new_head:
        variables = with_new_head(variables, _fresh_head(network, shape))
    return Pretrained(layout, model, network, variables, shape)


def _fresh_head(network: Network, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The initial variables of the head, as numpy; jit leaves out the computation of the others."""

    @jax.jit
    def head(key: jax.Array) -> dict[str, Any]:
        initial = network.init(key, image_shape)
        return {c: {name: v for name, v in parts.items() if name == "head"} for c, parts in initial.items()}

    return jax.tree.map(np.asarray, head(jax.random.key(0)))
