"""A PyTorch model, as it is, for ``resjax.discover``: torchax evaluates its ``forward`` in JAX.

    found = resjax.discover(*resjax.pytorch.take(model, torch.zeros(2, 3, 224, 224)))
    model.load_state_dict(resjax.pytorch.state_dict(found.unstack(found.variables)), strict=False)

torch and torchax are no requirements of resjax, and are imported when a function here is called.
"""

import copy
import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


def take(model: Any, example: Any) -> tuple[Callable[[Any, Any], Any], dict[str, Any], Any]:
    """``(fn, variables, example)`` of a PyTorch model, which ``resjax.discover`` takes.

    Args:
      model: ``torch.nn.Module``. A copy of it is put in evaluation mode: BatchNorm uses its running
        statistics and dropout is off. The model itself stays as it is.
      example: tensor [B, …]; a tuple of tensors for several arguments, a dict for named ones.

    Returns:
      ``fn(variables, x)``: ``forward`` as a function of JAX arrays. Of an output with ``logits``, as
      transformers returns it, these are taken.
      ``variables``: ``{"params": …, "buffers": …}``, nested by the parts of PyTorch's names, with running
      statistics among the buffers. Weights that modules share occur once.
      ``example`` as JAX arrays.

    Raises:
      ImportError: torch or torchax is not installed.
    """
    torchax = _import_torchax()
    model = copy.deepcopy(model).eval()
    values, forward = torchax.extract_jax(model)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    collections: dict[str, Any] = {"params": {}, "buffers": {}}
    for name, value in values.items():
        collections["params" if name in parameters else "buffers"][name] = value

    def fn(variables: Any, x: Any) -> Any:
        args, named = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple) else (x,), {})
        output = forward(_flat(variables), args, named)
        return getattr(output, "logits", output)

    variables = {name: unflatten_dict(flat, sep=".") for name, flat in collections.items()}
    return fn, variables, torchax.default_env().t2j_copy(example)


def state_dict(variables: Any) -> dict[str, Any]:
    """{PyTorch's name: tensor} of ``variables`` as ``take`` makes them, for ``model.load_state_dict``.

    Weights that modules share have one name here, hence ``load_state_dict(…, strict=False)``.
    """
    torch = importlib.import_module("torch")
    return {name: torch.from_numpy(np.array(value)) for name, value in _flat(variables).items()}


def _flat(variables: Any) -> dict[str, Any]:
    return {k: v for collection in variables.values() for k, v in flatten_dict(collection, sep=".").items()}


def _import_torchax() -> Any:
    """torchax with its operations loaded. torchax 0.0.13 lists operations of named tensors that torch 2.13
    no longer has, such as ``aten.prod.dim_Dimname``; none is evaluated, so anything may stand in for them."""
    try:
        packet = importlib.import_module("torch")._ops.OpOverloadPacket
        find = packet.__getattr__

        def find_or_stand_in(self: Any, name: str) -> Any:
            try:
                return find(self, name)
            except AttributeError:
                if "names" in name or "dimname" in name.lower():
                    return object()
                raise

        with mock.patch.object(packet, "__getattr__", find_or_stand_in):
            torchax = importlib.import_module("torchax")
            torchax.default_env()
    except ImportError as error:
        raise ImportError(
            f"resjax.pytorch needs torch and torchax, and importing them failed: {error}. "
            "Install both, for example: pip install torch==2.13 torchax==0.0.13"
        ) from error
    return torchax
