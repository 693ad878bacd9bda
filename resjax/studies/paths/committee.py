"""Committees: do sub-networks of one network vote like an ensemble?

*Question.* Veit, Wilber & Belongie (2016) say that residual networks behave like ensembles of relatively
shallow networks. An ensemble has members: so take sub-networks of the trained network, let each name a
class, and compare one of them, a committee of them, and the whole network.

*Voters.* A sub-network keeps some units and deletes the others (branch removed, shortcut kept; a plain unit
that keeps its shape is replaced by its input). Two kinds:

* each unit kept with probability ½: a random one of the 2ⁿ subsets of n units;
* exactly d units deleted: a random one of the C(n, d) subsets, all of them where that is few enough.

*Vote.* A committee of m voters decides by majority, or by the largest mean of its members' logits (or of
their probabilities). **Ties**: where t classes have the most votes, one of them is drawn, and what is counted
is the expected error, 1 − 1/t where the true class is among them and 1 where it is not. Many committees of
each size are drawn from the voters without replacement.

*Diversity* (Kuncheva & Whitaker 2003, Machine Learning 51: 181–207, Table 2). Of V voters and N examples, let
l_j be the number of voters that are right about example j, and p the mean share of right answers:

    disagreement  D = 2 / (N V (V − 1)) · Σ_j l_j (V − l_j)      of two voters exactly one is right
    agreement     κ = 1 − D / (2 p (1 − p))                      interrater agreement (Fleiss 1981)

κ = 1: they err on the same examples; κ = 0: as if independent; κ < 0: they avoid each other's errors. Beside
them stands the share of (pair of voters, example) for which the two name different classes, right or wrong.

*Reading it.* If the whole network were nothing but a vote, a committee would come close to it, and the more
so the larger it is. What it does not show:

* That the network *is* an ensemble. The reviewers of the paper noted that it defines none, and that the
  forward pass is not a sum of 2ⁿ models; only the gradient is a sum over paths. A non-linear unit can't be
  split over its inputs (Wu et al. 2016), so a single path has no output of its own: a voter of k units is
  itself made of 2ᵏ paths.
* That it is none. Voters were never trained as voters, and BatchNorm uses the statistics of the whole
  network, which are wrong for a voter; a bad committee may be the fault of either.
* That voters are independent: they share stem, head and every unit that both keep.

*Cost.* One forward pass a voter, in one compilation; votes are counted on the host, and for intervals
counted again with 50 other drawings of the voters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from resjax.network import Network, Variables
from resjax.studies import style
from resjax.studies.batches import (
    Progress,
    check_examples,
    check_images,
    count_classes,
    padded_batches,
)
from resjax.studies.lesions.subsets import random_halves, random_subsets
from resjax.studies.paths.voters import (
    committee_interval,
    diversity_intervals,
    diversity_of,
    refill,
    voter_interval,
)
from resjax.studies.refusal import Refusal
from resjax.studies.result import Result
from resjax.studies.variants import logits_of, with_gates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AVERAGES = ("logits", "probabilities")
HALF = "each kept with p = ½"
_OF_VOTERS = (
    "voter_error_interval",
    "disagreement_interval",
    "different_answers_interval",
    "kappa_interval",
)


@dataclasses.dataclass(frozen=True)
class Committee(Result):
    """Errors (0 … 1) of voters, of committees and of the whole network.

    Attributes:
      kind: what kind of sub-networks the voters are.
      voters: [kind], how many.
      kept: [kind], mean number of deletable units that a voter keeps.
      voter_error: [kind, voter], each one alone; NaN beyond the voters of a kind.
      size: [size] of committees.
      majority_error, average_error: [kind, size, draw], of single committees; NaN where a kind has fewer
        voters than the size.
      majority_interval, average_interval: [kind, size, end], 95 % intervals of the means over draws.
      disagreement, different_answers, kappa: [kind], see the module; κ is NaN where all are always right.
      voter_error_interval, disagreement_interval, different_answers_interval, kappa_interval: [kind, end],
        95 % intervals of the mean ``voter_error`` and of these three.
      whole_error: of the intact network.
      num_units: units that could be deleted.
      num_examples, num_classes: of the data and the network.
      choices: what the paper leaves open.

    All intervals cover the draw of voters from their kind, and of committees from them; neither the draw of
    examples nor that of the network (``resjax.studies.paths.voters``). ``choices['intervals']`` says so: in
    files of earlier versions they cover committees alone, and those of voters are NaN.
    """

    AXES: ClassVar = {
        **dict.fromkeys(
            ("voters", "kept", "disagreement", "different_answers", "kappa"), ("kind",)
        ),
        "voter_error": ("kind", "voter"),
        "size": ("size",),
        **dict.fromkeys(("majority_error", "average_error"), ("kind", "size", "draw")),
        **dict.fromkeys(("majority_interval", "average_interval"), ("kind", "size", "end")),
        **dict.fromkeys(_OF_VOTERS, ("kind", "end")),
    }

    kind: tuple[str, ...]
    voters: np.ndarray
    kept: np.ndarray
    voter_error: np.ndarray
    size: np.ndarray
    majority_error: np.ndarray
    average_error: np.ndarray
    majority_interval: np.ndarray
    average_interval: np.ndarray
    disagreement: np.ndarray
    different_answers: np.ndarray
    kappa: np.ndarray
    voter_error_interval: np.ndarray
    disagreement_interval: np.ndarray
    different_answers_interval: np.ndarray
    kappa_interval: np.ndarray
    whole_error: float
    num_units: int
    num_examples: int
    num_classes: int
    choices: dict[str, Any]

    @property
    def largest(self) -> np.ndarray:
        """int [kind]: index of the largest size that the kind has committees of."""
        return np.sum(np.isfinite(self.majority_error[..., 0]), axis=1) - 1

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; earlier versions had no intervals of voters, which are NaN then."""
        unknown = [[math.nan] * 2 for _ in data.get("kind", ())]
        return super().from_json({**dict.fromkeys(_OF_VOTERS, unknown), **data})


