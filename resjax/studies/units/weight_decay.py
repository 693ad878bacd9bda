"""Weight decay alone: does a residual block decay to the identity?

*Question.* "A residual block learns the identity easily: if weight decay drives W and b to 0, then
a[l+2] = g(W a[l+1] + b + a[l]) = g(a[l]) = a[l]." That is true, but most residual blocks have BatchNorm,
whose output does not depend on the scale of the kernel in front of it.

*Method.* Real units of this project get no gradient from data, so the optimizer does nothing but decay:

    W_{t+1} = W_t − η (0 + λ W_t) = (1 − ηλ) W_t,   so W_t = ρᵗ W_0 with ρ = 1 − ηλ.

At every step the size of the branch is measured, ‖f(x)‖ / ‖x‖ over a fixed batch x ≥ 0, as behind a ReLU.
BatchNorm normalizes by the statistics of the batch, as in training (running statistics follow within some
dozens of steps, and decay is slower than that).

*Closed form.* ReLU and convolution are homogeneous, so without BatchNorm a branch of m convolutions (biases
0) shrinks as ρ^{mt}. A BatchNorm cancels every factor in front of it and multiplies by its own γ: only the
decayed factors from the last BatchNorm on count. For two convolutions:

    unit             form of the branch         without BN   BN, γ kept   BN, γ decayed
    post-activation  conv BN ReLU conv BN       ρ^{2t}       ρ⁰           ρᵗ
    pre-activation   BN ReLU conv BN ReLU conv  ρ^{2t}       ρᵗ           ρ^{2t}

So the argument fails where BatchNorm *ends* the branch and γ is not decayed; a pre-activation unit, whose
last convolution nothing normalizes, decays either way. The closed form has ε = 0. BatchNorm really cancels a
factor only while the variance in front of it is large against ε = 1e-5: once ρ^{2t} times the variance falls
below ε, the branch decays after all, long after the kernels are negligible.

*Reading it.* It shows what decay alone does, in 1/(ηλ) steps. In training, gradients oppose it, and with
BatchNorm smaller kernels get larger gradients (‖∂L/∂W‖ ∝ 1/‖W‖), so decay sets the effective learning rate
(van Laarhoven 2017) instead of the function. With momentum μ the effective rate is η/(1 − μ). At η = 0.1,
λ = 1e-4, μ = 0 a factor of e takes 100,000 steps, more than the 64,000 of He et al.

*Cost.* A few hundred steps of one small unit, ten at a time: seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from resjax.config import default
from resjax.models.residual import ResidualUnit
from resjax.models.shortcuts import Shortcut
from resjax.studies import style
from resjax.studies.batches import Progress, reported
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.study import Claim, Columns
from resjax.studies.words import factor, join, numbers, percent
from resjax.training.optimizer import make_optimizer

# (name, with BatchNorm, what decays in the words of the configuration)
CASES = (
    ("no BatchNorm", False, "all"),
    ("BatchNorm with γ kept", True, "kernels"),
    ("BatchNorm with γ decayed", True, "all"),
)
# Closed form, by placement and case: the branch shrinks as ρ^(power·t).
POWERS = {"post": (2, 0, 1), "pre": (2, 1, 2)}


@dataclasses.dataclass(frozen=True)
class WeightDecay(Result):
    """The size of a unit's branch while only weight decay acts."""

    placement: str  # of BatchNorm and ReLU, see ``resjax.models.residual``
    case: tuple[str, ...]  # with or without BatchNorm, and what decays
    step: Annotated[np.ndarray, "point"]
    branch: Annotated[np.ndarray, "case", "point"]  # ‖f(x)‖ / ‖x‖, mean over draws
    branch_interval: Annotated[np.ndarray, "case", "point", "end"]  # its 95 % interval
    closed_form: Annotated[np.ndarray, "case", "point"]  # branch at step 0 × ρ^(power · step)
    power: Annotated[np.ndarray, "case"]  # how many decayed factors count
    kernel: Annotated[np.ndarray, "case", "point"]  # ‖W_t‖ / ‖W_0‖ of the first kernel, mean
    rate: float  # η
    decay: float  # λ; ρ = 1 − ηλ


