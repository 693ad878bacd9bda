"""Voters of a committee: drawing them, counting votes, and intervals of the result.

Diversity follows Kuncheva & Whitaker (2003, Machine Learning 51: 181–207, Table 2): of V voters and N
examples, let l_j be the number of voters that are right about example j, and p the mean share of right
predictions:

    disagreement  D = 2 / (N V (V − 1)) · Σ_j l_j (V − l_j)      exactly one of two voters is right
    agreement     κ = 1 − D / (2 p (1 − p))                      interrater agreement (Fleiss 1981)

κ = 1: voters err on the same examples; κ = 0: as if independent; κ < 0: they err on different examples more
often than if independent. A third
number is the share of (pair of voters, example) for which the two predict different classes, right or wrong.

The voters of a committee are a sample of the sub-networks of their kind. The sampling error of an estimate
from V voters is estimated by resampling the voters with replacement (Efron & Tibshirani 1993, §6), with
corrections:

* A voter drawn twice would form a pair with itself, which always agrees. Such pairs are left out.
* The mean over committees varies with the voters and with the committees. A committee is a set of *slots*,
  which resampling fills with voters, a few committees at a time. The variance within one filling is due to
  committees only, and is subtracted: between = Var(mean of c committees) − E[variance within] / c. Each part
  then uses its own number of draws and degrees of freedom (Satterthwaite 1946).
* V of M sub-networks were drawn: variances shrink by 1 − V/M (Cochran 1977, §2.6), and are 0 if all M vote.
* Resampled means of few voters never leave the range of the sample, so intervals use Student's t instead of
  percentiles, clipped to the range of possible values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from resjax.network.refusal import Refusal
from resjax.studies.costs import Cost, evaluated
from resjax.studies.intervals import student
from resjax.studies.lesions.passes import of_rows
from resjax.studies.lesions.prefixes import deleting
from resjax.studies.lesions.subsets import random_halves, random_subsets
from resjax.studies.options import Options
from resjax.studies.subject import Subject

VOTERS = 17  # of each kind in the study
DIVERSITY = ("disagreement", "different_answers", "kappa")
_PAIRS = 2000  # resamples for diversity, which are cheap
_VOTES, _COMMITTEES = (
    50,
    10,
)  # resamples that recount votes, and their committees of each size


def draw_voters(can_go: np.ndarray, deleted: int | None, most: int, seed: int) -> np.ndarray:
    """float32 gates [voter, unit] of at most ``most`` different voters of a kind; see ``committee``."""
    n = int(can_go.sum())
    if deleted is None:
        gone = random_halves(can_go, most, seed)
    elif 0 < deleted <= n:
        gone = random_subsets(can_go, (deleted,), most, seed)
    else:
        allowed = f"1 … {n} (units that can be deleted), or None"
        raise ValueError(f"deleted={deleted}; allowed: {allowed}")
    if len(gone) < 2:
        raise Refusal(
            f"deleted={deleted} of {n} units leaves one sub-network; a vote needs two or more: delete fewer"
        )
    return 1 - gone.astype(np.float32)


def possible_voters(n: int, deleted: int | None) -> int:
    """Number of different voters of a kind."""
    return 2**n if deleted is None else math.comb(n, deleted)


def default_sizes(voters: int) -> list[int]:
    """1, 3, 5, 9, 17, … up to half of the voters."""
    half = (voters + 1) // 2
    return [1, *itertools.takewhile(lambda m: m <= half, (2**k + 1 for k in itertools.count(1)))]


def draw_committees(seed: Sequence[int], voters: int, sizes: Sequence[int], draws: int) -> np.ndarray:
    """float32 [size, draw, voter], 1 for members of a committee; 0 for sizes that exceed ``voters``.

    Each size has its own random numbers, so the first draws are the same however many there are.
    """
    out = np.zeros((len(sizes), draws, voters), np.float32)
    for i, m in enumerate(sizes):
        rng = np.random.default_rng((*seed, m))
        for j in range(draws if m <= voters else 0):
            out[i, j, rng.choice(voters, m, replace=False)] = 1
    return out


class Election:
    """All votes of one kind of voters, alone and in committees, counted batch by batch.

    ``members`` are from ``draw_committees``; ``seed`` is that of the resampled voters.
    """

    def __init__(self, members: np.ndarray, seed: int) -> None:
        self._members, self._again, self._seed = members, refill(members, seed), seed
        # By majority and by average: [rule, size, draw]; with resampled voters [resample, rule, size, draw].
        self._wrong = np.zeros((2, *members.shape[:2]))
        self._wrong_again = np.zeros((len(self._again), 2, *self._again.shape[1:3]))
        self._answers: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def count(self, answers: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Adds a batch: the voters' predictions [voter, B], and the scores to average [voter, B, classes]."""
        # A class without a vote can't win; of a large vocabulary few words have one.
        named, places = np.unique(np.append(answers, labels), return_inverse=True)
        places = places.reshape(-1, len(labels))
        votes = np.eye(len(named), dtype=np.float32)[places[:-1]]
        for rule, (values, true) in enumerate(((votes, places[-1]), (scores, labels))):
            own = np.ascontiguousarray(values.swapaxes(1, 2))
            self._wrong[rule] += wrong_answers(np.tensordot(self._members, own, 1), true)
            for weights, wrong in zip(self._again, self._wrong_again[:, rule], strict=True):
                wrong += wrong_answers(np.tensordot(weights, own, 1), true)
        self._answers.append(answers)
        self._labels.append(labels)

    def result(self, possible: int, most: int) -> dict[str, np.ndarray]:
        """This kind's entries of the fields of ``Committee``; ``most``: largest number of voters of a kind.

        ``possible``: see ``diversity_intervals``.
        """
        answers, labels = np.concatenate(self._answers, 1), np.concatenate(self._labels)
        alone = np.mean(answers != labels, axis=1)
        error, again = self._wrong / len(labels), self._wrong_again / len(labels)
        error[:, self._members.sum((1, 2)) == 0] = np.nan
        interval = committee_interval(error, again, len(answers), possible)
        ends = diversity_intervals(answers, labels, possible, self._seed)
        return {
            "voter_error": np.pad(alone, (0, most - len(alone)), constant_values=np.nan),
            "voter_error_interval": voter_interval(alone, possible),
            "majority_error": error[0],
            "average_error": error[1],
            "majority_interval": interval[0],
            "average_interval": interval[1],
            **dict(zip(DIVERSITY, diversity_of(answers, labels), strict=True)),
            **{f"{name}_interval": own for name, own in zip(DIVERSITY, ends, strict=True)},
        }


