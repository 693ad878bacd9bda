"""Weights that a file holds as several tensors: pruning masks, weight and spectral normalization.

PyTorch computes such a weight from its parts before each use:

* ``torch.nn.utils.prune``: ``weight_orig`` × ``weight_mask``, and biases alike;
* ``weight_norm``: ``weight_g`` · v / ‖v‖ with v = ``weight_v``, where the norm is over the dimensions that g
  lacks; ``parametrizations.weight.original0`` and ``original1`` are g and v in the newer form;
* ``spectral_norm``: W / σ with σ = uᵀ W v, of ``weight_orig`` (as a matrix with a row for each output),
  ``weight_u`` and ``weight_v``; ``parametrizations.weight.original``, ``0._u``, ``0._v`` in the newer form;
* ``BatchNorm2d(…, affine=False)`` has neither weight nor bias: they are 1 and 0.
"""

import functools
import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from resjax.pretrained.reading.files import Lazy, Tensors

Weight = Callable[[], np.ndarray]
_NEWER = re.compile(r"(?P<layer>.*\.|)parametrizations\.(?P<leaf>[^.]+)\.")


def effective(tensors: Tensors) -> Tensors:
    """``tensors`` with the weights that the network computes with, float32, in place of their parts.

    Raises:
      ValueError: the parts are those of another parametrization; the message names them.
    """
    weights: dict[str, tuple[str, Weight]] = {}  # by the name of the first of its parts
    used: set[str] = set()
    for name, parts, compute in (*_older(tensors), *_newer(tensors)):
        if name in tensors:
            raise ValueError(f"the file has both {name} and its parts {', '.join(parts)}: remove one of them")
        weights[parts[0]] = name, functools.cache(partial(compute, tensors, parts))
        used |= set(parts)
    constant = _constant(tensors)
    if not weights and not constant:
        return tensors
    plain = {name: (name, partial(tensors.__getitem__, name)) for name in tensors if name not in used}
    both = weights | plain
    present = dict(both[name] for name in tensors if name in both)
    return Lazy(present | constant)


def _constant(tensors: Tensors) -> dict[str, Weight]:
    """The weights and biases of BatchNorms that have none of their own."""
    found: dict[str, Weight] = {}
    for name in tensors:
        layer, _, leaf = name.rpartition(".")
        own = any(f"{layer}.{of_its_own}" in tensors for of_its_own in ("weight", "bias"))
        if layer and leaf == "running_mean" and f"{layer}.running_var" in tensors and not own:
            count = tensors[name].shape
            found[f"{layer}.weight"] = partial(np.ones, count, np.float32)
            found[f"{layer}.bias"] = partial(np.zeros, count, np.float32)
    return found


Parts = tuple[str, ...]
Found = tuple[str, Parts, Callable[[Tensors, Parts], np.ndarray]]


def _older(tensors: Tensors) -> Iterator[Found]:
    """(name of the weight, its parts, how to compute it), where the parts have suffixes."""
    for name in tensors:
        weight, _, suffix = name.rpartition("_")
        mask, g, u, v = (f"{weight}_{part}" for part in ("mask", "g", "u", "v"))
        if suffix == "orig" and mask in tensors:
            yield weight, (name, mask), _masked
        elif suffix == "orig" and u in tensors and v in tensors:
            yield weight, (name, u, v), _spectral
        elif suffix == "g" and v in tensors:
            yield weight, (g, v), _weight_norm


def _newer(tensors: Tensors) -> Iterator[Found]:
    """The same of ``torch.nn.utils.parametrize``."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for name in tensors:
        if match := _NEWER.match(name):
            weight = f"{match['layer']}{match['leaf']}"
            groups.setdefault(weight, (match[0], []))[1].append(name.removeprefix(match[0]))
    for weight, (before, parts) in groups.items():
        names = tuple(f"{before}{part}" for part in sorted(parts))
        if set(parts) == {"original0", "original1"} and _is_norm(*(tensors[name].shape for name in names)):
            yield weight, names, _weight_norm
        elif set(parts) == {"original", "0._u", "0._v"}:
            original, u, v = (f"{before}{part}" for part in ("original", "0._u", "0._v"))
            yield weight, (original, u, v), _spectral
        else:
            raise ValueError(
                f"{', '.join(names)}: this parametrization of {weight} is unknown; known: weight_norm and "
                "spectral_norm. In PyTorch, torch.nn.utils.parametrize.remove_parametrizations(layer, "
                f"'{weight.rpartition('.')[2]}') makes it a plain weight; then save the state_dict() again"
            )


def _is_norm(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    """Whether ``g`` can be the norms of ``v``: of all of it, or for each index of one dimension."""
    return not g or (
        len(g) == len(v)
        and all(a in (1, b) for a, b in zip(g, v, strict=True))
        and sum(a > 1 for a in g) <= 1
    )


def _need(fits: bool, tensors: Tensors, parts: Parts) -> None:
    if not fits:
        shapes = ", ".join(f"{part} {tensors[part].shape}" for part in parts)
        raise ValueError(f"the shapes of {shapes} do not fit together: PyTorch has no such parametrization")


def _read(tensors: Tensors, parts: Parts) -> list[np.ndarray]:
    return [np.asarray(tensors[part]).astype(np.float32) for part in parts]


def _masked(tensors: Tensors, parts: Parts) -> np.ndarray:
    weight, mask = _read(tensors, parts)
    _need(weight.shape == mask.shape, tensors, parts)
    return weight * mask


def _weight_norm(tensors: Tensors, parts: Parts) -> np.ndarray:
    g, v = _read(tensors, parts)
    _need(_is_norm(g.shape, v.shape), tensors, parts)
    over = tuple(i for i, n in enumerate(g.shape) if n == 1) if g.ndim else None
    with np.errstate(invalid="ignore"):  # 0 / 0 is not a number in PyTorch, too
        return g * (v / np.sqrt(np.sum(v * v, axis=over, keepdims=g.ndim > 0)))


def _spectral(tensors: Tensors, parts: Parts) -> np.ndarray:
    weight, u, v = _read(tensors, parts)
    _need((len(weight), weight[:1].size) == (u.size, v.size), tensors, parts)
    return weight / (u @ weight.reshape(len(u), -1) @ v)
