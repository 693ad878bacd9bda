"""Weight decay alone: does a residual block decay to the identity?

*Question.* "A residual block learns the identity easily: if weight decay drives W and b to 0, then
a[l+2] = g(W a[l+1] + b + a[l]) = g(a[l]) = a[l]." True as it stands; but most residual blocks have BatchNorm,
whose output does not depend on the scale of the kernel in front of it.

*Method.* Real units of this project get no gradient from data, so that the optimizer does nothing but decay:

    W_{t+1} = W_t − η (0 + λ W_t) = (1 − ηλ) W_t,   so W_t = ρᵗ W_0 with ρ = 1 − ηλ.

At every step the size of the branch is measured, ‖f(x)‖ / ‖x‖ over a fixed batch x ≥ 0, as behind a ReLU.
With BatchNorm it is that of training: normalized by the statistics of the batch (running statistics follow
within some dozens of steps, and decay is slower than that).

*Closed form.* ReLU and convolution are homogeneous, so without BatchNorm a branch of m convolutions (biases
0) shrinks as ρ^{mt}. A BatchNorm cancels every factor in front of it and puts its own γ in its place: what
counts are the decayed factors from the last BatchNorm on. Of two convolutions,

    unit             form of the branch       without BN   BN, γ kept   BN, γ decayed
    post-activation  conv BN ReLU conv BN     ρ^{2t}       ρ⁰           ρᵗ
    pre-activation   BN ReLU conv BN ReLU conv ρ^{2t}      ρᵗ           ρ^{2t}

So the argument fails where BatchNorm *closes* the branch and γ is not decayed; a pre-activation unit, whose
last convolution nothing normalizes, decays either way. The closed form has ε = 0. In truth BatchNorm cancels
a factor only while the variance in front of it is large against ε = 1e-5: once ρ^{2t} times the variance has
fallen below it, the branch decays after all, long after the kernels are nothing.

*Reading it.* It says what decay alone does, in time 1/(ηλ) steps. In training, gradients work against it, and
with BatchNorm smaller kernels get larger gradients (‖∂L/∂W‖ ∝ 1/‖W‖), which is why decay then sets the
effective learning rate (van Laarhoven 2017) instead of the function. With momentum μ the rate η is in effect
η/(1 − μ). At η = 0.1, λ = 1e-4, μ = 0 a factor of e takes 100,000 steps, more than the 64,000 of He et al.

*Cost.* A few hundred steps of one small unit, ten at a time: seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from resjax.config import default
from resjax.models.residual import ResidualUnit
from resjax.models.shortcuts import Shortcut
from resjax.studies import style
from resjax.studies.intervals import bootstrap
from resjax.studies.result import Result
from resjax.training.optimizer import make_optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACEMENTS = ("post", "pre")
# (name, with BatchNorm, what decays in the words of the configuration)
CASES = (
    ("no BatchNorm", False, "all"),
    ("BatchNorm with γ kept", True, "kernels"),
    ("BatchNorm with γ decayed", True, "all"),
)
# Closed form: the branch shrinks as ρ^(power·t).
POWERS = {"post": (2, 0, 1), "pre": (2, 1, 2)}


@dataclasses.dataclass(frozen=True)
class WeightDecay(Result):
    """The size of a unit's branch while weight decay alone acts.

    Attributes:
      placement: of BatchNorm and ReLU, see ``resjax.models.residual``.
      case: with or without BatchNorm, and what decays.
      step: [point].
      branch: [case, point], ‖f(x)‖ / ‖x‖, mean over draws.
      branch_interval: [case, point, end], its 95 % bootstrap interval.
      closed_form: [case, point], branch at step 0 × ρ^(power · step).
      power: [case], how many decayed factors are left.
      kernel: [case, point], ‖W_t‖ / ‖W_0‖ of the first kernel, mean over draws; in closed form ρᵗ.
      rate, decay: η and λ; ρ = 1 − ηλ.
      choices: of this analysis.
    """

    AXES: ClassVar = {
        "step": ("point",),
        **dict.fromkeys(("branch", "closed_form", "kernel"), ("case", "point")),
        "branch_interval": ("case", "point", "end"),
        "power": ("case",),
    }

    placement: str
    case: tuple[str, ...]
    step: np.ndarray
    branch: np.ndarray
    branch_interval: np.ndarray
    closed_form: np.ndarray
    power: np.ndarray
    kernel: np.ndarray
    rate: float
    decay: float
    choices: dict[str, Any]


def decay_alone(
    placement: str = "post",
    *,
    rate: float = 0.1,
    decay: float = 0.1,
    steps: int = 500,
    every: int = 10,
    width: int = 8,
    size: int = 8,
    batch_size: int = 16,
    draws: int = 10,
    seed: int = 0,
) -> WeightDecay:
    """Lets a residual unit decay: without BatchNorm, with BatchNorm, and with BatchNorm whose γ decays too.

    Args:
      placement: 'post' or 'pre'.
      rate, decay: η and λ of plain SGD; large ones only save steps, what counts is ηλ.
      steps, every: how many, and how often the branch is measured.
      width, size, batch_size: of x, [batch_size, size, size, width], absolute values of a standard normal.
      draws: units and inputs, 2 or more; kernels are He-normal, γ = 1, β = 0.
      seed: of the draws.

    Raises:
      ValueError: another placement, or impossible numbers.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"placement={placement!r}; allowed: {', '.join(PLACEMENTS)}")
    if not 0 < rate * decay < 1:
        raise ValueError(
            f"rate × decay = {rate * decay:g}; allowed: between 0 and 1, both excluded"
        )
    if steps < every or every < 1 or draws < 2:
        raise ValueError(
            f"steps={steps}, every={every}, draws={draws}; allowed: steps ≥ every ≥ 1, draws ≥ 2"
        )
    shape = (batch_size, size, size, width)
    keys = jax.random.split(jax.random.key(seed), draws)
    points = steps // every
    step = every * np.arange(points + 1)
    branch, kernel = np.zeros((2, len(CASES), draws, points + 1))
    for i, (_, norm, what) in enumerate(CASES):
        unit = ResidualUnit(
            Shortcut(width, width, 1, "pad_subsample"), ((3, width, 1),) * 2, placement, norm=norm
        )
        optimizer = _optimizer(rate, decay, what)
        branch[i], kernel[i] = jax.device_get(_decay(unit, optimizer, shape, points, every, keys))
    mean = branch.mean(1)
    power = np.array(POWERS[placement])
    low, high = bootstrap(branch.transpose(0, 2, 1), seed=seed)
    return WeightDecay(
        placement=placement,
        case=tuple(name for name, *_ in CASES),
        step=step,
        branch=mean,
        branch_interval=np.stack([low, high], -1),
        closed_form=mean[:, :1] * (1 - rate * decay) ** (power[:, None] * step[None]),
        power=power,
        kernel=kernel.mean(1),
        rate=rate,
        decay=decay,
        choices={
            "gradient of the data": "0",
            "optimizer": f"SGD, rate {rate:g}, momentum 0, weight decay {decay:g}, as resjax trains",
            "unit": f"two 3×3 convolutions of {width} channels, He-normal, γ = 1, β = 0; {draws} draws",
            "input": f"absolute values of a standard normal, {' × '.join(map(str, shape))}",
            "BatchNorm": "statistics of the batch, as in training",
            "seed": seed,
        },
    )


