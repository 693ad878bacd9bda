"""How deep a residual network is in its forward pass: what is left with k units, or with short paths only.

*Question.* "It is actually shallow" is said of residual networks because most of their *gradient* comes
through short paths (Veit et al. 2016, ``paths``). That is a statement on the backward pass. How much of the
*output* is left if only k of n units, or only paths of at most k branches, are kept?

*Three cuts*, each with k = 0 … n, where k = n is the network itself:

* **paths**: every path of at most k branches is kept, by nested truncation (``truncation``): the branch of a
  unit reads the state that paths of at most k − 1 branches have reached. Nothing is approximated, and no
  computation is deeper than k branches. This is the cut that the verdict is about.
* **linearized**: the same with branches linearized at the intact network's states, which is the Taylor
  polynomial of order k in the branches. Its slopes know what the whole network computed.
* **units**: only the k most needed units are kept, in the greedy order of ``pruning``, chosen on training
  images; random sets of k units beside it. Here k units in a row have paths of up to k branches.

*Depth.* The smallest k from which on the error stays within one percentage point of the intact network's, in
points that images shared: the interval comes from images that are lost and won (Agresti & Min 2005), k by k.
An untrained network has no error to keep. For the comparison with it, the depth is also given by agreement:
the smallest k from which on 99 % of predictions are those of the intact network.

*Verdict.* Shallow if the whole interval of the depth is at most a third of the units. That is where Veit et
al. put their gradient, at 5 to 17 of 54 units; the choice of a third is ours.

*Reading it.* A small depth shows that this output needs no long chain of branches. It does not show that a
network of that depth could have been trained to it, nor that it would generalize as well: Mehmeti-Göpel &
Wand (NeurIPS 2025) argue that networks of variable depth outperform those of fixed depth, and not only
because they are easier to train. It does not show that the network is an ensemble of independent voters. A
large depth of the *units* cut with a small one of *paths* means that many units are used, side by side.

*Cost.* Paths: (n + 1)/2 forward passes. Linearized: as many products with Jacobians. Units: about n/4 passes,
because shared prefixes run once, and the greedy order, about n³/6 evaluations of a unit on the examples for
choosing. Memory: n + 1 states of a batch of at most 32 examples; on a CPU with a device for each core,
usually of two for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from resjax.cpu import shared_batches as on_cores
from resjax.network import Network, Variables
from resjax.network.losses import Metric, over_positions, share_wrong
from resjax.network.refusal import Refusal
from resjax.studies import style, verdicts
from resjax.studies.batches import BATCH_SIZE, Inference, on_each_core, part
from resjax.studies.costs import Cost, evaluated
from resjax.studies.cutting.greedy import (
    MOST_CHOICE_EXAMPLES,
    Rounds,
    chosen_order,
    given_or_greedy,
    rounds_of,
)
from resjax.studies.examples import checked_examples
from resjax.studies.initial import drawn
from resjax.studies.judged import MET, MISSED, judged
from resjax.studies.lesions.passes import of_choice, of_rows, one_by_one
from resjax.studies.lesions.prefixes import deleting, logits_of_places, measure_places
from resjax.studies.lesions.pruning import RANDOM_SETS
from resjax.studies.lesions.subsets import candidates, default_numbers, random_subsets
from resjax.studies.options import Options
from resjax.studies.paths.depths import CUTS, ForwardDepth, depth_of, error_ends, of_shares
from resjax.studies.paths.truncation import truncated_logits
from resjax.studies.spread import spread, style_errors
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.words import count, number, percent, percents

TOGETHER = 32  # examples at a time, because n + 1 states of each are held
FEW = 2  # of them at a time on a core, so that their states stay in its cache
NO_SHORTCUT = "no unit of this network has a shortcut, so all its paths have one length"


def forward_depth(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    choose_on: tuple[Any, ArrayLike] | None = None,
    max_deleted: int | None = None,
    draws: int = RANDOM_SETS,
    seed: int = 0,
    chosen: Rounds | None = None,
    **how: Unpack[Inference],
) -> ForwardDepth:
    """Cuts the forward pass to k = 0 … n branches or residual units and compares it with the intact one.

    Args: those of every analysis (``Inference``), and
      choose_on: images [M, H, W, C] and labels [M] that choose which units are needed, such as training ones.
      max_deleted: rounds of the greedy choice; the cut to fewer units is then NaN. None for all.
      draws: random sets of units for comparison, at each of several sizes.
      seed: seed of the random sets.
      chosen: an order of units as of ``pruning``, instead of ``choose_on`` and ``max_deleted``.

    Raises:
      ValueError: also if no unit has a shortcut, and for neither or both of ``choose_on`` and ``chosen``.
    """
    network.check_chain()
    images, labels, _ = checked_examples(network, variables, images, labels)
    residual, progress = network.residual, how.get("progress")
    if not residual.any():
        raise Refusal(NO_SHORTCUT)
    given, n = (network, variables), int(residual.sum())
    batch_size, metric = how.get("batch_size", BATCH_SIZE), how.get("metric", share_wrong)
    how["progress"] = part(progress, 0, 4)
    allowed, _ = candidates(*given, images)
    rounds = int(allowed.sum()) if max_deleted is None else max_deleted
    chosen = given_or_greedy(*given, choose_on, chosen, allowed, rounds, **how)
    dropped = chosen.order[residual[chosen.order]]
    gone = np.zeros((len(dropped) + 1, network.num_units), bool)
    for k, unit in enumerate(dropped.tolist()):
        gone[k + 1 :, unit] = True

    size, tell, of_units, batches = min(batch_size, TOGETHER), part(progress, 1, 4), [], []
    places = deleting(gone[::-1])
    for batch, logits in logits_of_places(*given, images, labels, places, batch_size=size, progress=tell):
        batches.append(batch)
        of_units.append(jax.device_get(_measures(metric, logits[-1], batch.labels, logits)))
    examples = [(batch.images, batch.labels) for batch in batches]
    cuts = on_each_core(_cut, (network, metric), variables, examples, part(progress, 2, 4))
    masks = np.concatenate([batch.mask for batch in batches])
    values = zip(*([*cut, own] for cut, own in zip(cuts, of_units, strict=True)), strict=True)
    nested, linear, units = (np.concatenate(v, -1)[..., masks].astype(np.float64) for v in values)
    unmeasured = np.full((n + 1 - len(units), *units.shape[1:]), np.nan)
    each = np.stack([nested, linear, np.concatenate([unmeasured, units])])  # [cut, kept, measure, N]

    sizes = [k for k in default_numbers(n) if k < n] or [n]
    kept = random_subsets(residual, sizes, draws, seed)
    places = np.arange(network.num_units)
    places = np.where(kept | ~residual, places, ~places)
    how["progress"] = part(progress, 3, 4)
    random, intact = measure_places(*given, images, labels, places, **how)

    means = each.mean(-1)
    errors = each.std(-1, ddof=1) / np.sqrt(len(labels)) if len(labels) > 1 else np.full_like(means, np.nan)
    wrong, agrees, kl, cosine = (means[:, :, i] for i in range(4))
    right_before = 1 - each[:1, -1:, 0]
    return ForwardDepth(
        **{**intact.as_intact, "intact_error": float(wrong[0, -1])},
        unit=tuple(unit.name for unit in network.units),
        dropped=dropped,
        error=wrong,
        lost=(each[:, :, 0] * right_before).mean(-1),
        agreement=agrees,
        **of_shares(each),
        kl=kl,
        kl_error=errors[:, :, 2],
        cosine=cosine,
        cosine_error=errors[:, :, 3],
        random_number=kept.sum(1),
        random_error=random.error,
        random_kl=random.kl,
        num_choice_examples=chosen.num_examples,
        choices={
            "BatchNorm": "running statistics of training, not re-estimated",
            "paths": "nested truncation: a branch reads the state of paths with one branch less",
            "linearized": "branches, shortcuts and what follows their sum, at the intact network's states",
            "units": "the least harmful to the loss on the examples for choosing dropped first, greedily",
            "not counted": "stem, head, projections, what follows a sum, units without a shortcut",
            "random sets": f"{draws} different ones of each size, or all where there are no more",
            "seed": seed,
        },
    )


@on_cores.jit_each(static=3)
def _cut(
    core: on_cores.Cores,
    network: Network,
    metric: Metric,
    variables: Variables,
    images: Any,
    labels: jax.Array,
) -> tuple[jax.Array, ...]:
    """``_measures`` [kept, measure, B] of the two cuts to paths."""

    def cut(variables: Variables, images: Any) -> list[jax.Array]:
        whole = network.apply(variables, images).logits
        cuts = [truncated_logits(network, variables, images, linear=way) for way in (False, True)]
        return [whole, *(logits.swapaxes(0, 1) for logits in cuts)]

    intact, *cuts = on_cores.few_at_a_time(core, cut, variables, images, most=FEW)
    return tuple(_measures(metric, intact, labels, logits.swapaxes(0, 1)) for logits in cuts)


@partial(jax.jit, static_argnums=0)
def _measures(metric: Metric, intact: jax.Array, labels: jax.Array, logits: jax.Array) -> jax.Array:
    """[m, measure, B] of logits [m, B, …]: wrong, agreement, KL and cosine of each example."""

    def measures(logits: jax.Array) -> jax.Array:
        log_p, log_q = jax.nn.log_softmax(intact), jax.nn.log_softmax(logits)
        choice = jnp.argmax(logits, -1)
        kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
        a, b = (v - v.mean(-1, keepdims=True) for v in (intact, logits))
        size = jnp.sqrt(jnp.sum(a**2, -1) * jnp.sum(b**2, -1))
        cosine = jnp.sum(a * b, -1) / jnp.where(size > 0, size, 1)
        same = choice == jnp.argmax(intact, -1)
        each = [over_positions(v, labels).astype(kl.dtype) for v in (same, kl, cosine)]
        return jnp.stack([metric(logits, labels).astype(kl.dtype), *each])

    return lax.map(measures, logits)


# --- what the report shows ---

SHALLOW = 1 / 3  # of the residual units


def plot(results: Mapping[str, ForwardDepth]) -> style.Figure:
    """Left: error with k branches or units. Right: agreement of paths with the intact network's predictions,
    also at initialization (thin)."""
    fig, (left, right) = style.panels(2)
    for i, (label, r) in enumerate(results.items()):
        kept = np.arange(r.most + 1)
        low, high = error_ends(r)
        left.fill_between(kept, 100 * low, 100 * high, color=style.color(i), alpha=0.18, lw=0)
        for cut, line in zip(range(len(CUTS)), style.LINES, strict=False):
            left.plot(kept, 100 * r.error[cut], line, color=style.color(i), label=label * (cut == 0))
        random = _random(r)
        left.plot(
            random.amount[1:], 100 * random.median[1:], style.marker(i), mfc="none", color=style.color(i)
        )
    for i, _, r, look in drawn(results):
        share = 100 * r.agreement[0]
        right.plot(np.arange(len(share)), share, style.marker(i) + "-", ms=3, color=style.color(i), **look)
    for name, line in (*zip(CUTS, style.LINES, strict=False), ("random units", "o")):
        left.plot([], [], line, mfc="none", color=style.ink(), label=name)
    style_errors(left, max(result.chance_error for result in results.values()))
    right.set(ylabel="same prediction (%)", xlabel="branches kept in a path", ylim=(-3, 104))
    untrained = any(result.initial is not None for result in results.values())
    right.set_title("paths; thin: at initialization" if untrained else "paths")
    right.set_xlim(-0.5, None)
    style.integer_ticks(right)
    style.count_axis(fig, left, "branches or units kept")
    return fig


def _random(result: ForwardDepth) -> Any:
    """Error of random sets by the number of units kept."""
    return spread(result.random_number, result.random_error, result.intact_error)


def verdict(result: ForwardDepth) -> str:
    """Whether short paths are enough for the forward pass."""
    if verdicts.untrained(result):
        return "untrained"
    depth = depth_of(result)
    shown = judged(depth.low, depth.high, most=SHALLOW * result.most)
    return {MET: "shallow", MISSED: "deep"}.get(shown, "undecided")


def _needs(label: str, result: ForwardDepth) -> str:
    return f"{label} keeps its error with paths of {depth_of(result)} of its {result.most} branches"


def points(label: str, result: ForwardDepth) -> list[str]:
    n, random = result.most, _random(result)
    paths, linear, units = (depth_of(result, cut) for cut in CUTS)
    k = max(int(SHALLOW * n), 1)
    text = (
        f"{label}: {percent(result.intact_error)} error when intact, and within one point of it from {paths} "
        f"of {n} branches on with nested paths, from {linear} with linearized branches, and with the {units} "
        f"most needed units. With {k}, the error is {percent(result.error[0, k])}, "
        f"{percent(result.error[1, k])} and {percent(result.error[2, k])}"
    )
    fewer = np.flatnonzero((random.amount > 0) & (random.amount <= k))
    if len(fewer):
        at = int(fewer[-1])
        text += (
            f"; with {count(int(random.amount[at]), 'random unit')}, {random.told(at)} in the median of sets"
        )
    same = f"99 % of predictions are the same from {depth_of(result, by='agreement')} branches on"
    if result.initial is not None:
        same += f"; at initialization, from {depth_of(result.initial, by='agreement')}"
    size = f"KL {number(float(result.kl[0, k]))} nats, cosine of logits {result.cosine[0, k]:.3f}"
    return [f"{text}.", f"{label}: with nested paths of {k}, {size}; {same}."]


def table(result: ForwardDepth) -> Columns:
    kept = list(range(result.most + 1))
    random = _random(result)
    told = dict(zip(random.amount.tolist(), random.cells(), strict=True))
    low, high = error_ends(result)
    ends = zip(percents(result.error[0]), percents(low), percents(high), strict=True)
    return {
        "kept": [str(k) for k in kept],
        "paths: error": [f"{own} ({a} to {b})" for own, a, b in ends],
        "linearized": percents(result.error[1]),
        "most needed units": percents(result.error[2]),
        "random units: median": [told.get(k, "–") if k else "–" for k in kept],
        "paths: same prediction": percents(result.agreement[0]),
        "paths: KL (nats)": [
            f"{number(v)} ± {number(e)}" for v, e in zip(result.kl[0], result.kl_error[0], strict=True)
        ],
        "paths: cosine of logits": [
            f"{v:.3f} ± {e:.3f}" for v, e in zip(result.cosine[0], result.cosine_error[0], strict=True)
        ],
    }


def summary(result: ForwardDepth) -> dict[str, str]:
    if verdicts.untrained(result):
        return {}
    return {"branches that paths need": f"{depth_of(result)} of {result.most}"}


def unsuited(run: Subject) -> str | None:
    """Why no path of the run is shorter than another, or None."""
    run.network.check_chain()
    return None if run.residual else NO_SHORTCUT


MOST_EXAMPLES = 1_000


def measure(bench: Bench) -> ForwardDepth:
    chosen, how = chosen_order(bench, part(bench.progress, 0, 2), "units chosen on"), bench.how
    how["progress"] = part(bench.progress, 1, 2)
    return forward_depth(*bench.evaluation(MOST_EXAMPLES), chosen=chosen, seed=bench.options.seed, **how)


NOTES = (
    "A branch reads what shorter paths reached: paths of at most k branches run at most k branches in a row. "
    "In brackets: 95 % intervals over images. ±: standard error over images."
)


def cost(run: Subject, options: Options) -> Cost:
    residual, count = run.network.residual, evaluated(run, options, MOST_EXAMPLES)
    n = int(residual.sum())
    sizes = [k for k in default_numbers(n) if k < n] or [n]
    kept = random_subsets(residual, sizes, RANDOM_SETS, options.seed)
    # Both cuts to paths, whose passes take a third longer than a network's, and the intact network twice.
    cuts = Cost(forward=count * (4 / 3 * (n + 1) + 2), compilations=5, evaluated=count)
    dropped = one_by_one(run.deletable, rounds_of(int(run.deletable.sum()))) & residual
    units = (of_rows(run.network, deleting(rows), count) for rows in (dropped, residual & ~kept))
    return sum(units, of_choice(run, options) + cuts)


STUDY = Study(
    name="forward_depth",
    title="How deep the forward pass is",
    question=(
        "Gradients come through short paths; is the output made by short paths, too? The forward pass is "
        "cut to paths of at most k branches, exactly and with linearized branches, and to the k most needed "
        "units."
    ),
    code=(
        f"choose_on = run.examples('train', {MOST_CHOICE_EXAMPLES})\n"
        "resjax.analysis.forward_depth(*run.evaluation(1_000), choose_on=choose_on, loss=run.loss)"
    ),
    result=ForwardDepth,
    unsuited=unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "shallow": lambda label, r: f"{_needs(label, r)}, at most a third: it is shallow",
        "deep": lambda label, r: f"{_needs(label, r)}, more than a third: it is not shallow",
        "undecided": lambda label, r: f"{_needs(label, r)}; whether that is at most a third is undecided",
        "untrained": verdicts.UNTRAINED,
    },
    points=points,
    notes=lambda results: [NOTES],
    table=table,
    summary=summary,
    control=True,
)
