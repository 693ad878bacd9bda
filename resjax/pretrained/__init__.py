"""Import and export of networks trained elsewhere.

``load("resnet50.pth")`` reads a file of PyTorch tensors without PyTorch (``files``, ``torch_files``),
recognizes their naming scheme (``layouts``, ``naming``) and converts them (``places``, ``convert``).
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
from resjax.pretrained.files import read
from resjax.pretrained.layouts import Layout, recognize

__all__ = ["Layout", "Pretrained", "load", "read", "recognize"]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network that was trained elsewhere."""

    layout: Layout  # with ``mean`` and ``std`` to standardize its images
    model: ConfigDict  # its configuration, for resjax.models.build
    network: Network
    variables: dict[str, Any]  # as numpy float32
    image_shape: tuple[int, int, int]  # (H, W, C) of its images


def load(path: str | Path, image_size: int = 0, **model_fields: Any) -> Pretrained:
    """A network from a file of PyTorch tensors.

    Args:
      path: safetensors, or a file of ``torch.save``.
      image_size: side of the images in pixels; 0 for the size in its training, 224 or 32.
      **model_fields: changes to the recognized configuration, for properties that a file does not show.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it can't be read without running code, its layout is unknown, its network can't be
        represented here, or tensors are missing, unexpected or of another shape.
    """
    tensors = read(path)
    layout = recognize(tensors)
    fields = layout.model.to_dict() | model_fields
    model = models.defaults(fields.pop("name"), **fields)
    size = image_size or layout.image_size
    shape = (size, size, 3)
    network = models.build(model, image_shape=shape, num_classes=layout.num_classes)
    variables = to_variables(tensors, network, shape, layout.naming(network))
    return Pretrained(layout, model, network, variables, shape)