def wrong_answers(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[..., classes, N] and int [N] → expected number of wrong predictions [...]; ties are broken at random.

    Examples come last, because a maximum over a short last axis is slow.
    """
    best = scores == scores.max(-2, keepdims=True)
    right = np.take_along_axis(best, labels.reshape(*[1] * (best.ndim - 1), -1), -2)[..., 0, :]
    return np.sum(1 - right / best.sum(-2), axis=-1)


def diversity_of(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [V, N] and int [N] → [3]: D, share of pairs that predict different classes, and κ."""
    return _diversity(answers, labels, np.ones((1, len(answers))))[:, 0]


def diversity_intervals(answers: np.ndarray, labels: np.ndarray, possible: int, seed: int = 0) -> np.ndarray:
    """95 % intervals [3, end], over voters, of the results of ``diversity_of``.

    NaN for two voters, which form a single pair, and if κ is NaN. ``possible`` is M, the number of
    different voters of this kind; ``seed`` is that of the resamples.
    """
    voters = len(answers)
    estimate = diversity_of(answers, labels)
    if voters < 3:
        return np.full((3, 2), np.nan)
    picks = np.random.default_rng((seed, voters)).integers(0, voters, (_PAIRS, voters))
    counts = np.sum(np.eye(voters)[picks], axis=1)
    counts = counts[(counts > 0).sum(1) > 1]  # one voter has no pair
    made = np.ma.masked_invalid(_diversity(answers, labels, counts))
    variance = made.var(axis=1).filled(0)  # over the resamples with a defined κ
    error = np.sqrt(variance * _unbiased(voters, possible))
    ends = np.stack(student(estimate, error, voters - 1), -1)
    return np.stack([*ends[:2].clip(0, 1), ends[2].clip(-1, 1)])


def voter_interval(errors: np.ndarray, possible: int) -> np.ndarray:
    """95 % interval [end] of the mean of ``errors`` [V] over voters."""
    voters = len(errors)
    error = np.sqrt(np.var(errors) * _unbiased(voters, possible) / voters)
    return np.clip(student(errors.mean(), error, voters - 1), 0, 1)


def refill(members: np.ndarray, seed: int = 0) -> np.ndarray:
    """The first committees of each size of ``draw_committees``, refilled with resampled voters.

    float32 [50, size, draw, voter], the number of votes of each voter; at most 10 draws.
    """
    voters = members.shape[-1]
    picks = np.random.default_rng((seed, voters, 1)).integers(0, voters, (_VOTES, voters))
    filled = np.eye(voters, dtype=np.float32)[picks]
    return members[:, :_COMMITTEES].astype(np.float32) @ filled[:, None]


def committee_interval(errors: np.ndarray, again: np.ndarray, voters: int, possible: int) -> np.ndarray:
    """95 % intervals [..., end] of the mean error of committees, over V of M voters and over committees.

    Args:
      errors: [..., draw], of committees.
      again: [resample, ..., draw], errors of the committees of ``refill``.
    """
    draws = errors.shape[-1]
    within = again.var(-1, ddof=1).mean(0) / again.shape[-1]
    between = np.maximum(again.mean(-1).var(0, ddof=1) - within, 0)
    between = between * _unbiased(voters, possible)
    own = errors.var(-1, ddof=1) / draws
    total = between + own
    parts = between**2 / (voters - 1) + own**2 / (draws - 1)
    degrees = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1), 1)
    return np.stack(student(errors.mean(-1), np.sqrt(total), degrees), -1).clip(0, 1)