def vote(
    network: Network,
    variables: Variables,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    deleted: Sequence[int | None] = (None,),
    voters: int = 65,
    sizes: Sequence[int] | None = None,
    draws: int = 30,
    average: str = "logits",
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> Committee:
    """Lets sub-networks vote, alone and in committees.

    Args:
      network: any with two units or more that can be deleted.
      variables: of the network.
      images: float [N, H, W, C], standardized as in training; any N ≥ 1, each counted once.
      labels: int [N].
      deleted: the kinds of voters: so many units deleted from each, or None, where each is kept with p = ½.
      voters: most voters of a kind; all subsets where there are no more, else so many different ones.
      sizes: of the committees, at most ``voters``; None for 1, 3, 5, 9, 17, … up to half of the voters, so
        that committees of one size differ.
      draws: committees of each size, 2 or more.
      average: what is averaged, 'logits' or 'probabilities'.
      batch_size: most examples at a time; the result does not depend on it.
      seed: of voters, of committees, and of voters that are drawn anew.
      progress: called as ``progress(forward passes done, passes in all)``.

    Raises:
      ValueError: no example, data of a wrong form, fewer than two deletable units, or impossible options.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_images(images)
    num_classes = count_classes(network, variables, images.shape[1:])
    check_examples(images, labels, num_classes)
    can_go = network.deletable(variables, images.shape[1:])
    if can_go.sum() < 2:
        raise Refusal(
            f"{can_go.sum()} of {network.num_units} units can be deleted, and voters differ in what they "
            "delete; take a network with shortcuts, or with units that keep their shape"
        )
    if average not in AVERAGES:
        raise ValueError(f"average={average!r}; allowed: {', '.join(AVERAGES)}")
    if voters < 2:
        raise ValueError(f"voters={voters}; allowed: 2 or more, who can differ")
    if draws < 2:
        raise ValueError(f"draws={draws}; allowed: 2 or more, because one draw has no interval")
    sizes = tuple(_default_sizes(voters) if sizes is None else sizes)
    if not sizes or min(sizes) < 1 or max(sizes) > voters:
        raise ValueError(f"sizes={sizes}; allowed: 1 … {voters} (the voters)")

    rng = np.random.default_rng(seed)
    gates, members = [np.ones((1, network.num_units), np.float32)], []
    for d in deleted:
        gates.append(_voters(can_go, d, voters, seed))
        members.append(_committees(rng, len(gates[-1]), sizes, draws))
    if not members:
        raise ValueError("deleted=(); name one kind of voter or more: a number of units, or None")
    counts = np.array([len(rows) for rows in gates[1:]])
    ends = np.cumsum([1, *counts])
    kinds = [slice(a, b) for a, b in itertools.pairwise(ends)]

    others = [refill(rows, seed) for rows in members]
    wrong = np.zeros((2, len(kinds), len(sizes), draws))
    again = np.zeros((2, len(kinds), *others[0].shape[:3]))
    answers = []
    batches = list(padded_batches(images, labels, batch_size))
    for i, batch in enumerate(batches):

        def tell(done: int, of: int, i: int = i) -> None:
            if progress:
                progress(i * of + done, len(batches) * of)

        logits = logits_of(
            network,
            variables,
            batch.images,
            with_gates,
            np.concatenate(gates),
            batch_size=batch_size,
            progress=tell,
        )[:, batch.mask]
        true = batch.labels[batch.mask]
        answers.append(np.argmax(logits, -1))
        scores = logits if average == "logits" else _softmax(logits)
        votes = np.eye(num_classes, dtype=np.float32)[answers[-1]]
        for (rule, values), k in itertools.product(enumerate((votes, scores)), range(len(kinds))):
            own = np.ascontiguousarray(values[kinds[k]].swapaxes(1, 2))
            wrong[rule, k] += wrong_answers(_sum(members[k], own), true)
            for r, weights in enumerate(others[k]):
                again[rule, k, r] += wrong_answers(_sum(weights, own), true)

    answer = np.concatenate(answers, axis=1)
    alone = np.full((len(kinds), counts.max()), np.nan)
    diversity, around = np.zeros((3, len(kinds))), np.zeros((4, len(kinds), 2))
    interval = np.zeros((*wrong.shape[:-1], 2))
    wrong, again = wrong / len(images), np.moveaxis(again, 2, 0) / len(images)
    for k, rows in enumerate(kinds):
        alone[k, : counts[k]] = np.mean(answer[rows] != labels, axis=1)
        diversity[:, k] = diversity_of(answer[rows], labels)
        possible = _possible(int(can_go.sum()), deleted[k])
        around[0, k] = voter_interval(alone[k, : counts[k]], possible)
        around[1:, k] = diversity_intervals(answer[rows], labels, possible, seed)
        wrong[:, k, np.array(sizes) > counts[k]] = np.nan
        interval[:, k] = committee_interval(wrong[:, k], again[:, :, k], int(counts[k]), possible)
    return Committee(
        kind=tuple(HALF if d is None else f"{d} deleted" for d in deleted),
        voters=counts,
        kept=np.array([rows[:, can_go].sum(1).mean() for rows in gates[1:]]),
        voter_error=alone,
        size=np.array(sizes),
        majority_error=wrong[0],
        average_error=wrong[1],
        majority_interval=interval[0],
        average_interval=interval[1],
        disagreement=diversity[0],
        different_answers=diversity[1],
        kappa=diversity[2],
        voter_error_interval=around[0],
        disagreement_interval=around[1],
        different_answers_interval=around[2],
        kappa_interval=around[3],
        whole_error=float(np.mean(answer[0] != labels)),
        num_units=int(can_go.sum()),
        num_examples=len(images),
        num_classes=num_classes,
        choices={
            "average of": average,
            "ties in a majority": "expected error of a draw among the classes with most votes",
            "committees": "drawn from the voters of their kind without replacement",
            "intervals": "over other voters of the same kind and other committees of them; not over "
            "examples or networks",
            "units that can't be deleted": "kept by every voter",
            "BatchNorm": "running statistics of the whole network, not re-estimated for a voter",
            "seed": seed,
        },
    )


def wrong_answers(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[..., classes, N] and int [N] → expected wrong answers [...], ties between best classes drawn.

    Examples come last, because a maximum over an axis of few classes is slow where that axis is the last.
    """
    best = scores == scores.max(-2, keepdims=True)
    right = np.take_along_axis(best, labels.reshape(*[1] * (best.ndim - 1), -1), -2)[..., 0, :]
    return np.sum(1 - right / best.sum(-2), axis=-1)


def _default_sizes(voters: int) -> list[int]:
    half = (voters + 1) // 2
    return [1, *itertools.takewhile(lambda m: m <= half, (2**k + 1 for k in itertools.count(1)))]


def _voters(can_go: np.ndarray, deleted: int | None, most: int, seed: int) -> np.ndarray:
    """float32 gates [voter, unit] of different voters of a kind, at most ``most``."""
    n = int(can_go.sum())
    if deleted is None:
        gone = random_halves(can_go, most, seed)
    elif 0 < deleted <= n:
        gone = random_subsets(can_go, (deleted,), most, seed)
    else:
        raise ValueError(f"deleted={deleted}; allowed: 1 … {n} (the units that can go), or None")
    if len(gone) < 2:
        raise Refusal(
            f"deleted={deleted} of {n} units leaves one sub-network; a vote takes two or more: delete fewer"
        )
    return 1 - gone.astype(np.float32)


def _possible(n: int, deleted: int | None) -> int:
    """How many different voters of a kind there are."""
    return 2**n if deleted is None else math.comb(n, deleted)


def _committees(
    rng: np.random.Generator, voters: int, sizes: Sequence[int], draws: int
) -> np.ndarray:
    """float32 [size, draw, voter] of 0 and 1: who sits in which committee (all 0 where too few exist)."""
    out = np.zeros((len(sizes), draws, voters), np.float32)
    for i, m in enumerate(sizes):
        for j in range(draws if m <= voters else 0):
            out[i, j, rng.choice(voters, m, replace=False)] = 1
    return out


def _sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[size, draw, voter] and [voter, classes, B] → [size, draw, classes, B]."""
    return np.tensordot(weights, values, 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def plot(results: Committee | Mapping[str, Committee]) -> Figure:
    """Error by committee size, one panel a network; bands are the 95 % intervals of the result."""
    named = {"": results} if isinstance(results, Committee) else dict(results)
    columns = 1 if style.is_narrow() else min(len(named), 2)
    rows = -(-len(named) // columns)
    fig, grid = style.axes_grid(rows, columns, sharey=True)
    fig.set_figheight(fig.get_figheight() * (1 + 0.75 * (rows - 1)))
    panels = [ax for row in grid for ax in row]
    # The same colour for a kind in every panel.
    kinds = list(dict.fromkeys(kind for r in named.values() for kind in r.kind))
    for ax in panels[len(named) :]:
        ax.set_visible(False)
    for ax, (label, r) in zip(panels, named.items(), strict=False):
        for k, kind in enumerate(r.kind):
            i = kinds.index(kind)
            look: dict[str, Any] = {"color": style.color(i)}
            for error, interval, line in (
                (r.majority_error, r.majority_interval, "-"),
                (r.average_error, r.average_interval, "--"),
            ):
                mean = 100 * error[k].mean(-1)
                ax.plot(r.size, mean, line + style.marker(i), **look)
                low, high = 100 * interval[k].T
                ax.fill_between(r.size, low, high, alpha=0.18, lw=0, **look)
        ax.axhline(100 * r.whole_error, ls="-.", color=style.ink())
        ax.axhline(100 * (1 - 1 / r.num_classes), lw=1, ls=":", color=style.ink())
        ax.set_xscale("log", base=2)
        ax.set_xticks(r.size, [str(m) for m in r.size])
        ax.set(title=label, ylim=(-3, 104), xlabel="voters in the committee")
        ax.minorticks_off()
    for row in grid:
        row[0].set_ylabel("error (%)")
    for i, kind in enumerate(kinds):
        panels[0].plot([], [], style.marker(i), color=style.color(i), label=kind)
    lines = {"majority": "-", "average": "--", "whole network": "-.", "chance": ":"}
    for name, line in lines.items():
        panels[0].plot([], [], line, lw=1.2, color=style.ink(), label=name)
    style.legend_above(fig, panels[0], columns=4)
    return fig