def weight_decay(
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
    """Applies weight decay alone to a residual unit: without BatchNorm, with it, and with its γ decayed too.

    Args:
      placement: 'post' or 'pre'.
      rate, decay: η and λ of plain SGD; only ηλ counts, and a large one saves steps.
      steps, every: number of steps, and of steps between two measurements of the branch.
      width, size, batch_size: of x, [batch_size, size, size, width], absolute values of a standard normal.
      draws: units and inputs, 2 or more; kernels are He-normal, γ = 1, β = 0.
      seed: of the draws.
    """
    if placement not in POWERS:
        raise ValueError(f"placement={placement!r}; allowed: {', '.join(POWERS)}")
    if not 0 < rate * decay < 1:
        raise ValueError(f"rate × decay = {rate * decay:g}; allowed: more than 0, less than 1")
    if steps < every or every < 1 or draws < 2:
        raise ValueError(
            f"steps={steps}, every={every}, draws={draws}; allowed: steps ≥ every ≥ 1, draws ≥ 2"
        )
    shape = (batch_size, size, size, width)
    keys = jax.random.split(jax.random.key(seed), draws)
    step = every * np.arange(steps // every + 1)
    branch, kernel = np.zeros((2, len(CASES), draws, len(step)))
    shortcut = Shortcut(width, width, 1, "pad_subsample")
    for i, (_, norm, what) in enumerate(CASES):
        unit = ResidualUnit(shortcut, ((3, width, 1),) * 2, placement, norm=norm)
        given = unit, _optimizer(rate, decay, what), shape, len(step), every, keys
        branch[i], kernel[i] = jax.device_get(_decay(*given))
    mean, power = branch.mean(1), np.array(POWERS[placement])
    return WeightDecay(
        placement=placement,
        case=tuple(name for name, *_ in CASES),
        step=step,
        branch=mean,
        branch_interval=np.stack(bootstrap(branch.transpose(0, 2, 1), seed=seed), -1),
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
    """The optimizer that trains a run with these values in its configuration."""
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
    """‖f(x)‖ / ‖x‖ and ‖W_t‖ / ‖W_0‖, [draws, points] each."""

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
        _, (sizes, kernels) = lax.scan(measure, start, length=points)
        return sizes, kernels / kernels[0]

    return lax.map(one, keys)


# --- what the report shows ---


def plot(results: Mapping[str, WeightDecay]) -> style.Figure:
    """‖f(x)‖ / ‖x‖ over steps, one panel for each unit: measured (markers) and in closed form (lines).

    Bands are 95 % intervals of the mean over draws.
    """
    fig, panels = style.panels(len(results), height=0.7, sharex=True, sharey=True)
    for ax, (label, r) in zip(panels, results.items(), strict=True):
        every = max(len(r.step) // 16, 1)
        for i, case in enumerate(r.case):
            look: dict[str, Any] = {"color": style.color(i)}
            ax.plot(r.step, r.closed_form[i], "-", lw=1.2, **look)
            ax.plot(r.step[::every], r.branch[i, ::every], style.marker(i), label=case, **look)
            ax.fill_between(r.step, *r.branch_interval[i].T, alpha=0.2, lw=0, **look)
        ax.set(title=label, yscale="log")
        ax.set(xlabel="steps of weight decay alone", ylabel="‖branch‖ / ‖input‖")
        ax.label_outer()
    panels[0].plot([], [], "-", lw=1.2, color=style.ink(), label="closed form, ε = 0")
    style.legend_above(fig, panels[0], columns=4)
    return fig


# Branches are judged when kernels are down to this share of their initial norm.
KERNEL_LEFT = 0.05
# A branch that is then smaller than DECAYED times its first size has decayed; one above STAYS has not.
DECAYED, STAYS = 0.1, 0.9


def moment(result: WeightDecay) -> int:
    """Index of the first point at which all kernels are down to ``KERNEL_LEFT``, or of the last point."""
    small = np.flatnonzero((result.kernel <= KERNEL_LEFT).all(0))
    return int(small[0]) if len(small) else len(result.step) - 1


def left(result: WeightDecay) -> np.ndarray:
    """[case], the share of the branch's first size that is left at that moment."""
    return result.branch[:, moment(result)] / result.branch[:, 0]


def headline(results: Mapping[str, WeightDecay]) -> str:
    """In which cases decay alone makes the unit the identity."""
    clauses = []
    for label, r in results.items():
        cases: dict[str, list[str]] = {}
        for case, share in zip(r.case, left(r), strict=True):
            verdict = "nears" if share <= STAYS else "stays away from"
            verdict = "decays to" if share < DECAYED else verdict
            cases.setdefault(verdict, []).append(f"“{case}”")
        told = [f"{verdict} the identity with {join(own)}" for verdict, own in cases.items()]
        clauses.append(f"the {label} {join(told)}")
    return f"under weight decay alone, {'; '.join(clauses)}"


def points(label: str, r: WeightDecay) -> list[str]:
    t = moment(r)
    shares = [
        f"{factor(share)} ({case}; closed form {factor(r.closed_form[i, t] / r.branch[i, 0])})"
        for i, (case, share) in enumerate(zip(r.case, left(r).tolist(), strict=True))
    ]
    found = [
        f"{label}: after {r.step[t]:,} steps {percent(r.kernel[:, t].mean())} of the kernels' norm is left, "
        f"in closed form {percent((1 - r.rate * r.decay) ** r.step[t])}, and the branch's share of its "
        f"initial size is {join(shares)}."
    ]
    ends = [
        f"{factor(end)} times ({case})"
        for case, end in zip(r.case, (r.branch / r.closed_form)[:, -1].tolist(), strict=True)
        if abs(np.log(end)) > np.log(1.05)
    ]
    if ends:
        found.append(
            f"{label}: at the last step, {r.step[-1]:,}, the branch is {join(ends)} its closed form, "
            "which ignores BatchNorm's ε = 1e-5: this matters once the variance of its input is as small."
        )
    return found


def table(r: WeightDecay) -> Columns:
    t = moment(r)
    then = zip(numbers(r.branch[:, t]), *map(numbers, r.branch_interval[:, t].T), strict=True)
    return {
        "case": r.case,
        "closed form": [("constant", "ρᵗ", "ρ²ᵗ")[power] for power in r.power],
        "‖f‖/‖x‖ at first": numbers(r.branch[:, 0]),
        "step": [f"{r.step[t]:,}"] * len(r.case),
        "‖f‖/‖x‖ then": [f"{mean} ({low} – {high})" for mean, low, high in then],
        "in closed form": numbers(r.closed_form[:, t]),
    }


def summary(r: WeightDecay) -> dict[str, str]:
    shares = zip(r.case, left(r).tolist(), strict=True)
    return {f"branch left, {case}": percent(share) for case, share in shares}


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, WeightDecay]:
    small = {"draws": 2, "width": 4, "size": 4} if options.smoke else {}
    return {
        f"{placement}-activation unit": weight_decay(placement, seed=options.seed, **small)
        for placement in reported(tuple(POWERS), progress)
    }


STUDY = Claim(
    name="weight_decay",
    title="Weight decay and the identity",
    question=(
        "Does weight decay turn residual blocks into identities? Real units get no gradient from data, only "
        "weight decay, and the size of their branch relative to their input is measured: without "
        "BatchNorm, with it, and with its γ decayed too."
    ),
    code="resjax.analysis.weight_decay('post'), resjax.analysis.weight_decay('pre')",
    labels="unit",
    result=WeightDecay,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
    summary=summary,
)
