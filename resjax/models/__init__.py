"""All networks by name: ``config.model`` → a ``Network``.

A builder takes keyword arguments. For an unknown value or an invalid combination it raises a ValueError that
names the allowed ones. ``image_shape`` (H, W, C) and ``num_classes`` come from the data; the other arguments
are the fields of ``config.model``, with the function's defaults. Every builder here takes:

* ``dtype``: dtype of the computation, 'float32' or 'bfloat16'; parameters and statistics stay float32;
* ``conv``: 'auto', or 'lax' for JAX's convolution and gradients (needed for forward-mode derivatives);
* ``unroll``: units per loop iteration; 0 chooses a fast number, see ``Network``.

Every model, that of one's own too, has the fields of ``resjax.models.cuts``. They leave units out of what the
builder returns, such as ``cut=("stage1/unit3", "stage2/unit1")``.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from ml_collections import ConfigDict

from resjax.models import cuts
from resjax.models.alexnet import alexnet
from resjax.models.convmixer import convmixer
from resjax.models.convnext import convnext
from resjax.models.lenet import lenet5
from resjax.models.mixer import mixer
from resjax.models.resnet import imagenet_resnet, resnet
from resjax.models.vgg import veit_plain, vgg
from resjax.models.vit import vit
from resjax.network import Network

Builder = Callable[..., Network]
MODELS: dict[str, Builder] = {
    f.__name__: f
    for f in (resnet, imagenet_resnet, lenet5, alexnet, vgg, veit_plain, vit, mixer, convmixer, convnext)
}


def defaults(name: str, **changes: Any) -> ConfigDict:
    """``config.model`` of network ``name``: all fields, with ``changes`` to the defaults."""
    _, fields = _builder(name, changes)
    return ConfigDict({"name": name, **fields, **changes})


def build(config: Mapping[str, Any], *, image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """The network that ``config`` (made by ``defaults``) describes, for images (H, W, C).

    Raises:
      ValueError: a name, field or value is unknown, or a combination is invalid; the message names the
        allowed ones.
    """
    values = dict(config)
    builder, _ = _builder(values.pop("name", None), values)
    tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
    gone = {field: tuples.pop(field, value) for field, value in cuts.FIELDS.items()}
    network = builder(image_shape=tuple(image_shape), num_classes=num_classes, **tuples)
    return cuts.without(network, gone, image_shape)


def runs_code(name: str) -> bool:
    """Whether ``name`` is none of resjax's networks, but a 'package.module:function' that ``build`` imports
    and calls."""
    return name not in MODELS and ":" in name


def fields_of(name: str) -> dict[str, Any]:
    """The optional fields of network ``name`` with their defaults; {} if it is unknown here, which ``build``
    refuses."""
    try:
        _, fields = _builder(name, {})
    except ValueError:
        return {}
    return {field: value for field, value in fields.items() if value is not inspect.Parameter.empty}


def types_of(name: str) -> dict[str, Any]:
    """The annotations of the fields of network ``name``, as far as they can be evaluated; {} if it is unknown
    here."""
    try:
        builder, fields = _builder(name, {})
        hints = get_type_hints(builder)
    except (ValueError, NameError, TypeError):
        return {}
    return {field: hints[field] for field in fields if field in hints} | cuts.TYPES


def _builder(name: Any, given: Mapping[str, Any]) -> tuple[Builder, dict[str, Any]]:
    """The builder called ``name``, and its fields with their defaults; ``given`` may have no others."""
    builder = MODELS.get(name) or _own_builder(str(name))
    parameters = inspect.signature(builder).parameters.values()
    from_data = ("image_shape", "num_classes")
    fields = {p.name: p.default for p in parameters if p.name not in from_data} | cuts.FIELDS
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise ValueError(
            f"model {name!r} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(fields)}. "
            f"To use another model, start from a configuration of it: configs.default({name!r})"
        )
    return builder, fields


def _own_builder(name: str) -> Builder:
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), function)):
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
