"""Vanishing and exploding gradients: a product of factors, and what the shortcut's "1 +" does to it.

*Question.* Back-propagation multiplies one factor a layer, ∂L/∂x₀ = ∂L/∂x_L · ∏ ∂x_l/∂x_{l−1}. If the
factors are below 1, their product vanishes with depth; if they are above 1, it explodes. In a residual
network the factor is 1 + f′. Does that prevent both?

*Method.* Fully connected networks at initialization, without normalization:

    plain       x_l = W_l g(x_{l−1})                 g sigmoid, tanh or ReLU
    residual    x_l = x_{l−1} + β·W_l g(x_{l−1})     β = 1, or 1/√L in a network of L layers

The residual layer is the pre-activation unit of He et al. (2016), in which "1 + f′" holds exactly. W_l is
N(0, σ²/n) at width n, biases are 0, x₀ is standard normal, and ∂L/∂x_L is a random direction. Measured is
‖∂L/∂x₀‖ ÷ ‖∂L/∂x_L‖: the gradient is carried back layer by layer in float64, and its logarithm is summed, so
that 10⁻⁶⁴ and 10⁶⁴ are no problem. Beside it stands the product of the factors that theory has for a layer,
from the forward pass alone (Poole et al. 2016; Schoenholz et al. 2017, χ; for residual networks Yang &
Schoenholz 2017):

    plain       σ·√mean(g′²)                 residual    √(1 + β²σ²·mean(g′²))

with the mean over the components of g′(x_{l−1}). It treats W as independent of the gradient, which holds at
large width.

*Reading it.* g′ of a sigmoid is at most 1/4, so with σ = 1 its factor is below 1/4: the gradient vanishes
like 4^−L or faster. He et al. (2015b) choose σ = √2 so that the factor of ReLU is 1. No σ saves the sigmoid,
and a σ that is a little wrong is enough in a deep network. The residual factor is never below 1 in the mean,
so nothing vanishes; but with β = 1 it can explode. β = 1/√L bounds the product by exp(σ²·mean(g′²)/2), at
any depth; what BatchNorm does in its place is measured by ``branch_variance``.

*What it does not show.* These are initial weights and one input; norms say nothing about directions
(``shattering``) or about training (``norms_over_training``). ``gradients`` measures the norms of the user's
own network, and ``backward_signal`` splits them into the shortcut's part and the branch's.

*Cost.* Two products of a vector with a matrix for each layer: seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from scipy.special import expit

from resjax.studies import style
from resjax.studies.batches import Progress, reported
from resjax.studies.intervals import bootstrap
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.study import Claim, Columns
from resjax.studies.words import factor, join, numbers, superscript

DEPTHS = (1, 2, 5, 10, 20, 30, 50, 70, 100)

Function = Callable[[np.ndarray], np.ndarray]


def _sigmoid_slope(z: np.ndarray) -> np.ndarray:
    return expit(z) * expit(-z)


def _tanh_slope(z: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(z) ** 2


def _rectify(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0)


def _rectifier_slope(z: np.ndarray) -> np.ndarray:
    return (z > 0).astype(float)


ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (expit, _sigmoid_slope),
    "tanh": (np.tanh, _tanh_slope),
    "relu": (_rectify, _rectifier_slope),
}
"""Each activation and its derivative."""


@dataclasses.dataclass(frozen=True)
class Vanishing(Result):
    """Norm of the gradient at the input ÷ at the output by depth, of one kind of network at init."""

    depth: Annotated[np.ndarray, "depth"]  # int, L
    log_ratio: Annotated[np.ndarray, "seed", "depth"]  # log₁₀(‖∂L/∂x₀‖ ÷ ‖∂L/∂x_L‖)
    log_product: Annotated[np.ndarray, "seed", "depth"]  # log₁₀ of the product of the theory's factors
    activation: str  # a key of ``ACTIVATIONS``
    gain: float  # σ
    residual: bool
    scaled: bool  # whether β is 1/√L instead of 1

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """[depth] each: 95 % interval of the mean of ``log_ratio`` over networks."""
        return bootstrap(self.log_ratio.T)


def vanishing(
    activation: str = "sigmoid",
    *,
    shortcut: bool = False,
    scaled: bool = False,
    gain: float = 1.0,
    depths: tuple[int, ...] = DEPTHS,
    width: int = 100,
    seeds: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> Vanishing:
    """‖∂L/∂x₀‖ ÷ ‖∂L/∂x_L‖ by depth, and the product of the factors of theory (see the module).

    Args:
      activation: 'sigmoid', 'tanh' or 'relu'.
      shortcut: whether each layer is added to its input.
      scaled: whether a branch of a network of L layers is multiplied by 1/√L; needs ``shortcut``.
      gain: σ; the weights have variance σ²/width.
      depths: numbers of layers; each depth has networks of its own.
      width: number of components of each x.
      seeds: number of networks, 2 or more.
      seed: seed of their weights.
      progress: counts depths.

    Raises:
      ValueError: an unknown activation, a scaled branch without a shortcut, or a number out of range.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}; allowed: {', '.join(map(repr, ACTIVATIONS))}")
    if scaled and not shortcut:
        raise ValueError("scaled=True needs shortcut=True: a plain network has no branch beside a shortcut")
    if min(depths, default=0) < 1 or width < 1 or seeds < 2 or gain <= 0:
        raise ValueError(
            f"depths={tuple(depths)}, width={width}, seeds={seeds}, gain={gain}; allowed: depths and width "
            "from 1, seeds from 2, gain above 0"
        )
    made = []
    for depth in reported(tuple(depths), progress):
        beta = 1 / np.sqrt(depth) if scaled else 1.0
        rng = np.random.default_rng((seed, depth))
        made.append(_there_and_back(rng, ACTIVATIONS[activation], depth, width, seeds, gain, shortcut, beta))
    ratio, product = np.moveaxis(np.array(made), 0, -1)
    return Vanishing(
        depth=np.array(depths),
        log_ratio=ratio,
        log_product=product,
        activation=activation,
        gain=gain,
        residual=shortcut,
        scaled=scaled,
        choices={
            "networks": f"{seeds} of each depth, width {width}, weights N(0, {gain:.3g}²/{width}), biases 0",
            "input": "standard normal, one for each network",
            "gradient at the output": "a random direction",
            "branch": "times 1/√L" if scaled else "times 1",
            "precision": "float64; logarithms of norms are summed over layers",
            "seed": seed,
        },
    )


