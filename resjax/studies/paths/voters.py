"""How much voters differ, and how far off other voters could have been.

The voters of a committee are a sample: some of the sub-networks of their kind. An estimate from V of them has
the error that it varies by when voters are drawn anew from those at hand, with replacement (Efron &
Tibshirani 1993, §6). Three things are to be minded.

* A voter that is drawn twice makes a pair with itself, which agrees in everything. Such pairs are left out.
* The mean over committees varies with the voters and with the committees. A committee is a set of *slots*,
  which resampling fills with voters, a few committees at a time; their variance within one filling is that of
  committees, and is taken off: between = Var(mean of c committees) − E[variance within] / c. Each part then
  counts with its own number of draws, and so do its degrees of freedom (Satterthwaite 1946).
* Of M sub-networks, V different ones were drawn: variances shrink by 1 − V/M (Cochran 1977, §2.6), and where
  all are there, no other voters exist.

Resampled means of few voters never leave their range, so ends are those of Student's t, cut off where no
value can lie.
"""

from __future__ import annotations

import math

import numpy as np

from resjax.studies.intervals import student

# Resamples for what costs next to nothing, and for what costs votes; committees of each size in these.
_PAIRS, _VOTES, _COMMITTEES = 2000, 50, 10


def diversity_of(answers: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """int [V, N] and int [N] → disagreement D, share of pairs with different answers, and κ.

    See ``resjax.studies.paths.committee``.
    """
    disagreement, different, kappa = _diversity(
        *_of_pairs(answers, labels), np.ones((1, len(answers)))
    )[:, 0].tolist()
    return disagreement, different, kappa


def diversity_intervals(
    answers: np.ndarray, labels: np.ndarray, possible: int, seed: int = 0
) -> np.ndarray:
    """95 % intervals [3, end] over voters of what ``diversity_of`` returns.

    NaN for two voters, which are a single pair, and where κ is.

    Args:
      answers: int [V, N], of different voters.
      labels: int [N].
      possible: M, how many different voters there are in all.
      seed: of the resamples.
    """
    voters = len(answers)
    estimate = np.array(diversity_of(answers, labels))
    if voters < 3:
        return np.full((3, 2), np.nan)
    picks = np.random.default_rng((seed, voters)).integers(0, voters, (_PAIRS, voters))
    counts = np.sum(np.eye(voters)[picks], axis=1)
    counts = counts[(counts > 0).sum(1) > 1]  # one voter alone has no pair
    made = _diversity(*_of_pairs(answers, labels), counts)
    known = np.isfinite(made)
    mean = np.sum(np.where(known, made, 0), 1, keepdims=True) / known.sum(1, keepdims=True).clip(1)
    variance = np.sum(np.where(known, made - mean, 0) ** 2, 1) / known.sum(1).clip(1)
    error = np.sqrt(variance * _small(voters) * _left(voters, possible))
    ends = np.stack(student(estimate, error, voters - 1), -1)
    return np.stack([*ends[:2].clip(0, 1), ends[2].clip(-1, 1)])


def voter_interval(errors: np.ndarray, possible: int) -> np.ndarray:
    """95 % interval [end] of the mean of ``errors`` [V] over voters."""
    voters = len(errors)
    error = np.std(errors, ddof=1) * np.sqrt(_left(voters, possible) / voters)
    return np.clip(student(errors.mean(), error, voters - 1), 0, 1)


def refill(members: np.ndarray, seed: int = 0) -> np.ndarray:
    """The first committees of each size, with voters drawn anew into the places of voters.

    Args:
      members: float [size, draw, voter] of 0 and 1, who sits in which committee.
      seed: of the resamples.

    Returns:
      float32 [50, size, draw, voter], how many votes a voter has; of 10 draws or fewer.
    """
    voters = members.shape[-1]
    picks = np.random.default_rng((seed, voters, 1)).integers(0, voters, (_VOTES, voters))
    filled = np.eye(voters, dtype=np.float32)[picks]
    return members[:, :_COMMITTEES].astype(np.float32) @ filled[:, None]


def committee_interval(
    errors: np.ndarray, again: np.ndarray, voters: int, possible: int
) -> np.ndarray:
    """95 % intervals [..., end] of the mean error of committees, over voters and over committees.

    Args:
      errors: [..., draw], of committees.
      again: [resample, ..., draw], of those of ``refill``.
      voters: V.
      possible: M, as in ``diversity_intervals``.
    """
    draws = errors.shape[-1]
    within = again.var(-1, ddof=1).mean(0) / again.shape[-1]
    between = np.maximum(again.mean(-1).var(0, ddof=1) - within, 0)
    between = between * _small(voters) * _left(voters, possible)
    own = errors.var(-1, ddof=1) / draws
    total = between + own
    parts = between**2 / (voters - 1) + own**2 / (draws - 1)
    degrees = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1), 1)
    return np.stack(student(errors.mean(-1), np.sqrt(total), degrees), -1).clip(0, 1)


def _of_pairs(answers: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of the examples: [V] right, [V, V] exactly one of two right, [V, V] different classes."""
    count = answers.shape[1]
    right = (answers == labels).astype(float)
    one = right @ (1 - right).T
    alike = np.zeros_like(one)
    for c in np.unique(answers):
        same = (answers == c).astype(float)
        alike += same @ same.T
    return right.mean(1), (one + one.T) / count, 1 - alike / count


def _diversity(
    right: np.ndarray, one: np.ndarray, different: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """[3, m]: D, different answers and κ, where each voter is there ``counts`` [m, V] times."""
    pairs = counts.sum(-1) ** 2 - np.sum(counts**2, -1)
    disagreement, unlike = (np.sum((counts @ v) * counts, -1) / pairs for v in (one, different))
    p = counts @ right / counts.sum(-1)
    spread = 2 * p * (1 - p)
    some = spread > 0
    kappa = np.where(some, 1 - disagreement / np.where(some, spread, 1), math.nan)
    return np.stack([disagreement, unlike, kappa])


def _small(voters: int) -> float:
    """What makes the variance of resampled means that of means."""
    return voters / (voters - 1)


def _left(voters: int, possible: int) -> float:
    return 1 - voters / possible