def _optimizer(rate: float, decay: float, what: str) -> optax.GradientTransformation:
    """What the configuration of a run with these values stands for."""
    config = default().optimizer
    config.update({"momentum": 0.0, "weight_decay": decay, "decay": what})
    return make_optimizer(config, optax.constant_schedule(rate))


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _decay(
    unit: ResidualUnit,
    optimizer: optax.GradientTransformation,
    shape: tuple[int, ...],
    points: int,
    every: int,
    keys: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """‖f(x)‖ / ‖x‖ and ‖W_t‖ / ‖W_0‖ at each point, [draws, points + 1] each."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        init_key, x_key = jax.random.split(key)
        x = jnp.abs(jax.random.normal(x_key, shape))
        variables = unit.init(init_key, x, train=False)
        no_gradient = jax.tree.map(jnp.zeros_like, variables["params"])

        def update(_: Any, state: Any) -> Any:
            params, opt_state = state
            updates, opt_state = optimizer.update(no_gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        def measure(state: Any, _: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            values = {**variables, "params": state[0]}
            (_, f), _ = unit.apply(values, x, True, method="split", mutable=["batch_stats"])
            size = jnp.linalg.norm(f.ravel()) / jnp.linalg.norm(x.ravel())
            kernel = jnp.linalg.norm(state[0]["conv1"]["kernel"].ravel())
            return lax.fori_loop(0, every, update, state), (size, kernel)

        start = variables["params"], optimizer.init(variables["params"])
        _, (sizes, kernels) = lax.scan(measure, start, length=points + 1)
        return sizes, kernels / kernels[0]

    return lax.map(one, keys)


def plot(results: WeightDecay | Mapping[str, WeightDecay]) -> Figure:
    """‖f(x)‖ / ‖x‖ over steps, one panel a unit: measured (markers) beside the closed form (lines).

    Bands are 95 % intervals of the mean over draws.
    """
    named = {"": results} if isinstance(results, WeightDecay) else dict(results)
    narrow = style.is_narrow()
    rows, columns = (len(named), 1) if narrow else (1, len(named))
    fig, grid = style.axes_grid(rows, columns, sharex=True, sharey=True)
    if narrow:
        fig.set_figheight(fig.get_figheight() * (1 + 0.7 * (rows - 1)))
    panels = [ax for row in grid for ax in row]
    for ax, (label, r) in zip(panels, named.items(), strict=True):
        every = max(len(r.step) // 16, 1)
        for i, case in enumerate(r.case):
            look: dict[str, Any] = {"color": style.color(i)}
            ax.plot(r.step, r.closed_form[i], "-", lw=1.2, **look)
            ax.plot(r.step[::every], r.branch[i, ::every], style.marker(i), label=case, **look)
            low, high = r.branch_interval[i].T
            ax.fill_between(r.step, low, high, alpha=0.2, lw=0, **look)
        ax.set(title=label, yscale="log")
    panels[0].plot([], [], "-", lw=1.2, color=style.ink(), label="closed form, ε = 0")
    for row in grid:
        row[0].set_ylabel("‖branch‖ / ‖input‖")
    for ax in grid[-1]:
        ax.set_xlabel("steps of weight decay alone")
    style.legend_above(fig, panels[0], columns=4)
    return fig
