"""Which fully connected layers of a file are a network's head.

A head is one fully connected layer, or a ``Sequential`` of several, with ReLU and dropout between them:
``fc``, ``fc.1`` (behind a dropout), ``fc.0`` and ``fc.3``. Layers without tensors are not in a file, so the
numbers say only where something stands between.
"""

import re

from resjax.pretrained.reading.files import Tensors

# Names of a head, in the order in which they are tried.
ROOTS = ("fc", "linear", "classifier", "head.fc", "head", "last_linear", "output", "output_layer", "out",
         "logits", "final", "fully_connected", "dense")  # fmt: skip
_LAYERS = 16


def dense(tensors: Tensors) -> tuple[str, ...]:
    """The names of the head's fully connected layers, in order; () if there is no head of a known form.

    Raises:
      ValueError: it has more than 16 layers.
    """
    found = next(filter(None, (_under(tensors, root) for root in ROOTS)), ())
    if len(found) > _LAYERS:
        raise ValueError(f"a head of {len(found):,} fully connected layers; at most {_LAYERS} are imported")
    return found


def _under(tensors: Tensors, root: str) -> tuple[str, ...]:
    inside = [name for name in tensors if name.startswith(f"{root}.")]
    layers = {name.rpartition(".")[0] for name in inside}
    numbered = all(re.fullmatch(rf"{re.escape(root)}(\.\d+)?", layer) for layer in layers)
    if not inside or not numbered:
        return ()
    in_order = sorted(layers, key=lambda layer: int("0" + layer[len(root) + 1 :]))
    shapes = [tensors[f"{layer}.weight"].shape for layer in in_order if f"{layer}.weight" in tensors]
    if len(shapes) != len(layers) or any(len(shape) < 2 for shape in shapes):
        return ()  # a BatchNorm, or a parameter of another kind
    return tuple(in_order)