def _there_and_back(
    rng: np.random.Generator,
    activation: tuple[Function, Function],
    depth: int,
    width: int,
    seeds: int,
    gain: float,
    shortcut: bool,
    beta: float,
) -> tuple[np.ndarray, np.ndarray]:
    """[seed] each: log₁₀ of the ratio and of the product, of networks of one depth."""
    act, slope = activation
    keep = float(shortcut)
    weights = rng.standard_normal((depth, seeds, width, width)) * gain / np.sqrt(width)
    x = rng.standard_normal((seeds, width))
    gradient = rng.standard_normal((seeds, width))
    slopes = []
    for w in weights:
        slopes.append(slope(x))
        x = keep * x + beta * _times(w, act(x))
    squares = np.mean(np.square(slopes), axis=-1)  # [depth, seed]
    product = 0.5 * np.log10(keep + (beta * gain) ** 2 * squares).sum(0)
    ratio = np.zeros(seeds)
    for w, s in zip(weights[::-1], slopes[::-1], strict=True):
        gradient = gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
        gradient = keep * gradient + beta * s * _times(w.swapaxes(1, 2), gradient)
        ratio += np.log10(np.linalg.norm(gradient, axis=1))
    return ratio, product


def _times(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[seed, width]: each network's matrix times its vector."""
    return (w @ x[..., None])[..., 0]


# --- what the report shows ---

NAMES = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "ReLU"}


def plot(results: Mapping[str, Vanishing]) -> style.Figure:
    """Ratio by depth, one panel for each activation: measured (markers), and the product of factors (lines).

    Bands are 95 % intervals over networks. The dotted line is 1: a gradient that neither shrinks nor grows.
    """
    shown = [name for name in ACTIVATIONS if any(r.activation == name for r in results.values())]
    fig, panels = style.panels(len(shown), height=0.8, sharex=True, sharey=True)
    kinds = list(dict.fromkeys(map(kind, results.values())))
    for ax, name in zip(panels, shown, strict=True):
        for r in results.values():
            if r.activation != name:
                continue
            look: dict[str, Any] = {"color": style.color(kinds.index(kind(r)))}
            ax.fill_between(r.depth, *r.interval, alpha=0.2, lw=0, **look)
            ax.plot(r.depth, r.log_product.mean(0), "-", lw=1.2, **look)
            ax.plot(r.depth, r.log_ratio.mean(0), style.marker(kinds.index(kind(r))), **look)
        ax.axhline(0, ls=":", lw=1, color=style.ink())
        ax.set(title=NAMES[name], xlabel="layers L")
        ax.label_outer()
        ax.yaxis.set_major_formatter(lambda value, _: f"10{superscript(int(value))}")
    panels[0].set_ylabel("‖∂L/∂x₀‖ ÷ ‖∂L/∂x_L‖")
    for i, told in enumerate(kinds):
        panels[0].plot([], [], style.marker(i) + "-", color=style.color(i), label=told)
    style.legend_above(fig, panels[0], columns=4)
    return fig


