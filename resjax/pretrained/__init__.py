"""Import and export of networks trained elsewhere.

``load("resnet50.pth")`` reads a file of PyTorch tensors without PyTorch (``files``, ``torch_files``), finds
the network in it (``source``, ``prefixes``, ``names``), recognizes it (``layouts``, ``naming``) and converts
it (``places``, ``convert``).
``python -m resjax.pretrained FILE --workdir=DIR`` makes a workdir from it, to analyze or to continue
training. ``python -m resjax.pretrained.export --workdir=DIR --out=FILE`` writes a run's network for PyTorch.
"""

import dataclasses
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from resjax import models
from resjax.network import Network
from resjax.pretrained.convert import to_variables
from resjax.pretrained.layout import Layout
from resjax.pretrained.layouts import recognize
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
    names: str | Path | None = None,
    **model_fields: Any,
) -> Pretrained:
    """A network from a file of PyTorch tensors.

    Args:
      path, prefix, names: see ``read``.
      image_size: side of the images in pixels; 0 for the size in its training, 224 or 32.
      **model_fields: changes to the recognized configuration, for properties that a file does not show.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it can't be read without running code, its layout is unknown, its network can't be
        represented here, or tensors are missing, unexpected or of another shape.
    """
    source = read(path, prefix=prefix, names=names)
    layout = source.layout
    fields = layout.model.to_dict() | model_fields
    model = models.defaults(fields.pop("name"), **fields)
    size = image_size or layout.image_size
    shape = (size, size, 3)
    network = models.build(model, image_shape=shape, num_classes=layout.num_classes)
    variables = to_variables(source.tensors, network, shape, layout.naming(network))
    return Pretrained(layout, model, network, variables, shape)
