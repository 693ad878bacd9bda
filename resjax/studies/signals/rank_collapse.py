"""Rank collapse: without shortcuts, attention makes all tokens equal, doubly exponentially with depth.

*Question.* Self-attention replaces each token by a mean of all. Dong, Cordonnier & Loukas (2021,
arXiv:2103.03404) prove that a stack of attention layers without shortcuts makes the tokens equal, so that
the matrix of tokens has rank 1, and that it does so doubly exponentially: with res(X) = X − 1xᵀ, and β and γ
that depend on the weights and the attention,

    ‖res(SAN(X))‖ ≤ (4γβ / √d)^((3^L − 1)/2) · ‖res(X)‖^(3^L).

Each layer cubes what the tokens do not share. Are shortcuts what keeps tokens apart, or MLPs and LayerNorm?

*Method.* The layers are those of this project's ViT (``resjax.models.vit``) at initialization: attention, or
attention and MLP, with LayerNorm in front of each branch, with their shortcuts or without. A fifth kind has
neither LayerNorm nor shortcuts, as in the theorem. Tokens are those of the stem for one image of standard
normal pixels. Measured behind each layer is the paper's relative norm of the residual,

    r = ‖X − 1xᵀ‖ / ‖X‖,   x the mean token,   ‖·‖ = √(‖·‖₁ ‖·‖_∞),

and the order k = log r_L / log r_{L−1} of the last layer: a layer with r_L = c·r_{L−1}^k has this order, up
to log c / log r_{L−1}, which vanishes as r does. It is 3 for a layer that cubes r, and 1 for a fixed factor.
The residual is carried in logarithms (``token_residual``), so that 10⁻¹⁰⁰⁰⁰ is no problem.

*What is judged*, fixed before anything was measured. r collapses doubly exponentially if k of the last layer
is 3 ± 0.1, and it is kept if it falls by less than a factor of ten over all layers, each with the whole
interval over networks (seeds).

*Reading it.* The theorem is an upper bound with factors that this study does not compute; it tests the
exponent. A relative residual that falls is no error by itself. These are initial weights; training can make
attention sharp, and then the residual is not small and nothing is cubed.

*Cost.* Twelve layers of 65 tokens in numpy: a few seconds for each kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import numpy as np

from resjax import models
from resjax.studies import style
from resjax.studies.batches import Progress, reported
from resjax.studies.intervals import bootstrap
from resjax.studies.judged import MET, judged
from resjax.studies.lesions.forwards import fresh
from resjax.studies.options import ClaimOptions
from resjax.studies.result import Result
from resjax.studies.signals.token_residual import Tokens, attention, layer_norm, mlp
from resjax.studies.study import Claim, Columns
from resjax.studies.words import join, number, numbers

SIDE, PATCH = 32, 4  # pixels of the image and of a patch


@dataclasses.dataclass(frozen=True)
class RankCollapse(Result):
    """What tokens do not share, behind each layer of one kind of network at initialization."""

    layer: Annotated[np.ndarray, "layer"]  # int, 0 for the tokens of the stem
    log_residual: Annotated[np.ndarray, "seed", "layer"]  # log₁₀ of r
    shortcuts: bool  # the kind of network, with the next two
    mlp: bool
    norm: bool

    @property
    def order(self) -> np.ndarray:
        """[seed]: log r of the last layer ÷ that of the one before."""
        return self.log_residual[:, -1] / self.log_residual[:, -2]

    @property
    def fall(self) -> np.ndarray:
        """[seed]: log₁₀ of r behind the last layer ÷ r of the stem."""
        return self.log_residual[:, -1] - self.log_residual[:, 0]


def rank_collapse(
    *,
    shortcuts: bool,
    mlps: bool = True,
    norm: bool = True,
    size: str = "Ti",
    depth: int = 12,
    seeds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> RankCollapse:
    """What tokens do not share, by depth, in vision transformers at initialization (see the module).

    Args:
      shortcuts: whether each branch is added to its input.
      mlps: whether an MLP follows each attention.
      norm: whether LayerNorm stands in front of each branch.
      size: of ``resjax.models.vit``, whose widths and heads are taken.
      depth: layers, 2 or more.
      seeds: networks, 2 or more.
      seed: seed of their weights and images.
      progress: counts networks.

    Raises:
      ValueError: fewer than two layers or networks, or an unknown size.
    """
    if depth < 2 or seeds < 2:
        raise ValueError(f"depth={depth}, seeds={seeds}; allowed: 2 or more of each")
    shape = (SIDE, SIDE, 3)
    network = models.build(
        models.defaults("vit", size=size, depth=depth, patch=PATCH), image_shape=shape, num_classes=10
    )
    heads = network.stacks[0].unit.branch.heads
    found = []
    for i in reported(range(seeds), progress):
        image = np.random.default_rng((seed, i)).standard_normal((1, *shape), np.float32)
        variables = jax.device_get(fresh(network, shape, seed, i))
        stem = network.stem.apply({"params": variables["params"]["stem"]}, image, False)
        params = jax.tree.map(lambda v: np.asarray(v, float), variables["params"])
        tokens = Tokens.of(np.asarray(stem)[0])
        row = [tokens.relative]
        for layer in range(depth):
            own = {
                name: jax.tree.map(lambda v, at=layer: v[at], params[name]) for name in ("attention", "mlp")
            }
            tokens = through_layer(tokens, own, heads, shortcuts=shortcuts, mlps=mlps, norm=norm)
            row.append(tokens.relative)
        found.append(row)
    return RankCollapse(
        layer=np.arange(depth + 1),
        log_residual=np.array(found),
        shortcuts=shortcuts,
        mlp=mlps,
        norm=norm,
        choices={
            "networks": f"{seeds} of ViT-{size}, {depth} layers, at initialization",
            "tokens": f"of an image of {SIDE}×{SIDE} standard normal pixels, patches of {PATCH}×{PATCH}, and "
            "the class token, with positions",
            "norm": "√(largest column sum × largest row sum) of absolute values, as in Dong et al. 2021",
            "x": "the mean token",
            "precision": "float64; the residual is carried apart from the mean, its scale as a logarithm",
            "seed": seed,
        },
    )


def through_layer(
    tokens: Tokens, weights: Mapping[str, Any], heads: int, *, shortcuts: bool, mlps: bool, norm: bool
) -> Tokens:
    """The tokens behind one layer, ``weights`` {'attention', 'mlp': the variables of its units}."""
    for name in ("attention", "mlp")[: 1 + mlps]:
        own = weights[name]
        seen = layer_norm(tokens, own["norm"]) if norm else tokens
        branch = attention(seen, own["branch"], heads) if name == "attention" else mlp(seen, own["branch"])
        tokens = tokens.plus(branch) if shortcuts else branch
    return tokens


# --- what the report shows ---


def plot(results: Mapping[str, RankCollapse]) -> style.Figure:
    """−log₁₀ r by layer: how many powers of ten tokens are closer to one another than to 0.

    The axis is logarithmic above 1, so a doubly exponential collapse is a straight line. Thin lines are
    networks (seeds), the thick one is their mean; the dotted line grows threefold with each layer.
    """
    fig, ax = style.axes()
    for i, (label, r) in enumerate(results.items()):
        look: dict[str, Any] = {"color": style.color(i)}
        ax.plot(r.layer, -r.log_residual.T, lw=0.5, alpha=0.5, **look)
        ax.plot(r.layer, -r.log_residual.mean(0), style.marker(i) + "-", label=label, **look)
    last = max((int(r.layer[-1]) for r in results.values()), default=0)
    layers = np.arange(1, last + 1)
    ax.plot(layers, 3.0 ** (layers - 1), ":", color=style.ink(), label="× 3 with each layer")
    ax.set_yscale("symlog", linthresh=1)
    ax.set(xlabel="layer", ylabel="−log₁₀ of ‖X − 1xᵀ‖ / ‖X‖")
    style.integer_ticks(ax)
    style.legend_above(fig, ax, 2)
    return fig


CUBED, TOLERANCE = 3.0, 0.1
EVEN = 1.0  # powers of ten: a residual that falls by less is kept
FATES = {
    "doubly": "collapses doubly exponentially",
    "kept": "is kept",
    "falls": "falls, but not doubly exponentially",
    "undecided": "has no clear fate",
}


def verdict(r: RankCollapse) -> str:
    """A key of ``FATES``, by intervals over networks."""
    low, high = (float(end) for end in bootstrap(r.fall))
    if judged(low, high, least=-EVEN) == MET:
        return "kept"
    if high >= -EVEN:
        return "undecided"
    ends = (float(end) for end in bootstrap(r.order))
    within = judged(*ends, least=CUBED - TOLERANCE, most=CUBED + TOLERANCE)
    return {"met": "doubly", "missed": "falls"}.get(within, "undecided")


def headline(results: Mapping[str, RankCollapse]) -> str:
    """What becomes of the difference of tokens in each kind of network."""
    clauses = []
    for fate, told in FATES.items():
        labels = [label for label, r in results.items() if verdict(r) == fate]
        if labels:
            clauses.append(f"{told} in {join(labels)}")
    layers = max((int(r.layer[-1]) for r in results.values()), default=0)
    return f"over {layers} layers at initialization, what tokens do not share {'; it '.join(clauses)}"


def points(label: str, r: RankCollapse) -> list[str]:
    """r in front of the first and behind the last layer, and the order of the last."""
    mean, (low, high) = r.log_residual.mean(0), map(float, bootstrap(r.fall))
    text = (
        f"{label}: log₁₀ r is {number(mean[0])} in front of the layers and {number(mean[-1])} behind the "
        f"last of {r.layer[-1]}, a change of {number(r.fall.mean())} ({number(low)} to {number(high)} over "
        f"{len(r.log_residual)} networks)."
    )
    if high >= -EVEN:
        return [text]
    least, most = map(float, bootstrap(r.order))
    return [
        f"{text} log r of the last layer is {r.order.mean():.3f} times that of the one before ({least:.3f} "
        f"to {most:.3f}); 3 is a layer that cubes r."
    ]


def table(r: RankCollapse) -> Columns:
    low, high = bootstrap(r.log_residual.T)
    ends = zip(numbers(low), numbers(high), strict=True)
    mean = r.log_residual.mean(0)
    # Only where r is small does the ratio of logarithms say how r shrinks.
    times = [np.nan, *np.where(mean[:-1] < -EVEN, mean[1:] / np.where(mean[:-1], mean[:-1], 1), np.nan)]
    return {
        "layer": [str(layer) for layer in r.layer],
        "log₁₀ r": numbers(mean),
        "95 % interval": [f"{a} to {b}" for a, b in ends],
        "times that of the layer before": numbers(times),
    }


KINDS: dict[str, dict[str, Any]] = {
    "attention alone": {"shortcuts": False, "mlps": False},
    "attention alone, no LayerNorm": {"shortcuts": False, "mlps": False, "norm": False},
    "attention and MLP": {"shortcuts": False},
    "attention with shortcuts": {"shortcuts": True, "mlps": False},
    "the whole ViT": {"shortcuts": True},
}


def measure(options: ClaimOptions, progress: Progress | None) -> dict[str, RankCollapse]:
    small: dict[str, Any] = {"size": "digits", "depth": 4, "seeds": 2} if options.smoke else {}
    cases = list(KINDS.items())
    return {
        label: rank_collapse(**kind, seed=options.seed, **small) for label, kind in reported(cases, progress)
    }


STUDY = Claim(
    name="rank_collapse",
    title="Without shortcuts, attention makes all tokens equal",
    question=(
        "Attention replaces each token by a mean of all tokens. How fast do tokens become equal with depth, "
        "and is it shortcuts, MLPs or LayerNorm that keep them apart? Vision transformers at initialization, "
        "with their shortcuts and without."
    ),
    code="resjax.analysis.rank_collapse(shortcuts=False), resjax.analysis.rank_collapse(shortcuts=True)",
    labels="network",
    result=RankCollapse,
    measure=measure,
    plot=plot,
    headline=headline,
    points=points,
    table=table,
)
