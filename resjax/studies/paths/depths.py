"""The result of ``forward_depth``, and the depth that its curves over k = 0 … n show, with an interval over
images."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NamedTuple

import numpy as np
from scipy import stats

from resjax.studies.intervals import LEVEL, of_mean, wilson
from resjax.studies.result import Compared
from resjax.studies.verdicts import MAY_GO, spared

CUTS = ("paths", "linearized", "units")
"""The ways of ``forward_depth`` to cut a network to k branches or units."""


@dataclasses.dataclass(frozen=True)
class ForwardDepth(Compared):
    """What is left with k = 0 … n branches or units, in each cut; NaN where it was not measured."""

    unit: tuple[str, ...]  # names of all units in order
    dropped: Annotated[np.ndarray, "round"]  # int, units that ``units`` drops, the least needed first
    error: Annotated[np.ndarray, "cut", "kept"]  # share of wrong predictions, 0 … 1
    # Share that is wrong here and right in the intact network; of a metric's shares, the mean of the product.
    lost: Annotated[np.ndarray, "cut", "kept"]
    agreement: Annotated[np.ndarray, "cut", "kept"]  # share of predictions equal to the intact network's
    kl: Annotated[np.ndarray, "cut", "kept"]  # mean KL(p_intact ‖ p_cut), nats
    kl_error: Annotated[np.ndarray, "cut", "kept"]  # standard error of that mean, over images
    cosine: Annotated[np.ndarray, "cut", "kept"]  # mean cosine of logits, each minus its mean over classes
    cosine_error: Annotated[np.ndarray, "cut", "kept"]  # standard error of that mean, over images
    random_number: Annotated[np.ndarray, "draw"]  # int, units of a random set that is kept
    random_error: Annotated[np.ndarray, "draw"]
    random_kl: Annotated[np.ndarray, "draw"]
    num_choice_examples: int
    # 95 % intervals over images where a metric or several positions give shares of each example; None where a
    # prediction is right or wrong, because intervals then follow from the shares above.
    error_interval: Annotated[np.ndarray | None, "cut", "kept", "end"] = None
    rise_interval: Annotated[np.ndarray | None, "cut", "kept", "end"] = None  # of error − intact error
    agreement_interval: Annotated[np.ndarray | None, "cut", "kept", "end"] = None

    @property
    def most(self) -> int:
        """n, the number of residual units."""
        return int(self.error.shape[1] - 1)


def of_shares(each: np.ndarray) -> dict[str, Any]:
    """The intervals of ``ForwardDepth`` by Student's t, from [cut, kept, measure, N] whose first measures are
    the metric and the agreement; none where both are 0 or 1, or of one image."""
    wrong, agrees = each[:, :, 0], each[:, :, 1]
    shares = np.concatenate([v[np.isfinite(v)] for v in (wrong, agrees)])
    if each.shape[-1] < 2 or np.isin(shares, (0, 1)).all():
        return {}
    return {
        "error_interval": np.stack(of_mean(wrong, -1), -1).clip(0, 1),
        "rise_interval": np.stack(of_mean(wrong - wrong[:1, -1:], -1), -1),
        "agreement_interval": np.stack(of_mean(agrees, -1), -1).clip(0, 1),
    }


def error_ends(result: ForwardDepth) -> tuple[np.ndarray, np.ndarray]:
    """Ends [kept] of the 95 % interval of the error with nested paths: Wilson's, or of shares Student's t."""
    if result.error_interval is None:
        return wilson(result.error[0], result.num_examples)
    low, high = result.error_interval[0].T
    return low, high


class Depth(NamedTuple):
    """A number of branches or units, with its interval over images."""

    value: int
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.value}" if self.low == self.high else f"{self.value} ({self.low} to {self.high})"


AGREES = 0.99  # share of equal predictions, for the depth by agreement


def depth_of(result: ForwardDepth, cut: str = "paths", by: str = "error") -> Depth:
    """The smallest k from which on the error stays within one point of the intact network's (``by`` =
    'error'), or 99 % of predictions stay the same ('agreement'); what was not measured does not count."""
    holds: tuple[np.ndarray, ...]
    i, images = CUTS.index(cut), result.num_examples
    if by == "agreement":
        share = result.agreement[i]
        own = result.agreement_interval
        low, high = wilson(share, images) if own is None else own[i].T
        holds = (share >= AGREES, high >= AGREES, low >= AGREES)
    else:
        lost, rise = result.lost[i], result.error[i] - result.intact_error
        own = result.rise_interval
        ends = paired(lost, lost - rise, images) if own is None else (own[i, :, 0], own[i, :, 1])
        holds = (spared(result.error[i], result.intact_error), *(end <= MAY_GO for end in ends))
    # All n branches are the network itself.
    value, least, most = (_from(np.append(good[:-1], True)) for good in holds)
    return Depth(value, min(least, value), max(most, value))


def _from(holds: np.ndarray) -> int:
    """The first index from which on everything holds."""
    return int(len(holds) - np.argmin(np.append(holds[::-1], False)))


def paired(lost: np.ndarray, won: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the rise, lost − won, of shares among the same images, each with half an image more
    (Agresti & Min 2005)."""
    more, less = ((images * share + 0.5) / (images + 2) for share in (lost, won))
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((more + less - (more - less) ** 2) / (images + 2))
    return more - less - half, more - less + half
