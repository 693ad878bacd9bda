"""Tensors of another framework → the variables of a network, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from resjax.network import Network, Variables
from resjax.pretrained.files import Tensors
from resjax.pretrained.places import Naming, Place, Shape, places

# A counter of PyTorch that inference does not use.
_COUNTERS = "num_batches_tracked"


def to_variables(
    tensors: Tensors, network: Network, image_shape: Shape, naming: Naming, *, head: bool = True
) -> dict[str, Any]:
    """The variables of ``network`` for images (H, W, C), float32, in the layout of ``Network.init``.

    ``naming`` gives the names of its layers. The classifier is included if ``head``.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape; the message names them.
    """
    wanted = {place.key(naming): place for place in places(network, image_shape)}
    unexpected = sorted(k for k in tensors if k not in wanted and not k.endswith(_COUNTERS))
    missing = [key for key in wanted if key not in tensors]
    arrays: dict[Place, np.ndarray] = {}
    misshaped, hint = [], ""
    for key, place in wanted.items():
        classifier = (place.module.part, place.module.path) == ("head", ("classifier",))
        if key not in tensors or (classifier and not head):
            continue
        tensor = tensors[key]
        if place.fits(tensor.shape):
            arrays[place] = place.from_torch(tensor)
            continue
        misshaped.append(f"{key} {tensor.shape} instead of {place.torch_shape}")
        if place.channels:
            hint = (
                " The number of inputs of this fully connected layer depends on the image size: use that of "
                "its training (data.image_size)."
            )
    problems = {"Missing": missing, "Unexpected": unexpected, "Of another shape": misshaped}
    if any(problems.values()):
        listed = " ".join(f"{kind}: {_some(names)}." for kind, names in problems.items() if names)
        raise ValueError(f"the tensors do not fit the network. {listed}{hint}")
    return _tree(arrays)


def to_tensors(
    variables: Variables, network: Network, image_shape: Shape, naming: Naming
) -> dict[str, np.ndarray]:
    """The inverse of ``to_variables``: tensors by name, float32, in PyTorch's order of dimensions."""
    tensors = {}
    for place in places(network, image_shape):
        tree: Any = variables[place.collection][place.module.part]
        for name in (*place.module.path, place.leaf):
            tree = tree[name]
        array = np.asarray(tree[place.module.position] if place.units else tree)
        tensors[place.key(naming)] = place.to_torch(array)
    return tensors


def with_new_head(variables: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """``variables``, which lack a classifier, with that of ``fresh``."""
    taken = jax.tree_util.tree_flatten_with_path(variables)[0]
    there = {jax.tree_util.keystr(path): leaf for path, leaf in taken}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: there.get(jax.tree_util.keystr(path), leaf), dict(fresh)
    )


def _tree(arrays: Mapping[Place, np.ndarray]) -> dict[str, Any]:
    stacked: dict[tuple[str, ...], list[np.ndarray]] = {}
    units: dict[tuple[str, ...], int] = {}
    for place, array in arrays.items():  # positions come in order
        path = (place.collection, place.module.part, *place.module.path, place.leaf)
        stacked.setdefault(path, []).append(array)
        units[path] = place.units
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, found in stacked.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = np.stack(found) if units[path] else np.ascontiguousarray(found[0])
    return tree


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
