"""All networks by name: ``config.model`` → a ``Network``.

A builder is a function of keyword arguments: ``image_shape`` and ``num_classes`` come from the data, the
others are the fields of ``config.model``, with the function's defaults.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from resjax.models.alexnet import alexnet
from resjax.models.lenet import lenet5
from resjax.models.resnet import imagenet_resnet, resnet
from resjax.models.vgg import veit_plain, vgg
from resjax.network import Network

MODELS: dict[str, Callable[..., Network]] = {
    "resnet": resnet,
    "imagenet_resnet": imagenet_resnet,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg": vgg,
    "veit_plain": veit_plain,
}
FROM_DATA = ("image_shape", "num_classes")


def defaults(name: str, **changes: Any) -> ConfigDict:
    """``config.model`` of network ``name``: all fields, with ``changes`` to the defaults."""
    fields = _fields(name)
    _refuse_unknown(name, changes, fields)
    return ConfigDict({"name": name, **fields, **changes})


def build(
    config: Mapping[str, Any], *, image_shape: tuple[int, int, int], num_classes: int
) -> Network:
    """The network of ``config``, which ``defaults`` makes, for images (H, W, C).

    Raises:
      ValueError: an unknown name, field or value, or an invalid combination, with the allowed ones.
    """
    values = dict(config)
    name = values.pop("name", None)
    fields = _fields(name)
    _refuse_unknown(name, values, fields)
    tuples = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
    return _builder(name)(image_shape=tuple(image_shape), num_classes=num_classes, **tuples)


def _builder(name: Any) -> Callable[..., Network]:
    if name in MODELS:
        return MODELS[name]
    module, colon, function = str(name).partition(":")
    if not colon:
        raise ValueError(
            f"model.name={name!r}; allowed: {', '.join(sorted(MODELS))}, or your own builder as "
            "'package.module:function'"
        )
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"model.name={name!r}: {error}. It must be 'package.module:function', importable from here"
        ) from error


def _fields(name: Any) -> dict[str, Any]:
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in FROM_DATA}


def _refuse_unknown(name: Any, given: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise ValueError(
            f"model {name!r} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(fields)}. "
            f"To use another model, start from a configuration of it: configs.default({name!r})"
        )