def _diversity(answers: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[3, m]: D, different predictions and κ, where each voter is counted ``counts`` [m, V] times."""
    right = (answers == labels).astype(float)
    one = right @ (1 - right).T
    one_right = one + one.T  # [V, V]: number of examples for which exactly one of two voters is right
    same = ((answers == c).astype(float) for c in np.unique(answers))  # one class at a time in memory
    unlike = len(labels) - sum(own @ own.T for own in same)
    pairs = counts.sum(-1) ** 2 - np.sum(counts**2, -1)
    disagreement, different = (
        np.sum((counts @ (v / len(labels))) * counts, -1) / pairs for v in (one_right, unlike)
    )
    p = counts @ right.mean(1) / counts.sum(-1)
    spread = 2 * p * (1 - p)
    return np.stack([disagreement, different, 1 - disagreement / np.where(spread > 0, spread, np.nan)])


def _unbiased(voters: int, possible: int) -> float:
    """Factor that makes the variance over resamples of V of M voters unbiased."""
    return voters / (voters - 1) * (1 - voters / possible)


def kinds_of(can_go: int) -> tuple[int | None, ...]:
    """The kinds of voters in the study, where so many units can be deleted."""
    some = max(2, can_go // 8)
    return (1, some, None) if some < can_go else (1, None)


def cost(run: Subject, options: Options) -> Cost:
    """That of the study ``committee``."""
    count, can_go = evaluated(run, options), int(run.deletable.sum())
    voters = [draw_voters(run.deletable, kind, VOTERS, options.seed) for kind in kinds_of(can_go)]
    return of_rows(run.network, deleting(np.concatenate(voters) == 0), count) + Cost(evaluated=count)
