"""The optimizers of ``config.optimizer.name``, composed of optax transformations in this order:

* ``sgd``: clip the gradient → add weight_decay × parameter → momentum → × −learning rate. So weight decay is
  L2 regularization, as in Caffe and Torch (He et al. 2015), and passes through the momentum.
* ``adamw`` (Loshchilov & Hutter 2019, Algorithm 2): clip the gradient → m̂ / (√v̂ + epsilon) → add
  weight_decay × parameter → × −learning rate. m̂ and v̂ are running means of the gradient and of its square,
  with the decays ``momentum`` (β₁) and ``beta2``, less their bias towards 0 (Kingma & Ba 2015). The decay is
  decoupled: a parameter loses the share learning rate × weight_decay a step, as in PyTorch and optax. In the
  paper, the share is the schedule's multiplier × weight_decay; divide such a value by the peak learning rate.
"""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from resjax.config import steps_of

# As people write the values of ``config.optimizer.name``.
NAMES = {"sgd": "SGD", "adamw": "AdamW"}
# Names of the scalars, biases and multipliers of Fixup and SkipInit.
SCALARS = ("alpha", "scale", "biases")


def schedule(config: ConfigDict, total_steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Learning rate by step: a warm-up, then ``step``, ``cosine`` (to 0 at the end) or ``constant``."""
    peak = config.learning_rate
    warmup = steps_of(config.warmup, steps_per_epoch, "optimizer.warmup")
    if config.schedule == "step":
        steps = [steps_of(b, steps_per_epoch, "optimizer.boundaries") for b in config.boundaries]
        if steps != sorted(set(steps)):
            raise ValueError(f"optimizer.boundaries={tuple(config.boundaries)} must increase")
        main = optax.piecewise_constant_schedule(peak, dict.fromkeys(steps, config.factor))
    elif config.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1))
        main = lambda step: cosine(step - warmup)  # noqa: E731
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    start = peak * config.warmup_from
    end = peak if config.warmup_shape == "linear" else start
    first = optax.linear_schedule(start, end, warmup)
    return lambda step: jax.numpy.where(step < warmup, first(step), main(step))


def make_optimizer(
    config: ConfigDict, rate: optax.Schedule, weight_decay: ArrayLike | None = None
) -> optax.GradientTransformation:
    """The optimizer for the ``optimizer`` section of a configuration, see the module's docstring.

    ``weight_decay`` replaces that of the configuration in a program that takes it as an argument.
    """
    parts: list[optax.GradientTransformation] = []
    decays: list[optax.GradientTransformation] = []
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if weight_decay is not None or config.weight_decay:
        mask = _kernels if config.decay == "kernels" else None
        decay = config.weight_decay if weight_decay is None else weight_decay
        decays.append(optax.add_decayed_weights(decay, mask))
    if config.name == "adamw":
        betas = {"b1": config.momentum, "b2": config.beta2}
        parts.append(optax.scale_by_adam(**betas, eps=config.epsilon, nesterov=config.nesterov))
        parts += decays
    else:
        parts += decays
        if config.momentum:
            parts.append(optax.trace(config.momentum, config.nesterov))
    if config.scalar_factor != 1:
        parts.append(optax.masked(optax.scale(config.scalar_factor), _unit_scalars))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def in_words(config: ConfigDict, *, decay: bool = True) -> str:
    """The ``optimizer`` section of a configuration, without rates: 'SGD, momentum 0.9, weight decay 0.0001,
    cosine rate'.

    Args:
      decay: False leaves the weight decay out.
    """
    adam = config.name == "adamw"
    told = [NAMES[config.name], f"{'β₁' if adam else 'momentum'} {config.momentum:g}"]
    told += [f"β₂ {config.beta2:g}"] if adam else []
    told += ["Nesterov"] if config.nesterov else []
    told += [f"gradient norm at most {config.clip_norm:g}"] if config.clip_norm else []
    if decay:
        only = " of kernels" if config.decay == "kernels" and config.weight_decay else ""
        told.append(f"weight decay {config.weight_decay:g}{only}")
    return ", ".join([*told, f"{config.schedule} rate"])


def at_step(opt_state: Any, step: int) -> Any:
    """``opt_state`` with the schedule at ``step``. The counter of AdamW's means stays: it says how many
    gradients they have seen."""

    def of_schedule(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].tuple_name == "ScaleByScheduleState"

    return optax.tree_utils.tree_set(opt_state, of_schedule, count=jax.numpy.int32(step))


def _leaf_name(path: tuple[Any, ...]) -> str:
    return str(path[-1].key)


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: _leaf_name(path) == "kernel", params)


def _unit_scalars(params: Any) -> Any:
    # BatchNorm's scale is one level deeper, in its own module.
    def is_scalar(path: tuple[Any, ...], _: Any) -> bool:
        return _leaf_name(path) in SCALARS and len(path) == 2

    return jax.tree_util.tree_map_with_path(is_scalar, params)
