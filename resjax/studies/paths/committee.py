"""Committees: do sub-networks of one network vote like an ensemble?

*Question.* Veit, Wilber & Belongie (2016) say that residual networks behave like ensembles of relatively
shallow networks. An ensemble has members: here sub-networks of the trained network each predict a class, and
the error of single sub-networks, of committees and of the whole network is compared.

*Voters.* A sub-network keeps some units and lacks the others (branch removed, shortcut kept; a plain unit
that keeps its shape is replaced by its input). There are two kinds of voters:

* each unit kept with probability ½: a random one of the 2ⁿ subsets of n units;
* exactly d units deleted: a random one of the C(n, d) subsets, or all subsets if they are few enough.

*Vote.* A committee of m voters, drawn without replacement, predicts by majority, or by the largest mean of
its members' logits (or probabilities). **Ties**: where t classes have the most votes, one of them is drawn;
the result holds the expected error, 1 − 1/t where the true class is among them and 1 where it is not.

*Diversity* of each kind, see ``voters``: disagreement, agreement κ, share of pairs that predict differently.

*Beside initialization.* The same voters of the same network are measured at initialization
(``resjax.studies.initial``). Their errors are at chance, and so are those of committees; what can be compared
is diversity. Sub-networks that share most of their units agree before any training, so κ > 0 is no sign of
training.

*Reading it.* If the whole network were only a vote, committees would come close to it, and larger committees
closer. The vote does not show:

* That the network *is* an ensemble. The paper's reviewers noted that it defines none, and that the forward
  pass is not a sum of 2ⁿ models; only the gradient is a sum over paths. The output of a non-linear unit
  can't be split over its inputs (Wu et al. 2016), so a single path has no output: a voter of k units is 2ᵏ
  paths.
* That the network is *not* an ensemble. Voters were never trained as voters, and BatchNorm uses the whole
  network's statistics, which are wrong for a voter; either can raise a committee's error.
* That voters are independent: they share the stem, the head and every unit that both keep.

*Cost.* At most one forward pass for each voter, in practice half of one: shared prefixes run once, deleted
branches not at all (``resjax.studies.lesions.prefixes``); and in the study the same at initialization. The
host counts the votes, and for intervals counts them again with 50 resamples of the voters.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from resjax.network import Network, Variables
from resjax.network.refusal import Refusal
from resjax.studies import style
from resjax.studies.batches import BATCH_SIZE, Progress
from resjax.studies.examples import checked_examples
from resjax.studies.initial import drawn
from resjax.studies.lesions.prefixes import deleting, logits_of_places
from resjax.studies.paths.voters import (
    DIVERSITY,
    VOTERS,
    Election,
    cost,
    default_sizes,
    draw_committees,
    draw_voters,
    kinds_of,
    possible_voters,
)
from resjax.studies.result import Classified
from resjax.studies.study import Bench, Columns, Study
from resjax.studies.subject import Subject
from resjax.studies.verdicts import LEARNED, num_deletable
from resjax.studies.words import columns, factor, join, percent

HALF = "each kept with p = ½"
_OF_VOTERS = tuple(f"{name}_interval" for name in ("voter_error", *DIVERSITY))


@dataclasses.dataclass(frozen=True)
class Committee(Classified):
    """Errors (0 … 1) of voters, of committees and of the whole network.

    Intervals (95 %) are over other voters of a kind and other committees of them, not over examples or
    trained networks (``voters``); in files of earlier versions, over committees only; see ``choices``.
    """

    kind: tuple[str, ...]  # of sub-networks
    voters: Annotated[np.ndarray, "kind"]  # int, the number of voters
    kept: Annotated[np.ndarray, "kind"]  # mean number of deletable units that a voter keeps
    voter_error: Annotated[np.ndarray, "kind", "voter"]  # NaN beyond the voters of a kind
    size: Annotated[np.ndarray, "size"]  # int, voters in a committee
    # Of single committees; NaN where a kind has fewer voters than the size. Intervals are those of the mean.
    majority_error: Annotated[np.ndarray, "kind", "size", "draw"]
    average_error: Annotated[np.ndarray, "kind", "size", "draw"]
    majority_interval: Annotated[np.ndarray, "kind", "size", "end"]
    average_interval: Annotated[np.ndarray, "kind", "size", "end"]
    disagreement: Annotated[np.ndarray, "kind"]  # for these three, see ``voters``
    different_answers: Annotated[np.ndarray, "kind"]
    kappa: Annotated[np.ndarray, "kind"]  # NaN where all voters are always right
    voter_error_interval: Annotated[np.ndarray, "kind", "end"]  # of the mean
    disagreement_interval: Annotated[np.ndarray, "kind", "end"]
    different_answers_interval: Annotated[np.ndarray, "kind", "end"]
    kappa_interval: Annotated[np.ndarray, "kind", "end"]
    whole_error: float  # of the intact network
    num_units: int  # units that can be deleted
    num_examples: int

    @property
    def largest(self) -> np.ndarray:
        """int [kind]: index of the largest size that the kind has committees of."""
        return np.sum(np.isfinite(self.majority_error[..., 0]), axis=1) - 1

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """As ``Result.from_json``; intervals that files of earlier versions lack are NaN."""
        unknown = [[math.nan] * 2 for _ in data.get("kind", ())]
        return super().from_json({**dict.fromkeys(_OF_VOTERS, unknown), **data})


def committee(
    network: Network,
    variables: Variables,
    images: Any,
    labels: ArrayLike,
    *,
    deleted: Sequence[int | None] = (None,),
    voters: int = 65,
    sizes: Sequence[int] | None = None,
    draws: int = 30,
    average: str = "logits",
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: Progress | None = None,
) -> Committee:
    """Measures how often sub-networks are wrong, alone and as voters in committees; positions count singly.

    Args: those of every analysis but ``loss`` and ``metric`` (``Inference``; ``progress`` counts passes), and
      deleted: the kinds of voters: the number of units deleted from each, or None: each kept with p = ½.
      voters: maximum number of voters of a kind, all different; all subsets if there are no more.
      sizes: committee sizes, at most ``voters``; None for 1, 3, 5, 9, 17, … up to half of the voters, so
        that committees of one size differ.
      draws: number of committees of each size, 2 or more.
      average: the averaged quantity, 'logits' or 'probabilities'.
      seed: seed of voters, of committees, and of resampled voters.

    Raises:
      ValueError: also for fewer than two deletable units.
    """
    images, labels, num_classes = checked_examples(network, variables, images, labels)
    can_go = network.deletable(variables, images)
    if can_go.sum() < 2:
        raise Refusal(
            f"{can_go.sum()} of {network.num_units} units can be deleted, and voters differ in the deleted "
            "units; take a network with shortcuts, or with units that keep their shape"
        )
    if average not in ("logits", "probabilities"):
        raise ValueError(f"average={average!r}; allowed: logits, probabilities")
    for name, value in {"voters": voters, "draws": draws}.items():
        if value < 2:
            raise ValueError(f"{name}={value}; allowed: 2 or more, because one has no interval")
    sizes = tuple(default_sizes(voters) if sizes is None else sizes)
    if not sizes or min(sizes) < 1 or max(sizes) > voters:
        raise ValueError(f"sizes={sizes}; allowed: 1 … {voters} (the voters)")
    if not deleted:
        raise ValueError("deleted=(); give at least one kind of voter: a number of units, or None")

    n = int(can_go.sum())
    kept = [draw_voters(can_go, d, voters, seed) for d in deleted]
    elections = [Election(draw_committees((seed, k), len(v), sizes, draws), seed) for k, v in enumerate(kept)]
    kinds = [slice(a, b) for a, b in itertools.pairwise(np.cumsum([1, *map(len, kept)]))]
    # The whole network first.
    gone, wrong = np.concatenate([np.zeros((1, network.num_units), bool), *(own == 0 for own in kept)]), 0
    given = network, variables, images, labels, deleting(gone)
    for batch, logits in logits_of_places(*given, batch_size=batch_size, progress=progress):
        true = batch.labels[batch.mask]
        logits, true = logits[:, batch.mask][:, true >= 0], true[true >= 0]
        answers = np.argmax(logits, -1)
        wrong += np.sum(answers[0] != true)
        scores = logits if average == "logits" else special.softmax(logits, -1)
        for election, rows in zip(elections, kinds, strict=True):
            election.count(answers[rows], scores[rows], true)

    counts = np.array([len(rows) for rows in kept])
    pairs = zip(elections, deleted, strict=True)
    found = [e.result(possible_voters(n, d), int(counts.max())) for e, d in pairs]
    return Committee(
        **{name: np.stack([one[name] for one in found]) for name in found[0]},
        kind=tuple(HALF if d is None else f"{d} deleted" for d in deleted),
        voters=counts,
        kept=np.array([rows[:, can_go].sum(1).mean() for rows in kept]),
        size=np.array(sizes),
        whole_error=float(wrong / np.sum(labels >= 0)),
        num_units=n,
        num_examples=len(labels),
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


# --- what the report shows ---


def plot(results: Mapping[str, Committee]) -> style.Figure:
    """Error by committee size, one panel per network, and κ of each kind where initialization was measured;
    bands and bars are 95 % intervals."""
    with_kappa = any(r.initial is not None for r in results.values())
    fig, grid = style.panels(len(results) + with_kappa, columns=2, height=0.75, sharey=not with_kappa)
    panels = grid[: len(results)]
    kinds = list(dict.fromkeys(kind for r in results.values() for kind in r.kind))  # colours
    rules = {"majority": "-", "average": "--"}
    for ax, (label, r) in zip(panels, results.items(), strict=True):
        for k, kind in enumerate(r.kind):
            color, dots = style.color(kinds.index(kind)), style.marker(kinds.index(kind))
            for name, line in rules.items():
                error, ends = getattr(r, f"{name}_error")[k], getattr(r, f"{name}_interval")[k]
                ax.plot(r.size, 100 * error.mean(-1), line + dots, color=color)
                ax.fill_between(r.size, *(100 * ends.T), color=color, alpha=0.18, lw=0)
        ax.axhline(100 * r.whole_error, ls="-.", color=style.ink())
        ax.axhline(100 * r.chance_error, lw=1, ls=":", color=style.ink())
        ax.set_xscale("log", base=2)
        ax.set_xticks(r.size, [str(m) for m in r.size])
        ax.set(title=label, ylim=(-3, 104), xlabel="voters in the committee")
        ax.minorticks_off()
    for ax in panels[:: 1 if style.is_narrow() else 2]:
        ax.set_ylabel("error (%)")
    for i, kind in enumerate(kinds):
        panels[0].plot([], [], style.marker(i), color=style.color(i), label=kind)
    for name, line in {**rules, "whole network": "-.", "chance": ":"}.items():
        panels[0].plot([], [], line, lw=1.2, color=style.ink(), label=name)
    style.legend_above(fig, panels[0], columns=4)
    if with_kappa:
        _draw_kappa(grid[-1], results, kinds)
    return fig


def _draw_kappa(ax: style.Axes, results: Mapping[str, Committee], kinds: list[str]) -> None:
    """κ of each kind of voters; hollow at initialization."""
    shown = list(drawn(results))
    for row, (i, label, r, look) in enumerate(shown):
        aside = 0.6 / len(shown) * (row - (len(shown) - 1) / 2)
        place = aside + np.array([kinds.index(kind) for kind in r.kind])
        sides = np.abs(r.kappa_interval - r.kappa[:, None]).T
        ax.errorbar(place, r.kappa, sides, fmt=style.marker(i), color=style.ink(), label=label, **look)
    ax.axhline(0, lw=1, color=style.ink())
    ax.set_xticks(range(len(kinds)), [kind.replace(" with p", "\nwith p") for kind in kinds])
    ax.set(title="agreement of two voters", ylabel="κ", xlim=(-0.5, len(kinds) - 0.5), ylim=(None, 1.05))
    ax.legend(fontsize=8)


# A committee "comes close" if its error is at most CLOSE above that of the whole network. The error of a
# majority is "lower" or "higher" than that of one voter if it differs by more than HELPS.
CLOSE, HELPS = 0.01, 0.01


def alone(result: Committee) -> np.ndarray:
    """[kind], mean error of a voter."""
    return np.nanmean(result.voter_error, axis=1)


def together(result: Committee) -> np.ndarray:
    """[kind], mean error of a majority of the largest size."""
    return result.majority_error[np.arange(len(result.kind)), result.largest].mean(-1)


def close(result: Committee) -> np.ndarray:
    """bool [kind], whether the error of the largest majorities is close to that of the whole network."""
    return together(result) <= result.whole_error + CLOSE + 1e-9


def verdict(result: Committee) -> str:
    """For which kinds majorities come close to the whole network: 'all', 'some' or 'none'; or 'untrained'."""
    if result.whole_error > LEARNED * result.chance_error:
        return "untrained"
    near = close(result)
    return "all" if near.all() else "some" if near.any() else "none"


def _some(label: str, result: Committee) -> str:
    kinds, near = np.array([f"“{kind}”" for kind in result.kind]), close(result)
    return (
        f"in {label}, majorities come close to the whole network for voters of the kind "
        f"{join(list(kinds[near]))}, but not for {join(list(kinds[~near]))}"
    )


def points(label: str, r: Committee) -> list[str]:
    """The error of the whole network; for each kind, that of a majority and of one voter, and diversity."""
    covered = r.choices.get("intervals", "over committees of these voters")  # missing in older files
    whole = f"{label}: the error of the whole network is {percent(r.whole_error)}"
    points = [f"{whole}. Intervals (95 %) are {covered}."]
    for k, kind in enumerate(r.kind):
        m, gain = r.largest[k], alone(r)[k] - together(r)[k]
        verb = "lower than" if gain > HELPS else "higher than" if gain < -HELPS else "about"
        majority, _, voter, _, different, kappa = _told(r, k, m)
        there = "" if r.initial is None else _untrained(r.initial, k, m)
        points.append(
            f"{label}, {kind} ({r.kept[k]:.3g} of {r.num_units} units kept): the error of a majority of "
            f"{r.size[m]} is {majority}, {verb} the {voter} of one voter; two voters predict different "
            f"classes for {different} of the examples, κ = {kappa}{there}."
        )
    return points


def _untrained(r: Committee, k: int, m: int) -> str:
    different, kappa = _told(r, k, m)[4:]
    return f"; at initialization for {different}, κ = {kappa}"


def _told(r: Committee, k: int, m: int) -> list[str]:
    """For kind ``k`` and size ``m``: errors of a majority, an average and one voter, disagreement, different
    predictions and κ; as '1.5 % (1.2 % to 1.9 %)', without brackets where there is no interval."""
    found = [
        (r.majority_error[k, m].mean(), r.majority_interval[k, m]),
        (r.average_error[k, m].mean(), r.average_interval[k, m]),
        (alone(r)[k], r.voter_error_interval[k]),
        *((getattr(r, name)[k], getattr(r, f"{name}_interval")[k]) for name in DIVERSITY),
    ]
    texts = [percent] * 5 + [factor]
    return [
        text(value) + ("" if np.isnan(low) else f" ({text(low)} to {text(high)})")
        for text, (value, (low, high)) in zip(texts, found, strict=True)
    ]


def table(r: Committee) -> Columns:
    """One row for each kind of voters and size of committees."""
    rows = []
    for k, kind in enumerate(r.kind):
        for m in range(r.largest[k] + 1):
            *numbers, _, kappa = _told(r, k, m)
            rows.append((kind, str(r.size[m]), *numbers, kappa))
    names = ("voters", "size", "error of the majority", "error of the average")
    return columns((*names, "error of one voter", "disagreement", "κ"), rows)


def summary(r: Committee) -> dict[str, str]:
    """The error of a majority of the kind that keeps the fewest units."""
    k = int(np.argmin(r.kept))
    kept = f"{r.size[r.largest[k]]} voters, {r.kept[k]:.3g} of {r.num_units} units kept"
    judged = verdict(r) != "untrained"
    return {"vote of sub-networks": f"{percent(together(r)[k])} ({kept})" if judged else "–"}


def measure(bench: Bench) -> Committee:
    can_go, size, progress = num_deletable(bench.run), bench.options.batch_size, bench.progress
    how: dict[str, Any] = {"voters": VOTERS, "draws": bench.options.draws, "seed": bench.options.seed}
    return committee(*bench.evaluation(), deleted=kinds_of(can_go), batch_size=size, progress=progress, **how)


def _unsuited(run: Subject) -> str | None:
    if (n := num_deletable(run)) >= 2:
        return None
    return f"voters differ in the deleted units, and {n or 'no'} unit of this network can be deleted"


STUDY = Study(
    name="committee",
    title="A vote of sub-networks",
    question=(
        "Is the network an ensemble? Sub-networks that lack some units each predict a class; a committee of "
        "them predicts by majority, or by the mean of its members' outputs. If the whole network were only "
        "such a vote, large committees would come close to it. How much do sub-networks agree before "
        "training?"
    ),
    code=(
        "resjax.analysis.committee(*run.evaluation(10_000), deleted=(1, 3, None),\n"
        f"                          voters={VOTERS})"
    ),
    result=Committee,
    control=True,
    unsuited=_unsuited,
    measure=measure,
    cost=cost,
    plot=plot,
    verdict=verdict,
    says={
        "all": "majorities of sub-networks of every kind come close to the whole {}",
        "some": _some,
        "none": "no majority of sub-networks comes close to the whole {}",
        "untrained": "{} learned too little for a vote to say anything",
    },
    points=points,
    notes=lambda results: [
        "Voters were never trained to vote; where there is BatchNorm, its statistics are those of the whole "
        "network. A committee that comes close does not prove that the network is an ensemble: the forward "
        "pass is not a sum of models."
    ],
    table=table,
    summary=summary,
)