def kind(r: Vanishing) -> str:
    """The group of a network in the figure: plain ones by the size of their weights, residual ones by β."""
    if r.residual:
        return "residual, branch ÷ √L" if r.scaled else "residual"
    base = GAINS[r.activation][0]
    size = "" if r.gain == base else (", larger weights" if r.gain > base else ", smaller weights")
    return f"plain{size}"


# A gradient that changes by less than a factor of ten on its way is called even.
EVEN = 1.0


def fate(r: Vanishing) -> str:
    """One of ``FATES`` at the largest depth, by the interval over networks."""
    low, high = (float(end[-1]) for end in r.interval)
    if high < -EVEN:
        return "vanishes"
    if low > EVEN:
        return "explodes"
    return "stays even" if low >= -EVEN and high <= EVEN else "undecided"


def power(log: float) -> str:
    """The number whose log₁₀ this is, with two digits: '0.46', '2.3·10⁻⁶³'."""
    return factor(10.0**log)


FATES = ("vanishes", "explodes", "stays even", "undecided")


def headline(results: Mapping[str, Vanishing]) -> str:
    """What becomes of the gradient in each network."""
    clauses = []
    for what in FATES:
        labels = [label for label, r in results.items() if fate(r) == what]
        if labels:
            clauses.append(f"{'has no clear fate' if what == 'undecided' else what} in {join(labels)}")
    depth = max((int(r.depth[-1]) for r in results.values()), default=0)
    return f"over {depth} layers at initialization, the gradient {'; it '.join(clauses)}"


def points(label: str, r: Vanishing) -> list[str]:
    """The ratio, the theory's product, and the factor of one layer."""
    low, high = (power(float(end[-1])) for end in r.interval)
    mean, product = r.log_ratio.mean(0)[-1], r.log_product.mean(0)[-1]
    each = factor(10 ** (mean / r.depth[-1]))
    return [
        f"{label}: with {r.depth[-1]} layers the gradient at the input is {power(mean)} times that at the "
        f"output ({low} to {high} over {len(r.log_ratio)} networks), {each} for each layer. The product of "
        f"the factors from the forward pass is {power(product)}."
    ]


def table(r: Vanishing) -> Columns:
    low, high = r.interval
    ends = zip(map(power, low), map(power, high), strict=True)
    return {
        "layers": [str(depth) for depth in r.depth],
        "‖∂L/∂x₀‖ ÷ ‖∂L/∂x_L‖": list(map(power, r.log_ratio.mean(0))),
        "95 % interval": [f"{a} to {b}" for a, b in ends],
        "product of factors": list(map(power, r.log_product.mean(0))),
        "for each layer": numbers(10 ** (r.log_ratio.mean(0) / r.depth)),
    }


GAINS = {"sigmoid": (1.0,), "tanh": (1.0, 2.0), "relu": (float(np.sqrt(2)), 1.0, 1.7)}
"""σ of the plain networks of the claim; the first is the one in use (Glorot & Bengio 2010, He et al. 2015b),
which the residual networks have, too."""


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, Vanishing]:
    small: dict[str, Any] = {"depths": (1, 5, 20), "width": 20, "seeds": 4} if options.smoke else {}
    cases: list[tuple[str, dict[str, Any]]] = []
    for name, gains in GAINS.items():
        for gain in gains:
            cases.append((f"plain {NAMES[name]} (σ = {gain:.3g})", {"activation": name, "gain": gain}))
        usual = {"activation": name, "gain": gains[0], "shortcut": True}
        cases.append((f"residual {NAMES[name]}", usual))
        cases.append((f"residual {NAMES[name]} ÷ √L", usual | {"scaled": True}))
    return {label: vanishing(**case, seed=options.seed, **small) for label, case in reported(cases, progress)}


STUDY = Claim(
    name="vanishing",
    title="A product of factors vanishes, “1 +” does not",
    question=(
        "Back-propagation multiplies one factor a layer. Does the product vanish or explode in a plain "
        "network of 100 layers, and what do shortcuts change? Networks at initialization, without "
        "normalization, with three activations."
    ),
    code=(
        "resjax.analysis.vanishing('sigmoid'),\n"
        "resjax.analysis.vanishing('sigmoid', shortcut=True, scaled=True)"
    ),
    labels="network",
    result=Vanishing,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
